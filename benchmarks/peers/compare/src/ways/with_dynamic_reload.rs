//! dynamic_reload: libraries behind an `Arc`, and symbols as libloading has them.

use std::sync::Arc;
use std::time::Duration;

use dynamic_reload::{DynamicReload, Lib, PlatformName, Search, Symbol};
use harness::calls::Way;

use crate::libraries;

/// The callee's name, with the end that spares a copy.
const STEP: &[u8] = b"callee_step\0";

type Step = unsafe extern "C" fn(u64, u64) -> u64;

/// Loads the callee. The reloader watches it.
pub fn load() -> (DynamicReload, Arc<Lib>) {
    let dir = libraries::dir().to_str().expect("temporary directories have plain names");
    let mut reloader =
        DynamicReload::new(Some(vec![dir]), Some(dir), Search::Default, Duration::from_secs(2));
    // SAFETY: the callee has no initialisers that matter.
    let library = unsafe { reloader.add_library("callee", PlatformName::Yes) }.expect("it loads");
    (reloader, library)
}

/// The symbol is looked up for every call: the only form that needs no care when the library changes.
pub struct LookedUp(pub Arc<Lib>);

impl Way for LookedUp {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        let step = look_up(&self.0);
        // SAFETY: that is its signature, and the library is held.
        unsafe { step(a, b) }
    }
}

/// The symbol is kept, which the documentation recommends where speed counts.
pub struct Cached<'a>(Symbol<'a, Step>);

impl<'a> Cached<'a> {
    pub fn of(library: &'a Lib) -> Cached<'a> {
        Cached(look_up(library))
    }
}

impl Way for Cached<'_> {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        // SAFETY: that is its signature, and the library is held.
        unsafe { (self.0)(a, b) }
    }
}

#[inline(always)]
fn look_up(library: &Lib) -> Symbol<'_, Step> {
    // SAFETY: the callee exports the function with this signature.
    unsafe { library.lib.get(STEP) }.expect("it is exported")
}
