//! A guard keeps one generation callable on the thread that entered it.

#![allow(unsafe_code)] // the end of a counted guard

use super::frame::Frame;
use super::generation::{Header, Kept};
use super::lease::Lease;
use super::record::{NoteCell, wake};
use super::{errand, thread};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

/// Keeps one generation callable, on the thread that entered it; derefs to the value.
///
/// It holds up the drain of its generation until it is dropped, and a handover with it. Guards may be
/// dropped in any order. One that is leaked keeps its generation from being unloaded for ever, and is
/// reported as a straggler.
///
/// It cannot be sent to another thread; a [`Lease`] can. A coroutine that moves between threads must
/// not hold one across a switch, even if the compiler does not see the move.
pub struct Guard<'s, T: Send + Sync + 'static> {
    generation: Kept<T>,
    frame: Frame,
    /// Borrows the slot, and stays on its thread: the frame is written by its owner only.
    _slot: PhantomData<(&'s T, *mut ())>,
}

impl<T: Send + Sync + 'static> Guard<'_, T> {
    #[inline(always)]
    pub(super) fn new(generation: Kept<T>, frame: Frame) -> Self {
        Self { generation, frame, _slot: PhantomData }
    }

    /// A lease on the same generation, which may outlive this guard and leave the thread.
    pub fn lease(&self) -> Lease<T> {
        Lease::new(self.generation.with_lease())
    }

    /// A word in which the holder may note what it uses the guard for: an address, which
    /// [`Held::note`](super::Held::note) gives to those who ask who holds a generation. Nobody follows it.
    ///
    /// A new guard comes with the note of the one that was in its place before. Guards that are entered under a
    /// lease all share one.
    #[inline(always)]
    pub fn note(&self) -> &'static NoteCell {
        self.frame.note()
    }

    /// Takes it apart, for a way through code that knows nothing of guards. Until it is put together again it is held.
    #[inline(always)]
    pub fn into_words(self) -> [*const std::ffi::c_void; 2] {
        const { assert!(size_of::<Self>() == size_of::<[*const std::ffi::c_void; 2]>()) };
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: a guard is two pointers (above, and `frame`), and is not used any more.
        unsafe { std::mem::transmute_copy(&*this) }
    }

    /// Puts it together again.
    ///
    /// # Safety
    /// The words came from [`into_words`](Self::into_words) of a guard of this type, are used for the first time, and on the
    /// same thread; the slot is still there.
    #[inline(always)]
    pub unsafe fn from_words(words: [*const std::ffi::c_void; 2]) -> Self {
        // SAFETY: promised by the caller.
        unsafe { std::mem::transmute_copy(&words) }
    }

    /// Drops it, for whoever holds one that is nested in another most of the time.
    #[inline(always)]
    pub(crate) fn leave_nested(self) {
        let this = std::mem::ManuallyDrop::new(self);
        let requests = this.frame.empty(); // R6 and R7
        let is_all = || thread::current_or_nobody().is_some_and(|record| this.frame.settle_quickly(record));
        if requests == 0 || (requests == wake::NESTED && is_all()) {
            return;
        }
        leave_slow(this.generation.as_ptr().cast(), this.frame, requests);
    }

    /// Where it is noted.
    #[inline(always)]
    pub fn spot(&self) -> Spot {
        Spot(self.frame)
    }
}

/// Where a guard is noted, without the guard: one whose address is taken lives in memory, which would cost all calls.
#[derive(Clone, Copy)]
pub struct Spot(Frame);

impl Spot {
    /// See [`Guard::note`].
    #[inline(always)]
    pub fn note(self) -> &'static NoteCell {
        self.0.note()
    }

    /// Asks for the leave hook at the end of the guard that is here now. Not done for guards that count as leases: all of
    /// those share one place. Costs calls that do not ask nothing.
    pub fn tell_on_leave(self) -> bool {
        self.0.tell()
    }
}

/// The slow side of leaving: somebody asked for something, or the guard has no frame of its own. Takes words, not
/// a guard: a guard whose address is taken lives in memory, where each call would store and load it.
///
/// The frame is empty by now, so the generation may be gone, unless the guard is counted.
#[cold]
#[inline(never)]
fn leave_slow(generation: NonNull<Header>, frame: Frame, requests: u32) {
    if requests & wake::COUNTED != 0 {
        // SAFETY: the lease that this guard counts as keeps the generation until it is released.
        unsafe { &(*generation.as_ptr()).leases }.release();
    } else {
        if requests & wake::TELL != 0 && !errand::tell_of_leaving(frame.note()) {
            frame.told();
        }
        errand::attend(frame.block().first());
    }
}

impl<T: Send + Sync + 'static> Deref for Guard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.generation.value
    }
}

impl<T: Send + Sync + 'static> Drop for Guard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        let requests = self.frame.empty(); // R6 and R7
        if requests != 0 {
            leave_slow(self.generation.as_ptr().cast(), self.frame, requests);
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}
