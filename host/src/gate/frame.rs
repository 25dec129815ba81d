//! One place of a record, and the way back from it to the record.
//!
//! A guard is a generation and a frame, two words, so it comes back from `enter` in registers.

#![allow(unsafe_code)] // a frame is an address

use super::fence;
use super::generation::Header;
#[cfg(reseat_loom)]
use super::record::wake;
use super::record::{ANNOTATION, FRAMES, NoteCell, Place, Record, UNVALIDATED};
use super::sync::{Ordering, OwnerPtr};
use std::ptr;

#[cfg(not(reseat_loom))]
#[derive(Clone, Copy)]
pub(super) struct Frame(*const Place);

/// Records are aligned to their size, and every frame is inside one.
#[cfg(not(reseat_loom))]
impl Frame {
    /// The pointer is derived from the whole record, so that [`block`](Self::block) stays within what
    /// it may reach.
    #[inline(always)]
    pub(super) fn new(record: &'static Record, index: usize) -> Self {
        let first = ptr::from_ref(record).wrapping_byte_add(std::mem::offset_of!(Record, places));
        Self(first.cast::<Place>().wrapping_add(index))
    }

    #[inline(always)]
    fn is(self, other: Self) -> bool {
        ptr::eq(self.0, other.0)
    }

    #[inline(always)]
    fn place(self) -> &'static Place {
        // SAFETY: `new` made it point to a place of a record, and records are never freed.
        unsafe { &*self.0 }
    }

    #[inline(always)]
    fn requests(self) -> u32 {
        self.place().requests()
    }

    /// The record, or the further block of one, that this frame is in.
    pub(super) fn block(self) -> &'static Record {
        const { assert!(size_of::<Record>() == align_of::<Record>()) };
        let record = self.0.map_addr(|a| a & !(align_of::<Record>() - 1)).cast::<Record>();
        // SAFETY: the frame is inside a record of that size and alignment (above), never freed.
        unsafe { &*record }
    }
}

/// loom's atomics are bigger than a word, so there is no such address.
#[cfg(reseat_loom)]
#[derive(Clone, Copy)]
pub(super) struct Frame(&'static Record, usize);

#[cfg(reseat_loom)]
impl Frame {
    pub(super) fn new(record: &'static Record, index: usize) -> Self {
        Self(record, index)
    }

    fn is(self, other: Self) -> bool {
        ptr::eq(self.0, other.0) && self.1 == other.1
    }

    fn place(self) -> &'static Place {
        &self.0.places[self.1]
    }

    /// What is constant is no operation here. So no model can tell if a further place had none of its bits; a test
    /// of the record can.
    fn requests(self) -> u32 {
        if self.1 == 0 { self.place().requests() } else { wake::NESTED }
    }

    pub(super) fn block(self) -> &'static Record {
        self.0
    }
}

impl Frame {
    #[inline(always)]
    fn word(self) -> &'static OwnerPtr<Header> {
        &self.place().frame
    }

    /// See [`Record::settle_quickly`]: for this frame, which is one that was nested and is empty, of the caller's own record.
    /// It compares, and does not compute: so the next call need not wait for what this one was told through memory.
    #[inline(always)]
    pub(super) fn settle_quickly(self, record: &'static Record) -> bool {
        let is_at = |depth| depth < FRAMES && self.is(record.frame(depth));
        match () {
            () if is_at(1) => record.settle_quickly(1),
            () if is_at(2) => record.settle_quickly(2),
            () => self.settle_deeper(record),
        }
    }

    #[inline(never)]
    fn settle_deeper(self, record: &'static Record) -> bool {
        let depth = (3..FRAMES).find(|&depth| self.is(record.frame(depth)));
        depth.is_some_and(|depth| record.settle_quickly(depth))
    }

    /// The ends of calls at this frame need not be told of any more.
    pub(super) fn told(self) {
        self.place().told();
    }

    /// They are to be told of, which cannot be where all counted guards are.
    pub(super) fn tell(self) -> bool {
        self.place().tell()
    }

    /// Beside the frame, for the guard's holder.
    #[inline(always)]
    pub(super) fn note(self) -> &'static NoteCell {
        &self.place().note
    }

    /// R2. Release: partner of W3, which may read this in place of an earlier call's R6, and must see
    /// that call's effects all the same. No model can tell: there the full fence that stands for R7 has
    /// released them.
    ///
    /// The tag is for signal handlers, which may interrupt between here and R5 and must not follow the
    /// pointer. No model has signals.
    #[inline(always)]
    pub(super) fn fill_unvalidated(self, generation: *mut Header) {
        self.word().write(generation.map_addr(|a| a + UNVALIDATED), Ordering::Release);
    }

    /// R5, and the copy of case 3. Release: partner of W3, and unseen by the models, as for R2.
    #[inline(always)]
    pub(super) fn fill(self, generation: *mut Header) {
        self.word().write(generation, Ordering::Release);
    }

    /// The mark of a lease call. Release: partner of W3, as for R2.
    pub(super) fn annotate(self, generation: *mut Header) {
        self.word().write(generation.map_addr(|a| a | ANNOTATION), Ordering::Release);
    }

    /// R6 and R7. Returns the open requests to this thread; normally, after an outermost call, there are none.
    ///
    /// Release: partner of W3. What the call did comes before what follows the drain.
    #[inline(always)]
    #[must_use]
    pub(super) fn empty(self) -> u32 {
        self.word().write(ptr::null_mut(), Ordering::Release); // R6
        fence::light_on_exit(); // R7: partner of D3
        self.requests()
    }
}
