//! Entering, nesting, leases and draining on few threads.

use super::super::record::{Record, wake};
use super::super::{EnterError, Guard, Lease, Paused, Retired, Slot, fence_mode};
use super::{Build, FOREVER, PATIENCE, SOON, Scene, alone, end};
use std::time::{Duration, Instant};

#[test]
fn a_swap_returns_the_old_generation_and_new_calls_are_in_the_new_one() {
    let scene = Scene::new();
    assert_eq!(scene.answer(), 1);
    let mut old = scene.swap(2);
    assert_eq!(scene.answer(), 2);
    assert_eq!(old.value().number, 1);
    old.drain(Duration::ZERO).unwrap();
    assert_eq!(scene.ended(), 0, "draining ends nothing");
    end(old);
    assert_eq!(scene.ended(), 1);
}

#[test]
fn a_slot_takes_its_generation_with_it_unless_somebody_is_inside() {
    let scene = Scene::new();
    let ends = scene.ends.clone();
    drop(scene);
    assert_eq!(ends.load(std::sync::atomic::Ordering::SeqCst), 1);

    let scene = Scene::new();
    let lease = scene.slot.lease().unwrap();
    drop(scene);
    assert_eq!(lease.ends.load(std::sync::atomic::Ordering::SeqCst), 0, "leaked, and safe");
}

#[test]
fn an_undrained_generation_is_leaked() {
    let scene = Scene::new();
    let guard = scene.slot.enter().unwrap();
    drop(scene.swap(2));
    assert_eq!((guard.number, scene.ended()), (1, 0));
}

#[test]
fn an_undrained_generation_does_not_come_apart() {
    let scene = Scene::new();
    let guard = scene.slot.enter().unwrap();
    let old = scene.swap(2).into_inner().unwrap_err();
    drop(guard);
    end(old);
}

#[test]
fn an_empty_slot_fails_at_once_and_opens_with_its_first_generation() {
    let slot = Slot::empty();
    assert_eq!(slot.enter().unwrap_err(), EnterError::Empty);
    assert_eq!(slot.try_enter().unwrap_err(), EnterError::Empty);
    assert_eq!(slot.lease().unwrap_err(), EnterError::Empty);
    assert!(!slot.is_open() && slot.close().unwrap().is_none());
    assert!(slot.swap(1).unwrap().is_none());
    assert_eq!(*slot.enter().unwrap(), 1);
}

#[test]
fn a_closed_slot_fails_at_once_but_for_nested_calls() {
    let scene = Scene::new();
    let outer = scene.slot.enter().unwrap();
    let mut old = scene.slot.close().unwrap().unwrap();
    assert_eq!(scene.answer(), 1, "nested");
    assert!(!old.poll());
    drop(outer);
    assert_eq!(scene.slot.enter().unwrap_err(), EnterError::Empty);
    end(old);
}

#[test]
fn a_nested_call_is_where_the_outer_one_is() {
    let scene = Scene::new();
    let outer = scene.slot.enter().unwrap();
    let mut old = scene.swap(2);
    let inner = scene.slot.enter().unwrap();
    assert_eq!(inner.number, 1);
    drop(outer); // out of order
    assert!(!old.poll());
    assert_eq!(scene.answer(), 1, "a guard is still held");
    drop(inner);
    assert_eq!(scene.answer(), 2);
    end(old);
}

#[test]
fn a_call_in_one_slot_does_not_hold_up_another() {
    let (one, other) = (Scene::new(), Scene::new());
    let outer = one.slot.enter().unwrap();
    let inner = other.slot.enter().unwrap();
    let mut old = other.swap(2);
    assert!(!old.poll());
    assert_eq!(other.answer(), 1, "nested, with a call in another slot around it");
    drop(inner);
    assert!(old.poll());
    assert_eq!(other.answer(), 2);
    drop(outer);
    end(old);
}

/// A record has three frames; the twenty-first call is in its seventh block.
#[test]
fn calls_nest_deeper_than_a_record_has_frames() {
    const DEPTH: usize = 21;
    let (scene, other) = (Scene::new(), Scene::new());
    let mut guards: Vec<_> = (0..DEPTH - 1).map(|_| scene.slot.enter().unwrap()).collect();
    let deepest = other.slot.enter().unwrap();
    let (mut old, mut other_old) = (scene.swap(2), other.swap(2));
    assert_eq!(other.answer(), 1, "also what is beyond the first block is nested in");
    assert_eq!(other_old.stragglers().guards(), 1);
    drop(deepest);
    assert!(other_old.poll());
    assert_eq!(old.stragglers().guards(), DEPTH - 1);
    while let Some(guard) = guards.pop() {
        assert_eq!((guard.number, scene.answer()), (1, 1));
        assert!(!old.poll());
    }
    assert!(old.poll());
    assert_eq!(scene.answer(), 2);
    end(old);
    end(other_old);
}

#[test]
fn a_panic_in_a_call_leaves_it() {
    let scene = Scene::leaked();
    let panicked = std::panic::catch_unwind(|| {
        let _guard = scene.slot.enter().unwrap();
        let _inner = scene.slot.enter().unwrap();
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(panicked.is_err());
    end(scene.swap(2));
}

#[test]
fn a_drain_from_inside_a_call_says_so_at_once() {
    let scene = Scene::new();
    let guard = scene.slot.enter().unwrap();
    let mut old = scene.swap(2);
    let start = Instant::now();
    let stragglers = old.drain(FOREVER).unwrap_err();
    assert!(stragglers.self_deadlock && stragglers.guards() == 1);
    assert!(start.elapsed() < PATIENCE);
    drop(guard);
    old.drain(Duration::ZERO).unwrap();
    end(old);
}

#[test]
fn a_drain_from_inside_a_call_of_a_lease_says_so_at_once() {
    let scene = Scene::new();
    let lease = scene.slot.lease().unwrap();
    let mut old = scene.swap(2);
    let stragglers = lease.call(|_| old.drain(FOREVER).unwrap_err());
    assert!(stragglers.self_deadlock);
    assert_eq!((stragglers.guards(), stragglers.leases), (0, 1));
    drop(lease);
    end(old);
}

#[test]
fn a_lease_goes_to_another_thread_and_holds_the_drain_up() {
    let scene = Scene::new();
    let lease = scene.slot.lease().unwrap();
    let mut old = scene.swap(2);
    assert_eq!(old.drain(SOON).unwrap_err().leases, 1);
    std::thread::scope(|threads| {
        threads.spawn(move || {
            let second = lease.clone();
            drop(lease);
            assert_eq!(second.number, 1);
        });
        old.drain(FOREVER).unwrap();
    });
    end(old);
}

#[test]
fn a_guard_entered_under_a_lease_may_outlive_it() {
    let scene = Scene::new();
    let lease = scene.slot.lease().unwrap();
    let mut old = scene.swap(2);
    let guard = lease.call(|build| {
        assert_eq!(build.number, 1);
        scene.slot.enter().unwrap()
    });
    drop(lease);
    assert_eq!((guard.number, old.stragglers().leases), (1, 1));
    assert_eq!(scene.answer(), 2, "the call of the lease is over");
    assert!(!old.poll());
    drop(guard);
    end(old);
}

#[test]
fn a_nested_call_is_where_the_innermost_call_is() {
    let scene = Scene::new();
    let outer = scene.slot.enter().unwrap();
    let first = outer.lease();
    drop(outer);
    end_later(scene.swap(2));
    let outer = scene.slot.enter().unwrap();
    first.call(|_| assert_eq!(scene.answer(), 1));
    assert_eq!((outer.number, scene.answer()), (2, 2));
}

/// Of a generation that is still in use.
fn end_later(mut old: Retired<Build>) {
    assert!(!old.poll());
}

#[test]
fn a_lease_of_a_guard_outlives_it() {
    let scene = Scene::new();
    let lease = scene.slot.enter().unwrap().lease();
    let mut old = scene.swap(2);
    assert!(!old.poll());
    drop(lease);
    end(old);
}

#[test]
fn a_thousand_slots_keep_apart() {
    let scenes: Vec<_> = (0..1000).map(|_| Scene::new()).collect();
    let guards: Vec<_> = scenes.iter().step_by(2).map(|scene| scene.slot.enter().unwrap()).collect();
    let mut old: Vec<_> = scenes.iter().map(|scene| scene.swap(2)).collect();
    let held = old.iter_mut().map(|old| !old.poll());
    assert!(held.enumerate().all(|(i, held)| held == (i % 2 == 0)));
    drop(guards);
    old.into_iter().for_each(end);
}

#[test]
fn a_guard_is_two_words_and_a_lease_is_one() {
    assert_eq!(size_of::<Guard<'_, Build>>(), 2 * size_of::<usize>());
    assert_eq!(size_of::<Lease<Build>>(), size_of::<usize>());
}

#[test]
fn only_a_guard_is_bound_to_its_thread() {
    /// Ambiguous, hence not to be compiled, for a type that is `Send`.
    trait NotSend<Proof> {
        fn proven() {}
    }
    impl<X> NotSend<()> for X {}
    impl<X: Send> NotSend<u8> for X {}
    <Guard<'_, Build> as NotSend<_>>::proven();

    fn moves<X: Send + Sync>() {}
    moves::<Lease<Build>>();
    moves::<Retired<Build>>();
    moves::<Paused<'_, Build>>();
    moves::<Slot<Build>>();
}

#[test]
fn the_fallback_is_chosen_by_the_environment() {
    let fallback = [("RESEAT_GATE", "fence")];
    alone(module_path!(), "the_fallback_is_chosen_by_the_environment", &fallback, || {
        assert_eq!(fence_mode(), "fence");
        a_swap_returns_the_old_generation_and_new_calls_are_in_the_new_one();
        a_nested_call_is_where_the_outer_one_is();
        calls_nest_deeper_than_a_record_has_frames();
        super::handover::a_closed_gate_holds_new_calls_and_lets_nested_ones_pass();
        super::threads::no_wake_up_is_lost();
    });
}

#[test]
fn the_exit_of_a_nested_call_always_looks_at_the_record() {
    for wake in [0, wake::EXTENSION, wake::COUNTED] {
        let record = Record::new(wake);
        assert_eq!(record.places[0].requests(), wake);
        assert!(record.places[1..].iter().all(|place| place.requests() == wake::NESTED));
    }
}

/// Enters so many slots one in the other, as plugins do that call one another.
fn nest<'s>(scenes: &'s [Scene], depth: usize) -> Vec<Guard<'s, Build>> {
    (0..depth).map(|at| scenes[at % scenes.len()].slot.enter_nested().unwrap()).collect()
}

#[test]
fn a_deep_stack_of_calls_sees_one_generation_of_each_slot() {
    const DEPTH: usize = 1_000; // many blocks of frames
    let scenes: Vec<_> = (0..3).map(|_| Scene::new()).collect();
    let mut guards = nest(&scenes, DEPTH);
    let mut old: Vec<_> = scenes.iter().map(|scene| scene.swap(2)).collect();
    guards.extend(nest(&scenes, 6));
    assert!(guards.iter().all(|guard| guard.number == 1));
    assert_eq!(old[0].stragglers().guards(), DEPTH / 3 + 1 + 2);
    while let Some(guard) = guards.pop() {
        assert!(old.iter_mut().all(|old| !old.poll() || guards.len() < 3));
        guard.leave_nested();
    }
    assert!(scenes.iter().all(|scene| scene.answer() == 2), "the thread is outside again");
    old.into_iter().for_each(end);
}

#[test]
fn whatever_the_order_in_which_nested_calls_leave_the_last_one_leaves_nothing_behind() {
    let scenes: Vec<_> = (0..3).map(|_| Scene::new()).collect();
    let mut number = 1;
    for depth in 1..=12 {
        for first in 0..depth {
            for backwards in [false, true] {
                let mut guards = nest(&scenes, depth);
                let first = guards.remove(first);
                first.leave_nested();
                while !guards.is_empty() {
                    guards.remove(if backwards { guards.len() - 1 } else { 0 }).leave_nested();
                }
                number += 1;
                scenes.iter().for_each(|scene| end(scene.swap(number)));
                assert!(scenes.iter().all(|scene| scene.answer() == number));
            }
        }
    }
}

#[test]
fn what_is_nested_quickly_is_in_its_own_slot_at_every_depth() {
    let scenes: Vec<_> = (0..20).map(|_| Scene::new()).collect();
    scenes.iter().zip(1..).for_each(|(scene, number)| end(scene.swap(number)));
    let guards = nest(&scenes, 20);
    assert!(guards.iter().zip(1..).all(|(guard, number)| guard.number == number));
    for scene in &scenes {
        let inner = scene.slot.enter_nested().unwrap();
        assert_eq!(inner.number, scene.answer());
        inner.leave_nested();
    }
}
