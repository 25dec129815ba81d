//! Finds out when a file that somebody may still be writing is complete, without waiting for a fixed time.
//!
//! Invariants:
//! 1. A file is ready only on the word of a witness: the kernel, which knows that nobody has it open for
//!    writing, or, where the kernel does not say, two equal readings [`UNWITNESSED`] apart.
//! 2. What is handed out is the file that the path led to *after* the witness spoke.
//! 3. Nothing here blocks, except that the second witness reads the file: one thread can watch over many
//!    paths.
//!
//! A writer that closes the file between two pieces and opens it again has nobody's word against it. Vetting
//! then finds the file cut short, and [`VetError::may_be_incomplete`](super::VetError::may_be_incomplete)
//! tells the caller to look again.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{FILE_LIMIT, FileKind, VetError};
use super::hash::{At, ContentHash, hash_of};
use super::lease::{self, Writers};
use super::vet::open_file;

/// How long a file has to stay the same where the kernel does not say whether it is being written.
pub const UNWITNESSED: Duration = Duration::from_millis(500);

const FIRST_WAIT: Duration = Duration::from_millis(5);
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// One path on its way to being complete.
#[derive(Debug)]
pub struct Settling {
    path: PathBuf,
    began: Option<Instant>,
    next_wait: Duration,
    reason: WaitReason,
    reading: Option<Reading>,
    pub(super) witness: fn(&File) -> Writers,
}

/// What a look at a settling path gave.
#[derive(Debug)]
#[must_use]
pub enum Progress {
    /// The file is complete; it is open for reading, at its beginning.
    Ready(File),
    /// It may not be complete; look again after about this long.
    Wait(Duration),
    /// The path leads nowhere.
    Gone,
    /// The path leads to something else than a regular file.
    NotAFile(FileKind),
    /// The file cannot be opened or read.
    Unreadable(io::Error),
}

/// Why a file is not taken for complete yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// Nobody has looked at it yet.
    NotLookedAt,
    /// Somebody has it open for writing.
    BeingWritten,
    /// It was exchanged for another one while we looked.
    Exchanged,
    /// The kernel does not say who writes to it, so it is read twice.
    Unwitnessed(io::ErrorKind),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitReason::NotLookedAt => f.write_str("it has not been looked at yet"),
            WaitReason::BeingWritten => f.write_str("a process has it open for writing"),
            WaitReason::Exchanged => f.write_str("it is exchanged again and again"),
            WaitReason::Unwitnessed(kind) => write!(
                f,
                "the kernel does not say who writes to it ({kind}), so it has to stay the same for {} ms",
                UNWITNESSED.as_millis()
            ),
        }
    }
}

/// A file as it was read where the kernel is no witness.
#[derive(Debug)]
struct Reading {
    identity: Identity,
    hash: ContentHash,
    at: Instant,
}

/// What changes about a file when it is written or exchanged.
type Identity = (u64, u64, u64, i64, i64, i64, i64);

impl Settling {
    /// Begins with a path; nothing is opened yet.
    pub fn start(path: impl Into<PathBuf>) -> Self {
        Settling {
            path: path.into(),
            began: None,
            next_wait: FIRST_WAIT,
            reason: WaitReason::NotLookedAt,
            reading: None,
            witness: lease::writers,
        }
    }

    /// Looks at the path. Call it again after the time it asks for, or when the watcher says that something
    /// happened, whichever comes first.
    pub fn poll(&mut self, now: Instant) -> Progress {
        self.began.get_or_insert(now);
        // A file that is exchanged under our hands is looked at again at once, but not for ever.
        for _ in 0..3 {
            match self.look(now) {
                Ok(Some(progress)) => return progress,
                Ok(None) => self.reason = WaitReason::Exchanged,
                Err(error) => return failed(error),
            }
        }
        self.wait()
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long this has been going on: since the first look.
    pub fn waited(&self, now: Instant) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began))
    }

    /// Why the last look did not find the file complete.
    pub fn reason(&self) -> &WaitReason {
        &self.reason
    }

    /// Makes the last reading one of other contents.
    #[cfg(test)]
    pub(super) fn forge_reading(&mut self) {
        if let Some(reading) = &mut self.reading {
            reading.hash = ContentHash::of(b"something else");
        }
    }

    /// `None` if the path leads to another file than at the beginning.
    fn look(&mut self, now: Instant) -> Result<Option<Progress>, VetError> {
        let file = open_file(&self.path)?;
        let before = identity(&file)?;
        match (self.witness)(&file) {
            Writers::Nobody => Ok(self.same_file(before)?.then_some(Progress::Ready(file))),
            Writers::Somebody => {
                self.reason = WaitReason::BeingWritten;
                Ok(Some(self.wait()))
            }
            Writers::Unknown(error) => {
                self.reason = WaitReason::Unwitnessed(error.kind());
                self.read_twice(file, before, now)
            }
        }
    }

    fn read_twice(
        &mut self,
        file: File,
        before: Identity,
        now: Instant,
    ) -> Result<Option<Progress>, VetError> {
        if let Some(last) = self.reading.as_ref().filter(|last| last.identity == before) {
            let left = (last.at + UNWITNESSED).saturating_duration_since(now);
            if !left.is_zero() {
                return Ok(Some(Progress::Wait(left)));
            }
        }
        let Some(hash) = hash(&file)? else {
            return Ok(Some(Progress::Ready(file))); // too large for a plugin: vetting says so
        };
        let last = self.reading.replace(Reading { identity: before, hash, at: now });
        if last.is_none_or(|last| (last.identity, last.hash) != (before, hash)) {
            return Ok(Some(Progress::Wait(UNWITNESSED)));
        }
        let unchanged = identity(&file)? == before && self.same_file(before)?;
        Ok(unchanged.then_some(Progress::Ready(file)))
    }

    /// Whether the path still leads to this file.
    fn same_file(&self, (device, inode, ..): Identity) -> Result<bool, VetError> {
        let now = std::fs::metadata(&self.path).map_err(|source| VetError::Unreadable { source })?;
        Ok((now.dev(), now.ino()) == (device, inode))
    }

    fn wait(&mut self) -> Progress {
        let wait = self.next_wait;
        self.next_wait = (wait * 2).min(LONGEST_WAIT);
        Progress::Wait(wait)
    }
}

fn failed(error: VetError) -> Progress {
    let source = match error {
        VetError::NotAFile { kind } => return Progress::NotAFile(kind),
        VetError::Unreadable { source } => source,
        other => io::Error::other(other),
    };
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Progress::Gone,
        _ => Progress::Unreadable(source),
    }
}

fn identity(file: &File) -> Result<Identity, VetError> {
    let stat = file.metadata().map_err(|source| VetError::Unreadable { source })?;
    Ok((
        stat.dev(),
        stat.ino(),
        stat.size(),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.ctime(),
        stat.ctime_nsec(),
    ))
}

/// The hash of a whole file; its position stays where it is. `None` if it is too large.
fn hash(file: &File) -> Result<Option<ContentHash>, VetError> {
    hash_of(At { file, offset: 0 }, FILE_LIMIT).map_err(|source| VetError::Unreadable { source })
}
