//! The atomics under the gate: the standard ones, or loom's when the models run.
//!
//! `reseat_loom` is set by one crate only, the one that holds the models.

#[cfg(reseat_loom)]
pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
#[cfg(not(reseat_loom))]
pub(super) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};

use std::sync::atomic::AtomicU32 as Word;
use std::time::Duration;
#[cfg(not(reseat_loom))]
use std::time::Instant;

/// A number that only the owner of a record reads and writes.
///
/// It is atomic because a signal handler of the same thread may come between, and because the record
/// around it is shared. The models see no operation: no other thread can tell.
pub(super) struct OwnerCell(Word);

impl OwnerCell {
    pub(super) const fn new(value: u32) -> Self {
        Self(Word::new(value))
    }

    #[inline(always)]
    pub(super) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// The end of a wait. [`Duration::MAX`] never comes.
#[cfg(not(reseat_loom))]
pub(super) struct Deadline {
    start: Instant,
    limit: Duration,
}

#[cfg(not(reseat_loom))]
impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// What is left, or `None` once it has passed.
    pub(super) fn left(&self) -> Option<Duration> {
        self.limit.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero())
    }

    pub(super) fn waited(&self) -> Duration {
        self.start.elapsed()
    }
}

/// In a model time does not pass: a limit of n nanoseconds is n looks at the clock.
#[cfg(reseat_loom)]
pub(super) struct Deadline {
    limit: Duration,
    looks: std::cell::Cell<u128>,
}

#[cfg(reseat_loom)]
impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { limit, looks: std::cell::Cell::new(limit.as_nanos()) }
    }

    pub(super) fn left(&self) -> Option<Duration> {
        if self.limit == Duration::MAX {
            return Some(Duration::MAX);
        }
        self.looks.set(self.looks.get().checked_sub(1)?);
        Some(self.limit)
    }

    pub(super) fn waited(&self) -> Duration {
        self.limit
    }
}
