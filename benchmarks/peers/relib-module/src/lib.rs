//! The callee as relib wants it: an implementation of the shared trait.

use relib_module as _; // its allocator and its hooks

relib_interface::include_exports!();

impl relib_shared::exports::Exports for gen_exports::ModuleExportsImpl {
    fn step(a: u64, b: u64) -> u64 {
        a.wrapping_mul(31).wrapping_add(b)
    }
}
