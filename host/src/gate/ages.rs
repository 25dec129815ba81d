//! Since when guards are held: found out without a clock on the call path.
//!
//! A sampler looks at all frames now and then and marks those that are occupied with [`SEEN`]. Whatever the
//! owner does to a frame afterwards writes the whole word and takes the mark off. So a frame that still
//! has it holds the guard that it held when it was marked.
//!
//! Case 10 of the proof says why the others need not care.

use super::generation::Header;
use super::record::{SEEN, TAGS, UNVALIDATED};
use super::registry::registry;
use super::sync::OwnerPtr;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// When each marked frame was marked, by the frame's address. Whoever marks holds the lock, so an entry
/// belongs to the guard that is in its frame for as long as the mark is.
static MARKED: Mutex<Option<Ledger>> = Mutex::new(None);

pub(super) struct Ledger {
    marked: HashMap<usize, Instant>,
    swept: Instant,
}

/// Looks at which guards are held, so that [`Stragglers`](super::Stragglers) know for how long.
///
/// Call it in regular intervals: a guard's age is then known to within one of them. Without it, ages are
/// counted from the retirement. It reads all frames, and writes to those that hold a guard it has not
/// seen there before, so each thread that calls may pay for a cache miss or two.
///
/// Several may do this for one process: it is left out if it was done within the last half of `interval`.
pub fn sample_ages(interval: Duration) {
    let mut marked = MARKED.lock().unwrap_or_else(PoisonError::into_inner);
    if marked.as_ref().is_none_or(|ledger| ledger.swept.elapsed() >= interval / 2) {
        let before = marked.take().map(|ledger| ledger.marked).unwrap_or_default();
        *marked = Some(Ledger { marked: sweep(&before), swept: Instant::now() });
    }
}

fn sweep(before: &HashMap<usize, Instant>) -> HashMap<usize, Instant> {
    let mut after = HashMap::new();
    for place in registry().places() {
        let word = place.frame.read();
        if word.is_null() || word.addr() & (TAGS & !SEEN) != 0 {
            continue; // nobody, or nobody who holds a drain up for long
        }
        let key = key(&place.frame);
        if word.addr() & SEEN != 0 {
            after.insert(key, before.get(&key).copied().unwrap_or_else(Instant::now));
        } else if place.frame.mark(word, SEEN) {
            after.insert(key, Instant::now()); // read after the mark: no older than the guard
        }
    }
    after
}

/// The ledger, locked; without what is in it if somebody was writing there when the process was forked: then the
/// lock is never given back.
pub(super) struct Marked(Option<MutexGuard<'static, Option<Ledger>>>);

impl Marked {
    pub(super) fn look() -> Self {
        /// A sweep of a thousand threads takes less than a hundredth of it.
        const PATIENCE: Duration = Duration::from_millis(100);
        let start = Instant::now();
        loop {
            match MARKED.try_lock() {
                Ok(ledger) => return Self(Some(ledger)),
                Err(TryLockError::Poisoned(poisoned)) => return Self(Some(poisoned.into_inner())),
                Err(TryLockError::WouldBlock) if start.elapsed() >= PATIENCE => return Self(None),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// For how long at least the guard has been held that this word, just read from the frame, stands for.
    pub(super) fn age(&self, frame: &OwnerPtr<Header>, word: *mut Header) -> Option<Duration> {
        if word.addr() & SEEN == 0 || word.addr() & UNVALIDATED != 0 {
            return None;
        }
        let ledger = self.0.as_ref()?.as_ref()?;
        ledger.marked.get(&key(frame)).map(Instant::elapsed)
    }
}

fn key(frame: &OwnerPtr<Header>) -> usize {
    std::ptr::from_ref(frame).addr()
}
