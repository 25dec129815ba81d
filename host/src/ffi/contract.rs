//! What the host offers to plugins, as the table of functions that crosses the boundary.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use abi_stable::prefix_type::WithMetadata;
use abi_stable::std_types::RStr;
use plugin_api::abi::{
    GenerationRef, HostContract, HostContractRef, RawBefore, RawPeer, RawRegion, Reply, Status, ThreadExitFn,
    ThreadStartFn, Transfer,
};
use plugin_api::transfer::answer;

use super::capture::Book;
use super::region::{Asked, Regions, Views};
use super::registrations::{Register, Table, register, withdraw};

/// The counters of one plugin; they outlive its generations.
#[derive(Default)]
pub(crate) struct Counters(Mutex<BTreeMap<String, &'static AtomicU64>>);

impl Counters {
    /// The address of a counter, which stays valid for the life of the process: plugins keep it. One word
    /// per name and plugin is the price.
    fn get(&self, name: &str) -> &'static AtomicU64 {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = counters.get(name) {
            return counter;
        }
        let counter: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
        counters.insert(name.to_owned(), counter);
        counter
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<(String, u64)> {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|(name, counter)| (name.clone(), counter.load(Ordering::Relaxed))).collect()
    }
}

/// The other plugins that a generation calls.
pub(crate) trait Peers: Send + Sync {
    /// By an interface of theirs, for as long as the generation is attached.
    ///
    /// # Errors
    /// The generation's manifest does not name it.
    fn find(&self, interface: &str) -> Result<RawPeer, String>;
}

/// What a plugin's generations find in their host.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) counters: Arc<Counters>,
    pub(crate) regions: Arc<Regions>,
    pub(crate) peers: Arc<dyn Peers>,
    /// The generation's own.
    pub(crate) registrations: Arc<Table>,
}

/// What a [`GenerationRef`] points to.
pub(super) struct GenerationRecord {
    pub(super) plugin: String,
    pub(super) number: u64,
    pub(super) book: Arc<Book>,
    pub(super) counters: Arc<Counters>,
    pub(super) regions: Views,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) register: Register,
    /// 1: whoever is in a call is asked to leave soon. Read by the plugin.
    pub(super) leave: AtomicU32,
}

const TABLE: &WithMetadata<HostContract> = &WithMetadata::new(HostContract {
    log_enabled,
    log,
    counter,
    at_thread_exit,
    key_create,
    key_delete,
    thread_create,
    cancel_flag,
    region,
    region_before,
    peer,
    register,
    withdraw,
});

/// The table, as plugins get it.
pub(super) const HOST: HostContractRef = HostContractRef(TABLE.static_as_prefix());

/// The record behind a reference.
///
/// # Safety
/// `generation` came from this host with `attach`, and the generation is attached.
pub(super) unsafe fn record<'a>(generation: GenerationRef) -> &'a GenerationRecord {
    // SAFETY: promised by the caller; `Image` keeps the record until the image is closed.
    unsafe { &*generation.0.cast() }
}

/// Text that a plugin lends for the duration of a call. A plugin with a broken string must not break the
/// host's.
pub(super) fn lent(text: RStr<'static>) -> String {
    String::from_utf8_lossy(text.as_str().as_bytes()).into_owned()
}

macro_rules! at_level {
    ($level:expr, $macro:ident ! $($args:tt)*) => {
        match $level {
            1 => tracing::$macro!(tracing::Level::ERROR, $($args)*),
            2 => tracing::$macro!(tracing::Level::WARN, $($args)*),
            3 => tracing::$macro!(tracing::Level::INFO, $($args)*),
            4 => tracing::$macro!(tracing::Level::DEBUG, $($args)*),
            _ => tracing::$macro!(tracing::Level::TRACE, $($args)*),
        }
    };
}

unsafe extern "C" fn log_enabled(_: GenerationRef, level: u32) -> bool {
    at_level!(level, event_enabled!)
}

unsafe extern "C" fn log(
    generation: GenerationRef,
    level: u32,
    target: RStr<'static>,
    message: RStr<'static>,
) {
    // SAFETY: an attached plugin passes its own reference.
    let record = unsafe { record(generation) };
    let (target, message) = (lent(target), lent(message));
    at_level!(level, event! plugin = %record.plugin, generation = record.number, module = %target, "{message}");
}

unsafe extern "C" fn counter(generation: GenerationRef, name: RStr<'static>) -> *const u64 {
    // SAFETY: an attached plugin passes its own reference.
    let record = unsafe { record(generation) };
    std::ptr::from_ref(record.counters.get(&lent(name))).cast()
}

unsafe extern "C" fn cancel_flag(generation: GenerationRef) -> *const u32 {
    // SAFETY: an attached plugin passes its own reference.
    unsafe { record(generation) }.leave.as_ptr()
}

unsafe extern "C" fn peer(
    generation: GenerationRef,
    interface: RStr<'static>,
    transfer: *mut Transfer,
) -> Reply<RawPeer> {
    // SAFETY: an attached plugin passes its own reference.
    let record = unsafe { record(generation) };
    let found = record.peers.find(&lent(interface));
    if let Err(error) = &found {
        // SAFETY: the plugin's transfer, for this call.
        unsafe { answer(transfer, error.as_bytes()) };
    }
    reply(found.ok())
}

fn reply<T>(value: Option<T>) -> Reply<T> {
    let status = if value.is_some() { Status::OK } else { Status::FAILED };
    Reply { status, value: value.map_or(MaybeUninit::uninit(), MaybeUninit::new) }
}

unsafe extern "C" fn region(
    generation: GenerationRef,
    name: RStr<'static>,
    layout: u64,
    size: usize,
    len: usize,
    transfer: *mut Transfer,
) -> Reply<RawRegion> {
    // SAFETY: an attached plugin passes its own reference.
    let record = unsafe { record(generation) };
    let name = lent(name);
    match record.regions.ask(&Asked { name: &name, layout, size, len }) {
        Ok(region) => reply(Some(region)),
        Err(error) => {
            // SAFETY: the plugin passes the transfer of this call.
            unsafe { answer(transfer, error.to_string().as_bytes()) };
            reply(None)
        }
    }
}

unsafe extern "C" fn region_before(generation: GenerationRef, number: u32) -> Reply<RawBefore> {
    // SAFETY: an attached plugin passes its own reference.
    reply(unsafe { record(generation) }.regions.before(number))
}

unsafe extern "C" fn at_thread_exit(
    generation: GenerationRef,
    run: *const c_void,
    object: *mut c_void,
) -> c_int {
    // SAFETY: an attached plugin passes its own reference, and a destructor of libc's type.
    unsafe {
        record(generation)
            .book
            .at_thread_exit(std::mem::transmute::<*const c_void, ThreadExitFn>(run), object)
    }
}

unsafe extern "C" fn key_create(
    generation: GenerationRef,
    key: *mut u32,
    destructor: *const c_void,
) -> c_int {
    // SAFETY: an attached plugin passes its own reference, a place for a key, and null or a destructor of
    // libc's type.
    unsafe {
        let destructor = std::mem::transmute::<*const c_void, Option<ThreadExitFn>>(destructor);
        match record(generation).book.key_create(destructor) {
            Ok(created) => {
                *key = created;
                0
            }
            Err(error) => error,
        }
    }
}

unsafe extern "C" fn key_delete(generation: GenerationRef, key: u32) -> c_int {
    // SAFETY: an attached plugin passes its own reference.
    unsafe { record(generation) }.book.key_delete(key)
}

unsafe extern "C" fn thread_create(
    generation: GenerationRef,
    thread: *mut c_void,
    attributes: *const c_void,
    start: *const c_void,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: an attached plugin passes its own reference, and what libc would get.
    unsafe {
        let start = std::mem::transmute::<*const c_void, ThreadStartFn>(start);
        record(generation).book.thread_create(thread.cast(), attributes.cast(), start, argument)
    }
}
