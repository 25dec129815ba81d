use std::time::Duration;

use reseat::{CallError, Event, Handle, LostState, Options, Outcome, Probation, RolledBackState, Step};
use reseat_tests::counter::Counter;
use reseat_tests::fault::{Kind, Point, Process, stamp};
use reseat_tests::misc::Misc;

use crate::callers::Callers;
use crate::scene::{Build, Scene, Verdict};

/// Short enough for tests, and judged by few calls.
fn terms() -> Probation {
    Probation {
        period: Duration::from_millis(200),
        calls: 20,
        self_check_every: Duration::from_millis(50),
        ..Probation::default()
    }
}

fn scene(fixture: impl Into<Build>, change: impl FnOnce(&mut Options)) -> Scene {
    let scene = Scene::with_options(&[], |options| {
        options.probation = Some(terms());
        change(options);
    });
    scene.install(fixture).published();
    scene
}

fn faulty(point: Point, kind: Kind) -> Build {
    Build::of("faulty").stamped(stamp(point, kind, Process::Any))
}

fn good(number: u32) -> Build {
    Build::of("faulty").stamped(number)
}

/// Waits until the build before is back; what was said of it.
fn rolled_back(scene: &Scene) -> (u64, u64, String, RolledBackState) {
    let find = |scene: &Scene| {
        scene.events().into_iter().find_map(|event| match event {
            Event::RolledBack { from, generation, reason, state, .. } => {
                Some((from, generation, reason, state))
            }
            _ => None,
        })
    };
    scene.eventually(|s| find(s).is_some());
    find(scene).unwrap()
}

fn proved(scene: &Scene, generation: u64) -> bool {
    scene
        .events()
        .iter()
        .any(|event| matches!(event, Event::Proved { generation: g, .. } if *g == generation))
}

fn counts(counter: &Handle<dyn Counter>, calls: u64) {
    for _ in 0..calls {
        counter.enter().unwrap().get().unwrap();
    }
}

#[test]
fn a_build_that_panics_in_calls_is_sent_back_with_its_state_and_denied() {
    let scene = scene(good(1), |_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    assert_eq!(scene.install(faulty(Point::Call, Kind::Panic)).published(), 2);
    for _ in 0..3 {
        assert!(counter.enter().unwrap().add(1).is_err());
    }
    let (from, generation, reason, state) = rolled_back(&scene);
    assert_eq!((from, generation, state), (2, 3, RolledBackState::Carried));
    assert_eq!(reason, "3 of 3 calls panicked");
    let guard = counter.enter().unwrap();
    assert_eq!((guard.generation(), guard.build().unwrap(), guard.get().unwrap()), (3, 1, 5));
    drop(guard);
    // It is not loaded again, also if somebody asks.
    let error = scene.host.reload("counter").unwrap_err().to_string();
    assert!(error.contains("this build is denied: it was sent back: 3 of 3 calls panicked"), "{error}");
    // And the next one may fail in its turn, to the same effect.
    assert_eq!(scene.install(good(7)).published(), 4);
    counts(&counter, 40);
    scene.eventually(|s| proved(s, 4));
    assert_eq!(counter.enter().unwrap().get().unwrap(), 5);
}

#[test]
fn a_build_whose_own_check_fails_later_is_sent_back_with_its_state_as_the_one_before_reads_it() {
    let scene = scene("counter_v1", |_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    assert_eq!(scene.install("counter_goes_back").published(), 2);
    counter.enter().unwrap().add(3).unwrap();
    let (from, generation, reason, state) = rolled_back(&scene);
    assert_eq!((from, generation, state), (2, 3, RolledBackState::Carried));
    assert_eq!(reason, "its self_check failed: asked too often");
    assert_eq!(counter.enter().unwrap().build().unwrap(), 1);
    assert_eq!(counter.enter().unwrap().get().unwrap(), 3);
}

fn fails_later(number: u32) -> Build {
    Build::of("fails_later").stamped(number)
}

/// Four threads that call without pause; the plugin may refuse, the host may not.
fn callers(misc: &Handle<dyn Misc>) -> Callers {
    Callers::start(4, |_| {
        let misc = misc.clone();
        move || match misc.enter().map_err(|e| e.to_string())?.call("x") {
            Ok(_) | Err(CallError::Plugin(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
}

#[test]
fn calls_that_fail_more_often_than_before_send_a_build_back_under_load_and_none_is_lost() {
    let scene = scene(fails_later(1), |_| {});
    let misc = scene.handle::<dyn Misc>("fails_later");
    let callers = callers(&misc);
    callers.go_on(&scene, 100);
    assert_eq!(scene.install(fails_later(2)).published(), 2);
    let (from, generation, reason, state) = rolled_back(&scene);
    assert_eq!((from, generation, state), (2, 3, RolledBackState::None));
    assert!(reason.contains(" % of ") && reason.ends_with("calls failed, 0.0 % before"), "{reason}");
    callers.go_on(&scene, 100);
    callers.finish();
    assert_eq!(misc.enter().unwrap().call("x").unwrap(), "1 x");
}

#[test]
fn calls_that_take_much_longer_than_before_send_a_build_back_in_scopes_and_by_name_too() {
    // 200 ms are many times what a call takes that does nothing, on any machine.
    let scene = scene(fails_later(1), |options| {
        options.probation = Some(Probation { latency_factor: 2.0, ..terms() });
    });
    let misc = scene.handle::<dyn Misc>("fails_later");
    let work = || {
        scene.host.scope(|scope| scope.enter(&misc).unwrap().call("x").unwrap());
        scene.host.call("fails_later", "call", r#"{"what":"x"}"#).unwrap();
    };
    // Until it is known how long they take.
    scene.eventually(|s| {
        work();
        s.status("fails_later").probation.is_none()
    });
    scene.install(fails_later(3)).published();
    scene.eventually(|s| {
        work();
        s.generation("fails_later") == Some(3)
    });
    let (.., reason, _) = rolled_back(&scene);
    assert!(reason.contains(" of 100 calls take longer than "), "{reason}");
}

#[test]
fn a_state_that_cannot_be_written_for_the_build_before_is_the_earlier_one_or_keeps_the_bad_build() {
    for lost_state in [LostState::Earlier, LostState::Stay] {
        let scene = scene("counter_v1", |options| {
            options.probation = Some(Probation { lost_state, ..terms() });
        });
        let counter = scene.handle::<dyn Counter>("counter");
        counter.enter().unwrap().add(5).unwrap();
        assert_eq!(scene.install("counter_v2").published(), 2);
        counter.enter().unwrap().add(2).unwrap();
        let outcome = scene.host.roll_back("counter");
        let guard = counter.enter().unwrap();
        let now = (guard.generation(), guard.build().unwrap(), guard.get().unwrap());
        match lost_state {
            LostState::Earlier => {
                outcome.unwrap();
                assert_eq!(now, (3, 1, 5));
                assert_eq!(rolled_back(&scene).3, RolledBackState::Earlier);
            }
            LostState::Stay => {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains("refused at save: the serving generation writes state version 2, this build reads 1..=1"), "{error}");
                assert_eq!(now, (2, 2, 7));
            }
        }
    }
}

#[test]
fn there_is_one_step_back_also_long_after_the_probation() {
    let scene = scene(good(1), |_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    let none = |scene: &Scene| {
        let error = scene.host.roll_back("counter").unwrap_err().to_string();
        assert!(error.contains("there is no build to go back to"), "{error}");
    };
    none(&scene);
    scene.install(good(2)).published();
    counts(&counter, 40);
    scene.eventually(|s| proved(s, 2));
    counter.enter().unwrap().add(9).unwrap();
    let outcome = scene.host.roll_back("counter").unwrap();
    assert_eq!(outcome, Outcome::Reloaded { plugin: "counter".into(), from: 2, generation: 3 });
    assert_eq!(counter.enter().unwrap().get().unwrap(), 9);
    assert_eq!(counter.enter().unwrap().build().unwrap(), 1);
    none(&scene);
    scene.install(good(2)).refused().at(Step::Vet, &["it was sent back: it was asked for"]);
    assert_eq!(scene.host.allow("").len(), 1);
}

#[test]
fn from_a_build_that_has_not_proved_itself_the_way_leads_to_one_that_has() {
    let scene = scene(good(1), |options| {
        options.probation = Some(Probation { period: Duration::from_secs(600), ..terms() });
    });
    let counter = scene.handle::<dyn Counter>("counter");
    scene.install(good(2)).published();
    scene.install(faulty(Point::Call, Kind::Panic)).published();
    for _ in 0..3 {
        assert!(counter.enter().unwrap().add(1).is_err());
    }
    let (from, generation, ..) = rolled_back(&scene);
    assert_eq!((from, generation), (3, 4));
    assert_eq!(counter.enter().unwrap().build().unwrap(), 1, "not the one that was on probation");
}

#[test]
fn where_nobody_judges_the_way_leads_to_the_build_right_before() {
    let scene = scene(good(1), |options| options.probation = None);
    scene.install(good(2)).published();
    scene.install(good(3)).published();
    let counter = scene.handle::<dyn Counter>("counter");
    assert_eq!(counter.enter().unwrap().build().unwrap(), 3);
    scene.host.roll_back("counter").unwrap();
    assert_eq!(counter.enter().unwrap().build().unwrap(), 2);
}

#[test]
fn a_build_reloaded_as_it_is_has_nothing_to_prove() {
    let scene = scene(good(1), |_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    scene.host.reload("counter").unwrap();
    counts(&counter, 40);
    assert!(scene.host.roll_back("counter").unwrap_err().to_string().contains("no build to go back to"));
    assert_eq!(scene.host.denied().len(), 0);
    assert_eq!(counter.enter().unwrap().generation(), 2);
}

#[test]
fn what_is_sent_back_is_unloaded_and_its_copies_are_removed() {
    let scene = scene(good(1), |_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    scene.install(good(2)).published();
    counter.enter().unwrap().get().unwrap();
    scene.host.roll_back("counter").unwrap();
    for old in 1..=2 {
        scene.eventually(|s| {
            reseat::quiesce();
            s.verdict_of("counter", old) == Some(Verdict::Unloaded)
        });
    }
    scene.settled();
    assert!(scene.host.shutdown(crate::waiting::DEADLINE));
    let left = std::fs::read_dir(scene.state().join("run")).unwrap();
    let files = left.flatten().flat_map(|run| std::fs::read_dir(run.path()).unwrap().flatten());
    let names: Vec<_> = files.map(|file| file.file_name()).collect();
    // By which a later host knows whose it was.
    assert_eq!(names, ["started"]);
}

#[test]
fn the_way_back_leads_to_another_build_or_nowhere() {
    let scene = scene(good(1), |options| {
        options.probation = Some(Probation { period: Duration::from_secs(600), ..terms() });
    });
    let no_way = |scene: &Scene| {
        let error = scene.host.roll_back("counter").unwrap_err().to_string();
        assert!(error.contains("there is no build to go back to"), "{error}");
    };
    scene.install(good(2)).published();
    scene.install(good(1)).published();
    no_way(&scene);
    assert_eq!(scene.host.denied().len(), 0);
    scene.host.unload("counter").unwrap();
    no_way(&scene);
}
