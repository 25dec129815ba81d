//! How much of the heap a library has got and not given back, for plugins that ask for it with
//! `export_plugin!(…, allocator = host)`.
//!
//! When a library goes, what its `static`s own and what it has forgotten stays on the heap for ever: nobody is
//! left who knows of it. The host cannot free it, but it can say how much it is, generation by generation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::abi::HeapUse;

static BLOCKS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// An allocator that counts, and has the process's own do the work: what it gives is what `System` gives.
///
/// Each allocation and each release costs two atomic additions more. The counts are of this library alone.
pub struct Accounting;

fn got(bytes: usize) {
    BLOCKS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

fn gave_back(bytes: usize) {
    BLOCKS.fetch_sub(1, Ordering::Relaxed);
    BYTES.fetch_sub(bytes as u64, Ordering::Relaxed);
}

// SAFETY: each function hands its arguments on to `System`, whose contract is the same, and its result back.
unsafe impl GlobalAlloc for Accounting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: promised by the caller.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            got(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: promised by the caller.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            got(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(block, layout) };
        gave_back(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: promised by the caller.
        let moved = unsafe { System.realloc(block, layout, size) };
        if !moved.is_null() {
            got(size);
            gave_back(layout.size());
        }
        moved
    }
}

/// What this library has of the heap; the answer to the host.
pub extern "C" fn in_use() -> HeapUse {
    HeapUse { blocks: BLOCKS.load(Ordering::Relaxed), bytes: BYTES.load(Ordering::Relaxed) }
}
