//! One thread's calls, plain and nested, against one swap: cases 1 to 4.

use crate::gate::end_current_thread;
use crate::scene::{Library, enter, models, slot, swap, unload};
use loom::thread;

models! {
    fn one_call() {
        let slot = slot();
        let caller = thread::spawn(move || enter(slot).answer());
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    fn two_calls_never_go_back() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let first = enter(slot).answer();
            let second = enter(slot).answer();
            assert!(second >= first);
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    fn two_callers() {
        let slot = slot();
        let callers = [(); 2].map(|()| thread::spawn(move || enter(slot).answer()));
        unload(swap(slot, 2));
        for caller in callers {
            caller.join().unwrap();
        }
    }

    /// Case 6, its second half: the newcomer's guess is older than the closing, and the drainer sees the
    /// frame that it is about to undo.
    fn a_caller_that_nobody_asked() {
        let slot = slot();
        let guard = enter(slot);
        let newcomer = thread::spawn(move || drop(slot.enter().map(|guard| guard.answer())));
        let writer = thread::spawn(move || unload(slot.close().unwrap().unwrap()));
        drop(guard);
        newcomer.join().unwrap();
        writer.join().unwrap();
    }

    /// A call that begins after `swap` has returned is in the new generation.
    fn new_calls_go_to_the_new_generation() {
        let slot = slot();
        let old = swap(slot, 2);
        let caller = thread::spawn(move || assert_eq!(enter(slot).answer(), 2));
        unload(old);
        caller.join().unwrap();
    }

    fn a_nested_call_stays_in_its_generation() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let number = outer.answer();
            let inner = enter(slot);
            assert_eq!(inner.answer(), number);
            drop(inner);
            outer.answer();
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// Case 3: protection is copied upwards, then the outer frame is emptied first.
    fn guards_are_dropped_out_of_order() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let inner = enter(slot);
            drop(outer);
            inner.answer();
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// While any guard is held the thread is inside, also with the first frame empty.
    fn a_call_beside_an_inner_guard_is_nested_in_it() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let inner = enter(slot);
            let number = inner.answer();
            drop(outer);
            assert_eq!(enter(slot).answer(), number);
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// Case 3 again: the lowest frame is free, and the copy must not go there.
    fn a_third_guard_goes_above_the_second() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let middle = enter(slot);
            drop(outer);
            let inner = enter(slot);
            drop(middle);
            inner.answer();
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// The third frame is in a further block, which is linked during the scan.
    fn nesting_overflows_the_record() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let guards = [(); 3].map(|()| enter(slot));
            let [outer, middle, inner] = guards;
            drop(outer);
            drop(middle);
            inner.answer();
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// Late calls borrow a record each, so that one record has several owners in turn.
    fn a_record_changes_owners() {
        let slot = slot();
        let caller = thread::spawn(move || {
            enter(slot).answer();
            end_current_thread();
            enter(slot).answer();
            enter(slot).answer();
        });
        enter(slot).answer();
        end_current_thread();
        enter(slot).answer();
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// A leaked guard, or a thread torn down inside a call: the generation stays and the record is not
    /// given to anybody else.
    fn a_leaked_guard_keeps_its_generation() {
        let slot = slot();
        let caller = thread::spawn(move || {
            std::mem::forget(enter(slot));
            end_current_thread();
        });
        caller.join().unwrap();
        let mut old = swap(slot, 2);
        assert!(!old.poll());
        assert!(old.stragglers().threads[0].orphaned);
        assert_eq!(enter(slot).answer(), 2);
        assert!(!old.poll());
    }

    /// The same while the thread is ending: whatever the drainer sees, it does not unload.
    fn a_thread_ends_inside_a_call_during_the_drain() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let guard = enter(slot);
            let leaked = guard.answer() == 1;
            if leaked {
                std::mem::forget(guard);
            }
            end_current_thread();
            leaked
        });
        let mut old = swap(slot, 2);
        let drained = old.poll();
        if drained {
            old.value().unload();
        }
        let leaked = caller.join().unwrap();
        assert!(!(drained && leaked));
        assert_eq!(old.poll(), !leaked);
    }

    fn entering_races_with_closing() {
        let slot = slot();
        let caller = thread::spawn(move || {
            if let Ok(guard) = slot.enter() {
                guard.answer();
            }
        });
        unload(slot.close().unwrap().unwrap());
        assert!(slot.enter().is_err());
        caller.join().unwrap();
    }

    /// The outer call is still in flight, so the slot's being empty is not the inner one's business.
    fn a_nested_call_works_after_closing() {
        let slot = slot();
        let caller = thread::spawn(move || {
            if let Ok(outer) = slot.enter() {
                let inner = slot.enter().unwrap();
                drop(outer);
                inner.answer();
            }
        });
        unload(slot.close().unwrap().unwrap());
        caller.join().unwrap();
    }

    fn a_call_in_one_slot_is_nested_in_another() {
        let (slot, other) = (slot(), slot());
        let caller = thread::spawn(move || {
            let outer = enter(other);
            enter(slot).answer();
            outer.answer();
        });
        unload(swap(slot, 2));
        unload(other.swap(Library::load(2)).unwrap().unwrap());
        caller.join().unwrap();
    }
}
