//! What the gate asks of the operating system. Linux answers; elsewhere, under Miri and in the models
//! there are stand-ins that are correct and slow.

#![allow(unsafe_code)] // system calls

#[cfg(all(target_os = "linux", not(miri), not(reseat_loom)))]
mod imp {
    const QUERY: libc::c_int = 0;
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn membarrier(command: libc::c_int) -> libc::c_long {
        // SAFETY: membarrier takes three integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0 as libc::c_int, 0 as libc::c_int) }
    }

    /// Whether this process may use [`barrier`] from now on. Asked for once, tried once: the kernel
    /// promises that a command that has succeeded goes on succeeding until `exec`.
    pub(in super::super) fn grants_barrier() -> bool {
        let needed = libc::c_long::from(PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED);
        let offered = membarrier(QUERY);
        offered >= 0
            && offered & needed == needed
            && membarrier(REGISTER_PRIVATE_EXPEDITED) == 0
            && membarrier(PRIVATE_EXPEDITED) == 0
    }

    /// A full barrier in every thread of this process, each at some point of its own program.
    pub(in super::super) fn barrier() {
        if membarrier(PRIVATE_EXPEDITED) != 0 {
            // A seccomp filter installed after start can do this. Going on would mean closing a
            // library under a live call.
            eprintln!("reseat: membarrier was granted at start and is refused now; aborting");
            std::process::abort();
        }
    }

    /// The kernel's number for the calling thread.
    pub(in super::super) fn thread_id() -> u32 {
        // SAFETY: gettid has no arguments and cannot fail.
        unsafe { libc::gettid() }.cast_unsigned()
    }

    /// The calling thread's name as the kernel keeps it: up to 15 bytes, then zeros.
    pub(in super::super) fn thread_name() -> [u8; 16] {
        let mut name = [0; 16];
        // SAFETY: PR_GET_NAME writes at most 16 bytes to the given address.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        name
    }

    /// The present name of another thread of this process, if that thread still exists.
    pub(in super::super) fn name_of_thread(id: u32) -> Option<String> {
        let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok()?;
        Some(name.trim_end().to_owned())
    }
}

#[cfg(not(all(target_os = "linux", not(miri), not(reseat_loom))))]
mod imp {
    pub(in super::super) fn grants_barrier() -> bool {
        false
    }

    pub(in super::super) fn barrier() {
        unreachable!("a barrier is only asked for where it was granted");
    }

    pub(in super::super) fn thread_id() -> u32 {
        0
    }

    pub(in super::super) fn thread_name() -> [u8; 16] {
        [0; 16]
    }

    pub(in super::super) fn name_of_thread(_: u32) -> Option<String> {
        None
    }
}

#[cfg(all(target_os = "linux", not(reseat_loom)))]
mod word {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    /// Longer waits than this are cut short; every caller looks again anyway.
    const LONGEST: Duration = Duration::from_secs(3600);

    /// Sleeps while `word` is `expected`, until woken or for `timeout`; may return early.
    pub(in super::super) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
        let timeout = timeout.min(LONGEST);
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,       // at most 3600
            tv_nsec: timeout.subsec_nanos() as libc::c_long, // below 10⁹
        };
        let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: both addresses are those of live references for the length of the call.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, expected, &raw const timeout) };
    }

    /// Wakes every thread that sleeps on `word`.
    pub(in super::super) fn wake_all(word: &AtomicU32) {
        let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel uses the address as a key and does not write to it.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, i32::MAX) };
    }
}

#[cfg(not(any(target_os = "linux", reseat_loom)))]
mod word {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    const LOOK_AGAIN: Duration = Duration::from_micros(200);

    pub(in super::super) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
        if word.load(Ordering::Acquire) == expected {
            std::thread::sleep(timeout.min(LOOK_AGAIN));
        }
    }

    pub(in super::super) fn wake_all(_: &AtomicU32) {}
}

pub(super) use imp::{barrier, grants_barrier, name_of_thread, thread_id, thread_name};
#[cfg(not(reseat_loom))]
pub(super) use word::{wait, wake_all};
