use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use reseat::{CallError, PluginError, Step};
use reseat_tests::echo::{Echo, Measure};
use reseat_tests::misc::{Big, Blocker, Feeder, Misc};
use reseat_tests::{echo_appended, echo_layout, echo_signature};

use crate::scene::{Build, Hold, Scene};
use crate::waiting::DEADLINE;

#[test]
fn a_plugin_answers_through_a_typed_handle_and_by_name() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let guard = echo.enter().unwrap();

    assert_eq!((guard.generation(), echo.plugin()), (1, "echo"));
    assert_eq!(guard.say("hi").unwrap(), "v1: hi");
    assert_eq!(guard.measure("häh!").unwrap(), Measure { loud: true, letters: 4, bytes: 5 });
    assert_eq!(scene.host.call("echo", "say", r#"{"text":"hi"}"#).unwrap(), r#""v1: hi""#);
    assert_eq!(scene.host.call("echo", "Echo.build", "").unwrap(), "1");
    assert_eq!(
        scene.host.call("echo", "measure", r#"{"text":"häh!"}"#).unwrap(),
        r#"{"loud":true,"letters":4,"bytes":5}"#
    );
}

#[test]
fn a_panic_ends_the_call_and_not_the_plugin() {
    let scene = Scene::with(&["panics_in_call"]);
    let misc = scene.handle::<dyn Misc>("panics_in_call");
    let guard = misc.enter().unwrap();

    let Err(CallError::Panicked { message, location }) = guard.call("panic") else { panic!("it panics") };
    assert_eq!(message, "the call has had enough");
    assert!(location.starts_with("tests/fixtures/panics_in_call.rs:"), "{location}");
    assert_eq!(guard.call("still there?").unwrap(), "still there?");

    let by_name = scene.host.call("panics_in_call", "call", r#"{"what":"panic"}"#).unwrap_err();
    assert_eq!(by_name, CallError::Panicked { message, location });
}

#[test]
fn a_panic_with_something_else_than_text_is_told_as_such() {
    let scene = Scene::with(&["panics_in_call"]);
    let misc = scene.handle::<dyn Misc>("panics_in_call");
    let Err(CallError::Panicked { message, .. }) = misc.enter().unwrap().call("panic with a number") else {
        panic!("it panics")
    };
    assert_eq!(message, "a payload that is not text");
}

#[test]
fn an_error_comes_with_its_causes() {
    let scene = Scene::with(&["panics_in_call"]);
    let expected = CallError::Plugin("cannot answer: cannot read the list: no such file".into());
    let misc = scene.handle::<dyn Misc>("panics_in_call");
    assert_eq!(misc.enter().unwrap().call("fail").unwrap_err(), expected);
    assert_eq!(scene.host.call("panics_in_call", "call", r#"{"what":"fail"}"#).unwrap_err(), expected);
}

#[test]
fn a_method_that_the_build_lacks_is_unsupported_and_the_others_work() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn echo_appended::Echo>("echo");
    let unsupported = echo.enter().unwrap().whisper("HI").unwrap_err();
    assert_eq!(
        unsupported.to_string(),
        "method `whisper` is not known to the serving build (it came with interface version 1.1): rebuild the plugin"
    );
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "v1: hi");

    // The same handle knows it as soon as the build does, and no longer when an older one comes back.
    scene.install("echo_appended").published();
    assert_eq!(echo.enter().unwrap().whisper("HI").unwrap(), "hi");
    scene.install("echo_v2").published();
    assert!(matches!(echo.enter().unwrap().whisper("HI"), Err(CallError::Unsupported { .. })));
}

#[test]
fn a_method_that_the_host_does_not_know_is_ignored() {
    let scene = Scene::with(&["echo_appended"]);
    let echo = scene.handle::<dyn Echo>("echo");
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "v5: hi");
    assert_eq!(scene.host.call("echo", "whisper", r#"{"text":"HI"}"#).unwrap(), r#""hi""#);
}

#[test]
fn a_handle_of_a_changed_interface_is_refused_with_the_difference() {
    let scene = Scene::with(&["echo_v1"]);
    let signature = scene.host.plugin::<dyn echo_signature::Echo>("echo").unwrap_err().to_string();
    assert!(signature.contains("method `say` differs"), "{signature}");
    assert!(signature.contains("host:   … text: &str, times: u32 …"), "{signature}");
    assert!(signature.contains("plugin: … text: &str …"), "{signature}");

    let layout = scene.host.plugin::<dyn echo_layout::Echo>("echo").unwrap_err().to_string();
    assert!(layout.contains("method `measure` differs"), "{layout}");
    assert!(layout.contains("bytes:u64@0") && layout.contains("bytes:u64@8"), "{layout}");

    // The refused handles have left no trace.
    assert_eq!(scene.install("echo_v2").published(), 2);
}

#[test]
fn what_does_not_exist_is_named_beside_what_does() {
    let scene = Scene::with(&["echo_v1", "callback"]);
    let call =
        |plugin, method, arguments| scene.host.call(plugin, method, arguments).unwrap_err().to_string();

    assert_eq!(call("ecko", "say", "{}"), "no plugin is called `ecko`; there is: callback, echo");
    assert_eq!(call("echo", "sai", "{}"), "plugin `echo` has no method `sai`; there is: say, build, measure");
    assert_eq!(call("echo", "say", "{}"), "`say` needs the parameter `text`, which is missing");
    let unknown = call("echo", "say", r#"{"text":"a","loud":true}"#);
    assert_eq!(unknown, "`say` has no parameter `loud`: it takes an object with text");
    let ill_typed = call("echo", "say", r#"{"text":7}"#);
    assert!(ill_typed.contains("`text`") && ill_typed.contains("expected a string"), "{ill_typed}");
    assert!(call("echo", "say", "[]").contains("found an array"));
    assert!(call("echo", "say", "{").contains("not JSON"));
    assert!(matches!(scene.host.call("callback", "feed", "{}"), Err(CallError::NotDynamic(_))));

    let no_plugin = scene.host.plugin::<dyn Echo>("ecko").unwrap_err().to_string();
    assert_eq!(no_plugin, "no plugin is called `ecko`: loaded are callback, echo");
    let no_interface = scene.host.plugin::<dyn Echo>("callback").unwrap_err();
    assert!(matches!(&no_interface, PluginError::NotImplemented { .. }), "{no_interface}");
    assert!(no_interface.to_string().contains("Feeder 1.0"), "{no_interface}");
}

#[test]
fn a_plugin_answers_through_each_of_its_interfaces() {
    let scene = Scene::with(&["two_interfaces"]);
    let echo = scene.handle::<dyn Echo>("two_interfaces");
    let misc = scene.handle::<dyn Misc>("two_interfaces");
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "both: hi");
    assert_eq!(misc.enter().unwrap().call("hi").unwrap(), "misc: hi");
    assert_eq!(scene.host.call("two_interfaces", "Misc.call", r#"{"what":"hi"}"#).unwrap(), r#""misc: hi""#);
    assert!(scene.host.call("two_interfaces", "Echo.call", "{}").is_err());

    scene.install(Build::of("two_interfaces").stamped(2)).published();
    assert_eq!(echo.enter().unwrap().build().unwrap(), 2);
    assert_eq!(misc.enter().unwrap().call("hi").unwrap(), "misc: hi");
}

#[test]
fn a_build_without_an_interface_that_is_in_use_is_refused() {
    let scene = Scene::with(&["two_interfaces"]);
    let echo = scene.handle::<dyn Echo>("two_interfaces");
    let misc = scene.handle::<dyn Misc>("two_interfaces");
    let words = ["two_interfaces 0.1.0 no longer implements Misc 1.0, which the host or another plugin uses"];
    scene.install("one_interface").refused().at(Step::Vet, &words);
    assert_eq!(misc.enter().unwrap().call("hi").unwrap(), "misc: hi");
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "both: hi");
}

#[test]
fn an_interface_that_nobody_uses_may_go() {
    let scene = Scene::with(&["two_interfaces"]);
    let echo = scene.handle::<dyn Echo>("two_interfaces");
    assert_eq!(scene.install("one_interface").published(), 2);
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "one: hi");
    let error = scene.host.plugin::<dyn Misc>("two_interfaces").unwrap_err().to_string();
    assert_eq!(error, "plugin `two_interfaces` does not implement Misc 1.0: it implements Echo 1.0");
}

#[test]
fn results_of_64_mib_arrive_intact() {
    const LEN: usize = 64 << 20;
    let scene = Scene::with(&["returns_big"]);
    let big = scene.handle::<dyn Big>("returns_big");
    let (expected, letters) = ((0..=255).collect::<Vec<u8>>().repeat(LEN / 256), "ä".repeat(LEN / 2));

    let bytes = big.enter().unwrap().bytes(LEN as u64).unwrap();
    assert!(bytes == expected);
    let text = big.enter().unwrap().text(LEN as u64).unwrap();
    assert!(text == letters);
    assert!(big.enter().unwrap().back(&bytes).unwrap() == bytes);

    // They are the host's own: nothing of them goes with the library.
    scene.host.unload("returns_big").unwrap();
    scene.unloaded("returns_big", 1);
    assert!(bytes == expected && text == letters);
}

#[test]
fn a_callback_gets_everything_in_order() {
    let scene = Scene::with(&["callback"]);
    let feeder = scene.handle::<dyn Feeder>("callback");
    let mut fed = Vec::new();
    feeder.enter().unwrap().feed(5, &mut |n| fed.push(n)).unwrap();
    assert_eq!(fed, [1, 2, 3, 4, 5]);
}

#[test]
fn a_panic_of_a_callback_goes_on_in_the_caller_and_the_plugin_serves_on() {
    let scene = Scene::with(&["callback"]);
    let feeder = scene.handle::<dyn Feeder>("callback");
    let mut fed = Vec::new();
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _ = feeder.enter().unwrap().feed(5, &mut |n| {
            assert!(n < 3, "three is too much");
            fed.push(n);
        });
    }));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"three is too much"));
    assert_eq!(fed, [1, 2]);
    assert_eq!(feeder.enter().unwrap().build().unwrap(), 1);

    // The guard went with the panic: nothing holds the generation.
    scene.install(Build::of("callback").stamped(2)).published();
    scene.unloaded("callback", 1);
}

#[test]
fn the_old_generation_answers_until_its_guard_is_dropped() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let guard = echo.enter().unwrap();
    scene.install("echo_v2").published();

    assert_eq!(guard.say("hi").unwrap(), "v1: hi");
    assert_eq!(scene.verdict_of("echo", 1), None);
    // On this thread there is a call of generation 1 on the stack, and a call tree sees one generation.
    assert_eq!(echo.enter().unwrap().generation(), 1);
    let other = std::thread::spawn({
        let echo = echo.clone();
        move || echo.enter().unwrap().say("hi").unwrap()
    });
    assert_eq!(other.join().unwrap(), "v2: hi");

    drop(guard);
    scene.unloaded("echo", 1);
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "v2: hi");
}

#[test]
fn a_lease_keeps_its_generation_and_crosses_threads() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let lease = echo.lease().unwrap();
    scene.install("echo_v2").published();
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "v2: hi");

    let lease = std::thread::spawn(move || {
        assert_eq!((lease.generation(), lease.say("hi").unwrap()), (1, "v1: hi".to_owned()));
        lease
    });
    let lease = lease.join().unwrap();
    assert_eq!(lease.say("hi").unwrap(), "v1: hi");
    scene.eventually(|s| s.status("echo").generations[0].reason.as_deref() == Some("1 lease"));
    assert_eq!(scene.verdict_of("echo", 1), None);
    drop(lease);
    scene.unloaded("echo", 1);
}

#[test]
fn handles_survive_an_unload_and_the_load_after_it() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    scene.host.unload("echo").unwrap();
    let error = echo.enter().err().unwrap();
    assert_eq!(error, CallError::NotLoaded { plugin: "echo".into() });
    assert!(matches!(echo.lease().err(), Some(CallError::NotLoaded { .. })));
    assert!(matches!(scene.host.call("echo", "build", "{}"), Err(CallError::NotLoaded { .. })));
    scene.unloaded("echo", 1);

    assert_eq!(scene.install("echo_v2").published(), 2);
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "v2: hi");
}

#[test]
fn handles_of_a_host_that_is_shut_down_say_so() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    assert!(scene.host.shutdown(DEADLINE), "{scene}");
    assert_eq!(echo.enter().err(), Some(CallError::Closed));
    assert_eq!(echo.lease().err(), Some(CallError::Closed));
    assert_eq!(scene.host.call("echo", "build", "{}"), Err(CallError::Closed));
    assert!(matches!(scene.host.plugin::<dyn Echo>("echo"), Err(PluginError::Closed)));
    drop(scene);
    assert_eq!(echo.enter().err(), Some(CallError::Closed));
}

#[test]
fn a_shutdown_waits_for_a_call_and_says_when_it_did_not_end() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let lease = echo.lease().unwrap();
    assert!(!scene.host.shutdown(Duration::from_millis(20)));
    // What is in use stays as it is.
    assert_eq!(lease.say("hi").unwrap(), "v1: hi");
}

#[test]
fn a_host_dropped_during_a_call_lets_it_finish() {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let limit = Duration::from_millis(20);
    let scene = Scene::with_options(&["blocker"], |options| options.drain_deadline = limit);
    let blocker = scene.handle::<dyn Blocker>("blocker");
    let inside = std::thread::spawn({
        let (blocker, until) = (blocker.clone(), hold.until());
        move || blocker.enter().unwrap().hold(&until).unwrap()
    });
    hold.entered();
    drop(scene);
    assert_eq!(blocker.enter().err(), Some(CallError::Closed));
    hold.release();
    assert_eq!(inside.join().unwrap(), 1);
}

#[test]
fn a_call_inside_of_a_call_sees_the_same_generation_even_across_a_reload() {
    let scene = Scene::with(&["callback"]);
    let feeder = scene.handle::<dyn Feeder>("callback");
    let mut inner = Vec::new();
    let outer = feeder.enter().unwrap().feed(3, &mut |n| {
        if n == 2 {
            scene.install(Build::of("callback").stamped(2)).published();
        }
        inner.push(feeder.enter().unwrap().feed(1, &mut |_| ()).unwrap());
    });
    assert_eq!((outer.unwrap(), inner), (1, vec![1, 1, 1]));
    assert_eq!(feeder.enter().unwrap().feed(0, &mut |_| ()).unwrap(), 2);
    scene.unloaded("callback", 1);
}

#[test]
fn a_call_goes_from_one_plugin_into_another_and_back() {
    let scene = Scene::with(&["callback", "echo_v1"]);
    let feeder = scene.handle::<dyn Feeder>("callback");
    let echo = scene.handle::<dyn Echo>("echo");
    let mut said = Vec::new();
    feeder
        .enter()
        .unwrap()
        .feed(2, &mut |n| {
            let guard = echo.enter().unwrap();
            feeder
                .enter()
                .unwrap()
                .feed(n, &mut |m| said.push(guard.say(&format!("{n}.{m}")).unwrap()))
                .unwrap();
        })
        .unwrap();
    assert_eq!(said, ["v1: 1.1", "v1: 2.1", "v1: 2.2"]);
}
