use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reseat::{
    CallError, Canary, Event, Handle, Options, Outcome, Phase, PluginOptions, Probation, RefusalReason,
    ReloadError, ReloadMode,
};
use reseat_tests::misc::Misc;

use crate::callers::Callers;
use crate::scene::{Build, Scene};
use crate::waiting::{DEADLINE, until};

pub fn many(number: u32) -> Build {
    Build::of("many_builds").stamped(number)
}

/// Short enough for tests, and judged by few calls.
pub fn terms() -> Probation {
    Probation {
        period: Duration::from_millis(200),
        calls: 20,
        self_check_every: Duration::from_millis(50),
        ..Probation::default()
    }
}

/// As long as a test may last.
pub fn for_ever() -> Probation {
    Probation { period: Duration::from_secs(600), ..terms() }
}

/// A host with build 1 that gives new builds so many of 100 scopes.
pub fn scene(percent: u8, change: impl FnOnce(&mut Options)) -> Scene {
    let scene = Scene::with_options(&[], |options| {
        options.canary = Some(Canary { percent });
        options.probation = Some(for_ever());
        change(options);
    });
    scene.install(many(1)).published();
    scene
}

/// Puts a build where the host sees it, and waits until it is a candidate; its generation.
#[track_caller]
pub fn tried(scene: &Scene, number: u32) -> u64 {
    let before = scene.host.recent_events().last().map_or(0, |recorded| recorded.sequence);
    drop(scene.install(many(number)));
    let find = |scene: &Scene| {
        scene.host.recent_events().into_iter().filter(|it| it.sequence > before).find_map(|it| {
            match it.event {
                Event::Candidate { generation, .. } => Some(generation),
                _ => None,
            }
        })
    };
    scene.eventually(|s| find(s).is_some());
    find(scene).unwrap()
}

/// One scope that calls; the generation that it was in.
pub fn one_scope(scene: &Scene, many: &Handle<dyn Misc>) -> (u64, Result<String, CallError>) {
    scene.host.scope(|scope| {
        let many = scope.enter(many).unwrap();
        (many.generation(), many.call(""))
    })
}

fn counted(scene: &Scene, many: &Handle<dyn Misc>, scopes: u32, generation: u64) -> usize {
    (0..scopes).filter(|_| one_scope(scene, many).0 == generation).count()
}

/// Why a candidate was discarded, and whether it is denied.
pub fn discarded(scene: &Scene, generation: u64) -> Option<(String, bool)> {
    scene.events().into_iter().find_map(|event| match event {
        Event::Discarded { generation: g, reason, denied, .. } if g == generation => Some((reason, denied)),
        _ => None,
    })
}

fn promoted(scene: &Scene, generation: u64) -> Option<bool> {
    scene.events().into_iter().find_map(|event| match event {
        Event::Promoted { generation: g, proved, .. } if g == generation => Some(proved),
        _ => None,
    })
}

pub fn candidate(scene: &Scene) -> Option<(u64, u8)> {
    let generations = scene.status("many").generations;
    let it = generations.into_iter().find(|one| one.phase == Phase::Candidate)?;
    Some((it.generation, it.percent.expect("a candidate has a share")))
}

#[track_caller]
fn has_no_candidate(error: ReloadError) {
    let is_so =
        matches!(&error, ReloadError::Refused(it) if matches!(it.reason, RefusalReason::NoCandidate { .. }));
    assert!(is_so, "{error}");
}

#[test]
fn of_a_thousand_scopes_fifty_are_in_the_candidate_and_calls_outside_of_scopes_are_not() {
    let scene = scene(5, |_| {});
    let handle = scene.handle::<dyn Misc>("many");
    assert_eq!(tried(&scene, 2), 2);
    assert_eq!(candidate(&scene), Some((2, 5)));
    let mut inside = 0;
    for _ in 0..1000 {
        scene.host.scope(|scope| {
            let scoped = scope.enter(&handle).unwrap();
            let generation = scoped.generation();
            inside += u64::from(generation == 2);
            // Decided once, for all that it does: again, by handle, by name, in a scope of its own, as a lease.
            let build = generation.to_string();
            assert_eq!(scoped.call("").unwrap(), build);
            assert_eq!(scope.enter(&handle).unwrap().generation(), generation);
            assert_eq!(handle.enter().unwrap().call("").unwrap(), build);
            let by_name = scene.host.call("many", "call", r#"{"what":""}"#).unwrap();
            assert_eq!(by_name, format!("{build:?}"));
            scene.host.scope(|inner| assert_eq!(inner.enter(&handle).unwrap().generation(), generation));
            let owned = scene.host.owned_scope();
            assert_eq!(owned.enter(&handle).unwrap().generation(), generation);
        });
        assert_eq!(handle.enter().unwrap().generation(), 1);
    }
    assert_eq!(inside, 50);
    // Owned scopes, on other threads than the one that has made them.
    let owned: Vec<_> = (0..100).map(|_| scene.host.owned_scope()).collect();
    let inside = std::thread::scope(|threads| {
        let each = owned.iter().map(|scope| threads.spawn(|| scope.enter(&handle).unwrap().generation()));
        each.collect::<Vec<_>>().into_iter().map(|it| it.join().unwrap()).filter(|it| *it == 2).count()
    });
    assert_eq!(inside, 5);
    // Calls by name may be units of work of their own.
    let by_name = |_: &u32| scene.host.call_as_scope("many", "call", r#"{"what":""}"#).unwrap() == "\"2\"";
    assert_eq!((0..100).filter(by_name).count(), 5);
    drop(owned);
    scene.host.discard("many").unwrap();
    scene.unloaded("many", 2);
    scene.settled();
}

#[test]
fn a_candidate_that_panics_is_discarded_and_denied_and_no_other_call_has_seen_it() {
    let scene = scene(10, |options| options.probation = Some(terms()));
    let handle = scene.handle::<dyn Misc>("many");
    let plain = Callers::start(2, |_| {
        let handle = handle.clone();
        move || match handle.enter().map_err(|error| error.to_string())?.call("") {
            Ok(build) if build == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let bad = tried(&scene, 13);
    let mut panics = 0;
    scene.eventually(|s| {
        let (generation, answer) = one_scope(s, &handle);
        panics += u32::from(answer.is_err());
        assert_eq!(answer.is_err(), generation == bad);
        discarded(s, bad).is_some()
    });
    let (reason, denied) = discarded(&scene, bad).unwrap();
    assert!(denied && reason.ends_with("calls panicked"), "{reason}");
    assert!(panics >= 3);
    plain.go_on(&scene, 100);
    plain.finish();
    // From here on no scope gets it, and it is not taken in again.
    assert_eq!(counted(&scene, &handle, 100, bad), 0);
    scene.unloaded("many", bad);
    let error = scene.host.reload("many").unwrap_err().to_string();
    assert!(error.contains("this build is denied: it was discarded: "), "{error}");
    assert_eq!(scene.generation("many"), Some(1));
    scene.settled();
}

#[test]
fn errors_count_against_those_of_the_generation_that_serves_and_so_does_its_own_check() {
    let scene = scene(50, |options| options.probation = Some(terms()));
    let handle = scene.handle::<dyn Misc>("many");
    for (number, why) in [(14, "calls failed, 0.0 % before"), (15, "its self_check failed: asked too often")]
    {
        let bad = tried(&scene, number);
        scene.eventually(|s| {
            let _ = one_scope(s, &handle);
            discarded(s, bad).is_some()
        });
        let (reason, denied) = discarded(&scene, bad).unwrap();
        assert!(denied && reason.contains(why), "{reason}");
        scene.unloaded("many", bad);
    }
    assert_eq!(scene.generation("many"), Some(1));
}

#[test]
fn calls_that_take_much_longer_than_in_the_generation_that_serves_have_it_discarded() {
    let scene = Scene::with_options(&[], |options| {
        options.canary = Some(Canary { percent: 50 });
        options.probation = Some(Probation { latency_factor: 2.0, calls: 10, ..terms() });
        options.measure_calls = true;
    });
    scene.install(Build::of("fails_later").stamped(1)).published();
    let handle = scene.handle::<dyn Misc>("fails_later");
    // Until it is known how long they take: one in 32 is timed.
    scene.eventually(|s| {
        one_scope(s, &handle).1.unwrap();
        s.host.figures()[0].latencies.iter().map(|(_, calls)| calls).sum::<u64>() > 10
    });
    drop(scene.install(Build::of("fails_later").stamped(3)));
    scene.eventually(|s| {
        one_scope(s, &handle).1.unwrap();
        discarded(s, 2).is_some()
    });
    let (reason, denied) = discarded(&scene, 2).unwrap();
    assert!(denied && reason.contains(" of 100 calls take longer than "), "{reason}");
    assert_eq!(scene.generation("fails_later"), Some(1));
}

#[test]
fn one_that_has_proved_itself_takes_over_with_the_scopes_that_are_in_it() {
    let scene = scene(50, |options| options.probation = Some(terms()));
    let handle = scene.handle::<dyn Misc>("many");
    let good = tried(&scene, 2);
    let owned = scene.host.owned_scope();
    let lease = owned.enter_at(&handle, good).unwrap();
    scene.host.scope(|scope| {
        let inside = scope.enter_at(&handle, good).unwrap();
        std::thread::scope(|threads| {
            let work = || {
                let done = until(DEADLINE, || {
                    one_scope(&scene, &handle).1.unwrap();
                    scene.generation("many") == Some(good)
                });
                assert!(done, "{scene}");
            };
            threads.spawn(work).join().unwrap();
        });
        assert_eq!((inside.generation(), inside.call("").unwrap()), (good, "2".to_owned()));
        assert_eq!(handle.enter().unwrap().generation(), good);
    });
    assert_eq!(promoted(&scene, good), Some(true));
    assert_eq!((lease.generation(), lease.call("").unwrap()), (good, "2".to_owned()));
    assert_eq!(handle.enter().unwrap().generation(), good);
    scene.unloaded("many", 1);
    drop((lease, owned));
    // As after any reload: the next one is tried, it is unloaded, and there is a way back to what served before.
    let next = tried(&scene, 3);
    scene.host.promote("many").unwrap();
    assert_eq!((promoted(&scene, next), scene.generation("many")), (Some(false), Some(next)));
    scene.unloaded("many", good);
    scene.host.roll_back("many").unwrap();
    assert_eq!(handle.enter().unwrap().call("").unwrap(), "2");
    scene.unloaded("many", next);
    scene.settled();
}

#[test]
fn it_is_promoted_or_discarded_by_hand_where_nobody_judges() {
    let scene = scene(0, |options| options.probation = None);
    let handle = scene.handle::<dyn Misc>("many");
    has_no_candidate(scene.host.promote("many").unwrap_err());
    has_no_candidate(scene.host.discard("many").unwrap_err());
    let second = tried(&scene, 2);
    // Nobody gets it who does not ask for it.
    assert_eq!(counted(&scene, &handle, 200, second), 0);
    assert_eq!(scene.host.call_at("many", second, "call", r#"{"what":""}"#).unwrap(), "\"2\"");
    let outcome = scene.host.promote("many").unwrap();
    assert_eq!(outcome, Outcome::Reloaded { plugin: "many".into(), from: 1, generation: second });
    let third = tried(&scene, 3);
    scene.host.discard("many").unwrap();
    assert_eq!(discarded(&scene, third), Some(("it was asked for".into(), true)));
    assert_eq!(scene.host.denied().len(), 1);
    has_no_candidate(scene.host.discard("many").unwrap_err());
    for old in [1, third] {
        scene.unloaded("many", old);
    }
    scene.settled();
}

#[test]
fn somebody_may_ask_for_a_trial_of_any_file_and_the_plugin_is_followed_where_it_was() {
    let scene = Scene::with_options(&[], |options| options.mode = ReloadMode::OnDemand);
    scene.install(many(1)).published();
    let handle = scene.handle::<dyn Misc>("many");
    let shelf = scene.shelve(&many(2)).with_file_name("libother.so");
    std::fs::write(&shelf, many(2).bytes()).unwrap();
    // SAFETY: only this test writes there.
    let trusted = unsafe { reseat::TrustedDir::new(shelf.parent().unwrap()) };
    let file = trusted.file("libother.so").unwrap();
    let outcome = scene.host.reload_as_canary("many", Some(&file), 100).unwrap();
    assert!(matches!(outcome, Outcome::Candidate { generation: 2, serving: Some(1), percent: 100, .. }));
    assert_eq!(one_scope(&scene, &handle).0, 2);
    assert_eq!(handle.enter().unwrap().generation(), 1);
    scene.host.promote("many").unwrap();
    assert_eq!(handle.enter().unwrap().call("").unwrap(), "2");
    assert_eq!(Path::new(&scene.status("many").file), scene.plugins().join(many(1).file_name()));
}

#[test]
fn what_has_a_state_takes_over_at_once_and_so_does_a_plugin_of_which_that_is_said() {
    let scene = scene(50, |options| {
        let own = PluginOptions { canary: Some(None), ..PluginOptions::default() };
        options.plugins.insert("echo".into(), own);
    });
    for (before, after, plugin) in [("counter_v1", "counter_v2", "counter"), ("echo_v1", "echo_v2", "echo")] {
        scene.install(before).published();
        assert_eq!(scene.install(after).published(), 2, "{plugin}");
        scene.unloaded(plugin, 1);
    }
    assert_eq!(candidate(&scene), None);
}

#[test]
fn its_figures_are_told_by_its_number_beside_those_of_what_serves() {
    let scene = scene(50, |options| options.measure_calls = true);
    let handle = scene.handle::<dyn Misc>("many");
    let second = tried(&scene, 2);
    assert_eq!(counted(&scene, &handle, 40, second), 20);
    let figures = scene.host.figures();
    let of = |generation| figures.iter().find(|one| one.generation == generation).map(|one| one.calls);
    // A call is the scope, from its first to its last.
    assert_eq!((of(1), of(second)), (Some(20), Some(20)), "{figures:?}");
    let status = scene.status("many");
    let it = status.generations.iter().find(|one| one.generation == second).unwrap();
    let reason = it.reason.as_deref().unwrap();
    assert_eq!(reason, "50 of 100 scopes; 20 calls, 0 failed, 0 panicked");
    assert!(it.bytes.is_some_and(|bytes| bytes > 0));
}

#[test]
fn candidates_come_and_go_under_load_and_no_call_is_lost_or_split() {
    let scene = scene(20, |options| options.probation = None);
    let handle = scene.handle::<dyn Misc>("many");
    let host = Arc::new(AtomicU64::new(0));
    let plain = Callers::start(1, |_| {
        let handle = handle.clone();
        move || handle.enter().and_then(|it| it.call("")).map(drop).map_err(|error| error.to_string())
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                threads.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        scene.host.scope(|scope| {
                            let first = scope.enter(&handle).unwrap().call("").unwrap();
                            let again = handle.enter().unwrap().call("").unwrap();
                            let last = scope.enter(&handle).unwrap().call("").unwrap();
                            assert!(first == again && again == last, "{first} {again} {last}");
                        });
                        host.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for number in 100..120 {
            tried(&scene, number);
            let goal = host.load(Ordering::Relaxed) + 20;
            scene.eventually(|_| {
                host.load(Ordering::Relaxed) >= goal || workers.iter().any(|it| it.is_finished())
            });
            match number % 2 {
                0 => drop(scene.host.promote("many").unwrap()),
                _ => scene.host.discard("many").unwrap(),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    plain.finish();
    assert_eq!(handle.enter().unwrap().call("").unwrap(), "118");
    (1..20).for_each(|generation| scene.unloaded("many", generation));
    scene.settled();
}
