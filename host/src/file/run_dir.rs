//! The directory `<state>/run/<pid>` that holds the private copies of one running host.
//!
//! Invariants:
//! 1. The directory, `run` and the state directory can be changed by us alone.
//! 2. Its owner holds a lock on the file `started` in it from before the directory has its final name until
//!    after the last file in it is gone.
//! 3. A directory is swept only by a process that holds that lock *and* finds that the recorded process is
//!    gone. The kernel releases the lock however the owner ends; the record covers file systems without
//!    locks. A process id that is used again therefore neither keeps garbage nor loses files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, test_kill_process};

use super::error::Exposure;
use super::stage::StageError;
use super::trust::exposure;

const RECORD: &str = "started";

/// The directory of this host. Removed when dropped, if nothing is left in it.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the directory, after sweeping what dead processes left.
    pub(super) fn open(state_dir: &Path) -> Result<Self, StageError> {
        // Absolute, so that a copy can be opened wherever the process goes.
        let state_dir =
            std::path::absolute(state_dir).map_err(|source| directory_error(state_dir, source))?;
        let run = state_dir.join("run");
        for directory in [&state_dir, &run] {
            make_private(directory).map_err(|source| directory_error(directory, source))?;
        }
        check_private(&run)?;
        sweep(&run);
        Self::make(&run).map_err(|source| directory_error(&run, source))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn make(run: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let pid = std::process::id();
        // Made under another name, so that a directory with a final name is always locked.
        let temporary = run.join(format!(".{pid}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        DirBuilder::new().mode(0o700).create(&temporary)?;
        let made = record(&temporary).and_then(|lock| {
            let path = claim(&temporary, run, pid)?;
            Ok(RunDir { path, _lock: lock })
        });
        if made.is_err() {
            remove(&temporary);
        }
        made
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Files of lingering generations stay, and so does the directory; the next host sweeps it.
        let only_the_record = fs::read_dir(&self.path).is_ok_and(|listing| listing.count() == 1);
        if only_the_record {
            remove(&self.path);
        }
    }
}

/// Gives a finished directory its final name: the process id, or, for a second host in this process, more.
fn claim(temporary: &Path, run: &Path, pid: u32) -> io::Result<PathBuf> {
    for number in 1..=10_000 {
        let name = if number == 1 { pid.to_string() } else { format!("{pid}-{number}") };
        let path = run.join(name);
        // A directory cannot be renamed over one that has something in it, and each of ours has its record.
        match fs::rename(temporary, &path) {
            Ok(()) => return Ok(path),
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Makes the record, which is locked and complete from the moment it has its name: whoever sweeps meanwhile
/// finds no record and a living process.
fn record(directory: &Path) -> io::Result<File> {
    let unfinished = directory.join(".started");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(started(std::process::id()).unwrap_or_default().as_bytes())?;
    // Without locks the record alone has to do, by invariant 3.
    let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
    fs::rename(unfinished, directory.join(RECORD))?;
    Ok(file)
}

fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(directory)
}

fn check_private(run: &Path) -> Result<(), StageError> {
    let stat = fs::symlink_metadata(run).map_err(|source| directory_error(run, source))?;
    if !stat.is_dir() {
        return Err(directory_error(run, io::ErrorKind::NotADirectory.into()));
    }
    if let Some(exposure) = exposure(&stat) {
        return Err(StageError::NotPrivate { directory: run.into(), exposure });
    }
    let above = run.parent().unwrap_or(run);
    let stat = fs::metadata(above).map_err(|source| directory_error(above, source))?;
    match exposure(&stat) {
        // In a sticky directory others cannot exchange what is ours.
        Some(Exposure::Writable { mode }) if mode & 0o1000 != 0 => Ok(()),
        Some(exposure) => Err(StageError::NotPrivate { directory: above.into(), exposure }),
        None => Ok(()),
    }
}

fn directory_error(directory: &Path, source: io::Error) -> StageError {
    StageError::Directory { directory: directory.into(), source }
}

/// Removes the directories of processes that are gone. What cannot be removed stays for the next time.
fn sweep(run: &Path) {
    let Ok(listing) = fs::read_dir(run) else { return };
    for entry in listing.filter_map(Result::ok) {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.trim_start_matches('.').split('-').next()?.parse().ok());
        if let Some(pid) = pid {
            sweep_one(&entry.path(), pid);
        }
    }
}

fn sweep_one(directory: &Path, pid: u32) {
    let record = directory.join(RECORD);
    let Ok(lock) = File::open(&record) else {
        // Its owner did not come as far as to make a record. While the owner lives, it may be about to.
        if started(pid).is_none() {
            let _ = fs::remove_file(directory.join(".started"));
            let _ = fs::remove_dir(directory);
        }
        return;
    };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
        return;
    }
    let was_recorded = |now: String| fs::read_to_string(&record).is_ok_and(|known| known == now);
    if is_same(&lock, &record) && !started(pid).is_some_and(was_recorded) {
        tracing::debug!(directory = %directory.display(), "sweeping what a dead host left");
        // The lock is held until the record is gone: nobody else sweeps here, and a new process of this id
        // finds its name taken and uses another.
        remove(directory);
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let stat = |stat: fs::Metadata| (stat.dev(), stat.ino());
    matches!((file.metadata().map(stat), fs::metadata(path).map(stat)), (Ok(a), Ok(b)) if a == b)
}

/// Removes a directory of copies: what is in it first, the record, by invariant 2, last.
fn remove(directory: &Path) {
    let Ok(listing) = fs::read_dir(directory) else { return };
    let copies = listing.filter_map(Result::ok).filter(|entry| entry.file_name() != RECORD);
    let left = copies.filter(|copy| fs::remove_file(copy.path()).is_err()).count();
    if left == 0 {
        let _ = fs::remove_file(directory.join(RECORD));
        let _ = fs::remove_dir(directory);
    }
}

/// When a process began, as a text that no other process of this id has; `None` if there is no such process.
pub(super) fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // The name of the program is in brackets and may hold anything; the 20th field behind it is the time.
    let ticks = stat.ok().and_then(|stat| Some(stat.rsplit_once(')')?.1.split(' ').nth(20)?.to_owned()));
    match ticks {
        Some(ticks) => Some(format!("{ticks} {}", boot.trim())),
        None => {
            let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
            let exists = test_kill_process(pid) != Err(rustix::io::Errno::SRCH);
            exists.then(String::new)
        }
    }
}
