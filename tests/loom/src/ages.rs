//! The sampler beside a call and a drain: case 10.
//!
//! Frames have two writers here, which loom tells from one: reading one's own frame is an operation. So
//! these models are of a build of their own, `--features sampled`.

use crate::gate::sample_ages;
use crate::scene::{enter, models, slot, swap, unload};
use loom::thread;
use std::time::Duration;

models! {
    fn a_sampler_beside_a_call_and_a_drain() {
        let slot = slot();
        let caller = thread::spawn(move || enter(slot).answer());
        let sampler = thread::spawn(|| sample_ages(Duration::ZERO));
        unload(swap(slot, 2));
        caller.join().unwrap();
        sampler.join().unwrap();
    }

    fn a_sampler_beside_nested_calls() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            let number = outer.answer();
            let inner = enter(slot);
            drop(outer);
            assert_eq!(inner.answer(), number);
        });
        let sampler = thread::spawn(|| sample_ages(Duration::ZERO));
        unload(swap(slot, 2));
        caller.join().unwrap();
        sampler.join().unwrap();
    }

    /// What is copied quickly is copied without the mark.
    fn a_quick_call_inside_of_a_marked_one() {
        let slot = slot();
        let caller = thread::spawn(move || {
            let outer = enter(slot);
            sample_ages(Duration::ZERO);
            let inner = slot.enter_nested().expect("it is not empty");
            drop(outer);
            assert!(inner.answer() > 0);
            inner.leave_nested();
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }

    /// The owner meets marks at every point of its calls, which the others have no way to arrange.
    fn calls_around_samplings() {
        let slot = slot();
        let caller = thread::spawn(move || {
            sample_ages(Duration::ZERO);
            let outer = enter(slot);
            let number = outer.answer();
            sample_ages(Duration::ZERO);
            let inner = enter(slot);
            drop(outer);
            assert_eq!(inner.answer(), number);
            sample_ages(Duration::ZERO);
            drop(inner);
            sample_ages(Duration::ZERO);
            assert!(enter(slot).answer() >= number);
        });
        unload(swap(slot, 2));
        caller.join().unwrap();
    }
}
