//! The closed gate.

use super::super::{EnterError, PauseError};
use super::{FOREVER, SOON, Scene, end, eventually};
use std::sync::Barrier;
use std::time::Duration;

#[test]
pub(super) fn a_closed_gate_holds_new_calls_and_lets_nested_ones_pass() {
    let scene = Scene::new();
    let meeting = Barrier::new(2);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let outer = scene.slot.enter().unwrap();
            meeting.wait();
            meeting.wait();
            assert_eq!((outer.number, scene.answer()), (1, 1));
        });
        meeting.wait();
        let mut paused = scene.slot.pause().unwrap();
        assert_eq!(scene.slot.try_enter().unwrap_err(), EnterError::Paused);
        let callers = [(); 4].map(|()| threads.spawn(|| scene.answer()));
        eventually("all four wait", || scene.slot.waiting() == 4);
        assert_eq!(paused.drain(SOON).unwrap_err().threads.len(), 1);
        meeting.wait();
        paused.drain(FOREVER).unwrap();
        assert_eq!((paused.value().number, scene.slot.waiting()), (1, 4));
        end(paused.resume_with(scene.build(2)));
        assert!(callers.map(|caller| caller.join().unwrap()) == [2; 4]);
    });
    assert_eq!(scene.slot.waiting(), 0);
}

#[test]
fn a_drain_past_its_deadline_leaves_the_old_generation_in_charge() {
    let scene = Scene::new();
    let meeting = Barrier::new(2);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let _guard = scene.slot.enter().unwrap();
            meeting.wait();
            meeting.wait();
        });
        meeting.wait();
        let mut paused = scene.slot.pause().unwrap();
        let waiting = threads.spawn(|| scene.answer());
        eventually("it waits", || scene.slot.waiting() == 1);
        assert!(paused.drain(SOON).is_err());
        drop(paused);
        assert_eq!(waiting.join().unwrap(), 1);
        meeting.wait();
    });
    let mut old = scene.swap(2);
    old.drain(FOREVER).unwrap();
    end(old);
    assert_eq!(scene.answer(), 2);
}

#[test]
fn a_call_of_a_lease_passes_the_gate_that_waits_for_it() {
    let scene = Scene::new();
    let lease = scene.slot.lease().unwrap();
    let mut paused = scene.slot.pause().unwrap();
    assert!(scene.slot.try_enter().is_err());
    lease.call(|_| assert_eq!(scene.answer(), 1));
    assert!(scene.slot.try_enter().is_err());
    drop(lease);
    paused.drain(FOREVER).unwrap();
    end(paused.resume_with(scene.build(2)));
    assert_eq!(scene.answer(), 2);
}

#[test]
fn a_caller_waits_no_longer_than_its_limit() {
    let scene = Scene::new();
    let paused = scene.slot.pause().unwrap();
    let EnterError::TimedOut { waited } = scene.slot.enter_within(SOON).unwrap_err() else { panic!() };
    assert!(waited >= SOON);
    scene.slot.set_wait_limit(Duration::ZERO);
    assert!(matches!(scene.slot.enter().unwrap_err(), EnterError::TimedOut { .. }));
    assert_eq!(scene.slot.waiting(), 0);
    drop(paused);
    assert_eq!(scene.answer(), 1);
}

#[test]
fn only_so_many_callers_may_wait() {
    let scene = Scene::new();
    scene.slot.set_max_waiters(2);
    let paused = scene.slot.pause().unwrap();
    std::thread::scope(|threads| {
        let callers = [(); 2].map(|()| threads.spawn(|| scene.answer()));
        eventually("two wait", || scene.slot.waiting() == 2);
        assert_eq!(scene.slot.enter().unwrap_err(), EnterError::Crowded { waiting: 2 });
        assert_eq!(scene.slot.waiting(), 2);
        drop(paused);
        assert!(callers.map(|caller| caller.join().unwrap()) == [1; 2]);
    });
}

#[test]
fn a_closed_gate_is_nobody_elses_to_change() {
    let scene = Scene::new();
    let paused = scene.slot.pause().unwrap();
    assert!(scene.slot.is_paused() && !scene.slot.is_open());
    assert_eq!(scene.slot.pause().unwrap_err(), PauseError::AlreadyPaused);
    assert_eq!(scene.slot.close().unwrap_err(), PauseError::AlreadyPaused);
    let refused = scene.slot.swap(scene.build(2)).unwrap_err();
    assert_eq!((refused.value.number, scene.ended()), (2, 0), "the value comes back");
    drop(paused);
    assert_eq!(scene.answer(), 1);
}

#[test]
fn an_empty_slot_has_nothing_to_hand_over() {
    let scene = Scene::new();
    end(scene.slot.close().unwrap().unwrap());
    assert_eq!(scene.slot.pause().unwrap_err(), PauseError::Empty);
}

#[test]
fn a_panic_during_a_handover_opens_the_gate() {
    let scene = Scene::leaked();
    let panicked = std::panic::catch_unwind(|| {
        let mut paused = scene.slot.pause().unwrap();
        paused.drain(FOREVER).unwrap();
        std::panic::resume_unwind(Box::new("save failed, on purpose"));
    });
    assert!(panicked.is_err());
    assert_eq!(scene.answer(), 1);
}

#[test]
fn errors_say_what_is_wrong() {
    let timed_out = EnterError::TimedOut { waited: Duration::from_millis(2500) };
    let texts = [
        (EnterError::Empty, "nothing is loaded"),
        (timed_out, "the gate is closed for a handover and did not open within 2.5s"),
        (EnterError::Paused, "the gate is closed for a handover"),
        (
            EnterError::Crowded { waiting: 7 },
            "the gate is closed for a handover and 7 threads wait there already",
        ),
    ];
    texts.into_iter().for_each(|(error, text)| assert_eq!(error.to_string(), text));
}
