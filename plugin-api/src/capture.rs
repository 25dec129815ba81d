//! What a library would leave behind in the process, handed to the host instead.
//!
//! A Rust library that is closed is usually not unloaded: a `thread_local!` with a destructor pins it until
//! the thread ends, a pthread key crashes the thread that ends after it, a running thread loses its code.
//! `export_plugin!` therefore puts four functions of libc's names into the library, with hidden visibility
//! so that only this library sees them, and each jumps to its stand-in here. With a host attached, the host
//! keeps the books and closes the library only when nothing is left. Without one (a plugin's own unit
//! tests, or constructors that run before the host attaches) everything goes to libc, as if none of this
//! were there.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::abi::{ThreadExitFn, ThreadStartFn};
use crate::link::link;

/// A function of libc, looked up behind this library, once.
struct Real {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Real {
    const fn new(name: &'static CStr) -> Self {
        Real { name, found: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn get(&self) -> *mut c_void {
        let known = self.found.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a constant handle and a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        // libc exports all four; without them std itself could not run.
        assert!(!found.is_null(), "libc has no {:?}", self.name);
        self.found.store(found, Ordering::Relaxed);
        found
    }
}

/// Stands in for `__cxa_thread_atexit_impl`.
///
/// # Safety
/// As for libc's.
pub unsafe extern "C" fn at_thread_exit(
    destructor: ThreadExitFn,
    object: *mut c_void,
    library: *mut c_void,
) -> c_int {
    if let Some(link) = link() {
        // SAFETY: attached; the arguments are those that libc would get.
        return unsafe { link.host.at_thread_exit()(link.generation, destructor as *const c_void, object) };
    }
    static REAL: Real = Real::new(c"__cxa_thread_atexit_impl");
    type Fn = unsafe extern "C" fn(ThreadExitFn, *mut c_void, *mut c_void) -> c_int;
    // SAFETY: libc's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, Fn>(REAL.get())(destructor, object, library) }
}

/// Stands in for `pthread_key_create`.
///
/// # Safety
/// As for libc's.
pub unsafe extern "C" fn key_create(
    key: *mut libc::pthread_key_t,
    destructor: Option<ThreadExitFn>,
) -> c_int {
    if let Some(link) = link() {
        let destructor = destructor.map_or(std::ptr::null(), |f| f as *const c_void);
        // SAFETY: attached; the arguments are those that libc would get.
        return unsafe { link.host.key_create()(link.generation, key, destructor) };
    }
    static REAL: Real = Real::new(c"pthread_key_create");
    type Fn = unsafe extern "C" fn(*mut libc::pthread_key_t, Option<ThreadExitFn>) -> c_int;
    // SAFETY: libc's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, Fn>(REAL.get())(key, destructor) }
}

/// Stands in for `pthread_key_delete`. std creates key 0, then another, and deletes 0: without this, the
/// host's books would later delete somebody else's key.
///
/// # Safety
/// As for libc's.
pub unsafe extern "C" fn key_delete(key: libc::pthread_key_t) -> c_int {
    if let Some(link) = link() {
        // SAFETY: attached; the arguments are those that libc would get.
        return unsafe { link.host.key_delete()(link.generation, key) };
    }
    static REAL: Real = Real::new(c"pthread_key_delete");
    type Fn = unsafe extern "C" fn(libc::pthread_key_t) -> c_int;
    // SAFETY: libc's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, Fn>(REAL.get())(key) }
}

/// Stands in for `pthread_create`.
///
/// # Safety
/// As for libc's.
pub unsafe extern "C" fn thread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: ThreadStartFn,
    argument: *mut c_void,
) -> c_int {
    if let Some(link) = link() {
        // SAFETY: attached; the arguments are those that libc would get.
        return unsafe {
            link.host.thread_create()(
                link.generation,
                thread.cast(),
                attributes.cast(),
                start as *const c_void,
                argument,
            )
        };
    }
    static REAL: Real = Real::new(c"pthread_create");
    type Fn = unsafe extern "C" fn(
        *mut libc::pthread_t,
        *const libc::pthread_attr_t,
        ThreadStartFn,
        *mut c_void,
    ) -> c_int;
    // SAFETY: libc's function of this name has this type.
    unsafe { std::mem::transmute::<*mut c_void, Fn>(REAL.get())(thread, attributes, start, argument) }
}

/// The four names. Expanded in the plugin's own crate, because a definition in a dependency would not be
/// linked in for its own sake. Hidden: an exported definition would lose against libc's, which comes first
/// in the lookup order, and would be seen by others.
#[doc(hidden)]
#[macro_export]
macro_rules! __capture {
    () => {
        #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
        $crate::__capture!(@names "jmp");
        #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "aarch64"))]
        $crate::__capture!(@names "b");
    };
    (@names $jump:literal) => {
        $crate::__capture!(@name $jump "__cxa_thread_atexit_impl" $crate::__private::capture::at_thread_exit);
        $crate::__capture!(@name $jump "pthread_key_create" $crate::__private::capture::key_create);
        $crate::__capture!(@name $jump "pthread_key_delete" $crate::__private::capture::key_delete);
        $crate::__capture!(@name $jump "pthread_create" $crate::__private::capture::thread_create);
    };
    (@name $jump:literal $name:literal $target:path) => {
        ::core::arch::global_asm!(
            ".pushsection .text.reseat,\"ax\",@progbits",
            concat!(".globl ", $name),
            concat!(".hidden ", $name),
            concat!(".type ", $name, ",@function"),
            concat!($name, ":"),
            concat!($jump, " {target}"),
            concat!(".size ", $name, ", .-", $name),
            ".popsection",
            target = sym $target,
        );
    };
}
