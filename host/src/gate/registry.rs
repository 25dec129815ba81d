//! All records of the process, and where drainers sleep.
//!
//! Records are pushed and never taken out, so the list may be read without a lock at any time.
//! There is one registry for each copy of this code: the gate must be linked into the host only.

#![allow(unsafe_code)] // the list links records by address

use super::frame::Frame;
use super::futex::Futex;
use super::generation::Header;
use super::record::{Place, Record, wake};
use super::sync::{AtomicPtr, Ordering};
use std::ptr;

pub(super) struct Registry {
    head: AtomicPtr<Record>,
    /// Advanced by an exit that was asked to, and by the last lease of a retired generation.
    pub(super) notices: Futex,
    /// Stands for every guard that is counted as a lease and so needs no frame.
    counted: Record,
    #[cfg(reseat_loom)]
    pub(super) fences: super::sync::AtomicU32,
}

#[cfg(not(reseat_loom))]
pub(super) fn registry() -> &'static Registry {
    static REGISTRY: std::sync::LazyLock<Registry> = std::sync::LazyLock::new(Registry::new);
    &REGISTRY
}

#[cfg(reseat_loom)]
pub(super) fn registry() -> &'static Registry {
    loom::lazy_static! { static ref REGISTRY: Registry = Registry::new(); }
    &REGISTRY
}

impl Registry {
    fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            notices: Futex::new(),
            counted: Record::new(wake::COUNTED),
            #[cfg(reseat_loom)]
            fences: super::sync::AtomicU32::new(0),
        }
    }

    /// A record for the calling thread: a free one, or a new one. Allocates.
    pub(super) fn acquire(&self) -> &'static Record {
        // An exchange of nothing for nothing reads, see `OwnerPtr`.
        let null = ptr::null_mut();
        let exchanged = self.head.compare_exchange(null, null, Ordering::Acquire, Ordering::Acquire);
        let head = exchanged.unwrap_or_else(|newest| newest);
        from(head).find(|record| record.claim()).unwrap_or_else(|| self.push(head))
    }

    /// AcqRel: the link is seen by every scan that sees the record, and a push sees the one before.
    fn push(&self, mut head: *mut Record) -> &'static Record {
        let record: &'static Record = Box::leak(Box::new(Record::new(0)));
        record.sign();
        loop {
            record.next().store(head, Ordering::Relaxed);
            let new = ptr::from_ref(record).cast_mut();
            match self.head.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return record,
                Err(newer) => head = newer,
            }
        }
    }

    /// W3: the records with a frame in such a generation, newest first. One that is pushed meanwhile is
    /// not seen (case 4).
    pub(super) fn inside(
        &self,
        is_it: impl Fn(*const Header) -> bool,
    ) -> impl Iterator<Item = &'static Record> {
        self.records().filter(move |record| record.holds(&is_it))
    }

    /// All frames of all threads.
    pub(super) fn places(&self) -> impl Iterator<Item = &'static Place> {
        self.records().flat_map(Record::places)
    }

    fn records(&self) -> impl Iterator<Item = &'static Record> {
        from(self.head.load(Ordering::Acquire)) // partner of `push`
    }

    pub(super) fn counted_frame(&'static self) -> Frame {
        self.counted.frame(0)
    }

    #[cold]
    pub(super) fn notify_drainers(&self) {
        self.notices.advance();
        self.notices.wake_all();
    }
}

/// The records of the list from this one on.
fn from(head: *mut Record) -> impl Iterator<Item = &'static Record> {
    // SAFETY: null, or a record that was leaked in `push` and read with Acquire.
    let first = unsafe { head.as_ref() };
    // SAFETY: as above; the link was written before its record was pushed, and is constant.
    std::iter::successors(first, |record| unsafe { record.next().load(Ordering::Relaxed).as_ref() })
}
