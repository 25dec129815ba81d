use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reseat::{CallError, Event, PluginError, ReloadError, UnloadError};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::echo_appended;
use reseat_tests::misc::Misc;

use crate::callers::Callers;
use crate::child::in_child;
use crate::scene::{Build, Scene};

fn stamped(number: u32) -> Build {
    Build::of("echo_stamped").stamped(number)
}

#[test]
fn whoever_acts_on_an_event_does_not_come_too_early() {
    let scene = Scene::with(&["echo_v1"]);
    let mut events = scene.host.events();
    scene.host.reload("echo").unwrap();
    let mut rounds = 0;
    while rounds < 50 {
        match events.next_within(Duration::from_secs(10)).unwrap() {
            Event::Reloaded { .. } if rounds % 2 == 0 => drop(scene.install(stamped(rounds))),
            Event::Reloaded { .. } => drop(scene.host.reload("echo").unwrap()),
            _ => continue,
        }
        rounds += 1;
    }
    scene.host.unload("echo").unwrap();
}

#[test]
fn a_third_build_that_comes_during_a_handover_serves_in_the_end() {
    let scene = Scene::with(&["counter_v2"]);
    let counter = scene.handle::<dyn Counter>("counter");
    counter.enter().unwrap().add(3).unwrap();
    let hold = scene.hold();
    let inside = std::thread::spawn({
        let (counter, until) = (counter.clone(), hold.until());
        move || counter.enter().unwrap().hold(&until).unwrap()
    });
    hold.entered();
    let stamped = |number| Build::of("counter_stamped").stamped(number);
    drop(scene.install(stamped(10)));
    scene.eventually(|s| s.status("counter").busy.is_some_and(|busy| busy.starts_with("drain")));
    drop(scene.install(stamped(11)));
    drop(scene.install(stamped(12)));
    hold.release();
    assert_eq!(inside.join().unwrap(), 2);
    scene.eventually(|_| counter.enter().unwrap().build().unwrap() == 12);
    assert_eq!(counter.enter().unwrap().get().unwrap(), 3);
    assert_eq!(scene.refusals(), [""; 0]);
}

#[test]
fn a_refused_build_takes_its_threads_with_it() {
    let scene = Scene::with(&["echo_v1"]);
    let refused = scene.install("refused_with_a_thread").refused();
    assert_eq!(refused.reason, "self_check failed: no use");
    scene.settled();
    assert_eq!(scene.install("echo_v2").published(), 3);
}

#[test]
fn a_guard_that_is_forgotten_keeps_its_generation_and_the_host_says_who_left_it() {
    in_child(
        "encounters::a_guard_that_is_forgotten_keeps_its_generation_and_the_host_says_who_left_it",
        || {
            let scene = Scene::with(&["echo_v1"]);
            let echo = scene.handle::<dyn Echo>("echo");
            let careless = std::thread::Builder::new().name("careless".into());
            let forget = move || std::mem::forget(echo.enter().unwrap());
            careless.spawn(forget).unwrap().join().unwrap();
            scene.install("echo_v2").published();
            let told = |e: &Event| {
                matches!(e, Event::Draining { generation: 1, holders, .. }
                if holders.contains("careless (ended without leaving)"))
            };
            scene.eventually(|s| s.events().iter().any(told));
            assert_eq!(scene.install(stamped(3)).published(), 3);
            assert!(!scene.host.shutdown(Duration::from_millis(50)));
        },
    );
}

#[test]
fn threads_come_and_go_while_generations_do() {
    in_child("encounters::threads_come_and_go_while_generations_do", || {
        let scene = Scene::with(&["thread_current", "tls_with_drop"]);
        let plugins = ["thread_current", "tls_with_drop"];
        // Each turn is a thread of its own, which calls both plugins and ends.
        let callers = Callers::start(3, |_| {
            let handles = plugins.map(|plugin| scene.handle::<dyn Misc>(plugin));
            move || {
                let handles = handles.clone();
                let short = move || handles.iter().try_for_each(|misc| misc.enter()?.call("hi").map(drop));
                let ended = std::thread::spawn(short).join().map_err(|_| "it has panicked")?;
                ended.map_err(|e| e.to_string())
            }
        });
        for _ in 0..60 {
            for plugin in plugins {
                scene.host.reload(plugin).unwrap();
            }
            callers.go_on(&scene, 3);
        }
        callers.finish();
        scene.settled();
    });
}

#[test]
fn loads_unloads_reloads_and_new_handles_at_once_harm_nobody() {
    in_child("encounters::loads_unloads_reloads_and_new_handles_at_once_harm_nobody", || {
        let scene = Scene::with(&["echo_stamped"]);
        let echo = scene.handle::<dyn Echo>("echo");
        let callers = Callers::start(3, |_| {
            let (echo, mut last) = (echo.clone(), 0);
            move || match echo.enter() {
                Ok(guard) => {
                    let (generation, build) = (guard.generation(), guard.build().map_err(|e| e.to_string())?);
                    let said = guard.say("hi").map_err(|e| e.to_string())?;
                    if generation < last || said != format!("v{build} made by v{build}: hi") {
                        return Err(format!("generation {generation} after {last}, build {build}: {said}"));
                    }
                    last = generation;
                    Ok(())
                }
                Err(CallError::NotLoaded { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        });
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let _over = WhenDropped(&over);
            threads.spawn(|| {
                again_until(&over, || match scene.host.unload("echo") {
                    Ok(()) | Err(UnloadError::NoSuchPlugin { .. } | UnloadError::Busy { .. }) => {}
                    Err(error) => panic!("{error}"),
                })
            });
            threads.spawn(|| {
                again_until(&over, || match scene.host.reload("echo") {
                    Ok(_) | Err(ReloadError::Busy { .. }) => {}
                    Err(error) => panic!("{error}"),
                })
            });
            threads.spawn(|| {
                again_until(&over, || match scene.host.plugin::<dyn echo_appended::Echo>("echo") {
                    Ok(_) | Err(PluginError::NotLoaded { .. } | PluginError::Busy { .. }) => {}
                    Err(error) => panic!("{error}"),
                })
            });
            for number in 0..100 {
                drop(scene.install(stamped(number)));
                callers.go_on(&scene, 50);
            }
        });
        // As soon as nothing is under way any more, everything works as ever.
        scene.eventually(|s| s.host.reload("echo").is_ok());
        assert_eq!(echo.enter().unwrap().build().unwrap(), 99);
        callers.finish();
        scene.settled();
    });
}

#[test]
fn handles_that_are_asked_for_in_vain_use_nothing_up_while_an_old_generation_is_still_called() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let guard = echo.enter().unwrap();
    scene.install("echo_v2").published();
    // Far more often than a plugin may have interfaces.
    for _ in 0..40 {
        let error = scene.host.plugin::<dyn Misc>("echo").unwrap_err();
        assert!(matches!(error, PluginError::NotImplemented { .. }), "{error}");
    }
    scene.host.unload("echo").unwrap();
    for _ in 0..40 {
        let error = scene.host.plugin::<dyn Misc>("echo").unwrap_err();
        assert!(matches!(error, PluginError::NotLoaded { .. }), "{error}");
    }
    assert_eq!(guard.build().unwrap(), 1);
}

/// Ends the threads of a scope even when the test fails in it.
struct WhenDropped<'a>(&'a AtomicBool);

impl Drop for WhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn again_until(over: &AtomicBool, act: impl Fn()) {
    while !over.load(Ordering::Relaxed) {
        act();
    }
}
