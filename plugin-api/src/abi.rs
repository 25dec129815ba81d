//! The boundary, as types and constants; nothing in this file runs. Read it from top to bottom: it is the
//! specification of what a host and a plugin exchange.
//!
//! * Magic and boundary version lead the [`Descriptor`]. Nothing behind them is read until they match.
//! * Appending is the only way to grow. Anything else is a new [`BOUNDARY_VERSION`].
//! * Every function carries `[state, thread]` in brackets: in which state of the generation it may be
//!   called, and from which threads.
//! * Arguments go in borrowed; results and error texts come out into memory of the caller. Nothing that
//!   one side allocated is freed by the other.
//! * Outcomes are numbers with names, so that an unknown number from a newer build stays defined.
//! * No function unwinds: panics are caught on the side where they happen.
//!
//! `abi_stable` gives the vocabulary (`RStr`, `RSlice`, prefix types for the two function tables) and a
//! second check of those tables after the library is open. The methods of interfaces are matched by name
//! and fingerprint instead (see [`RawMethod`]), which can be read without running any code.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use abi_stable::StableAbi;
use abi_stable::std_types::{RSlice, RStr};
use abi_stable::type_layout::TypeLayout;

/// The version of everything in this file. A change that is not an append changes it.
pub const BOUNDARY_VERSION: u32 = 1;

/// The first bytes of a [`Descriptor`].
pub const MAGIC: [u8; 16] = *b"reseat plugin \0\x01";

/// The symbol under which a library exports its [`Descriptor`].
pub const DESCRIPTOR_SYMBOL: &str = "RESEAT_PLUGIN";

/// How a call across the boundary ended.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u32);

impl Status {
    /// It returned; the result is valid.
    pub const OK: Status = Status(0);
    /// It returned an error; its text is in the [`Transfer`].
    pub const FAILED: Status = Status(1);
    /// It panicked; the [`Transfer`] holds `location\nmessage`.
    pub const PANICKED: Status = Status(2);
    /// An argument could not be understood; the text says which.
    pub const MALFORMED: Status = Status(3);
    /// The method exists, but not in this form (e.g. it cannot be called with JSON); the text says why.
    pub const UNSUPPORTED: Status = Status(4);
    /// The plugin that was to be entered does not serve; the text is its name, or what it implements.
    pub const NOT_LOADED: Status = Status(5);
    /// The host ends.
    pub const CLOSED: Status = Status(6);
    /// The gate has stayed closed for too long; the text says how many nanoseconds that was.
    pub const TIMED_OUT: Status = Status(7);
    /// Too many wait at the gate; the text says how many.
    pub const CROWDED: Status = Status(8);
}

/// What every call returns: the outcome, and the inline part of the result, which is initialised only if
/// the outcome is [`Status::OK`]. Up to 8 bytes of result come back in registers.
#[repr(C)]
#[derive(StableAbi)]
pub struct Reply<T> {
    /// How the call ended.
    pub status: Status,
    /// The inline part of the result.
    pub value: MaybeUninit<T>,
}

/// What a call carries besides its registers: the tail of the arguments on the way in, the tail of the
/// result or an error text on the way out. The caller owns it, and memory behind the head is the caller's
/// own business; the callee sees only this.
#[repr(C)]
#[derive(StableAbi)]
pub struct Transfer {
    /// Appends `len` bytes to the outgoing text or tail, in the caller's memory.
    /// Read anew for each call of it: the caller may put another function here meanwhile.
    /// [inside the call, calling thread]
    pub append: unsafe extern "C" fn(transfer: *mut Transfer, bytes: *const u8, len: usize),
    /// The incoming tail; written only for methods whose arguments have one.
    pub tail: MaybeUninit<RawSlice>,
}

/// Borrowed bytes, valid for the duration of a call.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct RawSlice {
    /// First byte; dangling if `len` is 0.
    pub start: *const u8,
    /// Length in bytes.
    pub len: usize,
}

/// A saved state, handed over by the host: whoever gets it releases it, once.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawState {
    /// First byte. Nobody writes to what is there until it is released.
    pub start: *const u8,
    /// Length in bytes.
    pub len: usize,
    /// The host's own.
    pub owner: *const c_void,
    /// Gives it back. [any time, any thread]
    pub release: unsafe extern "C" fn(owner: *const c_void),
}

/// A region of memory as one generation has it. Valid for as long as the generation is attached; other generations may
/// have the same memory, so it is read and written by atomics alone.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct RawRegion {
    /// First byte, at the beginning of a page.
    pub start: *mut c_void,
    /// The address of an `AtomicU32`: not 0 from the moment at which what is written is there for every generation.
    pub serves: *const u32,
    /// The generation's number for it.
    pub number: u32,
    /// 1: this call has made it, and it is all zero.
    pub is_new: u32,
}

/// What a region was before, handed over by the host: whoever gets it releases it, once. An older generation may still
/// write to it, so it is read by atomics alone; what is written to it is lost.
#[repr(C)]
#[derive(StableAbi)]
pub struct RawBefore {
    /// First byte, at the beginning of a page.
    pub start: *mut c_void,
    /// Length in bytes.
    pub len: usize,
    /// The fingerprint of its elements' description.
    pub layout: u64,
    /// The host's own.
    pub owner: *mut c_void,
    /// Gives it back. [attached, any thread]
    pub release: unsafe extern "C" fn(owner: *mut c_void),
}

/// A callback argument: valid for the duration of the call that brought it.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct RawCallback {
    /// The caller's own.
    pub context: *mut c_void,
    /// Hands over one packed set of arguments. `false`: the callback panicked, do not call it again.
    /// [inside the call, calling thread]
    pub call: unsafe extern "C" fn(context: *mut c_void, arguments: RawSlice) -> bool,
}

/// An interface of another plugin, for one that has stated that it calls it. Valid for as long as the asking generation is
/// attached.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct RawPeer {
    /// The host's own.
    pub peer: *const c_void,
    /// Enters the serving generation, waiting at a closed gate. OK: `entered` is filled in. Otherwise why not, as text in
    /// `transfer`. [attached, any thread]
    pub enter: unsafe extern "C" fn(
        peer: *const c_void,
        entered: *mut MaybeUninit<RawEntered>,
        transfer: *mut Transfer,
    ) -> Status,
    /// Leaves it: once for each time it was entered, on the same thread. [attached, the entering thread]
    pub leave: unsafe extern "C" fn(guard: RawGuard),
}

// SAFETY: the pointer is only handed back to the host, which takes it from any thread.
unsafe impl Send for RawPeer {}
// SAFETY: as above.
unsafe impl Sync for RawPeer {}

/// A generation of another plugin that has been entered.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct RawEntered {
    /// One entry for each method of the interface, in the order in which the asking plugin's manifest lists them; null
    /// where the serving build does not know it.
    pub methods: *const *const c_void,
    /// What they are called on.
    pub instance: InstanceRef,
    /// Where each call stores the address of its method.
    pub note: *const *mut (),
    /// The generation's number.
    pub generation: u64,
    /// What it is left with.
    pub guard: RawGuard,
}

/// What keeps a generation of another plugin that has been entered: the host's own two words.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct RawGuard(pub *const c_void, pub *const c_void);

/// One method of an interface as a plugin exports it. `call` has the type that the interface's macro gives
/// it; the fingerprint stands for that type.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RawMethod {
    /// The method's name.
    pub name: RStr<'static>,
    /// See `render::fingerprint`.
    pub fingerprint: u64,
    /// [serving or draining, any thread, concurrent]
    pub call: *const c_void,
}

// SAFETY: both are constants of the library: names and code addresses, which nobody changes.
unsafe impl Send for RawMethod {}
// SAFETY: as above.
unsafe impl Sync for RawMethod {}

/// The type of [`InterfaceExport::dynamic`].
pub type DynamicFn = unsafe extern "C" fn(
    instance: *const c_void,
    method: RStr<'static>,
    arguments: RStr<'static>,
    transfer: *mut Transfer,
) -> Reply<()>;

/// One interface as a plugin exports it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct InterfaceExport {
    /// The trait's name.
    pub name: RStr<'static>,
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Its methods.
    pub methods: RSlice<'static, RawMethod>,
    /// Calls a method by name with a JSON object of arguments; the result is JSON text.
    /// [serving or draining, any thread, concurrent]
    pub dynamic: DynamicFn,
}

/// How much of the heap a library has got and not given back.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapUse {
    /// How many blocks.
    pub blocks: u64,
    /// How many bytes, as they were asked for.
    pub bytes: u64,
}

/// The symbol [`DESCRIPTOR_SYMBOL`]: the only thing that a host looks up in a library.
#[repr(C)]
pub struct Descriptor {
    /// [`MAGIC`].
    pub magic: [u8; 16],
    /// [`BOUNDARY_VERSION`] of the plugin's build.
    pub boundary: u32,
    /// Size of this struct as the plugin's build knows it: what lies behind it must not be read.
    pub size: u32,
    /// FNV-1a of the manifest text: must equal that of the note in the file.
    pub manifest_hash: u64,
    /// The layout of [`PluginContract`] for the second check. [open, any thread]
    pub contract_layout: extern "C" fn() -> &'static TypeLayout,
    /// The layout of [`HostContract`] as the plugin expects it. [open, any thread]
    pub host_layout: extern "C" fn() -> &'static TypeLayout,
    /// The functions of the plugin's life.
    pub contract: PluginContractRef,
    /// The interfaces it implements.
    pub interfaces: RSlice<'static, InterfaceExport>,
    /// What it has of the heap, if it keeps count. [open or later, until it is closed, any thread]
    pub heap: Option<extern "C" fn() -> HeapUse>,
}

// SAFETY: a constant of the library: function addresses and text, which nobody changes.
unsafe impl Sync for Descriptor {}

/// Why an instance stops.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawStopping(pub u32);

impl RawStopping {
    /// It never served: it was refused after it had been created.
    pub const NEVER_SERVED: RawStopping = RawStopping(0);
    /// A newer build has taken over.
    pub const REPLACED: RawStopping = RawStopping(1);
    /// The build before has taken over again.
    pub const ROLLED_BACK: RawStopping = RawStopping(2);
    /// The plugin was taken out of service, and the host goes on.
    pub const REMOVED: RawStopping = RawStopping(3);
    /// The host ends.
    pub const HOST_ENDS: RawStopping = RawStopping(4);
}

/// The functions of a plugin's life, in the order in which they are called.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginContractRef)))]
#[sabi(missing_field(option))]
pub struct PluginContract {
    /// Connects this copy of the library to its host. [open, once, before anything else]
    pub attach: unsafe extern "C" fn(host: HostContractRef, generation: GenerationRef),
    /// Creates an empty instance. [attached, once, a thread of the host]
    pub create: unsafe extern "C" fn(config: RStr<'static>, transfer: *mut Transfer) -> Reply<InstanceRef>,
    /// Creates an instance from saved state, a frame whose checksum the host has compared. [attached, once, a thread of the host]
    pub restore: unsafe extern "C" fn(
        config: RStr<'static>,
        saved: RawState,
        transfer: *mut Transfer,
    ) -> Reply<InstanceRef>,
    /// Writes the state in state version `target` (0: the newest it writes) into `state`, piece by piece: a frame, if
    /// the outcome is OK, and nothing of use otherwise. An error text goes into `transfer`, as ever. Does not
    /// change the instance; may be called again. In a handover no call is in flight; for a copy that is only tried, calls
    /// may be. [created, a thread of the host]
    pub save: unsafe extern "C" fn(
        instance: InstanceRef,
        target: u32,
        state: *mut Transfer,
        transfer: *mut Transfer,
    ) -> Reply<()>,
    /// The instance is about to serve. [created, once, a thread of the host]
    pub started: unsafe extern "C" fn(instance: InstanceRef, transfer: *mut Transfer) -> Reply<()>,
    /// Is the instance fit to serve? [created or serving, a thread of the host]
    pub self_check: unsafe extern "C" fn(instance: InstanceRef, transfer: *mut Transfer) -> Reply<()>,
    /// Calls are in flight that something waits for: those that last are to end. The instance may serve on afterwards.
    /// [serving or draining, once for each drain, a thread of the host, beside calls]
    pub leave_now: unsafe extern "C" fn(instance: InstanceRef, transfer: *mut Transfer) -> Reply<()>,
    /// No call will come any more: join threads, drop runtimes. [drained, once, a thread of the host]
    pub stopping:
        unsafe extern "C" fn(instance: InstanceRef, why: RawStopping, transfer: *mut Transfer) -> Reply<()>,
    /// Drops the instance. [stopped, once, a thread of the host]
    pub destroy: unsafe extern "C" fn(instance: InstanceRef, transfer: *mut Transfer) -> Reply<()>,
    /// Disconnects: nothing of the host is used any more. [destroyed, once, last]
    #[sabi(last_prefix_field)]
    pub detach: unsafe extern "C" fn(),
}

/// An instance of a plugin; only the plugin knows what it points to.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy)]
pub struct InstanceRef(pub *const c_void);

// SAFETY: plugins are `Send + Sync`; the pointer is only handed back to the library it came from.
unsafe impl Send for InstanceRef {}
// SAFETY: as above.
unsafe impl Sync for InstanceRef {}

/// What the host knows of one generation. Valid from `attach` to the end of `detach`.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy)]
pub struct GenerationRef(pub *const c_void);

// SAFETY: it points to a record of the host that is itself `Sync` and outlives the library.
unsafe impl Send for GenerationRef {}
// SAFETY: as above.
unsafe impl Sync for GenerationRef {}

/// A destructor of a thread-local, as libc takes it.
pub type ThreadExitFn = unsafe extern "C" fn(object: *mut c_void);

/// A thread's start routine, as libc takes it.
pub type ThreadStartFn = unsafe extern "C-unwind" fn(argument: *mut c_void) -> *mut c_void;

/// What a host offers to its plugins. The host outlives them, so they may keep it.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostContractRef)))]
#[sabi(missing_field(option))]
pub struct HostContract {
    /// Would a line of this level be shown? Levels: 1 error … 5 trace. [attached, any thread]
    pub log_enabled: unsafe extern "C" fn(generation: GenerationRef, level: u32) -> bool,
    /// Writes a line to the host's log. [attached, any thread]
    pub log: unsafe extern "C" fn(
        generation: GenerationRef,
        level: u32,
        target: RStr<'static>,
        message: RStr<'static>,
    ),
    /// A counter that belongs to the plugin and outlives its generations: the address of an
    /// `AtomicU64` of the host, valid for the host's life. [attached, any thread]
    pub counter: unsafe extern "C" fn(generation: GenerationRef, name: RStr<'static>) -> *const u64,
    /// Stands in for `__cxa_thread_atexit_impl`. [attached, any thread]
    pub at_thread_exit: unsafe extern "C" fn(
        generation: GenerationRef,
        destructor: *const c_void,
        object: *mut c_void,
    ) -> c_int,
    /// Stands in for `pthread_key_create`. [attached, any thread]
    pub key_create:
        unsafe extern "C" fn(generation: GenerationRef, key: *mut u32, destructor: *const c_void) -> c_int,
    /// Stands in for `pthread_key_delete`. [attached, any thread]
    pub key_delete: unsafe extern "C" fn(generation: GenerationRef, key: u32) -> c_int,
    /// Stands in for `pthread_create`; `start` is a [`ThreadStartFn`]. [attached, any thread]
    pub thread_create: unsafe extern "C" fn(
        generation: GenerationRef,
        thread: *mut c_void,
        attributes: *const c_void,
        start: *const c_void,
        argument: *mut c_void,
    ) -> c_int,
    /// The address of an `AtomicU32` that is not 0 while calls in flight are asked to end soon, valid for as long as
    /// the generation is attached. [attached, any thread]
    pub cancel_flag: unsafe extern "C" fn(generation: GenerationRef) -> *const u32,
    /// Memory of the plugin by its name, of `len` elements of `size` bytes whose description has this fingerprint. An
    /// error text goes into `transfer`. [attached, any thread]
    pub region: unsafe extern "C" fn(
        generation: GenerationRef,
        name: RStr<'static>,
        layout: u64,
        size: usize,
        len: usize,
        transfer: *mut Transfer,
    ) -> Reply<RawRegion>,
    /// What a region of the same name was that had another layout or size; OK once for each region where there was one,
    /// and [`Status::FAILED`] otherwise. [attached, any thread]
    pub region_before: unsafe extern "C" fn(generation: GenerationRef, number: u32) -> Reply<RawBefore>,
    /// The interface of another plugin, by the name under which this plugin's manifest requires it. An error text goes into
    /// `transfer`. [attached, any thread]
    #[sabi(last_prefix_field)]
    pub peer: unsafe extern "C" fn(
        generation: GenerationRef,
        interface: RStr<'static>,
        transfer: *mut Transfer,
    ) -> Reply<RawPeer>,
    /// From now on the host calls this method of the generation for what comes under kind and key, if it serves. Replaces
    /// what it has there. `details` is JSON or empty, `every` in nanoseconds or 0. An error text goes into `transfer`.
    /// [attached, any thread]
    pub register: unsafe extern "C" fn(
        generation: GenerationRef,
        kind: RStr<'static>,
        key: RStr<'static>,
        method: RStr<'static>,
        details: RStr<'static>,
        every: u64,
        transfer: *mut Transfer,
    ) -> Status,
    /// Takes it back. `false`: there was none. [attached, any thread]
    pub withdraw:
        unsafe extern "C" fn(generation: GenerationRef, kind: RStr<'static>, key: RStr<'static>) -> bool,
}

const _: () = {
    assert!(size_of::<Status>() == 4);
    assert!(size_of::<Reply<u64>>() == 16);
    assert!(size_of::<RawMethod>() == 32);
    assert!(std::mem::offset_of!(Descriptor, boundary) == 16);
    assert!(std::mem::offset_of!(Descriptor, size) == 20);
    assert!(std::mem::offset_of!(Descriptor, manifest_hash) == 24);
};
