//! Slots that change together: the proof in the head of `set`, S1 to S6.

use crate::gate::{PausedSet, Retired, Slot};
use crate::scene::{FOREVER, Library, enter, models, slot, swap, unload};
use loom::thread;

type Slots = [&'static Slot<Library>; 2];

/// Two slots whose callers wait for as long as it takes.
fn two() -> Slots {
    let slots = [slot(), slot()];
    slots.iter().for_each(|slot| slot.set_wait_limit(FOREVER));
    slots
}

fn close(slots: Slots) -> PausedSet<'static, Library> {
    PausedSet::close(slots.to_vec()).expect("open")
}

/// Nobody is in either when the first is gone, and both are before there is a new one.
fn hand_over(slots: Slots) {
    let mut paused = close(slots);
    paused.drain(FOREVER).expect("without a limit, and not from inside");
    paused.values().flatten().for_each(Library::unload);
    drop(paused.resume_with(vec![Library::load(2), Library::load(2)]));
}

/// New ones serve at once; the old ones are drained afterwards.
fn replace(slots: Slots) -> [Retired<Library>; 2] {
    let old = close(slots).resume_with(vec![Library::load(2), Library::load(2)]);
    let mut old = old.into_iter().map(|old| old.expect("it was not empty"));
    [old.next().unwrap(), old.next().unwrap()]
}

/// A unit of work: what it has entered it keeps, and it sees two from the same time.
fn unit(first: &'static Slot<Library>, second: &'static Slot<Library>) -> u32 {
    let outer = enter(first);
    let number = outer.answer();
    let inner = enter(second);
    assert_eq!(inner.answer(), number, "two from different times");
    number
}

models! {
    /// S1 and S2: it passes the gate that waits for it, and is waited for in both.
    fn a_unit_of_work_against_a_handover_of_both() {
        let slots = two();
        let caller = thread::spawn(move || { unit(slots[0], slots[1]); });
        hand_over(slots);
        caller.join().unwrap();
    }

    /// The gates are closed in one order, and entered in the other.
    fn a_unit_of_work_in_the_other_order() {
        let slots = two();
        let caller = thread::spawn(move || { unit(slots[1], slots[0]); });
        hand_over(slots);
        caller.join().unwrap();
    }

    /// Whoever was inside finds the old ones even when the new ones serve.
    fn a_unit_of_work_against_a_change_that_nobody_waits_for() {
        let slots = two();
        let caller = thread::spawn(move || { unit(slots[0], slots[1]); });
        replace(slots).into_iter().for_each(unload);
        caller.join().unwrap();
    }

    fn two_units_one_after_the_other_never_go_back() {
        let slots = two();
        let caller = thread::spawn(move || {
            let first = unit(slots[1], slots[0]);
            assert!(unit(slots[0], slots[1]) >= first);
        });
        replace(slots).into_iter().for_each(unload);
        caller.join().unwrap();
    }

    /// Case 3, from one slot to another: the first frame is emptied when the second is filled.
    fn the_outer_guard_is_dropped_first() {
        let slots = two();
        let caller = thread::spawn(move || {
            let outer = enter(slots[0]);
            let inner = enter(slots[1]);
            let number = outer.answer();
            drop(outer);
            assert_eq!(inner.answer(), number);
        });
        hand_over(slots);
        caller.join().unwrap();
    }

    /// S4: one of them is replaced alone afterwards, while somebody may still be following the link.
    fn a_change_that_is_given_up() {
        let slots = two();
        let caller = thread::spawn(move || {
            let outer = enter(slots[0]);
            assert_eq!(outer.answer(), 1);
            enter(slots[1]).answer();
        });
        drop(close(slots));
        unload(swap(slots[1], 3));
        caller.join().unwrap();
        assert_eq!((enter(slots[0]).answer(), enter(slots[1]).answer()), (1, 3));
    }

    /// S5: the token goes from the lease of one to a lease of the other while a drainer counts.
    fn a_unit_of_work_that_holds_leases() {
        let slots = two();
        let first = enter(slots[0]).lease();
        let caller = thread::spawn(move || {
            let second = first.call(|_| slots[1].lease()).unwrap();
            assert_eq!((first.answer(), second.answer()), (1, 1));
            drop(first);
            second.answer();
        });
        hand_over(slots);
        caller.join().unwrap();
    }

    /// The same under a lease that a call was made through: guards count as leases there.
    fn a_call_through_a_lease() {
        let slots = two();
        let first = enter(slots[1]).lease();
        let caller = thread::spawn(move || {
            let second = first.call(|_| enter(slots[0]));
            drop(first);
            assert_eq!(second.answer(), 1);
        });
        hand_over(slots);
        caller.join().unwrap();
    }

    /// S6: each of the old ones has a drainer of its own, and one is taken apart while the other still looks.
    fn two_drainers() {
        let slots = two();
        let caller = thread::spawn(move || { unit(slots[0], slots[1]); });
        let [first, second] = replace(slots);
        let other = thread::spawn(move || take_apart(second));
        take_apart(first);
        other.join().unwrap();
        caller.join().unwrap();
    }

    /// There was nothing in one of them: whoever was in the other finds nothing there still.
    fn one_of_them_was_empty() {
        let slots = two();
        unload(slots[1].close().unwrap().unwrap());
        let caller = thread::spawn(move || {
            let outer = enter(slots[0]);
            let number = outer.answer();
            match slots[1].enter() {
                Ok(inner) => assert_eq!((number, inner.answer()), (2, 2)),
                Err(_) => assert_eq!(number, 1),
            }
        });
        let old = close(slots).resume_with(vec![Library::load(2), Library::load(2)]);
        old.into_iter().flatten().for_each(unload);
        caller.join().unwrap();
    }
}

/// Frees the generation, too: whoever looks at it later is found by the tool that watches memory, or not at all.
fn take_apart(mut old: Retired<Library>) {
    old.drain(FOREVER).unwrap();
    old.into_inner().map_err(drop).expect("drained").unload();
}
