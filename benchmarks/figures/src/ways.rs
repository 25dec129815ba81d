//! The ways of calling that are compared.

use callee_interface::{Callee, Table};
use reseat::gate::Slot;
use reseat::{CallError, Handle, Lease, Scoped};

use harness::calls::Way;

/// A pointer to the table of a library that stays loaded: what nothing can be cheaper than.
#[derive(Clone, Copy)]
pub struct Plain(&'static Table);

impl Plain {
    /// The table of the generation that this lease keeps.
    pub fn of(lease: &Lease<dyn Callee>) -> Plain {
        let address = lease.table().expect("it does not fail") as usize;
        // SAFETY: the callee answers with the address of its table. The lease is kept until the program ends.
        Plain(unsafe { &*std::ptr::with_exposed_provenance::<Table>(address) })
    }
}

impl Way for Plain {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        // SAFETY: the library stays loaded.
        unsafe { (self.0.step)(std::ptr::null(), a, b) }
    }
}

/// The same call inside of a guard.
pub struct Guarded(pub Slot<Plain>);

impl Way for Guarded {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        self.0.enter().expect("it is open").step(a, b)
    }
}

/// A method of the interface, by what an embedder writes.
pub struct Typed(pub Handle<dyn Callee>);

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

/// The same in a function that is not inlined: its result comes back through memory.
pub struct Outlined(pub Handle<dyn Callee>);

impl Way for Outlined {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        outlined(&self.0, a, b).expect("it is loaded")
    }
}

#[inline(never)]
fn outlined(handle: &Handle<dyn Callee>, a: u64, b: u64) -> Result<u64, CallError> {
    typed(handle, a, b)
}

/// A lease taken for each call.
pub struct Leased(pub Handle<dyn Callee>);

impl Way for Leased {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        self.0.lease().and_then(|lease| lease.step(a, b)).expect("it is loaded")
    }
}

/// A call inside of a scope that was entered before.
pub struct InScope<'a>(pub Scoped<'a, dyn Callee>);

impl Way for InScope<'_> {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        self.0.step(a, b).expect("it does not fail")
    }
}
