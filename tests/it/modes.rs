use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reseat::fault::{Fault, Faults};
use reseat::{Event, Options, Outcome, PluginOptions, RefusalReason, ReloadError, ReloadMode, Step};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;

use crate::scene::{Build, Scene};

/// A host in which one plugin has a mode.
fn scene_in(mode: ReloadMode, plugin: &str, fixture: &str, change: impl FnOnce(&mut Options)) -> Scene {
    Scene::with_options(&[fixture], |options| {
        let own = PluginOptions { mode: Some(mode), ..PluginOptions::default() };
        options.plugins.insert(plugin.into(), own);
        change(options);
    })
}

/// What was told of builds that wait.
fn told(scene: &Scene) -> Vec<String> {
    let until = |event| match event {
        Event::Waiting { until, .. } => Some(until),
        _ => None,
    };
    scene.events().into_iter().filter_map(until).collect()
}

/// Sees to it that the host has looked at everything that was done before: another plugin has come.
fn looked(scene: &Scene) {
    scene.host.rescan();
    let known = scene.host.status().plugins.into_iter().find(|plugin| plugin.name == "callback");
    let number = known.and_then(|plugin| plugin.generation).map_or(2, |generation| generation + 2);
    scene.install(Build::of("callback").stamped(number as u32)).published();
}

#[test]
fn on_demand_a_new_build_waits_until_it_is_asked_for_which_is_told_once() {
    let scene = scene_in(ReloadMode::OnDemand, "echo", "echo_stamped", |_| {});
    let build = |number| Build::of("echo_stamped").stamped(number);
    for number in [2, 2] {
        drop(scene.install(build(number)));
        looked(&scene);
    }
    let what = "somebody asks for it: `echo` is reloaded on demand";
    assert_eq!((told(&scene), scene.generation("echo")), (vec![what.to_owned()], Some(1)));
    drop(scene.install(build(3)));
    scene.eventually(|scene| told(scene).len() == 2);
    assert_eq!(scene.generation("echo"), Some(1));
    scene.host.reload("echo").unwrap();
    assert_eq!(scene.handle::<dyn Echo>("echo").enter().unwrap().build().unwrap(), 3);
}

#[test]
fn what_waits_is_loaded_when_the_mode_says_so() {
    let scene = scene_in(ReloadMode::OnDemand, "counter", "counter_v1", |_| {});
    let expecting = scene.install("counter_v2");
    scene.eventually(|scene| told(scene).len() == 1);
    scene.host.reconfigure(Options { plugins: [].into(), ..scene.host.options() });
    assert_eq!(expecting.published(), 2);
}

#[test]
fn a_build_on_demand_that_does_not_fit_is_refused_at_once() {
    let scene = scene_in(ReloadMode::OnDemand, "counter", "counter_v1", |_| {});
    scene.install("counter_only_new").refused().at(Step::Vet, &["state version"]);
    assert_eq!(told(&scene), Vec::<String>::new());
}

#[test]
fn what_is_never_reloaded_stays_whatever_comes_and_whoever_asks_until_the_next_host() {
    let scene = scene_in(ReloadMode::Never, "counter", "counter_v1", |_| {});
    scene.handle::<dyn Counter>("counter").enter().unwrap().add(3).unwrap();
    drop(scene.install("counter_v2"));
    scene.eventually(|scene| told(scene) == ["the next host: `counter` is never reloaded"]);
    let refused = |error| match error {
        ReloadError::Refused(refusal) => {
            assert!(matches!(refusal.reason, RefusalReason::NeverReloaded { .. }), "{refusal}");
            assert!(refusal.to_string().contains("`counter` is never reloaded (reload = \"never\")"));
        }
        other => panic!("{other}"),
    };
    refused(scene.host.reload("counter").unwrap_err());
    refused(scene.host.dry_run("counter", None).unwrap_err());
    let state = scene.host.state("counter").unwrap();
    refused(scene.host.load_state("counter", state.to_vec()).unwrap_err());
    assert_eq!(scene.generation("counter"), Some(1));
    // The next one goes on with the state, and with the build that is there.
    assert!(scene.host.shutdown(Duration::from_secs(10)));
    let next = scene.next_host(|options| options.mode = ReloadMode::Never);
    let counter = next.plugin::<dyn Counter>("counter").unwrap();
    let counter = counter.enter().unwrap();
    assert_eq!((counter.get().unwrap(), counter.build().unwrap()), (3, 2));
}

/// Short enough that a drain that waits for a scope runs out of time.
const SHORT: Duration = Duration::from_millis(30);

fn between_scopes(change: impl FnOnce(&mut Options)) -> Scene {
    scene_in(ReloadMode::BetweenScopes, "counter", "counter_v1", |options| {
        options.drain_deadline = SHORT;
        change(options);
    })
}

#[test]
fn between_scopes_a_build_waits_for_those_under_way_and_nobody_for_it() {
    let scene = between_scopes(|options| options.call_wait = Duration::ZERO);
    let counter = scene.handle::<dyn Counter>("counter");
    let owned = scene.host.owned_scope();
    assert_eq!(owned.enter(&counter).unwrap().add(1).unwrap(), 1);
    let expecting = scene.host.scope(|scope| {
        let held = scope.enter(&counter).unwrap();
        let expecting = scene.install("counter_v2");
        scene.eventually(|scene| told(scene) == ["no scope holds it"]);
        // The gate is open: whoever had to wait would fail.
        std::thread::scope(|threads| {
            let other = || scene.host.scope(|scope| scope.enter(&counter).unwrap().add(1).unwrap());
            let calls: Vec<_> = (0..100).map(|_| threads.spawn(other).join().unwrap()).collect();
            assert_eq!(calls.last(), Some(&101));
        });
        assert_eq!((held.generation(), held.get().unwrap()), (1, 101));
        expecting
    });
    assert_eq!(scene.generation("counter"), Some(1));
    drop(owned);
    assert_eq!(expecting.published(), 2);
    assert_eq!((counter.enter().unwrap().get().unwrap(), scene.refusals()), (101, vec![]));
}

#[test]
fn a_reload_between_scopes_that_is_asked_for_waits_for_them_as_well() {
    let scene = between_scopes(|_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    std::thread::scope(|threads| {
        let reload = scene.host.scope(|scope| {
            scope.enter(&counter).unwrap();
            let reload = threads.spawn(|| scene.host.reload("counter").unwrap());
            scene.eventually(|scene| scene.status("counter").busy.is_some_and(|busy| busy.contains("drain")));
            // For longer than a drain may take, and its gate is open.
            crate::waiting::slowly(SHORT * 3);
            threads.spawn(|| counter.enter_within(SHORT).unwrap().add(1).unwrap()).join().unwrap();
            assert!(!reload.is_finished());
            reload
        });
        reload.join().unwrap();
    });
    assert_eq!((scene.generation("counter"), scene.refusals()), (Some(2), vec![]));
}

#[test]
fn a_scope_that_asks_for_a_reload_between_scopes_is_told_that_it_would_wait_for_itself() {
    // At once: nobody waits for an hour here.
    let scene = between_scopes(|options| options.scope_wait = Duration::from_secs(3600));
    let counter = scene.handle::<dyn Counter>("counter");
    let refused = scene.host.scope(|scope| {
        scope.enter(&counter).unwrap();
        scene.host.reload("counter").unwrap_err()
    });
    assert!(refused.to_string().contains("this thread is inside of a call"), "{refused}");
}

#[test]
fn between_scopes_a_guard_is_waited_for_behind_the_gate_as_ever() {
    let scene = between_scopes(|_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    let guard = counter.enter().unwrap();
    scene.install("counter_v2").refused().at(Step::Drain, &["it is still in use", "1 guard"]);
    drop(guard);
    scene.eventually(|scene| scene.status("counter").state_version == Some(2));
}

#[test]
fn scopes_that_never_let_a_build_come_between_them_hold_it_up_for_so_long_and_no_longer() {
    // Longer than it takes to look at a file on a busy machine.
    let scene = between_scopes(|options| options.scope_wait = Duration::from_secs(2));
    let counter = scene.handle::<dyn Counter>("counter");
    scene.host.scope(|scope| {
        scope.enter(&counter).unwrap();
        // From then on it is as without the mode.
        scene.install("counter_v2").refused().at(Step::Drain, &["it is still in use"]);
        assert_eq!(told(&scene).len(), 1);
    });
    scene.eventually(|scene| scene.status("counter").state_version == Some(2));
}

#[test]
fn reloads_come_between_scopes_that_follow_one_another_closely() {
    let scene = between_scopes(|_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    let done = AtomicBool::new(false);
    let calls: u64 = std::thread::scope(|threads| {
        let work = || {
            let mut calls = 0;
            while !done.load(Ordering::Relaxed) {
                scene.host.scope(|scope| {
                    let counter = scope.enter(&counter).unwrap();
                    let first = counter.build().unwrap();
                    (0..10).for_each(|_| assert_ne!(counter.add(1).unwrap(), 0));
                    assert_eq!(counter.build().unwrap(), first);
                });
                calls += 10;
            }
            calls
        };
        let workers = [threads.spawn(work), threads.spawn(work)];
        for generation in 2..8 {
            let build = match generation {
                2 => Build::of("counter_v2"),
                _ => Build::of("counter_stamped").stamped(generation),
            };
            assert_eq!(scene.install(build).published(), u64::from(generation));
        }
        done.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(counter.enter().unwrap().get().unwrap(), calls);
}

#[test]
fn after_a_reload_the_next_build_waits_and_the_newest_wins() {
    let hour = Duration::from_secs(3600);
    let scene = Scene::with_options(&["echo_stamped"], |options| options.cooldown = hour);
    let file = Build::of("echo_stamped");
    let stamped = |number| file.clone().stamped(number);
    let build = || scene.handle::<dyn Echo>("echo").enter().unwrap().build().unwrap();
    // Nothing to wait for yet.
    assert_eq!(scene.install(stamped(2)).published(), 2);
    for (number, waiting) in [(3, 1), (4, 2)] {
        drop(scene.install(stamped(number)));
        scene.eventually(|scene| told(scene).len() == waiting);
    }
    assert_eq!((build(), told(&scene)[0].as_str()), (2, "3600s have passed since the last reload of it"));
    // Whoever asks gets the newest at once.
    assert_eq!(
        scene.host.reload("echo").unwrap(),
        Outcome::Reloaded { plugin: "echo".into(), from: 2, generation: 3 }
    );
    assert_eq!(build(), 4);
    let expecting = scene.install(stamped(5));
    scene.eventually(|scene| told(scene).len() == 3);
    scene.host.reconfigure(Options { cooldown: Duration::ZERO, ..scene.host.options() });
    assert_eq!((expecting.published(), build()), (4, 5));
}

#[test]
fn a_host_ends_at_once_beside_a_build_that_waits() {
    let hour = Duration::from_secs(3600);
    let scene = Scene::with_options(&["echo_stamped"], |options| options.cooldown = hour);
    let file = Build::of("echo_stamped");
    scene.install(file.clone().stamped(2)).published();
    drop(scene.install(file.stamped(3)));
    scene.eventually(|scene| told(scene).len() == 1);
    assert!(scene.host.shutdown(Duration::from_secs(10)));
}

#[test]
fn a_file_that_has_not_changed_is_not_even_read_again() {
    let faults = Faults::default();
    let scene = Scene::with_options(&["echo_v1"], |options| options.faults = faults.clone());
    looked(&scene);
    faults.plan(Step::Stage, Fault::Error);
    for (name, struck) in [("nothing", 1), ("nothing_either", 2)] {
        scene.host.rescan();
        let nothing = Build::raw(name, "no library");
        drop(scene.install(nothing.clone()));
        scene.eventually(|_| faults.struck() == struck);
        // What was refused is read again when somebody asks.
        std::fs::remove_file(scene.plugins().join(nothing.file_name())).unwrap();
    }
    // Its time has changed, so it is looked at.
    touch(&scene.plugins().join(Build::of("echo_v1").file_name()));
    scene.eventually(|_| faults.struck() == 3);
}

/// Makes a file look as if it had been written.
fn touch(file: &Path) {
    let file = std::fs::File::options().append(true).open(file).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
}
