//! One thread that takes generations out of service: drains, stops, destroys, closes, and asks whether they
//! are gone.
//!
//! Invariants:
//! 1. Nothing of a generation is closed before it is drained, destroyed, and its book is empty.
//! 2. Hooks run on a thread of their own, so that a slow one holds up nobody else's end.
//! 3. The reaper never waits for one generation while another could go on: each turn, every one of them is
//!    advanced as far as it goes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::events::{Event, Journal, Left};
use crate::ffi::{Closed, Hooks, Image, Instance};
use crate::file::Staged;
use crate::gate::{self, Retired};
use crate::options::Options;
use crate::plugin::{Loaded, Plugin};
use crate::status::Phase;

mod departure;

use departure::{Departure, Stage, Stopped, run_last_hooks};

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
    End,
}

impl Reaper {
    pub(crate) fn start(journal: Arc<Journal>, options: &Options) -> std::io::Result<Reaper> {
        let (queue, incoming) = unbounded();
        let unfinished = Arc::new(AtomicUsize::new(0));
        let lingering = Arc::new(Mutex::default());
        let round = Round {
            departures: Vec::new(),
            journal,
            hook_deadline: options.hook_deadline,
            second_witness: options.second_witness,
            adopt_after: options.adopt_after,
            unfinished: unfinished.clone(),
            lingering: lingering.clone(),
            nudge: queue.clone(),
            sampled: Instant::now(),
            watching: false,
        };
        let thread =
            std::thread::Builder::new().name("reseat-reaper".into()).spawn(move || round.serve(&incoming))?;
        Ok(Reaper { queue, unfinished, lingering, thread: Mutex::new(Some(thread)) })
    }

    /// An old generation, perhaps still in use.
    pub(crate) fn retire(&self, plugin: Arc<Plugin>, old: Retired<Loaded>, leak: bool) {
        let (number, version) = (old.value().number, old.value().build.manifest.version.clone());
        let departure = Departure::new(plugin, number, version, false, Stage::Draining(old));
        self.take(Departure { leak, ..departure });
    }

    /// A generation that was never published.
    pub(crate) fn discard(
        &self,
        plugin: Arc<Plugin>,
        number: u64,
        version: String,
        hooks: Hooks,
        instance: Option<Instance>,
        staged: Staged,
    ) {
        let stage = match instance {
            Some(instance) => {
                drop(hooks);
                Stage::Drained(instance, staged)
            }
            None => Stage::Unused(hooks, staged),
        };
        self.take(Departure::new(plugin, number, version, true, stage));
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

/// The reaper's own state.
struct Round {
    departures: Vec<Departure>,
    journal: Arc<Journal>,
    hook_deadline: Duration,
    /// Whether stacks are looked through before anything is closed.
    second_witness: bool,
    /// After which time thread-locals are destroyed for threads that do not come by.
    adopt_after: Option<Duration>,
    unfinished: Arc<AtomicUsize>,
    lingering: Arc<Mutex<Vec<Lingering>>>,
    nudge: Sender<Message>,
    /// When the guards were last looked at.
    sampled: Instant,
    /// Something was loaded, so there may be calls.
    watching: bool,
}

impl Round {
    fn serve(mut self, incoming: &Receiver<Message>) {
        // So that thread-locals of plugins on this thread, too, are looked after.
        let _ = gate::current_thread();
        loop {
            match incoming.recv_timeout(self.pause()) {
                Ok(Message::Take(departure)) => self.departures.push(*departure),
                Ok(Message::Watch) => self.watching = true,
                Ok(Message::Look) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => break,
            }
            self.sample();
            let mut departures = std::mem::take(&mut self.departures);
            for departure in &mut departures {
                self.advance(departure);
            }
            departures.retain(|departure| !matches!(departure.stage, Some(Stage::Gone | Stage::Leaked)));
            self.departures.append(&mut departures);
            self.note_lingering();
        }
        // What is left stays mapped: dropping it leaks, which is what must happen to code that may be running.
        for departure in self.departures.drain(..) {
            std::mem::forget(departure);
        }
    }

    /// How long until somebody should be looked at again. Books nudge; the rest is asked.
    fn pause(&self) -> Duration {
        let youngest = self.departures.iter().map(|departure| departure.since.elapsed()).min();
        match youngest {
            None if self.watching => SAMPLE_EVERY,
            None => Duration::from_secs(3600),
            Some(age) if age < Duration::from_millis(20) => Duration::from_micros(200),
            Some(age) if age < Duration::from_secs(1) => Duration::from_millis(2),
            Some(_) => Duration::from_millis(20),
        }
    }

    /// For those who ask whether another generation may be opened.
    fn note_lingering(&self) {
        let lingering = self.departures.iter().filter_map(|departure| {
            let (reason, bytes) = departure.lingers.clone()?;
            let (plugin, generation) = (departure.plugin.name.clone(), departure.number);
            Some(Lingering { plugin, generation, reason, bytes })
        });
        *self.lingering.lock().unwrap_or_else(PoisonError::into_inner) = lingering.collect();
    }

    /// So that holders can be named together with how long they have held.
    fn sample(&mut self) {
        if self.watching && self.sampled.elapsed() >= SAMPLE_EVERY {
            gate::sample_ages(SAMPLE_EVERY);
            self.sampled = Instant::now();
        }
    }

    /// As far as it goes.
    fn advance(&self, departure: &mut Departure) {
        loop {
            let stage = departure.stage.take().expect("put back below");
            let (stage, moved) = self.step(departure, stage);
            let gone = matches!(stage, Stage::Gone);
            departure.stage = Some(stage);
            if gone {
                self.gone(departure);
            }
            if gone || !moved {
                return;
            }
        }
    }

    /// One step, and whether it was one.
    fn step(&self, departure: &mut Departure, stage: Stage) -> (Stage, bool) {
        match stage {
            Stage::Draining(old) => self.drain(departure, old),
            Stage::Drained(instance, staged) => self.begin_stop(departure, instance, staged),
            Stage::Unused(hooks, staged) => match hooks.into_image() {
                Ok(image) if departure.leak => (self.leak(departure, image, staged), true),
                Ok(image) => (self.begin_close(image, staged), true),
                Err(hooks) => {
                    self.linger(departure, "one of its hooks has not returned".into(), hooks.image().bytes());
                    (Stage::Unused(hooks, staged), false)
                }
            },
            Stage::Stopping(thread, staged, since) => self.finish_stop(departure, thread, staged, since),
            Stage::Closing(image, staged) => self.close(departure, image, staged),
            Stage::Mapped(remnant, staged) => self.finish(departure, remnant.look(), staged),
            Stage::Stuck => (Stage::Stuck, false),
            Stage::Leaked => (Stage::Leaked, false),
            Stage::Gone => (Stage::Gone, false),
        }
    }

    fn drain(&self, departure: &mut Departure, mut old: Retired<Loaded>) -> (Stage, bool) {
        if old.poll() {
            return match old.into_inner() {
                Ok(loaded) => (Stage::Drained(loaded.instance, loaded.staged), true),
                Err(old) => (Stage::Draining(old), false),
            };
        }
        let since = departure.since.elapsed();
        let stragglers = (since >= departure.name_at).then(|| old.stragglers());
        let holders = stragglers.filter(|s| !s.is_empty()).map(|s| old.value().holders(&s));
        departure.phase(Phase::Draining, holders.clone().or(departure.told.clone()));
        if let Some(holders) = holders {
            departure.name_at = since * 4;
            departure.told = Some(holders.clone());
            self.journal.record(Event::Draining {
                plugin: departure.plugin.name.clone(),
                generation: departure.number,
                holders,
                since_ms: since.as_millis() as u64,
            });
        }
        (Stage::Draining(old), false)
    }

    /// The last hooks, by invariant 2 on their own thread; what they register for its end is run by its end.
    fn begin_stop(&self, departure: &mut Departure, instance: Instance, staged: Staged) -> (Stage, bool) {
        if instance.is_shared() {
            self.linger(departure, "one of its hooks has not returned".into(), instance.image().bytes());
            return (Stage::Drained(instance, staged), false);
        }
        departure.phase(Phase::Retiring, None);
        let (hand_in, handed) = bounded::<Instance>(1);
        let _ = hand_in.send(instance);
        let spawned = std::thread::Builder::new().name("reseat-retire".into()).spawn({
            let handed = handed.clone();
            move || {
                let _ = gate::current_thread();
                run_last_hooks(handed.recv().expect("handed in before the thread began"))
            }
        });
        match spawned {
            Ok(thread) => (Stage::Stopping(thread, staged, Instant::now()), true),
            Err(error) => {
                // Nobody took it; the next turn tries again.
                let instance = handed.recv().expect("no thread took it");
                self.linger(
                    departure,
                    format!("no thread for its last hooks: {error}"),
                    instance.image().bytes(),
                );
                (Stage::Drained(instance, staged), false)
            }
        }
    }

    fn finish_stop(
        &self,
        departure: &mut Departure,
        thread: JoinHandle<Stopped>,
        staged: Staged,
        since: Instant,
    ) -> (Stage, bool) {
        if !thread.is_finished() {
            if since.elapsed() >= self.hook_deadline {
                let reason = format!("its last hooks have not returned within {:?}", self.hook_deadline);
                self.linger(departure, reason, 0);
            }
            return (Stage::Stopping(thread, staged, since), false);
        }
        let Ok(Stopped { instance, complaints }) = thread.join() else {
            // Panics of hooks end in the plugin; this would be a panic of ours. The image stays mapped.
            self.linger(departure, "its last hooks ended the thread that ran them".into(), 0);
            let _ = staged.keep();
            return (Stage::Stuck, false);
        };
        for complaint in complaints {
            let what = format!("generation {} of {}: {complaint}", departure.number, departure.plugin.name);
            self.journal.record(Event::Trouble { what });
        }
        (Stage::Unused(instance.into_hooks(), staged), true)
    }

    /// Its book stays open, so that what it has left on threads is still run at their ends.
    fn leak(&self, departure: &mut Departure, image: Image, staged: Staged) -> Stage {
        let bytes = image.bytes();
        image.book().retire();
        // An image that is dropped stays mapped. The private copy stays, too, for debuggers.
        drop(image);
        let _ = staged.keep();
        departure.phase(Phase::Leaked, Some("it was to be kept when it was replaced".into()));
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
        let (plugin, generation) = (departure.plugin.name.clone(), departure.number);
        self.journal.record(Event::Leaked { plugin, generation, bytes });
        Stage::Leaked
    }

    fn begin_close(&self, image: Image, staged: Staged) -> Stage {
        let nudge = self.nudge.clone();
        image.book().on_change(move || {
            let _ = nudge.send(Message::Look);
        });
        image.book().retire();
        Stage::Closing(image, staged)
    }

    fn close(&self, departure: &mut Departure, image: Image, staged: Staged) -> (Stage, bool) {
        let bytes = image.bytes();
        self.adopt(departure, &image);
        if departure.since.elapsed() < departure.close_at {
            return (Stage::Closing(image, staged), false);
        }
        match image.close(self.second_witness) {
            Closed::NotYet(image, reason) => {
                if self.second_witness {
                    // Looking through all stacks is not for every turn.
                    departure.close_at = departure.since.elapsed() * 5 / 4;
                }
                // A thread that is about to come by need not be reported.
                if departure.since.elapsed() >= NAME_HOLDERS_AFTER {
                    self.linger(departure, reason, bytes);
                }
                (Stage::Closing(image, staged), false)
            }
            closed => self.finish(departure, closed, staged),
        }
    }

    /// Destructors are code of the plugin: they run on a thread of their own (invariant 2). If there is none to be had,
    /// the next turn tries again.
    fn adopt(&self, departure: &mut Departure, image: &Image) {
        let due = self.adopt_after.is_some_and(|after| departure.since.elapsed() >= after);
        if due && !departure.adopted {
            let book = image.book().clone();
            let adopt = move || {
                let _ = gate::current_thread();
                book.adopt();
            };
            departure.adopted = std::thread::Builder::new().name("reseat-adopt".into()).spawn(adopt).is_ok();
        }
    }

    fn finish(&self, departure: &mut Departure, closed: Closed, staged: Staged) -> (Stage, bool) {
        match closed {
            Closed::Unloaded(left) => {
                departure.left = left.map(|left| Left { blocks: left.blocks, bytes: left.bytes });
                staged.unlink();
                (Stage::Gone, true)
            }
            Closed::Mapped(remnant) => {
                let reason = "the loader keeps it, for a thread-local or a symbol that binds it".to_owned();
                self.linger(departure, reason, remnant.bytes());
                (Stage::Mapped(remnant, staged), false)
            }
            Closed::NotYet(image, _) => (Stage::Closing(image, staged), false),
        }
    }

    /// Says once for each reason that a generation stays.
    fn linger(&self, departure: &mut Departure, reason: String, bytes: u64) {
        departure.phase(Phase::Lingering, Some(reason.clone()));
        departure.lingers = Some((reason.clone(), bytes));
        if departure.told.as_ref() == Some(&reason) {
            return;
        }
        departure.told = Some(reason.clone());
        let (plugin, generation) = (departure.plugin.name.clone(), departure.number);
        self.journal.record(Event::Lingering { plugin, generation, reason, bytes });
    }

    fn gone(&self, departure: &Departure) {
        departure.plugin.forget_old(departure.number);
        // Counted down before it is told, so that whoever hears of the last one finds none.
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
        if !departure.quiet {
            let (plugin, generation) = (departure.plugin.name.clone(), departure.number);
            self.journal.record(Event::Unloaded { plugin, generation, left: departure.left });
        }
    }
}
