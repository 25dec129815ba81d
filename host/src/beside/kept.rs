//! Old generations that stay, for those who ask for them by number.

use std::sync::Arc;

use plugin_api::Stopping;

use super::{CANDIDATE, MAX_KEPT, There};
use crate::error::GenerationError;
use crate::events::{Event, Step};
use crate::gate::Retired;
use crate::lock::lock;
use crate::peer::Calls;
use crate::plugin::{Loaded, Plugin};
use crate::registry::Core;

/// Keeps a generation that another has taken the place of, and lets those go that are not among the `most` youngest any
/// more. The caller has the turn.
pub(crate) fn keep(core: &Core, plugin: &Arc<Plugin>, old: Retired<Loaded>, calls: Arc<Calls>, most: usize) {
    let most = most.min(MAX_KEPT);
    while plugin.beside.kept().len() >= most
        && let Some(&oldest) = plugin.beside.kept().first()
    {
        let_go(core, plugin, oldest);
    }
    let there = lock(&plugin.beside.there);
    let is_free = |at: &usize| there.iter().all(|there| there.at != *at);
    let at = (CANDIDATE + 1..=MAX_KEPT).find(is_free).expect("fewer are kept than there are slots");
    drop(there);
    let generation = old.value().number;
    let entry = There::of(old.value(), at, calls, None);
    // Nobody closes the gate of a slot beside, and this one was empty.
    let before = plugin.beside.slot(at).adopt(old).expect("no slot beside is paused");
    debug_assert!(before.is_none());
    plugin.beside.put(entry);
    core.journal.record(Event::Kept { plugin: plugin.name.clone(), generation });
}

/// Lets one go.
fn let_go(core: &Core, plugin: &Arc<Plugin>, generation: u64) -> bool {
    let taken = plugin.beside.take(|there| there.number == generation && there.trial.is_none());
    let Some((_, old)) = taken else { return false };
    core.journal.record(Event::Released { plugin: plugin.name.clone(), generation });
    core.reaper.retire(plugin.clone(), old, Stopping::Replaced, false);
    true
}

/// Lets one go because somebody asks.
pub(super) fn release(core: &Core, plugin: &Arc<Plugin>, generation: u64) -> Result<(), GenerationError> {
    let turn = plugin.begin(Step::Publish);
    let _turn = turn.map_err(|busy| GenerationError::Busy { busy: busy.to_string() })?;
    match let_go(core, plugin, generation) {
        true => Ok(()),
        false => Err(GenerationError::NotKept {
            plugin: plugin.name.clone(),
            generation,
            kept: plugin.beside.kept(),
        }),
    }
}
