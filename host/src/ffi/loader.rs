//! One at a time in the system's loader, and who that is.
//!
//! The loader runs constructors and finalizers under a lock of its own. A constructor that never returns would make
//! everybody wait there who opens or closes a library, and none could say why. So all of this crate's calls take this
//! turn first, and take it for a limited time.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static NOW: Mutex<Option<Occupant>> = Mutex::new(None);
static LEFT: Condvar = Condvar::new();

#[derive(Clone)]
struct Occupant {
    file: PathBuf,
    doing: &'static str,
    since: Instant,
}

/// The right to call the loader.
pub(super) struct Turn(());

/// Somebody else is in the loader.
#[derive(Debug, thiserror::Error)]
#[error(
    "the loader has been at the {doing} of {} for {:.1} s; until they return, nothing can be opened or closed in this process",
    file.display(), since.as_secs_f64()
)]
pub(crate) struct LoaderBusy {
    file: PathBuf,
    doing: &'static str,
    since: Duration,
}

/// Takes the turn.
///
/// # Errors
/// It has not come within `limit`.
pub(super) fn turn(file: &Path, doing: &'static str, limit: Duration) -> Result<Turn, LoaderBusy> {
    let (mut now, _) =
        LEFT.wait_timeout_while(lock(), limit, |now| now.is_some()).unwrap_or_else(PoisonError::into_inner);
    if let Some(Occupant { file, doing, since }) = now.clone() {
        return Err(LoaderBusy { file, doing, since: since.elapsed() });
    }
    *now = Some(Occupant { file: file.to_owned(), doing, since: Instant::now() });
    Ok(Turn(()))
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock() = None;
        LEFT.notify_one();
    }
}

fn lock() -> MutexGuard<'static, Option<Occupant>> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}
