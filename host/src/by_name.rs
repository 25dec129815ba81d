//! Calls by the name of a method, with JSON, in a generation that has been entered.

use std::sync::atomic::Ordering;
use std::time::Instant;

use plugin_api::CallError;

use crate::ffi::{Dynamic, dynamic_call};
use crate::gate::Guard;
use crate::meter;
use crate::plugin::{Build, Loaded, Plugin};

/// Calls `method` or `Interface.method`.
///
/// # Errors
/// There is none of this name; else however the call has ended.
pub(crate) fn call(
    plugin: &Plugin,
    loaded: &Guard<'_, Loaded>,
    method: &str,
    arguments: &str,
) -> Result<String, CallError> {
    let dynamic = Dynamic::of(loaded.instance.image(), method).ok_or_else(|| CallError::NoSuchMethod {
        plugin: plugin.name.clone(),
        method: method.into(),
        known: method_names(&loaded.build),
    })?;
    loaded.note().store(dynamic.address(), Ordering::Relaxed);
    let _span = tracing::debug_span!("call", plugin = %plugin.name, method).entered();
    if !loaded.tables.is_metered() {
        return dynamic_call(&loaded.instance, &dynamic, arguments);
    }
    let begun = Instant::now();
    let result = dynamic_call(&loaded.instance, &dynamic, arguments);
    loaded.meter.note(begun.elapsed(), meter::failures_of(&result));
    result
}

fn method_names(build: &Build) -> Vec<String> {
    let interfaces = &build.manifest.interfaces;
    interfaces
        .iter()
        .flat_map(|interface| interface.methods.iter().map(|method| method.name.clone()))
        .collect()
}
