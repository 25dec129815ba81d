//! Other plugins, as a plugin calls them: handles and guards like those of an embedder.

use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicPtr;

use anyhow::{Result, anyhow, bail};

use crate::abi::{RawGuard, RawPeer, Status};
use crate::interface::{CallError, Interface, RawProxy};
use crate::link::link;
use crate::services::Services;
use crate::transfer::Outgoing;
use crate::types::Lend;

impl Services {
    /// Whatever plugin implements an interface, for as long as this one lives: each [`Handle::enter`] enters the build of
    /// it that serves then. The interface stands in the `requires` of `export_plugin!`; a plugin that requires one is
    /// loaded when there is another that implements it, and that one is not unloaded before it.
    ///
    /// Where builds are tried (see [`Services::is_probe`]) there are no others, and entering ends with
    /// [`CallError::NotLoaded`]. So does entering an optional one that is not there.
    ///
    /// # Errors
    /// `export_plugin!` does not name the interface.
    pub fn plugin<I: Interface + ?Sized>(&self) -> Result<Handle<I>> {
        let name = I::DESC.name;
        let Some(link) = link() else {
            return self.provided::<I>().ok_or_else(|| {
                anyhow!(
                    "without a host nobody implements {name}: let `plugin_api::testing::provide` say who does"
                )
            });
        };
        let mut outgoing = Outgoing::new();
        // SAFETY: attached; name and transfer are lent for the call.
        let reply = unsafe { link.host.peer()(link.generation, name.lend(), outgoing.head()) };
        if reply.status != Status::OK {
            bail!("{}", outgoing.take_string());
        }
        // SAFETY: the host answers OK with a value.
        let raw = unsafe { reply.value.assume_init() };
        Ok(Handle { reached: Reached::Host(raw), interface: PhantomData })
    }
}

/// A plugin that implements `I`, whatever build of it serves. Cheap to clone, and for any thread.
pub struct Handle<I: Interface + ?Sized> {
    reached: Reached,
    interface: PhantomData<fn() -> Box<I>>,
}

/// Where it is.
#[derive(Clone)]
enum Reached {
    Host(RawPeer),
    /// Without a host, in tests.
    Here(Arc<dyn Provider>),
}

/// Something that stands in for another plugin where there is no host.
pub(crate) trait Provider: Send + Sync {
    /// A proxy of it, for as long as the provider is borrowed.
    fn proxy(&self) -> RawProxy;
}

impl<I: Interface + ?Sized> Handle<I> {
    pub(crate) fn of(provider: Arc<dyn Provider>) -> Self {
        Handle { reached: Reached::Here(provider), interface: PhantomData }
    }

    /// Enters the serving generation; the guard has the interface's methods. What was entered stays what it is until the
    /// guard is dropped, and a handover of that plugin waits for it: a guard is for a call, or a few.
    ///
    /// # Errors
    /// As for an embedder's handle: [`CallError::NotLoaded`], and [`CallError::TimedOut`] or [`CallError::Crowded`] while
    /// the plugin is being replaced.
    #[inline]
    pub fn enter(&self) -> Result<Guard<'_, I>, CallError> {
        let peer = match &self.reached {
            Reached::Host(peer) => peer,
            Reached::Here(provider) => {
                return Ok(Guard {
                    proxy: provider.proxy().into(),
                    held: Held::NOTHING,
                    borrowed: PhantomData,
                });
            }
        };
        let mut entered = MaybeUninit::uninit();
        // Nobody writes there when all goes well, so it need not be looked at when it goes.
        let mut outgoing = ManuallyDrop::new(Outgoing::new());
        // SAFETY: attached, as this code runs; both are lent for the call.
        let status = unsafe { (peer.enter)(peer.peer, &raw mut entered, outgoing.head()) };
        if status != Status::OK {
            return Err(*refused(&mut outgoing, status));
        }
        // SAFETY: the host has filled it in.
        let entered = unsafe { entered.assume_init() };
        // SAFETY: the host has resolved the methods for what this plugin's manifest says of the interface, in its order,
        // and the guard below keeps generation and table.
        let proxy = unsafe { RawProxy::new(entered.methods, entered.instance) };
        // SAFETY: a word of the host that lives for ever.
        let proxy = proxy.noting(unsafe { &*entered.note.cast::<AtomicPtr<()>>() });
        let held = Held { leave: peer.leave, guard: entered.guard };
        Ok(Guard { proxy: proxy.into(), held, borrowed: PhantomData })
    }
}

/// See [`finish`](crate::interface::finish), which says why it is `extern "C"` and boxes what it returns.
#[cold]
#[inline(never)]
#[allow(improper_ctypes_definitions)] // called from Rust only
extern "C" fn refused(outgoing: &mut Outgoing, status: Status) -> Box<CallError> {
    Box::new(CallError::of(status, outgoing.take_string()))
}

impl<I: Interface + ?Sized> Clone for Handle<I> {
    fn clone(&self) -> Self {
        Handle { reached: self.reached.clone(), interface: PhantomData }
    }
}

impl<I: Interface + ?Sized> fmt::Debug for Handle<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("interface", &I::DESC.name).finish_non_exhaustive()
    }
}

/// Keeps one generation of another plugin callable, on the thread that has entered it; dereferences to the interface's
/// methods, each returning `Result<T, CallError>`.
pub struct Guard<'h, I: Interface + ?Sized> {
    proxy: I::Proxy,
    /// After the proxy: it keeps what that calls.
    #[allow(dead_code)] // dropped
    held: Held,
    borrowed: PhantomData<(&'h Handle<I>, *mut ())>,
}

struct Held {
    leave: unsafe extern "C" fn(RawGuard),
    guard: RawGuard,
}

impl Held {
    /// What stands in for another plugin is kept by the handle.
    const NOTHING: Held = Held { leave: leave_nothing, guard: RawGuard(ptr::null(), ptr::null()) };
}

unsafe extern "C" fn leave_nothing(_: RawGuard) {}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: entered once, left once, on the same thread: a guard is not `Send`.
        unsafe { (self.leave)(self.guard) };
    }
}

impl<I: Interface + ?Sized> Deref for Guard<'_, I> {
    type Target = I::Proxy;

    #[inline]
    fn deref(&self) -> &I::Proxy {
        &self.proxy
    }
}
