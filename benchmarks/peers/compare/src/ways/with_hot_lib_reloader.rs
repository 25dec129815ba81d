//! hot-lib-reloader: a module of functions with the signatures of those in the library's source.

use harness::calls::Way;

#[hot_lib_reloader::hot_module(dylib = "hot_lib", lib_dir = crate::libraries::dir())]
mod hot_lib {
    hot_functions_from_file!("hot-lib/src/lib.rs");
}

/// The function of that module.
pub struct HotModule;

impl Way for HotModule {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        hot_lib::hot_step(a, b)
    }
}
