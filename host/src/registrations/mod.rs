//! What plugins have registered, and which of it counts: what the generation that serves has in its own table. So the
//! switch from one build to the next is the publishing itself, and what a build leaves behind goes with it.
//!
//! The [`Ledger`] knows of each plugin the table that serves, and the one that is about to. It is asked where two plugins
//! want the same, and while a gate is closed, when the slot does not say who serves, or will.
//!
//! Locks, in the order in which they may be taken: the ledger's, a table's, those of the timers. No code of a plugin runs
//! under any of them.

mod reach;
mod timers;
mod workers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use plugin_api::Registration;
use plugin_api::registration::{COMMAND, ROUTE, TIMER};

use crate::events::Event;
use crate::ffi::{Entry, Registrar, Table};
use crate::gate::EnterError;
use crate::lock::lock;
use crate::plugin::{Loaded, Plugin};
use crate::registry::Core;

pub use reach::{DispatchError, Notified, Registered};
use timers::Timers;

/// See the module.
#[derive(Default)]
pub(crate) struct Ledger {
    plugins: Mutex<BTreeMap<String, Tables>>,
    timers: Timers,
    core: OnceLock<Weak<Core>>,
}

/// The tables of one plugin that may count. A generation keeps its own.
#[derive(Default)]
struct Tables {
    serves: Weak<Table>,
    /// Nothing but its publishing is missing.
    is_about_to: Weak<Table>,
    /// What serves leaves at the same moment as that of others: what it has, they may have from then on.
    leaves: bool,
}

impl Tables {
    fn all(&self) -> impl Iterator<Item = Arc<Table>> {
        let serves = (!self.leaves).then_some(&self.serves);
        serves.into_iter().chain([&self.is_about_to]).filter_map(Weak::upgrade)
    }
}

/// How what is registered differs from before.
struct Change {
    came: Vec<String>,
    went: Vec<String>,
    stayed: usize,
}

/// Whether only one plugin can have a key of this kind.
fn is_exclusive(kind: &str) -> bool {
    [ROUTE, COMMAND].contains(&kind)
}

impl Ledger {
    /// Timers call plugins of this host.
    pub(crate) fn belong_to(&self, core: &Arc<Core>) {
        let _ = self.core.set(Arc::downgrade(core));
    }

    /// The table of a generation that is about to be opened.
    pub(crate) fn begin(self: &Arc<Self>, plugin: &str, generation: u64) -> Arc<Table> {
        Table::new(plugin, generation, self.clone())
    }

    /// The last veto, and what the generation before has, too, goes on.
    ///
    /// # Errors
    /// Another plugin has what only one can have.
    pub(crate) fn admit(&self, table: &Arc<Table>) -> Result<(), String> {
        let mut plugins = lock(&self.plugins);
        for Entry { registration, .. } in table.list(None) {
            conflict(&plugins, table, &registration)?;
        }
        let tables = plugins.entry(table.plugin.clone()).or_default();
        if let Some(before) = tables.serves.upgrade() {
            table.go_on_from(&before);
        }
        tables.is_about_to = Arc::downgrade(table);
        Ok(())
    }

    /// These plugins change at one moment, if they do, for as long as what is returned is there.
    pub(crate) fn change_together(self: &Arc<Self>, plugins: Vec<String>) -> ChangeTogether {
        let changes = ChangeTogether { ledger: self.clone(), plugins };
        changes.mark(true);
        changes
    }

    /// A generation that was admitted has been published.
    fn note(&self, table: &Arc<Table>) -> Option<Change> {
        let before = {
            let mut plugins = lock(&self.plugins);
            let tables = plugins.entry(table.plugin.clone()).or_default();
            tables.is_about_to = Weak::new();
            std::mem::replace(&mut tables.serves, Arc::downgrade(table)).upgrade()
        };
        self.timers.look_again(&self.core);
        let (before, now) = (before?, table);
        let names = |table: &Table| -> Vec<_> {
            table.list(None).iter().map(|entry| entry.registration.to_string()).collect()
        };
        let (before, now) = (names(&before), names(now));
        let (stayed, went) = before.into_iter().partition::<Vec<_>, _>(|name| now.contains(name));
        let came = now.into_iter().filter(|name| !stayed.contains(name)).collect();
        Some(Change { came, went, stayed: stayed.len() })
    }

    /// A plugin serves no more.
    pub(crate) fn forget(&self, plugin: &str) {
        lock(&self.plugins).remove(plugin);
        self.timers.look_again(&self.core);
    }

    /// The host ends.
    pub(crate) fn end_timers(&self) {
        self.timers.end();
    }

    /// The table that counted last, as far as has been noted.
    fn serving(&self, plugin: &str) -> Option<Arc<Table>> {
        lock(&self.plugins).get(plugin)?.serves.upgrade()
    }

    /// Whether a plugin whose gate is closed has this, or will have it when that opens: of plugins that change at one moment, the
    /// gate of one may be open already, and have left it to one whose gate is not.
    fn is_behind_gate(&self, plugin: &str, kind: &str, key: &str) -> bool {
        let plugins = lock(&self.plugins);
        let Some(Tables { serves, is_about_to, .. }) = plugins.get(plugin) else { return false };
        [serves, is_about_to].into_iter().filter_map(Weak::upgrade).any(|table| table.has(kind, key))
    }

    /// What counts of a plugin now.
    fn current(&self, plugin: &Plugin) -> Option<Arc<Table>> {
        match plugin.slot.try_enter() {
            Ok(loaded) => Some(table_of(&loaded).clone()),
            // What served before the gate was closed still counts.
            Err(EnterError::Paused) => self.serving(&plugin.name),
            Err(_) => None,
        }
    }
}

/// Plugins that change at one moment: what one of them has registered another of them may register.
pub(crate) struct ChangeTogether {
    ledger: Arc<Ledger>,
    plugins: Vec<String>,
}

impl ChangeTogether {
    fn mark(&self, leaves: bool) {
        let mut plugins = lock(&self.ledger.plugins);
        for name in &self.plugins {
            if let Some(tables) = plugins.get_mut(name) {
                tables.leaves = leaves;
            }
        }
    }
}

impl Drop for ChangeTogether {
    fn drop(&mut self) {
        self.mark(false);
    }
}

fn table_of(loaded: &Loaded) -> &Arc<Table> {
    loaded.instance.image().registrations()
}

/// Whether another plugin has what only one can have.
fn conflict(
    plugins: &BTreeMap<String, Tables>,
    table: &Table,
    registration: &Registration,
) -> Result<(), String> {
    let (kind, key) = (registration.kind(), registration.key());
    if !is_exclusive(kind) {
        return Ok(());
    }
    let others = plugins.iter().filter(|(name, _)| **name != table.plugin);
    let holder = others.flat_map(|(_, tables)| tables.all()).find(|other| other.has(kind, key));
    holder.map_or(Ok(()), |holder| {
        Err(format!(
            "{registration} is that of plugin `{}`, generation {}, and only one plugin can have it: register another key, or unload `{0}` before",
            holder.plugin, holder.number
        ))
    })
}

impl Registrar for Ledger {
    fn register(&self, table: &Table, registration: Registration) -> Result<(), String> {
        let is_timer = registration.kind() == TIMER;
        {
            // Held until it is in, so that of two plugins one comes first.
            let plugins = lock(&self.plugins);
            conflict(&plugins, table, &registration)?;
            table.put(registration).map_err(|impossible| impossible.to_string())?;
        }
        if is_timer {
            self.timers.look_again(&self.core);
        }
        Ok(())
    }

    fn withdraw(&self, table: &Table, kind: &str, key: &str) -> bool {
        let is_taken = table.take(kind, key);
        if kind == TIMER {
            self.timers.look_again(&self.core);
        }
        is_taken
    }
}

impl Core {
    /// Steps 10 and 11 for what is registered.
    pub(crate) fn note_registrations(&self, table: &Arc<Table>) {
        if let Some(Change { came, went, stayed }) = self.registrations.note(table)
            && !(came.is_empty() && went.is_empty())
        {
            let (plugin, generation) = (table.plugin.clone(), table.number);
            self.journal.record(Event::Registrations { plugin, generation, came, went, stayed });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: &Arc<Table>, ledger: &Ledger) -> Result<(), String> {
        ledger.register(table, Registration::route("GET /hello").calls("answer"))
    }

    #[test]
    fn of_two_builds_that_want_the_same_and_have_yet_to_serve_the_second_is_refused() {
        let ledger = Arc::<Ledger>::default();
        let (one, other) = (ledger.begin("one", 1), ledger.begin("other", 1));
        // Nobody has it yet.
        route(&one, &ledger).unwrap();
        route(&other, &ledger).unwrap();
        ledger.admit(&one).unwrap();
        let error = ledger.admit(&other).unwrap_err();
        assert!(error.contains("is that of plugin `one`, generation 1"), "{error}");
        // The first was refused after all, or has gone.
        drop(one);
        ledger.admit(&other).unwrap();
    }

    #[test]
    fn behind_a_closed_gate_is_what_serves_and_what_is_about_to() {
        let ledger = Arc::<Ledger>::default();
        let is_there = || ledger.is_behind_gate("one", "route", "GET /hello");
        let [first, second, third] = [1, 2, 3].map(|number| ledger.begin("one", number));
        route(&second, &ledger).unwrap();
        assert!(!is_there(), "it has yet to be admitted");
        ledger.admit(&first).unwrap();
        ledger.note(&first);
        ledger.admit(&second).unwrap();
        assert!(is_there());
        ledger.note(&second);
        ledger.admit(&third).unwrap();
        assert!(is_there(), "the next one may be refused yet");
        ledger.note(&third);
        assert!(!is_there());
    }

    #[test]
    fn what_goes_on_has_been_there_since_it_came_and_what_comes_back_has_not() {
        let ledger = Arc::<Ledger>::default();
        let since = |table: &Table| table.find("route", "GET /hello").map(|entry| entry.since);
        let publish = |table: &Arc<Table>| {
            ledger.admit(table).unwrap();
            ledger.note(table)
        };
        let tables: Vec<_> = (1..=4).map(|number| ledger.begin("one", number)).collect();
        for table in [&tables[0], &tables[1], &tables[3]] {
            route(table, &ledger).unwrap();
        }
        assert!(publish(&tables[0]).is_none(), "there was nothing before");
        publish(&tables[1]).unwrap();
        assert_eq!(since(&tables[1]), Some(1));
        let went = publish(&tables[2]).unwrap();
        assert_eq!((went.came.len(), went.went.len(), went.stayed), (0, 1, 0));
        publish(&tables[3]).unwrap();
        assert_eq!(since(&tables[3]), Some(4));
        // Registering it again is nothing new.
        route(&tables[3], &ledger).unwrap();
        assert_eq!(since(&tables[3]), Some(4));
    }
}
