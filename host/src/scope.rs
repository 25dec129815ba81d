//! Units of work: a request, a batch. Within one, every plugin is called in one generation.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plugin_api::{CallError, Interface};

use crate::gate;
use crate::handle::{Handle, Lease, proxy};
use crate::host::Host;
use crate::meter;
use crate::plugin::{Loaded, Plugin};
use crate::unit::{At, Unit, Units};

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

/// A unit of work on one thread. The first call to each plugin in it decides the generation of that plugin, and
/// every further one in the scope sees the same, also through [`Handle::enter`], in nested scopes, and in calls
/// that plugins make.
///
/// A scope holds up what a guard holds up: the handover of a stateful plugin it has called, until it ends.
pub struct Scope<'h> {
    held: RefCell<Vec<Entered<&'h Plugin, gate::Guard<'h, Loaded>>>>,
    _host: PhantomData<&'h Host>,
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
        OwnedScope { held: Mutex::default(), unit: self.units.as_ref().and_then(Units::current) }
    }
}

/// Runs a unit of work.
pub(crate) fn run<'h, R>(units: Option<&Arc<Units>>, work: impl FnOnce(&Scope<'h>) -> R) -> R {
    // Declared first, so that the unit is complete when the scope has left all plugins.
    let _at = units.and_then(Units::current).map(At::work);
    let scope = Scope { held: RefCell::default(), _host: PhantomData };
    work(&scope)
}

impl<'h> Scope<'h> {
    /// Enters a plugin, in the generation that this scope has of it.
    ///
    /// # Errors
    /// As for [`Handle::enter`], the first time. Later ones cannot fail.
    pub fn enter<I: Interface + ?Sized>(&self, handle: &'h Handle<I>) -> Result<Scoped<'_, I>, CallError> {
        let plugin: &'h Arc<Plugin> = &handle.plugin;
        let mut held = self.held.borrow_mut();
        let at = match held.iter().position(|known| std::ptr::eq(known.plugin, &**plugin)) {
            Some(at) => at,
            None => {
                let guard = plugin.slot.enter().map_err(|error| plugin.cannot_enter(&error))?;
                if guard.tables.is_metered() {
                    // The scope counts as one call.
                    meter::begin(&guard.meter, guard.spot());
                }
                held.push(Entered::new(&**plugin, guard));
                held.len() - 1
            }
        };
        let guard = &held[at].held;
        // The proxy lives no longer than the borrow of the scope, and the guard until the scope ends.
        let methods = guard.tables.get_metered(handle.interface);
        let proxy = proxy::<I>(methods, guard, Some(guard.note())).ok_or_else(|| plugin.not_loaded())?;
        Ok(Scoped { proxy, generation: guard.number, _scope: PhantomData })
    }
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

/// A unit of work that may cross threads. Unlike in a [`Scope`], only calls through
/// [`OwnedScope::enter`] see its generations: a thread does not know which owned scope its work belongs to.
#[derive(Default)]
pub struct OwnedScope {
    held: Mutex<Vec<Entered<Arc<Plugin>, gate::Lease<Loaded>>>>,
    /// Dropped after what is held.
    unit: Option<Arc<Unit>>,
}

impl OwnedScope {
    /// A lease of a plugin, in the generation that this scope has of it.
    ///
    /// # Errors
    /// As for [`Handle::lease`], the first time. Later ones cannot fail.
    pub fn enter<I: Interface + ?Sized>(&self, handle: &Handle<I>) -> Result<Lease<I>, CallError> {
        let plugin = &handle.plugin;
        let known = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.iter().find(|known| Arc::ptr_eq(&known.plugin, plugin)).map(|known| known.held.clone())
        };
        if let Some(lease) = known {
            return Lease::new(lease, handle).ok_or_else(|| plugin.not_loaded());
        }
        // Outside of the lock, because this may wait at a closed gate. Who comes first decides.
        let fresh = plugin.slot.lease().map_err(|error| plugin.cannot_enter(&error))?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = match held.iter().find(|known| Arc::ptr_eq(&known.plugin, plugin)) {
            Some(known) => known.held.clone(),
            None => {
                held.push(Entered::new(plugin.clone(), fresh.clone()));
                fresh
            }
        };
        Lease::new(lease, handle).ok_or_else(|| plugin.not_loaded())
    }

    /// Does part of this work on the calling thread: scopes that begin in it belong to the same unit, so that
    /// [`ScopeObserver`](crate::ScopeObserver)s are told once. Between two `.await`s, say.
    pub fn inside<R>(&self, part: impl FnOnce() -> R) -> R {
        let _at = self.unit.clone().map(At::work);
        part()
    }

    /// Whether something waits for this scope to end, on account of any plugin that it has called. See
    /// [`Lease::is_to_leave`].
    pub fn is_to_leave(&self) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().any(|entered| entered.held.is_to_leave.load(Ordering::Relaxed))
    }
}
