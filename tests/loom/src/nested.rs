//! The quick way of entering inside of another call, and of leaving that again: case 3, S2 and S3 for whoever goes by it.

use crate::gate::{Guard, PausedSet, Slot, current_thread, run_errands, set_errand_hook};
use crate::scene::{FOREVER, Library, enter, models, slot, swap, unload};
use loom::thread;
use std::ops::Deref;

/// Entered and left as one plugin does that calls another.
struct Inner(Option<Guard<'static, Library>>);

impl Inner {
    fn enter(slot: &'static Slot<Library>) -> Self {
        Inner(Some(slot.enter_nested().expect("the slot is not empty and waits have no limit")))
    }
}

impl Deref for Inner {
    type Target = Library;
    fn deref(&self) -> &Library {
        self.0.as_ref().expect("until it is dropped")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.0.take().expect("it is dropped once").leave_nested();
    }
}

fn two() -> [&'static Slot<Library>; 2] {
    let slots = [slot(), slot()];
    slots.iter().for_each(|slot| slot.set_wait_limit(FOREVER));
    slots
}

fn close(slots: [&'static Slot<Library>; 2]) -> PausedSet<'static, Library> {
    PausedSet::close(slots.to_vec()).expect("open")
}

/// Two that were entered one in the other are from the same time.
fn unit(first: &'static Slot<Library>, second: &'static Slot<Library>) -> u32 {
    let outer = Inner::enter(first);
    let number = outer.answer();
    let inner = Inner::enter(second);
    assert_eq!(inner.answer(), number, "two from different times");
    number
}

models! {
    fn a_nested_call_is_waited_for() {
        let [first, second] = two();
        let caller = thread::spawn(move || {
            let outer = enter(first);
            Inner::enter(second).answer();
            outer.answer();
        });
        unload(swap(second, 2));
        caller.join().unwrap();
    }

    /// The drainer of the inner one must hear of its end, though the outer one lasts.
    fn the_inner_call_is_waited_for_and_the_outer_one_is_not() {
        let [first, second] = two();
        let outer = enter(first);
        let inner = Inner::enter(second);
        let writer = thread::spawn(move || unload(swap(second, 2)));
        inner.answer();
        drop(inner);
        writer.join().unwrap();
        outer.answer();
    }

    /// Two drainers ask the thread, each for its own; both are told by its exits.
    fn both_levels_are_waited_for() {
        let [first, second] = two();
        let caller = thread::spawn(move || {
            let outer = Inner::enter(first);
            Inner::enter(second).answer();
            outer.answer();
        });
        let writer = thread::spawn(move || unload(swap(first, 2)));
        unload(swap(second, 2));
        writer.join().unwrap();
        caller.join().unwrap();
    }

    fn a_quickly_nested_call_stays_in_its_generation() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let number = outer.answer();
            assert_eq!(Inner::enter(slot).answer(), number);
            assert_eq!(Inner::enter(slot).answer(), number);
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// Case 3, of a copy that was made quickly.
    fn the_outer_guard_goes_before_a_quick_copy() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let inner = Inner::enter(slot);
            drop(outer);
            inner.answer();
            // While it is held, the thread is inside.
            assert_eq!(Inner::enter(slot).answer(), inner.answer());
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// After both have left, the thread is outside: the next call is in the new generation.
    fn the_outer_guard_goes_first_and_the_next_call_is_outermost() {
        let slot = slot();
        let outer = enter(slot);
        let inner = Inner::enter(slot);
        drop(outer);
        let old = swap(slot, 2);
        inner.answer();
        drop(inner);
        assert_eq!(Inner::enter(slot).answer(), 2);
        unload(old);
    }

    /// What is left is the innermost of three, in a further block.
    fn the_middle_guard_goes_first() {
        let slot = slot();
        let outer = enter(slot);
        let middle = Inner::enter(slot);
        let inner = Inner::enter(slot);
        drop(middle);
        drop(outer);
        let old = swap(slot, 2);
        assert_eq!(Inner::enter(slot).answer(), 1, "it is nested in what is left");
        drop(inner);
        assert_eq!(Inner::enter(slot).answer(), 2);
        unload(old);
    }

    fn a_quickly_nested_call_passes_the_closed_gate() {
        let slot = slot();
        slot.set_wait_limit(FOREVER);
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let number = outer.answer();
            assert_eq!(Inner::enter(slot).answer(), number);
        });
        let mut paused = slot.pause().unwrap();
        paused.drain(FOREVER).unwrap();
        paused.value().unload();
        drop(paused.resume_with(Library::load(2)));
        caller.join().unwrap();
    }

    /// S1 and S2.
    fn a_quick_unit_of_work_against_a_handover_of_both() {
        let slots = two();
        let caller = thread::spawn(move || { unit(slots[0], slots[1]); });
        let mut paused = close(slots);
        paused.drain(FOREVER).expect("without a limit, and not from inside");
        paused.values().flatten().for_each(Library::unload);
        drop(paused.resume_with(vec![Library::load(2), Library::load(2)]));
        caller.join().unwrap();
    }

    /// S3: there was no link to be seen before the new one was found.
    fn a_quick_unit_of_work_against_a_change_that_nobody_waits_for() {
        let slots = two();
        let caller = thread::spawn(move || { unit(slots[0], slots[1]); });
        let old = close(slots).resume_with(vec![Library::load(2), Library::load(2)]);
        old.into_iter().flatten().for_each(unload);
        caller.join().unwrap();
    }

    /// A call of another slot is in between: the innermost on the stack is linked to nothing.
    fn a_link_of_the_outermost_is_found() {
        let slots = two();
        let outer = Inner::enter(slots[0]);
        let middle = Inner::enter(slot());
        let old = close(slots).resume_with(vec![Library::load(2), Library::load(2)]);
        assert_eq!(Inner::enter(slots[1]).answer(), 1, "two from different times");
        drop((middle, outer));
        old.into_iter().flatten().for_each(unload);
    }

    /// The token goes from the frame of one to a lease of it while a drainer is between the two.
    fn a_lease_is_taken_of_two_that_are_drained() {
        let slots = two();
        let guard = enter(slots[1]);
        let writer = thread::spawn(move || {
            let mut paused = close(slots);
            paused.drain(FOREVER).expect("without a limit, and not from inside");
            paused.values().flatten().for_each(Library::unload);
            drop(paused.resume_with(vec![Library::load(2), Library::load(2)]));
        });
        let lease = guard.lease();
        drop(guard);
        lease.answer();
        drop(lease);
        writer.join().unwrap();
    }

    /// A lease call is on the stack: what is nested in it counts as a lease.
    fn a_quick_call_under_a_lease() {
        let slot = slot();
        let lease = enter(slot).lease();
        let writer = thread::spawn(move || unload(swap(slot, 2)));
        let guard = lease.call(|_| Inner::enter(slot));
        drop(lease);
        assert_eq!(guard.answer(), 1);
        drop(guard);
        writer.join().unwrap();
    }

    /// What a thread was asked for during a nested call is done when it is in none.
    fn an_errand_comes_during_a_nested_call() {
        use std::sync::atomic::{AtomicU32, Ordering};
        static DONE: AtomicU32 = AtomicU32::new(0);
        DONE.store(0, Ordering::Relaxed);
        set_errand_hook(|| {
            DONE.fetch_add(1, Ordering::Relaxed);
        });
        let [first, second] = two();
        let outer = enter(first);
        let owner = current_thread().unwrap();
        let inner = Inner::enter(second);
        let poker = thread::spawn(move || assert!(owner.poke()));
        drop(inner);
        assert_eq!(DONE.load(Ordering::Relaxed), 0, "the thread is in a call");
        drop(outer);
        poker.join().unwrap();
        run_errands();
        assert_eq!(DONE.load(Ordering::Relaxed), 1);
    }
}
