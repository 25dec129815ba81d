use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{Builder, JoinHandle};

use reseat_tests::misc::Misc;

use crate::child::killed_in_child;
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
