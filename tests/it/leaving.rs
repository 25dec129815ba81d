use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use reseat::{DrainPolicy, Event, Handle, Step};
use reseat_tests::misc::Misc;
use serde_json::json;

use crate::scene::{Build, Hold, Scene};
use crate::waiting::DEADLINE;

/// So long that nothing that a test sees can be due to it.
const LONG: Duration = DEADLINE.saturating_mul(3);

/// A host that waits for calls for as long as they take.
fn scene(fixture: &str) -> (Scene, Handle<dyn Misc>) {
    let scene = Scene::with_options(&[fixture], |options| options.drain_deadline = LONG);
    let misc = scene.handle::<dyn Misc>(fixture);
    (scene, misc)
}

/// A call that lasts until `leave_now`, on a thread of its own. What it answers: how often that was.
#[track_caller]
fn lasting(misc: &Handle<dyn Misc>, hold: &Hold, times: &str) -> Receiver<String> {
    let (misc, what) = (misc.clone(), format!("{times}{}", hold.until()));
    let (answer, answered) = channel();
    std::thread::spawn(move || {
        // Nobody listens if the test has failed.
        let _ = answer.send(misc.enter().unwrap().call(&what).unwrap());
    });
    hold.entered();
    answered
}

#[test]
fn calls_that_last_are_ended_when_a_handover_begins() {
    let (scene, misc) = scene("leaves_at_once");
    let hold = scene.hold();
    let answered = lasting(&misc, &hold, "");
    scene.install(Build::of("leaves_at_once").stamped(2)).published();
    assert_eq!(answered.recv_timeout(DEADLINE).unwrap(), "1");
    scene.unloaded("leaves_at_once", 1);
}

#[test]
fn calls_that_last_are_ended_when_a_generation_without_state_is_replaced() {
    let (scene, misc) = scene("leaves_without_state");
    let hold = scene.hold();
    let answered = lasting(&misc, &hold, "");
    scene.install(Build::of("leaves_without_state").stamped(2)).published();
    assert_eq!(answered.recv_timeout(DEADLINE).unwrap(), "1");
    scene.unloaded("leaves_without_state", 1);
    let lingered = |event: &Event| matches!(event, Event::Lingering { .. });
    assert!(!scene.events().iter().any(lingered), "a hook that returns is not worth a word");
}

#[test]
fn calls_that_last_are_told_once_where_generations_overlap() {
    let (scene, misc) = scene("leaves_at_once");
    let mut options = scene.host.options();
    options.drain_policy = DrainPolicy::Overlap;
    scene.host.reconfigure(options);
    let hold = scene.hold();
    let lease = misc.lease().unwrap();
    let answered = lasting(&misc, &hold, "");
    scene.install(Build::of("leaves_at_once").stamped(2)).published();
    assert_eq!(answered.recv_timeout(DEADLINE).unwrap(), "1");
    // Whoever says this has had occasion to tell them a second time.
    let drains = |event: &Event| matches!(event, Event::Draining { generation: 1, .. });
    scene.eventually(|s| s.events().iter().any(drains));
    assert_eq!(lease.call("told?").unwrap(), "1");
    assert!(lease.is_to_leave());
}

#[test]
fn calls_that_last_are_ended_when_a_plugin_is_taken_out_of_service() {
    let (scene, misc) = scene("leaves_at_once");
    let hold = scene.hold();
    let answered = lasting(&misc, &hold, "");
    scene.host.unload("leaves_at_once").unwrap();
    assert_eq!(answered.recv_timeout(DEADLINE).unwrap(), "1");
    scene.unloaded("leaves_at_once", 1);
}

#[test]
fn calls_that_last_are_ended_when_the_host_ends() {
    let (scene, misc) = scene("leaves_at_once");
    let hold = scene.hold();
    let answered = lasting(&misc, &hold, "");
    assert!(scene.host.shutdown(DEADLINE));
    assert_eq!(answered.recv_timeout(DEADLINE).unwrap(), "1");
}

#[test]
fn a_reload_that_waits_for_nobody_tells_nobody() {
    let (scene, misc) = scene("leaves_at_once");
    scene.install(Build::of("leaves_at_once").stamped(13)).refused().at(Step::Restore, &["bad luck"]);
    assert_eq!(misc.enter().unwrap().call("told?").unwrap(), "0");
}

#[test]
fn a_reload_that_is_refused_lets_calls_stay_and_the_next_one_tells_them_again() {
    let scene = Scene::with_options(&["leaves_at_once"], |options| {
        options.drain_deadline = Duration::from_millis(200);
        // The test asks for each reload itself.
        options.follow = false;
    });
    let misc = scene.handle::<dyn Misc>("leaves_at_once");
    let hold = scene.hold();
    let lease = misc.lease().unwrap();
    let answered = lasting(&misc, &hold, "twice ");
    let refused = scene.host.reload("leaves_at_once").unwrap_err().to_string();
    assert!(refused.contains("200ms"), "{refused}");
    assert!(!lease.is_to_leave());
    assert_eq!(misc.enter().unwrap().call("told?").unwrap(), "1");
    drop(lease);
    scene.host.reload("leaves_at_once").unwrap();
    assert_eq!(answered.recv_timeout(DEADLINE).unwrap(), "2");
}

#[test]
fn leases_and_owned_scopes_say_when_something_waits_for_them() {
    let (scene, misc) = scene("leaves_at_once");
    let (lease, scope, other) = (misc.lease().unwrap(), scene.host.owned_scope(), scene.host.owned_scope());
    let in_scope = scope.enter(&misc).unwrap();
    assert!(!lease.is_to_leave() && !scope.is_to_leave());
    let expecting = scene.install(Build::of("leaves_at_once").stamped(2));
    scene.eventually(|_| lease.is_to_leave() && scope.is_to_leave());
    assert!(in_scope.is_to_leave());
    assert!(!other.is_to_leave(), "it has called nothing");
    drop((lease, in_scope, scope));
    assert_eq!(expecting.published(), 2);
    assert!(!misc.lease().unwrap().is_to_leave());
}

#[test]
fn a_panic_in_leave_now_is_told_and_changes_nothing() {
    let (scene, misc) = scene("panics_in_leave_now");
    let hold = scene.hold();
    let answered = lasting(&misc, &hold, "");
    scene.host.reload("panics_in_leave_now").unwrap();
    answered.recv_timeout(DEADLINE).unwrap();
    scene.unloaded("panics_in_leave_now", 1);
    let words = "generation 1 of panics_in_leave_now: leave_now: the plugin panicked at";
    scene.eventually(|s| s.events().iter().any(|event| event.to_string().contains(words)));
}

#[test]
fn a_leave_now_that_hangs_costs_a_refusal_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let until = Hold::at(dir.path().join("go"));
    let scene = Scene::with_options(&["hangs_in_leave_now"], |options| {
        options.hook_deadline = Duration::from_millis(300);
        options.follow = false;
        options.config = [("hangs_in_leave_now".into(), json!({ "until": until.until() }))].into();
    });
    let misc = scene.handle::<dyn Misc>("hangs_in_leave_now");
    let hold = scene.hold();
    let answered = lasting(&misc, &hold, "");
    let refused = scene.host.reload("hangs_in_leave_now").unwrap_err().to_string();
    assert!(refused.contains("that generation's thread is at leave_now"), "{refused}");
    assert_eq!(answered.recv_timeout(DEADLINE).unwrap(), "1");
    assert_eq!(misc.enter().unwrap().call("told?").unwrap(), "1");
    until.release();
    scene.host.reload("hangs_in_leave_now").unwrap();
    scene.unloaded("hangs_in_leave_now", 1);
}
