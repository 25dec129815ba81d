//! The end of a generation, from its last hook on.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::NAME_HOLDERS_AFTER;
use super::departure::{Departure, Stage};
use super::round::Round;
use crate::deputy::Pending;
use crate::events::{Event, Left, Step};
use crate::ffi::{Closed, Gone, Image, Remnant, TOGETHER};
use crate::file::Staged;
use crate::gate;
use crate::observer::Moment;
use crate::refusal::RefusalReason;
use crate::status::Phase;

/// How long after a disagreement the second witness is asked again, at most.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Round {
    /// Everything of it that could run has been asked to end: what is left are the thread-locals of threads.
    pub(super) fn retire(&self, departure: &mut Departure, image: Image, staged: Staged) -> Stage {
        if departure.leak {
            return self.leak(departure, image, staged);
        }
        image.book().on_change(self.nudge());
        image.book().retire();
        let book = image.book().clone();
        // The book knows whether this is done.
        drop(departure.deputy().begin("its thread-locals", || {}, move || book.run_on_this_thread()));
        Stage::Waiting(image, staged)
    }

    /// Its book stays open, so that what it has left on threads is still run at their ends.
    fn leak(&self, departure: &mut Departure, image: Image, staged: Staged) -> Stage {
        let bytes = image.bytes();
        image.book().retire();
        // An image that is dropped stays mapped, and a deputy that is dropped keeps its thread. The private copy stays,
        // too, for debuggers.
        drop((image, departure.deputy.take()));
        let _ = staged.keep();
        departure.phase(Phase::Leaked, Some("it was to be kept when it was replaced".into()));
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
        let (plugin, generation) = (departure.plugin.name.clone(), departure.number);
        self.journal.record(Event::Leaked { plugin, generation, bytes });
        Stage::Leaked
    }

    pub(super) fn begin_close(
        &self,
        departure: &mut Departure,
        image: Image,
        staged: Staged,
    ) -> (Stage, bool) {
        self.adopt(departure, &image);
        if departure.since.elapsed() < departure.close_at {
            return (Stage::Waiting(image, staged), false);
        }
        let may = self.pass(Step::Close).map_err(|e| e.to_string()).and_then(|()| image.may_close());
        if let Err(reason) = may {
            return (self.not_yet(departure, image, staged, reason), false);
        }
        if self.second_witness {
            return (Stage::Counted(image, staged), false);
        }
        (self.order_close(departure, image, staged), false)
    }

    /// Goes past a step at which a test may want something to go wrong.
    pub(super) fn pass(&self, step: Step) -> Result<(), RefusalReason> {
        #[cfg(feature = "faults")]
        self.faults.pass(step)?;
        let _ = step;
        Ok(())
    }

    fn order_close(&self, departure: &Departure, image: Image, staged: Staged) -> Stage {
        let pending = departure.deputy().begin("its finalizers", self.nudge(), move || image.close());
        Stage::Closing(pending, staged, Instant::now())
    }

    /// Asks the second witness: once for all that are waiting for it, since it looks at every thread. Nobody can have
    /// come into any of them meanwhile.
    pub(super) fn ask_second_witness(&self, departures: &mut [Departure]) {
        let counted: Vec<_> = departures
            .iter_mut()
            .filter(|departure| matches!(departure.stage, Some(Stage::Counted(..))))
            .take(TOGETHER)
            .collect();
        let images: Vec<&Image> = counted.iter().filter_map(|departure| departure.counted()).collect();
        if images.is_empty() {
            return;
        }
        let verdicts = Image::ask_second_witness(&images);
        for (departure, verdict) in counted.into_iter().zip(verdicts) {
            self.decide(departure, verdict);
        }
    }

    fn decide(&self, departure: &mut Departure, verdict: Result<(), String>) {
        departure.stage = match (departure.stage.take(), verdict) {
            (Some(Stage::Counted(image, staged)), Ok(())) => Some(self.order_close(departure, image, staged)),
            (Some(Stage::Counted(image, staged)), Err(reason)) => {
                Some(self.not_yet(departure, image, staged, reason))
            }
            (other, _) => other,
        };
    }

    fn not_yet(&self, departure: &mut Departure, image: Image, staged: Staged, reason: String) -> Stage {
        if self.second_witness {
            // Looking through all stacks is not for every turn. Nor is one that has waited long to wait long again: on a
            // busy machine a thread may not have answered for want of a turn.
            let age = departure.since.elapsed();
            departure.close_at = age + (age / 4).min(LOOK_AGAIN);
        }
        // A thread that is about to come by need not be reported.
        if departure.since.elapsed() >= NAME_HOLDERS_AFTER {
            self.linger(departure, reason, image.bytes());
        }
        Stage::Waiting(image, staged)
    }

    pub(super) fn finish_close(
        &self,
        departure: &mut Departure,
        pending: Pending<Closed>,
        staged: Staged,
        since: Instant,
    ) -> (Stage, bool) {
        match pending.poll() {
            Some(Ok(Closed::Closed(remnant))) => {
                departure.end_thread();
                (Stage::Mapped(remnant, staged), true)
            }
            Some(Ok(Closed::NotYet(image, reason))) => {
                (self.not_yet(departure, image, staged, reason), false)
            }
            Some(Err(())) => self.stuck(departure, staged),
            None => {
                if since.elapsed() >= self.hook_deadline {
                    let reason = format!("its finalizers have not returned within {:?}", self.hook_deadline);
                    self.linger(departure, reason, 0);
                }
                (Stage::Closing(pending, staged, since), false)
            }
        }
    }

    /// Whether what was closed is gone.
    pub(super) fn look(&self, departure: &mut Departure, remnant: Remnant, staged: Staged) -> (Stage, bool) {
        match remnant.look() {
            Gone::Unloaded(left) => {
                departure.left = left.map(|left| Left { blocks: left.blocks, bytes: left.bytes });
                staged.unlink();
                departure.lingers = None;
                match self.tell_observers(departure, Moment::AfterUnload) {
                    Some(pending) => (Stage::Reported(pending), false),
                    None => (Stage::Gone, true),
                }
            }
            Gone::Mapped(remnant) => {
                if departure.since.elapsed() >= NAME_HOLDERS_AFTER {
                    let reason = "the loader keeps it, for a thread-local or a symbol that binds it";
                    self.linger(departure, reason.into(), remnant.bytes());
                }
                (Stage::Mapped(remnant, staged), false)
            }
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
}
