use reseat::CallError;
use reseat_tests::echo::{Echo, Measure};

use crate::scene::Scene;

#[test]
fn a_plugin_answers_through_a_typed_handle_and_by_name() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let guard = echo.enter().unwrap();

    assert_eq!(guard.generation(), 1);
    assert_eq!(guard.say("hi").unwrap(), "v1: hi");
    assert_eq!(guard.measure("häh!").unwrap(), Measure { loud: true, letters: 4, bytes: 5 });
    assert_eq!(scene.host.call("echo", "say", r#"{"text":"hi"}"#).unwrap(), r#""v1: hi""#);
    assert_eq!(scene.host.call("echo", "Echo.build", "{}").unwrap(), "1");
}

#[test]
fn a_new_build_takes_over() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    assert_eq!(scene.install("echo_v2").published(), 2);
    assert_eq!(echo.enter().unwrap().say("hi").unwrap(), "v2: hi");
    scene.unloaded("echo", 1);
    let _ = CallError::Closed;
}
