//! A table of functions, in the containers that a program would choose if it had no library for reloading.
//!
//! The table comes with the library that it points to, so that whoever holds the one keeps the other.

use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use arc_swap::ArcSwap;
use callee_interface::{TABLE, Table};
use crossbeam_epoch::Atomic;
use harness::calls::Way;
use libloading::Library;

use crate::libraries;

/// A table and its library.
pub struct Loaded {
    table: Table,
    _library: Library,
}

impl Loaded {
    fn load() -> Loaded {
        // SAFETY: the callee has no initialisers that matter.
        let library = unsafe { Library::new(libraries::dir().join(libraries::CALLEE)) }.expect("it loads");
        // SAFETY: it exports its table under that name.
        let exported = unsafe { library.get::<*const Table>(TABLE.as_bytes()) }.expect("it is exported");
        // SAFETY: the library is loaded, and the table is a constant in it.
        let table = Table { step: unsafe { (**exported).step } };
        Loaded { table, _library: library }
    }
}

impl Way for Loaded {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        // SAFETY: the library stays loaded as long as `self` is there.
        unsafe { (self.table.step)(std::ptr::null(), a, b) }
    }
}

/// The pointer in the table, and nothing else: what nothing can be cheaper than.
pub struct Bare(&'static Loaded);

impl Bare {
    pub fn load() -> Bare {
        Bare(Box::leak(Box::new(Loaded::load())))
    }
}

impl Way for Bare {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        self.0.step(a, b)
    }
}

/// `arc_swap`, borrowed for the call.
pub struct InArcSwap(ArcSwap<Loaded>);

impl InArcSwap {
    pub fn load() -> InArcSwap {
        InArcSwap(ArcSwap::from_pointee(Loaded::load()))
    }
}

impl Way for InArcSwap {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        self.0.load().step(a, b)
    }
}

/// A lock that is held while the `Arc` in it is cloned.
pub struct InRwLock(RwLock<Arc<Loaded>>);

impl InRwLock {
    pub fn load() -> InRwLock {
        InRwLock(RwLock::new(Arc::new(Loaded::load())))
    }
}

impl Way for InRwLock {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        let loaded = Arc::clone(&self.0.read().expect("nobody panics with it"));
        loaded.step(a, b)
    }
}

/// `crossbeam_epoch`, pinned for the call.
pub struct InEpoch(Atomic<Loaded>);

impl InEpoch {
    pub fn load() -> InEpoch {
        InEpoch(Atomic::new(Loaded::load()))
    }
}

impl Way for InEpoch {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        let guard = crossbeam_epoch::pin();
        // SAFETY: it is never null, and would be retired only after it was replaced.
        unsafe { self.0.load(Ordering::Acquire, &guard).deref() }.step(a, b)
    }
}
