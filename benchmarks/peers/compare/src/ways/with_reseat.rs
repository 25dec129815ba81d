//! reseat, by what an embedder writes.

use std::fs;

use callee_interface::Callee;
use harness::calls::Way;
use reseat::{CallError, Handle, Host, Options, TrustedDir};

use crate::libraries;

/// A host that serves the callee.
pub fn start() -> Host {
    let plugins = libraries::dir().join("plugins");
    fs::create_dir(&plugins).expect("it is ours");
    fs::copy(libraries::dir().join(libraries::CALLEE), plugins.join(libraries::CALLEE))
        .expect("it was staged");
    // SAFETY: only this program writes there.
    let trusted = unsafe { TrustedDir::new(plugins) };
    let state_dir = libraries::dir().join("state");
    Host::start(Options { watch: vec![trusted], state_dir, probation: None, ..Options::default() }).expect("the host starts")
}

/// A method of the interface.
pub struct Typed(Handle<dyn Callee>);

impl Typed {
    pub fn of(host: &Host) -> Typed {
        Typed(host.plugin("callee").expect("it is loaded"))
    }
}

impl Way for Typed {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        typed(&self.0, a, b).expect("it is loaded")
    }
}

#[inline(always)]
fn typed(handle: &Handle<dyn Callee>, a: u64, b: u64) -> Result<u64, CallError> {
    handle.enter()?.step(a, b)
}
