//! Attacks the gate with real threads: plain, nested and leased calls, threads that come and go, calls from
//! destructors of thread-locals and from signal handlers, handovers and their abandonment, a sampler.
//!
//! `gate-stress flags SECONDS`: a generation is a flag, which is raised when it has drained. Whoever is in a call
//! and sees it raised has been overlooked. The quickest way to find a mistake.
//!
//! `gate-stress libraries SECONDS LIBRARY`: a generation is a library, which is closed when it has drained.
//! Whoever has been overlooked dies.
//!
//! Exits with 1 and says so if the gate fails, with 0 after so many seconds otherwise.

mod callers;
mod value;
mod writer;

// The host uses all of it; this uses what it is about.
#[allow(dead_code, unused_imports)]
#[path = "../../../host/src/gate/mod.rs"]
mod gate;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use value::{Flags, Libraries, Supply};

/// Ends all threads.
static STOP: AtomicBool = AtomicBool::new(false);
/// Calls in which something was wrong.
static HITS: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (mode, seconds, rest) = match arguments[..] {
        [mode, seconds, ref rest @ ..] => (mode, seconds, rest),
        _ => return usage(),
    };
    let Ok(seconds) = seconds.parse().map(Duration::from_secs) else { return usage() };
    match (mode, rest) {
        ("flags", []) => run(Flags::new(), seconds),
        ("libraries", [library]) => run(Libraries::new(library.as_ref()), seconds),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: gate-stress flags SECONDS | gate-stress libraries SECONDS LIBRARY");
    ExitCode::from(2)
}

fn run<S: Supply>(mut supply: S, time: Duration) -> ExitCode {
    let start = Instant::now();
    let slot: &'static gate::Slot<S::Value> = Box::leak(Box::new(gate::Slot::new(supply.next())));
    let callers = callers::start(slot);
    let publishes = writer::publish(slot, &mut supply, time);
    STOP.store(true, Ordering::Relaxed);
    let calls = callers.join();
    let hits = HITS.load(Ordering::Relaxed);
    let left = supply.left_behind();
    println!(
        "{} mode, {:.1} s: {publishes} publishes, {calls} calls, {hits} in a drained generation, {left} left behind",
        gate::fence_mode(),
        start.elapsed().as_secs_f64()
    );
    if hits == 0 && left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Notes a mistake. One is enough.
fn hit() {
    HITS.fetch_add(1, Ordering::Relaxed);
    STOP.store(true, Ordering::Relaxed);
}
