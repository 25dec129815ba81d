use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use reseat::{CallError, DrainPolicy, Handle, Options, Outcome, ReloadError, Step};
use reseat_tests::counter::Counter;
use reseat_tests::fault::{Kind, Point, Process, stamp};
use reseat_tests::misc::{Feeder, Misc};

use crate::callers::Callers;
use crate::child::in_child;
use crate::scene::{Build, Hold, Scene, put};

/// The fixture whose calls leave when they are asked to.
const POLITE: &str = "leaves_when_asked";
/// The stateful one that calls back.
const FEEDER: &str = "callback_with_state";

fn counter(number: u32) -> Build {
    Build::of("counter_stamped").stamped(number)
}

/// A counter that has counted to 5.
fn counting(change: impl FnOnce(&mut Options)) -> (Scene, Handle<dyn Counter>) {
    let scene = Scene::with_options(&["counter_stamped"], change);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(5).unwrap();
    (scene, counter)
}

/// Generation, build and total of what serves.
fn now(counter: &Handle<dyn Counter>) -> (u64, u32, u64) {
    let guard = counter.enter().unwrap();
    (guard.generation(), guard.build().unwrap(), guard.get().unwrap())
}

/// A thread that stays inside of a call; which build that was.
fn patient(counter: &Handle<dyn Counter>, hold: &Hold) -> JoinHandle<u32> {
    let (counter, until) = (counter.clone(), hold.until());
    let thread = Builder::new().name("patient".into());
    let thread = thread.spawn(move || counter.enter().unwrap().hold(&until).unwrap()).unwrap();
    hold.entered();
    thread
}

/// Waits until a handover waits for calls to end, behind a closed gate.
fn draining(scene: &Scene, plugin: &str) {
    scene.eventually(|s| s.status(plugin).busy.is_some_and(|busy| busy.starts_with("drain")));
}

#[test]
fn callers_who_wait_for_a_handover_in_vain_are_answered_by_the_old_generation() {
    let (scene, counter) = counting(|options| options.drain_deadline = Duration::from_secs(2));
    let hold = scene.hold();
    let holder = patient(&counter, &hold);
    let expecting = scene.install(self::counter(2));
    draining(&scene, "counter");
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let counter = counter.clone();
            std::thread::spawn(move || {
                let guard = counter.enter()?;
                guard.add(1).map(|_| guard.generation())
            })
        })
        .collect();
    let refused = expecting.refused();
    assert_eq!((refused.plugin.as_deref(), refused.serving), (Some("counter"), Some(1)));
    let words = [
        "it is still in use after 2s: 1 guard, entered at least ",
        " s ago by thread patient (last call: hold)",
    ];
    refused.at(Step::Drain, &words);
    for caller in waiting {
        assert_eq!(caller.join().unwrap(), Ok(1));
    }
    assert_eq!(now(&counter), (1, 1, 9));
    // The same file is tried again, by itself and in silence, until it serves.
    hold.release();
    assert_eq!(holder.join().unwrap(), 1);
    scene.eventually(|s| s.generation("counter") != Some(1));
    let (_, build, total) = now(&counter);
    assert_eq!((build, total), (2, 9));
    assert_eq!(scene.refusals().len(), 1);
}

#[test]
fn handovers_that_overlap_under_load_wait_for_nobody_and_end_nobodys_call() {
    const ROUNDS: u32 = 6;
    let (scene, counter) = counting(|options| options.drain_policy = DrainPolicy::Overlap);
    let callers = Callers::start(4, |_| {
        let (counter, mut last) = (counter.clone(), 0);
        move || {
            let guard = counter.enter().map_err(|e| e.to_string())?;
            guard.add(1).map_err(|e| e.to_string())?;
            if guard.generation() < last {
                return Err(format!("generation {} after {last}", guard.generation()));
            }
            last = guard.generation();
            Ok(())
        }
    });
    let mut held = Vec::new();
    for round in 1..=ROUNDS {
        let hold = scene.hold();
        held.push((patient(&counter, &hold), hold));
        callers.go_on(&scene, 100);
        assert_eq!(scene.install(self::counter(round + 1)).published(), u64::from(round) + 1);
    }
    callers.go_on(&scene, 100);
    // Nobody has waited for them; each ends in the build where it began.
    for (round, (holder, hold)) in (1..).zip(held) {
        assert!(!holder.is_finished());
        hold.release();
        assert_eq!(holder.join().unwrap(), round);
    }
    let calls = callers.finish();
    let (generation, build, total) = now(&counter);
    assert_eq!((generation, build), (u64::from(ROUNDS) + 1, ROUNDS + 1));
    // What a call changes while the state is handed over is lost, and that is all: of each caller, one for each time.
    let lost = 5 + calls - total;
    assert!(lost <= u64::from(4 * ROUNDS), "{lost} of {calls} are lost");
    scene.settled();
}

/// A plugin whose calls leave when they are asked to.
fn polite(change: impl FnOnce(&mut Options)) -> (Scene, Handle<dyn Misc>) {
    let scene = Scene::with_options(&[POLITE], change);
    let misc = scene.handle::<dyn Misc>(POLITE);
    (scene, misc)
}

/// A thread in a call that lasts; whether it was asked to leave.
fn lasting(misc: &Handle<dyn Misc>, hold: &Hold) -> JoinHandle<String> {
    let (misc, until) = (misc.clone(), hold.until());
    let thread = std::thread::spawn(move || misc.enter().unwrap().call(&until).unwrap());
    hold.entered();
    thread
}

/// Whether those in calls of the serving generation are asked to leave.
fn asked(misc: &Handle<dyn Misc>) -> String {
    misc.enter().unwrap().call("asked?").unwrap()
}

/// The serving generation asks nobody to leave: a call that lasts stays until it is let go.
#[track_caller]
fn stays(scene: &Scene, misc: &Handle<dyn Misc>) {
    assert_eq!(asked(misc), "not asked");
    let hold = scene.hold();
    let call = lasting(misc, &hold);
    hold.release();
    assert_eq!(call.join().unwrap(), "not asked");
}

#[test]
fn a_call_that_leaves_when_it_is_asked_to_lets_the_reload_go_on() {
    for policy in [DrainPolicy::Refuse, DrainPolicy::Wait] {
        let (scene, misc) = polite(|options| {
            options.drain_policy = policy;
            options.drain_deadline = Duration::from_secs(2);
        });
        let hold = scene.hold();
        let call = lasting(&misc, &hold);
        assert_eq!(scene.install(Build::of(POLITE).stamped(2)).published(), 2);
        assert_eq!(call.join().unwrap(), "asked");
        stays(&scene, &misc);
        assert_eq!(scene.refusals(), [""; 0]);
    }
}

#[test]
fn a_reload_refused_at_its_deadline_or_cancelled_asks_nobody_to_leave_any_more() {
    for policy in [DrainPolicy::Refuse, DrainPolicy::Wait] {
        let (scene, misc) = polite(|options| {
            options.drain_policy = policy;
            options.drain_deadline = Duration::from_millis(400);
        });
        let hold = scene.hold();
        let call = lasting(&misc, &hold);
        // It does not leave, and sees what others are told.
        let lease = misc.lease().unwrap();
        let error = std::thread::scope(|threads| {
            let reload = threads.spawn(|| scene.host.reload(POLITE).unwrap_err());
            assert_eq!(call.join().unwrap(), "asked");
            if policy == DrainPolicy::Wait {
                assert_eq!(scene.host.cancel(POLITE), Some(Step::Drain));
            }
            reload.join().unwrap().to_string()
        });
        let why =
            if policy == DrainPolicy::Wait { "it was cancelled" } else { "in use after 400ms: 1 lease" };
        assert!(error.contains("refused at drain") && error.contains(why), "{error}");
        assert_eq!(lease.call("asked?").unwrap(), "not asked");
        stays(&scene, &misc);
        drop(lease);
        assert_eq!(scene.install(Build::of(POLITE).stamped(2)).published(), 3);
    }
}

#[test]
fn a_build_refused_after_calls_have_left_for_it_leaves_nobody_asked() {
    for policy in [DrainPolicy::Refuse, DrainPolicy::Wait, DrainPolicy::Overlap] {
        for (point, step) in [(Point::Restore, Step::Restore), (Point::SelfCheck, Step::Check)] {
            let (scene, misc) = polite(|options| {
                options.drain_policy = policy;
                options.drain_deadline = Duration::from_secs(2);
            });
            let hold = scene.hold();
            let call = lasting(&misc, &hold);
            let bad = Build::of(POLITE).stamped(stamp(point, Kind::Error, Process::Any));
            scene.install(bad).refused().at(step, &["an error in"]);
            // Otherwise every call that lasts would give up at once, until some later build is published.
            assert_eq!(asked(&misc), "not asked", "{policy:?}, {point:?}");
            hold.release();
            call.join().unwrap();
            stays(&scene, &misc);
        }
    }
}

#[test]
fn a_plugin_that_asks_for_its_own_reload_inside_of_a_call_is_answered_at_once() {
    // In a process of its own: if it is not answered, that is for ever.
    in_child("stuck::a_plugin_that_asks_for_its_own_reload_inside_of_a_call_is_answered_at_once", || {
        for policy in [DrainPolicy::Refuse, DrainPolicy::Wait, DrainPolicy::Overlap] {
            let scene = Scene::with_options(&[FEEDER], |options| {
                options.drain_policy = policy;
                options.drain_deadline = Duration::from_secs(3600);
            });
            let feeder = scene.handle::<dyn Feeder>(FEEDER);
            let mut outcome = None;
            let fed = feeder.enter().unwrap().feed(3, &mut |n| {
                if n == 2 {
                    outcome = Some(scene.host.reload(FEEDER));
                }
                // The call tree stays where it is, and is served.
                let inner = feeder.enter().unwrap();
                assert_eq!((inner.generation(), inner.build()), (1, Ok(1)));
            });
            assert_eq!(fed, Ok(3));
            let serving = match (policy, outcome.unwrap()) {
                (DrainPolicy::Overlap, Ok(Outcome::Reloaded { from: 1, generation: 2, .. })) => {
                    // It was told twice before the state was handed over; the third time was lost.
                    assert_eq!(feeder.enter().unwrap().feed(0, &mut |_| ()), Ok(2));
                    2
                }
                (DrainPolicy::Refuse | DrainPolicy::Wait, Err(ReloadError::Refused(refusal))) => {
                    assert_eq!((refusal.step, refusal.serving), (Step::Drain, Some(1)));
                    let said = refusal.to_string();
                    assert!(said.contains("this thread is inside of a call to the plugin"), "{said}");
                    assert_eq!(feeder.enter().unwrap().feed(0, &mut |_| ()), Ok(3));
                    1
                }
                (_, other) => panic!("{policy:?}: {other:?}"),
            };
            assert_eq!(feeder.enter().unwrap().generation(), serving);
            scene.host.reload(FEEDER).unwrap();
            assert!(feeder.enter().unwrap().generation() > serving);
        }
    });
}

#[test]
fn a_call_that_comes_back_to_a_plugin_whose_gate_is_closed_is_answered() {
    in_child("stuck::a_call_that_comes_back_to_a_plugin_whose_gate_is_closed_is_answered", || {
        let scene = Scene::with_options(&[FEEDER, "lasting_calls"], |options| {
            options.drain_policy = DrainPolicy::Wait;
        });
        let feeder = scene.handle::<dyn Feeder>(FEEDER);
        let misc = scene.handle::<dyn Misc>("lasting_calls");
        let (mut answers, mut installed) = (Vec::new(), Vec::new());
        let fed = feeder.enter().unwrap().feed(1, &mut |_| {
            let middle = misc.enter().unwrap();
            assert_eq!(middle.call("0").unwrap(), "0 by 1");
            // Both are asked to be replaced while each is on this stack.
            for plugin in [FEEDER, "lasting_calls"] {
                installed.push(scene.install(Build::of(plugin).stamped(2)));
                draining(&scene, plugin);
            }
            // Back into the first, from there into the second, and back again.
            let inner = feeder.enter().unwrap();
            inner
                .feed(1, &mut |_| {
                    answers.push(misc.enter().unwrap().call("0").unwrap());
                    answers.push(feeder.enter().unwrap().build().unwrap().to_string());
                })
                .unwrap();
            answers.push(scene.host.call("lasting_calls", "call", r#"{"what":"0"}"#).unwrap());
        });
        assert_eq!((fed, answers), (Ok(2), vec!["1 by 1".into(), "1".into(), r#""2 by 1""#.into()]));
        for expecting in installed {
            assert_eq!(expecting.published(), 2);
        }
        assert_eq!(feeder.enter().unwrap().build(), Ok(2));
        assert_eq!(feeder.enter().unwrap().feed(0, &mut |_| ()), Ok(2));
        assert_eq!(misc.enter().unwrap().call("0").unwrap(), "3 by 2");
        assert_eq!(scene.refusals(), [""; 0]);
    });
}

#[test]
fn callers_whose_calls_overlap_without_end_do_not_starve_reloads() {
    let scene = Scene::with_options(&["lasting_calls"], |options| {
        options.drain_deadline = Duration::from_secs(2);
    });
    let misc = scene.handle::<dyn Misc>("lasting_calls");
    let callers = Callers::start(2, |_| {
        let misc = misc.clone();
        move || misc.enter().and_then(|guard| guard.call("20")).map(drop).map_err(|e| e.to_string())
    });
    for number in 2..=21 {
        callers.go_on(&scene, 1);
        let build = Build::of("lasting_calls").stamped(number);
        assert_eq!(scene.install(build).published(), u64::from(number));
    }
    let calls = callers.finish();
    assert_eq!(misc.enter().unwrap().call("0").unwrap(), format!("{calls} by 21"));
    assert_eq!(scene.refusals(), [""; 0]);
}

#[test]
fn of_more_callers_than_may_wait_the_surplus_is_turned_away_at_once() {
    let (scene, counter) = counting(|options| {
        options.drain_policy = DrainPolicy::Wait;
        options.max_waiting = 3;
    });
    let hold = scene.hold();
    let holder = patient(&counter, &hold);
    let expecting = scene.install(self::counter(2));
    draining(&scene, "counter");
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let counter = counter.clone();
            std::thread::spawn(move || {
                counter.enter().and_then(|guard| guard.add(1).map(|_| guard.generation()))
            })
        })
        .collect();
    scene.eventually(|_| callers.iter().filter(|caller| caller.is_finished()).count() == 5);
    // However one comes: three wait.
    assert_eq!(counter.enter().err(), Some(CallError::Crowded { waiting: 3 }));
    assert_eq!(counter.lease().err(), Some(CallError::Crowded { waiting: 3 }));
    assert_eq!(scene.host.call("counter", "get", ""), Err(CallError::Crowded { waiting: 3 }));
    let crowded = scene.host.scope(|scope| scope.enter(&counter).err());
    assert_eq!(crowded, Some(CallError::Crowded { waiting: 3 }));
    assert_eq!(scene.generation("counter"), Some(1));
    hold.release();
    assert_eq!(holder.join().unwrap(), 1);
    assert_eq!(expecting.published(), 2);
    let answers: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(2)).count(), 3, "{answers:?}");
    let turned_away = |answer: &&Result<_, _>| matches!(answer, Err(CallError::Crowded { waiting: 3.. }));
    assert_eq!(answers.iter().filter(turned_away).count(), 5, "{answers:?}");
    assert_eq!(now(&counter), (2, 2, 8));
}

type Way = fn(&Handle<dyn Feeder>, &mut dyn FnMut());

#[test]
fn clients_that_die_inside_of_a_plugin_during_a_drain_let_the_reload_go_on() {
    let scene = Scene::with_options(&[FEEDER], |options| options.drain_policy = DrainPolicy::Wait);
    let feeder = scene.handle::<dyn Feeder>(FEEDER);
    let ways: [Way; 3] = [
        |feeder, dies| {
            let _guard = feeder.enter().unwrap();
            dies();
        },
        |feeder, dies| {
            let _lease = feeder.lease().unwrap();
            dies();
        },
        |feeder, dies| drop(feeder.enter().unwrap().feed(1, &mut |_| dies())),
    ];
    for number in 2..=4 {
        let (entered, inside) = channel();
        let clients = ways.map(|way| {
            let (feeder, entered) = (feeder.clone(), entered.clone());
            let (dead, die) = channel::<()>();
            let client = std::thread::spawn(move || {
                way(&feeder, &mut || {
                    entered.send(()).unwrap();
                    let _ = die.recv();
                    panic!("a client dies, as it should");
                });
            });
            (client, dead)
        });
        clients.iter().for_each(|_| inside.recv().unwrap());
        let expecting = scene.install(Build::of(FEEDER).stamped(number));
        draining(&scene, FEEDER);
        for (client, dead) in clients {
            drop(dead);
            client.join().unwrap_err();
        }
        assert_eq!(expecting.published(), u64::from(number));
        assert_eq!(feeder.enter().unwrap().feed(0, &mut |_| ()), Ok(number - 1));
    }
}

#[test]
fn a_good_build_serves_whatever_lay_at_its_place_before() {
    let (scene, counter) = counting(|_| {});
    let garbage =
        |salt: u8| Build::raw("counter", (0..50_000u32).map(|n| n as u8 ^ salt).collect::<Vec<_>>());
    let path = scene.plugins().join(counter_file());
    for number in 2..=6 {
        // Once exchanged and once overwritten, in each order.
        let in_place = number % 2 == 0;
        let expecting = scene.expecting(&counter_file());
        if in_place {
            drop(scene.install(garbage(number as u8)));
        } else {
            put(&path, &garbage(number as u8));
        }
        expecting.refused().at(Step::Vet, &["is not a shared library"]);
        let expecting = scene.expecting(&counter_file());
        if in_place {
            put(&path, &self::counter(number));
        } else {
            drop(scene.install(self::counter(number)));
        }
        assert_eq!(expecting.published(), u64::from(number));
        assert_eq!(now(&counter), (u64::from(number), number, 5));
    }
}

#[test]
fn of_two_builds_within_a_moment_the_newest_serves_in_the_end() {
    let (scene, counter) = counting(|_| {});
    let path = scene.plugins().join(counter_file());
    for number in (2..=60).step_by(2) {
        // Written in place, they have the same inode, the same size, and times that differ by little or nothing.
        let write = |number| match number % 4 {
            0 => put(&path, &self::counter(number)),
            _ => drop(scene.install(self::counter(number))),
        };
        write(number);
        put(&path, &self::counter(number + 1));
        scene.eventually(|_| now(&counter).1 == number + 1);
    }
    assert_eq!(now(&counter).2, 5);
    scene.eventually(|s| s.status("counter").busy.is_none());
    assert_eq!(now(&counter).1, 61);
    assert_eq!(scene.refusals(), [""; 0]);
}

fn counter_file() -> String {
    counter(1).file_name()
}
