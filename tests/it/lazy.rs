use std::sync::Barrier;
use std::time::Duration;

use reseat::{CallError, Event, Options, PluginError, PluginOptions};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;

use crate::scene::{Build, Scene, put};

/// A host that opens plugins at their first call, with this one in its directory.
fn scene(fixture: &str, change: impl FnOnce(&mut Options)) -> Scene {
    let scene = Scene::with_options(&[], |options| {
        options.lazy = true;
        put_there(options, fixture);
        change(options);
    });
    scene.eventually(|scene| waiting(scene) == 1);
    scene
}

fn put_there(options: &Options, fixture: &str) {
    let build = Build::of(fixture);
    put(&options.watch[0].path().join(build.file_name()), &build);
}

/// How many builds were told of that wait for somebody to call them.
fn waiting(scene: &Scene) -> usize {
    let waits =
        |event: &Event| matches!(event, Event::Waiting { until, .. } if until.contains("somebody calls it"));
    scene.events().iter().filter(|event| waits(event)).count()
}

fn loads(scene: &Scene) -> usize {
    scene.events().iter().filter(|event| matches!(event, Event::Loaded { .. })).count()
}

#[test]
fn a_lazy_plugin_is_opened_at_the_first_call_by_one_of_those_who_call_at_once() {
    let scene = scene("echo_v1", |_| {});
    assert_eq!((scene.generation("echo"), scene.staged()), (None, 0));
    let together = Barrier::new(8);
    std::thread::scope(|threads| {
        let call = || {
            together.wait();
            scene.host.call("echo", "say", r#"{"text":"hi"}"#)
        };
        let calls: Vec<_> = (0..8).map(|_| threads.spawn(call)).collect();
        for call in calls {
            assert_eq!(call.join().unwrap().unwrap(), r#""v1: hi""#);
        }
    });
    assert_eq!((loads(&scene), scene.generation("echo")), (1, Some(1)));
    // From then on it is as any other.
    assert_eq!(scene.install("echo_v2").published(), 2);
}

#[test]
fn a_handle_opens_a_lazy_plugin_and_so_does_a_reload() {
    let scene = scene("echo_v1", |_| {});
    let echo = scene.handle::<dyn Echo>("echo");
    assert_eq!((loads(&scene), echo.enter().unwrap().build().unwrap()), (1, 1));
    drop(scene.install(Build::of("counter_v1")));
    scene.eventually(|scene| waiting(scene) == 2);
    scene.host.reload("counter").unwrap();
    assert_eq!(scene.generation("counter"), Some(1));
}

#[test]
fn the_newest_build_that_was_there_is_the_one_that_is_opened() {
    let scene = scene("echo_v1", |_| {});
    drop(scene.install("echo_v2"));
    scene.eventually(|scene| waiting(scene) == 2);
    // Another file may not take its name meanwhile.
    scene.install(Build::of("echo_v1").in_slot("other")).refused().at(reseat::Step::Vet, &["is provided by"]);
    assert_eq!(scene.handle::<dyn Echo>("echo").enter().unwrap().build().unwrap(), 2);
}

#[test]
fn whoever_calls_first_is_told_why_a_lazy_plugin_cannot_be_loaded_and_a_better_build_waits_again() {
    let scene = scene("errors_in_create", |_| {});
    let refused = scene.host.call("echo", "build", "{}").unwrap_err();
    let CallError::CannotLoad { plugin, reason } = &refused else { panic!("{refused}") };
    assert_eq!(plugin, "echo");
    assert!(reason.contains("is refused at create: create failed: cannot open the cache"), "{reason}");
    assert_eq!(scene.host.call("echo", "build", "{}"), Err(CallError::NotLoaded { plugin: "echo".into() }));
    drop(scene.install("echo_v2"));
    scene.eventually(|scene| waiting(scene) == 2);
    assert_eq!(scene.host.call("echo", "build", "{}").unwrap(), "2");
    drop(scene.install(Build::of("panics_in_create")));
}

#[test]
fn a_handle_of_a_lazy_plugin_that_cannot_be_loaded_is_refused_with_the_reason() {
    let scene = scene("errors_in_create", |_| {});
    match scene.host.plugin::<dyn Echo>("echo") {
        Err(error @ PluginError::CannotLoad { .. }) => {
            assert!(error.to_string().contains("cannot open the cache"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lazy_plugin_begins_with_the_state_that_the_host_before_has_kept() {
    let own = PluginOptions { lazy: Some(true), ..PluginOptions::default() };
    let scene = Scene::with(&["counter_v1"]);
    scene.handle::<dyn Counter>("counter").enter().unwrap().add(7).unwrap();
    assert!(scene.host.shutdown(Duration::from_secs(10)));
    // Twice, because one that was not called keeps what it had.
    for _ in 0..2 {
        let next = scene.next_host(|options| options.plugins = [("counter".into(), own.clone())].into());
        assert_eq!(next.status().plugins[0].generation, None);
        assert!(next.shutdown(Duration::from_secs(10)));
    }
    let next = scene.next_host(|options| options.plugins = [("counter".into(), own)].into());
    assert_eq!(next.call("counter", "get", "{}").unwrap(), "7");
}
