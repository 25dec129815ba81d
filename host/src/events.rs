//! What happens in a host, as it happens.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

pub use crate::step::{Step, StepTime};

/// Something that happened. Prints as one line.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A plugin serves for the first time.
    Loaded {
        /// The plugin.
        plugin: String,
        /// Its first generation.
        generation: u64,
        /// The version of the build.
        version: String,
        /// Where it came from.
        file: PathBuf,
        /// From noticing the file to serving.
        took_ms: f64,
        /// Bytes of state that were kept for it, and with which it has begun. 0: it has begun empty.
        state_bytes: usize,
        /// What each step took.
        steps: Vec<StepTime>,
    },
    /// The present state of a plugin is on disk: whatever becomes of this process, the next host begins with it or a newer
    /// one. Told to those who listen, and not among [`Host::recent_events`](crate::Host::recent_events).
    Snapshotted {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
        /// The size of the state.
        bytes: u64,
        /// From asking for it to its being on disk.
        took_ms: f64,
    },
    /// A new generation has taken over.
    Reloaded {
        /// The plugin.
        plugin: String,
        /// The generation that retires.
        from: u64,
        /// The generation that serves.
        generation: u64,
        /// The version of the build.
        version: String,
        /// Where it came from.
        file: PathBuf,
        /// From noticing the file to serving.
        took_ms: f64,
        /// How long the gate was closed: what a caller may have waited. 0 for stateless plugins.
        closed_ms: f64,
        /// Bytes of state that were carried across.
        state_bytes: usize,
        /// What each step took.
        steps: Vec<StepTime>,
    },
    /// A build that has taken over has not registered the same as the one before: routes, commands, subscriptions, timers,
    /// each as `kind` and `key`.
    Registrations {
        /// The plugin.
        plugin: String,
        /// The generation that serves.
        generation: u64,
        /// What the one before did not have.
        came: Vec<String>,
        /// What it had, and is there no more.
        went: Vec<String>,
        /// How many both have.
        stayed: usize,
    },
    /// A generation that had taken over has passed its probation.
    Proved {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
        /// Its calls meanwhile.
        calls: u64,
        /// Those that failed.
        errors: u64,
        /// Those that panicked.
        panics: u64,
        /// 99 of 100 took no longer, in microseconds.
        p99_us: f64,
    },
    /// The build before has taken over again.
    RolledBack {
        /// The plugin.
        plugin: String,
        /// The generation that was sent back.
        from: u64,
        /// The generation that serves.
        generation: u64,
        /// The version of its build.
        version: String,
        /// Why.
        reason: String,
        /// What became of the state.
        state: RolledBackState,
        /// How long the gate was closed.
        closed_ms: f64,
        /// What each step took.
        steps: Vec<StepTime>,
    },
    /// A build gets a part of the scopes from now on, until it takes over or is discarded.
    Candidate {
        /// The plugin.
        plugin: String,
        /// The candidate.
        generation: u64,
        /// The version of its build.
        version: String,
        /// Where it came from.
        file: PathBuf,
        /// The generation that serves.
        serving: Option<u64>,
        /// How many of 100 scopes go to the candidate.
        percent: u8,
        /// From noticing the file to this.
        took_ms: f64,
        /// What each step took.
        steps: Vec<StepTime>,
    },
    /// A candidate takes over: an [`Event::Reloaded`] follows, which says from which generation, and what that alone took.
    Promoted {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
        /// The version of its build.
        version: String,
        /// Whether it has proved itself. Otherwise somebody has asked for it, and it is on probation like any other.
        proved: bool,
        /// Its calls meanwhile, as far as they were counted.
        calls: u64,
        /// Those that failed.
        errors: u64,
        /// Those that panicked.
        panics: u64,
        /// 99 of 100 took no longer, in microseconds.
        p99_us: f64,
    },
    /// A candidate gets no scopes any more, and retires. What served serves on.
    Discarded {
        /// The plugin.
        plugin: String,
        /// The candidate.
        generation: u64,
        /// The version of its build.
        version: String,
        /// Why.
        reason: String,
        /// Whether its build is refused from now on.
        denied: bool,
        /// The generation that serves.
        serving: Option<u64>,
    },
    /// An old generation stays, for those who ask for it by its number.
    Kept {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
    },
    /// A generation that was kept retires: somebody has asked for it, or younger ones are kept in its place.
    Released {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
    },
    /// A build was refused; whatever served before serves on.
    Refused {
        /// The plugin, if the file got far enough to say.
        plugin: Option<String>,
        /// The file.
        file: PathBuf,
        /// The step that refused.
        step: Step,
        /// Why, in a word or two that stay the same.
        kind: &'static str,
        /// Why: what was expected, what was found, what to do.
        reason: String,
        /// The generation that goes on serving, if there is one.
        serving: Option<u64>,
    },
    /// A build would be accepted, as far as can be seen without running it, and is not taken in yet.
    Waiting {
        /// The plugin.
        plugin: String,
        /// The version of the build.
        version: String,
        /// The file.
        file: PathBuf,
        /// What it waits for, as the end of a sentence: `until …`.
        until: String,
    },
    /// A plugin is not loaded yet, because nobody implements what it calls. It will be when somebody does.
    Unmet {
        /// The plugin.
        plugin: Option<String>,
        /// The file.
        file: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// Somebody has built a plugin's crate, and has told the host; see
    /// [`Host::tell_build`](crate::Host::tell_build).
    Built {
        /// The crate's package.
        package: String,
        /// The plugin that it makes, if that is known.
        plugin: Option<String>,
        /// What it took.
        took_ms: f64,
    },
    /// The same, but the build has failed: what served before serves on.
    BuildFailed {
        /// The crate's package.
        package: String,
        /// The plugin that it makes, if that is known.
        plugin: Option<String>,
        /// Why, in one line.
        what: String,
        /// What the compiler said, but no more than 16 KiB of it.
        diagnostics: String,
    },
    /// Somebody is still in a generation that retires, or whose gate is closed for a handover.
    Draining {
        /// The plugin.
        plugin: String,
        /// The old generation.
        generation: u64,
        /// Who holds it.
        holders: String,
        /// For how long it has been draining.
        since_ms: u64,
    },
    /// A generation is out of memory: asked, not assumed.
    Unloaded {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
        /// What it has left behind on the heap. `None` for plugins that do not keep count: see `allocator = host` of
        /// `export_plugin!`.
        left: Option<Left>,
    },
    /// A generation no longer serves, but something keeps it in memory.
    Lingering {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
        /// What keeps it.
        reason: String,
        /// How much memory its image takes.
        bytes: u64,
    },
    /// An old generation stays in memory for good, because its reload was asked for with that.
    Leaked {
        /// The plugin.
        plugin: String,
        /// The generation.
        generation: u64,
        /// How much memory its image takes.
        bytes: u64,
    },
    /// A plugin was unloaded by request and serves no more.
    Removed {
        /// The plugin.
        plugin: String,
        /// The generation that served last.
        generation: u64,
    },
    /// The host goes by other options from now on.
    Reconfigured {
        /// What differs and takes effect only in the next host.
        in_the_next_host: Vec<String>,
    },
    /// The file of a serving plugin is gone. It serves on: a removal alone means nothing.
    FileGone {
        /// The plugin.
        plugin: String,
        /// Where it was.
        file: PathBuf,
    },
    /// Something the operator should know, e.g. a directory that cannot be read.
    Trouble {
        /// What.
        what: String,
    },
    /// This subscriber was too slow; so many events were dropped.
    Missed {
        /// How many.
        count: u64,
    },
}

/// What became of the state when a build was sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolledBackState {
    /// There was none.
    None,
    /// It was handed back.
    Carried,
    /// The one that had been handed over before was used again; what had changed since is lost.
    Earlier,
}

/// What a generation has got of the heap and not given back: what its `static`s owned, and what it has forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// How many blocks.
    pub blocks: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Left { blocks: 0, .. } => f.write_str("nothing on the heap"),
            Left { blocks: 1, bytes } => write!(f, "{bytes} B in 1 block"),
            Left { blocks, bytes } => write!(f, "{bytes} B in {blocks} blocks"),
        }
    }
}
