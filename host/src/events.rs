//! What happens in a host, as it happens.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use serde::Serialize;

pub use crate::step::Step;

/// What a step of a reload took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// In milliseconds.
    pub ms: f64,
}

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
    /// A build was refused; whatever served before serves on.
    Refused {
        /// The plugin, if the file got far enough to say.
        plugin: Option<String>,
        /// The file.
        file: PathBuf,
        /// The step that refused.
        step: Step,
        /// Why: what was expected, what was found, what to do.
        reason: String,
        /// The generation that goes on serving, if there is one.
        serving: Option<u64>,
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

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Loaded { plugin, generation, version, file, took_ms, state_bytes, .. } => {
                write!(
                    f,
                    "generation {generation} of {plugin} serves: version {version} from {} ({took_ms:.1} ms",
                    file.display()
                )?;
                if *state_bytes > 0 {
                    write!(f, ", with the {state_bytes} B of state that were kept")?;
                }
                write!(f, ")")
            }
            Event::Snapshotted { plugin, generation, bytes, took_ms } => {
                write!(
                    f,
                    "the state of {plugin} is kept: {bytes} B of generation {generation} ({took_ms:.1} ms)"
                )
            }
            Event::Reloaded {
                plugin, from, generation, version, took_ms, closed_ms, state_bytes, ..
            } => {
                write!(
                    f,
                    "generation {generation} of {plugin} serves: version {version} took over from generation {from} ({took_ms:.1} ms"
                )?;
                if *state_bytes > 0 {
                    write!(f, ", gate closed for {closed_ms:.1} ms, {state_bytes} B of state carried")?;
                }
                write!(f, ")")
            }
            Event::Proved { plugin, generation, calls, errors, panics, p99_us } => {
                let p99 = Duration::from_nanos((p99_us * 1e3) as u64);
                write!(
                    f,
                    "generation {generation} of {plugin} has proved itself: {calls} calls, {errors} failed, {panics} panicked, 99 of 100 within {p99:.1?}"
                )
            }
            Event::RolledBack { plugin, from, generation, version, reason, state, .. } => {
                write!(
                    f,
                    "generation {generation} of {plugin} serves: version {version} is back after generation {from}: {reason}"
                )?;
                match state {
                    RolledBackState::None => Ok(()),
                    RolledBackState::Carried => f.write_str("; the state was carried back"),
                    RolledBackState::Earlier => {
                        f.write_str("; the state is the one from before, and what had changed since is lost")
                    }
                }
            }
            Event::Refused { plugin, file, step, reason, serving } => {
                match plugin {
                    Some(plugin) => {
                        write!(f, "{} for {plugin} is refused at {step}: {reason}", file.display())?
                    }
                    None => write!(f, "{} is refused at {step}: {reason}", file.display())?,
                }
                match serving {
                    Some(generation) => write!(f, " (generation {generation} serves on)"),
                    None => Ok(()),
                }
            }
            Event::Draining { plugin, generation, holders, since_ms } => {
                let since = Duration::from_millis(*since_ms);
                write!(f, "generation {generation} of {plugin} has been draining for {since:.1?}: {holders}")
            }
            Event::Unloaded { plugin, generation, left } => {
                write!(f, "generation {generation} of {plugin} is unloaded")?;
                left.map_or(Ok(()), |left| write!(f, "; it left {left}"))
            }
            Event::Lingering { plugin, generation, reason, bytes } => {
                write!(f, "generation {generation} of {plugin} is lingering: {reason} ({} KiB)", bytes / 1024)
            }
            Event::Leaked { plugin, generation, bytes } => {
                write!(
                    f,
                    "generation {generation} of {plugin} stays in memory as asked ({} KiB): the host is tainted",
                    bytes / 1024
                )
            }
            Event::Removed { plugin, generation } => {
                write!(f, "plugin {plugin} is removed: generation {generation} serves no more")
            }
            Event::FileGone { plugin, file } => {
                write!(f, "the file of {plugin} is gone: {}; the plugin serves on", file.display())
            }
            Event::Trouble { what } => f.write_str(what),
            Event::Missed { count } => write!(f, "{count} events were missed: the subscriber was too slow"),
        }
    }
}

/// An event with its place in the host's history.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// Counts from 1, without gaps.
    pub sequence: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A subscription: an iterator that waits for the next event and ends with the host.
pub struct Events {
    receiver: Receiver<Recorded>,
}

impl Events {
    /// The next event with its sequence number and time; `None` when the host has ended.
    pub fn next_recorded(&mut self) -> Option<Recorded> {
        self.receiver.recv().ok()
    }

    /// The next event, if one comes within `limit`.
    pub fn next_within(&mut self, limit: Duration) -> Option<Event> {
        self.receiver.recv_timeout(limit).ok().map(|recorded| recorded.event)
    }
}

impl Iterator for Events {
    type Item = Event;
    fn next(&mut self) -> Option<Event> {
        self.next_recorded().map(|recorded| recorded.event)
    }
}

/// How many events a slow subscriber may lag behind.
const SUBSCRIBER_BOUND: usize = 1024;
/// How many events the host remembers.
const HISTORY: usize = 256;

/// Hands events to subscribers and remembers the last ones.
#[derive(Default)]
pub(crate) struct Journal(Mutex<JournalState>);

#[derive(Default)]
struct JournalState {
    last: u64,
    history: VecDeque<Recorded>,
    subscribers: Vec<Subscriber>,
}

struct Subscriber {
    sender: Sender<Recorded>,
    missed: u64,
}

impl Journal {
    pub(crate) fn record(&self, event: Event) {
        self.hand_out(event, true);
    }

    /// Tells of something that happens all the time: it is not remembered, so that what is stays to be seen.
    pub(crate) fn tell(&self, event: Event) {
        self.hand_out(event, false);
    }

    fn hand_out(&self, event: Event, is_remembered: bool) {
        match &event {
            Event::Snapshotted { .. } => tracing::debug!("{event}"),
            Event::Refused { .. } | Event::Trouble { .. } => tracing::warn!("{event}"),
            _ => tracing::info!("{event}"),
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last += 1;
        let recorded = Recorded { sequence: state.last, at_ms: now_ms(), event };
        if is_remembered {
            if state.history.len() == HISTORY {
                state.history.pop_front();
            }
            state.history.push_back(recorded.clone());
        }
        state.subscribers.retain_mut(|subscriber| subscriber.send(&recorded));
    }

    pub(crate) fn subscribe(&self) -> Events {
        let (sender, receiver) = crossbeam_channel::bounded(SUBSCRIBER_BOUND);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.subscribers.push(Subscriber { sender, missed: 0 });
        Events { receiver }
    }

    pub(crate) fn recent(&self) -> Vec<Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).history.iter().cloned().collect()
    }

    /// Ends all subscriptions.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).subscribers.clear();
    }
}

impl Subscriber {
    /// `false`: it is gone.
    fn send(&mut self, recorded: &Recorded) -> bool {
        if self.missed > 0 {
            let note = Recorded { event: Event::Missed { count: self.missed }, ..*recorded };
            match self.sender.try_send(note) {
                Ok(()) => self.missed = 0,
                Err(TrySendError::Full(_)) => {
                    self.missed += 1;
                    return true;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        match self.sender.try_send(recorded.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
