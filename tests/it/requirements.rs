use std::sync::atomic::{AtomicU64, Ordering};

use reseat::fault::{Fault, Faults};
use reseat::{CallError, Event, Handle, PluginOptions, ReloadError, Step};
use reseat_tests::counter::Counter;
use reseat_tests::misc::Misc;

use crate::callers::Callers;
use crate::scene::{Build, Scene};

fn waits(scene: &Scene, plugin: &str) -> Option<String> {
    scene.events().into_iter().find_map(|event| match event {
        Event::Unmet { plugin: Some(name), reason, .. } if name == plugin => Some(reason),
        _ => None,
    })
}

fn add(misc: &Handle<dyn Misc>, n: u64) -> Result<u64, String> {
    let answer = misc.enter().and_then(|misc| misc.call(&n.to_string()));
    answer.map_err(|error| error.to_string())?.parse().map_err(|_| "no number".to_owned())
}

#[test]
fn a_plugin_calls_another_in_whatever_build_of_it_serves() {
    let scene = Scene::with(&["calls_counter", "counter_v1"]);
    let (caller, counter) = (scene.handle::<dyn Misc>("caller"), scene.handle::<dyn Counter>("counter"));
    assert_eq!(add(&caller, 5), Ok(5));
    assert_eq!(scene.install("counter_v2").published(), 2);
    assert_eq!(add(&caller, 2), Ok(7));
    assert_eq!(counter.enter().unwrap().get().unwrap(), 7);
    // Its own reload has nothing to do with it.
    scene.host.reload("caller").unwrap();
    assert_eq!(add(&caller, 1), Ok(8));
    scene.unloaded("counter", 1);
    scene.unloaded("caller", 1);
    let unstated = caller.enter().unwrap().call("other").unwrap();
    assert!(unstated.contains("does not state that it calls Misc: add it to `requires"), "{unstated}");
}

#[test]
fn no_call_between_plugins_is_lost_while_both_are_reloaded() {
    let scene = Scene::with(&["calls_counter", "counter_stamped"]);
    let (caller, counter) = (scene.handle::<dyn Misc>("caller"), scene.handle::<dyn Counter>("counter"));
    let sum = std::sync::Arc::new(AtomicU64::new(0));
    let callers = Callers::start(4, |_| {
        let (caller, sum) = (caller.clone(), sum.clone());
        move || {
            add(&caller, 3)?;
            sum.fetch_add(3, Ordering::SeqCst);
            Ok(())
        }
    });
    for number in 2..22 {
        scene.install(Build::of("counter_stamped").stamped(number)).published();
        scene.host.reload("caller").unwrap();
        callers.go_on(&scene, 20);
    }
    callers.finish();
    assert_eq!(counter.enter().unwrap().get().unwrap(), sum.load(Ordering::SeqCst));
    assert_eq!((scene.generation("counter"), scene.generation("caller")), (Some(21), Some(21)));
    (1..21).for_each(|generation| scene.unloaded("counter", generation));
}

#[test]
fn what_requires_another_waits_for_it_and_starts_when_it_appears() {
    let scene = Scene::with(&[]);
    drop(scene.install("calls_counter"));
    scene.eventually(|scene| waits(scene, "caller").is_some());
    let reason = waits(&scene, "caller").unwrap();
    assert!(
        reason.starts_with("it requires Counter 1.0, which no plugin that serves implements"),
        "{reason}"
    );
    assert_eq!(scene.generation("caller"), None, "it is known, and does not serve");
    let error = scene.host.load(&scene.trusted("libcaller.so")).unwrap_err();
    assert!(matches!(&error, ReloadError::Refused(refusal) if refusal.step == Step::Vet), "{error}");
    drop(scene.install("counter_v2"));
    scene.eventually(|scene| scene.generation("caller") == Some(1));
    assert_eq!(add(&scene.handle::<dyn Misc>("caller"), 5), Ok(5));
}

#[test]
fn the_order_in_which_files_are_found_does_not_matter_at_the_start_and_nobody_is_told_to_wait() {
    // By the names of their files, and by what comes first in the directory.
    for fixtures in [["calls_counter", "counter_v2"], ["counter_v2", "calls_counter"]] {
        let scene = Scene::with(&fixtures);
        assert_eq!((scene.generation("caller"), scene.generation("counter")), (Some(1), Some(1)));
        assert_eq!((waits(&scene, "caller"), scene.refusals()), (None, Vec::new()));
        // And what was kept for the next host.
        scene.host.reload("caller").unwrap();
        assert!(scene.host.shutdown(crate::waiting::DEADLINE));
        let next = scene.next_host(|_| {});
        let caller = next.plugin::<dyn Misc>("caller").unwrap();
        assert_eq!(add(&caller, 5), Ok(5));
        assert!(!next.recent_events().iter().any(|event| matches!(event.event, Event::Refused { .. })));
    }
}

#[test]
fn what_others_cannot_do_without_is_not_unloaded_before_them_and_ends_after_them() {
    let scene = Scene::with(&["calls_counter", "counter_v2", "counts_if_possible"]);
    let error = scene.host.unload("counter").unwrap_err().to_string();
    assert_eq!(error, "`counter` is required by caller: unload what requires it first");
    scene.host.unload("caller").unwrap();
    scene.host.unload("counter").unwrap();
    scene.unloaded("counter", 1);

    let scene = Scene::with(&["calls_counter", "counter_v2"]);
    assert!(scene.host.shutdown(crate::waiting::DEADLINE));
    let gone: Vec<_> = scene
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Unloaded { plugin, .. } => Some(plugin.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(gone, ["caller", "counter"]);
}

#[test]
fn what_a_plugin_that_is_being_loaded_cannot_do_without_is_not_unloaded_under_it() {
    let faults = Faults::default();
    let scene = Scene::with_options(&["counter_v2"], |options| options.faults = faults.clone());
    let checked = |scene: &Scene, plugin: &str| {
        scene.status(plugin).busy.is_some_and(|busy| busy.starts_with(&Step::Check.to_string()))
    };
    let known = |scene: &Scene, plugin: &str| scene.host.status().plugins.iter().any(|it| it.name == plugin);
    // One that is refused in the end, and one that serves.
    for serves in [false, true] {
        faults.plan(Step::Check, Fault::Hang);
        let expecting = scene.install("calls_counter");
        scene.eventually(|scene| known(scene, "caller") && checked(scene, "caller"));
        let error = scene.host.unload("counter").unwrap_err().to_string();
        assert_eq!(error, "`counter` is required by caller: unload what requires it first");
        if !serves {
            // Or it would be tried again.
            std::fs::remove_file(&expecting.file).unwrap();
            scene.host.cancel("caller").expect("it is being loaded");
        }
        faults.clear();
        if serves {
            expecting.published();
            assert_eq!(add(&scene.handle::<dyn Misc>("caller"), 5), Ok(5));
            scene.host.unload("caller").unwrap();
        } else {
            expecting.refused().at(Step::Check, &["cancelled"]);
        }
        scene.eventually(|scene| scene.status("caller").busy.is_none());
    }
    // What may be missing may go.
    faults.plan(Step::Check, Fault::Hang);
    let expecting = scene.install("counts_if_possible");
    scene.eventually(|scene| known(scene, "maybe") && checked(scene, "maybe"));
    scene.host.unload("counter").unwrap();
    faults.clear();
    expecting.published();
}

#[test]
fn what_may_be_missing_is_called_from_when_it_is_there_until_it_goes() {
    let scene = Scene::with(&["counts_if_possible"]);
    let maybe = scene.handle::<dyn Misc>("maybe");
    let call = || maybe.enter().unwrap().call("x").unwrap();
    assert!(call().starts_with("plugin `(any that implements Counter)` is not loaded"), "{}", call());
    scene.install("counter_v2").published();
    assert_eq!((call(), call()), ("1".to_owned(), "2".to_owned()));
    scene.host.unload("counter").unwrap();
    assert!(call().starts_with("plugin `counter` is not loaded"), "{}", call());
    scene.unloaded("counter", 1);
    scene.host.reload("counter").unwrap();
    assert_eq!(call(), "1");
}

#[test]
fn a_build_that_no_longer_fits_what_another_plugin_calls_is_refused_until_that_one_has_gone() {
    let scene = Scene::with(&["calls_counter", "counter_v2"]);
    scene.install("counter_changed_signature").refused().at(Step::Vet, &["method `add` differs"]);
    scene.host.unload("caller").unwrap();
    scene.unloaded("caller", 1);
    // Nobody calls it now, but its own state and interface have to go on.
    let error = scene.host.reload("counter").unwrap_err().to_string();
    assert!(error.contains("method `add` differs"), "{error}");
}

#[test]
fn plugins_that_require_one_another_are_refused_and_the_circle_is_named() {
    let scene = Scene::with(&[]);
    drop((scene.install("calls_counter"), scene.install("circle_counts")));
    let circle = |scene: &Scene| {
        let refusals = scene.refusals();
        refusals.into_iter().find(|refusal| refusal.contains("in a circle"))
    };
    scene.eventually(|scene| circle(scene).is_some());
    let text = circle(&scene).unwrap();
    assert!(
        text.contains("caller requires Counter, circle requires Misc, and so in a circle")
            || text.contains("circle requires Misc, caller requires Counter, and so in a circle"),
        "{text}"
    );
    // Somebody else who counts breaks it.
    drop(scene.install("counter_v2"));
    scene.eventually(|scene| scene.generation("caller") == Some(1));
}

#[test]
fn where_several_implement_what_is_called_the_options_say_which_and_nobody_guesses() {
    let scene = Scene::with(&["counter_v2", "counts_too"]);
    scene.install("calls_counter").refused().at(
        Step::Vet,
        &["counter, counts_too all implement Counter", "bind = { Counter = \"…\" }` in [plugins.caller]"],
    );
    let mut options = scene.host.options();
    let bind = [("Counter".to_owned(), "counts_too".to_owned())].into();
    options.plugins.insert("caller".into(), PluginOptions { bind, ..PluginOptions::default() });
    scene.host.reconfigure(options);
    scene.eventually(|scene| scene.generation("caller") == Some(1));
    assert_eq!(add(&scene.handle::<dyn Misc>("caller"), 5), Ok(5));
    assert_eq!(scene.handle::<dyn Counter>("counts_too").enter().unwrap().get().unwrap(), 5);
    assert_eq!(scene.handle::<dyn Counter>("counter").enter().unwrap().get().unwrap(), 0);
}

#[test]
fn a_call_of_a_plugin_ends_when_the_host_does() {
    let scene = Scene::with(&["calls_counter", "counter_v2"]);
    let caller = scene.handle::<dyn Misc>("caller");
    assert!(scene.host.shutdown(crate::waiting::DEADLINE));
    assert!(matches!(caller.enter().err(), Some(CallError::Closed)));
}

#[test]
fn a_plugin_that_waits_to_be_called_is_loaded_by_whoever_requires_it() {
    let scene = Scene::with_options(&[], |options| {
        let own = PluginOptions { lazy: Some(true), ..PluginOptions::default() };
        options.plugins.insert("counter".into(), own);
    });
    drop(scene.install("counter_v2"));
    scene.eventually(|scene| scene.host.status().plugins.iter().any(|plugin| plugin.name == "counter"));
    assert_eq!(scene.generation("counter"), None);
    assert_eq!(scene.install("calls_counter").published(), 1);
    assert_eq!(scene.generation("counter"), Some(1));
    assert_eq!(add(&scene.handle::<dyn Misc>("caller"), 5), Ok(5));
}

#[test]
fn a_plugin_that_comes_back_calls_builds_that_have_come_while_nobody_called() {
    let scene = Scene::with(&["calls_counter", "counter_v1"]);
    scene.host.unload("caller").unwrap();
    scene.unloaded("caller", 1);
    scene.install("counter_v2").published();
    scene.host.reload("caller").unwrap();
    assert_eq!(add(&scene.handle::<dyn Misc>("caller"), 5), Ok(5));
}

#[test]
fn what_waits_for_an_interface_is_not_tried_again_for_each_plugin_that_comes_without_it() {
    const MANY: usize = 20;
    let faults = Faults::default();
    let scene = Scene::with_options(&[], |options| options.faults = faults.clone());
    let caller = |number| Build::of("calls_counter").named(&format!("call{number:02}"));
    let node = |number| Build::of("node").named(&format!("node{number:02}"));
    (0..MANY).for_each(|number| drop(scene.install(caller(number))));
    scene.eventually(|_| faults.passed(Step::Stage) >= MANY);
    for number in 0..MANY {
        scene.install(node(number)).published();
    }
    // Each once, and those that wait now and then by the clock; not each of them for each of the others.
    let tried = faults.passed(Step::Stage);
    assert!(tried < MANY * MANY, "{tried} files were looked at");
    // And when it comes, all of them are.
    scene.install("counter_v1").published();
    (0..MANY).for_each(|number| {
        let plugin = format!("call{number:02}");
        scene.eventually(|scene| scene.generation(&plugin).is_some());
    });
}

#[test]
fn plugins_that_come_and_go_use_nothing_up_of_what_they_call() {
    let scene = Scene::with(&["calls_counter", "counter_v1"]);
    let hold = scene.hold();
    // By name, so that nobody but the plugin has use for the interface.
    let arguments = format!(r#"{{"until":{:?}}}"#, hold.until());
    std::thread::scope(|threads| {
        // Let go whatever happens, or nobody would ever come out.
        let hold = hold;
        let inside = threads.spawn(|| scene.host.call("counter", "hold", &arguments));
        hold.entered();
        for plugin in ["caller", "counter"] {
            scene.host.unload(plugin).unwrap();
        }
        // Its first generation is called all the while, and has methods under the number that was given out for it.
        for plugin in ["counter", "caller"] {
            scene.host.reload(plugin).unwrap();
        }
        for generation in 2..40 {
            scene.host.unload("caller").unwrap();
            scene.unloaded("caller", generation);
            scene.host.reload("caller").unwrap();
        }
        assert_eq!(add(&scene.handle::<dyn Misc>("caller"), 5), Ok(5));
        hold.release();
        assert_eq!(inside.join().unwrap().unwrap(), "1");
    });
}
