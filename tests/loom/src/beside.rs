//! Two slots of one plugin, and generations that go from one into the other: the cases of `adopt`.

use crate::gate::{Guard, Slot};
use crate::scene::{Library, enter, models, slot, swap, unload};
use loom::thread;

/// A slot beside this one, with library 2 in it.
fn with_candidate(slot: &'static Slot<Library>) -> &'static Slot<Library> {
    let side = Box::leak(Box::new(slot.beside()));
    assert!(side.swap(Library::load(2)).expect("not paused").is_none());
    side
}

/// Makes what is in the one slot current in the other; unloads what was there.
fn promote(from: &Slot<Library>, to: &Slot<Library>) {
    let candidate = from.close().expect("not paused").expect("not empty");
    unload(to.adopt(candidate).expect("not paused").expect("not empty"));
}

/// As a scope enters: what is beside, or else what serves.
fn enter_beside(side: &'static Slot<Library>, slot: &'static Slot<Library>) -> Guard<'static, Library> {
    side.try_enter().unwrap_or_else(|_| enter(slot))
}

models! {
    /// Cases 2 to 4: one that enters the candidate while it is promoted, and goes on in it while it is replaced.
    fn a_candidate_is_promoted_and_replaced_under_its_caller() {
        let slot = slot();
        let side = with_candidate(slot);
        let caller = thread::spawn(move || enter_beside(side, slot).answer());
        promote(side, slot);
        unload(swap(slot, 3));
        caller.join().unwrap();
    }

    fn a_call_nested_in_a_candidate_stays_in_it_while_it_is_promoted() {
        let slot = slot();
        let side = with_candidate(slot);
        let caller = thread::spawn(move || {
            let outer = enter_beside(side, slot);
            let number = outer.answer();
            let inner = enter(slot);
            drop(outer);
            assert_eq!(inner.answer(), number);
        });
        promote(side, slot);
        unload(swap(slot, 3));
        caller.join().unwrap();
    }

    /// The other way: what was current stays beside, and goes later.
    fn a_generation_is_kept_under_its_caller_and_released() {
        let slot = slot();
        let side: &'static Slot<Library> = Box::leak(Box::new(slot.beside()));
        let caller = thread::spawn(move || enter_beside(side, slot).answer());
        assert!(side.adopt(swap(slot, 2)).expect("not paused").is_none());
        unload(side.close().unwrap().unwrap());
        caller.join().unwrap();
    }

    /// Case 5: its last lease ends while it is retired a second time.
    fn a_lease_lasts_through_two_retirements() {
        let slot = slot();
        let side = with_candidate(slot);
        let lease = side.lease().unwrap();
        let holder = thread::spawn(move || {
            lease.answer();
            drop(lease);
        });
        promote(side, slot);
        unload(swap(slot, 3));
        holder.join().unwrap();
    }
}
