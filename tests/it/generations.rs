use std::time::Duration;

use reseat::{CallError, GenerationError, MaxLingering, Outcome, Phase, RefusalReason, ReloadError, Step};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::echo_appended;
use reseat_tests::misc::Misc;

use crate::callers::Callers;
use crate::scene::{Build, Scene, Verdict};
use crate::waiting::DEADLINE;

fn echo(number: u32) -> Build {
    Build::of("echo_stamped").stamped(number)
}

/// A host with build 1 of `echo`, which only somebody who asks reloads.
fn scene() -> Scene {
    let scene = Scene::with_options(&[], |options| options.mode = reseat::ReloadMode::OnDemand);
    scene.install(echo(1)).published();
    scene
}

/// Puts another build in place, and reloads it so that the one before is kept.
#[track_caller]
fn reload_keeping(scene: &Scene, number: u32, most: usize) -> u64 {
    std::fs::rename(scene.shelve(&echo(number)), scene.plugins().join(echo(number).file_name())).unwrap();
    match scene.host.reload_keeping("echo", most) {
        Ok(Outcome::Reloaded { generation, .. }) => generation,
        other => panic!("{other:?}"),
    }
}

fn phases(scene: &Scene, plugin: &str) -> Vec<(u64, Phase)> {
    scene.status(plugin).generations.iter().map(|one| (one.generation, one.phase)).collect()
}

#[track_caller]
fn refused(error: ReloadError) -> RefusalReason {
    match error {
        ReloadError::Refused(refusal) => refusal.reason,
        other => panic!("{other}"),
    }
}

#[test]
fn a_scope_pinned_on_an_old_generation_goes_on_there_through_ten_reloads_while_others_see_the_new() {
    let scene = scene();
    let handle = scene.handle::<dyn Echo>("echo");
    assert_eq!(reload_keeping(&scene, 2, 1), 2);
    scene.host.scope(|scope| {
        let pinned = scope.enter_at(&handle, 1).unwrap();
        for number in 3..13 {
            reload_keeping(&scene, number, 16);
            assert_eq!((pinned.generation(), pinned.build().unwrap()), (1, 1));
            let elsewhere = std::thread::scope(|threads| {
                let call = || handle.enter().unwrap().build().unwrap();
                threads.spawn(call).join().unwrap()
            });
            assert_eq!(elsewhere, number);
        }
    });
    assert_eq!(scene.host.kept("echo"), (1..12).collect::<Vec<_>>());
    // Whoever asks later finds each of them.
    for generation in 1..13 {
        scene.host.scope(|scope| {
            let pinned = scope.enter_at(&handle, generation).unwrap();
            assert_eq!(u64::from(pinned.build().unwrap()), generation);
        });
    }
    (1..12).for_each(|generation| scene.host.release("echo", generation).unwrap());
    (1..12).for_each(|generation| scene.unloaded("echo", generation));
    scene.settled();
}

#[test]
fn with_two_kept_the_third_goes_and_is_unloaded() {
    let scene = scene();
    let handle = scene.handle::<dyn Echo>("echo");
    for number in 2..4 {
        reload_keeping(&scene, number, 2);
    }
    assert_eq!(phases(&scene, "echo"), [(1, Phase::Kept), (2, Phase::Kept), (3, Phase::Serving)]);
    reload_keeping(&scene, 4, 2);
    assert_eq!(scene.host.kept("echo"), [2, 3]);
    scene.unloaded("echo", 1);
    // A plain reload neither keeps nor lets go.
    scene.host.reload("echo").unwrap();
    assert_eq!(scene.host.kept("echo"), [2, 3]);
    scene.unloaded("echo", 4);
    let error = scene.host.scope(|scope| scope.enter_at(&handle, 4).err().expect("it is not kept"));
    assert_eq!(error.to_string(), "generation 4 of `echo` is not there: there is 2, 3, 5");
    // Keeping fewer lets older ones go.
    reload_keeping(&scene, 6, 1);
    assert_eq!(scene.host.kept("echo"), [5]);
    scene.host.release("echo", 5).unwrap();
    let again = scene.host.release("echo", 5).unwrap_err();
    assert!(matches!(&again, GenerationError::NotKept { kept, .. } if kept.is_empty()), "{again}");
    (2..6).for_each(|generation| scene.unloaded("echo", generation));
    scene.settled();
}

#[test]
fn one_that_is_let_go_stays_until_those_who_are_in_it_have_left() {
    let scene = scene();
    let handle = scene.handle::<dyn Echo>("echo");
    reload_keeping(&scene, 2, 1);
    scene.host.scope(|scope| {
        let pinned = scope.enter_at(&handle, 1).unwrap();
        scene.host.release("echo", 1).unwrap();
        scene.eventually(|s| phases(s, "echo").contains(&(1, Phase::Draining)));
        assert_eq!(pinned.build().unwrap(), 1);
        // For others it is gone.
        let other = scene.host.owned_scope();
        let error = std::thread::scope(|threads| {
            threads.spawn(|| other.enter_at(&handle, 1).err().expect("it was let go")).join().unwrap()
        });
        assert!(matches!(error, GenerationError::NotThere { .. }), "{error}");
        assert_eq!(scene.verdict_of("echo", 1), None);
    });
    scene.unloaded("echo", 1);
}

#[test]
fn what_is_nested_in_a_pinned_scope_and_what_plugins_call_there_is_in_its_generation() {
    let scene = scene();
    scene.install("asks_echo").published();
    let (handle, asker) = (scene.handle::<dyn Echo>("echo"), scene.handle::<dyn Misc>("asker"));
    reload_keeping(&scene, 2, 1);
    assert_eq!(asker.enter().unwrap().call("").unwrap(), "1 asks 2");
    scene.host.scope(|scope| {
        scope.enter_at(&handle, 1).unwrap();
        assert_eq!(handle.enter().unwrap().build().unwrap(), 1);
        assert_eq!(handle.lease().unwrap().build().unwrap(), 1);
        assert_eq!(asker.enter().unwrap().call("").unwrap(), "1 asks 1");
        assert_eq!(scope.enter(&asker).unwrap().call("").unwrap(), "1 asks 1");
        assert_eq!(scene.host.call("echo", "build", "{}").unwrap(), "1");
        scene.host.scope(|inner| {
            assert_eq!(inner.enter(&handle).unwrap().build().unwrap(), 1);
        });
        let refused =
            scene.host.scope(|inner| inner.enter_at(&handle, 2).err().expect("this thread is in 1"));
        assert_eq!(
            refused.to_string(),
            "generation 2 of `echo` cannot be entered here: what this belongs to has generation 1"
        );
    });
    assert_eq!(asker.enter().unwrap().call("").unwrap(), "1 asks 2");
}

#[test]
fn a_scope_has_one_generation_of_a_plugin_and_no_other_can_be_had_in_it() {
    let scene = scene();
    let handle = scene.handle::<dyn Echo>("echo");
    reload_keeping(&scene, 2, 1);
    scene.host.scope(|scope| {
        assert_eq!(scope.enter(&handle).unwrap().generation(), 2);
        assert!(matches!(
            scope.enter_at(&handle, 1).err(),
            Some(GenerationError::HasAnother { generation: 1, has: 2, .. })
        ));
        assert_eq!(scope.enter_at(&handle, 2).unwrap().generation(), 2, "the one that it has");
    });
    let owned = scene.host.owned_scope();
    assert_eq!(owned.enter_at(&handle, 1).unwrap().generation(), 1);
    assert!(matches!(owned.enter_at(&handle, 2).err(), Some(GenerationError::HasAnother { has: 1, .. })));
    let owned = std::thread::spawn({
        let handle = handle.clone();
        move || {
            assert_eq!(owned.enter(&handle).unwrap().build().unwrap(), 1);
            owned
        }
    });
    drop(owned.join().unwrap());
    assert_eq!(scene.host.call_at("echo", 1, "build", "{}").unwrap(), "1");
    assert_eq!(scene.host.call_at("echo", 2, "build", "{}").unwrap(), "2");
    assert!(matches!(scene.host.call_at("echo", 9, "build", "{}"), Err(GenerationError::NotThere { .. })));
    assert!(matches!(scene.host.call_at("no", 1, "build", "{}"), Err(GenerationError::NoSuchPlugin { .. })));
}

#[test]
fn what_has_a_state_is_not_kept_and_the_refusal_says_why() {
    let scene = Scene::with(&["counter_v1", "region_stateless"]);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    for plugin in ["counter", "cells"] {
        let keeping = refused(scene.host.reload_keeping(plugin, 1).unwrap_err());
        let canary = refused(scene.host.reload_as_canary(plugin, None, 5).unwrap_err());
        for reason in [keeping, canary] {
            assert!(matches!(reason, RefusalReason::TwoStates { .. }), "{reason}");
            assert!(
                reason.to_string().contains("two generations at once would be two states: reload it plainly")
            );
        }
        assert_eq!(scene.generation(plugin), Some(1));
    }
    assert_eq!(counter.enter().unwrap().get().unwrap(), 5);
    assert!(scene.host.kept("counter").is_empty());
}

#[test]
fn more_than_sixteen_cannot_be_kept() {
    let scene = scene();
    let reason = refused(scene.host.reload_keeping("echo", 17).unwrap_err());
    assert_eq!(reason.to_string(), "17 old generations cannot be kept: 16 is the most");
}

#[test]
fn kept_generations_do_not_linger_and_keep_no_build_out() {
    let scene = Scene::with_options(&[], |options| {
        options.mode = reseat::ReloadMode::OnDemand;
        options.max_lingering = MaxLingering { generations: 1, ..MaxLingering::default() };
    });
    scene.install(echo(1)).published();
    for number in 2..6 {
        reload_keeping(&scene, number, 16);
    }
    assert_eq!(scene.host.kept("echo"), [1, 2, 3, 4]);
    assert!(scene.events().iter().all(|event| !matches!(event, reseat::Event::Lingering { .. })));
}

#[test]
fn a_handle_of_a_further_interface_is_good_for_those_that_are_kept() {
    let scene = Scene::with(&["two_interfaces"]);
    let echo = scene.handle::<dyn Echo>("two_interfaces");
    scene.host.reload_keeping("two_interfaces", 1).unwrap();
    let misc = scene.handle::<dyn Misc>("two_interfaces");
    scene.host.scope(|scope| {
        assert_eq!(scope.enter_at(&misc, 1).unwrap().call("hi").unwrap(), "misc: hi");
        assert_eq!(scope.enter(&echo).unwrap().generation(), 1);
    });
}

#[test]
fn what_a_number_has_stood_for_is_not_called_in_a_generation_that_others_have_left() {
    let scene = Scene::with(&["two_interfaces", "asks_echo"]);
    let misc = scene.handle::<dyn Misc>("two_interfaces");
    scene.host.scope(|scope| {
        scope.enter(&misc).unwrap();
        // Nobody uses the interface any more that the other plugin has called, and the number of it is free.
        scene.host.unload("asker").unwrap();
        scene.unloaded("asker", 1);
        scene.host.reload("two_interfaces").unwrap();
        let later = scene.handle::<dyn echo_appended::Echo>("two_interfaces");
        let elsewhere = || later.enter().unwrap().build().unwrap();
        assert_eq!(std::thread::scope(|threads| threads.spawn(elsewhere).join().unwrap()), 1);
        // The generation that this scope is in has not got it, whatever it had under any number.
        assert!(matches!(later.enter().err(), Some(CallError::NotLoaded { .. })));
    });
    scene.unloaded("two_interfaces", 1);
}

#[test]
fn whom_a_kept_generation_requires_is_not_unloaded_before_it() {
    let scene = Scene::with_options(&[], |options| options.mode = reseat::ReloadMode::OnDemand);
    scene.install(echo(1)).published();
    scene.install("asks_echo").published();
    let file = scene.plugins().join(Build::of("asks_nobody").file_name());
    std::fs::rename(scene.shelve(&Build::of("asks_nobody")), file).unwrap();
    scene.host.reload_keeping("asker", 1).unwrap();
    assert_eq!(scene.host.call("asker", "call", r#"{"what":""}"#).unwrap(), "\"asks nobody\"");
    assert_eq!(scene.host.call_at("asker", 1, "call", r#"{"what":""}"#).unwrap(), "\"1 asks 1\"");
    let error = scene.host.unload("echo").unwrap_err().to_string();
    assert!(error.contains("required by asker"), "{error}");
    scene.host.release("asker", 1).unwrap();
    scene.host.unload("echo").unwrap();
    scene.unloaded("asker", 1);
    scene.unloaded("echo", 1);
}

#[test]
fn an_unload_takes_all_of_them_and_the_numbers_go_on() {
    let scene = Scene::with(&["two_interfaces"]);
    let handle = scene.handle::<dyn Echo>("two_interfaces");
    (0..2).for_each(|_| drop(scene.host.reload_keeping("two_interfaces", 2).unwrap()));
    assert_eq!(scene.host.kept("two_interfaces"), [1, 2]);
    scene.host.unload("two_interfaces").unwrap();
    (1..4).for_each(|generation| scene.unloaded("two_interfaces", generation));
    assert!(scene.host.kept("two_interfaces").is_empty());
    let error = scene.host.scope(|scope| scope.enter_at(&handle, 1).err().unwrap());
    assert_eq!(error.to_string(), "generation 1 of `two_interfaces` is not there: none is");
    scene.host.load(&scene.trusted(&Build::of("two_interfaces").file_name())).unwrap();
    assert_eq!(handle.enter().unwrap().generation(), 4);
    scene.settled();
}

#[test]
fn the_way_back_leaves_those_that_are_kept() {
    let scene = scene();
    reload_keeping(&scene, 2, 2);
    scene.host.roll_back("echo").unwrap();
    assert_eq!(scene.host.call("echo", "build", "{}").unwrap(), "1");
    assert_eq!((scene.generation("echo"), scene.host.kept("echo")), (Some(3), vec![1]));
    scene.unloaded("echo", 2);
}

#[test]
fn the_end_of_a_host_ends_all_and_the_next_begins_with_the_one_that_was_published() {
    let scene = scene();
    reload_keeping(&scene, 2, 2);
    reload_keeping(&scene, 3, 2);
    assert!(scene.host.shutdown(DEADLINE), "{scene}");
    (1..4).for_each(|generation| {
        assert_eq!(scene.verdict_of("echo", generation), Some(Verdict::Unloaded));
    });
    let next = scene.next_host(|_| {});
    assert!(next.kept("echo").is_empty());
    assert_eq!(next.call("echo", "build", "{}").unwrap(), "3");
    assert_eq!(next.status().plugins[0].generations.len(), 1);
}

#[test]
fn generations_are_kept_and_let_go_under_load_and_no_call_is_lost() {
    let scene = scene();
    let handle = scene.handle::<dyn Echo>("echo");
    let plain = Callers::start(2, |_| {
        let (handle, mut last) = (handle.clone(), 0);
        move || {
            let guard = handle.enter().map_err(|error| error.to_string())?;
            let build = guard.build().map_err(|error| error.to_string())?;
            if u64::from(build) != guard.generation() || build < last {
                return Err(format!("build {build} in generation {}, after {last}", guard.generation()));
            }
            last = build;
            Ok(())
        }
    });
    let host = &scene.host;
    for number in 2..30 {
        reload_keeping(&scene, number, 3);
        // Whatever is kept answers as it is; one that has just been let go says so.
        for generation in 1..=u64::from(number) {
            match host.call_at("echo", generation, "build", "{}") {
                Ok(build) => assert_eq!(build, generation.to_string()),
                Err(error) => assert!(generation + 3 < u64::from(number), "{error}"),
            }
        }
        plain.go_on(&scene, 20);
    }
    plain.finish();
    assert_eq!(host.kept("echo"), [26, 27, 28]);
    (1..26).for_each(|generation| scene.unloaded("echo", generation));
    assert!(scene.refusals().is_empty());
    assert!(scene.host.shutdown(DEADLINE.max(Duration::from_secs(1))), "{scene}");
}

#[test]
fn an_order_that_is_refused_keeps_nothing() {
    let scene = scene();
    let file = scene.plugins().join(echo(2).file_name());
    let bad = Build::of("errors_in_create").in_slot("echo");
    std::fs::rename(scene.shelve(&bad), &file).unwrap();
    let error = scene.host.reload_keeping("echo", 2).unwrap_err();
    assert!(matches!(&error, ReloadError::Refused(refusal) if refusal.step <= Step::Create), "{error}");
    assert_eq!((scene.generation("echo"), scene.host.kept("echo")), (Some(1), vec![]));
}
