use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reseat::{Change, Event, Observer, Observers, Retirement, Step};
use reseat_tests::counter::Counter;
use serde_json::json;

use crate::scene::{Build, Hold, Scene};

/// Writes down what it is told, where the plugin `tells_its_hooks` writes down its hooks.
struct Clerk {
    name: &'static str,
    file: PathBuf,
}

impl Clerk {
    fn note(&self, what: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file).unwrap();
        file.write_all(format!("{}: {what}\n", self.name).as_bytes()).unwrap();
    }

    fn note_change(&self, hook: &str, change: &Change) {
        let from = change.from.map_or("none".to_owned(), |from| from.to_string());
        self.note(&format!("{hook} {from} to {}", change.to));
    }

    fn note_end(&self, hook: &str, retirement: &Retirement) {
        self.note(&format!("{hook} {} {:?}", retirement.generation, retirement.why));
    }
}

impl Observer for Clerk {
    fn name(&self) -> String {
        self.name.into()
    }
    fn prepare(&self) {
        self.note("prepare");
    }
    fn before_reload(&self, change: &Change) -> Result<(), String> {
        self.note_change("before_reload", change);
        Ok(())
    }
    fn after_load(&self, change: &Change) {
        self.note_change("after_load", change);
    }
    fn after_reload(&self, change: &Change) {
        self.note_change("after_reload", change);
    }
    fn before_unload(&self, retirement: &Retirement) {
        self.note_end("before_unload", retirement);
    }
    fn after_unload(&self, retirement: &Retirement) {
        self.note_end("after_unload", retirement);
    }
}

/// What stands in the file since the last time.
struct Minutes {
    file: PathBuf,
    read: usize,
}

impl Minutes {
    #[track_caller]
    fn are(&mut self, when: &str, expected: &[impl AsRef<str>]) {
        let text = std::fs::read_to_string(&self.file).unwrap();
        let lines: Vec<_> = text.lines().skip(self.read).collect();
        let expected: Vec<_> = expected.iter().map(AsRef::as_ref).collect();
        assert_eq!(lines, expected, "{when}");
        self.read += lines.len();
    }
}

fn clerks(file: &Path) -> Observers {
    let clerk = |name| Clerk { name, file: file.to_owned() };
    Observers::none().and(clerk("first")).and(clerk("second"))
}

#[test]
fn all_hooks_are_called_in_the_order_that_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hooks");
    let mut minutes = Minutes { file: file.clone(), read: 0 };
    let scene = Scene::with_options(&["tells_its_hooks"], |options| {
        options.observers = clerks(&file);
        options.config = [("tells_its_hooks".into(), json!({ "file": file }))].into();
    });
    let build = |number| Build::of("tells_its_hooks").stamped(number);
    let idle = || scene.eventually(|s| s.status("tells_its_hooks").busy.is_none());
    minutes.are(
        "load",
        &[
            "first: before_reload none to 1",
            "second: before_reload none to 1",
            "build 1: create",
            "build 1: started",
            "build 1: self_check",
            "first: after_load none to 1",
            "second: after_load none to 1",
            "first: prepare",
            "second: prepare",
        ],
    );

    // What comes after a generation serves goes on beside what its predecessor's end brings, so the two are told apart.
    scene.install(build(2)).published();
    scene.unloaded("tells_its_hooks", 1);
    idle();
    let (up, down) = split(&file, &mut minutes.read);
    assert_eq!(
        up,
        [
            "first: before_reload 1 to 2",
            "second: before_reload 1 to 2",
            "build 1: save",
            "build 2: restore",
            "build 2: started",
            "build 2: self_check",
            "first: after_reload 1 to 2",
            "second: after_reload 1 to 2",
            "first: prepare",
            "second: prepare",
        ]
    );
    assert_eq!(down, ending(1, 1, "Replaced"));

    // Refused at its self-check: it ends, and nobody but itself is told. The number is used up.
    scene.install(build(13)).refused().at(Step::Check, &["bad luck"]);
    scene.settled();
    minutes.are(
        "refused reload",
        &[
            "first: before_reload 2 to 3",
            "second: before_reload 2 to 3",
            "build 2: save",
            "build 13: restore",
            "build 13: started",
            "build 13: self_check",
            "build 13: stopping NeverServed",
            "build 13: drop",
        ],
    );

    scene.host.roll_back("tells_its_hooks").unwrap();
    scene.unloaded("tells_its_hooks", 2);
    let (up, down) = split(&file, &mut minutes.read);
    assert_eq!(
        up,
        [
            "build 2: save",
            "build 1: restore",
            "build 1: started",
            "build 1: self_check",
            "first: after_reload 2 to 4",
            "second: after_reload 2 to 4",
            "first: prepare",
            "second: prepare",
        ]
    );
    assert_eq!(down, ending(2, 2, "RolledBack"));

    scene.host.unload("tells_its_hooks").unwrap();
    scene.unloaded("tells_its_hooks", 4);
    minutes.are("unload", &ending(1, 4, "Removed"));

    scene.install(build(5)).published();
    idle();
    minutes.are(
        "load after an unload",
        &[
            "first: before_reload none to 5",
            "second: before_reload none to 5",
            "build 5: create",
            "build 5: started",
            "build 5: self_check",
            "first: after_load none to 5",
            "second: after_load none to 5",
            "first: prepare",
            "second: prepare",
        ],
    );
    assert!(scene.host.shutdown(crate::waiting::DEADLINE));
    let mut expected = vec!["build 5: save".to_owned()];
    expected.extend(ending(5, 5, "HostEnds"));
    minutes.are("shutdown", &expected);
}

/// The end of a generation, from the moment at which nobody is in it any more.
fn ending(build: u32, generation: u64, why: &str) -> Vec<String> {
    vec![
        format!("second: before_unload {generation} {why}"),
        format!("first: before_unload {generation} {why}"),
        format!("build {build}: stopping {why}"),
        format!("build {build}: drop"),
        format!("second: after_unload {generation} {why}"),
        format!("first: after_unload {generation} {why}"),
    ]
}

/// The new lines: those on the way up, and those of an end.
fn split(file: &Path, read: &mut usize) -> (Vec<String>, Vec<String>) {
    let text = std::fs::read_to_string(file).unwrap();
    let new: Vec<_> = text.lines().skip(*read).map(str::to_owned).collect();
    *read += new.len();
    let of_an_end = |line: &String| ["unload", "stopping", "drop"].iter().any(|word| line.contains(word));
    new.into_iter().partition(|line| !of_an_end(line))
}

/// What a [`Moody`] observer does when it is told something.
enum Mood {
    Panics,
    /// Until this file exists.
    Hangs(String),
}

struct Moody(Mood);

impl Moody {
    fn show(&self) {
        match &self.0 {
            Mood::Panics => panic!("it is too much"),
            Mood::Hangs(until) => reseat_tests::held::hold(until),
        }
    }
}

impl Observer for Moody {
    fn name(&self) -> String {
        "moody".into()
    }
    fn prepare(&self) {
        self.show();
    }
    fn after_load(&self, _: &Change) {
        self.show();
    }
    fn after_reload(&self, _: &Change) {
        self.show();
    }
    fn before_unload(&self, _: &Retirement) {
        self.show();
    }
    fn after_unload(&self, _: &Retirement) {
        self.show();
    }
}

/// Takes a counter through a load, a reload and an end under an observer in this mood between two that are well.
#[track_caller]
fn all_are_told_beside(mood: Mood, deadline: Duration, words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hooks");
    let clerk = |name| Clerk { name, file: file.clone() };
    let scene = Scene::with_options(&["counter_v1"], |options| {
        options.observers = Observers::none().and(clerk("first")).and(Moody(mood)).and(clerk("second"));
        options.hook_deadline = deadline;
    });
    let counter = scene.handle::<dyn Counter>("counter");
    scene.install("counter_v2").published();
    assert_eq!(counter.enter().unwrap().build().unwrap(), 2);
    scene.unloaded("counter", 1);
    scene.eventually(|s| s.status("counter").busy.is_none());
    let (up, down) = split(&file, &mut 0);
    assert_eq!(
        up,
        [
            "first: before_reload none to 1",
            "second: before_reload none to 1",
            "first: after_load none to 1",
            "second: after_load none to 1",
            "first: prepare",
            "second: prepare",
            "first: before_reload 1 to 2",
            "second: before_reload 1 to 2",
            "first: after_reload 1 to 2",
            "second: after_reload 1 to 2",
            "first: prepare",
            "second: prepare",
        ]
    );
    assert_eq!(
        down,
        [
            "second: before_unload 1 Replaced",
            "first: before_unload 1 Replaced",
            "second: after_unload 1 Replaced",
            "first: after_unload 1 Replaced",
        ]
    );
    let told: Vec<_> = scene.events().into_iter().filter(|e| matches!(e, Event::Trouble { .. })).collect();
    for hook in [
        "after_load of generation 1 of counter",
        "prepare",
        "after_reload of generation 2 of counter",
        "before_unload of generation 1 of counter",
        "after_unload of generation 1 of counter",
    ] {
        let expected = format!("{hook}: the observer `moody` {words}");
        assert!(told.iter().any(|event| event.to_string().contains(&expected)), "{expected}: {told:?}");
    }
}

#[test]
fn an_observer_that_panics_is_named_and_all_others_are_told() {
    // To say where from it panicked may take a while.
    all_are_told_beside(Mood::Panics, crate::waiting::DEADLINE, "panicked: it is too much");
}

#[test]
fn an_observer_that_hangs_is_named_and_all_others_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    // Up to the deadline on the way up, and a share of it on the way down.
    all_are_told_beside(Mood::Hangs(hold.until()), Duration::from_millis(900), "has not answered within");
}

#[test]
fn an_observer_that_hangs_at_the_end_of_one_plugin_holds_up_no_other_s_end_and_no_caller() {
    struct HangsAt(&'static str, String);
    impl Observer for HangsAt {
        fn before_unload(&self, retirement: &Retirement) {
            if retirement.plugin == self.0 {
                reseat_tests::held::hold(&self.1);
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let scene = Scene::with_options(&["counter_v1", "echo_v1"], |options| {
        options.observers = Observers::none().and(HangsAt("counter", hold.until()));
        options.hook_deadline = crate::waiting::DEADLINE * 10;
    });
    let counter = scene.handle::<dyn Counter>("counter");
    scene.install("counter_v2").published();
    hold.entered();
    scene.install("echo_v2").published();
    scene.unloaded("echo", 1);
    assert_eq!(counter.enter().unwrap().build().unwrap(), 2);
    assert_eq!(scene.verdict_of("counter", 1), None);
    hold.release();
    scene.unloaded("counter", 1);
}

#[test]
fn nobody_is_told_that_a_generation_is_gone_while_it_lingers() {
    struct Ends(Arc<Mutex<Vec<String>>>);
    impl Observer for Ends {
        fn before_unload(&self, retirement: &Retirement) {
            self.0.lock().unwrap().push(format!("before {}", retirement.generation));
        }
        fn after_unload(&self, retirement: &Retirement) {
            self.0.lock().unwrap().push(format!("after {}", retirement.generation));
        }
    }
    let told = Arc::<Mutex<Vec<String>>>::default();
    let dir = tempfile::tempdir().unwrap();
    let hold = Hold::at(dir.path().join("go"));
    let scene = Scene::with_options(&["hangs_in_stopping"], |options| {
        options.observers = Observers::none().and(Ends(told.clone()));
        options.hook_deadline = Duration::from_millis(200);
        options.config = [("counter".into(), json!({ "until": hold.until() }))].into();
    });
    scene.install("counter_v2").published();
    scene.lingers("counter", 1, &["last hooks have not returned"]);
    assert_eq!(*told.lock().unwrap(), ["before 1"]);
    hold.release();
    scene.unloaded("counter", 1);
    assert_eq!(*told.lock().unwrap(), ["before 1", "after 1"]);
}
