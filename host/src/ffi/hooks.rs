//! Calls into a plugin: its hooks, its interfaces, its JSON entry.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plugin_api::abi::{InstanceRef, InterfaceExport, RawState, Reply, Status, Transfer};
use plugin_api::transfer::Outgoing;
use plugin_api::types::Lend;
use plugin_api::{CallError, Stopping};

use super::image::Image;
use crate::file::{InterfaceManifest, MethodManifest};

/// An attached image without an instance. Holding one keeps the image mapped.
#[derive(Clone)]
pub(crate) struct Hooks(Arc<Image>);

/// An instance of a plugin. A clone keeps the image mapped, but not the instance from being destroyed:
/// [`Instance::is_shared`] says whether there are any.
#[derive(Clone)]
pub(crate) struct Instance {
    image: Arc<Image>,
    instance: InstanceRef,
}

fn value<T>(outgoing: Outgoing, reply: Reply<T>) -> Result<(T, Vec<u8>), CallError> {
    if reply.status != Status::OK {
        return Err(CallError::of(reply.status, outgoing.into_string()));
    }
    // SAFETY: the callee initialises the value when it answers OK.
    Ok((unsafe { reply.value.assume_init() }, outgoing.into_text()))
}

impl Hooks {
    /// The hooks of an attached image.
    pub(crate) fn new(image: Image) -> Self {
        Hooks(Arc::new(image))
    }

    /// The image.
    pub(crate) fn image(&self) -> &Image {
        &self.0
    }

    /// Starts empty.
    pub(crate) fn create(&self, config: &str) -> Result<Instance, CallError> {
        let mut outgoing = Outgoing::new();
        // SAFETY: [attached]; configuration and transfer are lent for the call.
        let reply = unsafe { self.0.contract().create()(config.lend(), outgoing.head()) };
        let (instance, _) = value(outgoing, reply)?;
        Ok(Instance { image: self.0.clone(), instance })
    }

    /// Starts from saved state, whose checksum has been compared. The plugin may keep it.
    pub(crate) fn restore(&self, config: &str, frame: Arc<Vec<u8>>) -> Result<Instance, CallError> {
        let mut outgoing = Outgoing::new();
        let saved = RawState::of(frame);
        // SAFETY: [attached]; configuration and transfer are lent for the call, the state is handed over.
        let reply = unsafe { self.0.contract().restore()(config.lend(), saved, outgoing.head()) };
        let (instance, _) = value(outgoing, reply)?;
        Ok(Instance { image: self.0.clone(), instance })
    }

    /// The image alone, if nobody else holds it.
    pub(crate) fn into_image(self) -> Result<Image, Self> {
        Arc::try_unwrap(self.0).map_err(Hooks)
    }
}

type InstanceHook = unsafe extern "C" fn(InstanceRef, *mut Transfer) -> Reply<()>;

impl Instance {
    /// The hooks of its image.
    pub(crate) fn into_hooks(self) -> Hooks {
        Hooks(self.image)
    }

    /// The image.
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Whether another clone exists, e.g. in a hook that is stuck.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.image) > 1
    }

    /// What methods are called on.
    pub(crate) fn raw(&self) -> InstanceRef {
        self.instance
    }

    fn hook(&self, hook: InstanceHook) -> Result<(), CallError> {
        let mut outgoing = Outgoing::new();
        // SAFETY: the instance is live: only `destroy` ends it, and takes the value.
        let reply = unsafe { hook(self.instance, outgoing.head()) };
        value(outgoing, reply).map(|((), _)| ())
    }

    /// The state, framed.
    pub(crate) fn save(&self, target: u32) -> Result<Vec<u8>, CallError> {
        let (mut state, mut outgoing) = (Outgoing::new(), Outgoing::new());
        let (into, save) = (state.head(), self.image.contract().save());
        // SAFETY: as for `hook`.
        let reply = unsafe { save(self.instance, target, into, outgoing.head()) };
        value(outgoing, reply).map(|_| state.into_text())
    }

    /// The instance is about to serve.
    pub(crate) fn started(&self) -> Result<(), CallError> {
        self.hook(self.image.contract().started())
    }

    /// Is it fit to serve?
    pub(crate) fn self_check(&self) -> Result<(), CallError> {
        self.hook(self.image.contract().self_check())
    }

    /// Somebody waits for the calls that are in flight.
    pub(crate) fn leave_now(&self) -> Result<(), CallError> {
        self.hook(self.image.contract().leave_now())
    }

    /// No call will come any more.
    pub(crate) fn stopping(&self, why: Stopping) -> Result<(), CallError> {
        let mut outgoing = Outgoing::new();
        let stopping = self.image.contract().stopping();
        // SAFETY: as for `hook`.
        let reply = unsafe { stopping(self.instance, why.raw(), outgoing.head()) };
        value(outgoing, reply).map(|((), _)| ())
    }

    /// Drops the plugin's value. The caller sees to it that no call is in flight, and that no clone is used
    /// afterwards: this is the end of the instance.
    pub(crate) fn destroy(&self) -> Result<(), CallError> {
        self.hook(self.image.contract().destroy())
    }
}

/// How many interfaces of one plugin a host can be typed for.
pub(crate) const MAX_INTERFACES: usize = 16;

/// The methods of one generation, resolved for each interface that the host has handles of. Found by the
/// interface's number, so that a call costs no search.
#[repr(C)]
pub(crate) struct Tables {
    /// What calls use. Null while they are metered, which sends them the slow way at no cost to others.
    tables: [AtomicPtr<*const c_void>; MAX_INTERFACES],
    /// All of them, metered or not.
    all: [AtomicPtr<*const c_void>; MAX_INTERFACES],
    /// Changed under the lock.
    is_metered: AtomicBool,
    owned: Mutex<Vec<Box<[*const c_void]>>>,
}

// SAFETY: the pointers are addresses of code in the generation's image, which nobody writes through.
unsafe impl Send for Tables {}
// SAFETY: as above; the list of owned tables is behind a lock.
unsafe impl Sync for Tables {}

impl Tables {
    /// With nothing in them. `is_metered`: calls go the slow way, until [`Tables::end_metering`].
    pub(crate) fn new(is_metered: bool) -> Self {
        let none = || [const { AtomicPtr::new(std::ptr::null_mut()) }; MAX_INTERFACES];
        Tables {
            tables: none(),
            all: none(),
            is_metered: AtomicBool::new(is_metered),
            owned: Mutex::default(),
        }
    }

    /// Whether calls are counted and timed.
    pub(crate) fn is_metered(&self) -> bool {
        self.is_metered.load(Ordering::Relaxed)
    }

    /// From now on calls go the slow way, as they do on probation.
    pub(crate) fn begin_metering(&self) {
        let _owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_metered.store(true, Ordering::Relaxed);
        for table in &self.tables {
            table.store(std::ptr::null_mut(), Ordering::Release);
        }
    }

    /// From now on calls go the quick way.
    pub(crate) fn end_metering(&self) {
        let _owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_metered.store(false, Ordering::Relaxed);
        for (table, all) in self.tables.iter().zip(&self.all) {
            table.store(all.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// Resolves one interface. Missing later methods stay null.
    ///
    /// # Errors
    /// The image does not have the interface, in this major version, with these fingerprints; then why.
    pub(crate) fn bind(
        &self,
        number: usize,
        wanted: &InterfaceManifest,
        image: &Image,
    ) -> Result<(), String> {
        let export = image
            .interfaces()
            .iter()
            .find(|export| export.name == *wanted.name && export.major == wanted.version.major)
            .ok_or_else(|| format!("it does not implement {} {}", wanted.name, wanted.version))?;
        let table: Box<[*const c_void]> =
            wanted.methods.iter().map(|method| resolve(wanted, method, export)).collect::<Result<_, _>>()?;
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        owned.push(table);
        let table = owned.last().expect("just pushed").as_ptr();
        // Release: whoever reads the pointer reads the table behind it.
        self.all[number].store(table.cast_mut(), Ordering::Release);
        if !self.is_metered() {
            self.tables[number].store(table.cast_mut(), Ordering::Release);
        }
        Ok(())
    }

    /// What this number stands for is another interface now, which the image does not have.
    pub(crate) fn unbind(&self, number: usize) {
        let _owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        for table in [&self.all[number], &self.tables[number]] {
            table.store(std::ptr::null_mut(), Ordering::Release);
        }
    }

    /// The table of an interface, also while calls are metered; null if it was not bound.
    pub(crate) fn get_metered(&self, number: usize) -> *const *const c_void {
        self.all[number % MAX_INTERFACES].load(Ordering::Acquire)
    }

    /// The table of an interface; null if it was not bound, or calls are metered.
    #[inline(always)]
    pub(crate) fn get(&self, number: usize) -> *const *const c_void {
        // Acquire: the partner of the store in `bind`; free on x86-64.
        // The remainder changes nothing, and needs no branch for the bounds.
        self.tables[number % MAX_INTERFACES].load(Ordering::Acquire)
    }
}

fn resolve(
    wanted: &InterfaceManifest,
    method: &MethodManifest,
    export: &InterfaceExport,
) -> Result<*const c_void, String> {
    let Some(raw) = export.methods.iter().find(|raw| raw.name == *method.name) else {
        if method.since.minor > 0 {
            return Ok(std::ptr::null());
        }
        return Err(format!(
            "its {} lacks the method `{}`, which every {}.x has",
            wanted.name, method.name, wanted.version.major
        ));
    };
    if raw.fingerprint != method.fingerprint {
        return Err(format!(
            "its {}::{} has another signature than its manifest says",
            wanted.name, method.name
        ));
    }
    Ok(raw.call)
}

/// A method that can be called by name.
pub(crate) struct Dynamic {
    export: InterfaceExport,
    method: plugin_api::abi::RawMethod,
}

impl Dynamic {
    /// Finds `method` or `Interface.method`. The first interface that has it wins, in the order of export.
    pub(crate) fn of(image: &Image, name: &str) -> Option<Dynamic> {
        Dynamic::find(image.interfaces(), name)
    }

    /// The same, among what an image exports.
    pub(super) fn find(exports: &[InterfaceExport], name: &str) -> Option<Dynamic> {
        let (interface, method) = match name.split_once('.') {
            Some((interface, method)) => (Some(interface), method),
            None => (None, name),
        };
        exports.iter().filter(|export| interface.is_none_or(|name| export.name == name)).find_map(|export| {
            let method = *export.methods.iter().find(|raw| raw.name == method)?;
            Some(Dynamic { export: *export, method })
        })
    }

    /// What proxies note of a call to the same method.
    pub(crate) fn address(&self) -> *mut () {
        self.method.call.cast_mut().cast()
    }
}

impl Instance {
    /// The names of the methods at this address; nearly always one. Methods whose machine code is the same may
    /// have been made one by the compiler.
    pub(crate) fn methods_at(&self, address: NonZeroUsize) -> Option<String> {
        let methods = self.image.interfaces().iter().flat_map(|export| export.methods.as_slice());
        let names =
            methods.filter(|method| method.call.addr() == address.get()).map(|method| method.name.as_str());
        let mut names: Vec<_> = names.collect();
        names.dedup();
        (!names.is_empty()).then(|| names.join(" or "))
    }
}

/// Calls a method by name. The caller holds a guard or lease of the generation.
pub(crate) fn dynamic_call(
    instance: &Instance,
    dynamic: &Dynamic,
    arguments: &str,
) -> Result<String, CallError> {
    let mut outgoing = Outgoing::new();
    // SAFETY: [serving or draining]: the caller's guard; method and arguments are lent for the call.
    let reply = unsafe {
        (dynamic.export.dynamic)(instance.raw().0, dynamic.method.name, arguments.lend(), outgoing.head())
    };
    let ((), json) = value(outgoing, reply)?;
    String::from_utf8(json).map_err(|e| CallError::Malformed(e.to_string()))
}
