use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reseat::{
    CallError, Event, Handle, Options, Outcome, PluginOptions, RefusalReason, ReloadError, Step, TrustedFile,
};
use reseat_tests::counter::Counter;
use reseat_tests::misc::Misc;
use reseat_tests::node::{Node, marked};
use serde_json::json;

use crate::callers::Callers;
use crate::scene::{Build, Scene};
use crate::waiting::{DEADLINE, until};

/// Whom each node calls, on the left and on the right: a chain with a diamond in it, twelve in all.
const NET: [(Option<u32>, Option<u32>); 12] = [
    (Some(1), None),
    (Some(2), None),
    (Some(3), Some(4)), // the diamond
    (Some(5), None),
    (None, Some(5)),
    (Some(6), None),
    (Some(7), None),
    (Some(8), None),
    (Some(9), None),
    (Some(10), None),
    (Some(11), None),
    (None, None),
];

/// How many are called for one call of node 0: all, and those below the diamond twice.
const CALLED: usize = 12 + 7;

fn name(number: u32) -> String {
    format!("node{number:02}")
}

fn build(fixture: &str, number: u32, build: u32) -> Build {
    Build::of(fixture).stamped(build).named(&name(number))
}

fn wire(options: &mut Options) {
    for (number, (left, right)) in (0..).zip(NET) {
        let bind = |on: &str, whom: Option<u32>| whom.map(|whom| (on.to_owned(), name(whom)));
        let bind = [bind("Left", left), bind("Right", right)].into_iter().flatten().collect();
        options.plugins.insert(name(number), PluginOptions { bind, ..PluginOptions::default() });
        let config = json!({ "left": left.is_some(), "right": right.is_some() });
        options.config.insert(name(number), config);
    }
}

/// The net, of which some nodes have a state.
fn net(with_state: &[u32]) -> Scene {
    let scene = Scene::with_options(&[], wire);
    for number in (0..12).rev() {
        scene.install(build(fixture(with_state, number), number, 1)).published();
    }
    scene
}

fn fixture(with_state: &[u32], number: u32) -> &'static str {
    if with_state.contains(&number) { "node_with_state" } else { "node" }
}

/// Puts builds where no host looks, and has them take over at one moment, or none.
fn change(scene: &Scene, builds: impl IntoIterator<Item = Build>) -> Result<Vec<Outcome>, ReloadError> {
    // SAFETY: only tests write there, and only builds of our fixtures.
    let shelf = unsafe { reseat::TrustedDir::new(scene.path("shelf")) };
    let put = |build: Build| {
        let path = scene.shelve(&build);
        let named = path.with_extension("so");
        std::fs::rename(path, &named).unwrap();
        (build.plugin(), shelf.file(named.file_name().unwrap()).expect("a bare name"))
    };
    let files: Vec<(String, TrustedFile)> = builds.into_iter().map(put).collect();
    let files: Vec<_> = files.iter().map(|(plugin, file)| (plugin.as_str(), file)).collect();
    scene.host.reload_together_from(&files)
}

/// Which builds of these nodes a call has met.
fn met(trace: &[u32], nodes: &[u32]) -> BTreeSet<u32> {
    trace
        .iter()
        .map(|mark| marked(*mark))
        .filter(|(node, _)| nodes.contains(node))
        .map(|(_, build)| build)
        .collect()
}

fn down(handle: &Handle<dyn Node>) -> Result<Vec<u32>, CallError> {
    handle.enter()?.down()
}

/// Reloads three of the net again and again under calls from everywhere; nobody may ever meet two builds of them.
fn three_change_at_once(with_state: &[u32], rounds: u32) {
    const SET: [u32; 3] = [1, 4, 8];
    let scene = Arc::new(net(with_state));
    let [top, middle] = [0, 2].map(|number| scene.handle::<dyn Node>(&name(number)));
    let low = scene.handle::<dyn Node>(&name(8));
    let once = {
        let (top, middle, low, scene) = (top.clone(), middle.clone(), low.clone(), scene.clone());
        move |number: usize| {
            let (top, middle, low, scene) = (top.clone(), middle.clone(), low.clone(), scene.clone());
            move || {
                let work = || match number % 3 {
                    // A unit of work that calls one plugin, twice, and knows nothing of what that calls.
                    0 => scene.host.scope(|scope| {
                        let top = scope.enter(&top)?;
                        Ok([top.down()?, top.down()?].concat())
                    }),
                    // Each in its own way, those below first.
                    1 => scene.host.scope(|scope| {
                        let (low, middle) = (scope.enter(&low)?, scope.enter(&middle)?);
                        Ok([low.down()?, middle.down()?, down(&top)?].concat())
                    }),
                    // No unit of work, but inside of one of them all the time.
                    _ => {
                        let inside = low.enter()?;
                        Ok([inside.down()?, down(&top)?].concat())
                    }
                };
                let trace = work().map_err(|error: CallError| error.to_string())?;
                match met(&trace, &SET).len() {
                    1 => Ok(()),
                    _ => Err(format!("a mixture: {trace:?}")),
                }
            }
        }
    };
    let callers = Callers::start(3, once);
    for round in 2..2 + rounds {
        let builds = SET.map(|number| build(fixture(with_state, number), number, 100 + round));
        let outcomes = change(&scene, builds).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(outcomes.len(), 3);
        callers.go_on(&scene, 30);
    }
    while callers.calls() * (CALLED as u64) < 100_000 {
        callers.go_on(&scene, 100);
    }
    callers.finish();
    assert_eq!(met(&down(&top).unwrap(), &SET), [101 + rounds].into());
    SET.iter().for_each(|number| scene.unloaded(&name(*number), u64::from(rounds)));
}

#[test]
fn of_twelve_plugins_in_a_chain_with_a_diamond_three_change_at_once_and_no_call_is_a_mixture() {
    three_change_at_once(&[], 20);
}

#[test]
fn so_it_is_when_their_states_are_handed_over() {
    three_change_at_once(&[1, 4, 8, 10], 20);
}

#[test]
fn when_the_third_is_refused_all_three_stay_with_their_states() {
    let scene = net(&[1, 4, 8]);
    let top = scene.handle::<dyn Node>("node00");
    for _ in 0..5 {
        down(&top).unwrap();
    }
    let calls = |number: u32| scene.handle::<dyn Node>(&name(number)).enter().unwrap().calls().unwrap();
    let before = [1, 4, 8].map(calls);
    // The last to be checked is the one that nobody else in the set is called by.
    for bad in [1, 4, 8] {
        let builds =
            [1, 4, 8].map(|number| build("node_with_state", number, if number == bad { 13 } else { 2 }));
        let error = change(&scene, builds).unwrap_err();
        let ReloadError::Refused(refusal) = &error else { panic!("{error}") };
        assert_eq!((refusal.plugin.as_deref(), refusal.step), (Some(&*name(bad)), Step::Check), "{error}");
        let partners = scene.refusals().into_iter().filter(|text| {
            text.contains(&format!("it changes together with {}, which is refused at check", name(bad)))
        });
        assert_eq!(partners.count(), 2);
        assert_eq!(met(&down(&top).unwrap(), &(0..12).collect::<Vec<_>>()), [1].into());
    }
    // Three calls more, which have gone through nodes below the diamond twice.
    assert_eq!([1, 4, 8].map(calls), [before[0] + 3, before[1] + 3, before[2] + 6]);
    for number in 0..12 {
        assert_eq!(scene.generation(&name(number)), Some(1));
    }
}

#[test]
fn a_call_that_is_inside_of_one_finds_the_others_as_they_were_until_it_ends() {
    let scene = net(&[]);
    let top = scene.handle::<dyn Node>("node00");
    let hold = scene.hold();
    let inside = std::thread::spawn({
        let (node, until) = (scene.handle::<dyn Node>("node01"), hold.until());
        move || node.enter().unwrap().down_later(&until).unwrap()
    });
    hold.entered();
    change(&scene, [1, 5, 11].map(|number| build("node", number, 2))).unwrap();
    // Newcomers find all of them new; whoever was inside of the first, all of them old.
    assert_eq!(met(&down(&top).unwrap(), &[1, 5, 11]), [2].into());
    hold.release();
    assert_eq!(met(&inside.join().unwrap(), &[1, 5, 11]), [1].into());
    [1, 5, 11].iter().for_each(|number| scene.unloaded(&name(*number), 1));
}

#[test]
fn a_call_inside_of_one_passes_the_closed_gates_of_the_others_that_wait_for_it() {
    let scene = net(&[1, 5, 11]);
    let hold = scene.hold();
    let inside = std::thread::spawn({
        let (node, until) = (scene.handle::<dyn Node>("node01"), hold.until());
        move || node.enter().unwrap().down_later(&until).unwrap()
    });
    hold.entered();
    std::thread::scope(|threads| {
        let builds = [11, 5, 1].map(|number| build("node_with_state", number, 2));
        let reload = threads.spawn(|| change(&scene, builds));
        for number in [1, 5, 11] {
            let drains =
                |s: &Scene| s.status(&name(number)).busy.is_some_and(|busy| busy.starts_with("drain"));
            scene.eventually(drains);
        }
        hold.release();
        assert_eq!(met(&inside.join().unwrap(), &[1, 5, 11]), [1].into());
        reload.join().unwrap().unwrap();
    });
    assert_eq!(
        scene.handle::<dyn Node>("node11").enter().unwrap().calls().unwrap(),
        2,
        "both ways of the diamond"
    );
}

#[test]
fn an_owned_scope_that_is_inside_of_one_finds_the_others_as_they_were() {
    for with_state in [&[][..], &[2, 8]] {
        let scene = net(with_state);
        let (upper, lower) = (scene.handle::<dyn Node>("node02"), scene.handle::<dyn Node>("node08"));
        let scope = scene.host.owned_scope();
        scope.inside(|| assert_eq!(met(&scope.enter(&lower).unwrap().down().unwrap(), &[8]), [1].into()));
        let builds = [2, 8].map(|number| build(fixture(with_state, number), number, 2));
        std::thread::scope(|threads| {
            let reload = threads.spawn(|| change(&scene, builds));
            if with_state.is_empty() {
                scene.eventually(|s| s.generation("node02") == Some(2));
            } else {
                let drains =
                    |s: &Scene| s.status("node02").busy.is_some_and(|busy| busy.starts_with("drain"));
                scene.eventually(drains);
            }
            // The first call to this one, and what it calls in turn.
            let trace = scope.inside(|| scope.enter(&upper).unwrap().down().unwrap());
            assert_eq!(met(&trace, &[2, 8]), [1].into(), "{trace:?}");
            drop(scope);
            reload.join().unwrap().unwrap();
        });
        assert_eq!(met(&down(&upper).unwrap(), &[2, 8]), [2].into());
        [2, 8].iter().for_each(|number| scene.unloaded(&name(*number), 1));
    }
}

#[test]
fn many_that_are_held_are_waited_for_as_long_as_one_and_then_all_serve_on() {
    let deadline = Duration::from_millis(600);
    let scene = Scene::with_options(&[], |options| {
        wire(options);
        options.drain_deadline = deadline;
    });
    for number in (0..12).rev() {
        scene.install(build("node_with_state", number, 1)).published();
    }
    let holds: Vec<_> = (0..12).map(|_| scene.hold()).collect();
    let held: Vec<_> = (0..12)
        .zip(&holds)
        .map(|(number, hold)| {
            let (node, until) = (scene.handle::<dyn Node>(&name(number)), hold.until());
            std::thread::spawn(move || node.enter().unwrap().down_later(&until).unwrap())
        })
        .collect();
    holds.iter().for_each(crate::scene::Hold::entered);
    let builds: Vec<_> = (0..12).map(|number| build("node_with_state", number, 2)).collect();
    let begun = Instant::now();
    let error = change(&scene, builds).unwrap_err();
    let took = begun.elapsed();
    let ReloadError::Refused(refusal) = &error else { panic!("{error}") };
    let RefusalReason::Held { limit, holders } = &refusal.reason else { panic!("{error}") };
    assert_eq!(*limit, deadline);
    assert!(holders.contains("node03: 1 guard") && holders.contains("down_later"), "{holders}");
    assert!(took < deadline * 6, "twelve deadlines would be {:?}, it was {took:?}", deadline * 12);
    drop(holds);
    (0..12).zip(held).for_each(|(number, held)| {
        assert_eq!(met(&held.join().unwrap(), &[number]), [1].into());
    });
}

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
    for number in (0..12).rev() {
        scene.install(build("node", number, 1)).published();
    }
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
    for number in (0..12).rev() {
        scene.install(build("node", number, 1)).published();
    }
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
fn plugins_that_are_named_are_reloaded_at_one_moment() {
    let scene = net(&[4]);
    let outcomes = scene.host.reload_together(&["node04", "node01", "node04"]).unwrap();
    let reloaded = |plugin: &str| Outcome::Reloaded { plugin: plugin.into(), from: 1, generation: 2 };
    assert_eq!(outcomes, [reloaded("node01"), reloaded("node04")]);
    let error = scene.host.reload_together(&["node04", "nobody"]).unwrap_err();
    assert!(matches!(&error, ReloadError::NoSuchPlugin { name, .. } if name == "nobody"), "{error}");
    assert_eq!(scene.generation("node04"), Some(2));
    assert!(until(DEADLINE, || scene.status("node04").busy.is_none()));
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
