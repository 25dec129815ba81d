//! What can go wrong, one type per operation. Every error prints as the sentence a person needs.

use std::path::PathBuf;
use std::time::Duration;

use crate::events::Step;
use crate::file::{InterfaceDifference, StageError, VetError};
use crate::probe::ProbeFailure;
use crate::store::{Denial, StoreError};
use crate::watch::WatchError;

/// Why a host did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("the state directory cannot be used: {0}")]
    StateDir(#[source] StageError),
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

/// A step refused a build: an ordinary outcome.
#[derive(Debug, thiserror::Error)]
#[error("{} is refused at {step}: {reason}", file.display())]
pub struct Refusal {
    /// The plugin, if the file got far enough to say.
    pub plugin: Option<String>,
    /// The file.
    pub file: PathBuf,
    /// The step that refused.
    pub step: Step,
    /// The generation that serves on, if there is one.
    pub serving: Option<u64>,
    /// Why.
    #[source]
    pub reason: RefusalReason,
}

/// Why a build was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalReason {
    /// Somebody still writes to the file, or it is not there.
    #[error("{0}")]
    NotSettled(String),
    /// The private copy could not be made.
    #[error("{0}")]
    Stage(#[from] StageError),
    /// Its bytes are not those of a plugin that fits this host.
    #[error("{0}")]
    Vet(#[from] VetError),
    /// It does not fit an interface that is in use.
    #[error("{0}")]
    Interface(#[from] InterfaceDifference),
    /// It lacks an interface that the host has handles of.
    #[error("{plugin} {version} no longer implements {interface}, of which the host has handles")]
    InterfaceGone {
        /// The plugin.
        plugin: String,
        /// The version of the build.
        version: String,
        /// The interface with its version.
        interface: String,
    },
    /// Another file provides the plugin.
    #[error("plugin `{plugin}` is provided by {} already: remove one of the two, or give this one another name", by.display())]
    NameTaken {
        /// The name both claim.
        plugin: String,
        /// The file that serves.
        by: PathBuf,
    },
    /// It is another plugin.
    #[error("it is plugin `{found}`, asked was `{expected}`")]
    OtherPlugin {
        /// What its manifest names.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The state of the serving generation cannot be read by this build.
    #[error(
        "the serving generation writes state version {writes}, this build reads {reads}: build one that reads it, or unload the plugin first if the state may go"
    )]
    StateVersion {
        /// What the old one writes.
        writes: String,
        /// What the new one reads.
        reads: String,
    },
    /// The state with which it is to begin, because it was kept or because somebody has named it, cannot be read by
    /// this build.
    #[error(
        "the state that it is to begin with has version {version}, this build reads {reads}: build one that reads it, or begin without what was kept, with `reseat run --fresh` or `start_fresh`"
    )]
    KeptStateVersion {
        /// What it is.
        version: u32,
        /// What the build reads.
        reads: String,
    },
    /// The state that was kept for the plugin cannot be used.
    #[error("{0}; put back a copy of it, or begin without it, with `reseat run --fresh` or `start_fresh`")]
    KeptState(String),
    /// What was given as a state is none.
    #[error("{0}")]
    NoState(String),
    /// The build that was kept cannot be used.
    #[error("the copy of it that was kept is damaged: its hash is {found}, expected {expected}")]
    KeptBuild {
        /// That of the copy.
        found: String,
        /// That which was kept.
        expected: String,
    },
    /// The build is known to be bad.
    #[error(
        "this build is denied: {}; allow it with `reseat deny --clear {}`, or build another",
        .0.reason, &.0.hash[..8]
    )]
    Denied(Denial),
    /// It failed in the helper process.
    #[error("{failure}{}", if *.denied { "; this build is denied from now on" } else { "" })]
    Probe {
        /// How.
        failure: ProbeFailure,
        /// Whether the same file is refused from now on.
        denied: bool,
    },
    /// It could not be tried. That says nothing about the build.
    #[error("it could not be tried: {0}")]
    NoProbe(String),
    /// An observer has objected.
    #[error("{0}")]
    Vetoed(String),
    /// There is a mistake in the host.
    #[error("there was a mistake in the host: {0}; nothing was changed; please report this")]
    OwnMistake(String),
    /// There is no build to go back to.
    #[error(
        "there is no build to go back to: none has served before this one since the host was started, or it has gone back already"
    )]
    NoPrevious,
    /// Somebody has cancelled the reload.
    #[error("it was cancelled")]
    Cancelled,
    /// The library could not be opened.
    #[error("{0}")]
    Open(String),
    /// The library's constructors did not return in time. The C library opens and closes libraries, and begins
    /// threads, under a lock that they hold.
    #[error(
        "its constructors have not returned within {limit:?}: until they do, nothing can be opened or closed and no thread can begin in this process; what serves, serves on, but if they never return, only a restart helps"
    )]
    ConstructorStuck {
        /// The deadline.
        limit: Duration,
    },
    /// Its regions are not as they should be when it is about to serve: it has written to one, most likely.
    #[error("{0}")]
    Region(String),
    /// A hook of the plugin returned an error.
    #[error("{hook} failed: {error}")]
    Hook {
        /// The hook.
        hook: &'static str,
        /// What it said.
        error: plugin_api::CallError,
    },
    /// A hook of the plugin did not return in time.
    #[error(
        "{hook} has not returned within {limit:?}; its thread is left behind and keeps that build in memory"
    )]
    HookStuck {
        /// The hook.
        hook: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// The thread of a generation is still at an earlier hook.
    #[error("{hook} could not be begun within {limit:?}: that generation's thread is at {job} since {:.1} s", since.as_secs_f64())]
    ThreadBusy {
        /// The hook.
        hook: &'static str,
        /// The deadline.
        limit: Duration,
        /// What the thread is at.
        job: &'static str,
        /// Since when.
        since: Duration,
    },
    /// Calls in flight did not end in time.
    #[error("it is still in use after {limit:?}: {holders}")]
    Held {
        /// The deadline.
        limit: Duration,
        /// Who holds it.
        holders: String,
    },
    /// As much lingers in memory as may.
    #[error(
        "what lingers in memory has reached max_lingering (generations: {generations}, {} KiB), so nothing more is opened; the oldest is {oldest}. This file is tried again when something has been unloaded",
        bytes / 1024
    )]
    Lingering {
        /// How many generations linger.
        generations: usize,
        /// How much address space they take.
        bytes: u64,
        /// The oldest of them, and why.
        oldest: String,
    },
    /// The plugin asked for a reload of itself from inside of a call.
    #[error(
        "this thread is inside of a call to the plugin, so waiting for that call to end would be for ever: ask from another thread"
    )]
    SelfDeadlock,
    /// The host's slot cannot be used.
    #[error("{0}")]
    Gate(String),
}

impl RefusalReason {
    /// Whether the same file may be accepted later: the reason lies with who uses the plugin, not with the
    /// build.
    pub fn is_passing(&self) -> bool {
        use RefusalReason::{Held, Lingering, NoProbe, NotSettled, Stage, ThreadBusy};
        matches!(
            self,
            Held { .. } | Lingering { .. } | NoProbe(_) | NotSettled(_) | Stage(_) | ThreadBusy { .. }
        )
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

/// Why a plugin was not unloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnloadError {
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
