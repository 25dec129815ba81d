//! Calls the callee, as one plugin calls another: so many times within one call of its own.

use callee_interface::{Callee, Caller};
use harness::calls::{Calls, Way, repeat};
use plugin_api::prelude::*;

struct Impl {
    callee: Handle<dyn Callee>,
}

impl Plugin for Impl {
    fn create(host: &Services) -> Result<Self> {
        Ok(Impl { callee: host.plugin()? })
    }
}

/// Entered for each call.
struct Entering<'a>(&'a Handle<dyn Callee>);

impl Way for Entering<'_> {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        self.0.enter().and_then(|callee| callee.step(a, b)).expect("it is loaded")
    }
}

/// Entered before.
struct Kept<'a>(plugin_api::Guard<'a, dyn Callee>);

// SAFETY: `repeat` stays on its thread.
unsafe impl Sync for Kept<'_> {}

impl Way for Kept<'_> {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        self.0.step(a, b).expect("it does not fail")
    }
}

impl Caller for Impl {
    fn entering(&self, place: u32, count: u64) {
        repeat(&Entering(&self.callee), Calls::Dependent, place as usize, count);
    }

    fn keeping(&self, place: u32, count: u64) {
        let guard = self.callee.enter().expect("it is loaded");
        repeat(&Kept(guard), Calls::Dependent, place as usize, count);
    }
}

plugin_api::export_plugin!(Impl: Caller, requires = [Callee]);
