//! What a generation on probation is judged by: how many of its calls failed, and how long they took.
//!
//! A generation that is not metered pays nothing for this: see [`Tables`](crate::ffi::Tables) for how a call that is
//! metered is told from others. A guard knows nothing of it, either: at the end of its call the gate looks for requests
//! anyway, and finds that somebody wants to hear of it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use plugin_api::CallError;
use plugin_api::failures::{self, Failures};

use crate::gate::{self, NoteCell};

/// Buckets of latency: eight for each power of two of nanoseconds, so that a quantile is right to one part in eight.
const PARTS: u64 = 8;
const BUCKETS: usize = 61 * PARTS as usize;

/// Once it need not be judged any more, one of so many calls of a generation is timed: reading the clock costs more than
/// all the rest.
const SAMPLE: u32 = 32;

/// Counts the calls of one generation. A guard that is held counts as one call, from entering to leaving.
pub(crate) struct Meter {
    /// Calls that were counted and not timed.
    untimed: AtomicU64,
    errors: AtomicU64,
    panics: AtomicU64,
    latencies: Box<[AtomicU64]>,
    /// One of so many calls is timed.
    every: AtomicU32,
}

/// A call that has begun on this thread.
#[derive(Clone, Copy)]
struct Started {
    /// Nanoseconds since the first one, if it is timed.
    at: Option<u64>,
    failures: Failures,
}

/// A call of a guard that is metered, on this thread.
struct Open {
    /// The word beside its guard, by which it is known.
    note: *const NoteCell,
    meter: Arc<Meter>,
    started: Started,
}

/// What a thread knows of its metered calls.
struct Calls {
    /// Innermost last, unless guards are dropped out of order.
    open: Vec<Open>,
    /// The meter of the last call that ended, since the next one is likely to be the same one's: counting it twice would
    /// cost as much as counting the call.
    spare: Option<Arc<Meter>>,
    /// How many calls have begun.
    begun: u32,
}

thread_local! {
    static CALLS: RefCell<Calls> = const { RefCell::new(Calls { open: Vec::new(), spare: None, begun: 0 }) };
}

/// Begins to meter the call whose guard has this word beside it, until the guard is dropped. A guard that counts as a
/// lease is not metered.
#[cold]
#[inline(never)]
pub(crate) fn begin(meter: &Arc<Meter>, note: &'static NoteCell) {
    static HOOK: OnceLock<()> = OnceLock::new();
    HOOK.get_or_init(|| gate::set_leave_hook(end));
    if gate::tell_on_leave(note) {
        // Not there any more at the end of the thread; then it is not metered.
        let _ = CALLS.try_with(|calls| calls.borrow_mut().begin(meter, note));
    }
}

/// The gate's leave hook.
fn end(note: &'static NoteCell) {
    let _ = CALLS.try_with(|calls| calls.borrow_mut().end(note));
}

impl Calls {
    fn begin(&mut self, meter: &Arc<Meter>, note: *const NoteCell) {
        let spare = self.spare.take().filter(|spare| Arc::ptr_eq(spare, meter));
        let meter = spare.unwrap_or_else(|| meter.clone());
        self.begun = self.begun.wrapping_add(1);
        let timed = self.begun.is_multiple_of(meter.every.load(Ordering::Relaxed));
        self.open.push(Open { note, meter, started: Started::now(timed) });
    }

    fn end(&mut self, note: *const NoteCell) {
        if let Some(at) = self.open.iter().rposition(|open| std::ptr::eq(open.note, note)) {
            let Open { meter, started, .. } = self.open.remove(at);
            meter.ended(started);
            self.spare = Some(meter);
        }
    }
}

/// What a meter reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) panics: u64,
    /// 99 of 100 calls took no longer.
    pub(crate) p99: Duration,
}

impl Started {
    fn now(timed: bool) -> Started {
        Started { at: timed.then(nanos), failures: failures::of_this_thread() }
    }
}

/// What the result of a call counts as.
pub(crate) fn failures_of<T>(result: &Result<T, CallError>) -> Failures {
    match result {
        Ok(_) => Failures::NONE,
        Err(CallError::Panicked { .. }) => Failures { panics: 1, ..Failures::NONE },
        // Of whoever has called.
        Err(CallError::BadArguments(_) | CallError::NotDynamic(_)) => Failures::NONE,
        Err(_) => Failures { errors: 1, ..Failures::NONE },
    }
}

fn nanos() -> u64 {
    static BASE: OnceLock<Instant> = OnceLock::new();
    let since = BASE.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Meter {
    pub(crate) fn new() -> Self {
        Meter {
            untimed: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            latencies: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            every: AtomicU32::new(1),
        }
    }

    /// From now on some of the calls are timed, and all are counted.
    pub(crate) fn time_only_some(&self) {
        self.every.store(SAMPLE, Ordering::Relaxed);
    }

    /// A call has ended, on the thread on which it was started. What failed in it is this generation's: a failure of
    /// another metered plugin that it has called was taken out by that one.
    fn ended(&self, started: Started) {
        let failed = failures::since(started.failures);
        let took = started.at.map(|at| Duration::from_nanos(nanos().saturating_sub(at)));
        self.count(took, failed);
    }

    /// A call has taken so long, with these failures.
    pub(crate) fn note(&self, took: Duration, failed: Failures) {
        self.count(Some(took), failed);
    }

    fn count(&self, took: Option<Duration>, failed: Failures) {
        let counter = took.map_or(&self.untimed, |took| &self.latencies[bucket(took)]);
        counter.fetch_add(1, Ordering::Relaxed);
        if failed != Failures::NONE {
            self.errors.fetch_add(failed.errors.min(1), Ordering::Relaxed);
            self.panics.fetch_add(failed.panics.min(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Reading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reading {
            calls: load(&self.untimed) + self.latencies.iter().map(load).sum::<u64>(),
            errors: load(&self.errors),
            panics: load(&self.panics),
            p99: self.quantile(0.99),
        }
    }

    /// How many calls took up to so many nanoseconds, where there were any.
    pub(crate) fn latencies(&self) -> Vec<(u64, u64)> {
        let counts = self.latencies.iter().map(|count| count.load(Ordering::Relaxed));
        let some = counts.enumerate().filter(|(_, count)| *count > 0);
        some.map(|(bucket, count)| (upper_end(bucket), count)).collect()
    }

    /// The upper end of the bucket in which this part of all calls is reached; zero if there were none.
    fn quantile(&self, part: f64) -> Duration {
        let counts: Vec<u64> = self.latencies.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let goal = (counts.iter().sum::<u64>() as f64 * part).ceil() as u64;
        let mut seen = 0;
        let reached = counts.iter().position(|count| {
            seen += count;
            seen >= goal && goal > 0
        });
        reached.map_or(Duration::ZERO, |bucket| Duration::from_nanos(upper_end(bucket)))
    }
}

/// Below 8 ns each nanosecond has its own.
fn bucket(took: Duration) -> usize {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    if nanos < PARTS {
        return nanos as usize;
    }
    let power = u64::from(nanos.ilog2()) - u64::from(PARTS.ilog2());
    let part = (nanos >> power) - PARTS;
    ((power + 1) * PARTS + part).min(BUCKETS as u64 - 1) as usize
}

fn upper_end(bucket: usize) -> u64 {
    let (power, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    match power {
        0 => part,
        power => (((PARTS + part + 1) << (power - 1)) as u128).min(u128::from(u64::MAX)) as u64 - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taking(nanos: impl IntoIterator<Item = u64>) -> Meter {
        let meter = Meter::new();
        nanos.into_iter().for_each(|nanos| meter.note(Duration::from_nanos(nanos), Failures::NONE));
        meter
    }

    #[test]
    fn of_a_hundred_calls_the_slowest_but_one_counts() {
        let meter = taking((0..99).map(|_| 1000).chain([50_000]));
        assert_eq!(meter.read().calls, 100);
        assert!((1000..1125).contains(&(meter.read().p99.as_nanos() as u64)), "{:?}", meter.read());
        assert_eq!(Meter::new().read().p99, Duration::ZERO);
    }

    #[test]
    fn a_guard_is_metered_from_where_that_begins_to_its_end_in_any_order() {
        let slot = crate::gate::Slot::new(());
        let (outer, inner) = (Arc::new(Meter::new()), Arc::new(Meter::new()));
        let calls = || (outer.read().calls, inner.read().calls);
        let first = slot.enter().unwrap();
        begin(&outer, first.note());
        let second = slot.enter().unwrap();
        begin(&inner, second.note());
        // One that nobody meters, in between.
        drop(slot.enter().unwrap());
        assert_eq!(calls(), (0, 0));
        drop(first);
        assert_eq!(calls(), (1, 0));
        drop(second);
        assert_eq!(calls(), (1, 1));
        // The places are used again, and not metered by themselves.
        let again = slot.enter().unwrap();
        drop(slot.enter().unwrap());
        drop(again);
        assert_eq!(calls(), (1, 1));
    }

    #[test]
    fn a_guard_that_counts_as_a_lease_is_not_metered_and_harms_nobody() {
        let slot = crate::gate::Slot::new(());
        let meter = Arc::new(Meter::new());
        let lease = slot.lease().unwrap();
        lease.call(|_| {
            let counted = slot.enter().unwrap();
            begin(&meter, counted.note());
        });
        drop(slot.enter().unwrap());
        assert_eq!(meter.read().calls, 0);
    }

    #[test]
    fn of_calls_that_need_not_be_judged_all_are_counted_and_some_are_timed() {
        let slot = crate::gate::Slot::new(());
        let meter = Arc::new(Meter::new());
        meter.time_only_some();
        for _ in 0..8 * SAMPLE {
            let guard = slot.enter().unwrap();
            begin(&meter, guard.note());
        }
        assert_eq!(meter.read().calls, u64::from(8 * SAMPLE));
        assert_eq!(meter.latencies().iter().map(|(_, count)| count).sum::<u64>(), 8);
        assert_eq!(Arc::strong_count(&meter), 2, "one is kept for the next call");
    }

    #[test]
    fn a_call_fails_once_however_often_it_has_failed_within() {
        let meter = Meter::new();
        meter.note(Duration::ZERO, Failures { errors: 3, panics: 2 });
        let Reading { calls, errors, panics, .. } = meter.read();
        assert_eq!((calls, errors, panics), (1, 1, 1));
    }

    proptest! {
        #[test]
        fn a_latency_is_known_to_one_part_in_eight(nanos in 0..u64::MAX / 2) {
            let end = upper_end(bucket(Duration::from_nanos(nanos)));
            prop_assert!(nanos <= end && end - nanos <= nanos / 8, "{nanos} {end}");
        }
    }
}
