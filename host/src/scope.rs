//! Units of work: a request, a batch. Within one, every plugin is called in one generation.

mod here;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plugin_api::{CallError, Interface};

use crate::by_name;
use crate::error::GenerationError;
use crate::gate::{self, EnterError};
use crate::handle::{Handle, Lease, proxy};
use crate::host::Host;
use crate::lazy;
use crate::meter;
use crate::plugin::{Loaded, Plugin};
use crate::unit::{At, Unit, Units};

use here::{Called, Inside};
pub(crate) use here::{is_noted, note_call};

/// The scopes that hold a plugin, counted while that is asked for: it costs each scope two writes to a shared line.
#[derive(Default)]
pub(crate) struct Scopes {
    are_counted: AtomicBool,
    holding: AtomicUsize,
}

impl Scopes {
    /// Scopes that have called the plugin before are not counted.
    pub(crate) fn count(&self, wanted: bool) {
        self.are_counted.store(wanted, Ordering::Relaxed);
    }

    /// Whether they are counted.
    pub(crate) fn are_counted(&self) -> bool {
        self.are_counted.load(Ordering::Relaxed)
    }

    /// How many hold the plugin. One that has only just entered it may be missing: it is still found inside by a drain.
    pub(crate) fn holding(&self) -> usize {
        self.holding.load(Ordering::Acquire)
    }
}

/// A scope that is counted.
struct Counted<P: Deref<Target = Plugin>>(P);

impl<P: Deref<Target = Plugin>> Counted<P> {
    /// If that is asked for.
    fn begin(plugin: P) -> Option<Self> {
        plugin.scopes.are_counted().then(|| {
            plugin.scopes.holding.fetch_add(1, Ordering::Relaxed);
            Counted(plugin)
        })
    }
}

impl<P: Deref<Target = Plugin>> Drop for Counted<P> {
    fn drop(&mut self) {
        self.0.scopes.holding.fetch_sub(1, Ordering::Release);
    }
}

/// A plugin that a scope has called.
struct Entered<P: Deref<Target = Plugin>, H> {
    plugin: P,
    held: H,
    /// Behind what it holds: who is not counted any more has left.
    _counted: Option<Counted<P>>,
}

impl<P: Deref<Target = Plugin> + Clone, H> Entered<P, H> {
    fn new(plugin: P, held: H) -> Self {
        Entered { _counted: Counted::begin(plugin.clone()), plugin, held }
    }
}

/// A unit of work on one thread. The first call to each plugin in it, also one that another plugin makes, decides the
/// generation of that plugin, and every further one in the scope sees the same, also through [`Handle::enter`], in nested
/// scopes, and in calls that plugins make. Of plugins that change together it sees all as they were, or all as they
/// are.
///
/// A scope holds up what a guard holds up: the handover of a stateful plugin it has called, until it ends.
pub struct Scope<'h> {
    held: RefCell<Vec<Entered<&'h Plugin, gate::Guard<'h, Loaded>>>>,
    _host: PhantomData<&'h Host>,
}

impl Drop for Scope<'_> {
    /// Innermost first, as calls are left.
    fn drop(&mut self) {
        while let Some(Entered { held, _counted: counted, .. }) = self.held.get_mut().pop() {
            held.leave_nested();
            drop(counted);
        }
    }
}

/// A plugin in a scope; dereferences to the interface's methods.
pub struct Scoped<'s, I: Interface + ?Sized> {
    proxy: I::Proxy,
    generation: u64,
    _scope: PhantomData<&'s ()>,
}

impl Host {
    /// Runs a unit of work.
    ///
    /// ```no_run
    /// # use rate_limiter_interface::RateLimiter;
    /// # fn work(host: &reseat::Host, limiter: &reseat::Handle<dyn RateLimiter>) -> Result<(), reseat::CallError> {
    /// host.scope(|scope| {
    ///     let limiter = scope.enter(limiter)?;
    ///     limiter.check("alice", 1)?;
    ///     limiter.check("bob", 1)?; // the same generation, whatever is reloaded meanwhile
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn scope<'h, R>(&'h self, work: impl FnOnce(&Scope<'h>) -> R) -> R {
        run(self.units.as_ref(), work)
    }

    /// A unit of work as a value, for frameworks that cannot use a closure: it may cross threads and `.await`. Made
    /// inside of another unit, it belongs to that.
    pub fn owned_scope(&self) -> OwnedScope {
        OwnedScope { held: Arc::default(), unit: self.units.as_ref().and_then(Units::current) }
    }
}

impl Host {
    /// As [`Host::call`], as a unit of work of its own: it is told to those who are around scopes, and may go to a
    /// candidate, see [`Canary`](crate::Canary). For servers whose requests are calls by name.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_as_scope(&self, plugin: &str, method: &str, arguments: &str) -> Result<String, CallError> {
        self.scope(|_| {
            let plugin = self.find_for_call(plugin)?;
            let loaded = match plugin.enter_for_a_scope() {
                Err(EnterError::Empty) => lazy::enter(&self.core, &plugin)?,
                entered => entered.map_err(|error| plugin.cannot_enter(&error))?,
            };
            let _counted = Counted::begin(&*plugin);
            by_name::call(&plugin, &loaded, method, arguments)
        })
    }
}

/// Runs a unit of work.
pub(crate) fn run<'h, R>(units: Option<&Arc<Units>>, work: impl FnOnce(&Scope<'h>) -> R) -> R {
    // Declared first, so that the unit is complete when the scope has left all plugins.
    let _at = units.and_then(Units::current).map(At::work);
    let _called = Called::begin();
    let scope = Scope { held: RefCell::default(), _host: PhantomData };
    work(&scope)
}

impl<'h> Scope<'h> {
    /// Enters a plugin, in the generation that this scope has of it. If it has none yet, that is the one that serves, or a
    /// candidate whose turn it is, see [`Canary`](crate::Canary).
    ///
    /// # Errors
    /// As for [`Handle::enter`], the first time. Later ones cannot fail.
    pub fn enter<I: Interface + ?Sized>(&self, handle: &'h Handle<I>) -> Result<Scoped<'_, I>, CallError> {
        let plugin = &handle.plugin;
        let enter = || plugin.enter_for_a_scope().map_err(|error| plugin.cannot_enter(&error));
        let at = self.place_of(plugin, enter)?;
        self.scoped(at, handle).ok_or_else(|| plugin.not_loaded())
    }

    /// Enters a plugin in this generation of it, in which the scope has it from now on: the one that serves, one that was
    /// kept with [`Host::reload_keeping`], or a candidate.
    ///
    /// # Errors
    /// It is not there, the build does not implement the interface, or the scope, or the call that this thread is in, has
    /// another generation of the plugin already. Then nothing has changed.
    pub fn enter_at<I: Interface + ?Sized>(
        &self,
        handle: &'h Handle<I>,
        generation: u64,
    ) -> Result<Scoped<'_, I>, GenerationError> {
        let plugin = &handle.plugin;
        let at = self.place_of(plugin, || {
            let guard = plugin.enter_generation(generation)?;
            match guard.tables.get_metered(handle.interface).is_null() {
                true => Err(not_implemented(handle, generation)),
                false => Ok(guard),
            }
        })?;
        plugin.only(&*self.held.borrow()[at].held, generation)?;
        self.scoped(at, handle).ok_or_else(|| not_implemented(handle, generation))
    }

    /// Where a plugin is that this scope has called, or calls now.
    fn place_of<E>(
        &self,
        plugin: &'h Arc<Plugin>,
        enter: impl FnOnce() -> Result<gate::Guard<'h, Loaded>, E>,
    ) -> Result<usize, E> {
        let mut held = self.held.borrow_mut();
        if let Some(at) = held.iter().position(|known| std::ptr::eq(known.plugin, &**plugin)) {
            return Ok(at);
        }
        let guard = enter()?;
        if guard.tables.is_metered() {
            // The scope counts as one call.
            meter::begin(&guard.meter, guard.spot());
        }
        held.push(Entered::new(&**plugin, guard));
        Ok(held.len() - 1)
    }

    /// `None`: that generation is not bound to the handle's interface.
    fn scoped<I: Interface + ?Sized>(&self, at: usize, handle: &Handle<I>) -> Option<Scoped<'_, I>> {
        let guard = &self.held.borrow()[at].held;
        // The proxy lives no longer than the borrow of the scope, and the guard until the scope ends.
        let methods = guard.tables.get_metered(handle.interface);
        let proxy = proxy::<I>(methods, guard, Some(guard.note()))?;
        Some(Scoped { proxy, generation: guard.number, _scope: PhantomData })
    }
}

fn not_implemented<I: Interface + ?Sized>(handle: &Handle<I>, generation: u64) -> GenerationError {
    let (plugin, interface) = (handle.plugin.name.clone(), I::DESC.name.to_owned());
    GenerationError::NotImplemented { plugin, generation, interface }
}

impl<I: Interface + ?Sized> Scoped<'_, I> {
    /// The generation that the scope has of this plugin.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl<I: Interface + ?Sized> Deref for Scoped<'_, I> {
    type Target = I::Proxy;
    #[inline(always)]
    fn deref(&self) -> &I::Proxy {
        &self.proxy
    }
}

type Held = Arc<Mutex<Vec<Entered<Arc<Plugin>, gate::Lease<Loaded>>>>>;

/// A unit of work that may cross threads. A thread does not know which owned scope its work belongs to, so only calls through
/// [`OwnedScope::enter`] see its generations; and within [`OwnedScope::inside`] also, as in a [`Scope`], what those
/// calls make plugins call.
#[derive(Default)]
pub struct OwnedScope {
    held: Held,
    /// Dropped after what is held.
    unit: Option<Arc<Unit>>,
}

impl OwnedScope {
    /// A lease of a plugin, in the generation that this scope has of it; see [`Scope::enter`].
    ///
    /// # Errors
    /// As for [`Handle::lease`], the first time. Later ones cannot fail.
    pub fn enter<I: Interface + ?Sized>(&self, handle: &Handle<I>) -> Result<Lease<I>, CallError> {
        let plugin = &handle.plugin;
        let enter = || plugin.enter_for_a_scope().map(|guard| guard.lease());
        let lease = hold(&self.held, plugin, enter).map_err(|error| plugin.cannot_enter(&error))?;
        Lease::new(lease, handle).ok_or_else(|| plugin.not_loaded())
    }

    /// A lease of a plugin, in this generation of it, in which the scope has it from now on; see [`Scope::enter_at`].
    ///
    /// # Errors
    /// As for [`Scope::enter_at`].
    pub fn enter_at<I: Interface + ?Sized>(
        &self,
        handle: &Handle<I>,
        generation: u64,
    ) -> Result<Lease<I>, GenerationError> {
        let plugin = &handle.plugin;
        let lease = hold(&self.held, plugin, || {
            let guard = plugin.enter_generation(generation)?;
            match guard.tables.get_metered(handle.interface).is_null() {
                true => Err(not_implemented(handle, generation)),
                false => Ok(guard.lease()),
            }
        })?;
        Lease::new(plugin.only(lease, generation)?, handle).ok_or_else(|| not_implemented(handle, generation))
    }

    /// Does part of this work on the calling thread, between two `.await`s, say. What plugins call in it is called in the
    /// generations that this scope has, also through [`Handle::enter`]; and scopes that begin in it belong to the same unit, so that
    /// [`ScopeObserver`](crate::ScopeObserver)s are told once.
    ///
    /// A handle knows what the scope had when this began, and what was entered in it on this thread since; what another thread
    /// has entered meanwhile only [`OwnedScope::enter`] and the calls of plugins know. A thread that waits at a closed gate for the
    /// first entering of a plugin is not woken by what another one enters then: it may wait until the drain gives up.
    pub fn inside<R>(&self, part: impl FnOnce() -> R) -> R {
        let _at = self.unit.clone().map(At::work);
        let _inside = Inside::begin(self);
        part()
    }

    /// Whether something waits for this scope to end, on account of any plugin that it has called. See
    /// [`Lease::is_to_leave`].
    pub fn is_to_leave(&self) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().any(|entered| entered.held.is_to_leave.load(Ordering::Relaxed))
    }
}

/// What an owned scope has of a plugin, or gets now; known to this thread, if it is inside of the scope.
fn hold<E>(
    held: &Held,
    plugin: &Arc<Plugin>,
    enter: impl Fn() -> Result<gate::Lease<Loaded>, E>,
) -> Result<gate::Lease<Loaded>, E> {
    let all = || held.lock().unwrap_or_else(PoisonError::into_inner);
    let known = |all: &[Entered<Arc<Plugin>, gate::Lease<Loaded>>]| {
        all.iter().find(|known| Arc::ptr_eq(&known.plugin, plugin)).map(|known| known.held.clone())
    };
    let lease = loop {
        let others: Vec<_> = {
            let all = all();
            if let Some(lease) = known(&all) {
                break lease;
            }
            all.iter().map(|known| known.held.here()).collect()
        };
        // Outside of the lock, because this may wait at a closed gate. What gives way together with what is held is entered
        // as it is with that.
        let fresh = enter()?;
        let mut all = all();
        if let Some(lease) = known(&all) {
            break lease; // who comes first decides
        }
        // Nor has anything else been entered meanwhile, with which this may give way.
        if all.len() == others.len() {
            all.push(Entered::new(plugin.clone(), fresh.clone()));
            break fresh;
        }
    };
    Inside::also(held, plugin, &lease);
    Ok(lease)
}
