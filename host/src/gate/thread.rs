//! Which record is the calling thread's, from its first call to its end.
//!
//! A thread gets a record with its first call and keeps it until its thread-locals are destroyed. A
//! call from a destructor that runs even later borrows a record for as long as it has frames on it.

use super::errand;
use super::record::{Record, wake};
use super::registry::registry;
use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::{fmt, ptr};

/// The record of threads that have none. It is never outside of all calls, so that the usual case of entering
/// needs not to ask whether there is a record.
#[cfg(not(reseat_loom))]
static NOBODY: Record = Record::nobody();

#[cfg(not(reseat_loom))]
std::thread_local! {
    // No destructor and no lazy initialisation: one load, and good until the very end of the thread.
    static CURRENT: Cell<&'static Record> = const { Cell::new(&NOBODY) };
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
        errand::thread_exits(self.0);
        set_current(None);
        let _ = ENDED.try_with(|ended| ended.set(true)); // has no destructor, so it is still there
        self.0.give_back();
    }
}

/// The calling thread's record, if it has one.
#[cfg(not(reseat_loom))]
#[inline(always)]
pub(super) fn current() -> Option<&'static Record> {
    let record = CURRENT.try_with(Cell::get).ok()?; // has no destructor, so it is still there
    (!ptr::eq(record, &raw const NOBODY)).then_some(record)
}

#[cfg(reseat_loom)]
pub(super) fn current() -> Option<&'static Record> {
    CURRENT.try_with(Cell::get).ok().flatten()
}

/// The calling thread's record, if it has one and is in no call.
#[cfg(not(reseat_loom))]
#[inline(always)]
pub(super) fn outside() -> Option<&'static Record> {
    CURRENT.try_with(Cell::get).ok().filter(|record| record.is_outside())
}

#[cfg(reseat_loom)]
pub(super) fn outside() -> Option<&'static Record> {
    current().filter(|record| record.is_outside())
}

/// The calling thread's record, or nobody's, which is at no depth at all.
#[cfg(not(reseat_loom))]
#[inline(always)]
pub(super) fn current_or_nobody() -> Option<&'static Record> {
    CURRENT.try_with(Cell::get).ok()
}

#[cfg(reseat_loom)]
pub(super) fn current_or_nobody() -> Option<&'static Record> {
    current()
}

/// The calling thread's record. The first call on a thread allocates.
#[inline]
pub(super) fn current_or_new() -> &'static Record {
    current().unwrap_or_else(take_record)
}

#[cold]
fn take_record() -> &'static Record {
    let record = registry().acquire();
    if !register(record) {
        record.request(wake::LATE);
        record.errands_held.set(1); // its exit hook has run
    }
    set_current(Some(record));
    record
}

/// Arranges for the record to be given back at the end of the thread, unless that has come already.
fn register(record: &'static Record) -> bool {
    !has_ended() && REGISTRATION.try_with(|place| place.set(Some(Registration(record)))).is_ok()
}

/// A late call has left its last frame.
pub(super) fn give_back_late(record: &'static Record) {
    set_current(None);
    record.give_back();
}

fn has_ended() -> bool {
    ENDED.try_with(Cell::get).unwrap_or(true)
}

fn set_current(record: Option<&'static Record>) {
    #[cfg(not(reseat_loom))]
    let record = record.unwrap_or(&NOBODY);
    let _ = CURRENT.try_with(|current| current.set(record)); // has no destructor, so it is still there
}

/// The calling thread, to be poked by others; `None` once its exit hook has run.
///
/// A thread that will enter slots from a signal handler calls this first, since the first call of a
/// thread allocates.
pub fn current_thread() -> Option<ThreadRef> {
    (!has_ended()).then(|| ThreadRef::to(current_or_new()))
}

/// Names one thread that has come to the gate. It stays valid, and says so, after the thread's end.
#[derive(Clone, Copy)]
pub struct ThreadRef {
    record: &'static Record,
    uses: u32,
}

impl ThreadRef {
    pub(super) fn to(record: &'static Record) -> Self {
        Self { record, uses: record.uses() }
    }

    /// Asks the thread to run the errand hook when it next leaves its last call, comes to a closed
    /// gate, or calls [`run_errands`](super::run_errands). What was written before is seen by the
    /// hook. A thread that does none of these does not run it; nothing interrupts or wakes it.
    ///
    /// Returns false if the thread has ended. Poke and end may cross: then the answer may be true and
    /// nothing runs, or the hook runs on a later thread that has no errand. So let the hook look for
    /// its work in a list by thread, and let the exit hook empty that list.
    pub fn poke(&self) -> bool {
        let registered = self.is_registered();
        if registered {
            self.record.request(wake::ERRAND);
        }
        registered
    }

    /// Whether the thread is between its first call and its end.
    pub fn is_registered(&self) -> bool {
        self.record.uses() == self.uses && self.record.is_owned()
    }

    /// The kernel's number for the thread.
    pub fn os_tid(&self) -> u32 {
        self.record.os_tid()
    }

    /// The thread's name when it first came to the gate, as far as the kernel keeps it (15 bytes).
    pub fn name(&self) -> Option<String> {
        self.record.name()
    }
}

impl PartialEq for ThreadRef {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.record, other.record) && self.uses == other.uses
    }
}

impl Eq for ThreadRef {}

impl Hash for ThreadRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        ptr::from_ref(self.record).hash(state);
        self.uses.hash(state);
    }
}

impl fmt::Debug for ThreadRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadRef").field("os_tid", &self.os_tid()).finish_non_exhaustive()
    }
}

/// Ends the calling thread as far as the gate is concerned; what follows are late calls.
#[cfg(reseat_loom)]
pub fn end_current_thread() {
    REGISTRATION.with(|registration| drop(registration.take()));
}
