//! One generation on the heap: the value handed on, with what the gate must know about it.
//!
//! Invariants:
//! 1. A generation is freed by `Retired::into_inner` or by dropping its slot, after a drain has
//!    succeeded, and nowhere else.
//! 2. A [`Kept`] exists only while something stands in the way of that drain: a validated frame, a
//!    counted lease, or the `Retired` itself.

#![allow(unsafe_code)] // `Kept` dereferences

use super::registry::registry;
use super::set::Set;
use super::sync::{AtomicPtr, AtomicUsize, Mutex, Ordering};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The part that does not depend on the type of the value. Frames point here.
///
/// It fills a cache line, so that the value, which calls read, shares none with the leases, which others write.
#[repr(align(64))]
pub(super) struct Header {
    /// Which slot this is a generation of; an address would not do, slots move.
    pub(super) slot: u64,
    pub(super) leases: Leases,
    /// What it gives way with; null: nothing. Calls look here only when they are nested.
    pub(super) set: AtomicPtr<Set>,
    /// Whatever has been there, for as long as this generation may be asked.
    pub(super) sets: Mutex<Vec<Arc<Set>>>,
}

#[cfg(not(reseat_loom))]
const _: () = assert!(size_of::<Header>() == 64);

/// `Header` comes first, so that a pointer to it is a pointer to the whole.
#[repr(C)]
pub(super) struct Generation<T> {
    pub(super) header: Header,
    pub(super) value: T,
}

impl<T> Generation<T> {
    pub(super) fn boxed(slot: u64, value: T) -> *mut Self {
        let header = Header {
            slot,
            leases: Leases::new(),
            set: AtomicPtr::new(ptr::null_mut()),
            sets: Mutex::new(Vec::new()),
        };
        Box::into_raw(Box::new(Self { header, value }))
    }
}

/// How many leases are out, and whether somebody may be waiting for them.
pub(super) struct Leases(AtomicUsize);

/// Set while the generation is retired or paused: the last lease must tell the drainers.
const RETIRED: usize = 1 << (usize::BITS - 1);

impl Leases {
    fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Relaxed: whoever adds one holds a frame or a lease already, and the drainer cannot get past
    /// that one.
    pub(super) fn add(&self) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(before & !RETIRED < isize::MAX as usize / 2, "leases are leaked in a loop");
    }

    /// AcqRel: what the holder did comes before the drainer's [`count`](Self::count) of zero.
    ///
    /// A drainer may free the generation right after the subtraction: nothing of it is used below.
    pub(super) fn release(&self) {
        if self.0.fetch_sub(1, Ordering::AcqRel) == RETIRED | 1 {
            registry().notify_drainers();
        }
    }

    /// Relaxed: a release that comes earlier in the order of this one word is seen by the next count;
    /// one that comes later sees the bit.
    pub(super) fn retire(&self) {
        self.0.fetch_or(RETIRED, Ordering::Relaxed);
    }

    /// Undoes [`retire`](Self::retire). Relaxed: an extra notification harms nobody.
    pub(super) fn reinstate(&self) {
        self.0.fetch_and(!RETIRED, Ordering::Relaxed);
    }

    /// W4. Acquire: partner of [`release`](Self::release).
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire) & !RETIRED
    }
}

/// A generation that cannot go away (invariant 2).
pub(super) struct Kept<T>(NonNull<Generation<T>>, PhantomData<T>);

// SAFETY: a `Kept` is a shared reference to a `T` which may, through `Retired`, also be dropped on the
// thread that holds it: that asks for `Sync` and for `Send`.
unsafe impl<T: Send + Sync> Send for Kept<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Kept<T> {}

impl<T> Kept<T> {
    /// # Safety
    ///
    /// Something must keep the generation for as long as the result is used: a validated frame, a
    /// counted lease, or a retirement that only the holder can end.
    pub(super) unsafe fn new(generation: NonNull<Generation<T>>) -> Self {
        Self(generation, PhantomData)
    }

    #[inline(always)]
    pub(super) fn as_ptr(&self) -> NonNull<Generation<T>> {
        self.0
    }

    /// Another one, kept by a lease that is counted here.
    pub(super) fn with_lease(&self) -> Self {
        self.header.leases.add();
        Self(self.0, PhantomData)
    }
}

impl<T> Deref for Kept<T> {
    type Target = Generation<T>;

    #[inline(always)]
    fn deref(&self) -> &Generation<T> {
        // SAFETY: the promise given to `Kept::new`.
        unsafe { self.0.as_ref() }
    }
}
