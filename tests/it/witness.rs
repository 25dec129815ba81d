use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{Builder, JoinHandle};

use reseat_tests::misc::Misc;

use crate::child::{in_child, killed_in_child};
use crate::scene::Scene;

/// A thread in the plugin's code of whom the host knows nothing, and what lets it go.
fn stowaway(scene: &Scene) -> (JoinHandle<()>, Arc<AtomicU32>) {
    let misc = scene.handle::<dyn Misc>("lets_code_escape");
    let address: usize = misc.enter().unwrap().call("").unwrap().parse().unwrap();
    let word = Arc::new(AtomicU32::new(0));
    let stay = {
        let word = word.clone();
        move || {
            // SAFETY: that is the function's type. Whether it is still there is what this is about.
            let stay: extern "C" fn(&AtomicU32) =
                unsafe { std::mem::transmute(std::ptr::with_exposed_provenance::<()>(address)) };
            stay(&word);
        }
    };
    let thread = Builder::new().name("stowaway".into()).spawn(stay).unwrap();
    scene.eventually(|_| word.load(Ordering::SeqCst) == 1);
    (thread, word)
}

#[test]
fn a_thread_that_nobody_counts_is_found_by_its_stack_and_keeps_its_code_until_it_leaves() {
    let scene = Scene::with(&["lets_code_escape"]);
    let (thread, word) = stowaway(&scene);
    scene.host.reload("lets_code_escape").unwrap();
    let words = ["thread \"stowaway\" (", "is in its code, by what is on its stack", "please report this"];
    scene.lingers("lets_code_escape", 1, &words);
    word.store(2, Ordering::SeqCst);
    thread.join().unwrap();
    scene.unloaded("lets_code_escape", 1);
    scene.settled();
}

/// Without the witness, closing the library pulls the code from under the thread: what it is there to prevent.
#[test]
fn a_thread_that_nobody_counts_dies_where_nobody_looks_at_stacks() {
    let name = "witness::a_thread_that_nobody_counts_dies_where_nobody_looks_at_stacks";
    killed_in_child(name, libc::SIGSEGV, || {
        let scene = Scene::with_options(&["lets_code_escape"], |options| options.second_witness = false);
        let (thread, _word) = stowaway(&scene);
        scene.host.reload("lets_code_escape").unwrap();
        scene.unloaded("lets_code_escape", 1);
        let _ = thread.join();
    });
}

/// A value under a pthread key whose destructor is in the library, on this thread.
fn leave_a_key(scene: &Scene) -> Result<(), String> {
    let misc = scene.handle::<dyn Misc>("bypasses_the_capture");
    misc.enter().unwrap().call("").map(drop).map_err(|e| e.to_string())
}

/// What the capture is there to prevent: the destructor of a key is called where the library was.
#[test]
fn a_thread_with_a_key_that_nobody_captures_dies_when_it_ends() {
    killed_in_child(
        "witness::a_thread_with_a_key_that_nobody_captures_dies_when_it_ends",
        libc::SIGSEGV,
        || {
            let scene = Scene::with(&["bypasses_the_capture"]);
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    leave_a_key(&scene).unwrap();
                    scene.host.reload("bypasses_the_capture").unwrap();
                    scene.unloaded("bypasses_the_capture", 1);
                });
            });
        },
    );
}

/// And the other thing: keys that nobody deletes run out, since a process has 1,024 of them.
#[test]
fn keys_that_nobody_captures_run_out() {
    in_child("witness::keys_that_nobody_captures_run_out", || {
        let scene = Scene::with(&["bypasses_the_capture"]);
        let mut keys = 0;
        // All but a few, so that this does not take a thousand reloads.
        const LEFT: usize = 20;
        let mut taken = Vec::new();
        loop {
            let mut key = 0;
            // SAFETY: writes one key, which has no destructor.
            match unsafe { libc::pthread_key_create(&raw mut key, None) } {
                0 => taken.push(key),
                _ => break,
            }
        }
        for key in taken.drain(..LEFT) {
            // SAFETY: created above, and used by nobody.
            assert_eq!(unsafe { libc::pthread_key_delete(key) }, 0);
        }
        let failed = loop {
            if let Err(error) =
                std::thread::scope(|threads| threads.spawn(|| leave_a_key(&scene)).join().unwrap())
            {
                break error;
            }
            keys += 1;
            scene.host.reload("bypasses_the_capture").unwrap();
        };
        assert!(failed.contains("no key: Resource temporarily unavailable"), "{failed}");
        assert!(keys <= LEFT, "{keys}");
    });
}

/// What is captured is deleted: with as few keys, any number of reloads.
#[test]
fn keys_that_are_captured_do_not_run_out() {
    in_child("witness::keys_that_are_captured_do_not_run_out", || {
        let scene = Scene::with(&["thread_current"]);
        let misc = scene.handle::<dyn Misc>("thread_current");
        for _ in 0..1_100 {
            std::thread::scope(|threads| {
                threads.spawn(|| misc.enter().unwrap().call("hi").unwrap()).join().unwrap()
            });
            scene.host.reload("thread_current").unwrap();
        }
        scene.settled();
    });
}
