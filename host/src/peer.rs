//! Other plugins, as a plugin calls them: what its manifest requires, and the way in.
//!
//! Invariants:
//! 1. A [`Peer`] is at one address for as long as the generation that calls it is attached: its record keeps the [`Calls`].
//! 2. What a peer leads to is never taken from under a call: a target that another has replaced is kept with it.

#![allow(unsafe_code)] // the plugin's side calls in by address

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use plugin_api::abi::{RawEntered, RawGuard, RawPeer, Status, Transfer};
use plugin_api::transfer::answer;

use crate::error::PluginError;
use crate::ffi::Peers;
use crate::file::{InterfaceManifest, RequirementManifest};
use crate::gate::{EnterError, Guard};
use crate::handle;
use crate::lock::lock;
use crate::plugin::{Loaded, Plugin, Used};
use crate::registry::Core;
use crate::scope;

/// The plugins that one generation calls.
pub(crate) struct Calls(Box<[Peer]>);

/// A requirement of a generation, and which plugin it leads to.
struct Peer {
    core: Weak<Core>,
    /// Whose requirement it is.
    of: String,
    requirement: RequirementManifest,
    /// Null: nobody implements it yet.
    target: AtomicPtr<Target>,
    /// Nobody was found when the host's plugins had changed so often: see [`Core::changes`].
    missed_at: AtomicU64,
    /// All there have been, by invariant 2.
    targets: Mutex<Vec<Arc<Target>>>,
}

/// A plugin that implements an interface.
pub(crate) struct Target {
    pub(crate) plugin: Arc<Plugin>,
    /// The interface's number there.
    pub(crate) number: usize,
    /// As long as this is there, builds that do not fit the interface are refused.
    pub(crate) in_use: Arc<()>,
}

impl Target {
    pub(crate) fn new(plugin: &Arc<Plugin>, (number, in_use): (usize, Arc<()>)) -> Target {
        Target { plugin: plugin.clone(), number, in_use }
    }
}

impl Calls {
    /// Those of a plugin. What it cannot do without has been found.
    pub(crate) fn new(
        core: &Arc<Core>,
        of: &str,
        found: Vec<(RequirementManifest, Option<Target>)>,
    ) -> Arc<Calls> {
        let peers = found.into_iter().map(|(requirement, target)| {
            let peer = Peer {
                core: Arc::downgrade(core),
                of: of.to_owned(),
                requirement,
                target: AtomicPtr::default(),
                missed_at: AtomicU64::new(u64::MAX),
                targets: Mutex::default(),
            };
            if let Some(target) = target {
                peer.lead_to(target);
            }
            peer
        });
        Arc::new(Calls(peers.collect()))
    }

    /// Its requirements, each with the plugin that it leads to.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&RequirementManifest, Option<Arc<Plugin>>)> {
        self.0.iter().map(|peer| (&peer.requirement, peer.target().map(|target| target.plugin.clone())))
    }

    /// Leads those who have found nobody yet to what this finds for them.
    pub(crate) fn lead_to(&self, find: impl Fn(&InterfaceManifest) -> Option<Target>) {
        let serves = |target: &Target| target.plugin.is_loaded();
        for peer in self.0.iter().filter(|peer| !peer.target().is_some_and(serves)) {
            find(&peer.requirement.interface).map(|target| peer.lead_to(target));
        }
    }

    /// Whether one of them leads to this plugin and cannot do without it.
    pub(crate) fn require(&self, on: &Plugin) -> bool {
        let is_it = |target: Option<Arc<Plugin>>| target.is_some_and(|target| ptr::eq(&*target, on));
        self.all().any(|(requirement, target)| !requirement.optional && is_it(target))
    }

    /// How often one of these counts as a caller of an interface.
    pub(crate) fn of(&self, used: &Used) -> usize {
        let counts = |peer: &Peer| {
            lock(&peer.targets).iter().filter(|target| Arc::ptr_eq(&target.in_use, &used.calls)).count()
        };
        self.0.iter().map(counts).sum()
    }
}

impl Peers for Calls {
    fn find(&self, interface: &str) -> Result<RawPeer, String> {
        let peer = self.0.iter().find(|peer| peer.requirement.interface.name == interface);
        let peer = peer.ok_or_else(|| {
            format!(
                "this plugin does not state that it calls {interface}: add it to `requires = […]` of export_plugin!"
            )
        })?;
        Ok(RawPeer { peer: ptr::from_ref(peer).cast(), enter, leave })
    }
}

impl Peer {
    fn target(&self) -> Option<&Target> {
        // SAFETY: null, or from an `Arc` that `targets` keeps, by invariant 2.
        unsafe { self.target.load(Ordering::Acquire).as_ref() }
    }

    fn lead_to(&self, target: Target) -> &Target {
        let target = Arc::new(target);
        let address = Arc::as_ptr(&target);
        lock(&self.targets).push(target);
        self.target.store(address.cast_mut(), Ordering::Release);
        // SAFETY: as above.
        unsafe { &*address }
    }

    /// Looks for somebody who implements it, if nobody does now: one that may be missing has come, or another one.
    ///
    /// # Errors
    /// Nobody does, or somebody who was about to change for too long.
    #[cold]
    fn look(&self) -> Result<&Target, EnterError> {
        let core = self.core.upgrade().ok_or(EnterError::Empty)?;
        // Looked at before, so that what comes meanwhile is worth another look.
        let changes = core.changes();
        if self.missed_at.load(Ordering::Relaxed) == changes {
            return Err(EnterError::Empty);
        }
        let begun = Instant::now();
        match core.provide_now(&self.of, &self.requirement.interface) {
            Ok(found) => Ok(self.lead_to(found)),
            Err(Some(PluginError::Busy { .. })) => Err(EnterError::TimedOut { waited: begun.elapsed() }),
            Err(_) => {
                self.missed_at.store(changes, Ordering::Relaxed);
                Err(EnterError::Empty)
            }
        }
    }

    #[cold]
    fn name(&self) -> String {
        self.target().map_or_else(
            || format!("(any that implements {})", self.requirement.interface.name),
            |target| target.plugin.name.clone(),
        )
    }
}

/// [attached, any thread], see [`RawPeer::enter`].
unsafe extern "C" fn enter(
    peer: *const c_void,
    entered: *mut MaybeUninit<RawEntered>,
    transfer: *mut Transfer,
) -> Status {
    // SAFETY: a plugin hands back what `find` gave it, while its generation is attached (invariant 1).
    let peer = unsafe { &*peer.cast::<Peer>() };
    // SAFETY: the plugin lends both for this call.
    let entered = unsafe { &mut *entered };
    if let Some(target) = peer.target()
        && scope::is_noted(&target.plugin)
        && let Some(guard) = target.plugin.slot.enter_quickly()
        && fill(entered, target, guard)
    {
        return Status::OK;
    }
    // SAFETY: as above.
    unsafe { enter_slow(peer, entered, transfer) }
}

/// # Safety
/// The transfer is lent by whoever enters.
#[cold]
#[inline(never)]
unsafe fn enter_slow(peer: &Peer, entered: &mut MaybeUninit<RawEntered>, transfer: *mut Transfer) -> Status {
    let known = peer.target().map_or(Err(EnterError::Empty), |target| enter_target(target, entered));
    let result = match known {
        // There was nobody, or it has been unloaded: perhaps somebody implements the interface now.
        Err(EnterError::Empty) => peer.look().and_then(|it| enter_target(it, entered)),
        result => result,
    };
    match result {
        Ok(()) => Status::OK,
        // SAFETY: as above.
        Err(error) => unsafe { refuse(peer, &error, transfer) },
    }
}

fn enter_target(target: &Target, entered: &mut MaybeUninit<RawEntered>) -> Result<(), EnterError> {
    scope::note_call(&target.plugin)?;
    let guard = target.plugin.slot.enter()?;
    if fill(entered, target, guard) { Ok(()) } else { Err(EnterError::Empty) }
}

/// `false`: this generation is not bound to the interface, and has been left.
#[inline(always)]
fn fill(entered: &mut MaybeUninit<RawEntered>, target: &Target, guard: Guard<'_, Loaded>) -> bool {
    let methods = handle::methods(&guard, target.number, guard.spot());
    if methods.is_null() {
        return false;
    }
    entered.write(RawEntered {
        methods,
        instance: guard.raw_instance(),
        note: ptr::from_ref(guard.note()).cast(),
        generation: guard.number,
        guard: {
            let [generation, frame] = guard.into_words();
            RawGuard(generation, frame)
        },
    });
    true
}

/// # Safety
/// The transfer is lent by whoever is refused.
#[cold]
unsafe fn refuse(peer: &Peer, error: &EnterError, transfer: *mut Transfer) -> Status {
    let (status, text) = match error {
        EnterError::TimedOut { waited } => (Status::TIMED_OUT, waited.as_nanos().to_string()),
        EnterError::Crowded { waiting } => (Status::CROWDED, waiting.to_string()),
        _ if peer.core.upgrade().is_none_or(|core| core.is_closed()) => (Status::CLOSED, String::new()),
        _ => (Status::NOT_LOADED, peer.name()),
    };
    // SAFETY: promised by the caller.
    unsafe { answer(transfer, text.as_bytes()) };
    status
}

/// [attached, the entering thread], see [`RawPeer::leave`].
unsafe extern "C" fn leave(guard: RawGuard) {
    // SAFETY: a plugin leaves once what it has entered, on the same thread: its guard is neither `Send` nor `Clone`. The
    // slot is kept by the peer (invariant 2).
    unsafe { Guard::<Loaded>::from_words([guard.0, guard.1]) }.leave_nested();
}

/// A plugin that stays entered on this thread, in one generation, until this is dropped.
pub(crate) struct Pinned {
    /// Dropped first: it borrows the plugin's slot.
    guard: Guard<'static, Loaded>,
    plugin: Arc<Plugin>,
}

impl Pinned {
    /// In the generation that a scope gets which has not called it yet.
    pub(crate) fn enter(plugin: &Arc<Plugin>) -> Result<Pinned, EnterError> {
        let words = plugin.enter_for_a_scope()?.into_words();
        // SAFETY: taken apart just before, on this thread, which a guard does not leave; the slot is kept beside it.
        Ok(Pinned { guard: unsafe { Guard::from_words(words) }, plugin: plugin.clone() })
    }

    /// What dropping it does, for one that is nested.
    pub(crate) fn leave(self) {
        let Pinned { guard, plugin } = self;
        guard.leave_nested();
        drop(plugin);
    }

    pub(crate) fn is_of(&self, plugin: &Arc<Plugin>) -> bool {
        Arc::ptr_eq(&self.plugin, plugin)
    }
}

/// Where a build is only tried there is nobody else.
pub(crate) struct Nobody;

impl Peers for Nobody {
    fn find(&self, _: &str) -> Result<RawPeer, String> {
        Ok(RawPeer { peer: ptr::null(), enter: nobody, leave })
    }
}

unsafe extern "C" fn nobody(
    _: *const c_void,
    _: *mut MaybeUninit<RawEntered>,
    transfer: *mut Transfer,
) -> Status {
    // SAFETY: the plugin lends it for this call.
    unsafe { answer(transfer, b"(any: this build is only tried)") };
    Status::NOT_LOADED
}
