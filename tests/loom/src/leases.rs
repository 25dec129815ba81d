//! Leases: case 5.

use crate::scene::{enter, models, slot, swap, unload};
use loom::thread;

models! {
    fn a_lease_outlives_its_guard_and_thread() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let lease = enter(slot).lease();
            thread::spawn(move || {
                let second = lease.clone();
                drop(lease);
                second.answer();
            });
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// The token goes from the frame to the lease while the drainer is between the two.
    fn a_lease_is_taken_during_the_drain() {
        let slot = slot();
        let guard = enter(slot);
        let writer = thread::spawn(move || unload(swap(slot, 2)));
        let lease = guard.lease();
        drop(guard);
        lease.answer();
        drop(lease);
        writer.join().unwrap();
    }

    /// A guard entered inside a call of a lease may outlive both.
    fn a_guard_is_entered_under_a_lease() {
        let slot = slot();
        let lease = enter(slot).lease();
        let writer = thread::spawn(move || unload(swap(slot, 2)));
        let guard = lease.call(|_| enter(slot));
        drop(lease);
        assert_eq!(guard.answer(), 1);
        drop(guard);
        writer.join().unwrap();
    }

    /// It passes the gate that is waiting for the lease.
    fn a_call_under_a_lease_passes_a_closed_gate() {
        let slot = slot();
        let lease = enter(slot).lease();
        let writer = thread::spawn(move || {
            let mut paused = slot.pause().unwrap();
            paused.drain(crate::scene::FOREVER).unwrap();
            paused.value().unload();
            drop(paused.resume_with(crate::scene::Library::load(2)));
        });
        lease.call(|_| assert_eq!(enter(slot).answer(), 1));
        drop(lease);
        writer.join().unwrap();
    }
}
