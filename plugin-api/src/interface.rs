//! Interfaces: what a trait with `#[interface]` becomes on the caller's side.

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, Ordering};

use abi_stable::std_types::{RSlice, RStr};

use crate::abi::{InstanceRef, InterfaceExport, RawMethod, Reply, Status, Transfer};
pub use crate::callback::{Callback, CallbackGuard};
use crate::desc::{InterfaceDesc, Version};
use crate::transfer::{Malformed, Outgoing, TailReader};

/// A trait that plugins implement and hosts call; implemented for `dyn Trait` by `#[interface]`.
///
/// # Safety
/// Written by `#[interface]` only: the proxy calls the methods of the description, in its order, with the
/// types that it states.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an interface",
    label = "not declared with #[plugin_api::interface]",
    note = "write `#[plugin_api::interface(version = \"1.0\")]` above the trait, and name it as `dyn Trait`"
)]
pub unsafe trait Interface: 'static {
    /// Name, version and methods.
    const DESC: &'static InterfaceDesc;
    /// What a guard dereferences to: the trait's methods, each returning `Result<T, CallError>`.
    type Proxy: From<RawProxy>;
}

/// An interface that a plugin of type `P` implements; written by `#[interface]` for every implementor.
///
/// # Safety
/// Written by `#[interface]` only: each entry is a function of the type that its fingerprint stands for, for
/// instances of `P`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an interface",
    label = "not declared with #[plugin_api::interface]",
    note = "write `#[plugin_api::interface(version = \"1.0\")]` above the trait"
)]
pub unsafe trait ExportedBy<P>: Interface {
    /// The plugin's side of each method, in the order of [`Interface::DESC`].
    const METHODS: &'static [RawMethod];
    /// Calls a method by name; see [`crate::abi::InterfaceExport::dynamic`].
    const DYNAMIC: crate::abi::DynamicFn;

    /// For the manifest.
    #[doc(hidden)]
    const DESCRIPTION: &'static InterfaceDesc = Self::DESC;
    /// For the descriptor.
    #[doc(hidden)]
    const EXPORT: InterfaceExport = InterfaceExport {
        name: RStr::from_str(Self::DESC.name),
        major: Self::DESC.version.major,
        minor: Self::DESC.version.minor,
        methods: RSlice::from_slice(Self::METHODS),
        dynamic: Self::DYNAMIC,
    };
}

/// Why a call did not return a value.
// Numbered by a byte of its own: then `Ok` of a result is a small number, which costs a call less to put down and to
// look at than the spare value in a string's capacity that would be taken instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[repr(u8)]
pub enum CallError {
    /// No generation of the plugin is serving.
    #[error("plugin `{plugin}` is not loaded: load it, or wait for its file to appear")]
    NotLoaded {
        /// The plugin's name.
        plugin: String,
    },
    /// The plugin is loaded at its first call, and this one has found out that it cannot be.
    #[error("plugin `{plugin}` cannot be loaded: {reason}")]
    CannotLoad {
        /// The plugin's name.
        plugin: String,
        /// Which step refused its file, and why.
        reason: String,
    },
    /// The serving build does not know the method.
    #[error(
        "method `{method}` is not known to the serving build (it came with interface version {since}): rebuild the plugin"
    )]
    Unsupported {
        /// The method's name.
        method: String,
        /// The interface version that introduced it.
        since: Version,
    },
    /// The plugin panicked. It keeps serving; whether its state still makes sense is for its author to say.
    #[error("the plugin panicked at {location}: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
        /// Where it happened, as `file:line:column`.
        location: String,
    },
    /// The plugin returned an error: its text, with causes.
    #[error("{0}")]
    Plugin(String),
    /// The host is shutting down or was dropped.
    #[error("the host is closed")]
    Closed,
    /// The gate stayed closed for longer than this caller may wait: a reload is carrying state across.
    #[error("waited {waited:?} for a reload to finish")]
    TimedOut {
        /// How long this caller waited.
        waited: std::time::Duration,
    },
    /// Too many callers are waiting for a reload to finish.
    #[error("{waiting} callers are already waiting for a reload to finish")]
    Crowded {
        /// How many.
        waiting: usize,
    },
    /// What came across did not make a value: a bug in one of the two builds.
    #[error("a value was damaged on the boundary: {0}")]
    Malformed(String),
    /// There is no such plugin.
    #[error("no plugin is called `{name}`{}", suggest(known))]
    NoSuchPlugin {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// There is no such method.
    #[error("plugin `{plugin}` has no method `{method}`{}", suggest(known))]
    NoSuchMethod {
        /// The plugin.
        plugin: String,
        /// The name asked for.
        method: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// The arguments of a dynamic call do not fit the method.
    #[error("{0}")]
    BadArguments(String),
    /// The method cannot be called with JSON.
    #[error("{0}")]
    NotDynamic(String),
}

fn suggest(known: &[String]) -> String {
    if known.is_empty() { "; there is none".into() } else { format!("; there is: {}", known.join(", ")) }
}

impl CallError {
    /// The error of a call that did not end with [`Status::OK`].
    #[cold]
    pub fn of(status: Status, text: String) -> Self {
        match status {
            Status::FAILED => CallError::Plugin(text),
            Status::PANICKED => {
                let (location, message) = text.split_once('\n').unwrap_or(("an unknown place", &text));
                CallError::Panicked { message: message.into(), location: location.into() }
            }
            Status::MALFORMED => CallError::BadArguments(text),
            Status::UNSUPPORTED => CallError::NotDynamic(text),
            Status::NOT_LOADED => CallError::NotLoaded { plugin: text },
            Status::CLOSED => CallError::Closed,
            Status::TIMED_OUT => {
                CallError::TimedOut { waited: std::time::Duration::from_nanos(text.parse().unwrap_or(0)) }
            }
            Status::CROWDED => CallError::Crowded { waiting: text.parse().unwrap_or(0) },
            Status(other) => {
                CallError::Malformed(format!("outcome {other} is unknown to this build: {text}"))
            }
        }
    }
}

impl From<Malformed> for CallError {
    #[cold]
    fn from(malformed: Malformed) -> Self {
        CallError::Malformed(malformed.to_string())
    }
}

/// What every proxy is made of: the resolved methods of one generation, and its instance. Neither `Clone`
/// nor `Copy`, and only reachable through a guard or lease: that is what keeps a proxy from outliving it.
pub struct RawProxy {
    methods: *const *const c_void,
    instance: InstanceRef,
    note: Option<&'static AtomicPtr<()>>,
}

// SAFETY: plugins are `Send + Sync`, and a method is code that nobody changes. A proxy that is lent to another
// thread is still lent by the guard or lease that keeps its generation.
unsafe impl Send for RawProxy {}
// SAFETY: as above.
unsafe impl Sync for RawProxy {}

impl RawProxy {
    /// A proxy for one generation.
    ///
    /// # Safety
    /// `methods` points to one entry for each method of the interface, null where the build does not know
    /// it, each with the type that `#[interface]` gives it (their fingerprints agree). Methods and
    /// instance stay valid for as long as the proxy lives.
    #[inline(always)]
    pub const unsafe fn new(methods: *const *const c_void, instance: InstanceRef) -> Self {
        RawProxy { methods, instance, note: None }
    }

    /// The same, and each call first stores the address of its method here: for whoever is asked what a thread
    /// was calling last.
    #[inline(always)]
    #[must_use]
    pub const fn noting(self, note: &'static AtomicPtr<()>) -> Self {
        RawProxy { note: Some(note), ..self }
    }

    /// The instance, as methods take it.
    #[inline(always)]
    pub const fn instance(&self) -> *const c_void {
        self.instance.0
    }

    /// A method that every build of this major version knows.
    ///
    /// # Safety
    /// `index` is a method of the interface this proxy was made for, and hosts refuse builds without it.
    #[inline(always)]
    pub unsafe fn method(&self, index: usize) -> *const c_void {
        // SAFETY: handed on from the caller.
        let method = unsafe { self.entry(index) };
        self.note(method);
        method
    }

    /// # Safety
    /// `index` is a method of the interface this proxy was made for.
    #[inline(always)]
    unsafe fn entry(&self, index: usize) -> *const c_void {
        // SAFETY: `new` promises the entries.
        unsafe { *self.methods.add(index) }
    }

    #[inline(always)]
    fn note(&self, method: *const c_void) {
        if let Some(note) = self.note {
            note.store(method.cast_mut().cast(), Ordering::Relaxed);
        }
    }

    /// A method that came later and may be missing.
    ///
    /// # Errors
    /// [`CallError::Unsupported`] if this build does not know it.
    ///
    /// # Safety
    /// As for [`RawProxy::method`], except that the method may be missing.
    #[inline(always)]
    pub unsafe fn later_method(
        &self,
        index: usize,
        method: &'static str,
        since: Version,
    ) -> Result<*const c_void, CallError> {
        // SAFETY: handed on from the caller.
        let found = unsafe { self.entry(index) };
        if found.is_null() {
            return unsupported(method, since);
        }
        self.note(found);
        Ok(found)
    }
}

/// Arguments of a method in the forms in which they cross, as a tuple.
pub trait Lowered {
    /// Calls an exported function with them.
    ///
    /// # Safety
    /// As for [`call`].
    unsafe fn call<R>(
        self,
        method: *const c_void,
        instance: *const c_void,
        transfer: *mut Transfer,
    ) -> Reply<R>;
}

/// Calls an exported function.
///
/// # Safety
/// `method` is an exported function that takes `instance`, these arguments and a transfer, and replies with an
/// `R`; the instance is live; what the arguments lend, and the transfer, live for the call.
#[inline(always)]
pub unsafe fn call<A: Lowered, R>(
    method: *const c_void,
    instance: *const c_void,
    arguments: A,
    transfer: *mut Transfer,
) -> Reply<R> {
    // SAFETY: handed on from the caller.
    unsafe { arguments.call(method, instance, transfer) }
}

macro_rules! arguments {
    ($($name:ident $value:ident),*) => {
        impl<$($name: Copy),*> Lowered for ($($name,)*) {
            #[inline(always)]
            unsafe fn call<Out>(
                self,
                method: *const c_void,
                instance: *const c_void,
                transfer: *mut Transfer,
            ) -> Reply<Out> {
                type Function<$($name,)* Out> =
                    unsafe extern "C" fn(*const c_void, $($name,)* *mut Transfer) -> Reply<Out>;
                let ($($value,)*) = self;
                // SAFETY: the caller promises that this is the function's type, and all that the call needs.
                unsafe {
                    let function = std::mem::transmute::<*const c_void, Function<$($name,)* Out>>(method);
                    function(instance, $($value,)* transfer)
                }
            }
        }
    };
}
arguments!();
arguments!(A a);
arguments!(A a, B b);
arguments!(A a, B b, C c);
arguments!(A a, B b, C c, D d);
arguments!(A a, B b, C c, D d, E e);
arguments!(A a, B b, C c, D d, E e, F f);
arguments!(A a, B b, C c, D d, E e, F f, G g);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h, I i);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k, L l);

#[cold]
fn unsupported<T>(method: &'static str, since: Version) -> Result<T, CallError> {
    Err(CallError::Unsupported { method: method.into(), since })
}

/// The value of a finished call. Leaves nothing in `outgoing`, which need not be dropped.
///
/// # Errors
/// Whatever ended the call instead of a value.
///
/// # Safety
/// `reply` is the callee's answer to the call that `outgoing` was made for; `tail` and `lift` are those of the
/// value's type.
#[inline(always)]
pub unsafe fn finish<T: Copy, V>(
    outgoing: &mut Outgoing,
    reply: Reply<T>,
    tail: bool,
    lift: impl FnOnce(T, &mut TailReader<'_>) -> Result<V, Malformed>,
) -> Result<V, CallError> {
    if reply.status != Status::OK {
        return Err(*failed(outgoing, reply.status));
    }
    // SAFETY: the callee initialises the value when it answers OK.
    let inline = unsafe { reply.value.assume_init() };
    let lifted = if tail {
        // SAFETY: the callee wrote the tail of such a value.
        lift(inline, &mut unsafe { TailReader::owned(outgoing.take_tail()) })
    } else {
        lift(inline, &mut TailReader::empty())
    };
    Ok(lifted?)
}

/// `extern "C"` cannot unwind, which spares the caller a landing pad, and with it keeping the guard in memory for
/// the landing pad's sake; the box comes back in a register, which spares the result its place in memory. Each of
/// the two would cost every call more than entering does.
#[cold]
#[inline(never)]
#[allow(improper_ctypes_definitions)] // called from Rust only
extern "C" fn failed(outgoing: &mut Outgoing, status: Status) -> Box<CallError> {
    crate::failures::note(status);
    Box::new(CallError::of(status, outgoing.take_string()))
}
