use std::sync::mpsc::channel;
use std::time::Duration;

use reseat::{Event, Left, MaxLingering, Step, quiesce};
use reseat_tests::echo::Echo;
use reseat_tests::misc::Misc;

use crate::process::mapped;
use crate::scene::{Hold, Scene};
use crate::waiting::DEADLINE;

/// A thread that the plugin has left running, in its serving generation.
fn leave_a_thread(scene: &Scene) -> Hold {
    let (misc, hold) = (scene.handle::<dyn Misc>("stray_thread"), scene.hold());
    let until = hold.until();
    std::thread::spawn(move || misc.enter().unwrap().call(&until).unwrap()).join().unwrap();
    hold.entered();
    hold
}

#[test]
fn builds_are_refused_while_too_many_generations_linger_and_accepted_when_one_is_gone() {
    let limit = MaxLingering { generations: 2, ..MaxLingering::default() };
    let scene = Scene::with_options(&["stray_thread"], |options| options.max_lingering = limit);
    let mut holds = Vec::new();
    for generation in 1..=2 {
        holds.push(leave_a_thread(&scene));
        scene.host.reload("stray_thread").unwrap();
        scene.lingers("stray_thread", generation, &["thread \"stray\""]);
    }
    // The limit is known a moment after the second one was said to linger.
    scene.eventually(|s| s.host.reload("stray_thread").is_err());
    let serving = scene.generation("stray_thread").unwrap();
    let refusal = scene.status("stray_thread").last_refusal.unwrap();
    for words in [
        "what lingers in memory has reached max_lingering (generations: 2, ",
        " KiB)",
        "the oldest is generation 1 of stray_thread: thread \"stray\"",
    ] {
        assert!(refusal.contains(words), "{words:?} is not in {refusal}");
    }
    let expecting = scene.expecting("libstray_thread.so");
    let refused = scene.trusted("libstray_thread.so");
    assert!(scene.host.load(&refused).is_ok(), "the same build again is nothing to open");
    drop(expecting);
    holds.remove(0).release();
    scene.unloaded("stray_thread", 1);
    scene.eventually(|s| s.host.reload("stray_thread").is_ok());
    assert!(scene.generation("stray_thread").unwrap() > serving);
    holds.remove(0).release();
    scene.settled();
}

#[test]
fn a_file_that_was_refused_for_what_lingers_is_loaded_when_that_is_gone() {
    let limit = MaxLingering { bytes: 1, ..MaxLingering::default() };
    let scene = Scene::with_options(&["stray_thread"], |options| options.max_lingering = limit);
    let hold = leave_a_thread(&scene);
    scene.host.reload("stray_thread").unwrap();
    scene.lingers("stray_thread", 1, &["thread \"stray\""]);
    scene.eventually(|s| s.host.reload("stray_thread").is_err());
    scene.install("echo_v1").refused().at(Step::Open, &["has reached max_lingering (generations: 1, "]);
    hold.release();
    scene.eventually(|s| s.host.status().plugins.iter().any(|p| p.name == "echo" && p.generation.is_some()));
}

#[test]
fn a_thread_that_quiesces_before_it_sleeps_keeps_nothing() {
    let scene = Scene::with(&["tls_with_drop"]);
    let misc = scene.handle::<dyn Misc>("tls_with_drop");
    let (orders, ordered) = channel::<()>();
    let (answer, answers) = channel();
    let worker = std::thread::spawn(move || {
        misc.enter().unwrap().call("awake").unwrap();
        answer.send(false).unwrap();
        for () in ordered {
            answer.send(quiesce()).unwrap();
        }
    });
    answers.recv().unwrap();
    scene.host.reload("tls_with_drop").unwrap();
    scene.lingers("tls_with_drop", 1, &["has thread-locals of the plugin"]);
    orders.send(()).unwrap();
    assert!(answers.recv().unwrap());
    scene.unloaded("tls_with_drop", 1);
    // And asleep, it holds nothing.
    scene.settled();
    orders.send(()).unwrap();
    assert!(!answers.recv().unwrap());
    drop(orders);
    worker.join().unwrap();
}

#[test]
fn a_generation_that_is_to_be_kept_stays_and_taints_the_host_and_the_next_one_goes() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    echo.enter().unwrap().build().unwrap();
    assert_eq!(scene.host.status().tainted, [""; 0]);
    scene.host.reload_leaking("echo").unwrap();
    let leaked = |e: &Event| matches!(e, Event::Leaked { plugin, generation: 1, .. } if plugin == "echo");
    scene.eventually(|s| s.events().iter().any(leaked));
    assert_eq!(scene.host.status().tainted, ["generation 1 of echo stays in memory as asked"]);
    scene.host.reload("echo").unwrap();
    scene.unloaded("echo", 2);
    assert_eq!(echo.enter().unwrap().generation(), 3);
    let copies = scene.state().join("run").join(std::process::id().to_string());
    assert_ne!(mapped(&copies.join("echo-1-")), [""; 0]);
    assert_eq!(mapped(&copies.join("echo-2-")), [""; 0]);
    // Nothing waits for what was leaked.
    assert!(scene.host.shutdown(DEADLINE));
}

#[test]
fn what_a_sleeping_thread_would_keep_is_adopted_where_that_is_allowed_and_once() {
    let scene = Scene::with_options(&["tls_with_drop"], |options| {
        options.adopt_after = Some(Duration::from_millis(100));
    });
    let misc = scene.handle::<dyn Misc>("tls_with_drop");
    let destroyed = || scene.status("tls_with_drop").counters == [("destroyed".to_owned(), 1)];
    let (wake, asleep) = channel::<()>();
    let (called, has_called) = channel();
    let sleeper = std::thread::spawn(move || {
        misc.enter().unwrap().call("awake").unwrap();
        called.send(()).unwrap();
        asleep.recv()
    });
    has_called.recv().unwrap();
    scene.host.reload("tls_with_drop").unwrap();
    scene.unloaded("tls_with_drop", 1);
    assert!(destroyed(), "{scene}");
    // Its owner ends, and has nothing to do any more.
    drop(wake);
    assert!(sleeper.join().unwrap().is_err());
    assert!(destroyed(), "{scene}");
    scene.settled();
}

#[test]
fn what_a_generation_leaves_on_the_heap_is_said_at_its_end_if_it_keeps_account() {
    let scene = Scene::with(&["leaves_heap", "echo_v1"]);
    let misc = scene.handle::<dyn Misc>("leaves_heap");
    let left = |plugin: &str, wanted: u64| {
        scene.unloaded(plugin, wanted);
        let events = scene.events();
        let ends = events.iter().rev().find_map(|event| match event {
            Event::Unloaded { plugin: p, generation, left } if p == plugin && *generation == wanted => {
                Some((*left, event.to_string()))
            }
            _ => None,
        });
        ends.expect("it was unloaded")
    };
    // Called, on a thread that ends: all is given back.
    misc.enter().unwrap().call("kept").unwrap();
    scene.host.reload("leaves_heap").unwrap();
    let (first, said) = left("leaves_heap", 1);
    assert_eq!(first, Some(Left { blocks: 0, bytes: 0 }), "{said}");
    assert!(said.ends_with("is unloaded; it left nothing on the heap"), "{said}");
    for bytes in [48, 100] {
        misc.enter().unwrap().call(&format!("forget {bytes}")).unwrap();
    }
    scene.host.reload("leaves_heap").unwrap();
    let (second, said) = left("leaves_heap", 2);
    assert_eq!(second, Some(Left { blocks: 2, bytes: 148 }));
    assert!(said.ends_with("is unloaded; it left 148 B in 2 blocks"), "{said}");
    scene.host.reload("echo").unwrap();
    assert_eq!(left("echo", 1).0, None);
}
