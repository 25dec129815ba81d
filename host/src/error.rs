//! What can go wrong, one type per operation. Every error prints as the sentence a person needs.

use std::path::PathBuf;
use std::time::Duration;

use crate::events::Step;
use crate::file::{InterfaceDifference, NotSigned, StageError, VetError};
use crate::refusal::{Refusal, RefusalReason};
use crate::requirements::some_of;
use crate::store::StoreError;
use crate::watch::WatchError;

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("the state directory cannot be used: {0}")]
    StateDir(#[source] StageError),
    /// No library can be opened from there.
    #[error("the state directory {} cannot be used: its file system is mounted noexec, and libraries are opened from it; name another one", .0.display())]
    NoExec(PathBuf),
    /// It does not begin with what was kept for it.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The directories cannot be watched.
    #[error("{0}")]
    Watch(#[source] WatchError),
    /// The system refuses another thread.
    #[error("a thread of the host cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// Why there is no handle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// There is no such plugin.
    #[error("no plugin is called `{name}`: {}", known_plugins(known))]
    NoSuchPlugin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// It was unloaded.
    #[error("plugin `{name}` is not loaded")]
    NotLoaded {
        /// The plugin.
        name: String,
    },
    /// It is loaded when it is wanted for the first time, and was refused.
    #[error("plugin `{name}` cannot be loaded: {reason}")]
    CannotLoad {
        /// The plugin.
        name: String,
        /// Why.
        #[source]
        reason: Box<ReloadError>,
    },
    /// The serving generation does not fit the interface.
    #[error("{0}")]
    Interface(#[source] InterfaceDifference),
    /// The serving generation does not implement the interface at all.
    #[error("plugin `{name}` does not implement {interface}: it implements {implements}")]
    NotImplemented {
        /// The plugin.
        name: String,
        /// The interface asked for, with its version.
        interface: String,
        /// What it does implement.
        implements: String,
    },
    /// A reload is under way and could not be waited for.
    #[error("plugin `{name}` is busy: {busy}")]
    Busy {
        /// The plugin.
        name: String,
        /// What it is doing.
        busy: String,
    },
    /// Handles of too many different interfaces.
    #[error("a host can have handles of at most {limit} interfaces of one plugin")]
    TooManyInterfaces {
        /// The limit.
        limit: usize,
    },
    /// The host is shut down.
    #[error("the host is closed")]
    Closed,
}

fn known_plugins(known: &[String]) -> String {
    if known.is_empty() { "none is loaded".into() } else { format!("loaded are {}", known.join(", ")) }
}

/// Why it cannot be said who waits for whom.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WhyError {
    /// There is no such plugin.
    #[error("no plugin is called `{name}`: {}", known_plugins(known))]
    NoSuchPlugin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
}

/// Why a load or reload did not happen. Whatever served before serves on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// There is no such plugin.
    #[error("no plugin is called `{name}`: {}", known_plugins(known))]
    NoSuchPlugin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// Another transaction of the same plugin is under way.
    #[error("busy: reload of {plugin} is at step {step} since {:.1} s", since.as_secs_f64())]
    Busy {
        /// The plugin.
        plugin: String,
        /// Its step.
        step: Step,
        /// For how long it has been there.
        since: Duration,
    },
    /// A step refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The host is shut down.
    #[error("the host is closed")]
    Closed,
}

/// A transaction of a plugin is under way. Whoever is told so says by himself that this is what keeps him.
#[derive(Debug, thiserror::Error)]
#[error("reload of {plugin} is at step {step} since {:.1} s", since.as_secs_f64())]
pub(crate) struct Busy {
    pub(crate) plugin: String,
    pub(crate) step: Step,
    pub(crate) since: Duration,
}

impl From<Busy> for ReloadError {
    fn from(Busy { plugin, step, since }: Busy) -> Self {
        ReloadError::Busy { plugin, step, since }
    }
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There is no such plugin.
    #[error("no plugin is called `{name}`: {}", known_plugins(known))]
    NoSuchPlugin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// It has none.
    #[error("plugin `{name}` is stateless")]
    Stateless {
        /// The plugin.
        name: String,
    },
    /// A transaction is under way.
    #[error("busy: {busy}")]
    Busy {
        /// What it is doing.
        busy: String,
    },
    /// It cannot be saved now.
    #[error("{0}")]
    Refused(RefusalReason),
    /// It was saved and could not be kept.
    #[error("the state was not kept: {0}")]
    NotKept(String),
    /// The host is shut down.
    #[error("the host is closed")]
    Closed,
}

/// Why a generation cannot be called, or let go, by its number.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// It neither serves nor is beside what serves: it was not kept, or is not any more.
    #[error("generation {generation} of `{plugin}` is not there: {}", known_generations(there))]
    NotThere {
        /// The plugin.
        plugin: String,
        /// The generation asked for.
        generation: u64,
        /// Those that are.
        there: Vec<u64>,
    },
    /// The scope, or the call that this thread is in, has another generation of the plugin.
    #[error(
        "generation {generation} of `{plugin}` cannot be entered here: what this belongs to has generation {has}"
    )]
    HasAnother {
        /// The plugin.
        plugin: String,
        /// The generation asked for.
        generation: u64,
        /// The generation that it has.
        has: u64,
    },
    /// That build does not implement the interface.
    #[error("generation {generation} of `{plugin}` does not implement {interface} as it is wanted")]
    NotImplemented {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
        /// The interface.
        interface: String,
    },
    /// It is not among those that are kept.
    #[error("generation {generation} of `{plugin}` is not kept: {}", known_generations(kept))]
    NotKept {
        /// The plugin.
        plugin: String,
        /// The generation asked for.
        generation: u64,
        /// Those that are.
        kept: Vec<u64>,
    },
    /// There is no such plugin.
    #[error("no plugin is called `{name}`: {}", known_plugins(known))]
    NoSuchPlugin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A transaction is under way.
    #[error("busy: {busy}")]
    Busy {
        /// What it is doing.
        busy: String,
    },
    /// It was there, and the call has ended in this.
    #[error("{0}")]
    Call(#[from] plugin_api::CallError),
    /// The host is shut down.
    #[error("the host is closed")]
    Closed,
}

fn known_generations(known: &[u64]) -> String {
    let numbers: Vec<_> = known.iter().map(u64::to_string).collect();
    if known.is_empty() { "none is".into() } else { format!("there is {}", numbers.join(", ")) }
}

/// Why a plugin was not unloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnloadError {
    /// Others cannot do without it.
    #[error("`{name}` is required by {}: unload what requires it first", some_of(by))]
    Required {
        /// The plugin.
        name: String,
        /// The plugins that require it.
        by: Vec<String>,
    },
    /// There is no such plugin.
    #[error("no plugin is called `{name}`: {}", known_plugins(known))]
    NoSuchPlugin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A transaction is under way.
    #[error("busy: {busy}")]
    Busy {
        /// What it is doing.
        busy: String,
    },
    /// The host is shut down.
    #[error("the host is closed")]
    Closed,
}

/// Why a file would not be accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Its bytes are not those of a plugin that fits this host.
    #[error("{}: {reason}", file.display())]
    Vet {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        reason: VetError,
    },
    /// Nobody who is trusted has signed it.
    #[error("{} {reason}", file.display())]
    NotSigned {
        /// The file.
        file: PathBuf,
        /// Why it does not count as signed.
        #[source]
        reason: NotSigned,
    },
    /// It would be refused as the next generation.
    #[error("{}: {reason}", file.display())]
    Unfit {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        reason: RefusalReason,
    },
    /// There is no such plugin to compare with.
    #[error("no plugin is called `{name}`: {}", known_plugins(known))]
    NoSuchPlugin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
}
