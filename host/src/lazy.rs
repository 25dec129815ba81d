//! Plugins that are opened when somebody calls them for the first time. See [`Options::lazy`].
//!
//! [`Options::lazy`]: crate::Options::lazy

use std::sync::Arc;

use plugin_api::CallError;

use crate::error::ReloadError;
use crate::gate::{EnterError, Guard};
use crate::lock::lock;
use crate::plugin::{Loaded, Plugin};
use crate::registry::Core;
use crate::reload::Wish;

/// Loads a plugin that has waited for somebody to call it, if it is one. Whoever calls at the same time waits for the same
/// load.
///
/// # Errors
/// It is refused. If that will not pass, it is tried again only when its file changes or somebody asks for a reload.
pub(crate) fn load_first(core: &Arc<Core>, plugin: &Arc<Plugin>) -> Result<(), ReloadError> {
    if plugin.record().deferred.is_none() {
        return Ok(());
    }
    let _first = lock(&plugin.first_call);
    // Somebody else may have been first.
    let Some(file) = plugin.record().deferred.clone() else { return Ok(()) };
    let loaded = core.load(&file, Wish { may_wait: true, ..Wish::default() });
    if let Err(ReloadError::Refused(refusal)) = &loaded
        && !refusal.reason.is_passing()
    {
        let mut record = plugin.record();
        // Unless there is a newer build by now.
        record.awaiting.take_if(|awaiting| awaiting.file == file.path());
        record.deferred.take_if(|deferred| *deferred == file);
    }
    loaded.map(drop)
}

/// Enters a plugin, which is loaded before if it has waited for that.
pub(crate) fn enter<'p>(core: &Arc<Core>, plugin: &'p Arc<Plugin>) -> Result<Guard<'p, Loaded>, CallError> {
    match plugin.slot.enter() {
        Err(EnterError::Empty) => {
            load_first(core, plugin).map_err(|error| match error {
                ReloadError::Closed => CallError::Closed,
                error => CallError::CannotLoad { plugin: plugin.name.clone(), reason: error.to_string() },
            })?;
            plugin.slot.enter().map_err(|error| plugin.cannot_enter(&error))
        }
        entered => entered.map_err(|error| plugin.cannot_enter(&error)),
    }
}
