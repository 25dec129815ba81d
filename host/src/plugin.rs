//! One plugin: the place where its generations succeed one another, and what the host remembers of it.
//!
//! Locks, in the order in which they may be taken: `turn`, then `record`. Neither is held while code of a
//! plugin runs.

mod guest;
mod turn;

pub(crate) use turn::{Transaction, Turn};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plugin_api::CallError;
use plugin_api::abi::InstanceRef;
use plugin_api::desc::InterfaceDesc;

use crate::beside::Beside;
use crate::deputy::Deputy;
use crate::events::Event;
use crate::ffi::{Counters, Instance, Regions, Tables};
use crate::file::{
    ContentHash, Facts, InterfaceManifest, InterfaceVersion, Kept, Manifest, MethodManifest, Staged,
};
use crate::gate::{Slot, Stragglers};
use crate::journal::Journal;
use crate::meter::{Meter, Reading};
use crate::options::TrustedFile;
use crate::peer::Calls;
use crate::scope::Scopes;
use crate::snapshot::Frame;
use crate::status::Phase;

/// See the module.
pub(crate) struct Plugin {
    pub(crate) name: String,
    pub(crate) slot: Slot<Loaded>,
    /// What can be called beside the serving generation.
    pub(crate) beside: Beside,
    pub(crate) counters: Arc<Counters>,
    pub(crate) regions: Arc<Regions>,
    /// The scopes that have called it, while they are counted.
    pub(crate) scopes: Scopes,
    /// Held by whoever loads it because they are the first to call.
    pub(crate) first_call: Mutex<()>,
    /// The host is shut down.
    closed: AtomicBool,
    turn: Mutex<Option<Turn>>,
    /// Told when a turn ends.
    turn_ended: Condvar,
    record: Mutex<Record>,
}

/// One loaded generation: the value that a slot hands on. What a call reads comes first, in one cache line.
#[repr(C)]
pub(crate) struct Loaded {
    pub(crate) number: u64,
    pub(crate) instance: Instance,
    pub(crate) tables: Tables,
    pub(crate) build: Arc<Build>,
    pub(crate) staged: Staged,
    /// The thread of this generation.
    pub(crate) deputy: Deputy,
    /// Counts and times calls, while that is asked for.
    pub(crate) meter: Arc<Meter>,
    /// Something waits for those who are inside.
    pub(crate) is_to_leave: AtomicBool,
}

impl Loaded {
    /// Something waits for those who are inside: has the plugin end what lasts, once until [`Loaded::let_stay`]. Does not
    /// wait for that.
    pub(crate) fn leave_now(&self, plugin: &str, journal: &Arc<Journal>) {
        if self.is_to_leave.swap(true, Ordering::Relaxed) {
            return;
        }
        let (instance, journal) = (self.instance.clone(), journal.clone());
        let whose = format!("generation {} of {plugin}", self.number);
        let hook = move || {
            if let Err(error) = instance.leave_now() {
                journal.record(Event::Trouble { what: format!("{whose}: leave_now: {error}") });
            }
        };
        drop(self.deputy.begin("leave_now", || {}, hook));
    }

    /// It serves on, and nobody need leave any more.
    pub(crate) fn let_stay(&self) {
        self.is_to_leave.store(false, Ordering::Relaxed);
        self.instance.image().ask_to_leave(false);
    }

    /// What methods are called on.
    #[inline(always)]
    pub(crate) fn raw_instance(&self) -> InstanceRef {
        self.instance.raw()
    }

    /// How much address space its image takes.
    pub(crate) fn image_bytes(&self) -> u64 {
        self.instance.image().bytes()
    }

    /// Who is in this generation, and what they called last.
    pub(crate) fn holders(&self, stragglers: &Stragglers) -> String {
        stragglers.explained(&|address| self.instance.methods_at(address))
    }
}

/// What is known of a build without running it.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) manifest: Manifest,
    pub(crate) facts: Facts,
    pub(crate) hash: ContentHash,
    /// The signature that it was accepted with, if one was asked for.
    pub(crate) signature: Option<Arc<str>>,
    pub(crate) file: PathBuf,
}

/// What the host remembers of a plugin.
pub(crate) struct Record {
    /// Where its builds come from.
    pub(crate) file: PathBuf,
    /// The number of the next generation.
    pub(crate) next: u64,
    pub(crate) serving: Option<Serving>,
    /// The interfaces that the host has handles of, or that other plugins call, by number.
    pub(crate) interfaces: Vec<Used>,
    pub(crate) last_refusal: Option<String>,
    /// The build of which was told last that it waits.
    pub(crate) awaiting: Option<Awaiting>,
    /// It is loaded from here when somebody calls it.
    pub(crate) deferred: Option<TrustedFile>,
    /// When a generation last took over from another.
    pub(crate) reloaded: Option<Instant>,
    /// The size of its state when that was written down last.
    pub(crate) state_bytes: Option<u64>,
    /// Generations that serve no more and are not gone.
    pub(crate) old: Vec<Old>,
    /// A copy of the serving build, to be gone back to.
    pub(crate) kept: Option<Kept>,
    /// The build before, which had proved itself.
    pub(crate) previous: Option<Previous>,
    /// The serving generation, if it has yet to prove itself.
    pub(crate) on_probation: Option<u64>,
    /// How the last generation did that has proved itself.
    pub(crate) baseline: Option<Reading>,
}

/// A build that waits.
#[derive(Clone)]
pub(crate) struct Awaiting {
    pub(crate) file: PathBuf,
    pub(crate) hash: ContentHash,
    /// For what, in a word.
    pub(crate) what: &'static str,
}

/// An interface of a plugin that somebody uses. Not to be cloned: that would count as one more who does.
pub(crate) struct Used {
    pub(crate) interface: Arc<InterfaceManifest>,
    /// The host has handles of it, or has had.
    pub(crate) by_the_host: bool,
    /// Shared by the plugins that call it.
    pub(crate) calls: Arc<()>,
    /// Whether its methods are resolved for the generation that serves.
    pub(crate) is_resolved: bool,
}

impl Used {
    /// Whether builds that do not fit it have to be refused.
    pub(crate) fn is_in_use(&self) -> bool {
        self.by_the_host || self.callers() > 0
    }

    /// How many generations of other plugins call it.
    pub(crate) fn callers(&self) -> usize {
        Arc::strong_count(&self.calls) - 1
    }
}

/// A build that can be gone back to.
pub(crate) struct Previous {
    pub(crate) build: Arc<Build>,
    pub(crate) copy: Kept,
    /// The state that it handed over, as long as that is recent.
    pub(crate) state: Option<Frame>,
    /// The plugins that took over together with what is there now, and in which generations.
    pub(crate) with: Vec<(String, u64)>,
}

/// The generation that answers.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) number: u64,
    pub(crate) build: Arc<Build>,
    /// The other plugins that it calls.
    pub(crate) calls: Arc<Calls>,
}

/// A generation on its way out.
#[derive(Clone)]
pub(crate) struct Old {
    pub(crate) number: u64,
    pub(crate) version: String,
    pub(crate) phase: Phase,
    pub(crate) reason: Option<String>,
    /// How much address space its image takes, if that is known to stay.
    pub(crate) bytes: Option<u64>,
}

impl Record {
    /// Whether a generation serves whose next build is awaited at this file.
    pub(crate) fn is_followed_at(&self, file: &Path) -> bool {
        self.serving.is_some() && self.file == file
    }
}

impl Plugin {
    pub(crate) fn new(name: String, file: PathBuf, call_wait: Duration, max_waiting: usize) -> Arc<Self> {
        let slot = Slot::empty();
        slot.set_wait_limit(call_wait);
        slot.set_max_waiters(max_waiting);
        let beside = Beside::of(&slot);
        Arc::new(Plugin {
            regions: Regions::new(&name),
            name,
            slot,
            beside,
            counters: Arc::default(),
            scopes: Scopes::default(),
            first_call: Mutex::default(),
            closed: AtomicBool::new(false),
            turn: Mutex::new(None),
            turn_ended: Condvar::new(),
            record: Mutex::new(Record {
                file,
                next: 1,
                serving: None,
                interfaces: Vec::new(),
                last_refusal: None,
                awaiting: None,
                deferred: None,
                reloaded: None,
                state_bytes: None,
                old: Vec::new(),
                kept: None,
                previous: None,
                on_probation: None,
                baseline: None,
            }),
        })
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a generation serves, or will again when a handover has opened its gate.
    pub(crate) fn is_loaded(&self) -> bool {
        self.record().serving.is_some()
    }

    /// The number of the generation that serves.
    pub(crate) fn serving_number(&self) -> Option<u64> {
        self.record().serving.as_ref().map(|serving| serving.number)
    }

    /// The host is shut down: calls end with [`CallError::Closed`] from now on.
    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    #[cold]
    pub(crate) fn not_loaded(&self) -> CallError {
        if self.is_closed() { CallError::Closed } else { CallError::NotLoaded { plugin: self.name.clone() } }
    }

    /// Notes what an old generation is doing.
    pub(crate) fn note_old(&self, old: Old) {
        let mut record = self.record();
        match record.old.iter_mut().find(|known| known.number == old.number) {
            Some(known) => *known = old,
            None => record.old.push(old),
        }
    }

    /// An old generation is gone.
    pub(crate) fn forget_old(&self, number: u64) {
        self.record().old.retain(|known| known.number != number);
    }
}

/// An interface as the host knows it, in the form in which files state theirs.
pub(crate) fn stated(desc: &InterfaceDesc) -> InterfaceManifest {
    let version = |v: plugin_api::desc::Version| InterfaceVersion { major: v.major, minor: v.minor };
    InterfaceManifest {
        name: desc.name.to_owned(),
        version: version(desc.version),
        methods: desc
            .methods
            .iter()
            .map(|method| MethodManifest {
                name: method.name.to_owned(),
                since: version(method.since),
                fingerprint: plugin_api::render::fingerprint(method),
                signature: plugin_api::render::signature(method),
            })
            .collect(),
    }
}
