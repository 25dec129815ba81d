//! Several writers.

use crate::scene::{enter, models, slot, swap, unload};
use loom::thread;

models! {
    fn two_swaps_and_two_drainers() {
        let slot = slot();
        let caller = thread::spawn(move || enter(slot).answer());
        let writer = thread::spawn(move || unload(swap(slot, 2)));
        unload(swap(slot, 3));
        writer.join().unwrap();
        caller.join().unwrap();
    }

    /// One call after another, each in a generation of its own, while both are drained.
    fn two_swaps_in_a_row() {
        let slot = slot();
        let caller = thread::spawn(move || {
            enter(slot).answer();
            enter(slot).answer();
        });
        unload(swap(slot, 2));
        unload(swap(slot, 3));
        caller.join().unwrap();
    }
}
