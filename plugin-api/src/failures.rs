//! How many calls that this thread made through proxies have failed: for hosts that judge a build by it.

use std::cell::Cell;

use crate::abi::Status;

/// Failures of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures {
    /// Calls that ended with an error.
    pub errors: u64,
    /// Calls that ended with a panic.
    pub panics: u64,
}

impl Failures {
    /// None.
    pub const NONE: Failures = Failures { errors: 0, panics: 0 };
}

thread_local! {
    // No destructor, so that it can be asked at any time.
    static OF_THIS_THREAD: Cell<Failures> = const { Cell::new(Failures::NONE) };
}

/// A call has failed.
pub(crate) fn note(status: Status) {
    OF_THIS_THREAD.with(|all| {
        let mut failures = all.get();
        match status {
            Status::PANICKED => failures.panics += 1,
            _ => failures.errors += 1,
        }
        all.set(failures);
    });
}

/// All of this thread's so far.
#[inline]
pub fn of_this_thread() -> Failures {
    OF_THIS_THREAD.with(Cell::get)
}

/// Takes out those since `before`: whoever asks next, with an earlier `before`, does not get them again.
#[inline]
pub fn since(before: Failures) -> Failures {
    OF_THIS_THREAD.with(|all| {
        let now = all.replace(before);
        Failures {
            errors: now.errors.saturating_sub(before.errors),
            panics: now.panics.saturating_sub(before.panics),
        }
    })
}
