use std::path::PathBuf;
use std::time::Duration;

use reseat::{CallError, Handle, Host, Options, Step};
use reseat_tests::echo::Echo;
use reseat_tests::misc::Misc;
use serde_json::json;

use crate::callers::Callers;
use crate::child::{in_child, in_child_with};
use crate::long_lived::{LongLived, all_quiesce, call_all};
use crate::process::{Belongings, mapped};
use crate::scene::{Build, Hold, Scene, Verdict};
use crate::waiting::DEADLINE;

/// What they are told.
const AWAKE: &str = "awake";

/// A scene with one of the fixtures that implement `Misc`, each under its own name.
#[track_caller]
fn scene(fixture: &str) -> (Scene, Handle<dyn Misc>) {
    let scene = Scene::with(&[fixture]);
    let misc = scene.handle(fixture);
    (scene, misc)
}

/// Replaces the serving generation by another one of the same file; returns which one retires.
#[track_caller]
fn replace(scene: &Scene, plugin: &str) -> u64 {
    let old = scene.generation(plugin).expect("it serves");
    scene.host.reload(plugin).unwrap();
    old
}

/// The private copy of one generation, as far as its name is known.
fn copy(scene: &Scene, plugin: &str, generation: u64) -> PathBuf {
    scene.state().join("run").join(std::process::id().to_string()).join(format!("{plugin}-{generation}-"))
}

/// The host says that it is unloaded, and the kernel says so too.
#[track_caller]
fn gone(scene: &Scene, plugin: &str, generation: u64) {
    scene.unloaded(plugin, generation);
    assert_eq!(mapped(&copy(scene, plugin, generation)), [""; 0]);
    scene.settled();
}

/// The host says that it lingers, and the kernel has it mapped.
#[track_caller]
fn stays(scene: &Scene, plugin: &str, generation: u64, words: &[&str]) {
    scene.lingers(plugin, generation, words);
    assert_ne!(mapped(&copy(scene, plugin, generation)), [""; 0]);
}

/// These threads call now and then, until a generation is gone.
#[track_caller]
fn come_by(scene: &Scene, plugin: &str, generation: u64, sleepers: &[LongLived]) {
    scene.eventually(|s| {
        call_all(sleepers, AWAKE);
        s.verdict_of(plugin, generation) == Some(Verdict::Unloaded)
    });
    gone(scene, plugin, generation);
}

#[test]
fn thread_locals_with_destructors_are_gone_when_their_threads_have_come_by() {
    let (scene, misc) = scene("tls_with_drop");
    let sleepers: Vec<_> = (0..4).map(|n| LongLived::new(&format!("sleeper-{n}"), &misc)).collect();
    for sleeper in &sleepers {
        sleeper.call(AWAKE);
        sleeper.call(AWAKE);
    }
    let old = replace(&scene, "tls_with_drop");
    come_by(&scene, "tls_with_drop", old, &sleepers);
    // One per thread, and each of them once.
    assert_eq!(scene.status("tls_with_drop").counters, [("destroyed".to_owned(), 4)]);
    sleepers.into_iter().for_each(LongLived::end);
    assert_eq!(scene.status("tls_with_drop").counters, [("destroyed".to_owned(), 8)]);
    let last = replace(&scene, "tls_with_drop");
    gone(&scene, "tls_with_drop", last);
}

#[test]
fn a_sleeping_thread_keeps_a_generation_by_name_until_it_calls_again() {
    let (scene, misc) = scene("tls_with_drop");
    let sleeper = LongLived::new("late-riser", &misc);
    sleeper.call(AWAKE);
    let old = replace(&scene, "tls_with_drop");
    let words = ["thread \"late-riser\"", "has thread-locals of the plugin and has not come by since"];
    stays(&scene, "tls_with_drop", old, &words);
    assert_eq!(scene.status("tls_with_drop").counters, [("destroyed".to_owned(), 0)]);
    sleeper.call(AWAKE);
    gone(&scene, "tls_with_drop", old);
    assert_eq!(scene.status("tls_with_drop").counters, [("destroyed".to_owned(), 1)]);
    sleeper.end();
}

#[test]
fn a_sleeping_thread_keeps_a_generation_until_it_ends() {
    let (scene, misc) = scene("tls_with_drop");
    let sleepers: Vec<_> = (0..3).map(|n| LongLived::new(&format!("sleeper-{n}"), &misc)).collect();
    call_all(&sleepers, AWAKE);
    let old = replace(&scene, "tls_with_drop");
    stays(&scene, "tls_with_drop", old, &["has not come by since, and 2 other threads"]);
    sleepers.into_iter().for_each(LongLived::end);
    gone(&scene, "tls_with_drop", old);
    assert_eq!(scene.status("tls_with_drop").counters, [("destroyed".to_owned(), 3)]);
}

#[test]
fn sixty_four_parked_workers_keep_nothing_unless_they_have_its_thread_locals_and_until_they_quiesce() {
    let workers = |misc: &Handle<dyn Misc>| -> Vec<_> {
        (0..64).map(|n| LongLived::new(&format!("parked-{n}"), misc)).collect()
    };
    // None: it is unloaded while all of them sleep.
    let (scene_without, misc) = scene("links_c");
    let parked = workers(&misc);
    call_all(&parked, AWAKE);
    let old = replace(&scene_without, "links_c");
    gone(&scene_without, "links_c", old);
    parked.into_iter().for_each(LongLived::end);

    let (scene_with, misc) = scene("tls_with_drop");
    let parked = workers(&misc);
    call_all(&parked, AWAKE);
    let old = replace(&scene_with, "tls_with_drop");
    stays(&scene_with, "tls_with_drop", old, &["has not come by since, and 63 other threads"]);
    all_quiesce(&parked);
    gone(&scene_with, "tls_with_drop", old);
    assert_eq!(scene_with.status("tls_with_drop").counters, [("destroyed".to_owned(), 64)]);
    parked.into_iter().for_each(LongLived::end);
}

#[test]
fn the_handle_of_the_current_thread_is_gone_when_its_threads_have_come_by() {
    let (scene, misc) = scene("thread_current");
    let sleepers: Vec<_> = (0..4).map(|n| LongLived::new(&format!("sleeper-{n}"), &misc)).collect();
    for round in 1..=5 {
        for sleeper in &sleepers {
            sleeper.call(AWAKE);
        }
        let old = replace(&scene, "thread_current");
        assert_eq!(old, round);
        come_by(&scene, "thread_current", old, &sleepers);
    }
    sleepers.into_iter().for_each(LongLived::end);
}

#[test]
fn a_thread_that_called_old_generations_ends_without_harm() {
    in_child("unload::a_thread_that_called_old_generations_ends_without_harm", || {
        let (scene, misc) = scene("thread_current");
        for _ in 0..10 {
            let sleeper = LongLived::new("once", &misc);
            sleeper.call(AWAKE);
            let old = replace(&scene, "thread_current");
            sleeper.end();
            gone(&scene, "thread_current", old);
        }
    });
}

#[test]
fn threads_of_the_plugin_end_with_it() {
    let (scene, misc) = scene("spawned_thread_joined");
    let beats = || scene.status("spawned_thread_joined").counters[0].1;
    scene.eventually(|_| beats() > 0);
    assert_eq!(misc.enter().unwrap().call("hi").unwrap(), "hi");
    let old = replace(&scene, "spawned_thread_joined");
    gone(&scene, "spawned_thread_joined", old);
    let before = beats();
    scene.eventually(|_| beats() > before);

    scene.host.unload("spawned_thread_joined").unwrap();
    gone(&scene, "spawned_thread_joined", 2);
    let last = beats();
    assert_eq!(beats(), last);
}

#[test]
fn a_runtime_inside_of_a_plugin_ends_with_it() {
    let (scene, misc) = scene("runs_tokio");
    let callers = Callers::start(2, |_| {
        let misc = misc.clone();
        move || match misc.enter().and_then(|guard| guard.call("hi")) {
            Ok(said) if said == "hi" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for _ in 0..5 {
        callers.go_on(&scene, 20);
        let old = replace(&scene, "runs_tokio");
        callers.go_on(&scene, 20);
        gone(&scene, "runs_tokio", old);
    }
    callers.finish();
}

#[test]
fn panics_with_backtraces_asked_for_leave_nothing_mapped() {
    let name = "unload::panics_with_backtraces_asked_for_leave_nothing_mapped";
    in_child_with(name, &[("RUST_BACKTRACE", "1")], || {
        let (scene, misc) = scene("panics_in_call");
        for _ in 0..3 {
            let misc = misc.clone();
            let panicked = std::thread::spawn(move || misc.enter().unwrap().call("panic").unwrap_err());
            assert!(matches!(panicked.join().unwrap(), CallError::Panicked { .. }));
            let old = replace(&scene, "panics_in_call");
            gone(&scene, "panics_in_call", old);
        }
    });
}

#[test]
fn a_stray_thread_keeps_its_generation_by_name_until_it_ends() {
    let (scene, misc) = scene("stray_thread");
    let hold = scene.hold();
    let until = hold.until();
    std::thread::spawn(move || misc.enter().unwrap().call(&until).unwrap()).join().unwrap();
    hold.entered();
    let old = replace(&scene, "stray_thread");
    stays(&scene, "stray_thread", old, &["thread \"stray\"", "of the plugin still runs"]);
    let status = scene.status("stray_thread");
    assert_eq!(status.generations.len(), 2);
    assert!(status.generations[0].reason.as_ref().unwrap().contains("stray"), "{status:?}");
    hold.release();
    gone(&scene, "stray_thread", old);
}

#[test]
fn a_signal_handler_keeps_its_generation_by_number_until_it_is_removed() {
    in_child("unload::a_signal_handler_keeps_its_generation_by_number_until_it_is_removed", || {
        let (scene, misc) = scene("signal_handler");
        misc.enter().unwrap().call("install").unwrap();
        let old = replace(&scene, "signal_handler");
        stays(&scene, "signal_handler", old, &["handler of signal 12 is still installed"]);
        // SAFETY: sends a signal to this process, whose handler does nothing and is still there.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
        misc.enter().unwrap().call("remove").unwrap();
        gone(&scene, "signal_handler", old);
    });
}

#[test]
fn a_library_marked_never_to_be_unloaded_is_unloaded_all_the_same() {
    in_child("unload::a_library_marked_never_to_be_unloaded_is_unloaded_all_the_same", || {
        let scene = Scene::with(&[]);
        let marked = Build::of("echo_v1").never_unloaded();
        let notes = reseat::inspect(&scene.shelve(&marked)).unwrap().notes;
        assert!(notes[0].contains("marked never to be unloaded"), "{notes:?}");
        scene.install(marked.clone()).published();
        let old = replace(&scene, "echo");
        gone(&scene, "echo", old);
        // The author's file is as it was.
        assert!(std::fs::read(scene.plugins().join(marked.file_name())).unwrap() == marked.bytes());
    });
}

#[test]
fn a_library_that_the_loader_keeps_lingers_and_its_code_is_not_taken_for_the_next_one() {
    let name = "unload::a_library_that_the_loader_keeps_lingers_and_its_code_is_not_taken_for_the_next_one";
    in_child(name, || {
        let scene = Scene::with(&[]);
        let unique = |number| Build::of("echo_stamped").stamped(number).with_unique_descriptor();
        let notes = reseat::inspect(&scene.shelve(&unique(1))).unwrap().notes;
        assert!(notes[0].contains("will not be unloaded") && notes[0].contains("RESEAT_PLUGIN"), "{notes:?}");
        scene.install(unique(1)).published();
        let echo = scene.handle::<dyn Echo>("echo");
        assert_eq!(echo.enter().unwrap().build().unwrap(), 1);
        // The loader gives the first library's descriptor for the second's name.
        scene.install(unique(2)).refused().at(Step::Open, &["its descriptor lies in another library"]);
        assert_eq!(echo.enter().unwrap().build().unwrap(), 1);

        assert_eq!(scene.install(Build::of("echo_stamped").stamped(3)).published(), 3);
        assert_eq!(echo.enter().unwrap().build().unwrap(), 3);
        stays(&scene, "echo", 1, &["the loader keeps it"]);
    });
}

#[test]
fn a_last_hook_that_hangs_keeps_its_generation_until_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let scene = Scene::with_options(&["hangs_in_stopping"], |options| {
        options.hook_deadline = Duration::from_secs(2);
        options.config.insert("counter".into(), json!({ "until": hold.until() }));
    });
    scene.install("counter_v2").published();
    hold.entered();
    stays(&scene, "counter", 1, &["its last hooks have not returned within 2s"]);
    // Others are not held up by it.
    let old = replace(&scene, "counter");
    scene.unloaded("counter", old);
    hold.release();
    gone(&scene, "counter", 1);
}

#[test]
fn a_plugin_that_is_unloaded_is_gone_and_so_is_its_copy() {
    let (scene, misc) = scene("thread_current");
    misc.enter().unwrap().call("hi").unwrap();
    scene.host.unload("thread_current").unwrap();
    // This thread has called it, and comes by.
    scene.eventually(|s| {
        assert!(misc.enter().is_err());
        s.verdict_of("thread_current", 1) == Some(Verdict::Unloaded)
    });
    gone(&scene, "thread_current", 1);
    assert_eq!(scene.staged(), 0);
}

#[test]
fn a_shutdown_on_a_thread_that_has_called_leaves_nothing() {
    for fixture in ["tls_with_drop", "thread_current", "runs_tokio", "spawned_thread_joined"] {
        let (scene, misc) = scene(fixture);
        misc.enter().unwrap().call("hi").unwrap();
        assert!(scene.host.shutdown(DEADLINE), "{fixture}: {scene}");
        assert_eq!(mapped(&scene.state()), [""; 0]);
    }
}

/// Reloads both plugins in turn while four threads call them; then the threads end, and what they left is cleared.
fn reload_under_load(scene: &Scene, plugins: [&'static str; 2], reloads: usize) {
    let callers = Callers::start(4, |number| {
        let misc: Handle<dyn Misc> = scene.handle(plugins[number % 2]);
        move || misc.enter().and_then(|guard| guard.call("hi")).map(drop).map_err(|e| e.to_string())
    });
    for number in 0..reloads {
        let plugin = plugins[number % 2];
        let old = replace(scene, plugin);
        // Now and then only, so that generations overlap as well.
        if number % 10 == 9 {
            scene.unloaded(plugin, old);
        }
    }
    callers.finish();
    // The serving generations have been called, whether the callers came that far or not.
    for plugin in plugins {
        let misc: Handle<dyn Misc> = scene.handle(plugin);
        std::thread::spawn(move || misc.enter().unwrap().call("hi").unwrap()).join().unwrap();
    }
    scene.settled();
}

#[test]
fn after_300_reloads_the_process_has_what_it_had_before() {
    in_child("unload::after_300_reloads_the_process_has_what_it_had_before", || {
        let plugins = ["thread_current", "tls_with_drop"];
        let scene = Scene::with(&plugins);
        reload_under_load(&scene, plugins, 20);
        // Twice the same: now and then the host has a directory open, or the kernel a thread that was joined.
        let mut before = Belongings::now();
        scene.eventually(|_| {
            let now = Belongings::now();
            std::mem::replace(&mut before, now.clone()) == now
        });
        reload_under_load(&scene, plugins, 300);
        scene.eventually(|_| Belongings::now() == before);
    });
}

#[test]
fn what_a_dead_host_left_is_swept_when_the_next_one_starts() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let name = "unload::what_a_dead_host_left_is_swept_when_the_next_one_starts";
    in_child_with(name, &[("RESEAT_TEST_STATE", state.to_str().unwrap())], || {
        let state = PathBuf::from(std::env::var("RESEAT_TEST_STATE").unwrap());
        let scene = Scene::with_options(&["echo_v1"], |options| options.state_dir = state);
        // The process ends without a word to the host.
        std::mem::forget(scene);
    });
    let left = || std::fs::read_dir(state.join("run")).unwrap().count();
    assert_eq!(left(), 1);
    let options = Options { state_dir: state.clone(), ..Options::default() };
    let host = Host::start(options).unwrap();
    let own = state.join("run").join(std::process::id().to_string());
    assert!(own.exists());
    assert_eq!(left(), 1);
    assert!(host.shutdown(DEADLINE));
    drop(host);
    assert_eq!(left(), 0);
}
