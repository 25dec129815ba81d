//! A number that threads can sleep on until it changes.
//!
//! A waiter reads the number, looks at whatever it waits for, and sleeps only if the number is still
//! the same; whoever changes that state advances the number afterwards. So a change between the look
//! and the sleep is never slept through.

use super::sync::{AtomicU32, Ordering};
use std::time::Duration;

pub(super) struct Futex {
    number: AtomicU32,
    #[cfg(reseat_loom)]
    sleepers: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

impl Futex {
    pub(super) fn new() -> Self {
        Self {
            number: AtomicU32::new(0),
            #[cfg(reseat_loom)]
            sleepers: Default::default(),
        }
    }

    /// Acquire: a waiter that reads an advanced number sees the change that came before it.
    pub(super) fn number(&self) -> u32 {
        self.number.load(Ordering::Acquire)
    }

    /// Release: partner of [`number`](Self::number).
    pub(super) fn advance(&self) {
        self.number.fetch_add(1, Ordering::AcqRel);
    }

    #[cfg(not(reseat_loom))]
    pub(super) fn wake_all(&self) {
        super::os::wake_all(&self.number);
    }

    /// Sleeps unless the number has changed since `seen`, for at most `limit`; may return early.
    #[cfg(not(reseat_loom))]
    pub(super) fn wait(&self, seen: u32, limit: Duration) {
        super::os::wait(&self.number, seen, limit);
    }

    #[cfg(reseat_loom)]
    pub(super) fn wake_all(&self) {
        drop(self.sleepers.0.lock().unwrap());
        self.sleepers.1.notify_all();
    }

    /// Without a limit it sleeps until woken, so that a lost wake-up is a deadlock; with one it
    /// returns at once, as a timeout may.
    #[cfg(reseat_loom)]
    pub(super) fn wait(&self, seen: u32, limit: Duration) {
        if limit != Duration::MAX {
            return loom::thread::yield_now();
        }
        let mut lock = self.sleepers.0.lock().unwrap();
        while self.number.load(Ordering::SeqCst) == seen {
            lock = self.sleepers.1.wait(lock).unwrap();
        }
    }
}
