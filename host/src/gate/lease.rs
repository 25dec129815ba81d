//! A lease is a counted guard: slower to take, free to move.

use super::frame::Frame;
#[cfg(not(reseat_loom))]
use super::generation::Header;
use super::generation::Kept;
#[cfg(not(reseat_loom))]
use super::registry::registry;
use super::{errand, thread};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
#[cfg(not(reseat_loom))]
use std::ptr;

/// A counted guard, for async code and for whatever lives long: it can be sent, cloned and kept.
///
/// It holds up the drain of its generation until the last clone is dropped. Taking one costs a write to
/// a line that all leases of the generation share, 10 ns alone and 50 ns in competition: take one for a
/// task, not for a call. Whatever a plugin hands out that has code behind it needs one too.
pub struct Lease<T: Send + Sync + 'static> {
    generation: Kept<T>,
}

impl<T: Send + Sync + 'static> Lease<T> {
    /// The generation is kept by a lease that the caller has counted.
    pub(super) fn new(generation: Kept<T>) -> Self {
        Self { generation }
    }

    /// How many guards and other leases hold the generation, by a look at each thread: some may have come or gone since.
    #[cfg(not(reseat_loom))]
    pub fn others(&self) -> usize {
        let header: *const Header = self.generation.as_ptr().as_ptr().cast_const().cast();
        let guards =
            registry().places().filter(|place| place.holds(|held| ptr::eq(held, header)).is_some()).count();
        guards + self.generation.header.leases.count().saturating_sub(1)
    }

    /// Calls `f` so that a nested [`enter`](super::Slot::enter) of the same slot goes to this
    /// generation, and does not wait at a gate that is waiting for this lease.
    ///
    /// It is a closure, and not a guard, because the mark it leaves on the thread must not be leaked:
    /// a thread torn down inside `f` without unwinding must not enter the slot any more.
    pub fn call<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let _mark = self.mark();
        f(self)
    }

    fn mark(&self) -> Mark {
        let record = thread::current_or_new();
        let frame = record.take(record.depth());
        frame.annotate(self.generation.as_ptr().as_ptr().cast());
        Mark(frame)
    }

    /// The same for as long as the result lives, which must be dropped on this thread, and before that ends.
    pub(crate) fn here(&self) -> Here<T> {
        Here { _mark: self.mark(), _lease: self.clone(), _thread: PhantomData }
    }
}

/// What this thread does is done under a lease. Not for embedders: see [`Lease::call`].
pub(crate) struct Here<T: Send + Sync + 'static> {
    /// Goes first: what it notes is kept by the lease.
    _mark: Mark,
    _lease: Lease<T>,
    /// The frame is written by its owner only.
    _thread: PhantomData<*mut ()>,
}

/// Pairs the annotation of a frame with its end, also when `f` unwinds.
struct Mark(Frame);

impl Drop for Mark {
    fn drop(&mut self) {
        if self.0.empty() != 0 {
            errand::attend(self.0.block().first());
        }
    }
}

impl<T: Send + Sync + 'static> Deref for Lease<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.generation.value
    }
}

impl<T: Send + Sync + 'static> Clone for Lease<T> {
    fn clone(&self) -> Self {
        Self::new(self.generation.with_lease())
    }
}

impl<T: Send + Sync + 'static> Drop for Lease<T> {
    fn drop(&mut self) {
        self.generation.header.leases.release();
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}
