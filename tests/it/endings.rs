use std::time::{Duration, Instant};

use reseat::{Change, Host, Observer, Observers, Options, RefusalReason, ReloadError, Step};
use reseat_tests::counter::Counter;
use serde_json::json;

use crate::scene::{Build, Hold, Scene};
use crate::waiting::DEADLINE;

/// Does not answer until the file exists, where it is told of the second generation.
struct Thinks {
    before: bool,
    until: String,
}

impl Thinks {
    fn over(&self, change: &Change, is_before: bool) {
        if change.to == 2 && self.before == is_before {
            reseat_tests::held::hold(&self.until);
        }
    }
}

impl Observer for Thinks {
    fn before_reload(&self, change: &Change) -> Result<(), String> {
        self.over(change, true);
        Ok(())
    }
    fn after_reload(&self, change: &Change) {
        self.over(change, false);
    }
}

/// A host whose counter is at 41, with such an observer.
fn scene(before: bool, hold: &Hold, change: impl FnOnce(&mut Options)) -> Scene {
    let scene = Scene::with_options(&["counter_v2"], |options| {
        options.snapshot_every = None;
        options.hook_deadline = DEADLINE * 10;
        options.observers = Observers::none().and(Thinks { before, until: hold.until() });
        change(options);
    });
    scene.handle::<dyn Counter>("counter").enter().unwrap().add(41).unwrap();
    scene
}

fn place() -> (tempfile::TempDir, Hold) {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    (dir, hold)
}

/// Ends a host, and says whether all has ended, and how long that took.
fn end(scene: &Scene, limit: Duration) -> (bool, Duration) {
    let begun = Instant::now();
    (scene.host.shutdown(limit), begun.elapsed())
}

fn total(host: &Host) -> String {
    host.call("counter", "get", "{}").unwrap()
}

#[test]
fn a_host_that_ends_while_an_observer_thinks_about_a_reload_waits_for_no_answer_and_keeps_the_state() {
    for noticed in [false, true] {
        let (_dir, hold) = place();
        let scene = scene(true, &hold, |_| {});
        let reload = if noticed {
            drop(scene.install(Build::of("counter_stamped").stamped(7)));
            None
        } else {
            let host = scene.host.clone();
            Some(std::thread::spawn(move || host.reload("counter")))
        };
        hold.entered();
        let (clean, took) = end(&scene, DEADLINE);
        assert!(clean && took < DEADLINE / 2, "{took:?}: {scene}");
        if let Some(reload) = reload {
            let error = reload.join().unwrap().unwrap_err();
            let ReloadError::Refused(refusal) = &error else { panic!("{error}") };
            assert!(matches!(refusal.reason, RefusalReason::Cancelled), "{error}");
            assert_eq!(refusal.step, Step::Observe);
        }
        assert_eq!(total(&scene.next_host(|options| options.follow = false)), "41");
    }
}

#[test]
fn a_host_that_ends_while_a_hook_of_a_new_build_hangs_keeps_the_state_and_says_that_something_is_left() {
    let (_dir, hold) = place();
    let config = |options: &mut Options| {
        options.config = [("counter".into(), json!({ "until": hold.until() }))].into();
    };
    let scene = scene(true, &hold, |options| {
        options.observers = Observers::none();
        config(options);
    });
    drop(scene.install("hangs_in_restore"));
    hold.entered();
    let (clean, took) = end(&scene, Duration::from_secs(1));
    assert!(!clean && took < DEADLINE / 2, "{clean} after {took:?}: {scene}");
    assert_eq!(total(&scene.next_host(|options| options.follow = false)), "41");
}
