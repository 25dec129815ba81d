use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};

use abi_stable::prefix_type::WithMetadata;
use abi_stable::std_types::RStr;
use plugin_api::abi::{
    GenerationRef, HostContract, HostContractRef, InstanceRef, RawBefore, RawEntered, RawGuard, RawPeer,
    RawRegion, RawState, RawStopping, Reply, Status, Transfer,
};
use plugin_api::export::Hooks;
use plugin_api::interface::{ExportedBy, RawProxy};
use plugin_api::plugin::Identity;
use plugin_api::transfer::{Outgoing, answer};
use plugin_api::types::Lend;
use plugin_api::{CallError, Interface, Plugin};

/// One instance of a plugin, with the calls that a host makes. Destroyed when dropped.
pub struct Loaded<P: Plugin + Identity> {
    instance: InstanceRef,
    plugin: PhantomData<fn() -> P>,
}

impl<P: Plugin + Identity> Loaded<P> {
    pub fn create() -> Self {
        Self::create_with("{}").unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn create_with(config: &str) -> Result<Self, CallError> {
        attach::<P>();
        // SAFETY: attached; configuration and transfer live for the call.
        let reply = call(|transfer| unsafe { Hooks::<P>::CONTRACT.create()(config.lend(), transfer) });
        reply.map(|(instance, _)| Loaded { instance, plugin: PhantomData })
    }

    pub fn restore(frame: &[u8]) -> Result<Self, CallError> {
        attach::<P>();
        let saved = RawState::of(Arc::new(frame.to_vec()));
        // SAFETY: attached; configuration and transfer live for the call, the state is handed over.
        let reply = call(|transfer| unsafe { Hooks::<P>::CONTRACT.restore()("{}".lend(), saved, transfer) });
        reply.map(|(instance, _)| Loaded { instance, plugin: PhantomData })
    }

    pub fn save(&self, target: u32) -> Result<Vec<u8>, CallError> {
        let mut state = Outgoing::new();
        let (into, save) = (state.head(), Hooks::<P>::CONTRACT.save());
        // SAFETY: created, not destroyed; as for all hooks below.
        call(|transfer| unsafe { save(self.instance, target, into, transfer) })?;
        Ok(state.into_text())
    }

    pub fn started(&self) -> Result<(), CallError> {
        // SAFETY: as for `save`.
        call(|transfer| unsafe { Hooks::<P>::CONTRACT.started()(self.instance, transfer) }).map(drop)
    }

    pub fn self_check(&self) -> Result<(), CallError> {
        // SAFETY: as for `save`.
        call(|transfer| unsafe { Hooks::<P>::CONTRACT.self_check()(self.instance, transfer) }).map(drop)
    }

    pub fn leave_now(&self) -> Result<(), CallError> {
        // SAFETY: as for `save`.
        call(|transfer| unsafe { Hooks::<P>::CONTRACT.leave_now()(self.instance, transfer) }).map(drop)
    }

    pub fn stopping(&self, why: RawStopping) -> Result<(), CallError> {
        // SAFETY: as for `save`.
        call(|transfer| unsafe { Hooks::<P>::CONTRACT.stopping()(self.instance, why, transfer) }).map(drop)
    }

    /// Destroys it now, and says how that ended.
    pub fn destroy(self) -> Result<(), CallError> {
        let this = std::mem::ManuallyDrop::new(self);
        this.destroy_once()
    }

    fn destroy_once(&self) -> Result<(), CallError> {
        // SAFETY: called once, last: by `destroy`, which forgets the value, or by `drop`.
        call(|transfer| unsafe { Hooks::<P>::CONTRACT.destroy()(self.instance, transfer) }).map(drop)
    }

    /// The proxy of an interface.
    pub fn enter<I: ExportedBy<P> + ?Sized>(&self) -> Entered<'_, I> {
        self.enter_without::<I>(&[])
    }

    /// The proxy that a host has when this build lacks some methods.
    pub fn enter_without<I: ExportedBy<P> + ?Sized>(&self, missing: &[&str]) -> Entered<'_, I> {
        let entry = |method: &plugin_api::abi::RawMethod| {
            if missing.contains(&method.name.as_str()) { std::ptr::null() } else { method.call }
        };
        let methods: Box<[_]> = I::METHODS.iter().map(entry).collect();
        // SAFETY: the entries are those of this interface, for this plugin's type; table and instance are
        // kept for as long as the proxy by the value it is in.
        let proxy = I::Proxy::from(unsafe { RawProxy::new(methods.as_ptr(), self.instance) });
        Entered { proxy, _methods: methods, _instance: PhantomData }
    }

    /// Calls by name.
    pub fn call_json<I: ExportedBy<P> + ?Sized>(
        &self,
        method: &str,
        arguments: &str,
    ) -> Result<String, CallError> {
        // SAFETY: the instance is one of `P`; texts and transfer live for the call.
        call(|transfer| unsafe { I::DYNAMIC(self.instance.0, method.lend(), arguments.lend(), transfer) })
            .map(|((), text)| String::from_utf8(text).expect("JSON is UTF-8"))
    }
}

impl<P: Plugin + Identity> Drop for Loaded<P> {
    fn drop(&mut self) {
        self.destroy_once().unwrap_or_else(|e| panic!("{e}"));
    }
}

/// A proxy, and what it points to.
pub struct Entered<'a, I: Interface + ?Sized> {
    proxy: I::Proxy,
    _methods: Box<[*const c_void]>,
    _instance: PhantomData<&'a ()>,
}

impl<I: Interface + ?Sized> Deref for Entered<'_, I> {
    type Target = I::Proxy;
    fn deref(&self) -> &I::Proxy {
        &self.proxy
    }
}

/// One call as the caller's end makes it: its result, and the bytes that the callee wrote.
fn call<T>(f: impl FnOnce(*mut Transfer) -> Reply<T>) -> Result<(T, Vec<u8>), CallError> {
    let mut outgoing = Outgoing::new();
    let reply = f(outgoing.head());
    if reply.status != Status::OK {
        return Err(CallError::of(reply.status, outgoing.into_string()));
    }
    // SAFETY: the callee initialises the value when it answers OK.
    Ok((unsafe { reply.value.assume_init() }, outgoing.into_text()))
}

/// Attaches this program to the host below, once: all plugins in it share one copy of everything.
fn attach<P: Plugin + Identity>() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let host = HostContractRef(HOST.static_as_prefix());
        // SAFETY: once, and the table is a constant that lives as long as the program.
        unsafe { Hooks::<P>::CONTRACT.attach()(host, GenerationRef(std::ptr::null())) };
        // The plugin's hook is silent; failing tests are not, but need no backtrace for each panic that
        // these tests are about.
        let silent = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            silent(info);
            eprintln!("{info}");
        }));
    });
}

/// What the host below has been told, as `level target: text`.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The lines of the log that contain `part`.
pub fn logged(part: &str) -> Vec<String> {
    LOG.lock().unwrap().iter().filter(|line| line.contains(part)).cloned().collect()
}

static HOST: &WithMetadata<HostContract> = &WithMetadata::new(HostContract {
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

unsafe extern "C" fn log_enabled(_: GenerationRef, level: u32) -> bool {
    level <= 3
}

unsafe extern "C" fn log(_: GenerationRef, level: u32, target: RStr<'static>, message: RStr<'static>) {
    LOG.lock().unwrap().push(format!("{level} {target}: {message}"));
}

unsafe extern "C" fn counter(_: GenerationRef, _: RStr<'static>) -> *const u64 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    COUNTER.as_ptr()
}

/// What calls are told: whether they are asked to end soon.
pub static LEAVE: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn cancel_flag(_: GenerationRef) -> *const u32 {
    LEAVE.as_ptr()
}

/// What generations are told: whether they serve.
pub static SERVES: AtomicU32 = AtomicU32::new(0);

/// A region of one page whose name says what becomes of it: `before` has been something else, and any that is larger is
/// refused.
unsafe extern "C" fn region(
    _: GenerationRef,
    name: RStr<'static>,
    layout: u64,
    size: usize,
    len: usize,
    transfer: *mut Transfer,
) -> Reply<RawRegion> {
    #[repr(align(4096))]
    struct Page([AtomicU64; 512]);
    if size * len > size_of::<Page>() {
        // SAFETY: the transfer of this call.
        unsafe { answer(transfer, format!("{size} times {len}, like {layout:x}").as_bytes()) };
        return Reply { status: Status::FAILED, value: MaybeUninit::uninit() };
    }
    let page = Box::leak(Box::new(Page([const { AtomicU64::new(0) }; 512])));
    let number = u32::from(name.as_str() == "before");
    let value =
        RawRegion { start: page.0.as_mut_ptr().cast(), serves: SERVES.as_ptr(), number, is_new: 1 - number };
    Reply { status: Status::OK, value: MaybeUninit::new(value) }
}

/// How many have been given back.
pub static RELEASED: AtomicU32 = AtomicU32::new(0);

/// Another plugin that is not there, as a host without any has it.
unsafe extern "C" fn peer(_: GenerationRef, _: RStr<'static>, _: *mut Transfer) -> Reply<RawPeer> {
    unsafe extern "C" fn enter(
        _: *const c_void,
        _: *mut MaybeUninit<RawEntered>,
        transfer: *mut Transfer,
    ) -> Status {
        // SAFETY: lent for the call.
        unsafe { plugin_api::transfer::answer(transfer, b"nobody") };
        Status::NOT_LOADED
    }
    unsafe extern "C" fn leave(_: RawGuard) {
        unreachable!("nobody was entered");
    }
    let peer = RawPeer { peer: std::ptr::null(), enter, leave };
    Reply { status: Status::OK, value: MaybeUninit::new(peer) }
}

/// Answers with what it was told: a host that refuses everything but what leads to `fine`.
unsafe extern "C" fn register(
    _: GenerationRef,
    kind: RStr<'static>,
    key: RStr<'static>,
    method: RStr<'static>,
    details: RStr<'static>,
    every: u64,
    transfer: *mut Transfer,
) -> Status {
    if method.as_str() == "fine" {
        return Status::OK;
    }
    let told = format!("{kind}, {key}, {method}, {details}, {every}");
    // SAFETY: the transfer of this call.
    unsafe { answer(transfer, told.as_bytes()) };
    Status::FAILED
}

unsafe extern "C" fn withdraw(_: GenerationRef, kind: RStr<'static>, key: RStr<'static>) -> bool {
    kind.as_str() == "route" && key.as_str() == "GET /x"
}

unsafe extern "C" fn region_before(_: GenerationRef, number: u32) -> Reply<RawBefore> {
    unsafe extern "C" fn release(owner: *mut c_void) {
        RELEASED.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the box that was handed over, once.
        drop(unsafe { Box::from_raw(owner.cast::<[AtomicU64; 2]>()) });
    }
    if number == 0 {
        return Reply { status: Status::FAILED, value: MaybeUninit::uninit() };
    }
    let memory = Box::into_raw(Box::new([AtomicU64::new(7), AtomicU64::new(8)]));
    let layout = plugin_api::region::layout_of::<AtomicU64>();
    let value = RawBefore { start: memory.cast(), len: 16, layout, owner: memory.cast(), release };
    Reply { status: Status::OK, value: MaybeUninit::new(value) }
}

// Capture is not linked into test programs: nobody calls these.

unsafe extern "C" fn at_thread_exit(_: GenerationRef, _: *const c_void, _: *mut c_void) -> c_int {
    libc::ENOSYS
}

unsafe extern "C" fn key_create(_: GenerationRef, _: *mut u32, _: *const c_void) -> c_int {
    libc::ENOSYS
}

unsafe extern "C" fn key_delete(_: GenerationRef, _: u32) -> c_int {
    libc::ENOSYS
}

unsafe extern "C" fn thread_create(
    _: GenerationRef,
    _: *mut c_void,
    _: *const c_void,
    _: *const c_void,
    _: *mut c_void,
) -> c_int {
    libc::ENOSYS
}
