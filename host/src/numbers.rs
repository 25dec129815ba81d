//! The numbers under which the interfaces of a plugin are resolved: what the host has handles of, and what other plugins call.

use std::sync::Arc;
use std::time::Duration;

use crate::beside;
use crate::error::PluginError;
use crate::ffi::MAX_INTERFACES;
use crate::file::{self, InterfaceManifest};
use crate::plugin::{Build, Loaded, Plugin, Record, Used};
use crate::registry::Core;
use crate::status::Phase;

impl Core {
    /// Gives an interface its number, and resolves it for the serving generation. What the number is good for is kept by
    /// what is returned with it, unless it is for the host. Waits for so long until what serves does not change.
    pub(crate) fn register(
        &self,
        plugin: &Arc<Plugin>,
        interface: &InterfaceManifest,
        for_the_host: bool,
        patience: Duration,
    ) -> Result<(usize, Arc<()>), PluginError> {
        if let Some(found) = share(&plugin.record(), interface, for_the_host) {
            return Ok(found);
        }
        // As long as it is there no generation is bound without the new interface.
        let _guest = plugin
            .be_guest(patience)
            .map_err(|busy| PluginError::Busy { name: plugin.name.clone(), busy: busy.to_string() })?;
        self.register_now(plugin, interface, for_the_host)
    }

    /// The same. The caller has the turn, or is a guest.
    pub(crate) fn register_now(
        &self,
        plugin: &Arc<Plugin>,
        interface: &InterfaceManifest,
        for_the_host: bool,
    ) -> Result<(usize, Arc<()>), PluginError> {
        let number = {
            let mut record = plugin.record();
            let number = place(&record, interface, true)?;
            let serves = record.serving.is_some();
            let there = record.interfaces.get_mut(number).filter(|used| *used.interface == *interface);
            if let Some(used) = there.filter(|used| used.is_resolved && (serves || used.is_in_use())) {
                used.by_the_host |= for_the_host;
                return Ok((number, used.calls.clone()));
            }
            number
        };
        // On a thread of its own: inside of a call, entering would give that call's generation, which may be an
        // older one.
        std::thread::scope(|scope| {
            let bind = || match plugin.slot.try_enter() {
                Ok(loaded) => {
                    bind(&plugin.name, number, interface, &loaded)?;
                    drop(loaded);
                    beside::bind(self, plugin, number, interface);
                    Ok(())
                }
                Err(_) => Err(PluginError::NotLoaded { name: plugin.name.clone() }),
            };
            scope.spawn(bind).join().expect("binding does not panic")
        })?;
        // Noted only now: what cannot be had uses no number up.
        let mut record = plugin.record();
        let used = take(&mut record, number, interface);
        (used.is_resolved, used.by_the_host) = (true, used.by_the_host | for_the_host);
        Ok((number, used.calls.clone()))
    }

    /// Gives an interface its number, and resolves it for nobody: for a build that is to serve. The caller has the turn.
    pub(crate) fn reserve(
        &self,
        plugin: &Plugin,
        interface: &InterfaceManifest,
    ) -> Result<(usize, Arc<()>), PluginError> {
        let mut record = plugin.record();
        let number = place(&record, interface, false)?;
        Ok((number, take(&mut record, number, interface).calls.clone()))
    }
}

/// The number of an interface that is in use already. Whatever takes over is bound to it, so nothing has to wait for anything.
/// A transaction may be about to leave out what only those call who leave with it, so the host shares only its own; a plugin
/// that finds nothing there looks once more.
fn share(record: &Record, interface: &InterfaceManifest, for_the_host: bool) -> Option<(usize, Arc<()>)> {
    let number = number_of(record, interface)?;
    let used = &record.interfaces[number];
    let is_shared = used.is_resolved && (used.by_the_host || !for_the_host && used.callers() > 0);
    is_shared.then(|| (number, used.calls.clone()))
}

/// The number that an interface has.
fn number_of(record: &Record, interface: &InterfaceManifest) -> Option<usize> {
    record.interfaces.iter().position(|used| *used.interface == *interface)
}

/// The number that an interface has, or may have. As long as the turn lasts, nobody else is given it.
/// `is_bound_now`: it will be resolved for what serves; otherwise only for a build that is to serve.
fn place(record: &Record, interface: &InterfaceManifest, is_bound_now: bool) -> Result<usize, PluginError> {
    // Also if nobody uses it any more: whatever generation has methods under this number has those.
    if let Some(number) = number_of(record, interface) {
        return Ok(number);
    }
    // One that nobody uses any more gives its number away, unless somebody may be in a generation that is not bound
    // anew, and has methods of the earlier one under that number.
    let is_left = record.old.iter().all(|old| old.phase != Phase::Draining);
    let is_free = |used: &Used| is_left && !used.is_in_use() && (is_bound_now || !used.is_resolved);
    match record.interfaces.iter().position(is_free).unwrap_or(record.interfaces.len()) {
        MAX_INTERFACES => Err(PluginError::TooManyInterfaces { limit: MAX_INTERFACES }),
        number => Ok(number),
    }
}

/// Notes that this number is an interface's.
fn take<'a>(record: &'a mut Record, number: usize, interface: &InterfaceManifest) -> &'a mut Used {
    if record.interfaces.get(number).is_none_or(|there| *there.interface != *interface) {
        let used = Used {
            interface: Arc::new(interface.clone()),
            by_the_host: false,
            calls: Arc::new(()),
            is_resolved: false,
        };
        // What was there, if anything was, is nobody's any more.
        record.interfaces.splice(number..(number + 1).min(record.interfaces.len()), [used]);
    }
    &mut record.interfaces[number]
}

/// Resolves an interface for the serving generation.
fn bind(name: &str, number: usize, ours: &InterfaceManifest, loaded: &Loaded) -> Result<(), PluginError> {
    let manifest = &loaded.build.manifest;
    let not_implemented = |interface: String| PluginError::NotImplemented {
        name: name.to_owned(),
        interface,
        implements: implemented(&loaded.build),
    };
    let theirs = manifest
        .interface(&ours.name)
        .ok_or_else(|| not_implemented(format!("{} {}", ours.name, ours.version)))?;
    file::compare(ours, theirs, &manifest.plugin, &manifest.version).map_err(PluginError::Interface)?;
    loaded
        .tables
        .bind(number, ours, loaded.instance.image())
        .map_err(|reason| not_implemented(format!("{} {}: {reason}", ours.name, ours.version)))
}

fn implemented(build: &Build) -> String {
    let names: Vec<_> =
        build.manifest.interfaces.iter().map(|i| format!("{} {}", i.name, i.version)).collect();
    names.join(", ")
}
