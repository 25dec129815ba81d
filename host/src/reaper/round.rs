//! The reaper's thread: how each generation is advanced.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::departure::{Departure, Stage, Stopped, run_last_hooks};
use super::{LEAVE_AFTER, Lingering, Message, NAME_HOLDERS_AFTER, SAMPLE_EVERY};
use crate::deputy::Pending;
use crate::events::{Event, Step};
use crate::ffi::{Hooks, Instance, OpenError};
use crate::file::Staged;
use crate::gate::{self, Retired};
use crate::journal::Journal;
use crate::observer::{Moment, Observers, Retirement};
use crate::options::Options;
use crate::plugin::Loaded;
use crate::reload::text_of;
use crate::status::Phase;

/// The reaper's own state.
pub(super) struct Round {
    pub(super) departures: Vec<Departure>,
    pub(super) journal: Arc<Journal>,
    pub(super) hook_deadline: Duration,
    /// Whether stacks are looked through before anything is closed.
    pub(super) second_witness: bool,
    pub(super) observers: Observers,
    /// After which time thread-locals are destroyed for threads that do not come by.
    pub(super) adopt_after: Option<Duration>,
    #[cfg(feature = "faults")]
    pub(super) faults: crate::fault::Faults,
    pub(super) unfinished: Arc<AtomicUsize>,
    pub(super) lingering: Arc<Mutex<Vec<Lingering>>>,
    pub(super) nudge: Sender<Message>,
    /// When the guards were last looked at.
    pub(super) sampled: Instant,
    /// Something was loaded, so there may be calls.
    pub(super) watching: bool,
}

impl Round {
    pub(super) fn new(
        journal: Arc<Journal>,
        options: &Options,
        unfinished: Arc<AtomicUsize>,
        lingering: Arc<Mutex<Vec<Lingering>>>,
        nudge: Sender<Message>,
    ) -> Self {
        Round {
            departures: Vec::new(),
            journal,
            hook_deadline: options.hook_deadline,
            second_witness: options.second_witness,
            observers: options.observers.clone(),
            adopt_after: options.adopt_after,
            #[cfg(feature = "faults")]
            faults: options.faults.clone(),
            unfinished,
            lingering,
            nudge,
            sampled: Instant::now(),
            watching: false,
        }
    }

    pub(super) fn serve(mut self, incoming: &Receiver<Message>) {
        // So that thread-locals of plugins on this thread, too, are looked after.
        let _ = gate::current_thread();
        loop {
            let first = match incoming.recv_timeout(self.pause()) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // All that have come: the second witness is asked once for many, and takes its time on a busy machine.
            if first.into_iter().chain(incoming.try_iter()).any(|message| self.hear(message)) {
                break;
            }
            self.sample();
            let mut departures = std::mem::take(&mut self.departures);
            for departure in &mut departures {
                self.advance_or_give_up(departure);
            }
            self.ask_second_witness(&mut departures);
            departures.retain(|departure| !matches!(departure.stage, Some(Stage::Gone | Stage::Leaked)));
            self.departures.append(&mut departures);
            self.note_lingering();
        }
        // What is left stays mapped: dropping it leaks, which is what must happen to code that may be running.
        for departure in self.departures.drain(..) {
            std::mem::forget(departure);
        }
    }

    /// Whether it is to end.
    fn hear(&mut self, message: Message) -> bool {
        match message {
            Message::Take(departure) => self.departures.push(*departure),
            Message::Watch => self.watching = true,
            Message::Look => {}
            Message::Ask(question) => question.answer(&self.departures),
            Message::End => return true,
        }
        false
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

    /// A panic is a mistake in the host: the generation it happened to stays in memory, and nobody else is harmed.
    fn advance_or_give_up(&self, departure: &mut Departure) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.advance(departure))) {
            let reason =
                format!("there was a mistake in the host: {}; please report this", text_of(&*payload));
            departure.stage = Some(Stage::Stuck);
            self.linger(departure, reason, 0);
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
            Stage::Opening(pending) => self.await_open(departure, pending),
            Stage::Draining(old) => self.drain(departure, old),
            Stage::Drained(instance, staged) => self.begin_stop(departure, instance, staged),
            Stage::Announced(pending, instance, staged) => match pending.poll() {
                Some(_) => (self.order_last_hooks(departure, instance, staged), false),
                None => (Stage::Announced(pending, instance, staged), false),
            },
            Stage::Unused(hooks, staged) => match hooks.into_image() {
                Ok(image) => (self.retire(departure, image, staged), true),
                Err(hooks) => {
                    self.linger(departure, "one of its hooks has not returned".into(), hooks.image().bytes());
                    (Stage::Unused(hooks, staged), false)
                }
            },
            Stage::Stopping(pending, staged, since) => self.finish_stop(departure, pending, staged, since),
            Stage::Waiting(image, staged) => self.begin_close(departure, image, staged),
            Stage::Counted(image, staged) => (Stage::Counted(image, staged), false),
            Stage::Closing(pending, staged, since) => self.finish_close(departure, pending, staged, since),
            Stage::Mapped(remnant, staged) => self.look(departure, remnant, staged),
            Stage::Reported(pending) => match pending.poll() {
                Some(_) => (Stage::Gone, true),
                None => (Stage::Reported(pending), false),
            },
            Stage::Stuck => (Stage::Stuck, false),
            Stage::Leaked => (Stage::Leaked, false),
            Stage::Gone => (Stage::Gone, false),
        }
    }

    fn await_open(
        &self,
        departure: &mut Departure,
        pending: Pending<Result<(Hooks, Staged), OpenError>>,
    ) -> (Stage, bool) {
        match pending.poll() {
            Some(Ok(Ok((hooks, staged)))) => (Stage::Unused(hooks, staged), true),
            // It was no plugin after all, and has been closed by whoever opened it.
            Some(_) => {
                departure.end_thread();
                (Stage::Gone, true)
            }
            None => {
                self.linger(departure, "its constructors have not returned".into(), 0);
                (Stage::Opening(pending), false)
            }
        }
    }

    fn drain(&self, departure: &mut Departure, mut old: Retired<Loaded>) -> (Stage, bool) {
        if old.poll() {
            return match old.into_inner() {
                Ok(loaded) => {
                    departure.deputy = Some(loaded.deputy);
                    (Stage::Drained(loaded.instance, loaded.staged), true)
                }
                Err(old) => (Stage::Draining(old), false),
            };
        }
        let since = departure.since.elapsed();
        if since >= LEAVE_AFTER {
            old.value().leave_now(&departure.plugin.name, &self.journal);
        }
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

    /// What comes before its last hooks.
    fn begin_stop(&self, departure: &mut Departure, instance: Instance, staged: Staged) -> (Stage, bool) {
        if instance.is_shared() {
            // `leave_now` may be about to return.
            let since = *departure.in_hook.get_or_insert_with(Instant::now);
            if since.elapsed() >= NAME_HOLDERS_AFTER {
                self.linger(departure, "one of its hooks has not returned".into(), instance.image().bytes());
            }
            return (Stage::Drained(instance, staged), false);
        }
        if let Err(reason) = self.pass(Step::Retire) {
            self.linger(departure, reason.to_string(), instance.image().bytes());
            return (Stage::Drained(instance, staged), false);
        }
        departure.phase(Phase::Retiring, None);
        match self.tell_observers(departure, Moment::BeforeUnload) {
            Some(pending) => (Stage::Announced(pending, instance, staged), false),
            None => (self.order_last_hooks(departure, instance, staged), false),
        }
    }

    /// On a thread of their own: the reaper does not wait for them. `None`: there is nobody to be told.
    pub(super) fn tell_observers(
        &self,
        departure: &Departure,
        moment: fn(Retirement) -> Moment,
    ) -> Option<Pending<()>> {
        if departure.is_quiet() {
            return None;
        }
        let moment = moment(departure.retirement());
        self.observers.begin_telling(moment, self.hook_deadline, &self.journal, self.nudge())
    }

    fn order_last_hooks(&self, departure: &Departure, instance: Instance, staged: Staged) -> Stage {
        let why = departure.why;
        let last_hooks = move || run_last_hooks(instance, why);
        let pending = departure.deputy().begin("its last hooks", self.nudge(), last_hooks);
        Stage::Stopping(pending, staged, Instant::now())
    }

    fn finish_stop(
        &self,
        departure: &mut Departure,
        pending: Pending<Stopped>,
        staged: Staged,
        since: Instant,
    ) -> (Stage, bool) {
        match pending.poll() {
            Some(Ok(Stopped { instance, complaints })) => {
                for complaint in complaints {
                    let what =
                        format!("generation {} of {}: {complaint}", departure.number, departure.plugin.name);
                    self.journal.record(Event::Trouble { what });
                }
                (Stage::Unused(instance.into_hooks(), staged), true)
            }
            Some(Err(())) => self.stuck(departure, staged),
            None => {
                if since.elapsed() >= self.hook_deadline {
                    let reason = format!("its last hooks have not returned within {:?}", self.hook_deadline);
                    self.linger(departure, reason, 0);
                }
                (Stage::Stopping(pending, staged, since), false)
            }
        }
    }

    /// Panics of hooks end in the plugin, so this would be a panic of ours. The image stays mapped.
    pub(super) fn stuck(&self, departure: &mut Departure, staged: Staged) -> (Stage, bool) {
        self.linger(departure, "its thread has ended without an answer".into(), 0);
        let _ = staged.keep();
        (Stage::Stuck, false)
    }

    pub(super) fn nudge(&self) -> impl Fn() + Send + Sync + 'static {
        let nudge = self.nudge.clone();
        move || {
            let _ = nudge.send(Message::Look);
        }
    }

    /// Says once for each reason that a generation stays.
    pub(super) fn linger(&self, departure: &mut Departure, reason: String, bytes: u64) {
        departure.lingers = Some((reason.clone(), bytes));
        departure.phase(Phase::Lingering, Some(reason.clone()));
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
        if !departure.is_quiet() {
            let (plugin, generation) = (departure.plugin.name.clone(), departure.number);
            self.journal.record(Event::Unloaded { plugin, generation, left: departure.left });
        }
    }
}
