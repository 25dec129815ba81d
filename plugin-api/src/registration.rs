//! What a plugin registers with its host: under which kind and key the host calls which of its methods.
//!
//! Registrations belong to a build, not to the plugin. Those of the build that serves are the ones that count: from the
//! moment at which it takes over there are those that it has made, and no others. So each build registers all that it
//! wants, wherever it is convenient: in `create` and `restore`, in `started`, or later. What two builds have both is
//! there without a gap, and what only the earlier one had has gone with it.
//!
//! ```
//! use plugin_api::prelude::*;
//! use serde_json::json;
//!
//! #[plugin_api::interface(version = "1.0")]
//! pub trait Greeter {
//!     fn greet(&self, name: &str) -> String;
//!     fn tidy_up(&self);
//! }
//!
//! struct Polite;
//!
//! impl Plugin for Polite {
//!     fn create(host: &Services) -> Result<Self> {
//!         host.register(Registration::route("GET /hello").calls("greet"))?;
//!         host.register(Registration::command("greet").calls("Greeter.greet").with(&json!({ "help": "Says good day" }))?)?;
//!         host.every("tidy-up", std::time::Duration::from_secs(60), "tidy_up")?;
//!         Ok(Polite)
//!     }
//! }
//! # impl Greeter for Polite {
//! #     fn greet(&self, name: &str) -> String { format!("Good day, {name}.") }
//! #     fn tidy_up(&self) {}
//! # }
//! # export_plugin!(Polite: Greeter, name = "greeter");
//! # fn main() -> Result<()> {
//! # let host = plugin_api::testing::services("greeter", json!({}));
//! # Polite::create(&host)?;
//! # let keys: Vec<_> = plugin_api::testing::registered(&host).iter().map(|one| one.key().to_owned()).collect();
//! # assert_eq!(keys, ["greet", "GET /hello", "tidy-up"]);
//! # Ok(())
//! # }
//! ```
//!
//! # What is not promised
//! * Keys are compared as they are: a route has no patterns.
//! * A timer does not catch up: what falls into the time in which its last call still lasts, or waits at a closed gate, is
//!   left out.
//! * Where builds are tried (see [`Services::is_probe`]) registrations are looked at, and nobody calls.
//! * A build does not see what the one before has registered.
//!
//! # Threads
//! Any thread of the plugin may register and withdraw, at any time. A build that does not serve, because it has yet to or
//! has been replaced, changes nothing that anybody sees.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::abi::Status;
use crate::interface::CallError;
use crate::link::{Link, link};
use crate::services::Services;
use crate::transfer::Outgoing;
use crate::types::Lend;

/// What answers HTTP requests: its key is a method and a path, as in `GET /hello`.
pub const ROUTE: &str = "route";
/// What people run by name.
pub const COMMAND: &str = "command";
/// What is told of a topic.
pub const SUBSCRIPTION: &str = "subscription";
/// What is called every so often.
pub const TIMER: &str = "timer";

/// How many registrations a build can have.
pub const LIMIT: usize = 1024;
/// The most bytes that a kind can have.
const KIND: usize = 32;
/// The most bytes that a key, or the name of a method, can have.
const KEY: usize = 256;
/// The most bytes that details can have, as JSON.
const DETAILS: usize = 64 << 10;
/// The shortest time between two calls of a timer.
const SHORTEST: Duration = Duration::from_millis(1);

/// One method of a plugin, and under which kind and key the host calls it.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "it is handed to `Services::register`"]
pub struct Registration {
    kind: String,
    key: String,
    method: String,
    details: Option<Value>,
    every: Option<Duration>,
}

impl Registration {
    /// Of a kind that the embedder knows, or of one of those below.
    pub fn new(kind: impl Into<String>, key: impl Into<String>) -> Self {
        Registration { kind: kind.into(), key: key.into(), method: String::new(), details: None, every: None }
    }

    /// Answers HTTP requests: `GET /hello`. One plugin has it, and no other.
    pub fn route(key: impl Into<String>) -> Self {
        Registration::new(ROUTE, key)
    }

    /// Is run by name. One plugin has it, and no other.
    pub fn command(name: impl Into<String>) -> Self {
        Registration::new(COMMAND, name)
    }

    /// Is told of a topic, as every plugin is that has subscribed to it.
    pub fn subscription(topic: impl Into<String>) -> Self {
        Registration::new(SUBSCRIPTION, topic)
    }

    /// Is called every so often, without arguments, for the first time when that time has passed. A build that takes over
    /// goes on with a timer of the same name where it is.
    pub fn timer(name: impl Into<String>, every: Duration) -> Self {
        Registration { every: Some(every), ..Registration::new(TIMER, name) }
    }

    /// The method that is called: `method`, or `Interface.method`. It gets a JSON object by parameter name, and answers
    /// with JSON.
    pub fn calls(self, method: impl Into<String>) -> Self {
        Registration { method: method.into(), ..self }
    }

    /// What else whoever lists it should know.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn with<T: Serialize + ?Sized>(self, details: &T) -> Result<Self> {
        let details = serde_json::to_value(details)
            .with_context(|| format!("the details of {self} cannot be written as JSON"))?;
        Ok(Registration { details: Some(details), ..self })
    }

    /// Its kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The method that is called.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// What else is to be known.
    pub fn details(&self) -> Option<&Value> {
        self.details.as_ref()
    }

    /// How often a timer calls.
    pub fn interval(&self) -> Option<Duration> {
        self.every
    }

    /// Whether it can be registered at all.
    ///
    /// # Errors
    /// It cannot, and why.
    pub fn check(&self) -> Result<(), Impossible> {
        let Registration { kind, key, method, details, every } = self;
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if kind.is_empty() || kind.len() > KIND || !kind.chars().all(word) {
            return Err(Impossible::Kind(kind.clone()));
        }
        let key_is = |expected| Impossible::Key { kind: kind.clone(), key: key.clone(), expected };
        if key.is_empty() || key.len() > KEY || key.chars().any(char::is_control) {
            return Err(key_is("1 to 256 bytes and no control characters"));
        }
        if kind == ROUTE && !is_route(key) {
            return Err(key_is("a method in capitals, a space and a path, as in `GET /hello`"));
        }
        if kind == COMMAND && key.contains(char::is_whitespace) {
            return Err(key_is("one word"));
        }
        if method.is_empty() || method.len() > KEY {
            return Err(Impossible::NoMethod(self.to_string()));
        }
        if (kind == TIMER) != every.is_some() || every.is_some_and(|every| every < SHORTEST) {
            return Err(Impossible::Interval(self.to_string()));
        }
        let bytes = details.as_ref().map_or(0, |details| details.to_string().len());
        if bytes > DETAILS {
            return Err(Impossible::Details { what: self.to_string(), bytes });
        }
        Ok(())
    }
}

fn is_route(key: &str) -> bool {
    key.split_once(' ').is_some_and(|(method, path)| {
        !method.is_empty()
            && method.chars().all(|c| c.is_ascii_uppercase())
            && path.starts_with('/')
            && !path.contains([' ', '?', '#'])
    })
}

impl fmt::Display for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.key)
    }
}

/// What cannot be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Impossible {
    /// The kind.
    #[error("a kind of registration is 1 to 32 of a-z, 0-9 and `-`, this one is {0:?}")]
    Kind(String),
    /// The key.
    #[error("the key of a {kind} is {expected}, this one is {key:?}")]
    Key {
        /// Of which kind it would be.
        kind: String,
        /// The key.
        key: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// Nothing would be called.
    #[error(
        "{0} says no method to call: name one with `.calls(\"method\")` or `.calls(\"Interface.method\")`"
    )]
    NoMethod(String),
    /// Not every so often.
    #[error(
        "{0}: a timer, and nothing else, says how often it calls, and that is every millisecond at most: make it with `Registration::timer`"
    )]
    Interval(String),
    /// Too much to be kept.
    #[error(
        "the details of {what} have {bytes} bytes, which is more than 64 KiB: put less there, and let a method tell the rest"
    )]
    Details {
        /// Of what.
        what: String,
        /// How many.
        bytes: usize,
    },
    /// One too many.
    #[error("{0} is one too many: a plugin can have {LIMIT} registrations; withdraw some")]
    TooMany(String),
}

impl Services {
    /// From now on the host calls a method of this build for what comes under this kind and key, for as long as it serves;
    /// see [`registration`](crate::registration). Registering the same again changes nothing, and registering something
    /// else under the same kind and key replaces it without a gap.
    ///
    /// Without a host it is kept by these services, where [`testing::registered`](crate::testing::registered) finds it.
    ///
    /// # Errors
    /// It is none that there can be, see [`Impossible`]; the build does not export the method; another plugin that serves
    /// has the route or command; the host is older than this.
    pub fn register(&self, registration: Registration) -> Result<()> {
        registration.check()?;
        match link() {
            Some(link) => with_host(link, &registration),
            None => self.own_registrations().register(registration),
        }
    }

    /// Takes a registration of this build back. `false`: it has none under this kind and key.
    pub fn withdraw(&self, kind: &str, key: &str) -> bool {
        match link() {
            // SAFETY: attached; both texts are lent for the call.
            Some(link) => link
                .host
                .withdraw()
                .is_some_and(|withdraw| unsafe { withdraw(link.generation, kind.lend(), key.lend()) }),
            None => self.own_registrations().withdraw(kind, key),
        }
    }

    /// Has the host call a method every so often, without arguments: registers a [timer](Registration::timer).
    ///
    /// # Errors
    /// As for [`Services::register`].
    pub fn every(&self, name: &str, interval: Duration, method: &str) -> Result<()> {
        self.register(Registration::timer(name, interval).calls(method))
    }
}

fn with_host(link: Link, registration: &Registration) -> Result<()> {
    let Registration { kind, key, method, details, every } = registration;
    let Some(register) = link.host.register() else {
        bail!("{registration} cannot be registered: this host knows no registrations, use a newer one");
    };
    let details = details.as_ref().map(ToString::to_string).unwrap_or_default();
    let every = every.map_or(0, |every| u64::try_from(every.as_nanos()).unwrap_or(u64::MAX));
    let mut outgoing = Outgoing::new();
    // SAFETY: attached; the texts and the transfer are lent for the call.
    let status = unsafe {
        register(
            link.generation,
            kind.lend(),
            key.lend(),
            method.lend(),
            details.lend(),
            every,
            outgoing.head(),
        )
    };
    if status != Status::OK {
        bail!(CallError::of(status, outgoing.into_string()));
    }
    Ok(())
}

/// The registrations of a plugin without a host.
#[derive(Default)]
pub(crate) struct OwnRegistrations(Mutex<BTreeMap<(String, String), Registration>>);

impl OwnRegistrations {
    fn register(&self, registration: Registration) -> Result<()> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (registration.kind.clone(), registration.key.clone());
        if known.len() == LIMIT && !known.contains_key(&name) {
            bail!(Impossible::TooMany(registration.to_string()));
        }
        known.insert(name, registration);
        Ok(())
    }

    fn withdraw(&self, kind: &str, key: &str) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&(kind.to_owned(), key.to_owned())).is_some()
    }

    pub(crate) fn list(&self) -> Vec<Registration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
