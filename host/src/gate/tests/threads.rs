//! Threads that come, go, end badly and hold things up; and what is said about them.

use super::super::{Held, Straggler, Stragglers, current_thread, sample_ages};
use super::{FOREVER, PATIENCE, SOON, Scene, Stop, end, eventually};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_leaked_guard_keeps_its_generation_and_is_reported() {
    let scene = Scene::leaked();
    let culprit = thread::Builder::new().name("culprit".into());
    culprit.spawn(|| std::mem::forget(scene.slot.enter())).unwrap().join().unwrap();
    let mut old = scene.swap(2);
    let stragglers = old.drain(SOON).unwrap_err();
    assert!(stragglers.threads[0].orphaned);
    if cfg!(all(target_os = "linux", not(miri))) {
        assert!(stragglers.to_string().ends_with("by thread culprit (ended without leaving)"));
    }
    for _ in 0..4 {
        thread::spawn(|| assert_eq!(scene.answer(), 2)).join().unwrap(); // on other records
    }
    assert!(!old.poll());
}

/// Calls the slot when the thread's thread-locals are destroyed.
struct LateCall(&'static Scene);

impl Drop for LateCall {
    fn drop(&mut self) {
        let outer = self.0.slot.enter().unwrap();
        let old = self.0.swap(outer.number + 1);
        assert_eq!(self.0.answer(), outer.number, "nested in the call around it");
        drop(outer);
        assert_ne!(self.0.answer(), old.value().number);
        end(old);
    }
}

thread_local! {
    static LATE_CALL: Cell<Option<LateCall>> = const { Cell::new(None) };
}

#[test]
fn a_thread_local_may_call_from_its_destructor() {
    let scene = Scene::leaked();
    // Destructors run in the reverse order of first use: once before the record goes back, once after.
    let before = thread::spawn(|| {
        scene.answer();
        LATE_CALL.set(Some(LateCall(scene)));
    });
    before.join().unwrap();
    let after = thread::spawn(|| {
        LATE_CALL.set(Some(LateCall(scene)));
        scene.answer();
    });
    after.join().unwrap();
    assert_eq!((scene.answer(), scene.ended()), (3, 2));
    end(scene.swap(4));
}

#[test]
fn a_thread_reference_outlives_its_thread() {
    let scene = Scene::leaked();
    let thread = thread::spawn(|| current_thread().unwrap()).join().unwrap();
    eventually("the record is given back", || !thread.is_registered());
    assert!(!thread.poke());
    // Somebody takes the record over; the reference is not to him.
    let later: Vec<_> = (0..64).map(|_| thread::spawn(|| scene.answer())).collect();
    later.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), 1));
    assert!(!thread.is_registered());
    assert_ne!(Some(thread), current_thread());
    assert_eq!(current_thread(), current_thread());
}

/// A lost wake-up would sleep for 100 s here; see `Fence::nap`.
#[test]
pub(super) fn no_wake_up_is_lost() {
    let rounds = if cfg!(miri) { 5 } else { 300 };
    let scene = Scene::new();
    let stop = AtomicBool::new(false);
    let call_repeatedly = |seed: u32| {
        let mut random = seed;
        while !stop.load(Ordering::Relaxed) {
            let _guard = scene.slot.enter().unwrap();
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (0..random >> 18).for_each(|_| std::hint::spin_loop());
        }
    };
    thread::scope(|threads| {
        for seed in 0..3 {
            threads.spawn(move || call_repeatedly(seed));
        }
        let _stop = Stop(&stop);
        let mut slowest = Duration::ZERO;
        for number in 2..rounds + 2 {
            let mut old = scene.swap(number);
            let start = Instant::now();
            old.drain(FOREVER).unwrap();
            slowest = slowest.max(start.elapsed());
            end(old);
        }
        assert!(slowest < PATIENCE, "{slowest:?}");
    });
    assert_eq!(scene.ended() as u64, rounds);
}

/// Everything at once: nesting, leases, threads that come and go, swaps and handovers.
#[test]
fn nobody_is_in_a_generation_that_has_ended() {
    let rounds = if cfg!(miri) { 3 } else { 2000 };
    let scene = Scene::new();
    scene.slot.set_wait_limit(FOREVER);
    let stop = AtomicBool::new(false);
    let visit = || {
        let outer = scene.slot.enter().unwrap();
        let number = outer.number;
        assert_eq!(scene.answer(), number);
        let lease = scene.slot.lease().unwrap();
        drop(outer);
        lease.call(|build| assert_eq!((build.number, scene.answer()), (number, number)));
        lease
    };
    thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let lease = visit();
                    // It must not come to the gate with the lease: the gate may be waiting for that.
                    let scene = &scene;
                    let check = move || lease.call(|build| assert_eq!(scene.answer(), build.number));
                    thread::scope(|inner| {
                        inner.spawn(check);
                    });
                }
            });
        }
        let _stop = Stop(&stop);
        for number in 0..rounds {
            if number % 2 == 0 {
                let mut old = scene.swap(number + 2);
                old.drain(FOREVER).unwrap();
                end(old);
            } else {
                let mut paused = scene.slot.pause().unwrap();
                paused.drain(FOREVER).unwrap();
                end(paused.resume_with(scene.build(number + 2)));
            }
        }
    });
    assert_eq!(scene.ended() as u64, rounds);
}

#[test]
fn a_report_names_the_threads_that_are_inside() {
    let scene = Scene::new();
    let meeting = Barrier::new(2);
    thread::scope(|threads| {
        let holder = thread::Builder::new().name("http-2".into());
        let holder = holder
            .spawn_scoped(threads, || {
                let _guards = (scene.slot.enter().unwrap(), scene.slot.enter().unwrap());
                meeting.wait();
                meeting.wait();
                current_thread().unwrap()
            })
            .unwrap();
        meeting.wait();
        let mut old = scene.swap(2);
        eventually("a millisecond has passed", || {
            old.stragglers().threads[0].since() >= Some(Duration::from_millis(1))
        });
        let stragglers = old.drain(SOON).unwrap_err();
        let [straggler] = &stragglers.threads[..] else { panic!("one thread: {stragglers:?}") };
        assert_eq!((straggler.guards.len(), straggler.orphaned), (2, false));
        if cfg!(all(target_os = "linux", not(miri))) {
            assert_eq!(straggler.thread.name().as_deref(), Some("http-2"));
            assert_eq!(straggler.thread.os_tid(), straggler.os_tid);
            let text = stragglers.to_string();
            assert!(text.starts_with("2 guards, oldest entered at least "), "{text}");
            assert!(text.ends_with(" ms ago by thread http-2"), "{text}");
        }
        meeting.wait();
        assert_eq!(holder.join().unwrap(), straggler.thread);
        old.drain(FOREVER).unwrap();
        end(old);
    });
}

#[test]
fn a_report_reads_as_a_sentence() {
    let thread = |name: &str, guards, orphaned, since| Straggler {
        thread: current_thread().unwrap(),
        os_tid: 4711,
        name: (!name.is_empty()).then(|| name.to_owned()),
        guards: vec![Held { since, note: None }; guards],
        orphaned,
    };
    let report = |threads: Vec<_>, leases| Stragglers { threads, leases, self_deadlock: false }.to_string();
    let long = Some(Duration::from_millis(4123));
    let short = Some(Duration::from_micros(1500));
    assert_eq!(report(vec![], 0), "nobody");
    assert_eq!(report(vec![], 1), "1 lease");
    assert_eq!(
        report(vec![thread("http-2", 2, false, long)], 0),
        "2 guards, oldest entered at least 4.1 s ago by thread http-2"
    );
    assert_eq!(
        report(vec![thread("", 1, false, short)], 3),
        "1 guard, entered at least 1 ms ago by thread 4711, and 3 leases"
    );
    assert_eq!(
        report(vec![thread("a", 1, false, long), thread("b", 1, true, long)], 0),
        "2 guards, oldest entered at least 4.1 s ago by threads a, b (ended without leaving)"
    );
    let many = (0..6).map(|i| thread(&format!("t{i}"), 1, false, long)).collect();
    assert!(report(many, 0).ends_with("by threads t0, t1, t2, t3 and 2 more"));
    assert_eq!(report(vec![thread("late", 1, false, None)], 0), "1 guard, entered by thread late");
    let own = Stragglers { leases: 2, self_deadlock: true, threads: vec![] };
    assert_eq!(own.to_string(), "2 leases; the draining thread itself is inside");
}

#[test]
fn a_report_says_what_the_holders_have_noted() {
    let scene = Scene::new();
    let (inner, outer) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let guards = [scene.slot.enter().unwrap(), scene.slot.enter().unwrap()];
    guards[0].note().store((&raw const outer).cast_mut().cast(), Ordering::Relaxed);
    guards[1].note().store((&raw const inner).cast_mut().cast(), Ordering::Relaxed);
    let mut old = scene.swap(2);
    let stragglers = old.drain(SOON).unwrap_err();
    let notes: Vec<_> = stragglers.threads[0].guards.iter().map(|held| held.note.unwrap().get()).collect();
    assert_eq!(notes, [(&raw const outer).addr(), (&raw const inner).addr()]);
    let explained = |what: &AtomicUsize| {
        let address = std::ptr::from_ref(what).addr();
        stragglers.explained(&|note| (note.get() == address).then(|| "read".to_owned()))
    };
    // Whichever is known, the innermost first; whatever else is said stays the same.
    assert!(explained(&inner).contains(" (last call: read)"), "{}", explained(&inner));
    assert!(explained(&outer).contains(" (last call: read)"), "{}", explained(&outer));
    assert!(!stragglers.to_string().contains("last call"), "{stragglers}");
    drop(guards);
    old.drain(FOREVER).unwrap();
    end(old);
}

#[test]
fn the_age_of_a_guard_is_known_from_before_the_retirement() {
    let scene = Scene::new();
    let guard = scene.slot.enter().unwrap();
    sample_ages(Duration::ZERO);
    let sampled = Instant::now();
    eventually("some time has passed", || sampled.elapsed() >= Duration::from_millis(30));
    sample_ages(Duration::ZERO); // finds it marked already
    let old = scene.swap(2);
    let age = old.stragglers().threads[0].since().unwrap();
    assert!(age >= Duration::from_millis(30), "{age:?}");
    drop(guard);
    end(old);
}

#[test]
fn a_guard_in_the_place_of_another_is_as_old_as_itself() {
    let scene = Scene::new();
    let guard = scene.slot.enter().unwrap();
    sample_ages(Duration::ZERO);
    let sampled = Instant::now();
    eventually("some time has passed", || sampled.elapsed() >= Duration::from_millis(30));
    drop(guard);
    let entered = Instant::now();
    let guard = scene.slot.enter().unwrap();
    let old = scene.swap(2);
    let age = old.stragglers().threads[0].since().unwrap();
    assert!(age <= entered.elapsed(), "{age:?}");
    drop(guard);
    end(old);
}

#[test]
fn a_guard_nested_in_a_marked_one_inherits_its_generation_and_not_its_mark() {
    let scene = Scene::new();
    let outer = scene.slot.enter().unwrap();
    sample_ages(Duration::ZERO);
    let sampled = Instant::now();
    eventually("some time has passed", || sampled.elapsed() >= Duration::from_millis(30));
    let old = scene.swap(2);
    let inner = scene.slot.enter().unwrap();
    assert_eq!((outer.number, inner.number), (1, 1));
    let stragglers = old.stragglers();
    let [of_outer, of_inner] = stragglers.threads[0].guards[..] else { panic!("{stragglers:?}") };
    assert!(of_outer.since >= Some(Duration::from_millis(30)), "{stragglers:?}");
    assert!(of_inner.since < of_outer.since, "{stragglers:?}");
    drop((outer, inner));
    assert_eq!(scene.answer(), 2);
    end(old);
}

#[test]
fn a_thousand_threads_are_looked_through_and_only_who_is_inside_is_named() {
    const THREADS: usize = if cfg!(miri) { 20 } else { 1_000 };
    const INSIDE: usize = THREADS / 10;
    let (scene, closed) = (Scene::new(), Mutex::new(()));
    let (come, inside) = mpsc::channel();
    thread::scope(|threads| {
        // Let go also by a failure below, so that nobody waits for ever.
        let shut = closed.lock().unwrap();
        for number in 0..THREADS {
            let (scene, closed, come) = (&scene, &closed, come.clone());
            let run = move || {
                scene.answer();
                let guard = (number < INSIDE).then(|| scene.slot.enter().unwrap());
                come.send(()).unwrap();
                drop(closed.lock());
                drop(guard);
            };
            // A thousand of the usual stacks are too many for some machines.
            let small = thread::Builder::new().stack_size(64 << 10);
            small.spawn_scoped(threads, run).unwrap();
        }
        (0..THREADS).for_each(|_| inside.recv_timeout(PATIENCE).unwrap());
        let mut old = scene.swap(2);
        let stragglers = old.drain(SOON).unwrap_err();
        assert_eq!((stragglers.threads.len(), stragglers.guards()), (INSIDE, INSIDE));
        drop(shut);
        old.drain(FOREVER).unwrap();
        end(old);
    });
}
