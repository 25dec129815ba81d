#![allow(clippy::result_large_err)] // as in the crate that returns them

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use reseat::{CallError, Change, Observer, Observers, Outcome, RefusalReason, ReloadError, Step};
use reseat_tests::node::Node;
use serde_json::json;

use crate::callers::Callers;
use crate::net::{CALLED, build, change, down, fixture, install_all, met, name, net, wire};
use crate::scene::{Build, Scene};
use crate::waiting::{DEADLINE, slowly, until};

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
    install_all(&scene, "node_with_state");
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

/// Hands on, right before a plugin's next build is opened, what that waits for to be dropped.
struct Meanwhile(&'static str, mpsc::Sender<mpsc::Sender<()>>);

impl Observer for Meanwhile {
    fn name(&self) -> String {
        "meanwhile".into()
    }
    fn before_reload(&self, change: &Change) -> Result<(), String> {
        let (done, until_done) = mpsc::channel();
        if change.plugin == self.0 && change.from.is_some() && self.1.send(done).is_ok() {
            let _ = until_done.recv();
        }
        Ok(())
    }
}

#[test]
fn threads_that_enter_two_of_them_in_one_owned_scope_while_they_change_have_both_as_they_were() {
    const ROUNDS: u64 = 10;
    let (tell, told) = mpsc::channel();
    let scene = Scene::with_options(&[], |options| {
        wire(options);
        options.observers = Observers::none().and(Meanwhile("node02", tell));
    });
    install_all(&scene, "node");
    let [upper, lower] = ["node02", "node08"].map(|name| scene.handle::<dyn Node>(name));
    for from in 1..=ROUNDS {
        let owned = scene.host.owned_scope();
        std::thread::scope(|threads| {
            let builds = [2, 8].map(|number| build("node", number, from as u32 + 1));
            let reload = threads.spawn(|| change(&scene, builds));
            let opens = told.recv_timeout(DEADLINE).unwrap();
            // It is waited for, for a moment: so this thread has begun to enter before the scope has anything, and gets in after
            // the change, if it does.
            let newer = threads.spawn(|| owned.enter_at(&upper, from + 1).map(|lease| lease.generation()));
            slowly(Duration::from_millis(3));
            let older = owned.enter(&lower).unwrap().generation();
            drop(opens);
            reload.join().unwrap().unwrap();
            if let Ok(newer) = newer.join().unwrap() {
                assert_eq!((newer, older), (from + 1, from + 1), "a mixture");
            }
            assert_eq!(owned.enter(&upper).unwrap().generation(), older);
        });
    }
}

#[test]
fn whoever_waits_for_a_route_at_a_closed_gate_is_answered_by_the_plugin_that_it_goes_to() {
    const WAITING: u64 = 8;
    let has = |plugin: &str| Build::of("registers_v1").named(plugin);
    let lacks = |plugin: &str| Build::of("registers_little").named(plugin);
    // One with a state is among those that change, so that the gates of all are closed until nobody is in it.
    let scene = Scene::with(&["registers_with_state"]);
    scene.install(has("greeter")).published();
    scene.install(lacks("another")).published();
    for round in 0..20 {
        let (to, from) = if round % 2 == 0 { ("another", "greeter") } else { ("greeter", "another") };
        let hold = scene.hold();
        let until = json!({ "until": hold.until() }).to_string();
        std::thread::scope(|threads| {
            // Whatever fails here lets them go.
            let hold = hold;
            threads.spawn(|| scene.host.call("keeper", "hold", &until));
            hold.entered();
            let builds = [lacks(from), has(to), Build::of("registers_with_state")];
            let reload = threads.spawn(|| change(&scene, builds));
            scene.eventually(|scene| scene.status(from).in_flight.is_none());
            let ask = || scene.host.dispatch("route", "GET /hello", r#"{"name":"alice"}"#);
            let waiting: Vec<_> = (0..WAITING).map(|_| threads.spawn(ask)).collect();
            scene.eventually(|scene| scene.status(from).waiting == WAITING);
            hold.release();
            for one in waiting {
                assert_eq!(one.join().unwrap().as_deref(), Ok(r#""v1 answers alice""#), "round {round}");
            }
            reload.join().unwrap().unwrap();
        });
    }
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
fn an_observer_that_objects_to_one_keeps_all_as_they_are() {
    struct Objects;
    impl Observer for Objects {
        fn name(&self) -> String {
            "objects".into()
        }
        fn before_reload(&self, change: &Change) -> Result<(), String> {
            if change.plugin == "node05" && change.from.is_some() { Err("not now".into()) } else { Ok(()) }
        }
    }
    let scene = Scene::with_options(&[], |options| {
        wire(options);
        options.observers = Observers::none().and(Objects);
    });
    install_all(&scene, "node");
    let error = change(&scene, [5, 6].map(|number| build("node", number, 2))).unwrap_err();
    let ReloadError::Refused(refusal) = &error else { panic!("{error}") };
    assert_eq!((refusal.plugin.as_deref(), refusal.step), (Some("node05"), Step::Observe), "{error}");
    assert_eq!((scene.generation("node05"), scene.generation("node06")), (Some(1), Some(1)));
}

#[test]
fn two_builds_of_one_plugin_do_not_make_a_set() {
    let scene = net(&[]);
    let twice = [build("node", 3, 2), build("node", 4, 2), build("node", 3, 3)];
    let error = change(&scene, twice).unwrap_err();
    let ReloadError::Refused(refusal) = &error else { panic!("{error}") };
    assert!(
        matches!(&refusal.reason, RefusalReason::NameTaken { plugin, .. } if plugin == "node03"),
        "{error}"
    );
    assert_eq!((scene.generation("node03"), scene.generation("node04")), (Some(1), Some(1)));
}

/// Writes down what it is told on the way up.
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn note(&self, what: &str, plugin: &str) {
        self.0.lock().unwrap().push(format!("{what} {plugin}"));
    }
}

impl Observer for Told {
    fn prepare(&self) {
        self.note("prepare", "");
    }
    fn before_reload(&self, change: &Change) -> Result<(), String> {
        self.note("before_reload", &change.plugin);
        Ok(())
    }
    fn after_reload(&self, change: &Change) {
        self.note("after_reload", &change.plugin);
    }
}

#[test]
fn observers_are_told_of_a_set_those_who_are_called_first_and_prepare_once() {
    let told = Arc::<Mutex<Vec<String>>>::default();
    let scene = Scene::with_options(&[], |options| {
        wire(options);
        options.observers = Observers::none().and(Told(told.clone()));
    });
    install_all(&scene, "node");
    scene.eventually(|s| (0..12).all(|number| s.status(&name(number)).busy.is_none()));
    told.lock().unwrap().clear();
    change(&scene, [5, 6].map(|number| build("node", number, 2))).unwrap();
    let expected = [
        "before_reload node06",
        "before_reload node05",
        "after_reload node06",
        "after_reload node05",
        "prepare ",
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}
