//! What a generation on probation is judged by: how many of its calls failed, and how long they took.
//!
//! A generation that is not metered pays nothing for this: see [`Tables`](crate::ffi::Tables) for how a call that is
//! metered is told from others. A guard knows nothing of it, either: at the end of its call the gate looks for requests
//! anyway, and finds that somebody wants to hear of it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use plugin_api::CallError;
use plugin_api::failures::{self, Failures};

use crate::gate::{self, NoteCell};

/// Buckets of latency: eight for each power of two of nanoseconds, so that a quantile is right to one part in eight.
const PARTS: u64 = 8;
const BUCKETS: usize = 61 * PARTS as usize;

/// Counts the calls of one generation. A guard that is held counts as one call, from entering to leaving.
pub(crate) struct Meter {
    calls: AtomicU64,
    errors: AtomicU64,
    panics: AtomicU64,
    latencies: Box<[AtomicU64]>,
}

/// A call that has begun on this thread.
#[derive(Clone, Copy)]
struct Started {
    /// Nanoseconds since the first one.
    at: u64,
    failures: Failures,
}

/// A call of a guard that is metered, on this thread.
struct Open {
    /// The word beside its guard, by which it is known.
    note: *const NoteCell,
    meter: Arc<Meter>,
    started: Started,
}

thread_local! {
    /// Innermost last, unless guards are dropped out of order.
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
}

/// Begins to meter the call whose guard has this word beside it, until the guard is dropped. A guard that counts as a
/// lease is not metered.
#[cold]
#[inline(never)]
pub(crate) fn begin(meter: &Arc<Meter>, note: &'static NoteCell) {
    static HOOK: OnceLock<()> = OnceLock::new();
    HOOK.get_or_init(|| gate::set_leave_hook(end));
    if gate::tell_on_leave(note) {
        let open = Open { note, meter: meter.clone(), started: Started::now() };
        // Not there any more at the end of the thread; then it is not metered.
        let _ = OPEN.try_with(|all| all.borrow_mut().push(open));
    }
}

/// The gate's leave hook.
fn end(note: &'static NoteCell) {
    let ended = OPEN.try_with(|all| {
        let mut all = all.borrow_mut();
        let at = all.iter().rposition(|open| std::ptr::eq(open.note, note))?;
        Some(all.remove(at))
    });
    if let Ok(Some(Open { meter, started, .. })) = ended {
        meter.ended(started);
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
    fn now() -> Started {
        Started { at: nanos(), failures: failures::of_this_thread() }
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
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            latencies: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A call has ended, on the thread on which it was started. What failed in it is this generation's: a failure of
    /// another metered plugin that it has called was taken out by that one.
    fn ended(&self, started: Started) {
        let failed = failures::since(started.failures);
        self.note(Duration::from_nanos(nanos().saturating_sub(started.at)), failed);
    }

    /// A call has taken so long, with these failures.
    pub(crate) fn note(&self, took: Duration, failed: Failures) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(failed.errors.min(1), Ordering::Relaxed);
        self.panics.fetch_add(failed.panics.min(1), Ordering::Relaxed);
        self.latencies[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Reading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reading {
            calls: load(&self.calls),
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
