//! What the operating system knows about a mapped image, and the four functions of libc for which the
//! capture stands in. A port to another system is another file like this one.

use std::ffi::{CStr, CString, c_int, c_void};
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};
use plugin_api::abi::{ThreadExitFn, ThreadStartFn};

/// Opens a library so that nothing else binds to its symbols, and everything it needs is there at once.
///
/// # Safety
/// Runs the library's constructors: the caller vouches for it.
pub(super) unsafe fn open(path: &Path) -> Result<Library, libloading::Error> {
    // SAFETY: promised by the caller.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
}

/// Whether the loader still knows an image by this path. Runs no code of the image.
pub(super) fn is_open(path: &Path) -> bool {
    // SAFETY: RTLD_NOLOAD never loads anything, so no constructor runs. The handle it may give is closed
    // at once, which undoes the count it added.
    unsafe { Library::open(Some(path), RTLD_LAZY | libc::RTLD_NOLOAD) }.is_ok()
}

/// The address range of the image that was loaded from `path`, if it is mapped: from the first to the end of
/// the last PT_LOAD segment.
pub(super) fn mapped_range(path: &Path) -> Option<Range<usize>> {
    struct Search {
        path: CString,
        found: Option<Range<usize>>,
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid record for the duration of this visit, and our own `Search`.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        // SAFETY: the loader's names are C strings.
        if info.dlpi_name.is_null() || unsafe { CStr::from_ptr(info.dlpi_name) } != &*search.path {
            return 0;
        }
        // SAFETY: the loader states address and number of the program headers of a mapped image.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
        let segments = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let base = info.dlpi_addr as usize;
        let start = segments().map(|s| base + s.p_vaddr as usize).min().unwrap_or(base);
        let end = segments().map(|s| base + s.p_vaddr as usize + s.p_memsz as usize).max().unwrap_or(base);
        search.found = Some(page_down(start)..page_up(end));
        1
    }
    let mut search = Search { path: CString::new(path.as_os_str().as_bytes()).ok()?, found: None };
    // SAFETY: `visit` has the type that the loader calls, and `search` lives until it returns.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    search.found
}

/// From libc, and not from the auxiliary vector: so that this runs under valgrind, which hides part of that.
fn page() -> usize {
    // SAFETY: takes a constant.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("Linux has pages")
}

fn page_down(address: usize) -> usize {
    address & !(page() - 1)
}

pub(super) fn page_up(address: usize) -> usize {
    page_down(address + page() - 1)
}

/// The signals whose handler lies in `range`.
pub(super) fn handlers_in(range: &Range<usize>) -> Vec<c_int> {
    (1..=64)
        .filter(|&signal| {
            // SAFETY: an all-zero `sigaction` is a valid value to be overwritten; a null new action asks only.
            let action = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                (libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0).then_some(action)
            };
            action.is_some_and(|action| range.contains(&action.sa_sigaction))
        })
        .collect()
}

/// Reserves the addresses of an image that has just been closed, so that a stale call faults instead of
/// running whatever is mapped there next. `false`: something else took the place first, which is harmless.
pub(super) fn entomb(range: &Range<usize>) -> bool {
    // SAFETY: MAP_FIXED_NOREPLACE maps only where nothing is mapped; nobody is promised this memory.
    let mapped = unsafe {
        libc::mmap(
            range.start as *mut c_void,
            range.len(),
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return false;
    }
    if mapped as usize != range.start {
        // A kernel older than 4.17 takes the address for a hint.
        // SAFETY: this mapping was made above and is used by nobody.
        unsafe { libc::munmap(mapped, range.len()) };
        return false;
    }
    true
}

/// Gives up a range that [`entomb`] reserved.
pub(super) fn disentomb(range: &Range<usize>) {
    // SAFETY: the caller got the range from a successful `entomb`; it holds nothing but PROT_NONE pages.
    unsafe { libc::munmap(range.start as *mut c_void, range.len()) };
}

/// A pthread key without a destructor: what the plugin's destructor is, the book knows.
pub(super) fn key_create() -> Result<libc::pthread_key_t, c_int> {
    let mut key = 0;
    // SAFETY: writes one key.
    match unsafe { libc::pthread_key_create(&raw mut key, None) } {
        0 => Ok(key),
        error => Err(error),
    }
}

/// Deletes a key.
pub(super) fn key_delete(key: libc::pthread_key_t) -> c_int {
    // SAFETY: libc refuses a key that does not exist.
    unsafe { libc::pthread_key_delete(key) }
}

/// Takes the calling thread's value out of a key.
pub(super) fn key_take(key: libc::pthread_key_t) -> *mut c_void {
    // SAFETY: libc answers null for a key that does not exist or has no value here.
    unsafe {
        let value = libc::pthread_getspecific(key);
        if !value.is_null() {
            libc::pthread_setspecific(key, std::ptr::null());
        }
        value
    }
}

/// Registers a destructor with libc itself: the library is pinned until this thread ends.
///
/// # Safety
/// As for `__cxa_thread_atexit_impl`; `library` is an address inside of the image.
pub(super) unsafe fn at_thread_exit(
    destructor: ThreadExitFn,
    object: *mut c_void,
    library: *mut c_void,
) -> c_int {
    unsafe extern "C" {
        fn __cxa_thread_atexit_impl(f: ThreadExitFn, object: *mut c_void, library: *mut c_void) -> c_int;
    }
    // SAFETY: promised by the caller.
    unsafe { __cxa_thread_atexit_impl(destructor, object, library) }
}

/// Creates a thread.
///
/// # Safety
/// As for `pthread_create`.
pub(super) unsafe fn thread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    start: ThreadStartFn,
    argument: *mut c_void,
) -> c_int {
    type PlainStart = extern "C" fn(*mut c_void) -> *mut c_void;
    // SAFETY: the two types differ only in whether the routine may unwind, which libc allows it (that is how
    // cancellation ends a thread) and the `libc` crate does not say. The rest is promised by the caller.
    unsafe {
        libc::pthread_create(
            thread,
            attributes,
            std::mem::transmute::<ThreadStartFn, PlainStart>(start),
            argument,
        )
    }
}

/// Reads this process's own memory, which may not be there; how many bytes could be read, or `None` if none.
pub(super) fn read_memory(start: usize, mut into: IoSliceMut<'_>) -> Option<usize> {
    let remote = libc::iovec { iov_base: start as *mut c_void, iov_len: into.len() };
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the kernel checks the remote side, and writes to the local one, which is ours, no more than its length.
    let read =
        unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).ok().filter(|&read| read > 0)
}

/// Closes all descriptors from this one on.
///
/// # Safety
/// Nobody in this process uses any of them.
pub(super) unsafe fn close_descriptors_from(first: u32) {
    // SAFETY: takes three integers; what it closes is promised by the caller. Kernels before 5.9 know no such call:
    // then what was not marked to be closed stays open.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// The kernel's number of the calling thread.
pub(super) fn thread_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// A thread's name, as the kernel keeps it.
pub(super) fn thread_name(id: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}
