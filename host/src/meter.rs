//! What a generation on probation is judged by: how many of its calls failed, and how long they took.
//!
//! A generation that is not metered pays nothing for this: see [`Tables`](crate::ffi::Tables) for how a call that is
//! metered is told from others. A guard knows nothing of it, either: at the end of its call the gate looks for requests
//! anyway, and finds that somebody wants to hear of it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use plugin_api::CallError;
use plugin_api::failures::{self, Failures};

use crate::gate::{self, NoteCell, Spot};
use crate::lock::lock;

/// Buckets of latency: eight for each power of two of nanoseconds, so that a quantile is right to one part in eight.
const PARTS: u64 = 8;
const BUCKETS: usize = 61 * PARTS as usize;

/// Once it need not be judged any more, one of so many calls of a generation is timed: reading the clock costs more than
/// all the rest.
const SAMPLE: u32 = 32;
const _: () = assert!(SAMPLE.is_power_of_two());

/// Counts the calls of one generation. A guard that is held counts as one call, from entering to leaving.
pub(crate) struct Meter {
    /// Calls that were counted and not timed, by threads that have ended or call others now.
    untimed: AtomicU64,
    /// The same of threads that have not.
    tallies: Mutex<Vec<Arc<Tally>>>,
    errors: AtomicU64,
    panics: AtomicU64,
    latencies: Box<[AtomicU64]>,
    /// Timed is a call whose number has none of these bits: all calls, or one of [`SAMPLE`].
    untimed_of: AtomicU32,
}

/// Counts the calls of one generation on one thread, which alone writes here: threads that call the same plugin share no
/// line for it.
#[derive(Default)]
#[repr(align(128))]
struct Tally(AtomicU64);

impl Tally {
    fn count_one(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// A thread's own part of a meter.
struct Mine {
    meter: Arc<Meter>,
    tally: Arc<Tally>,
}

impl Mine {
    fn of(meter: &Arc<Meter>) -> Mine {
        let tally = Arc::<Tally>::default();
        lock(&meter.tallies).push(tally.clone());
        Mine { meter: meter.clone(), tally }
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        let mut tallies = lock(&self.meter.tallies);
        tallies.retain(|tally| !Arc::ptr_eq(tally, &self.tally));
        self.meter.untimed.fetch_add(self.tally.0.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A call that has begun on this thread.
#[derive(Clone, Copy)]
struct Started {
    /// Nanoseconds since the first one, if it is timed.
    at: Option<u64>,
    failures: Failures,
}

/// A thread's part of a meter, and the call that is metered there, if one is.
struct Place {
    /// The word beside the guard of that call, by which it is known; null: there is none.
    note: *const NoteCell,
    started: Started,
    mine: Mine,
}

/// How many parts of meters a thread remembers between calls. What it has counted for one that it forgets goes to the
/// meter.
const REMEMBERED: usize = 8;

/// What a thread knows of its metered calls.
struct Calls {
    /// The next call is likely to be the same plugin's, and finding its meter anew would cost more than all the rest.
    places: Vec<Place>,
    /// How many calls have begun.
    begun: u32,
}

thread_local! {
    static CALLS: RefCell<Calls> = const { RefCell::new(Calls { places: Vec::new(), begun: 0 }) };
}

/// Begins to meter the call whose guard is here, until it is dropped. A guard that counts as a
/// lease is not metered.
#[cold]
#[inline(never)]
pub(crate) fn begin(meter: &Arc<Meter>, spot: Spot) {
    static HOOK: OnceLock<()> = OnceLock::new();
    HOOK.get_or_init(|| gate::set_leave_hook(end));
    if spot.tell_on_leave() {
        // Not there any more at the end of the thread, and busy in a signal handler; then it is not metered.
        let _ = CALLS.try_with(|calls| {
            if let Ok(mut calls) = calls.try_borrow_mut() {
                calls.begin(meter, spot.note());
            }
        });
    }
}

/// The gate's leave hook. One call of a plugin that is metered is likely to be followed by others.
fn end(note: &'static NoteCell) -> bool {
    CALLS.try_with(|calls| calls.try_borrow_mut().map_or(true, |mut calls| calls.end(note))).unwrap_or(false)
}

impl Calls {
    fn begin(&mut self, meter: &Arc<Meter>, note: *const NoteCell) {
        self.begun = self.begun.wrapping_add(1);
        let started = Started::now(self.begun & meter.untimed_of.load(Ordering::Relaxed) == 0);
        let free = |place: &&mut Place| place.note.is_null() && Arc::ptr_eq(&place.mine.meter, meter);
        match self.places.iter_mut().find(free) {
            Some(place) => (place.note, place.started) = (note, started),
            None => self.remember(Place { note, started, mine: Mine::of(meter) }),
        }
    }

    #[cold]
    fn remember(&mut self, place: Place) {
        let oldest_free = self.places.iter().position(|place| place.note.is_null());
        if let Some(oldest) = oldest_free.filter(|_| self.places.len() >= REMEMBERED) {
            self.places.remove(oldest);
        }
        self.places.push(place);
    }

    /// Whether a call that is metered has ended.
    fn end(&mut self, note: *const NoteCell) -> bool {
        let place = self.places.iter_mut().find(|place| std::ptr::eq(place.note, note));
        place
            .map(|place| {
                place.note = std::ptr::null();
                place.mine.ended(place.started);
            })
            .is_some()
    }
}

impl Mine {
    /// The call has ended, on the thread on which it was started. What failed in it is this generation's: a failure of
    /// another metered plugin that it has called was taken out by that one.
    fn ended(&self, started: Started) {
        let failed = failures::since(started.failures);
        match started.at {
            Some(at) => self.meter.took(Duration::from_nanos(nanos().saturating_sub(at))),
            None => self.tally.count_one(),
        }
        self.meter.failed(failed);
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
    /// At least 1 of 100 calls took longer, and at least [`EVIDENCE`] calls, or one in five if there were few: a busy machine
    /// delays a few of any, and of few calls a few are many.
    pub(crate) tail: Duration,
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
            tallies: Mutex::default(),
            errors: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            latencies: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            untimed_of: AtomicU32::new(0),
        }
    }

    /// From now on some of the calls are timed, and all are counted.
    pub(crate) fn time_only_some(&self) {
        self.untimed_of.store(SAMPLE - 1, Ordering::Relaxed);
    }

    /// A call has taken so long, with these failures.
    pub(crate) fn note(&self, took: Duration, failed: Failures) {
        self.took(took);
        self.failed(failed);
    }

    fn took(&self, took: Duration) {
        self.latencies[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self, failed: Failures) {
        if failed != Failures::NONE {
            self.errors.fetch_add(failed.errors.min(1), Ordering::Relaxed);
            self.panics.fetch_add(failed.panics.min(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Reading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reading {
            calls: self.untimed() + self.timed(),
            errors: load(&self.errors),
            panics: load(&self.panics),
            p99: self.quantile(0.99),
            tail: self.quantile(1.0 - part_of_the_slowest(self.timed())),
        }
    }

    fn untimed(&self) -> u64 {
        // Under the lock, so that what a thread hands over is seen once.
        let tallies = lock(&self.tallies);
        let counted: u64 = tallies.iter().map(|tally| tally.0.load(Ordering::Relaxed)).sum();
        counted + self.untimed.load(Ordering::Relaxed)
    }

    /// How many calls took up to so many nanoseconds, where there were any.
    pub(crate) fn latencies(&self) -> Vec<(u64, u64)> {
        let counts = self.latencies.iter().map(|count| count.load(Ordering::Relaxed));
        let some = counts.enumerate().filter(|(_, count)| *count > 0);
        some.map(|(bucket, count)| (upper_end(bucket), count)).collect()
    }

    fn timed(&self) -> u64 {
        self.latencies.iter().map(|count| count.load(Ordering::Relaxed)).sum()
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

/// How many calls it takes for their being slow to say something of a build.
pub(crate) const EVIDENCE: u64 = 20;

/// Which part of so many calls counts as the slowest.
pub(crate) fn part_of_the_slowest(calls: u64) -> f64 {
    (EVIDENCE as f64 / calls.max(1) as f64).clamp(0.01, 0.2)
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
    fn a_few_slow_calls_among_few_say_nothing_and_as_many_as_are_evidence_do() {
        let tail = |fast: u64, slow: u64| {
            let times = (0..fast).map(|_| 1000).chain((0..slow).map(|_| 50_000_000));
            taking(times).read().tail
        };
        let (quick, long) = (Duration::from_micros(2), Duration::from_millis(50));
        assert!(tail(95, 5) < quick && tail(81, 19) < quick);
        assert!(tail(79, 21) >= long);
        assert!(tail(17, 3) < quick && tail(15, 5) >= long, "one in five");
        assert!(tail(9_950, 50) < quick && tail(9_890, 110) >= long, "1 of 100");
    }

    #[test]
    fn a_guard_is_metered_from_where_that_begins_to_its_end_in_any_order() {
        let slot = crate::gate::Slot::new(());
        let (outer, inner) = (Arc::new(Meter::new()), Arc::new(Meter::new()));
        let calls = || (outer.read().calls, inner.read().calls);
        let first = slot.enter().unwrap();
        begin(&outer, first.spot());
        let second = slot.enter().unwrap();
        begin(&inner, second.spot());
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
            begin(&meter, counted.spot());
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
            begin(&meter, guard.spot());
        }
        assert_eq!(meter.read().calls, u64::from(8 * SAMPLE));
        assert_eq!(meter.latencies().iter().map(|(_, count)| count).sum::<u64>(), 8);
        assert_eq!(Arc::strong_count(&meter), 2, "one is kept for the next call");
    }

    #[test]
    fn calls_of_threads_that_have_ended_and_of_meters_that_were_forgotten_are_counted_once() {
        let slot = crate::gate::Slot::new(());
        let meters: Vec<_> = (0..2 * REMEMBERED).map(|_| Arc::new(Meter::new())).collect();
        meters.iter().for_each(|meter| meter.time_only_some());
        let call_all = || {
            for meter in meters.iter().chain(&meters) {
                let guard = slot.enter().unwrap();
                begin(meter, guard.spot());
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(call_all)).collect();
            // With its thread-locals, which the end of the scope alone does not wait for.
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        call_all();
        assert!(meters.iter().all(|meter| meter.read().calls == 8), "4 threads, twice");
        let tallies = meters.iter().map(|meter| lock(&meter.tallies).len()).sum::<usize>();
        assert_eq!(tallies, REMEMBERED, "of this thread");
    }

    #[test]
    fn a_call_that_nobody_meters_ends_the_telling_at_its_place() {
        let slot = crate::gate::Slot::new(());
        let meter = Arc::new(Meter::new());
        let metered = slot.enter().unwrap();
        begin(&meter, metered.spot());
        drop(metered);
        drop(slot.enter().unwrap());
        drop(slot.enter().unwrap());
        assert_eq!(meter.read().calls, 1);
        let again = slot.enter().unwrap();
        begin(&meter, again.spot());
        drop(again);
        assert_eq!(meter.read().calls, 2);
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
