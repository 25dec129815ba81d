//! What the models share: a library that notices being used after its end, and the runner.

use crate::gate::{Guard, Retired, Slot, forget_hooks};
use loom::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub const FOREVER: Duration = Duration::MAX;

/// Stands for a loaded library. Unloading it is a write that loom wants ordered after every use: so a
/// call that is still inside is found, and also one whose effects may not be visible yet.
pub struct Library(UnsafeCell<u32>);

// SAFETY: that accesses do not overlap is what the models are for; loom checks each of them.
unsafe impl Sync for Library {}
// SAFETY: as above.
unsafe impl Send for Library {}

const UNLOADED: u32 = 0xdead;

impl Library {
    /// Loading is a write too: a caller must have got the library from somebody who saw it whole.
    pub fn load(number: u32) -> Self {
        let library = Self(UnsafeCell::new(0));
        // SAFETY: the pointer is good for the length of the closure.
        library.0.with_mut(|place| unsafe { *place = number });
        library
    }

    pub fn answer(&self) -> u32 {
        // SAFETY: as above.
        let number = self.0.with(|place| unsafe { *place });
        assert_ne!(number, UNLOADED, "called after its end");
        number
    }

    pub fn unload(&self) {
        // SAFETY: as above.
        self.0.with_mut(|place| unsafe { *place = UNLOADED });
    }
}

/// An open slot with library 1 in it.
pub fn slot() -> &'static Slot<Library> {
    Box::leak(Box::new(Slot::new(Library::load(1))))
}

pub fn enter(slot: &'static Slot<Library>) -> Guard<'static, Library> {
    slot.enter().expect("the slot is not empty and waits have no limit")
}

pub fn swap(slot: &Slot<Library>, number: u32) -> Retired<Library> {
    slot.swap(Library::load(number)).expect("not paused").expect("not empty")
}

/// Drains and unloads. The memory stays, so that a late call finds the mark and not garbage.
pub fn unload(mut retired: Retired<Library>) {
    retired.drain(FOREVER).expect("without a limit, and not from inside");
    retired.value().unload();
}

/// Runs a model in every order within the bound.
pub fn model(name: &str, scene: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = match builder.preemption_bound {
        None => Some(3),
        Some(0) => None,
        other => other,
    };
    builder.max_branches = 20_000;
    let runs = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let counter = Arc::clone(&runs);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        forget_hooks();
        scene();
    });
    let bound = builder.preemption_bound.map_or("no bound".to_owned(), |bound| format!("bound {bound}"));
    println!("{name}: {} orders, {bound}, {:.1?}", runs.load(Ordering::Relaxed), start.elapsed());
}

/// Tests that are models.
macro_rules! models {
    ($($(#[$doc:meta])* fn $name:ident() $body:block)+) => {
        $($(#[$doc])* #[test] fn $name() { $crate::scene::model(stringify!($name), || $body); })+
    };
}
pub(crate) use models;
