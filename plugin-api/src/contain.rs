//! Panics of a plugin end inside the plugin.
//!
//! A panic that crosses into the host aborts the process, even through `extern "C-unwind"`: the host's
//! standard library does not recognise another copy's panics. So every exported function runs inside
//! [`contain`], and the plugin's own panic hook keeps quiet: std's default one would symbolise a backtrace
//! under `RUST_BACKTRACE=1` and leak megabytes per generation, since its caches die with the library's copy
//! of std, not with the process.

use std::any::Any;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};

use crate::abi::{Reply, Status, Transfer};
use crate::transfer::{Malformed, TailWriter, answer};
use crate::types::AbiType;

thread_local! {
    /// Where the last panic on this thread happened. `const` and without a destructor: it registers nothing
    /// that would keep the library in memory.
    static LOCATION: Cell<Option<&'static Location<'static>>> = const { Cell::new(None) };
}

/// Replaces the panic hook of this copy of std.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        // SAFETY: a panic's location is a constant of the code that panicked. It is read by `contain` on
        // this thread, inside the same library, before the library can go.
        let location: Option<&'static Location<'static>> = unsafe { std::mem::transmute(info.location()) };
        LOCATION.set(location);
    }));
}

/// Puts std's hook back.
pub fn remove_hook() {
    drop(std::panic::take_hook());
}

/// What a contained function may give instead of a value.
pub enum Failure {
    /// An error of the plugin, with its causes.
    Failed(String),
    /// Arguments that do not fit.
    Malformed(String),
    /// Something that exists, but not in this form.
    Unsupported(String),
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Failure::Malformed(malformed.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(format!("{error:#}"))
    }
}

/// Runs a method and answers with what it returned.
///
/// # Safety
/// `transfer` is that of the call being answered.
#[inline(always)]
pub unsafe fn contain<V: AbiType>(
    transfer: *mut Transfer,
    f: impl FnOnce() -> Result<V, Failure>,
) -> Reply<V::Inline> {
    // SAFETY: handed on from the caller; the value is lowered while the call is being answered.
    unsafe { contain_raw(transfer, || Ok(f()?.lower(&mut TailWriter::answering(transfer)))) }
}

/// Runs `f` and answers with its inline value.
///
/// # Safety
/// As for [`contain`].
#[inline(always)]
pub unsafe fn contain_raw<T: Copy>(
    transfer: *mut Transfer,
    f: impl FnOnce() -> Result<T, Failure>,
) -> Reply<T> {
    // Unwind safety: the instance is shared by threads already; what a panic leaves behind in it is the
    // author's business, as with any other `Sync` type.
    let status = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => return Reply { status: Status::OK, value: MaybeUninit::new(value) },
        // SAFETY: promised by the caller.
        Ok(Err(failure)) => unsafe { fail(transfer, failure) },
        // SAFETY: promised by the caller.
        Err(payload) => unsafe { panicked(transfer, payload) },
    };
    Reply { status, value: MaybeUninit::uninit() }
}

#[cold]
#[inline(never)]
unsafe fn fail(transfer: *mut Transfer, failure: Failure) -> Status {
    let (status, text) = match failure {
        Failure::Failed(text) => (Status::FAILED, text),
        Failure::Malformed(text) => (Status::MALFORMED, text),
        Failure::Unsupported(text) => (Status::UNSUPPORTED, text),
    };
    // SAFETY: promised by the caller.
    unsafe { answer(transfer, text.as_bytes()) };
    status
}

#[cold]
#[inline(never)]
unsafe fn panicked(transfer: *mut Transfer, payload: Box<dyn Any + Send>) -> Status {
    let (location, message) = describe(payload);
    // SAFETY: promised by the caller.
    unsafe { answer(transfer, format!("{location}\n{message}").as_bytes()) };
    Status::PANICKED
}

/// Where the last panic on this thread happened, and what it said; the payload ends here.
pub fn describe(payload: Box<dyn Any + Send>) -> (String, String) {
    let location = LOCATION.take().map_or_else(|| "an unknown place".into(), ToString::to_string);
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a payload that is not text")
        .to_owned();
    // The payload's destructor is code of the plugin: it runs here or never, and it may panic again. What
    // that panic leaves is dropped only if it is text, or there would be no end.
    if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(payload)))
        && !again.is::<&str>()
        && !again.is::<String>()
    {
        std::mem::forget(again);
    }
    (location, message)
}
