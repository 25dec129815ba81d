use std::thread::JoinHandle;
use std::time::Duration;

use reseat::{CallError, Event, Handle, PluginError, ReloadError, Step};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::misc::Feeder;
use serde_json::json;

use crate::callers::Callers;
use crate::child::in_child_with;
use crate::process::mapped;
use crate::scene::{Build, Hold, Scene};

fn stamped(number: u32) -> Build {
    Build::of("counter_stamped").stamped(number)
}

/// What the serving generation says: its number, its build, its total.
#[track_caller]
fn now(counter: &Handle<dyn Counter>) -> (u64, u32, u64) {
    let guard = counter.enter().unwrap();
    (guard.generation(), guard.build().unwrap(), guard.get().unwrap())
}

/// A thread that stays inside of a call.
fn blocked(counter: &Handle<dyn Counter>, hold: &Hold) -> JoinHandle<u32> {
    let (counter, until) = (counter.clone(), hold.until());
    let thread = std::thread::Builder::new().name("patient".into());
    let thread = thread.spawn(move || counter.enter().unwrap().hold(&until).unwrap()).unwrap();
    hold.entered();
    thread
}

/// Nothing of any generation but the serving one is in memory or on disk.
#[track_caller]
fn nothing_left_but(scene: &Scene, serving: u64) {
    scene.settled();
    let copy = format!("/counter-{serving}-");
    scene.eventually(|s| mapped(&s.state()).iter().all(|line| line.contains(&copy)));
}

#[test]
fn state_crosses_into_a_newer_version() {
    let scene = Scene::with(&["counter_v1"]);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(41).unwrap();
    assert_eq!(scene.install("counter_v2").published(), 2);
    assert_eq!(now(&counter), (2, 2, 41));
    assert_eq!(counter.enter().unwrap().add(1).unwrap(), 42);
    let carried = |e: &Event| matches!(e, Event::Reloaded { state_bytes: 44, .. });
    assert!(scene.events().iter().any(carried), "{scene}");
    nothing_left_but(&scene, 2);
}

#[test]
fn a_build_that_cannot_read_the_state_is_refused_before_any_code_of_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    let environment = [("RESEAT_CANARY", canary.to_str().unwrap())];
    let name = "handover::a_build_that_cannot_read_the_state_is_refused_before_any_code_of_it_runs";
    in_child_with(name, &environment, || {
        let scene = Scene::with(&["counter_v2"]);
        let counter = scene.handle::<dyn Counter>("counter");
        counter.enter().unwrap().add(5).unwrap();
        let refusals = [
            ("counter_only_new", "this build reads 3..=3"),
            ("stateless_counter", "this build reads none: it is stateless"),
            ("counter_v1", "this build reads 1..=1"),
        ];
        for (fixture, reads) in refusals {
            let refused = scene.install(fixture).refused();
            let refused =
                refused.at(Step::Vet, &["writes state version 2", reads, "unload the plugin first"]);
            assert_eq!((refused.plugin.as_deref(), refused.serving), (Some("counter"), Some(1)));
            assert_eq!(now(&counter), (1, 2, 5));
        }
        let canary = std::env::var("RESEAT_CANARY").unwrap();
        assert!(!std::path::Path::new(&canary).exists());
        // Without the old state there is nothing that it could not read.
        scene.host.unload("counter").unwrap();
        scene.install("counter_only_new").published();
        assert_eq!(counter.enter().unwrap().get().unwrap(), 0);
        assert!(std::path::Path::new(&canary).exists());
    });
}

#[test]
fn a_build_that_fails_in_a_hook_is_refused_there_and_the_state_stays_where_it_was() {
    let scene = Scene::with(&["counter_stamped"]);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    let faults: [(&str, Step, &[&str]); 7] = [
        (
            "panics_in_restore",
            Step::Restore,
            &["restore failed: the plugin panicked at", "restore has had enough"],
        ),
        ("errors_in_restore", Step::Restore, &["restore failed: the total is unreadable: state version 2"]),
        ("counter_refuses_old", Step::Restore, &["restore failed: this build cannot read state version 2"]),
        (
            "panics_in_started",
            Step::Check,
            &["started failed: the plugin panicked at", "started has had enough"],
        ),
        ("errors_in_started", Step::Check, &["started failed: no port is free"]),
        (
            "panics_in_self_check",
            Step::Check,
            &["self_check failed: the plugin panicked at", "self_check has had"],
        ),
        ("errors_in_self_check", Step::Check, &["self_check failed: two and two are five"]),
    ];
    let (mut generation, mut total, mut build) = (1, 5, 1);
    for (number, (fixture, step, words)) in (2..).zip(faults) {
        let refused = scene.install(fixture).refused().at(step, words);
        assert_eq!((refused.plugin.as_deref(), refused.serving), (Some("counter"), Some(generation)));
        assert_eq!(now(&counter), (generation, build, total), "after {fixture}");
        total = counter.enter().unwrap().add(1).unwrap();
        nothing_left_but(&scene, generation);

        // The refused one has used up a number.
        let accepted = scene.install(stamped(number)).published();
        assert_eq!(accepted, generation + 2);
        (generation, build) = (accepted, number);
        assert_eq!(now(&counter), (generation, build, total), "after {fixture}");
    }
    assert_eq!(total, 12);
}

#[test]
fn an_old_build_that_fails_to_save_goes_on_and_is_asked_again() {
    for (fixture, build, words) in [
        ("panics_in_save", 31, ["save failed: the plugin panicked at", "save has had enough"]),
        ("errors_in_save", 32, ["save failed: save cannot write now", "save"]),
    ] {
        let scene = Scene::with(&[fixture]);
        let counter = scene.handle::<dyn Counter>("counter");
        counter.enter().unwrap().add(5).unwrap();
        scene.install(stamped(2)).refused().at(Step::Save, &words);
        assert_eq!(now(&counter), (1, build, 5));
        nothing_left_but(&scene, 1);
        assert_eq!(scene.install(stamped(3)).published(), 3);
        assert_eq!(now(&counter), (3, 3, 5));
    }
}

#[test]
fn a_build_that_cannot_be_created_is_refused_and_the_old_one_serves() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    scene
        .install("panics_in_create")
        .refused()
        .at(Step::Create, &["create failed: the plugin panicked at", "create has had"]);
    assert_eq!(echo.enter().unwrap().build().unwrap(), 1);
    let words = ["create failed: cannot open the cache: the disk is on fire"];
    scene.install("errors_in_create").refused().at(Step::Create, &words);
    assert_eq!(echo.enter().unwrap().build().unwrap(), 1);
    scene.settled();
    assert_eq!(scene.install("echo_v2").published(), 4);
}

#[test]
fn a_first_build_that_cannot_be_created_leaves_no_plugin_that_serves() {
    let scene = Scene::with(&[]);
    let refused = scene.install("errors_in_create").refused();
    assert_eq!((refused.plugin.as_deref(), refused.serving), (Some("echo"), None));
    assert!(scene.host.plugin::<dyn Echo>("echo").is_err());
    assert!(scene.host.call("echo", "build", "{}").unwrap_err().to_string().contains("is not loaded"));
    assert_eq!(scene.install("echo_v1").published(), 2);
    assert_eq!(scene.handle::<dyn Echo>("echo").enter().unwrap().build().unwrap(), 1);
}

#[test]
fn a_build_that_saves_without_saying_so_is_refused() {
    let scene = Scene::with(&[]);
    let refused = scene.install("saves_without_version").refused();
    refused.at(Step::Create, &["has a `save`, but no `const STATE_VERSION: u32 = 1;`"]);
}

#[test]
fn a_panic_while_an_old_build_stops_or_is_dropped_is_told_and_it_is_unloaded_all_the_same() {
    for (fixture, words) in [
        ("panics_in_stopping", "generation 1 of counter: stopping: the plugin panicked at"),
        ("panics_in_drop", "generation 1 of counter: its destructor: the plugin panicked at"),
    ] {
        let scene = Scene::with(&[fixture]);
        let counter = scene.handle::<dyn Counter>("counter");
        counter.enter().unwrap().add(5).unwrap();
        assert_eq!(scene.install(stamped(2)).published(), 2);
        assert_eq!(now(&counter), (2, 2, 5));
        scene.unloaded("counter", 1);
        let told = |e: &Event| matches!(e, Event::Trouble { what } if what.starts_with(words) && what.contains("has had enough"));
        assert!(scene.events().iter().any(told), "{scene}");
        nothing_left_but(&scene, 2);
    }
}

#[test]
fn calls_that_come_during_a_handover_wait_for_it_and_get_the_new_generation() {
    let scene = Scene::with(&["counter_v1"]);
    let counter = scene.handle::<dyn Counter>("counter");
    let hold = scene.hold();
    let in_old = blocked(&counter, &hold);
    let expecting = scene.install("counter_v2");
    scene.eventually(|s| s.status("counter").busy.is_some_and(|busy| busy.starts_with("drain")));
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let counter = counter.clone();
            std::thread::spawn(move || {
                let guard = counter.enter().unwrap();
                guard.add(1).unwrap();
                (guard.generation(), guard.build().unwrap())
            })
        })
        .collect();
    assert_eq!(scene.generation("counter"), Some(1));
    hold.release();
    assert_eq!(in_old.join().unwrap(), 1);
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), (2, 2));
    }
    assert_eq!(expecting.published(), 2);
    assert_eq!(now(&counter), (2, 2, 4));
    nothing_left_but(&scene, 2);
}

#[test]
fn a_call_that_does_not_end_in_time_holds_the_handover_up_by_name_until_it_does() {
    let deadline = Duration::from_millis(100);
    let scene = Scene::with_options(&["counter_v1"], |options| options.drain_deadline = deadline);
    let counter = scene.handle::<dyn Counter>("counter");
    let hold = scene.hold();
    let in_old = blocked(&counter, &hold);
    let refused = scene.install("counter_v2").refused();
    refused.at(
        Step::Drain,
        &["it is still in use after 100ms: 1 guard, entered at least", "by thread patient (last call: hold)"],
    );
    // The gate is open again, for the old one.
    assert_eq!(counter.enter().unwrap().add(3).unwrap(), 3);
    assert_eq!(now(&counter), (1, 1, 3));
    hold.release();
    assert_eq!(in_old.join().unwrap(), 1);
    scene.eventually(|s| s.generation("counter").is_some_and(|generation| generation > 1));
    let (_, build, total) = now(&counter);
    assert_eq!((build, total), (2, 3));
    // Told once, however often it was tried.
    assert_eq!(scene.refusals().len(), 1);
    assert_eq!(scene.status("counter").last_refusal, None);
}

#[test]
fn a_lease_holds_a_handover_up_too() {
    let deadline = Duration::from_millis(100);
    let scene = Scene::with_options(&["counter_v1"], |options| options.drain_deadline = deadline);
    let counter = scene.handle::<dyn Counter>("counter");
    let lease = counter.lease().unwrap();
    scene.install("counter_v2").refused().at(Step::Drain, &["in use after 100ms: 1 lease"]);
    assert_eq!(lease.add(1).unwrap(), 1);
    drop(lease);
    scene.eventually(|_| now(&counter).1 == 2);
    assert_eq!(counter.enter().unwrap().get().unwrap(), 1);
}

#[test]
fn a_count_by_eight_threads_across_200_reloads_is_exact() {
    let scene = Scene::with(&["counter_v2"]);
    let counter = scene.handle::<dyn Counter>("counter");
    let callers = Callers::start(8, |_| {
        let (counter, mut last) = (counter.clone(), 0);
        move || {
            let total = counter.enter().and_then(|guard| guard.add(1)).map_err(|e| e.to_string())?;
            if total <= last {
                return Err(format!("the total was {last}, now it is {total}"));
            }
            last = total;
            Ok(())
        }
    });
    for number in 1..=200 {
        assert_eq!(scene.install(stamped(number)).published(), u64::from(number) + 1);
    }
    callers.go_on(&scene, 100);
    let calls = callers.finish();
    assert_eq!(now(&counter), (201, 200, calls));
    nothing_left_but(&scene, 201);
}

#[test]
fn a_state_that_is_saved_twice_is_the_same_and_its_source_serves_on() {
    let scene = Scene::with(&["counter_v2"]);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    let saved = || scene.host.state("counter").unwrap();
    let first = saved();
    assert_eq!(saved(), first);
    assert_eq!(now(&counter), (1, 2, 5));
    // Nor does the next generation write it in another way.
    scene.host.reload("counter").unwrap();
    assert_eq!(saved(), first);
    assert_eq!(counter.enter().unwrap().add(1).unwrap(), 6);
    assert_ne!(saved(), first);
    assert_eq!(now(&counter), (2, 2, 6));
}

#[test]
fn a_reload_asked_for_inside_of_a_call_is_refused_at_once() {
    let limit = Duration::from_secs(3600);
    let scene = Scene::with_options(&["counter_v1"], |options| options.drain_deadline = limit);
    let counter = scene.handle::<dyn Counter>("counter");
    let guard = counter.enter().unwrap();
    guard.add(7).unwrap();
    let error = scene.host.reload("counter").unwrap_err();
    let ReloadError::Refused(refusal) = &error else { panic!("{error}") };
    assert_eq!((refusal.step, refusal.serving), (Step::Drain, Some(1)));
    assert!(error.to_string().contains("this thread is inside of a call to the plugin"), "{error}");
    assert_eq!(guard.get().unwrap(), 7);
    drop(guard);
    assert_eq!(now(&counter), (1, 1, 7));
    scene.host.reload("counter").unwrap();
    assert_eq!(now(&counter).2, 7);
}

#[test]
fn a_stateless_plugin_may_be_reloaded_from_inside_of_a_call_to_it() {
    let scene = Scene::with(&["callback"]);
    let feeder = scene.handle::<dyn Feeder>("callback");
    feeder.enter().unwrap().feed(1, &mut |_| drop(scene.host.reload("callback").unwrap())).unwrap();
    assert_eq!(feeder.enter().unwrap().generation(), 2);
    scene.unloaded("callback", 1);
}

/// A scene for fixtures that hang: their configuration names `hold`, and nobody waits long for them.
fn impatient(fixtures: &[&str], hold: &Hold) -> Scene {
    Scene::with_options(fixtures, |options| {
        options.hook_deadline = Duration::from_secs(2);
        for plugin in ["counter", "echo"] {
            options.config.insert(plugin.into(), json!({ "until": hold.until() }));
        }
    })
}

#[test]
fn a_restore_that_hangs_is_left_behind_and_the_old_generation_serves() {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let scene = impatient(&["counter_stamped"], &hold);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    let refused = scene.install("hangs_in_restore").refused();
    refused.at(Step::Restore, &["restore has not returned within 2s", "its thread is left behind"]);
    hold.entered();
    assert_eq!(now(&counter), (1, 1, 5));
    scene.lingers("counter", 2, &["one of its hooks has not returned"]);
    // Others are not held up by it.
    assert_eq!(scene.install(stamped(2)).published(), 3);
    assert_eq!(now(&counter), (3, 2, 5));
    hold.release();
    nothing_left_but(&scene, 3);
}

#[test]
fn a_create_that_hangs_is_left_behind_and_the_old_generation_serves() {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let scene = impatient(&["echo_v1"], &hold);
    let echo = scene.handle::<dyn Echo>("echo");
    scene.install("hangs_in_create").refused().at(Step::Create, &["create has not returned within 2s"]);
    assert_eq!(echo.enter().unwrap().build().unwrap(), 1);
    scene.lingers("echo", 2, &["one of its hooks has not returned"]);
    assert_eq!(scene.install("echo_v2").published(), 3);
    assert_eq!(echo.enter().unwrap().build().unwrap(), 2);
    hold.release();
    scene.settled();
}

#[test]
fn an_old_build_whose_save_hangs_goes_on_and_is_unloaded_once_it_has_returned() {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let scene = impatient(&["hangs_in_save"], &hold);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    scene.install(stamped(2)).refused().at(Step::Save, &["save has not returned within 2s"]);
    assert_eq!(now(&counter), (1, 43, 5));
    hold.entered();
    hold.release();
    // From now on it saves at once.
    assert_eq!(scene.install(stamped(3)).published(), 3);
    assert_eq!(now(&counter), (3, 3, 5));
    nothing_left_but(&scene, 3);
}

#[test]
fn a_caller_waits_at_a_closed_gate_no_longer_than_it_may() {
    let wait = Duration::from_millis(50);
    let scene = Scene::with_options(&["counter_v1"], |options| options.call_wait = wait);
    let counter = scene.handle::<dyn Counter>("counter");
    let hold = scene.hold();
    let in_old = blocked(&counter, &hold);
    let expecting = scene.install("counter_v2");
    scene.eventually(|s| s.status("counter").busy.is_some_and(|busy| busy.starts_with("drain")));
    let error = counter.enter().err().unwrap();
    assert!(matches!(error, CallError::TimedOut { waited } if waited >= wait), "{error}");
    assert!(matches!(counter.lease().err(), Some(CallError::TimedOut { .. })));
    // Or as long as it says.
    let own = Duration::from_millis(120);
    let error = counter.enter_within(own).err().unwrap();
    assert!(matches!(error, CallError::TimedOut { waited } if waited >= own), "{error}");
    let error = scene.host.call("counter", "get", "{}").unwrap_err().to_string();
    assert!(error.starts_with("waited") && error.ends_with("for a reload to finish"), "{error}");
    // Nor does one that asks for a handle of an interface.
    let error = scene.host.plugin::<dyn Echo>("counter").unwrap_err();
    assert!(
        matches!(error, PluginError::Busy { .. }) && error.to_string().contains("at step drain"),
        "{error}"
    );
    hold.release();
    assert_eq!(in_old.join().unwrap(), 1);
    assert_eq!(expecting.published(), 2);
    assert_eq!(counter.enter_within(own).unwrap().build().unwrap(), 2);
    assert_eq!(now(&counter), (2, 2, 0));
}
