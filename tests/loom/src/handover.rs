//! The closed gate: nobody is in either generation while state is handed over.

use crate::gate::{EnterError, PauseError, Slot};
use crate::scene::{FOREVER, Library, enter, models, slot};
use loom::thread;
use std::time::Duration;

/// The old library is gone before there is a new one.
fn hand_over(slot: &Slot<Library>) {
    let mut paused = slot.pause().unwrap();
    paused.drain(FOREVER).unwrap();
    paused.value().unload();
    drop(paused.resume_with(Library::load(2)));
}

models! {
    fn callers_that_do_not_wait() {
        let slot = slot();
        let caller = thread::spawn(move || {
            for _ in 0..2 {
                match slot.try_enter() {
                    Ok(guard) => drop(guard.answer()),
                    Err(error) => assert_eq!(error, EnterError::Paused),
                }
            }
        });
        hand_over(slot);
        caller.join().unwrap();
    }

    /// Case 8: it is let in, before, after, or by the opening.
    fn a_caller_that_waits() {
        let slot = slot();
        slot.set_wait_limit(FOREVER);
        let caller = thread::spawn(move || enter(slot).answer());
        hand_over(slot);
        caller.join().unwrap();
        assert_eq!(slot.waiting(), 0);
    }

    fn a_waiting_caller_times_out() {
        let slot = slot();
        let caller = thread::spawn(move || match slot.enter_within(Duration::from_nanos(1)) {
            Ok(guard) => drop(guard.answer()),
            Err(error) => assert!(matches!(error, EnterError::TimedOut { .. })),
        });
        hand_over(slot);
        caller.join().unwrap();
        assert_eq!(slot.waiting(), 0);
    }

    /// One may wait, so the other waits, passes, or is turned away; it never stays.
    fn a_crowd_at_the_gate() {
        let slot = slot();
        slot.set_wait_limit(FOREVER);
        slot.set_max_waiters(1);
        let callers = [(); 2].map(|()| thread::spawn(move || match slot.enter() {
            Ok(guard) => drop(guard.answer()),
            Err(error) => assert_eq!(error, EnterError::Crowded { waiting: 1 }),
        }));
        drop(slot.pause().unwrap());
        for caller in callers {
            caller.join().unwrap();
        }
    }

    /// The old generation goes on as if nothing had been.
    fn an_abandoned_pause() {
        let slot = slot();
        slot.set_wait_limit(FOREVER);
        let caller = thread::spawn(move || assert_eq!(enter(slot).answer(), 1));
        drop(slot.pause().unwrap());
        caller.join().unwrap();
        assert_eq!(enter(slot).answer(), 1);
    }

    fn two_pauses() {
        let slot = slot();
        let pause = move || match slot.pause() {
            Ok(paused) => drop(paused),
            Err(error) => assert_eq!(error, PauseError::AlreadyPaused),
        };
        let other = thread::spawn(pause);
        pause();
        other.join().unwrap();
        assert_eq!(enter(slot).answer(), 1);
    }

    fn a_swap_races_with_a_pause() {
        let slot = slot();
        let writer = thread::spawn(move || match slot.swap(Library::load(3)) {
            Ok(old) => crate::scene::unload(old.unwrap()),
            Err(refused) => assert_eq!(refused.value.answer(), 3),
        });
        hand_over(slot);
        writer.join().unwrap();
        assert!(enter(slot).answer() > 1);
    }

    /// The drain waits for the outer call, so the inner one must not wait for the drain.
    fn a_nested_call_passes_the_closed_gate() {
        let slot = slot();
        slot.set_wait_limit(FOREVER);
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let number = outer.answer();
            assert_eq!(enter(slot).answer(), number);
        });
        hand_over(slot);
        caller.join().unwrap();
    }
}
