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
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When each marked frame was marked, by the frame's address. Whoever marks holds the lock, so an entry
/// belongs to the guard that is in its frame for as long as the mark is.
static MARKED: Mutex<Option<HashMap<usize, Instant>>> = Mutex::new(None);

/// Looks at which guards are held, so that [`Stragglers`](super::Stragglers) know for how long.
///
/// Call it in regular intervals: a guard's age is then known to within one of them. Without it, ages are
/// counted from the retirement. It reads all frames, and writes to those that hold a guard it has not
/// seen there before, so a thread that is in a call at that moment may pay for one cache miss.
pub fn sample_ages() {
    let mut marked = Marked::lock();
    let now = Instant::now();
    marked.sweep(now);
}

/// The ledger, locked.
pub(super) struct Marked(MutexGuard<'static, Option<HashMap<usize, Instant>>>);

impl Marked {
    pub(super) fn lock() -> Self {
        Self(MARKED.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn sweep(&mut self, now: Instant) {
        let before = self.0.take().unwrap_or_default();
        let mut after = HashMap::new();
        for frame in registry().frames() {
            let word = frame.word.read();
            if word.is_null() || word.addr() & (TAGS & !SEEN) != 0 {
                continue; // nobody, or nobody who holds a drain up for long
            }
            let key = key(frame.word);
            if word.addr() & SEEN != 0 {
                after.insert(key, before.get(&key).copied().unwrap_or(now));
            } else if frame.word.mark(word, SEEN) {
                after.insert(key, now);
            }
        }
        *self.0 = Some(after);
    }

    /// For how long at least the guard has been held that this word, just read from the frame, stands for.
    pub(super) fn age(&self, frame: &OwnerPtr<Header>, word: *mut Header) -> Option<Duration> {
        if word.addr() & SEEN == 0 || word.addr() & UNVALIDATED != 0 {
            return None;
        }
        self.0.as_ref()?.get(&key(frame)).map(Instant::elapsed)
    }
}

fn key(frame: &OwnerPtr<Header>) -> usize {
    std::ptr::from_ref(frame).addr()
}
