//! The atomics under the gate: the standard ones, or loom's when the models run.
//!
//! `reseat_loom` is set by one crate only, the one that holds the models.

#[cfg(reseat_loom)]
pub(super) use loom::sync::Mutex;
#[cfg(reseat_loom)]
pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};
#[cfg(not(reseat_loom))]
pub(super) use std::sync::Mutex;
#[cfg(not(reseat_loom))]
pub(super) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};

use std::ptr;
use std::sync::atomic::AtomicU32 as Word;
use std::time::Duration;
#[cfg(not(reseat_loom))]
use std::time::Instant;

/// To loom a fence is no event of its own: nothing comes between it and what precedes it, and no other
/// order of two fences is tried. Writing a word that all fences write makes it one.
#[cfg(reseat_loom)]
pub(super) fn fence(order: Ordering) {
    super::registry::registry().fences.fetch_add(1, Ordering::Relaxed);
    loom::sync::atomic::fence(order);
}

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

    #[inline(always)]
    pub(super) fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A pointer that only the owner of a record writes, and that others read.
///
/// The owner knows what it has written, so its reads are no operation in the models. That is not only
/// quicker: loom 0.7 overlooks orders in which a thread writes what it has just read, if another thread
/// read it before (tokio-rs/loom#166, #392). For the same reason a word with several writers is only
/// written by read-modify-writes that no load of it precedes.
pub(super) struct OwnerPtr<T>(AtomicPtr<T>);

impl<T> OwnerPtr<T> {
    #[cfg(not(reseat_loom))]
    pub(super) const fn null() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    #[cfg(reseat_loom)]
    pub(super) fn null() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// What the owner has written last.
    #[cfg(not(reseat_loom))]
    #[inline(always)]
    pub(super) fn own(&self) -> *mut T {
        self.0.load(Ordering::Relaxed)
    }

    /// As above; loom checks that whoever reads this way has seen all writes.
    #[cfg(all(reseat_loom, not(reseat_loom_sampled)))]
    #[allow(unsafe_code)]
    pub(super) fn own(&self) -> *mut T {
        // SAFETY: there is no write meanwhile, since the only writer is here.
        unsafe { self.0.unsync_load() }
    }

    /// As above, where a sampler may add a tag meanwhile.
    #[cfg(reseat_loom_sampled)]
    pub(super) fn own(&self) -> *mut T {
        self.0.load(Ordering::Relaxed)
    }

    /// Each writer says why its order is Release.
    #[cfg(not(reseat_loom_sampled))]
    #[inline(always)]
    pub(super) fn write(&self, value: *mut T, order: Ordering) {
        self.0.store(value, order);
    }

    /// As above. loom 0.7 orders a store after an exchange by another thread only if the storing thread has seen
    /// that, and would show others the mark after the store that took it off. An exchange sees it.
    #[cfg(reseat_loom_sampled)]
    pub(super) fn write(&self, value: *mut T, order: Ordering) {
        self.0.swap(value, order);
    }

    /// The sampler's side: adds a tag, if the word is still this one. Relaxed: a read-modify-write carries on
    /// what the owner's store has released, and changes nothing else.
    pub(super) fn mark(&self, word: *mut T, tag: usize) -> bool {
        let marked = word.map_addr(|a| a | tag);
        self.0.compare_exchange(word, marked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The others' side. Acquire: partner of every [`write`](Self::write).
    pub(super) fn read(&self) -> *mut T {
        self.0.load(Ordering::Acquire)
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
