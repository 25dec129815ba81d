//! relib, with unloading: an export of a module, bound when the module is loaded.
//!
//! The module itself stays with the thread that loaded it; its exports are what threads can share.

use harness::calls::Way;
use relib_host::Module;

use crate::libraries;

pub use bindings::ModuleExports;

#[allow(clippy::undocumented_unsafe_blocks, reason = "generated")]
mod bindings {
    relib_interface::include_exports!();
    pub use gen_exports::ModuleExports;
}

/// Loads the module.
pub fn load() -> Module<ModuleExports> {
    let path = libraries::dir().join(libraries::RELIB_MODULE);
    // SAFETY: the conditions concern Windows.
    unsafe { relib_host::load_module(path, ()) }.expect("it loads")
}

/// What a loaded module exports.
pub struct Export<'a>(pub &'a ModuleExports);

impl Way for Export<'_> {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        // SAFETY: host and module are built from one source, and integers have the same layout in both.
        unsafe { self.0.step(a, b) }.expect("it does not panic")
    }
}
