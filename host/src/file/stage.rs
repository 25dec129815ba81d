//! Private copies: one per generation, on a new inode, under a name that is used once.
//!
//! Everything after staging works on the copy, so what was vetted is what is opened. The dynamic linker gives
//! the *old* image for a name or inode that is already open; that is why neither is ever shared.
//!
//! Invariants:
//! 1. A copy has the contents of one moment: if the source changed meanwhile, there is no copy.
//! 2. No file is ever replaced: a name in use gets a number.
//! 3. A copy that nobody keeps is removed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::draft::is_plugin_name;
use super::error::{Exposure, FILE_LIMIT, VetError};
use super::hash::ContentHash;
use super::lease::{self, Writers};
use super::run_dir::RunDir;
use super::vet::read_whole;

/// Where this host keeps its private copies.
#[derive(Debug)]
pub struct StagingDir {
    run: Arc<RunDir>,
    next: AtomicU64,
}

impl StagingDir {
    /// Makes `<state_dir>/run/<pid>/` for this host and removes what dead hosts left beside it. A second host
    /// in this process gets a directory of its own.
    ///
    /// # Errors
    ///
    /// The directory cannot be made, or others can write to it.
    pub fn open(state_dir: &Path) -> Result<StagingDir, StageError> {
        Ok(StagingDir { run: Arc::new(RunDir::open(state_dir)?), next: AtomicU64::new(0) })
    }

    /// The directory of the copies.
    pub fn path(&self) -> &Path {
        self.run.path()
    }

    /// Copies a file, opened read-only, from its beginning, and computes its hash on the way. The copy gets
    /// its name later, from [`Incoming::name`], because the plugin's name is known only when the copy has
    /// been vetted.
    ///
    /// # Errors
    ///
    /// [`StageError::ChangedWhileCopied`] if somebody writes to the source: wait until it has settled, try
    /// again.
    pub fn copy(&self, source: &File) -> Result<Incoming, StageError> {
        let before = stamp(source)?;
        if before.bytes > FILE_LIMIT {
            return Err(StageError::TooLarge { bytes: before.bytes });
        }
        let (private, file) = self.create()?;
        let contents = self.fill(&file, source)?;
        let is_written = matches!(lease::writers(source), Writers::Somebody);
        if is_written || contents.len() as u64 != before.bytes || stamp(source)? != before {
            return Err(StageError::ChangedWhileCopied);
        }
        let hash = ContentHash::of(&contents);
        Ok(Incoming { private, file, hash, contents })
    }

    fn create(&self) -> Result<(PrivateFile, File), StageError> {
        loop {
            let path = self.path().join(format!(".incoming-{}", self.next.fetch_add(1, Ordering::Relaxed)));
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            match options.open(&path) {
                Ok(file) => return Ok((PrivateFile { path, run: Arc::clone(&self.run), keep: false }, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(self.cannot_write(source)),
            }
        }
    }

    /// Shares the contents where the file system can, and else writes them; gives them as they were read,
    /// once.
    fn fill(&self, mut copy: &File, source: &File) -> Result<Vec<u8>, StageError> {
        let shared = share(copy, source);
        let contents = read_whole(if shared { copy } else { source }).map_err(|error| match error {
            VetError::TooLarge { bytes } => StageError::TooLarge { bytes },
            VetError::Unreadable { source } => StageError::Unreadable { source },
            other => StageError::Unreadable { source: io::Error::other(other) },
        })?;
        if !shared {
            copy.write_all(&contents).map_err(|source| self.cannot_write(source))?;
        }
        Ok(contents)
    }

    fn cannot_write(&self, source: io::Error) -> StageError {
        StageError::CannotWrite { directory: self.path().into(), source }
    }
}

#[cfg(target_os = "linux")]
fn share(copy: &File, source: &File) -> bool {
    rustix::fs::ioctl_ficlone(copy, source).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn share(_: &File, _: &File) -> bool {
    false
}

/// What changes about a file when it is written.
#[derive(PartialEq)]
struct Stamp {
    bytes: u64,
    modified: (i64, i64),
}

fn stamp(file: &File) -> Result<Stamp, StageError> {
    let stat = file.metadata().map_err(|source| StageError::Unreadable { source })?;
    Ok(Stamp { bytes: stat.size(), modified: (stat.mtime(), stat.mtime_nsec()) })
}

/// A file that is removed when this is dropped, and what keeps its directory.
#[derive(Debug)]
struct PrivateFile {
    path: PathBuf,
    run: Arc<RunDir>,
    keep: bool,
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        if !self.keep {
            // It may have been removed by hand; then there is nothing to do.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A copy without a name, to be vetted. Removed when dropped.
#[derive(Debug)]
pub struct Incoming {
    private: PrivateFile,
    file: File,
    hash: ContentHash,
    contents: Vec<u8>,
}

impl Incoming {
    /// Gives the copy its name, `<plugin>-<generation>-<hash8>.so`, or with a number behind it if there is
    /// such a file, and makes it read-only and executable.
    ///
    /// # Errors
    ///
    /// The directory is gone or cannot be written.
    pub fn name(mut self, plugin: &str, generation: u64) -> Result<Staged, StageError> {
        if !is_plugin_name(plugin) {
            return Err(StageError::NotAName { name: plugin.to_owned() });
        }
        let path = self.rename(&format!("{plugin}-{generation}-{}", self.hash.short()));
        let directory = || self.private.run.path().to_path_buf();
        let path = path.map_err(|source| StageError::Directory { directory: directory(), source })?;
        self.private.path = path;
        Ok(Staged { private: self.private, hash: self.hash, bytes: self.contents.len() as u64 })
    }

    /// Takes the flag away that forbids unloading. `offset` is [`Facts::nodelete`](super::Facts::nodelete).
    /// The hash stays that of the original.
    ///
    /// # Errors
    ///
    /// The copy cannot be read or written.
    pub fn clear_nodelete(&self, offset: u64) -> Result<(), StageError> {
        clear_nodelete(&self.file, offset)
            .map_err(|source| StageError::CannotWrite { directory: self.private.run.path().into(), source })
    }

    /// The contents of the copy, as they were written to it.
    pub fn contents(&self) -> &[u8] {
        &self.contents
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.private.path
    }

    /// The hash of the contents.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    fn rename(&self, stem: &str) -> io::Result<PathBuf> {
        self.file.set_permissions(Permissions::from_mode(0o500))?;
        for number in 1u64.. {
            let name = if number == 1 { format!("{stem}.so") } else { format!("{stem}-{number}.so") };
            let path = self.private.run.path().join(name);
            match rename_to_new(self.path(), &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                renamed => return renamed.map(|()| path),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// Renames a file, but not over another one.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => {} // not on this file system
            renamed => return Ok(renamed?),
        }
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// A private copy with its final name. Removed when dropped, unless it is kept.
#[derive(Debug)]
pub struct Staged {
    private: PrivateFile,
    hash: ContentHash,
    bytes: u64,
}

impl Staged {
    /// Removes the file. What has been opened from it stays usable, but loses its symbols in backtraces.
    pub fn unlink(self) {
        drop(self);
    }

    /// Leaves the file where it is, until the next host sweeps it: for an image that never unloads.
    pub fn keep(mut self) -> PathBuf {
        self.private.keep = true;
        self.private.path.clone()
    }

    /// Where it is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.private.path
    }

    /// The hash of the original's contents.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Takes the flag away that forbids unloading from the library in `file`, a private copy. `offset` is where
/// the value of `DT_FLAGS_1` is, as in [`Facts::nodelete`](super::Facts::nodelete).
///
/// # Errors
///
/// The file cannot be read or written there.
pub fn clear_nodelete(file: &File, offset: u64) -> io::Result<()> {
    let mut value = [0; 8];
    file.read_exact_at(&mut value, offset)?;
    let cleared = u64::from_le_bytes(value) & !object::elf::DF_1_NODELETE.0;
    file.write_all_at(&cleared.to_le_bytes(), offset)
}

impl Staged {
    /// One more name for the same contents, which stays when this one goes.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn keep_for_later(&self) -> Result<Kept, StageError> {
        let run = &self.private.run;
        let name = self.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let path = run.path().join(format!(".kept-{name}"));
        fs::hard_link(self.path(), &path)
            .map_err(|source| StageError::CannotWrite { directory: run.path().into(), source })?;
        Ok(Kept(PrivateFile { path, run: Arc::clone(run), keep: false }))
    }
}

/// The contents of a private copy, kept for later. Removed when dropped.
#[derive(Debug)]
pub struct Kept(PrivateFile);

impl Kept {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

/// Why there is no private copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The directory of the copies cannot be made or used.
    #[error("cannot use {} for private copies: {source}", .directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else could exchange the copies.
    #[error("cannot keep private copies in {}: it {exposure}", .directory.display())]
    NotPrivate {
        /// The directory.
        directory: PathBuf,
        /// In which way it is open.
        exposure: Exposure,
    },
    /// The source cannot be read.
    #[error("cannot be read: {source}")]
    Unreadable {
        /// What the system says.
        source: io::Error,
    },
    /// The source is larger than any plugin.
    #[error("has {bytes} bytes, more than the limit of {FILE_LIMIT}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Somebody wrote to the source meanwhile.
    #[error("was changed while it was copied: wait until whoever writes it is done")]
    ChangedWhileCopied,
    /// The copy cannot be written; the disk may be full.
    #[error("cannot write a private copy in {}: {source}", .directory.display())]
    CannotWrite {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The name is not one that can be in a file name.
    #[error("{name:?} is not the name of a plugin")]
    NotAName {
        /// The name.
        name: String,
    },
}
