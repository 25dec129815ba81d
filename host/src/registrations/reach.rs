//! From a kind and a key to the plugin that has registered it, and its answer.

use std::sync::Arc;

use plugin_api::CallError;
use plugin_api::registration::SUBSCRIPTION;
use serde::Serialize;
use serde_json::Value;

use super::{is_exclusive, table_of};
use crate::by_name;
use crate::ffi::Entry;
use crate::gate::{EnterError, Guard};
use crate::host::Host;
use crate::plugin::{Loaded, Plugin};
use crate::registry::Core;

/// How many keys are named of those that there are.
const NAMED: usize = 20;

/// What a plugin that serves has registered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Registered {
    /// The plugin.
    pub plugin: String,
    /// The generation that serves.
    pub generation: u64,
    /// `route`, `command`, `subscription`, `timer`, or whatever else an embedder knows.
    pub kind: String,
    /// Its key, e.g. `GET /hello`.
    pub key: String,
    /// The method that is called.
    pub method: String,
    /// How often a timer calls, in milliseconds.
    pub every_ms: Option<f64>,
    /// What else the plugin says of it.
    pub details: Option<Value>,
    /// The generation since which it has been there without interruption.
    pub since: u64,
}

/// Why something that was to be dispatched was not answered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DispatchError {
    /// No plugin that serves has registered it.
    #[error("no plugin that serves has registered {kind} `{key}`{}", suggest(known))]
    NotRegistered {
        /// The kind.
        kind: String,
        /// The key.
        key: String,
        /// The first of the keys of this kind that there are.
        known: Vec<String>,
    },
    /// Several have, where no kind says that only one can.
    #[error("{kind} `{key}` is registered by {}: call the one that is meant by its name", by.join(", "))]
    Ambiguous {
        /// The kind.
        kind: String,
        /// The key.
        key: String,
        /// Who has.
        by: Vec<String>,
    },
    /// It was called, or was to be, and that has ended otherwise than with an answer.
    #[error("plugin `{plugin}`, which has registered it: {error}")]
    Call {
        /// The plugin that has registered it.
        plugin: String,
        /// How.
        error: CallError,
    },
    /// The host is shutting down or was dropped.
    #[error("the host is closed")]
    Closed,
}

fn suggest(known: &[String]) -> String {
    if known.is_empty() { "; there is none".into() } else { format!("; there is: {}", known.join(", ")) }
}

/// What one plugin has made of what it was told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Notified {
    /// The plugin.
    pub plugin: String,
    /// The generation that was called; `None` if it could not be entered.
    pub generation: Option<u64>,
    /// Its answer, as JSON.
    pub outcome: Result<String, CallError>,
}

/// A plugin, and the number of the generation that serves.
type Serves = (Arc<Plugin>, Option<u64>);

impl Host {
    /// What the plugins that serve have registered, of one kind or of all, by plugin, kind and key.
    ///
    /// What a plugin has is read at one moment; several plugins are read one after the other. Inside of a scope or a guard
    /// it is what the generation has that the calling thread is in. A plugin that waits for its first call has nothing yet.
    pub fn registrations(&self, kind: Option<&str>) -> Vec<Registered> {
        let plugins = self.core.all();
        let tables = plugins.iter().filter_map(|plugin| self.core.registrations.current(plugin));
        let listed = tables.flat_map(|table| {
            let entries = table.list(kind).into_iter();
            let of = move |entry| registered(&table.plugin, table.number, entry);
            entries.map(of).collect::<Vec<_>>()
        });
        listed.collect()
    }

    /// Calls what is registered under a kind and a key: the plugin whose serving generation has it is entered, as by a
    /// [handle](crate::Handle::enter), and the method is called that this very generation has registered. `arguments` is a
    /// JSON object by parameter name, the answer is JSON.
    ///
    /// Blocks for as long as the method takes, and while a handover keeps the gate closed. May be called by any thread,
    /// also inside of scopes and of calls. A plugin that waits for its first call, see
    /// [`Options::lazy`](crate::Options::lazy), is not loaded by it.
    ///
    /// # Errors
    /// See [`DispatchError`].
    pub fn dispatch(&self, kind: &str, key: &str, arguments: &str) -> Result<String, DispatchError> {
        if self.core.is_closed() {
            return Err(DispatchError::Closed);
        }
        if let Some(answer) = self.dispatch_to(&self.core.all(), kind, key, arguments) {
            return answer;
        }
        // One plugin is looked at after another, and it may have gone from one to another meanwhile. Generations come in the
        // order of their numbers: so if the same ones serve before and afterwards, all were looked at that served at one time.
        // Each further look is on account of a generation that has been published since the one before. That takes far longer
        // than a look, so this ends however often others are reloaded.
        let mut before = self.serving_now();
        loop {
            let (plugins, _): (Vec<_>, Vec<_>) = before.iter().cloned().unzip();
            if let Some(answer) = self.dispatch_to(&plugins, kind, key, arguments) {
                return answer;
            }
            let after = self.serving_now();
            let is_same =
                |((one, was), (other, is)): (&Serves, &Serves)| Arc::ptr_eq(one, other) && was == is;
            if before.len() == after.len() && before.iter().zip(&after).all(is_same) {
                return Err(self.not_registered(kind, key));
            }
            before = after;
        }
    }

    /// `None`: none of these has registered it, each when it was looked at.
    fn dispatch_to(
        &self,
        plugins: &[Arc<Plugin>],
        kind: &str,
        key: &str,
        arguments: &str,
    ) -> Option<Result<String, DispatchError>> {
        if !is_exclusive(kind)
            && let Err(error) = self.ensure_one(plugins, kind, key)
        {
            return Some(Err(error));
        }
        plugins.iter().find_map(|plugin| {
            let answer = match enter(&self.core, plugin, kind, key) {
                Ok(Some((loaded, entry))) => {
                    by_name::call(plugin, &loaded, entry.registration.method(), arguments)
                }
                Ok(None) => return None,
                Err(error) => Err(error),
            };
            Some(answer.map_err(|error| DispatchError::Call { plugin: plugin.name.clone(), error }))
        })
    }

    /// The plugins, each with the generation that this thread would enter now, or that serves behind a closed gate.
    fn serving_now(&self) -> Vec<Serves> {
        let number = |plugin: &Plugin| match plugin.slot.try_enter() {
            Ok(loaded) => Some(loaded.number),
            Err(EnterError::Paused) => plugin.serving_number(),
            Err(_) => None,
        };
        self.core.all().into_iter().map(|plugin| (plugin.clone(), number(&plugin))).collect()
    }

    /// Tells a topic's subscribers, one after the other, in the order of their names. What each of them has made of it; an
    /// empty answer says that nobody has subscribed.
    ///
    /// Blocks as [`Host::dispatch`] does, for each of them.
    pub fn notify(&self, topic: &str, arguments: &str) -> Vec<Notified> {
        let mut told = Vec::new();
        for plugin in self.core.all() {
            let (generation, outcome) = match enter(&self.core, &plugin, SUBSCRIPTION, topic) {
                Ok(None) => continue,
                Ok(Some((loaded, entry))) => {
                    let method = entry.registration.method();
                    (Some(loaded.number), by_name::call(&plugin, &loaded, method, arguments))
                }
                Err(error) => (None, Err(error)),
            };
            told.push(Notified { plugin: plugin.name.clone(), generation, outcome });
        }
        told
    }

    fn ensure_one(&self, plugins: &[Arc<Plugin>], kind: &str, key: &str) -> Result<(), DispatchError> {
        let has = |plugin: &&Arc<Plugin>| {
            self.core.registrations.current(plugin).is_some_and(|table| table.has(kind, key))
        };
        let by: Vec<_> = plugins.iter().filter(has).map(|plugin| plugin.name.clone()).collect();
        match by.len() {
            0 | 1 => Ok(()),
            _ => Err(DispatchError::Ambiguous { kind: kind.to_owned(), key: key.to_owned(), by }),
        }
    }

    #[cold]
    fn not_registered(&self, kind: &str, key: &str) -> DispatchError {
        if self.core.is_closed() {
            return DispatchError::Closed;
        }
        let known = self.registrations(Some(kind)).into_iter().map(|one| one.key).take(NAMED).collect();
        DispatchError::NotRegistered { kind: kind.to_owned(), key: key.to_owned(), known }
    }
}

/// Enters a plugin whose serving generation has this. The entry is that of the generation that was entered: another one
/// may have taken over while this waited, and if that has it no more there is `None`.
pub(super) fn enter<'p>(
    core: &Core,
    plugin: &'p Plugin,
    kind: &str,
    key: &str,
) -> Result<Option<(Guard<'p, Loaded>, Entry)>, CallError> {
    let entered = match plugin.slot.try_enter() {
        // Whoever has nothing to do with this is not waited for.
        Err(EnterError::Paused) => match core.registrations.is_behind_gate(&plugin.name, kind, key) {
            true => plugin.slot.enter(),
            false => return Ok(None),
        },
        entered => entered,
    };
    match entered {
        Ok(loaded) => {
            let entry = table_of(&loaded).find(kind, key);
            Ok(entry.map(|entry| (loaded, entry)))
        }
        Err(EnterError::Empty) => Ok(None),
        Err(error) => Err(plugin.cannot_enter(&error)),
    }
}

fn registered(plugin: &str, generation: u64, entry: Entry) -> Registered {
    let Entry { registration, since } = entry;
    Registered {
        plugin: plugin.to_owned(),
        generation,
        kind: registration.kind().to_owned(),
        key: registration.key().to_owned(),
        method: registration.method().to_owned(),
        every_ms: registration.interval().map(|every| every.as_secs_f64() * 1e3),
        details: registration.details().cloned(),
        since,
    }
}
