//! Why a build was refused.

use std::path::PathBuf;
use std::time::Duration;

use crate::events::Step;
use crate::file::{InterfaceDifference, InterfaceVersion, NotSigned, StageError, VetError};
use crate::probe::ProbeFailure;
use crate::requirements::some_of;
use crate::store::Denial;

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

impl Refusal {
    /// Why those are refused that were to change together with this one.
    pub(crate) fn of_partner(&self) -> RefusalReason {
        RefusalReason::Partner {
            plugin: self.plugin.clone().unwrap_or_else(|| self.file.display().to_string()),
            step: self.step,
            reason: self.reason.to_string(),
            is_passing: self.reason.is_passing(),
        }
    }
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
    /// Nobody who is trusted has signed it.
    #[error("{0}")]
    NotSigned(#[from] NotSigned),
    /// It does not fit an interface that is in use.
    #[error("{0}")]
    Interface(#[from] InterfaceDifference),
    /// It lacks an interface that the host has handles of.
    #[error("{plugin} {version} no longer implements {interface}, which the host or another plugin uses")]
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
    /// It is a plugin that is loaded once.
    #[error(
        "`{plugin}` is never reloaded (reload = \"never\"): start the host anew, or unload the plugin and load it again"
    )]
    NeverReloaded {
        /// The plugin.
        plugin: String,
    },
    /// There is no build to go back to.
    #[error(
        "there is no build to go back to: none has served before this one since the host was started, or it has gone back already"
    )]
    NoPrevious,
    /// Two generations of a plugin with a state cannot be called at once.
    #[error(
        "`{plugin}` has a state, and two generations at once would be two states: reload it plainly, the state is carried across, and probation sends a bad build back"
    )]
    TwoStates {
        /// The plugin.
        plugin: String,
    },
    /// More old generations than can be kept.
    #[error("{asked} old generations cannot be kept: {limit} is the most")]
    KeepsTooMany {
        /// How many were to be.
        asked: usize,
        /// How many can be.
        limit: usize,
    },
    /// There is nothing to be promoted or discarded.
    #[error(
        "`{plugin}` has no candidate: reload it with a share of the scopes, `--canary PERCENT`, or set `canary_percent`"
    )]
    NoCandidate {
        /// The plugin.
        plugin: String,
    },
    /// Somebody has cancelled the reload.
    #[error("it was cancelled")]
    Cancelled,
    /// Nobody implements an interface that it calls.
    #[error(
        "it requires {interface} {version}, which {} implements{}: it is tried again when another plugin is loaded",
        match plugin { Some(name) => format!("`{name}` is to implement and does not"), None => "no plugin that serves".into() },
        if found.is_empty() { String::new() } else { format!(" ({})", found.join("; ")) }
    )]
    Unmet {
        /// The interface.
        interface: String,
        /// The least version that will do.
        version: InterfaceVersion,
        /// The plugin that its options name for it.
        plugin: Option<String>,
        /// Who implements it otherwise.
        found: Vec<String>,
    },
    /// Several implement an interface that it calls.
    #[error(
        "{} all implement {interface}, which it calls: say which one it is, with `bind = {{ {interface} = \"…\" }}` in [plugins.{plugin}], or `PluginOptions::bind`",
        some_of(by)
    )]
    Ambiguous {
        /// Whose requirement it is.
        plugin: String,
        /// The interface.
        interface: String,
        /// Who implements it.
        by: Vec<String>,
    },
    /// It does not fit plugins that call it and serve. With other builds of them it may.
    #[error(
        "{} {interface}, which it does not implement any more ({misfit}): it waits for builds that fit, to take over together",
        match &by[..] { [] => "an older generation of another plugin, which is not out of memory yet, calls".into(), [one] => format!("{one} calls"), many => format!("{} call", some_of(many)) }
    )]
    Alone {
        /// The interface, as it is called.
        interface: String,
        /// Who calls it.
        by: Vec<String>,
        /// What is different.
        misfit: String,
    },
    /// It was to change together with another plugin, whose build was refused.
    #[error("it changes together with {plugin}, which is refused at {step}: {reason}")]
    Partner {
        /// The other plugin.
        plugin: String,
        /// The step that has refused that.
        step: Step,
        /// Why, in words.
        reason: String,
        /// Whether the same files may be accepted later.
        is_passing: bool,
    },
    /// What it requires requires it.
    #[error("{}: one of them has to do without the other (`optional`)", circle(path))]
    Circle {
        /// Each plugin, and the interface that it requires of the next.
        path: Vec<(String, String)>,
    },
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
    /// Something that it has registered is another plugin's, and only one can have it.
    #[error("{0}")]
    Registration(String),
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

fn circle(path: &[(String, String)]) -> String {
    let links: Vec<_> =
        path.iter().map(|(plugin, interface)| format!("{plugin} requires {interface}")).collect();
    format!("{}, and so in a circle", links.join(", "))
}

impl RefusalReason {
    /// Why, in a word or two that stay the same: for those who count refusals.
    pub fn kind(&self) -> &'static str {
        use RefusalReason as R;
        match self {
            R::NotSettled { .. } => "not-settled",
            R::Stage { .. } => "stage",
            R::Vet { .. } => "vet",
            R::NotSigned { .. } => "not-signed",
            R::Interface { .. } => "interface",
            R::InterfaceGone { .. } => "interface-gone",
            R::NameTaken { .. } => "name-taken",
            R::OtherPlugin { .. } => "other-plugin",
            R::StateVersion { .. } => "state-version",
            R::KeptStateVersion { .. } => "kept-state-version",
            R::KeptState { .. } => "kept-state",
            R::NoState { .. } => "no-state",
            R::KeptBuild { .. } => "kept-build",
            R::Denied { .. } => "denied",
            R::Probe { .. } => "probe",
            R::NoProbe { .. } => "no-probe",
            R::Vetoed { .. } => "vetoed",
            R::OwnMistake { .. } => "own-mistake",
            R::NeverReloaded { .. } => "never-reloaded",
            R::NoPrevious => "no-previous",
            R::TwoStates { .. } => "two-states",
            R::KeepsTooMany { .. } => "keeps-too-many",
            R::NoCandidate { .. } => "no-candidate",
            R::Cancelled => "cancelled",
            R::Unmet { .. } => "unmet",
            R::Ambiguous { .. } => "ambiguous",
            R::Alone { .. } => "alone",
            R::Partner { .. } => "partner",
            R::Circle { .. } => "circle",
            R::Open { .. } => "open",
            R::ConstructorStuck { .. } => "constructor-stuck",
            R::Region { .. } => "region",
            R::Registration { .. } => "registration",
            R::Hook { .. } => "hook",
            R::HookStuck { .. } => "hook-stuck",
            R::ThreadBusy { .. } => "thread-busy",
            R::Held { .. } => "held",
            R::Lingering { .. } => "lingering",
            R::SelfDeadlock => "self-deadlock",
            R::Gate { .. } => "gate",
        }
    }

    /// Whether the file is not there any more.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, RefusalReason::Vet(VetError::Unreadable { source }) if source.kind() == std::io::ErrorKind::NotFound)
    }

    /// Whether the same file may be accepted later: the reason lies with who uses the plugin, not with the
    /// build.
    pub fn is_passing(&self) -> bool {
        use RefusalReason::{
            Alone, Circle, Held, Lingering, NoProbe, NotSettled, Partner, Stage, ThreadBusy, Unmet,
        };
        matches!(
            self,
            Held { .. }
                | Lingering { .. }
                | NoProbe(_)
                | NotSettled(_)
                | Stage(_)
                | ThreadBusy { .. }
                | Unmet { .. }
                | Alone { .. }
                | Partner { is_passing: true, .. }
                | Circle { .. }
        )
    }
}
