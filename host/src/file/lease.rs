//! Asks the kernel whether anybody still has a file open for writing.
//!
//! A read lease is granted only if nobody does, so it is a witness that the last writer is done; a size that
//! no longer changes is not. The lease is given back at once.
//!
//! # Platform notes
//!
//! Leases exist on Linux, for files of our own on local file systems. Elsewhere the answer is
//! [`Writers::Unknown`].

#![allow(unsafe_code)] // fcntl with F_SETLEASE and F_SETSIG has no safe wrapper

use std::fs::File;
use std::io;

/// Who has a file open for writing.
#[derive(Debug)]
pub(super) enum Writers {
    /// Nobody, at the moment of the question.
    Nobody,
    /// Somebody.
    Somebody,
    /// The kernel does not say, for this reason.
    Unknown(io::Error),
}

/// Asks who writes to a file that was opened read-only.
#[cfg(target_os = "linux")]
pub(super) fn writers(file: &File) -> Writers {
    let Some(_signal) = Harmless::set(file) else { return Writers::Unknown(io::Error::last_os_error()) };
    if fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) == -1 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock {
            Writers::Somebody
        } else {
            Writers::Unknown(error)
        };
    }
    // A writer that arrives in between waits for the few hundred nanoseconds until this line.
    fcntl(file, libc::F_SETLEASE, libc::F_UNLCK);
    Writers::Nobody
}

/// Asks who writes to a file that was opened read-only.
#[cfg(not(target_os = "linux"))]
pub(super) fn writers(_: &File) -> Writers {
    Writers::Unknown(io::ErrorKind::Unsupported.into())
}

/// While this lives, a writer that arrives during the lease sends us a signal that is ignored by default,
/// instead of `SIGIO`, which ends the process by default.
#[cfg(target_os = "linux")]
struct Harmless<'a> {
    file: &'a File,
    before: libc::c_int,
}

#[cfg(target_os = "linux")]
impl<'a> Harmless<'a> {
    fn set(file: &'a File) -> Option<Self> {
        const F_SETSIG: libc::c_int = 10;
        const F_GETSIG: libc::c_int = 11;
        let before = fcntl(file, F_GETSIG, 0);
        let set = before != -1 && fcntl(file, F_SETSIG, libc::SIGURG) != -1;
        set.then_some(Harmless { file, before })
    }
}

#[cfg(target_os = "linux")]
impl Drop for Harmless<'_> {
    fn drop(&mut self) {
        const F_SETSIG: libc::c_int = 10;
        fcntl(self.file, F_SETSIG, self.before);
    }
}

#[cfg(target_os = "linux")]
fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> libc::c_int {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open because `file` is borrowed, and every command used here takes an
    // integer, so the kernel reads and writes no memory of ours.
    unsafe { libc::fcntl(file.as_raw_fd(), command, argument) }
}

/// The signal that a file sends when its lease is broken; 0 is the default.
#[cfg(all(test, target_os = "linux"))]
pub(super) fn signal_of(file: &File) -> libc::c_int {
    const F_GETSIG: libc::c_int = 11;
    fcntl(file, F_GETSIG, 0)
}
