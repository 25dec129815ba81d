use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use reseat::fault::Faults;
use reseat::{
    Change, Event, Host, LookAt, Observer, Observers, Options, RefusalReason, ReloadError, Step, WatchSource,
    WatcherKind,
};
use reseat_tests::counter::Counter;
use serde_json::json;

use crate::child::in_child_with;
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

/// What was told of that was no outcome of anything.
fn trouble(scene: &Scene) -> Vec<String> {
    let all = scene.events().into_iter();
    let told = all.filter_map(|event| match event {
        Event::Trouble { what } => Some(what),
        _ => None,
    });
    told.collect()
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
fn a_plugin_whose_transaction_does_not_end_in_time_is_named_at_the_end_of_the_host_and_its_state_is_kept() {
    // The one may be saved beside calls, the other behind a closed gate.
    for build in [Build::of("counter_stamped").stamped(7), Build::of("hangs_in_save")] {
        let (dir, hold) = place();
        let free = dir.path().join("free");
        std::fs::write(&free, "").unwrap();
        let config = move |options: &mut Options| {
            options.config = [("counter".into(), json!({ "until": free }))].into();
        };
        let scene = scene(false, &hold, &config);
        scene.install(build).published();
        hold.entered();
        scene.host.call("counter", "add", r#"{"n":1}"#).unwrap();
        let limit = Duration::from_millis(500);
        let (clean, took) = end(&scene, limit);
        assert!(!clean && limit <= took && took < DEADLINE / 2, "{clean} after {took:?}: {scene}");
        let told = trouble(&scene);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("counter was not stopped and is left as it is: "), "{told:?}");
        assert!(told[0].contains("reload of counter is at step publish since "), "{told:?}");
        assert_eq!(total(&scene.next_host(config)), "42");
    }
}

#[test]
fn a_host_that_ends_while_a_constructor_hangs_says_that_something_is_left_and_of_what() {
    let name = "endings::a_host_that_ends_while_a_constructor_hangs_says_that_something_is_left_and_of_what";
    let (_dir, hold) = place();
    in_child_with(name, &[("RESEAT_HOLD", &hold.until())], || {
        let hold = Hold::at(std::env::var_os("RESEAT_HOLD").unwrap().into());
        let scene = Scene::with_options(&[], |options| options.hook_deadline = DEADLINE * 10);
        drop(scene.install("hangs_in_constructor"));
        hold.entered();
        let limit = Duration::from_millis(500);
        let (clean, took) = end(&scene, limit);
        assert!(!clean && took < DEADLINE / 2, "{clean} after {took:?}: {scene}");
        let told = trouble(&scene);
        assert!(told[0].starts_with("hangs_in_constructor was not stopped"), "{told:?}");
        assert!(told[0].contains("is at step open since "), "{told:?}");
        hold.release();
    });
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

#[test]
fn a_host_keeps_to_its_limit_while_what_it_has_noticed_is_not_done_with() {
    let (_dir, hold) = place();
    let scene = scene(false, &hold, |_| {});
    scene.install(Build::of("counter_stamped").stamped(7)).published();
    hold.entered();
    let limit = Duration::from_millis(300);
    let (clean, took) = end(&scene, limit);
    // The rest is what a busy machine takes.
    assert!(!clean && took < limit + DEADLINE / 2, "{clean} after {took:?}: {scene}");
}

#[test]
fn a_host_that_ends_while_files_are_gathered_does_not_wait_for_more_of_them() {
    let faults = Faults::default();
    let scene = Scene::with_options(&["calls_counter", "counter_v2"], |options| {
        (options.gather, options.faults) = (DEADLINE, faults.clone());
    });
    let looked_at = faults.passed(Step::Vet);
    drop(scene.install(Build::of("counter_stamped").stamped(2)));
    scene.eventually(|_| faults.passed(Step::Vet) > looked_at);
    let (clean, took) = end(&scene, DEADLINE);
    assert!(clean && took < DEADLINE / 2, "{clean} after {took:?}: {scene}");
    // The next host takes it in.
    assert_eq!(scene.next_host(|_| {}).call("counter", "build", "{}").unwrap(), "2");
}

/// At its end it waits for a thread that tells the host of a file, or for longer than anybody would.
struct Waits {
    host: Arc<OnceLock<Weak<Host>>>,
    until: Option<String>,
    ended: Mutex<std::sync::mpsc::Sender<()>>,
}

impl WatchSource for Waits {
    fn begin(&self, _: &[PathBuf], _: LookAt) -> Result<(), String> {
        Ok(())
    }

    fn end(&self) {
        let host = self.host.get().and_then(Weak::upgrade).expect("it is ending");
        std::thread::spawn(move || host.look_at("libecho.so")).join().unwrap();
        self.until.as_deref().into_iter().for_each(reseat_tests::held::hold);
        self.ended.lock().unwrap().send(()).unwrap();
    }
}

#[test]
fn a_source_of_files_that_ends_may_look_at_the_host_and_is_not_waited_for_beyond_the_limit() {
    for hangs in [false, true] {
        let (_dir, hold) = place();
        let (host, (ended, has_ended)) = (Arc::<OnceLock<Weak<Host>>>::default(), channel());
        let until = hangs.then(|| hold.until());
        let source = Waits { host: host.clone(), until, ended: Mutex::new(ended) };
        let scene = Scene::with_options(&["echo_v1"], |options| {
            options.watcher = WatcherKind::Own(Arc::new(source));
        });
        host.set(Arc::downgrade(&scene.host)).unwrap();
        let (told, is_over) = channel();
        let ending = scene.host.clone();
        let limit = if hangs { Duration::from_millis(500) } else { DEADLINE };
        std::thread::spawn(move || told.send(ending.shutdown(limit)));
        let clean = is_over.recv_timeout(DEADLINE).expect("it ends");
        assert!(clean, "no plugin is in use: {scene}");
        assert_eq!(has_ended.try_recv().is_ok(), !hangs);
        let told = trouble(&scene);
        assert_eq!(
            told.iter().any(|what| what.contains("the source of files has not ended")),
            hangs,
            "{told:?}"
        );
        hold.release();
        if hangs {
            has_ended.recv_timeout(DEADLINE).expect("it ends when it can");
        }
    }
}
