//! The thread of one generation: it opens the library, runs the plugin's hooks, and closes the library.
//!
//! It lives as long as the image: some libraries take the thread that opens them for the main thread of their
//! world, and what they keep about it must not go before they do. And since it is nobody else's thread, whoever
//! waits for a hook need not wait for ever.
//!
//! Invariants:
//! 1. A deputy that is dropped keeps its thread, as an image that is dropped stays mapped; only
//!    [`Deputy::end`] and [`Deputy::end_afterwards`] end it.
//! 2. Jobs run one after the other, and one that nobody waits for any more is not begun.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};

use crate::gate;
use crate::lock::lock;

enum Order {
    Run(Box<dyn FnOnce() + Send>),
    End,
}

/// What a thread is at that nobody has ended: by invariant 1 it is kept, and does nothing.
const KEPT: &str = "nothing, but its library may be there";

/// See the module.
pub(crate) struct Deputy {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
    busy: Arc<Mutex<Option<Busy>>>,
}

/// What a deputy does, and since when.
#[derive(Clone, Copy)]
struct Busy {
    job: &'static str,
    since: Instant,
}

/// A job has not been done in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// It runs still. Its result goes to whoever has the [`Pending`].
    Running,
    /// It was not begun, and will not be: the thread is still at an earlier one.
    Behind { job: &'static str, since: Duration },
}

/// A job that was handed in.
pub(crate) struct Pending<R> {
    outcome: Arc<Outcome<R>>,
    /// Set by the first of the two: the thread that begins the job, or the one that gives it up.
    claimed: Arc<AtomicBool>,
    busy: Arc<Mutex<Option<Busy>>>,
}

/// Where the result is put. No channel: waiting for one makes a thread-local with a destructor, which takes the
/// loader's lock, and the job may be a constructor that holds it.
struct Outcome<R> {
    result: Mutex<Done<R>>,
    told: Condvar,
}

enum Done<R> {
    NotYet,
    With(R),
    /// The job was dropped or has panicked, which would be a mistake of ours.
    Without,
}

impl<R> Done<R> {
    fn take(&mut self) -> Option<Result<R, ()>> {
        match std::mem::replace(self, Done::Without) {
            Done::With(result) => Some(Ok(result)),
            Done::Without => Some(Err(())),
            Done::NotYet => {
                *self = Done::NotYet;
                None
            }
        }
    }
}

/// Puts the result where it is waited for, whatever happens to the job.
struct Teller<R>(Arc<Outcome<R>>);

impl<R> Teller<R> {
    fn tell(&self, result: R) {
        *lock(&self.0.result) = Done::With(result);
    }
}

impl<R> Drop for Teller<R> {
    fn drop(&mut self) {
        let mut done = lock(&self.0.result);
        if matches!(*done, Done::NotYet) {
            *done = Done::Without;
        }
        self.0.told.notify_all();
    }
}

impl Deputy {
    pub(crate) fn start(plugin: &str) -> std::io::Result<Deputy> {
        let (orders, incoming) = unbounded::<Order>();
        let busy = Arc::<Mutex<Option<Busy>>>::default();
        let kept = busy.clone();
        let thread = std::thread::Builder::new().name(format!("reseat-{plugin}")).spawn(move || {
            // So that what a hook registers for the end of its thread is looked after.
            let _ = gate::current_thread();
            loop {
                match incoming.recv() {
                    Ok(Order::Run(job)) => job(),
                    Ok(Order::End) => return,
                    Err(_) => break,
                }
            }
            *lock(&kept) = Some(Busy { job: KEPT, since: Instant::now() });
            loop {
                std::thread::park();
            }
        })?;
        Ok(Deputy { orders, thread, busy })
    }

    /// Hands in a job, and does not wait for it. `told` is called when it is done.
    pub(crate) fn begin<R: Send + 'static>(
        &self,
        job: &'static str,
        told: impl FnOnce() + Send + 'static,
        run: impl FnOnce() -> R + Send + 'static,
    ) -> Pending<R> {
        let outcome = Arc::new(Outcome { result: Mutex::new(Done::NotYet), told: Condvar::new() });
        let claimed = Arc::new(AtomicBool::new(false));
        let (teller, claim, busy) = (Teller(outcome.clone()), claimed.clone(), self.busy.clone());
        // What a hook logs belongs to whatever it is run for.
        let span = tracing::Span::current();
        let task = move || {
            if claim.swap(true, Ordering::AcqRel) {
                return;
            }
            *lock(&busy) = Some(Busy { job, since: Instant::now() });
            let result = span.in_scope(run);
            *lock(&busy) = None;
            teller.tell(result);
            drop(teller);
            told();
        };
        // Its thread takes orders for as long as there is a sender.
        let _ = self.orders.send(Order::Run(Box::new(task)));
        Pending { outcome, claimed, busy: self.busy.clone() }
    }

    /// Runs a job, and waits for it.
    ///
    /// # Errors
    /// It has not been done within `limit`. If it runs, its result will be lost.
    pub(crate) fn run<R: Send + 'static>(
        &self,
        job: &'static str,
        limit: Duration,
        run: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Stuck> {
        self.begin(job, || {}, run).wait(limit, || false).map_err(|(stuck, _)| stuck)
    }

    /// Ends the thread when it has done what was handed in, and does not wait for that.
    pub(crate) fn end_afterwards(self) {
        let _ = self.orders.send(Order::End);
    }

    /// Ends the thread, if it is idle. Otherwise it ends when its job does.
    pub(crate) fn end(self) {
        let Deputy { orders, thread, busy } = self;
        let _ = orders.send(Order::End);
        if lock(&busy).is_none() {
            // Jobs do not panic: panics of hooks end in the plugin.
            let _ = thread.join();
        }
    }
}

impl<R> Pending<R> {
    /// Waits for the result. `give_up` is asked every now and then.
    ///
    /// # Errors
    /// It has not come within `limit`, or it was given up. If the job runs, its result can still be waited for.
    pub(crate) fn wait(
        self,
        limit: Duration,
        give_up: impl Fn() -> bool,
    ) -> Result<R, (Stuck, Option<Pending<R>>)> {
        /// How soon it is given up.
        const LOOK: Duration = Duration::from_millis(20);
        let begun = Instant::now();
        let mut done = lock(&self.outcome.result);
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            if !matches!(*done, Done::NotYet) || left.is_zero() || give_up() {
                break;
            }
            (done, _) =
                self.outcome.told.wait_timeout(done, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(Ok(result)) = done.take() {
            return Ok(result);
        }
        drop(done);
        if self.claimed.swap(true, Ordering::AcqRel) {
            return Err((Stuck::Running, Some(self)));
        }
        // Without one, it has just ended, or the thread has not begun.
        let behind = *lock(&self.busy);
        let (job, since) = behind.map_or(("its beginning", Duration::ZERO), |b| (b.job, b.since.elapsed()));
        Err((Stuck::Behind { job, since }, None))
    }

    /// The result, if it is there. `Err`: there will be none.
    pub(crate) fn poll(&self) -> Option<Result<R, ()>> {
        lock(&self.outcome.result).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn jobs_run_in_turn_on_one_thread_that_is_not_the_caller_s() {
        let deputy = Deputy::start("test").unwrap();
        let first = deputy.run("first", LONG, || std::thread::current().id()).unwrap();
        let second = deputy.run("second", LONG, || std::thread::current().id()).unwrap();
        assert_eq!(first, second);
        assert_ne!(first, std::thread::current().id());
        deputy.end();
    }

    #[test]
    fn a_thread_that_nobody_has_ended_is_kept_and_one_that_was_ended_is_not() {
        struct AtTheEnd(std::sync::mpsc::Sender<()>);
        impl Drop for AtTheEnd {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        thread_local! {
            static END: std::cell::RefCell<Option<AtTheEnd>> = const { std::cell::RefCell::new(None) };
        }
        let watched = || {
            let (told, ended) = channel();
            let deputy = Deputy::start("test").unwrap();
            deputy.run("first", LONG, move || END.set(Some(AtTheEnd(told)))).unwrap();
            (deputy, ended)
        };
        let (deputy, ended) = watched();
        deputy.end();
        ended.recv_timeout(LONG).unwrap();
        let (deputy, ended) = watched();
        let busy = deputy.busy.clone();
        drop(deputy);
        let begun = Instant::now();
        while !lock(&busy).is_some_and(|busy| busy.job == KEPT) {
            assert!(begun.elapsed() < LONG, "it is not kept");
            std::thread::yield_now();
        }
        assert_eq!(ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    }

    #[test]
    fn what_is_handed_in_behind_a_job_that_hangs_is_never_begun_and_says_whom_it_waited_for() {
        let deputy = Deputy::start("test").unwrap();
        let (go, held) = channel::<()>();
        let (entered, is_in) = channel();
        let late = deputy.begin(
            "slow",
            || {},
            move || {
                entered.send(()).unwrap();
                held.recv().unwrap();
                7
            },
        );
        is_in.recv_timeout(LONG).unwrap();
        let Err((stuck, Some(late))) = late.wait(SHORT, || false) else { panic!("it has answered") };
        assert_eq!((stuck, late.poll()), (Stuck::Running, None));
        let behind = deputy.run("behind", SHORT, || unreachable!("nobody waits for it any more"));
        assert!(matches!(behind, Err(Stuck::Behind { job: "slow", .. })), "{behind:?}");
        go.send(()).unwrap();
        // It is of use again, and the late result is not lost.
        assert_eq!(deputy.run("after", LONG, || 8), Ok(8));
        assert_eq!(late.poll(), Some(Ok(7)));
        deputy.end();
    }

    #[test]
    fn whoever_is_to_be_told_is_told_when_the_result_is_there() {
        let deputy = Deputy::start("test").unwrap();
        let (tell, told) = channel();
        let pending = deputy.begin("job", move || tell.send(()).unwrap(), || 1);
        told.recv_timeout(LONG).unwrap();
        assert_eq!(pending.poll(), Some(Ok(1)));
        deputy.end();
    }
}
