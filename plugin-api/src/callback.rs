//! Callbacks as arguments: code of the caller, called by the plugin, for the duration of one call.
//!
//! 1. A callback's arguments cross packed, each whole: inline part, then tail.
//! 2. A panic of the callback ends on its own side and goes on there once the plugin has returned; the plugin's
//!    method is unwound with a panic of its own.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::abi::{RawCallback, RawSlice};
use crate::desc::TypeDesc;
use crate::transfer::{Malformed, TailReader, TailWriter};
use crate::types::AbiType;

/// Callbacks that may be arguments: `&mut dyn FnMut(A)` with up to three parameters and no result.
///
/// # Safety
/// As for [`AbiType`]: the other side believes the description.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a callback of an interface method",
    label = "not a callback that can cross",
    note = "a callback is `&mut dyn FnMut(A, B, C)`, with up to three parameters that cross by value"
)]
pub unsafe trait Callback {
    /// The shape.
    const DESC: &'static TypeDesc;

    /// How it crosses: valid for as long as the guard stays where it is.
    fn lend(guard: &mut CallbackGuard<'_, Self>) -> RawCallback {
        RawCallback { context: std::ptr::from_mut(guard).cast(), call: arrive::<Self> }
    }

    /// Calls it with arguments that came across.
    ///
    /// # Errors
    /// The bytes are not such arguments.
    ///
    /// # Safety
    /// The bytes were packed by the same callback type's relay.
    unsafe fn unpack(&mut self, packed: RawSlice) -> Result<(), Malformed>;

    /// The callee's end: runs `f` with a callback that hands everything over to `raw`.
    ///
    /// # Safety
    /// `raw` is valid until `f` has returned.
    unsafe fn relay<R>(raw: RawCallback, f: impl FnOnce(&mut Self) -> R) -> R;
}

/// The caller's end of a callback argument.
pub struct CallbackGuard<'a, C: ?Sized> {
    callback: &'a mut C,
    panic: Option<Box<dyn Any + Send>>,
}

impl<'a, C: ?Sized> CallbackGuard<'a, C> {
    /// Lends the callback for one call.
    pub fn new(callback: &'a mut C) -> Self {
        CallbackGuard { callback, panic: None }
    }

    /// Continues a panic of the callback, now that no code of the plugin is between.
    pub fn finish(self) {
        if let Some(payload) = self.panic {
            resume_unwind(payload);
        }
    }
}

/// Where the callee's calls arrive.
unsafe extern "C" fn arrive<C: Callback + ?Sized>(context: *mut c_void, packed: RawSlice) -> bool {
    // SAFETY: `lend` made the context from a guard that lives until the call returns, and the callee calls
    // on the calling thread only, one call at a time.
    let guard = unsafe { &mut *context.cast::<CallbackGuard<'_, C>>() };
    if guard.panic.is_some() {
        return false;
    }
    let callback = &mut *guard.callback;
    // SAFETY: the packed bytes come from the relay of the same method, whose fingerprint agrees.
    let payload: Box<dyn Any + Send> =
        match catch_unwind(AssertUnwindSafe(|| unsafe { callback.unpack(packed) })) {
            Ok(Ok(())) => return true,
            Ok(Err(malformed)) => Box::new(malformed.to_string()),
            Err(payload) => payload,
        };
    guard.panic = Some(payload);
    false
}

/// Hands packed arguments over; unwinds if the callback panicked on the other side, so that the plugin's
/// method ends instead of going on without its caller.
unsafe fn hand_over(raw: RawCallback, packed: &TailWriter) {
    // SAFETY: promised by `Callback::relay`.
    let answered = unsafe { (raw.call)(raw.context, packed.lend()) };
    // A destructor that calls while the panic is already on its way must not start a second one: that
    // would end the process.
    if !answered && !std::thread::panicking() {
        std::panic::panic_any("the caller's callback panicked");
    }
}

macro_rules! callback {
    ($($name:ident $value:ident),*) => {
        // SAFETY: the parts are packed and unpacked in the order of the description.
        unsafe impl<$($name: AbiType),*> Callback for dyn FnMut($($name),*) + '_ {
            const DESC: &'static TypeDesc =
                &TypeDesc::List { open: "&mut FnMut(", items: &[$($name::DESC),*], close: ")" };
            #[allow(unused_variables, unused_mut)]
            unsafe fn unpack(&mut self, packed: RawSlice) -> Result<(), Malformed> {
                // SAFETY: promised by the caller.
                let mut tail = unsafe { TailReader::borrowed(packed) };
                $(let $value = $name::take(&mut tail)?;)*
                self($($value),*);
                Ok(())
            }
            #[allow(unused_mut)]
            unsafe fn relay<R>(raw: RawCallback, f: impl FnOnce(&mut Self) -> R) -> R {
                f(&mut move |$($value: $name),*| {
                    let mut packed = TailWriter::collecting();
                    $($value.put(&mut packed);)*
                    // SAFETY: promised by the caller.
                    unsafe { hand_over(raw, &packed) }
                })
            }
        }
    };
}
callback!();
callback!(A a);
callback!(A a, B b);
callback!(A a, B b, C c);
