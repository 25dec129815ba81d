//! Which record is the calling thread's, from its first call to its end.
//!
//! A thread gets a record with its first call and keeps it until its thread-locals are destroyed. A
//! call from a destructor that runs even later borrows a record for as long as it has frames on it.

use super::errand;
use super::record::{Record, wake};
use super::registry::registry;
use super::sync::Ordering;
use std::cell::Cell;
use std::sync::atomic::fence;
use std::{fmt, hash, ptr};

#[cfg(not(reseat_loom))]
std::thread_local! {
    // Without a destructor and without lazy initialisation: one load, and good until the very end.
    static CURRENT: Cell<Option<&'static Record>> = const { Cell::new(None) };
    static ENDED: Cell<bool> = const { Cell::new(false) };
    static REGISTRATION: Cell<Option<Registration>> = const { Cell::new(None) };
}

#[cfg(reseat_loom)]
loom::thread_local! {
    static CURRENT: Cell<Option<&'static Record>> = Cell::new(None);
    static ENDED: Cell<bool> = Cell::new(false);
    static REGISTRATION: Cell<Option<Registration>> = Cell::new(None);
}

/// Holds the record until the thread-locals are destroyed.
struct Registration(&'static Record);

impl Drop for Registration {
    fn drop(&mut self) {
        errand::thread_exits();
        set_current(None);
        let _ = ENDED.try_with(|ended| ended.set(true)); // it has no destructor: cannot fail
        self.0.give_back();
    }
}

/// The calling thread's record, if it has one.
#[inline(always)]
pub(super) fn current() -> Option<&'static Record> {
    CURRENT.try_with(Cell::get).ok().flatten()
}

fn set_current(record: Option<&'static Record>) {
    let _ = CURRENT.try_with(|current| current.set(record)); // it has no destructor: cannot fail
}

/// The calling thread's record. The first call on a thread allocates.
pub(super) fn current_or_new() -> &'static Record {
    current().unwrap_or_else(|| {
        let record = registry().acquire();
        let ended = ENDED.try_with(Cell::get).unwrap_or(true);
        let registration = Cell::new(Some(Registration(record)));
        let kept = !ended && REGISTRATION.try_with(|place| place.set(registration.take())).is_ok();
        if !kept {
            std::mem::forget(registration.take());
            record.request(wake::LATE);
        }
        set_current(Some(record));
        record
    })
}

/// A late call has ended and left no frame behind.
pub(super) fn give_back_late(record: &'static Record) {
    set_current(None);
    record.give_back();
}

/// The calling thread, to be poked by others. `None` once its thread-locals are being destroyed and
/// the exit hook has run.
///
/// Also what a thread does first that will call from a signal handler: registering allocates.
pub fn current_thread() -> Option<ThreadRef> {
    let ended = ENDED.try_with(Cell::get).unwrap_or(true);
    (!ended).then(|| ThreadRef::to(current_or_new()))
}

/// Names one thread that has come to the gate, and stays valid after the thread has ended.
#[derive(Clone, Copy)]
pub struct ThreadRef {
    record: &'static Record,
    uses: u32,
}

impl ThreadRef {
    pub(super) fn to(record: &'static Record) -> Self {
        Self { record, uses: record.uses() }
    }

    /// Asks the thread to run the errand hook when it next leaves its last call, or is about to wait
    /// at a closed gate, or calls [`run_errands`](super::run_errands). What was written before is seen
    /// by the hook. A thread that does none of this does not run it; nothing interrupts or wakes it.
    ///
    /// Returns false if the thread has come to its end, after its exit hook. The two may cross: then
    /// the answer is true and nothing runs, or the hook runs on a later thread that has no errand. So
    /// let the hook look for its work in a list, and let the exit hook clear that list.
    pub fn poke(&self) -> bool {
        let alive = self.is_registered();
        if alive {
            self.record.request(wake::ERRAND);
        }
        alive
    }

    /// Whether the thread is still between its first call and its end.
    pub fn is_registered(&self) -> bool {
        self.record.uses() == self.uses && self.record.is_owned()
    }

    /// The kernel's number for the thread.
    pub fn os_tid(&self) -> u32 {
        self.record.os_tid()
    }

    /// The thread's name when it first came to the gate; on Linux the first 15 bytes of it.
    pub fn name(&self) -> Option<String> {
        self.record.name()
    }
}
