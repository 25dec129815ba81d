//! What an embedder keeps: [`Handle`], and what it gives: [`Guard`] and [`Lease`].
//!
//! `unsafe` appears here to make proxies, which are only valid while their guard or lease is held: each is
//! kept inside of the one that holds it, and lent from there.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plugin_api::interface::RawProxy;
use plugin_api::{CallError, Interface};

use crate::gate::{self, EnterError, NoteCell, Spot};
use crate::meter;
use crate::plugin::{Loaded, Plugin};

/// A plugin, typed by one of its interfaces. Cheap to clone; stays valid across reloads, and beyond the host,
/// where every call ends with [`CallError::Closed`].
pub struct Handle<I: Interface + ?Sized> {
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) interface: usize,
    _interface: PhantomData<fn(&I)>,
}

impl<I: Interface + ?Sized> Handle<I> {
    pub(crate) fn new(plugin: Arc<Plugin>, interface: usize) -> Self {
        Handle { plugin, interface, _interface: PhantomData }
    }

    /// Enters the serving generation. The guard dereferences to the interface's methods.
    ///
    /// Inside a call of the same plugin on this thread, this is the generation of that call. While a handover
    /// keeps the gate closed this waits, for at most [`Options::call_wait`](crate::Options::call_wait).
    ///
    /// # Errors
    /// [`CallError::NotLoaded`], [`CallError::Closed`], [`CallError::TimedOut`] or [`CallError::Crowded`].
    // Inlined for its cost: returned through memory, the guard's words would be stored and loaded again in
    // other sizes, which stalls for longer than the rest of the call takes.
    #[inline(always)]
    pub fn enter(&self) -> Result<Guard<'_, I>, CallError> {
        let held = match self.plugin.slot.enter_outermost() {
            Some(held) => held,
            None => match self.plugin.enter_slow() {
                Ok(held) => held,
                Err(error) => return Err(*error),
            },
        };
        if let Some(proxy) = proxy::<I>(held.tables.get(self.interface), &held, Some(held.note())) {
            return Ok(Guard { proxy, held });
        }
        match proxy::<I>(metered(&held, self.interface, held.spot()), &held, Some(held.note())) {
            Some(proxy) => Ok(Guard { proxy, held }),
            None => {
                drop(held);
                Err(self.plugin.not_loaded())
            }
        }
    }

    /// Enters the serving generation, waiting at a closed gate for no longer than `limit`: a caller's own deadline.
    ///
    /// # Errors
    /// As for [`Handle::enter`].
    pub fn enter_within(&self, limit: Duration) -> Result<Guard<'_, I>, CallError> {
        let held = self.plugin.slot.enter_within(limit).map_err(|error| self.plugin.cannot_enter(&error))?;
        let methods = methods(&held, self.interface, held.spot());
        match proxy::<I>(methods, &held, Some(held.note())) {
            Some(proxy) => Ok(Guard { proxy, held }),
            None => Err(self.plugin.not_loaded()),
        }
    }

    /// Takes a lease: like a guard, but counted, so that it can cross threads and `.await`. Slower to take.
    ///
    /// # Errors
    /// As for [`Handle::enter`].
    pub fn lease(&self) -> Result<Lease<I>, CallError> {
        let held = self.plugin.slot.lease().map_err(|error| self.plugin.cannot_enter(&error))?;
        Lease::new(held, self).ok_or_else(|| self.plugin.not_loaded())
    }

    /// The plugin's name.
    pub fn plugin(&self) -> &str {
        &self.plugin.name
    }
}

impl<I: Interface + ?Sized> Clone for Handle<I> {
    fn clone(&self) -> Self {
        Handle::new(self.plugin.clone(), self.interface)
    }
}

impl<I: Interface + ?Sized> std::fmt::Debug for Handle<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("plugin", &self.plugin.name).field("interface", &I::DESC.name).finish()
    }
}

/// The methods of a generation, metered or not; null if it was not bound to the interface.
#[inline]
pub(crate) fn methods(loaded: &Loaded, interface: usize, spot: Spot) -> *const *const c_void {
    let quick = loaded.tables.get(interface);
    if quick.is_null() { metered(loaded, interface, spot) } else { quick }
}

/// The methods of a generation whose calls are metered; null if it was not bound to the interface. The call that has
/// just been entered is metered from here on. Takes no guard: one whose address is taken lives in memory, which would
/// cost all calls.
#[cold]
#[inline(never)]
fn metered(loaded: &Loaded, interface: usize, spot: Spot) -> *const *const c_void {
    let methods = loaded.tables.get_metered(interface);
    if !methods.is_null() {
        meter::begin(&loaded.meter, spot);
    }
    methods
}

/// The proxy of one generation, which notes there what is called. Whoever calls this keeps the proxy beside what
/// holds the generation.
#[inline(always)]
pub(crate) fn proxy<I: Interface + ?Sized>(
    methods: *const *const c_void,
    loaded: &Loaded,
    note: Option<&'static NoteCell>,
) -> Option<I::Proxy> {
    if methods.is_null() {
        return None;
    }
    // SAFETY: the caller got it from this generation's `Tables`, by the number of a handle, which is that of `I`:
    // so `Tables::bind` resolved it for `I`, checking every fingerprint. The caller keeps the generation, and with it table and instance, for as long as the
    // proxy: it is a private field of a guard or lease, behind `Deref`.
    let proxy = unsafe { RawProxy::new(methods, loaded.raw_instance()) };
    Some(I::Proxy::from(match note {
        Some(note) => proxy.noting(note),
        None => proxy,
    }))
}

/// Keeps one generation callable, on one thread. Holding a guard holds up the handover of a stateful plugin
/// and the unloading of any; forgetting one (`mem::forget`) does so for ever.
///
/// Guards cannot cross threads:
/// ```compile_fail
/// fn send<T: Send>(_: T) {}
/// fn cannot(guard: reseat::Guard<'_, dyn rate_limiter_interface::RateLimiter>) {
///     send(guard);
/// }
/// ```
/// nor outlive their handle:
/// ```compile_fail
/// # use rate_limiter_interface::RateLimiter;
/// fn cannot(handle: reseat::Handle<dyn RateLimiter>) -> reseat::Guard<'static, dyn RateLimiter> {
///     handle.enter().unwrap()
/// }
/// ```
/// and nothing that is called through one can be kept:
/// ```compile_fail
/// # use rate_limiter_interface::{RateLimiter, RateLimiterProxy};
/// fn cannot(handle: &reseat::Handle<dyn RateLimiter>) -> &RateLimiterProxy {
///     &*handle.enter().unwrap()
/// }
/// ```
pub struct Guard<'h, I: Interface + ?Sized> {
    proxy: I::Proxy,
    held: gate::Guard<'h, Loaded>,
}

impl<I: Interface + ?Sized> Guard<'_, I> {
    /// The generation that is held.
    pub fn generation(&self) -> u64 {
        self.held.number
    }
}

impl<I: Interface + ?Sized> Deref for Guard<'_, I> {
    type Target = I::Proxy;
    #[inline(always)]
    fn deref(&self) -> &I::Proxy {
        &self.proxy
    }
}

/// Keeps one generation callable, from any thread and across `.await`. Counted: taking one costs about 10 ns,
/// more when many threads do. Whoever keeps one for long asks it now and then whether it [is to
/// leave](Lease::is_to_leave).
pub struct Lease<I: Interface + ?Sized> {
    proxy: I::Proxy,
    held: gate::Lease<Loaded>,
}

impl<I: Interface + ?Sized> Lease<I> {
    /// `None`: this generation is not bound to the handle's interface.
    pub(crate) fn new(held: gate::Lease<Loaded>, handle: &Handle<I>) -> Option<Self> {
        let proxy = proxy::<I>(held.tables.get_metered(handle.interface), &held, None)?;
        Some(Lease { proxy, held })
    }

    /// The generation that is held.
    pub fn generation(&self) -> u64 {
        self.held.number
    }

    /// Whether something waits for this lease to be dropped: a reload, or the end of the generation. A reload that is
    /// refused waits no more, so it may be `false` again.
    pub fn is_to_leave(&self) -> bool {
        self.held.is_to_leave.load(Ordering::Relaxed)
    }
}

impl<I: Interface + ?Sized> Deref for Lease<I> {
    type Target = I::Proxy;
    fn deref(&self) -> &I::Proxy {
        &self.proxy
    }
}

impl Plugin {
    /// Enters otherwise than by the usual case. The error is boxed so that the guard comes back in registers.
    #[cold]
    #[inline(never)]
    fn enter_slow(&self) -> Result<gate::Guard<'_, Loaded>, Box<CallError>> {
        self.slot.enter().map_err(|error| Box::new(self.cannot_enter(&error)))
    }

    #[cold]
    pub(crate) fn cannot_enter(&self, error: &EnterError) -> CallError {
        match *error {
            EnterError::TimedOut { waited } => CallError::TimedOut { waited },
            EnterError::Crowded { waiting } => CallError::Crowded { waiting },
            EnterError::Paused => CallError::TimedOut { waited: Duration::ZERO },
            _ => self.not_loaded(),
        }
    }
}
