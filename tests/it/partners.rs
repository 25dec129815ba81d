#![allow(clippy::result_large_err)] // as in the crate that returns them

use std::sync::Arc;
use std::time::Duration;

use reseat::fault::Faults;
use reseat::{CallError, Event, Outcome, ReloadError, Step};
use reseat_tests::counter::Counter;
use reseat_tests::misc::Misc;
use reseat_tests::node::Node;

use crate::callers::Callers;
use crate::net::{build, change, down, install_all, met, net, wire};
use crate::scene::{Build, Scene};

/// What the caller answers.
fn add(scene: &Scene, n: u64) -> Result<u64, String> {
    let answer = scene.handle::<dyn Misc>("caller").enter().and_then(|misc| misc.call(&n.to_string()));
    answer.map_err(|error| error.to_string())?.parse().map_err(|_| "no number".to_owned())
}

fn waits(scene: &Scene, plugin: &str, words: &[&str]) -> bool {
    scene.events().iter().any(|event| {
        matches!(event, Event::Unmet { plugin: Some(name), reason, .. }
            if name == plugin && words.iter().all(|word| reason.contains(word)))
    })
}

#[test]
fn an_interface_and_whoever_calls_it_change_together_whichever_file_comes_first() {
    for provider_first in [true, false] {
        let scene = Scene::with(&["calls_counter", "counter_v2"]);
        assert_eq!(add(&scene, 5), Ok(5));
        let installed = if provider_first {
            drop(scene.install("counter_next"));
            scene.eventually(|s| {
                waits(s, "counter", &["caller calls Counter 1.0", "it waits for builds that fit"])
            });
            scene.install("calls_counter_next")
        } else {
            drop(scene.install("calls_counter_next"));
            scene.eventually(|s| waits(s, "caller", &["it requires Counter 2.0"]));
            scene.install("counter_next")
        };
        // What serves meanwhile serves on.
        installed.published();
        scene.eventually(|s| (s.generation("counter"), s.generation("caller")) == (Some(2), Some(2)));
        assert_eq!(add(&scene, 2), Ok(7), "with the state");
        assert_eq!(scene.refusals(), [""; 0]);
        scene.unloaded("counter", 1);
        scene.unloaded("caller", 1);
    }
}

#[test]
fn files_that_change_at_the_same_time_wait_for_the_one_that_takes_longest_to_look_at() {
    let faults = Faults::default();
    let scene = Scene::with_options(&["calls_counter", "counter_v2"], |options| {
        (options.gather, options.faults) = (Duration::ZERO, faults.clone());
    });
    let large = Build::of("calls_counter_next").changed(|bytes| bytes.resize(bytes.len() + (4 << 20), 0));
    let builds = [Build::of("counter_next"), large].map(|build| (scene.shelve(&build), build.file_name()));
    let before = faults.passed(Step::Stage);
    for (shelved, name) in builds {
        std::fs::rename(shelved, scene.plugins().join(name)).unwrap();
    }
    scene.eventually(|s| (s.generation("counter"), s.generation("caller")) == (Some(2), Some(2)));
    assert_eq!(faults.passed(Step::Stage) - before, 2, "each is looked at once");
}

#[test]
fn an_interface_that_the_host_has_handles_of_does_not_go_whoever_else_changes() {
    let scene = Scene::with(&["calls_counter", "counter_v2"]);
    let _counter = scene.handle::<dyn Counter>("counter");
    let error =
        change(&scene, ["calls_counter_next", "counter_next"].map(Build::of)).unwrap_err().to_string();
    assert!(
        error.contains("does not fit interface Counter 1.0") || error.contains("no longer implements"),
        "{error}"
    );
    assert_eq!(add(&scene, 5), Ok(5));
    assert_eq!((scene.generation("counter"), scene.generation("caller")), (Some(1), Some(1)));
}

#[test]
fn calls_between_plugins_are_answered_while_their_interface_changes_back_and_forth() {
    let scene = Scene::with(&["calls_counter", "counter_v2"]);
    let caller = scene.handle::<dyn Misc>("caller");
    let callers = Callers::start(3, |_| {
        let caller = caller.clone();
        move || caller.enter().and_then(|misc| misc.call("1")).map(drop).map_err(|error| error.to_string())
    });
    for round in 0..10 {
        let next = ["calls_counter_next", "counter_next"];
        let now = ["calls_counter", "counter_v2"];
        let builds = if round % 2 == 0 { next } else { now }.map(Build::of);
        scene.eventually(|scene| match change(scene, builds.clone()) {
            Ok(_) => true,
            // An older generation of the caller may still be there.
            Err(ReloadError::Refused(refusal)) if refusal.reason.is_passing() => false,
            Err(error) => panic!("round {round}: {error}"),
        });
        callers.go_on(&scene, 30);
    }
    let calls = callers.finish();
    assert_eq!(add(&scene, 1), Ok(calls + 1));
}

#[test]
fn files_that_change_at_the_same_time_take_over_at_one_moment() {
    let scene = Arc::new(Scene::with_options(&[], |options| {
        wire(options);
        // Longer than it takes to write three files on a busy machine.
        options.gather = Duration::from_secs(1);
    }));
    install_all(&scene, "node");
    let top = scene.handle::<dyn Node>("node00");
    let callers = Callers::start(2, |_| {
        let (top, scene) = (top.clone(), scene.clone());
        move || {
            let twice = || scene.host.scope(|scope| Ok([scope.enter(&top)?.down()?, down(&top)?].concat()));
            let trace = twice().map_err(|error: CallError| error.to_string())?;
            if met(&trace, &[3, 6, 9]).len() == 1 { Ok(()) } else { Err(format!("a mixture: {trace:?}")) }
        }
    });
    let installed = [9, 3, 6].map(|number| scene.install(build("node", number, 2)));
    installed.into_iter().for_each(|file| assert_eq!(file.published(), 2));
    callers.go_on(&scene, 50);
    callers.finish();
    assert_eq!(met(&down(&top).unwrap(), &[3, 6, 9]), [2].into());
}

#[test]
fn of_files_that_change_at_the_same_time_none_takes_over_without_the_others() {
    let scene = Scene::with_options(&["calls_counter", "counter_v2"], |options| {
        options.gather = Duration::from_secs(1);
    });
    // The one is all right and the other is not, until it is built again.
    let good = scene.install(Build::of("counter_stamped").stamped(2));
    let bad = scene.install(Build::of("calls_counter").with_manifest("Counter", "Kounter"));
    drop((good, bad));
    scene.eventually(|s| waits(s, "caller", &["Kounter"]) || !s.refusals().is_empty());
    assert_eq!(add(&scene, 5), Ok(5));
    assert_eq!(scene.generation("caller"), Some(1));
}

#[test]
fn a_set_that_was_refused_because_of_one_takes_over_when_that_one_is_built_again() {
    let scene = Scene::with_options(&[], |options| {
        wire(options);
        options.gather = Duration::from_secs(1);
    });
    install_all(&scene, "node");
    let installed = [3, 6].map(|number| scene.install(build("node", number, 2)));
    let bad = scene.install(build("node", 9, 13)).refused();
    assert!(bad.reason.contains("this is build 13"), "{bad:?}");
    for file in installed {
        let refused = file.refused();
        assert!(refused.reason.contains("it changes together with node09"), "{refused:?}");
    }
    let top = scene.handle::<dyn Node>("node00");
    assert_eq!(met(&down(&top).unwrap(), &[3, 6, 9]), [1].into());
    scene.install(build("node", 9, 3)).published();
    assert_eq!(met(&down(&top).unwrap(), &[3, 6]), [2].into());
    assert_eq!(met(&down(&top).unwrap(), &[9]), [3].into());
}

#[test]
fn what_has_taken_over_together_goes_back_together() {
    let scene = Scene::with(&["calls_counter", "counter_v2"]);
    assert_eq!(add(&scene, 5), Ok(5));
    change(&scene, ["calls_counter_next", "counter_next"].map(Build::of)).unwrap();
    assert_eq!(add(&scene, 2), Ok(7));
    let back = Outcome::Reloaded { plugin: "counter".into(), from: 2, generation: 3 };
    assert_eq!(scene.host.roll_back("counter").unwrap(), back);
    assert_eq!((scene.generation("counter"), scene.generation("caller")), (Some(3), Some(3)));
    assert_eq!(add(&scene, 1), Ok(8), "with the state");
    // The other was not at fault.
    let denied: Vec<_> = scene.host.denied().into_iter().map(|denial| denial.plugin).collect();
    assert_eq!(denied, ["counter"]);
    scene.unloaded("counter", 2);
    scene.unloaded("caller", 2);
}

#[test]
fn what_has_been_built_again_since_does_not_go_back_with_the_others() {
    let scene = net(&[]);
    change(&scene, [3, 6].map(|number| build("node", number, 2))).unwrap();
    change(&scene, [build("node", 6, 3)]).unwrap();
    scene.host.roll_back("node03").unwrap();
    let trace = down(&scene.handle::<dyn Node>("node00")).unwrap();
    assert_eq!((met(&trace, &[3]), met(&trace, &[6])), ([1].into(), [3].into()));
}

#[test]
fn who_asks_why_a_build_waits_is_told_for_whose() {
    let scene = Scene::with(&["calls_counter", "counter_v2"]);
    drop(scene.install("counter_next"));
    scene.eventually(|s| waits(s, "counter", &["it waits for builds that fit"]));
    let build = scene.host.why("counter").unwrap().build.expect("it waits");
    assert_eq!(build.kind, "partners");
    assert_eq!(build.until, "builds of caller come that fit, to take over together");
    scene.install("calls_counter_next").published();
    scene.eventually(|s| s.generation("counter") == Some(2));
    assert!(scene.host.why("counter").unwrap().build.is_none());
}
