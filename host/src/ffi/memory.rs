//! Memory that several can have: an anonymous file, and mappings of it.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::Resource;

use super::os_linux::page_up;

/// A file without a name. Its size never changes.
pub(super) struct Memory {
    file: File,
    bytes: usize,
}

impl Memory {
    /// New, and all zero. `name` is for whoever reads the memory map of the process.
    pub(super) fn new(name: &str, bytes: usize) -> io::Result<Memory> {
        let bytes = page_up(bytes);
        // Beyond this limit the kernel would send a signal, which ends the process.
        let limit = rustix::process::getrlimit(Resource::Fsize).current;
        if let Some(limit) = limit.filter(|&limit| bytes as u64 > limit) {
            let why =
                format!("this process may make {limit} bytes (`ulimit -f`; in a helper, `Probe::memory`)");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, bytes as u64)?;
        // So that no access behind its end can come about.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Memory { file: file.into(), bytes })
    }

    /// Memory of another process, to be looked at.
    pub(super) fn of(file: File, bytes: usize) -> Memory {
        Memory { file, bytes: page_up(bytes) }
    }

    /// Under which number this process has it open.
    pub(super) fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Maps it, somewhere.
    pub(super) fn map(self: &Arc<Self>, view: View) -> io::Result<Mapping> {
        // SAFETY: no address is asked for, so nothing else is touched.
        let start = unsafe { self.mmap(std::ptr::null_mut(), view, 0) }?;
        Ok(Mapping { start, memory: self.clone() })
    }

    /// # Safety
    /// With `MAP_FIXED`, `at` is the beginning of a mapping of this memory.
    unsafe fn mmap(&self, at: *mut c_void, view: View, flags: i32) -> io::Result<*mut c_void> {
        let sharing = match view {
            View::Shared => libc::MAP_SHARED,
            // It is not expected to be written to, so no memory is set aside for that.
            View::Private => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the file is open and has so many bytes; what is at `at` is promised by the caller.
        let start = unsafe { libc::mmap(at, self.bytes, rights, sharing | flags, self.descriptor(), 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(start) }
    }
}

/// What becomes of what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// Everybody who has the memory sees it.
    Shared,
    /// Only this mapping has it, page by page.
    Private,
}

/// A part of the address space in which some memory is. Dropped, it is gone from there.
pub(super) struct Mapping {
    start: *mut c_void,
    memory: Arc<Memory>,
}

// SAFETY: it is an address of this process, which belongs to no thread; nothing is read or written through it here.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn start(&self) -> *mut c_void {
        self.start
    }

    /// The same memory at the same addresses, in another way, in one step for whoever uses it. What was written to a
    /// private view is lost.
    pub(super) fn change(&self, view: View) -> io::Result<()> {
        // SAFETY: the beginning of this mapping, which has the size of the memory. What was handed out of it are
        // atomics, which may change at any time.
        unsafe { self.memory.mmap(self.start, view, libc::MAP_FIXED) }.map(drop)
    }

    /// Whether anything was written to a private view.
    pub(super) fn was_written(&self) -> io::Result<bool> {
        /// A page that is there, or swapped out.
        const THERE: u64 = 0b11 << 62;
        /// It belongs to the file: nobody has made it a copy of its own.
        const OF_THE_FILE: u64 = 1 << 61;
        let pagemap = File::open("/proc/self/pagemap")?;
        let page = page_up(1);
        let pages = self.memory.bytes / page;
        let mut entries = [0; 8 << 10];
        let first = (self.start.addr() / page) as u64 * 8;
        for from in (0..pages).step_by(entries.len() / 8) {
            let some = &mut entries[..8 * (pages - from).min(1 << 10)];
            pagemap.read_exact_at(some, first + 8 * from as u64)?;
            let mut some =
                some.chunks_exact(8).map(|entry| u64::from_ne_bytes(entry.try_into().expect("eight")));
            if some.any(|entry| entry & THERE != 0 && entry & OF_THE_FILE == 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, with this size; whoever drops it vouches that nobody uses it any more.
        unsafe { libc::munmap(self.start, self.memory.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    fn word(mapping: &Mapping, page: usize) -> &AtomicU64 {
        assert!(page * page_up(1) < mapping.memory.bytes);
        // SAFETY: it lies in the mapping, at the beginning of a page.
        unsafe { &*mapping.start().cast::<u8>().add(page * page_up(1)).cast() }
    }

    #[test]
    fn a_private_view_shows_what_others_write_until_it_is_written_to_and_then_says_so() {
        let memory = Arc::new(Memory::new("test", 3000 * page_up(1)).unwrap());
        let (shared, private) = (memory.map(View::Shared).unwrap(), memory.map(View::Private).unwrap());
        assert!(!private.was_written().unwrap());
        word(&shared, 2999).store(5, Relaxed);
        assert_eq!(word(&private, 2999).load(Relaxed), 5);
        word(&shared, 2999).store(6, Relaxed);
        assert_eq!(word(&private, 2999).load(Relaxed), 6);
        assert!(!private.was_written().unwrap(), "it was read");
        word(&private, 2999).store(7, Relaxed);
        assert!(private.was_written().unwrap());
        assert_eq!(word(&shared, 2999).load(Relaxed), 6);
        // From now on it is the same, where it was.
        private.change(View::Shared).unwrap();
        assert_eq!(word(&private, 2999).load(Relaxed), 6);
        word(&private, 0).store(8, Relaxed);
        assert_eq!(word(&shared, 0).load(Relaxed), 8);
    }

    #[test]
    fn memory_cannot_be_made_smaller_under_those_who_have_it() {
        let memory = Memory::new("test", 1).unwrap();
        assert!(rustix::fs::ftruncate(&memory.file, 0).is_err());
        assert!(rustix::fs::ftruncate(&memory.file, 1 << 20).is_err());
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        // A file without content costs nothing, but there are not so many addresses.
        let memory = Memory::new("test", isize::MAX as usize / 2).map(Arc::new);
        assert!(memory.and_then(|memory| memory.map(View::Shared)).is_err());
    }
}
