//! The two hooks, and signals. Each in a process of its own: a hook is set once for a process.

use super::super::{ThreadRef, current_thread, hold_errands, on_thread_exit, run_errands, set_errand_hook};
use super::{Scene, Stop, alone, end, eventually};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;

/// How often each thread has run the hook.
static RUNS: Mutex<Option<HashMap<ThreadRef, usize>>> = Mutex::new(None);

fn count_this_thread() {
    let thread = current_thread().expect("not before the exit hook has returned");
    *RUNS.lock().unwrap().get_or_insert_default().entry(thread).or_default() += 1;
}

fn runs(thread: ThreadRef) -> usize {
    RUNS.lock().unwrap().as_ref().and_then(|runs| runs.get(&thread).copied()).unwrap_or(0)
}

#[test]
fn an_errand_runs_on_the_thread_that_was_poked_and_outside_any_call() {
    alone(module_path!(), "an_errand_runs_on_the_thread_that_was_poked_and_outside_any_call", &[], || {
        set_errand_hook(count_this_thread);
        let scene = Scene::new();
        let (entered, inside) = mpsc::channel();
        let meeting = Barrier::new(2);
        thread::scope(|threads| {
            let owner = threads.spawn(|| {
                let (outer, inner) = (scene.slot.enter().unwrap(), scene.slot.enter().unwrap());
                let this = current_thread().unwrap();
                entered.send(this).unwrap();
                meeting.wait();
                assert!(!run_errands(), "in a call");
                drop(inner);
                scene.answer();
                assert_eq!(runs(this), 0, "still in a call");
                drop(outer);
                assert_eq!(runs(this), 1);
                scene.answer();
                assert_eq!(runs(this), 1, "once for a poke");
            });
            let owner_ref = inside.recv().unwrap();
            assert!(owner_ref.poke());
            scene.answer();
            assert_eq!(runs(current_thread().unwrap()), 0, "on no other thread");
            meeting.wait();
            owner.join().unwrap();
        });
    });
}

#[test]
fn errands_are_run_on_request_and_can_be_put_off() {
    alone(module_path!(), "errands_are_run_on_request_and_can_be_put_off", &[], || {
        set_errand_hook(count_this_thread);
        let scene = Scene::new();
        let this = current_thread().unwrap();
        assert!(!run_errands(), "not poked");
        assert!(this.poke() && run_errands());
        assert_eq!(runs(this), 1);
        this.poke();
        hold_errands(|| {
            scene.answer();
            assert!(!run_errands());
        });
        assert_eq!(runs(this), 1);
        scene.answer();
        assert_eq!(runs(this), 2);
        let lease = scene.slot.lease().unwrap();
        this.poke();
        lease.call(|_| assert_eq!(runs(this), 2));
        assert_eq!(runs(this), 3, "the call of a lease is a call");
    });
}

#[test]
fn a_poked_thread_runs_its_errand_before_it_waits_at_a_closed_gate() {
    alone(module_path!(), "a_poked_thread_runs_its_errand_before_it_waits_at_a_closed_gate", &[], || {
        set_errand_hook(count_this_thread);
        let scene = Scene::new();
        let paused = scene.slot.pause().unwrap();
        let (ready, is_ready) = mpsc::channel();
        thread::scope(|threads| {
            let caller = threads.spawn(|| {
                let this = current_thread().unwrap();
                this.poke();
                ready.send(this).unwrap();
                scene.answer()
            });
            let caller_ref = is_ready.recv().unwrap();
            eventually("its errand has run", || runs(caller_ref) == 1);
            drop(paused);
            assert_eq!(caller.join().unwrap(), 1);
        });
    });
}

/// An errand that calls, and is poked again while it runs.
#[test]
fn an_errand_may_call_and_does_not_nest() {
    static SCENE: Mutex<Option<&Scene>> = Mutex::new(None);
    static DEPTH: AtomicUsize = AtomicUsize::new(0);
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    fn call_and_poke() {
        assert_eq!(DEPTH.fetch_add(1, Ordering::Relaxed), 0);
        if TIMES.fetch_add(1, Ordering::Relaxed) == 0 {
            current_thread().unwrap().poke();
        }
        let scene = SCENE.lock().unwrap().unwrap();
        scene.answer();
        DEPTH.fetch_sub(1, Ordering::Relaxed);
    }
    alone(module_path!(), "an_errand_may_call_and_does_not_nest", &[], || {
        set_errand_hook(call_and_poke);
        let scene = Scene::leaked();
        *SCENE.lock().unwrap() = Some(scene);
        current_thread().unwrap().poke();
        scene.answer();
        assert_eq!(TIMES.load(Ordering::Relaxed), 1);
        scene.answer();
        assert_eq!(TIMES.load(Ordering::Relaxed), 2, "the second poke was not lost");
        scene.answer();
        assert_eq!(TIMES.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn every_thread_that_came_to_the_gate_runs_the_exit_hook() {
    alone(module_path!(), "every_thread_that_came_to_the_gate_runs_the_exit_hook", &[], || {
        on_thread_exit(count_this_thread);
        let scene = Scene::leaked();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                thread::spawn(|| {
                    scene.answer();
                    current_thread().unwrap()
                })
            })
            .collect();
        for thread in threads {
            let thread = thread.join().unwrap();
            eventually("it has run the hook", || runs(thread) == 1);
        }
        let before = RUNS.lock().unwrap().as_ref().unwrap().len();
        thread::spawn(|| ()).join().unwrap();
        assert_eq!(RUNS.lock().unwrap().as_ref().unwrap().len(), before, "never came to the gate");
        end(scene.swap(2));
    });
}

/// The handler enters the slot at any point of the thread's own entering and leaving.
#[test]
#[cfg(all(target_os = "linux", not(miri)))]
#[allow(unsafe_code)] // signals
fn a_signal_handler_may_call() {
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SLOT: std::cell::Cell<Option<&'static Scene>> = const { std::cell::Cell::new(None) };
    }
    extern "C" fn handler(_: libc::c_int) {
        hold_errands(|| {
            if let Some(scene) = SLOT.get()
                && let Ok(guard) = scene.slot.try_enter()
            {
                assert_eq!(scene.slot.try_enter().unwrap().number, guard.number);
                HANDLED.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    alone(module_path!(), "a_signal_handler_may_call", &[], || {
        // SAFETY: the handler does what the gate allows in one, and touches a lazy-free thread-local.
        unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
        let scene = Scene::leaked();
        let (ready, is_ready) = mpsc::channel();
        let stop = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                // As deep as this thread and the handler together will be, so that the handler allocates nothing.
                let deep: Vec<_> = (0..6).map(|_| scene.slot.enter().unwrap()).collect();
                drop(deep);
                SLOT.set(Some(scene));
                // SAFETY: no preconditions.
                ready.send(unsafe { libc::pthread_self() }).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let guard = scene.slot.enter().unwrap();
                    assert_eq!(scene.answer(), guard.number);
                }
                SLOT.set(None);
            });
            let target = is_ready.recv().unwrap();
            let _stop = Stop(&stop);
            // Signals that come too quickly become one, so count those that were handled.
            eventually("enough signals were handled in calls", || {
                // SAFETY: the thread runs until it is stopped.
                assert_eq!(unsafe { libc::pthread_kill(target, libc::SIGUSR1) }, 0);
                let mut old = scene.swap(2);
                old.drain(super::FOREVER).unwrap();
                end(old);
                HANDLED.load(Ordering::Relaxed) > 500
            });
        });
    });
}
