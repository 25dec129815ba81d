//! Requests to a thread: case 7, and case 6 with an errand beside it.

use crate::gate::{current_thread, run_errands, set_errand_hook};
use crate::scene::{enter, models, slot, swap, unload};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::{lazy_static, thread};

lazy_static! {
    /// What the errand was to find, and how often it ran.
    static ref WORK: AtomicU32 = AtomicU32::new(0);
    static ref DONE: AtomicU32 = AtomicU32::new(0);
}

/// Both are made before there is a second thread: making one would order the threads.
fn begin() {
    set_errand_hook(errand);
    assert_eq!((WORK.load(Ordering::Relaxed), DONE.load(Ordering::Relaxed)), (0, 0));
}

/// Release and Acquire of the request are what makes the work visible.
fn errand() {
    assert_eq!(WORK.load(Ordering::Relaxed), 1, "the work was written before the poke");
    DONE.fetch_add(1, Ordering::Relaxed);
}

models! {
    fn an_errand_is_not_lost() {
        begin();
        let slot = slot();
        let outer = enter(slot);
        let owner = current_thread().unwrap();
        let poker = thread::spawn(move || {
            WORK.store(1, Ordering::Relaxed);
            assert!(owner.poke());
        });
        drop(enter(slot));
        assert_eq!(DONE.load(Ordering::Relaxed), 0, "the thread is in a call");
        drop(outer);
        let by_exit = DONE.load(Ordering::Relaxed) == 1;
        poker.join().unwrap();
        assert_ne!(run_errands(), by_exit);
        assert_eq!(DONE.load(Ordering::Relaxed), 1);
    }

    /// A drainer asks for a notice while somebody else pokes: neither swallows the other.
    fn an_errand_beside_a_drain() {
        begin();
        let slot = slot();
        let guard = enter(slot);
        let owner = current_thread().unwrap();
        let poker = thread::spawn(move || {
            WORK.store(1, Ordering::Relaxed);
            assert!(owner.poke());
        });
        let writer = thread::spawn(move || unload(swap(slot, 2)));
        guard.answer();
        drop(guard);
        writer.join().unwrap();
        poker.join().unwrap();
        run_errands();
        assert_eq!(DONE.load(Ordering::Relaxed), 1);
    }
}
