//! Waiting for one another, in ways that nothing a plugin does can spoil.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Locks data that is whole at any time, so that a panic elsewhere is no reason to panic, too.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a thread make, when it begins, what it will wait with at its channels: a thread-local with a destructor. Making
/// it takes a lock of the C library, and later that may be held by a constructor which hangs.
pub(crate) fn be_ready_to_wait() {
    let (_sender, receiver) = crossbeam_channel::bounded::<()>(0);
    // Longer than it spins before it waits.
    let _ = receiver.recv_timeout(Duration::from_millis(1));
}

/// Waits for the end of a thread that may be waiting for something that never comes. `false`: it is left behind.
pub(crate) fn join_within(thread: JoinHandle<()>, limit: Duration) -> bool {
    let begun = Instant::now();
    while !thread.is_finished() && begun.elapsed() < limit {
        std::thread::sleep(Duration::from_micros(200));
    }
    let has_ended = thread.is_finished();
    if has_ended {
        let _ = thread.join();
    }
    has_ended
}
