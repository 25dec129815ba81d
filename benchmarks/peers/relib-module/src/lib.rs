//! The callee as relib wants it: an implementation of the shared trait.

use bindings::ModuleExportsImpl;
use relib_module as _; // its allocator and its hooks

#[allow(clippy::undocumented_unsafe_blocks, reason = "generated")]
mod bindings {
    relib_interface::include_exports!();
    pub use gen_exports::ModuleExportsImpl;
}

impl relib_shared::exports::Exports for ModuleExportsImpl {
    fn step(a: u64, b: u64) -> u64 {
        a.wrapping_mul(31).wrapping_add(b)
    }
}
