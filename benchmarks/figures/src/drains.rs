//! What a publish costs: the swap of a generation, and the wait until nobody is in the old one.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reseat::gate::Slot;

use harness::rounds::{Ratio, median, quantile};
use harness::table;

const LIMIT: Duration = Duration::from_secs(30);

/// Prints all of it.
pub fn print() {
    idle();
    mostly_outside();
    tight();
}

/// A publish, in ns: swap and drain.
fn publish(slot: &Slot<u64>, value: u64) -> f64 {
    let start = Instant::now();
    let mut old = slot.swap(value).expect("not paused").expect("not empty");
    old.drain(LIMIT).expect("no call lasts");
    let taken = start.elapsed().as_nanos() as f64;
    drop(old.into_inner());
    taken
}

/// 100 threads have called before, and are parked.
fn idle() {
    let slot = Slot::new(0_u64);
    let (come, go) = (Barrier::new(101), Barrier::new(101));
    let times: Vec<f64> = std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                drop(slot.enter());
                come.wait();
                go.wait();
            });
        }
        come.wait();
        let times = (0..5_000).map(|n| publish(&slot, n)).collect();
        go.wait();
        times
    });
    table::time("drain of an idle slot, 100 threads registered, p50", median(times), 30e3);
}

/// Two threads that spend a tenth of their time in calls.
fn mostly_outside() {
    let slot = Slot::new(0_u64);
    let ((publishes, barriers), _) = with_callers(&slot, call_then_rest, || {
        let both = |n| {
            std::thread::sleep(Duration::from_micros(500));
            let published = publish(&slot, n);
            std::thread::sleep(Duration::from_micros(500));
            (published, membarrier())
        };
        (0..2_000).map(both).unzip::<_, _, Vec<_>, Vec<_>>()
    });
    let ratios = publishes.iter().zip(&barriers).map(|(publish, barrier)| publish / barrier).collect();
    table::time("publish and drain, two callers 10 % inside, p50", median(publishes), 20e3);
    table::note("— membarrier alone, in the same run, p50", &table::shown(median(barriers)));
    table::note("— the one against the other, p50", &format!("{:.2}×", median(ratios)));
}

fn call_then_rest(slot: &Slot<u64>) {
    let guard = slot.enter().expect("open");
    spin(Duration::from_nanos(500));
    drop(guard);
    spin(Duration::from_nanos(4_500));
}

/// Two threads that do nothing but call.
fn tight() {
    const ROUNDS: usize = 11;
    const PUBLISHES: u64 = 10_000 / ROUNDS as u64 + 1;
    let slot = Slot::new(0_u64);
    let call = |slot: &Slot<u64>| drop(slot.enter().expect("open"));
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let (taken, slowest) =
            with_callers(&slot, call, || (0..PUBLISHES).map(|n| publish(&slot, n)).collect::<Vec<_>>());
        let lasted = start.elapsed();
        let ((), slowest_without) = with_callers(&slot, call, || spin(lasted));
        times.extend(taken);
        ratios.push(slowest / slowest_without);
    }
    let publishes = times.len();
    table::note("publishes under two callers in a tight loop, none starved", &publishes.to_string());
    table::note("— p50", &table::shown(median(times.clone())));
    table::time("— p99", quantile(times, 0.99), 10e6);
    let all = median(ratios);
    table::ratio("— slowest call, against the same time without publishes", Ratio { all, calm: all }, 3.0);
}

/// What nothing that spares its callers a fence can be quicker than.
fn membarrier() -> f64 {
    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    let start = Instant::now();
    // SAFETY: it takes no memory. The gate has registered the process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, PRIVATE_EXPEDITED, 0, 0) };
    assert_eq!(result, 0, "the kernel grants membarrier; what is measured here makes no sense without it");
    start.elapsed().as_nanos() as f64
}

/// Runs `work` while two threads call; its result, and the slowest call of the two in ns.
fn with_callers<R>(slot: &Slot<u64>, call: impl Fn(&Slot<u64>) + Sync, work: impl FnOnce() -> R) -> (R, f64) {
    let (stop, begin) = (AtomicBool::new(false), Barrier::new(3));
    std::thread::scope(|scope| {
        let caller = || {
            drop(slot.enter());
            begin.wait();
            let mut slowest = 0;
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                call(slot);
                slowest = slowest.max(start.elapsed().as_nanos());
            }
            slowest as f64
        };
        let callers = [scope.spawn(caller), scope.spawn(caller)];
        begin.wait();
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let slowest = callers.map(|thread| thread.join().expect("no call fails"));
        (result, slowest[0].max(slowest[1]))
    })
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}
