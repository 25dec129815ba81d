//! What the books ask of the operating system: threads that are loom's, and keys with a value for each of them.

use crate::abi::{ThreadExitFn, ThreadStartFn};
use crate::gate;
use loom::thread::{self, JoinHandle};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_void};

std::thread_local! {
    // Shared by all threads of a model, see `gate`. Numbers are never used twice.
    static NEXT: Cell<u32> = const { Cell::new(1) };
    static KEYS: RefCell<BTreeSet<u32>> = const { RefCell::new(BTreeSet::new()) };
    static THREADS: RefCell<Vec<JoinHandle<()>>> = const { RefCell::new(Vec::new()) };
}

loom::thread_local! {
    static ID: u32 = next();
    static VALUES: RefCell<BTreeMap<u32, *mut c_void>> = RefCell::default();
}

fn next() -> u32 {
    NEXT.replace(NEXT.get() + 1)
}

pub fn thread_id() -> u32 {
    ID.with(|id| *id)
}

pub fn thread_name(_: u32) -> Option<String> {
    None
}

pub fn key_create() -> Result<libc::pthread_key_t, c_int> {
    let key = next();
    KEYS.with_borrow_mut(|keys| keys.insert(key));
    Ok(key)
}

pub fn key_delete(key: libc::pthread_key_t) -> c_int {
    if KEYS.with_borrow_mut(|keys| keys.remove(&key)) { 0 } else { libc::EINVAL }
}

pub fn key_set(key: libc::pthread_key_t, value: *mut c_void) {
    VALUES.with(|values| values.borrow_mut().insert(key, value));
}

pub fn key_take(key: libc::pthread_key_t) -> *mut c_void {
    let value = VALUES.with(|values| values.borrow_mut().remove(&key));
    value.filter(|_| KEYS.with_borrow(|keys| keys.contains(&key))).unwrap_or(std::ptr::null_mut())
}

/// No model comes here: what a thread registers after its exit hook is libc's.
///
/// # Safety
/// None is needed.
pub unsafe fn at_thread_exit(_: ThreadExitFn, _: *mut c_void, _: *mut c_void) -> c_int {
    panic!("registered after the exit hook")
}

/// A thread whose exit hook runs after its start routine. With attributes it is refused.
///
/// # Safety
/// As for `pthread_create`.
pub unsafe fn thread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: ThreadStartFn,
    argument: *mut c_void,
) -> c_int {
    let _ = thread;
    if !attributes.is_null() {
        return libc::EAGAIN;
    }
    let argument = argument.expose_provenance();
    let handle = thread::spawn(move || {
        // SAFETY: promised by the caller; the argument is for this thread alone.
        unsafe { start(std::ptr::with_exposed_provenance_mut(argument)) };
        gate::end_current_thread();
    });
    THREADS.with_borrow_mut(|threads| threads.push(handle));
    0
}

/// Waits for all threads that were created.
pub fn join_all() {
    while let Some(thread) = THREADS.with_borrow_mut(Vec::pop) {
        thread.join().unwrap();
    }
}
