//! The gate with real threads. What depends on an order of events is in the models, `tests/loom`.

mod calls;
mod errands;
mod handover;
mod threads;

use super::{Retired, Slot};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const FOREVER: Duration = Duration::MAX;
/// For what must fail by running out of time.
const SOON: Duration = Duration::from_millis(5);
/// After this a test that waits for something gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A generation that counts its end.
#[derive(Debug)]
struct Build {
    number: u64,
    ends: Arc<AtomicUsize>,
}

impl Drop for Build {
    fn drop(&mut self) {
        self.ends.fetch_add(1, Ordering::SeqCst);
    }
}

/// A slot of builds, and how many of them have ended.
struct Scene {
    slot: Slot<Build>,
    ends: Arc<AtomicUsize>,
}

impl Scene {
    /// Build 1 is current.
    fn new() -> Self {
        let ends = Arc::default();
        Self { slot: Slot::new(Build { number: 1, ends: Arc::clone(&ends) }), ends }
    }

    fn leaked() -> &'static Self {
        Box::leak(Box::new(Self::new()))
    }

    fn build(&self, number: u64) -> Build {
        Build { number, ends: Arc::clone(&self.ends) }
    }

    fn swap(&self, number: u64) -> Retired<Build> {
        self.slot.swap(self.build(number)).expect("not paused").expect("not empty")
    }

    /// The number of the build that a call is answered by.
    fn answer(&self) -> u64 {
        self.slot.enter().expect("open").number
    }

    fn ended(&self) -> usize {
        self.ends.load(Ordering::SeqCst)
    }
}

/// Takes a drained generation apart; fails if it is not drained.
fn end(retired: Retired<Build>) {
    drop(retired.into_inner().expect("drained"));
}

/// Tells background threads to stop, also when the test has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "gave up waiting until {what}");
        std::thread::yield_now();
    }
}

/// Runs a test in a process of its own, because it sets what is set once for a process, or `RESEAT_GATE`.
///
/// `module` is the caller's `module_path!()` and `test` its name.
fn alone(module: &str, test: &str, environment: &[(&str, &str)], body: impl FnOnce()) {
    const CHILD: &str = "RESEAT_GATE_TEST_ALONE";
    if std::env::var(CHILD).as_deref() == Ok(test) {
        return body();
    }
    let (_crate, module) = module.split_once("::").expect("tests are in a module");
    let program = std::env::current_exe().expect("a test program has a path");
    let mut child = std::process::Command::new(program);
    child.args([&format!("{module}::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
    child.env(CHILD, test).env_remove("RESEAT_GATE").envs(environment.iter().copied());
    let output = child.output().expect("the test program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{test} is not the test's name:\n{text}");
}
