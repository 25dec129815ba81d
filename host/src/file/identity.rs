//! What a file is without reading it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What changes when a file is written or exchanged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// `None`: the path leads to none that can be looked at.
    pub(crate) fn of(path: &Path) -> Option<FileIdentity> {
        let stat = std::fs::metadata(path).ok()?;
        Some(FileIdentity {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            modified: (stat.mtime(), stat.mtime_nsec()),
            changed: (stat.ctime(), stat.ctime_nsec()),
        })
    }
}
