use std::time::Duration;

use reseat::CallError;
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::misc::{Feeder, Misc};

use crate::scene::{Build, Scene};

#[test]
fn a_scope_sees_one_generation_of_each_plugin_whatever_is_published_meanwhile() {
    let scene = Scene::with(&["echo_v1", "callback"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let feeder = scene.handle::<dyn Feeder>("callback");
    scene.host.scope(|scope| {
        assert_eq!(scope.enter(&echo).unwrap().build().unwrap(), 1);
        scene.install("echo_v2").published();
        scene.install(Build::of("callback").stamped(2)).published();
        // Of what it has called, the old one; of what it has not, whatever serves then.
        let again = scope.enter(&echo).unwrap();
        assert_eq!((again.generation(), again.build().unwrap()), (1, 1));
        assert_eq!(scope.enter(&feeder).unwrap().build().unwrap(), 2);
        scene.install(Build::of("callback").stamped(3)).published();
        assert_eq!(scope.enter(&feeder).unwrap().build().unwrap(), 2);
        // Handles on this thread belong to the work, too.
        assert_eq!(echo.enter().unwrap().build().unwrap(), 1);
        scene.host.scope(|inner| assert_eq!(inner.enter(&echo).unwrap().build().unwrap(), 1));
        assert_eq!(scene.verdict_of("echo", 1), None);
    });
    assert_eq!(echo.enter().unwrap().build().unwrap(), 2);
    assert_eq!(feeder.enter().unwrap().build().unwrap(), 3);
    scene.unloaded("echo", 1);
    scene.settled();
}

#[test]
fn a_scope_sees_one_generation_through_each_interface_of_a_plugin() {
    let scene = Scene::with(&["two_interfaces"]);
    let echo = scene.handle::<dyn Echo>("two_interfaces");
    let misc = scene.handle::<dyn Misc>("two_interfaces");
    scene.host.scope(|scope| {
        assert_eq!(scope.enter(&echo).unwrap().build().unwrap(), 1);
        scene.install(Build::of("two_interfaces").stamped(2)).published();
        let misc = scope.enter(&misc).unwrap();
        assert_eq!((misc.generation(), misc.call("hi").unwrap()), (1, "misc: hi".to_owned()));
    });
    scene.unloaded("two_interfaces", 1);
}

#[test]
fn an_owned_scope_crosses_threads_with_its_generations() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let scope = scene.host.owned_scope();
    assert_eq!(scope.enter(&echo).unwrap().build().unwrap(), 1);
    scene.install("echo_v2").published();
    let scope = std::thread::spawn({
        let echo = echo.clone();
        move || {
            assert_eq!(scope.enter(&echo).unwrap().build().unwrap(), 1);
            // A thread does not know which work it does.
            assert_eq!(echo.enter().unwrap().build().unwrap(), 2);
            scope
        }
    });
    drop(scope.join().unwrap());
    scene.unloaded("echo", 1);
}

#[test]
fn threads_in_one_owned_scope_have_plugins_call_the_same_generations() {
    let scene = Scene::with(&["asks_echo", "echo_v1"]);
    let asker = scene.handle::<dyn Misc>("asker");
    let ask = || asker.enter().unwrap().call("").unwrap();
    let scope = scene.host.owned_scope();
    scope.inside(|| {
        let elsewhere = || scope.inside(ask);
        assert_eq!(std::thread::scope(|threads| threads.spawn(elsewhere).join().unwrap()), "1 asks 1");
        scene.install("echo_v2").published();
        // This thread was inside before the other one had anything called.
        assert_eq!(ask(), "1 asks 1");
        assert_eq!(scope.inside(ask), "1 asks 1");
    });
    assert_eq!(ask(), "1 asks 2");
}

#[test]
fn a_thread_in_an_owned_scope_passes_the_gate_that_waits_for_what_another_has_called_in_it() {
    let scene = Scene::with_options(&["calls_counter", "counter_v1"], |options| {
        (options.call_wait, options.drain_deadline) = (Duration::from_secs(1), Duration::from_secs(600));
    });
    let caller = scene.handle::<dyn Misc>("caller");
    let add = || caller.enter().unwrap().call("1");
    let scope = scene.host.owned_scope();
    scope.inside(|| {
        let elsewhere = || scope.inside(add);
        assert_eq!(std::thread::scope(|threads| threads.spawn(elsewhere).join().unwrap()), Ok("1".into()));
        drop(scene.install("counter_v2"));
        scene.eventually(|s| s.status("counter").busy.is_some_and(|busy| busy.starts_with("drain")));
        assert_eq!(add(), Ok("2".into()));
    });
    drop(scope);
    scene.eventually(|scene| scene.generation("counter") == Some(2));
    assert_eq!(add(), Ok("3".into()));
}

#[test]
fn a_scope_on_a_plugin_that_is_unloaded_keeps_what_it_has_and_gets_nothing_new() {
    let scene = Scene::with(&["echo_v1", "counter_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let counter = scene.handle::<dyn Counter>("counter");
    scene.host.scope(|scope| {
        scope.enter(&echo).unwrap();
        scene.host.unload("echo").unwrap();
        scene.host.unload("counter").unwrap();
        assert_eq!(scope.enter(&echo).unwrap().say("hi").unwrap(), "v1: hi");
        assert_eq!(scope.enter(&counter).err(), Some(CallError::NotLoaded { plugin: "counter".into() }));
    });
    scene.settled();
}
