//! Whether only we, or root, can change a file: what is loaded runs with our rights.
//!
//! Asked of the original, not of the private copy. Group-writable files are accepted, because many systems
//! give each user a group of their own; so the members of the group are trusted.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{Exposure, VetError};

const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Checks that the file and its directory belong to root or to us and are not writable by others, and that
/// nobody else can exchange a directory above them.
///
/// # Errors
///
/// [`VetError::NotOurs`] names what others can change.
pub fn check_owner(path: &Path, file: &Metadata) -> Result<(), VetError> {
    if let Some(is_open) = exposure(file) {
        return Err(VetError::NotOurs { path: None, is_open });
    }
    let unreadable = |source| VetError::Unreadable { source };
    let resolved = path.canonicalize().map_err(unreadable)?;
    check_directory(resolved.parent())?;
    // A link may lie in another directory than what it leads to.
    let named = std::path::absolute(path).map_err(unreadable)?;
    match named.parent().map(Path::canonicalize) {
        Some(directory) => check_directory(Some(&directory.map_err(unreadable)?)),
        None => Ok(()),
    }
}

fn check_directory(directory: Option<&Path>) -> Result<(), VetError> {
    let Some(directory) = directory else { return Ok(()) };
    let stat = |path: &Path| std::fs::metadata(path).map_err(|source| VetError::Unreadable { source });
    let refuse = |path: &Path, is_open| VetError::NotOurs { path: Some(PathBuf::from(path)), is_open };
    if let Some(is_open) = exposure(&stat(directory)?) {
        return Err(refuse(directory, is_open));
    }
    for above in directory.ancestors().skip(1) {
        let mode = stat(above)?.mode();
        // In a sticky directory such as /tmp nobody can move what belongs to others.
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            return Err(refuse(above, Exposure::Writable { mode: mode & 0o7777 }));
        }
    }
    Ok(())
}

/// In which way others can change this, if they can.
pub(super) fn exposure(stat: &Metadata) -> Option<Exposure> {
    let (owner, mode, us) = (stat.uid(), stat.mode() & 0o7777, rustix::process::geteuid().as_raw());
    if owner != 0 && owner != us {
        return Some(Exposure::Owner { owner, us });
    }
    (mode & OTHERS_WRITE != 0).then_some(Exposure::Writable { mode })
}
