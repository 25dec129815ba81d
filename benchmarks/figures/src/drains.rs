//! What a publish costs: the swap of a generation, and the wait until nobody is in the old one.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reseat::gate::Slot;

use crate::rounds::{Ratio, median, quantile};
use crate::table;

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
    let times = with_callers(&slot, call_then_rest, || {
        (0..2_000)
            .map(|n| {
                std::thread::sleep(Duration::from_micros(500));
                publish(&slot, n)
            })
            .collect::<Vec<_>>()
    });
    table::time("publish and drain, two callers 10 % inside, p50", median(times.0), 20e3);
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
        let ((), slowest_without) = with_callers(&slot, call, || busy_wait(lasted));
        times.extend(taken);
        ratios.push(slowest / slowest_without);
    }
    let publishes = times.len();
    table::note("publishes under two callers in a tight loop, none starved", &publishes.to_string());
    table::time("— p50", median(times.clone()), f64::INFINITY);
    table::time("— p99", quantile(times, 0.99), 10e6);
    let all = median(ratios);
    table::ratio("— slowest call, against the same time without publishes", Ratio { all, calm: all }, 3.0);
}

/// The writer's stand-in: keeps a core as busy as the writer would.
fn busy_wait(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::thread::sleep(Duration::from_micros(50));
    }
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
