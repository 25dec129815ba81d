//! What one generation has registered, and how it says so.
//!
//! Invariants:
//! 1. A table belongs to one generation and is in the record that it was attached with: so it is there for as long as
//!    anybody can be in that generation, and what counts changes with the slot's pointer and in no other way.
//! 2. Entries are put in and taken out by the [`Registrar`] alone, which looks at the tables of others before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abi_stable::std_types::{RSlice, RStr};
use plugin_api::Registration;
use plugin_api::abi::{GenerationRef, InterfaceExport, Status, Transfer};
use plugin_api::registration::{Impossible, LIMIT, TIMER};
use plugin_api::transfer::answer;

use super::contract::{lent, record};
use super::hooks::Dynamic;
use crate::lock::lock;

/// Who says what may be registered.
pub(crate) trait Registrar: Send + Sync {
    /// Puts a registration into a table.
    ///
    /// # Errors
    /// It may not be there, and why.
    fn register(&self, table: &Table, registration: Registration) -> Result<(), String>;

    /// Takes it out. `false`: it was not there.
    fn withdraw(&self, table: &Table, kind: &str, key: &str) -> bool;
}

/// See the module.
pub(crate) struct Table {
    pub(crate) plugin: String,
    pub(crate) number: u64,
    registrar: Arc<dyn Registrar>,
    /// By kind and key.
    entries: Mutex<BTreeMap<String, BTreeMap<String, Entry>>>,
}

/// A registration.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) registration: Registration,
    /// The generation since which it has been there without interruption.
    pub(crate) since: u64,
}

impl Table {
    pub(crate) fn new(plugin: &str, number: u64, registrar: Arc<dyn Registrar>) -> Arc<Table> {
        Arc::new(Table { plugin: plugin.to_owned(), number, registrar, entries: Mutex::default() })
    }

    /// What stands under a kind and a key.
    pub(crate) fn find(&self, kind: &str, key: &str) -> Option<Entry> {
        lock(&self.entries).get(kind)?.get(key).cloned()
    }

    pub(crate) fn has(&self, kind: &str, key: &str) -> bool {
        lock(&self.entries).get(kind).is_some_and(|keys| keys.contains_key(key))
    }

    /// All of one kind, or of all kinds, by kind and key.
    pub(crate) fn list(&self, kind: Option<&str>) -> Vec<Entry> {
        let entries = lock(&self.entries);
        let kinds = entries.iter().filter(|(own, _)| kind.is_none_or(|kind| kind == *own));
        kinds.flat_map(|(_, keys)| keys.values().cloned()).collect()
    }

    /// Puts one in. What stands there already is replaced, and has been there for as long.
    pub(crate) fn put(&self, registration: Registration) -> Result<(), Impossible> {
        let mut entries = lock(&self.entries);
        let known = entries.get(registration.kind()).and_then(|keys| keys.get(registration.key()));
        let since = known.map_or(self.number, |known| known.since);
        if known.is_none() && entries.values().map(BTreeMap::len).sum::<usize>() >= LIMIT {
            return Err(Impossible::TooMany(registration.to_string()));
        }
        let (kind, key) = (registration.kind().to_owned(), registration.key().to_owned());
        entries.entry(kind).or_default().insert(key, Entry { registration, since });
        Ok(())
    }

    /// Takes one out. `false`: there was none.
    pub(crate) fn take(&self, kind: &str, key: &str) -> bool {
        lock(&self.entries).get_mut(kind).is_some_and(|keys| keys.remove(key).is_some())
    }

    /// What the generation before has, too, has been there since then.
    pub(crate) fn go_on_from(&self, before: &Table) {
        for Entry { registration, since } in before.list(None) {
            let mut entries = lock(&self.entries);
            let own = entries.get_mut(registration.kind()).and_then(|keys| keys.get_mut(registration.key()));
            if let Some(own) = own {
                own.since = since;
            }
        }
    }
}

/// What a record has of registrations.
pub(super) struct Register {
    pub(super) table: Arc<Table>,
    /// What can be called; there for as long as the image is mapped, and so while its code runs.
    exports: RSlice<'static, InterfaceExport>,
}

// SAFETY: the exports are constants of the image, which nobody changes.
unsafe impl Send for Register {}
// SAFETY: as above; the table is `Sync` by itself.
unsafe impl Sync for Register {}

impl Register {
    pub(super) fn new(table: Arc<Table>, exports: RSlice<'static, InterfaceExport>) -> Register {
        Register { table, exports }
    }

    fn register(&self, registration: Registration) -> Result<(), String> {
        registration.check().map_err(|impossible| impossible.to_string())?;
        let exports = self.exports.as_slice();
        if Dynamic::find(exports, registration.method()).is_none() {
            let methods = exports.iter().flat_map(|export| export.methods.as_slice());
            let known: Vec<_> = methods.map(|method| method.name.as_str()).collect();
            return Err(format!(
                "{registration} calls `{}`, which this build does not export; there is: {}",
                registration.method(),
                known.join(", ")
            ));
        }
        self.table.registrar.register(&self.table, registration)
    }
}

/// Builds it from what has crossed.
fn received(
    kind: String,
    key: String,
    method: String,
    details: &str,
    every: u64,
) -> Result<Registration, String> {
    let registration = match kind.as_str() {
        TIMER => Registration::timer(key, Duration::from_nanos(every)),
        _ => Registration::new(kind, key),
    };
    let registration = registration.calls(method);
    if details.is_empty() {
        return Ok(registration);
    }
    let details: serde_json::Value = serde_json::from_str(details)
        .map_err(|error| format!("the details of {registration} are not JSON: {error}"))?;
    registration.with(&details).map_err(|error| error.to_string())
}

pub(super) unsafe extern "C" fn register(
    generation: GenerationRef,
    kind: RStr<'static>,
    key: RStr<'static>,
    method: RStr<'static>,
    details: RStr<'static>,
    every: u64,
    transfer: *mut Transfer,
) -> Status {
    // SAFETY: an attached plugin passes its own reference.
    let register = unsafe { &record(generation).register };
    let registration = received(lent(kind), lent(key), lent(method), &lent(details), every);
    match registration.and_then(|registration| register.register(registration)) {
        Ok(()) => Status::OK,
        Err(error) => {
            // SAFETY: the plugin passes the transfer of this call.
            unsafe { answer(transfer, error.as_bytes()) };
            Status::FAILED
        }
    }
}

pub(super) unsafe extern "C" fn withdraw(
    generation: GenerationRef,
    kind: RStr<'static>,
    key: RStr<'static>,
) -> bool {
    // SAFETY: an attached plugin passes its own reference.
    let table = unsafe { &record(generation).register.table };
    table.registrar.withdraw(table, &lent(kind), &lent(key))
}
