//! Those on their way to serve, and whom they call: what they cannot do without is not unloaded under them.

use std::sync::{Arc, Mutex};

use crate::gate::Retired;
use crate::lock::lock;
use crate::peer::Calls;
use crate::plugin::{Loaded, Plugin};
use crate::registry::Core;

/// Locked while one joins them, and while somebody is unloaded: either it is seen that he is required, or that he is gone.
#[derive(Default)]
pub(crate) struct Openings(Mutex<Vec<(String, Arc<Calls>)>>);

/// As long as this is there, a build is on its way.
pub(crate) struct OnItsWay {
    core: Arc<Core>,
    calls: Arc<Calls>,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        lock(&self.core.openings.0).retain(|(_, calls)| !Arc::ptr_eq(calls, &self.calls));
    }
}

impl Core {
    /// A build of this plugin is on its way to serve, and calls these.
    ///
    /// # Errors
    /// One that it cannot do without does not stay: its place among them.
    pub(crate) fn set_out(
        self: &Arc<Self>,
        plugin: &str,
        calls: &Arc<Calls>,
        stays: impl Fn(&Plugin) -> bool,
    ) -> Result<OnItsWay, usize> {
        let mut openings = lock(&self.openings.0);
        let is_gone = |target: Option<Arc<Plugin>>| target.is_some_and(|target| !stays(&target));
        let gone = calls.all().position(|(wanted, target)| !wanted.optional && is_gone(target));
        if let Some(gone) = gone {
            return Err(gone);
        }
        openings.push((plugin.to_owned(), calls.clone()));
        Ok(OnItsWay { core: self.clone(), calls: calls.clone() })
    }

    /// Empties the slot of a plugin, if nobody needs it. The caller has the turn.
    ///
    /// # Errors
    /// The plugins that cannot do without it.
    pub(crate) fn take_down_alone(
        &self,
        plugin: &Arc<Plugin>,
    ) -> Result<Option<Retired<Loaded>>, Vec<String>> {
        let openings = lock(&self.openings.0);
        let mut by = self.dependents(plugin);
        let on_their_way = openings.iter().filter(|(_, calls)| calls.require(plugin));
        by.extend(on_their_way.map(|(name, _)| name.clone()));
        by.sort();
        by.dedup();
        if by.is_empty() { Ok(self.take_down(plugin)) } else { Err(by) }
    }
}
