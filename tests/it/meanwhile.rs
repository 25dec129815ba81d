#![allow(clippy::result_large_err)] // as in the crate that returns them

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use reseat::{Change, Event, Host, Observer, Observers, Outcome};
use reseat_tests::echo::Echo;
use reseat_tests::held::hold;
use reseat_tests::misc::Misc;

use crate::scene::{Build, Hold, Scene, put};

/// Holds up the reloads of a plugin.
struct Stops {
    plugin: &'static str,
    until: String,
}

impl Observer for Stops {
    fn name(&self) -> String {
        "stops".into()
    }
    fn before_reload(&self, change: &Change) -> Result<(), String> {
        if change.plugin == self.plugin && change.from.is_some() {
            hold(&self.until);
        }
        Ok(())
    }
}

/// A host in which reloads of a plugin are held up, and what does so.
fn held_up(plugin: &'static str, fixtures: &[&str]) -> (Scene, Hold) {
    let mut hold = None;
    let scene = Scene::with_options(fixtures, |options| {
        let until: PathBuf = options.state_dir.with_file_name("held-up");
        options.hook_deadline = Duration::from_secs(600);
        options.observers =
            Observers::none().and(Stops { plugin, until: until.to_str().expect("it is text").to_owned() });
        hold = Some(Hold::at(until));
    });
    (scene, hold.expect("the options were asked for"))
}

/// Does something while a plugin is being replaced, before anything of that is seen.
fn while_replaced(scene: &Scene, plugin: &str, hold: Hold, act: impl FnOnce()) {
    std::thread::scope(|threads| {
        // Let go whatever happens, or nobody would ever come out.
        let hold = hold;
        let replaced = threads.spawn(|| scene.host.reload(plugin));
        hold.entered();
        act();
        hold.release();
        assert!(matches!(replaced.join().unwrap(), Ok(Outcome::Reloaded { .. })));
    });
}

#[test]
fn an_optional_peer_that_came_later_is_called_for_the_first_time_while_it_is_being_replaced() {
    let (scene, hold) = held_up("counts_too", &["counts_if_possible"]);
    let maybe = scene.handle::<dyn Misc>("maybe");
    scene.install("counts_too").published();
    while_replaced(&scene, "counts_too", hold, || {
        assert_eq!(maybe.enter().unwrap().call("x").unwrap(), "1");
    });
}

#[test]
fn a_plugin_is_reloaded_while_what_it_calls_is_being_replaced() {
    let (scene, hold) = held_up("counter", &["calls_counter", "counter_v2"]);
    while_replaced(&scene, "counter", hold, || drop(scene.host.reload("caller").unwrap()));
    assert_eq!((scene.generation("caller"), scene.generation("counter")), (Some(2), Some(2)));
}

#[test]
fn what_can_do_without_a_plugin_is_loaded_while_that_is_being_replaced_and_calls_it_afterwards() {
    let (scene, hold) = held_up("counts_too", &["counts_too"]);
    while_replaced(&scene, "counts_too", hold, || {
        scene.install("counts_if_possible").published();
    });
    assert_eq!(scene.handle::<dyn Misc>("maybe").enter().unwrap().call("x").unwrap(), "1");
}

/// Asks for handles of what it is told of.
struct Asks {
    host: Arc<OnceLock<Weak<Host>>>,
    answers: Arc<Mutex<Vec<Result<String, String>>>>,
}

impl Asks {
    fn ask(&self, plugin: &str) {
        let Some(host) = self.host.get().and_then(Weak::upgrade) else { return };
        let handle = host.plugin::<dyn Echo>(plugin).map_err(|error| error.to_string());
        let said =
            handle.and_then(|echo| echo.enter().and_then(|echo| echo.say("hi")).map_err(|e| e.to_string()));
        self.answers.lock().unwrap().push(said);
    }
}

impl Observer for Asks {
    fn name(&self) -> String {
        "asks".into()
    }
    fn after_load(&self, change: &Change) {
        self.ask(&change.plugin);
    }
    fn after_reload(&self, change: &Change) {
        self.ask(&change.plugin);
    }
}

#[test]
fn whoever_is_told_that_a_plugin_serves_may_ask_for_a_handle_of_it_right_there() {
    let (host, answers) = (Arc::<OnceLock<Weak<Host>>>::default(), Arc::<Mutex<Vec<_>>>::default());
    let asks = Asks { host: host.clone(), answers: answers.clone() };
    let scene = Scene::with_options(&[], |options| {
        options.hook_deadline = Duration::from_secs(600);
        options.observers = Observers::none().and(asks);
    });
    host.set(Arc::downgrade(&scene.host)).expect("once");
    scene.install("echo_v1").published();
    scene.install("echo_v2").published();
    scene.eventually(|_| answers.lock().unwrap().len() == 2);
    let said = |build: u32| Ok(format!("v{build}: hi"));
    assert_eq!(*answers.lock().unwrap(), [said(1), said(2)]);
    let trouble = |event: &Event| matches!(event, Event::Trouble { .. });
    assert!(!scene.events().iter().any(trouble), "{scene}");
}

#[test]
fn plugins_that_can_do_without_one_another_change_together() {
    let scene = Scene::with(&["counts_if_possible", "counts_for_whoever_is_there"]);
    let maybe = scene.handle::<dyn Misc>("maybe");
    assert_eq!(maybe.enter().unwrap().call("x").unwrap(), "1");
    let outcomes = scene.host.reload_together(&["maybe", "counter"]).unwrap();
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert_eq!((scene.generation("maybe"), scene.generation("counter")), (Some(2), Some(2)));
    assert_eq!(maybe.enter().unwrap().call("x").unwrap(), "1");
    assert_eq!(scene.host.call("counter", "get", "").unwrap(), "1", "it has found who may call it");
}

#[test]
fn plugins_that_wait_to_be_called_are_opened_together() {
    let there = |dir: &Path, fixture: &str| {
        let build = Build::of(fixture);
        put(&dir.join(build.file_name()), &build);
    };
    let scene = Scene::with_options(&[], |options| {
        (options.lazy, options.call_wait) = (true, Duration::from_secs(600));
        ["calls_counter", "counter_v2"].iter().for_each(|fixture| there(options.watch[0].path(), fixture));
    });
    let waits = |event: &&Event| matches!(event, Event::Waiting { .. });
    scene.eventually(|scene| scene.events().iter().filter(waits).count() == 2);
    let outcomes = scene.host.reload_together(&["caller", "counter"]).unwrap();
    assert!(outcomes.iter().all(|one| matches!(one, Outcome::Loaded { generation: 1, .. })), "{outcomes:?}");
}
