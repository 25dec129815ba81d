//! One thread that takes generations out of service: drains, stops, destroys, closes, and asks whether they
//! are gone.
//!
//! Invariants:
//! 1. Nothing of a generation is closed before it is drained, destroyed, and its book is empty.
//! 2. Code of a generation runs on that generation's own thread, so that a slow hook holds up nobody else's end.
//! 3. The reaper never waits for one generation while another could go on: each turn, every one of them is
//!    advanced as far as it goes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use plugin_api::Stopping;

use crate::deputy::{Deputy, Pending};
use crate::ffi::{Hooks, Instance, OpenError};
use crate::file::Staged;
use crate::gate::Retired;
use crate::journal::Journal;
use crate::lock::be_ready_to_wait;
use crate::options::Options;
use crate::plugin::{Loaded, Plugin};
use crate::status::Phase;

mod closing;
mod departure;
mod leaving;
mod round;

use departure::{Departure, Stage};
use leaving::Question;
use round::Round;

/// How soon a plugin is told that somebody waits for its calls: most are over before.
pub(crate) const LEAVE_AFTER: Duration = Duration::from_millis(1);

/// How soon a holder is named.
pub(crate) const NAME_HOLDERS_AFTER: Duration = Duration::from_millis(50);

/// How often the guards are looked at: how well the age of a call is known.
const SAMPLE_EVERY: Duration = Duration::from_millis(40);

/// Sends generations to the reaper.
pub(crate) struct Reaper {
    queue: Sender<Message>,
    /// Generations that are not gone.
    unfinished: Arc<AtomicUsize>,
    lingering: Arc<Mutex<Vec<Lingering>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A generation that lingers.
#[derive(Clone, Debug)]
pub(crate) struct Lingering {
    pub(crate) plugin: String,
    pub(crate) generation: u64,
    pub(crate) reason: String,
    pub(crate) bytes: u64,
}

enum Message {
    Take(Box<Departure>),
    /// There are calls to be looked at.
    Watch,
    /// Something was struck out of a book.
    Look,
    /// Somebody wants to know.
    Ask(Arc<Question>),
    End,
}

impl Reaper {
    pub(crate) fn start(journal: Arc<Journal>, options: &Options) -> std::io::Result<Reaper> {
        let (queue, incoming) = unbounded();
        let unfinished = Arc::new(AtomicUsize::new(0));
        let lingering = Arc::new(Mutex::default());
        let round = Round::new(journal, options, unfinished.clone(), lingering.clone(), queue.clone());
        let thread = std::thread::Builder::new().name("reseat-reaper".into()).spawn(move || {
            be_ready_to_wait();
            round.serve(&incoming);
        })?;
        Ok(Reaper { queue, unfinished, lingering, thread: Mutex::new(Some(thread)) })
    }

    /// An old generation, perhaps still in use.
    pub(crate) fn retire(&self, plugin: Arc<Plugin>, old: Retired<Loaded>, why: Stopping, leak: bool) {
        let (number, version) = (old.value().number, old.value().build.manifest.version.clone());
        let departure = Departure::new(plugin, number, version, why, Stage::Draining(old));
        // At once: whoever has the plugin's turn goes by it.
        departure.phase(Phase::Draining, None);
        self.take(Departure { leak, ..departure });
    }

    /// A generation that was never published.
    pub(crate) fn discard(
        &self,
        plugin: Arc<Plugin>,
        number: u64,
        version: String,
        (hooks, staged): (Hooks, Staged),
        instance: Option<Instance>,
        deputy: Deputy,
    ) {
        let stage = match instance {
            Some(instance) => {
                drop(hooks);
                Stage::Drained(instance, staged)
            }
            None => Stage::Unused(hooks, staged),
        };
        let departure = Departure::new(plugin, number, version, Stopping::NeverServed, stage);
        self.take(Departure { deputy: Some(deputy), ..departure });
    }

    /// A library whose constructors have not returned in time. If they do, it is closed.
    pub(crate) fn await_open(
        &self,
        plugin: Arc<Plugin>,
        number: u64,
        version: String,
        pending: Pending<Result<(Hooks, Staged), OpenError>>,
        deputy: Deputy,
    ) {
        let departure =
            Departure::new(plugin, number, version, Stopping::NeverServed, Stage::Opening(pending));
        self.take(Departure { deputy: Some(deputy), ..departure });
    }

    fn take(&self, departure: Departure) {
        self.unfinished.fetch_add(1, Ordering::SeqCst);
        let _ = self.queue.send(Message::Take(Box::new(departure)));
    }

    /// How many generations are not gone.
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.load(Ordering::SeqCst)
    }

    /// From now on there may be calls.
    pub(crate) fn watch_calls(&self) {
        let _ = self.queue.send(Message::Watch);
    }

    /// The generations that linger, oldest first.
    pub(crate) fn lingering(&self) -> Vec<Lingering> {
        self.lingering.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread. What is not gone by now stays mapped.
    pub(crate) fn end(&self) {
        let _ = self.queue.send(Message::End);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}
