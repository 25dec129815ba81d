//! Whose a state directory is, and where its socket is found.
//!
//! Invariants:
//! 1. Whoever holds the lock on `host.lock` is the directory's only host. The kernel releases it however the host
//!    ends, so a socket that is found while the lock is held is left behind and may be replaced.
//! 2. The file itself is never removed: two hosts could each lock a file of that name.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::protocol::SOCKET;

const LOCK: &str = "host.lock";

/// The longest path that the kernel takes for a socket, in bytes.
const PATH_LIMIT: usize = 107;

/// A directory that is ours until this is dropped.
pub struct Claim(#[allow(dead_code)] File); // it is the lock

impl Claim {
    /// Takes a state directory, which is made if need be.
    ///
    /// # Errors
    /// A host runs there already, or the directory cannot be used.
    pub fn take(state_dir: &Path) -> Result<Claim> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .with_context(|| format!("the state directory {} cannot be made", state_dir.display()))?;
        let path = state_dir.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!(
                "a host already runs in {}{}: stop it, or give this one another --state-dir",
                state_dir.display(),
                holder(&mut file)
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be locked", path.display()));
            }
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()))?;
        Ok(Claim(file))
    }
}

/// Who has the lock; nothing in the moment before it has said so.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.read_to_string(&mut text);
    text.trim().parse().map_or_else(|_| String::new(), |pid: u32| format!(" (pid {pid})"))
}

/// The socket of a state directory under a path that is short enough for the kernel.
pub struct SocketPath {
    path: PathBuf,
    _dir: Option<OwnedFd>, // a short path leads through it
}

impl SocketPath {
    /// # Errors
    /// The directory's own path is too long, and it cannot be opened.
    pub fn of(state_dir: &Path) -> io::Result<SocketPath> {
        let path = state_dir.join(SOCKET);
        if path.as_os_str().as_bytes().len() <= PATH_LIMIT {
            return Ok(SocketPath { path, _dir: None });
        }
        let dir =
            rustix::fs::open(state_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(SOCKET);
        Ok(SocketPath { path, _dir: Some(dir) })
    }

    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_claimed_once_at_a_time_and_the_holder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::take(dir.path()).unwrap();
        let error = Claim::take(dir.path()).err().unwrap().to_string();
        let pid = format!("(pid {})", std::process::id());
        assert!(error.starts_with("a host already runs in") && error.contains(&pid), "{error}");
        drop(claim);
        assert!(Claim::take(dir.path()).is_ok());
    }

    #[test]
    fn a_long_directory_has_a_short_path_to_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(120));
        let _claim = Claim::take(&long).unwrap();
        let path = SocketPath::of(&long).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(path.as_path()).unwrap();
        assert!(long.join(SOCKET).exists());
    }
}
