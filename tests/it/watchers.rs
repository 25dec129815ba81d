use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reseat::{Event, LookAt, Options, StartError, WatchSource, WatcherKind};

use crate::scene::{Build, Scene};
use crate::waiting::slowly;

/// A rescan that comes only when it is asked for.
const NEVER: Duration = Duration::from_secs(86_400);

fn scene(watcher: WatcherKind) -> Scene {
    Scene::with_options(&["echo_stamped"], |options| {
        (options.watcher, options.rescan_every) = (watcher, NEVER);
    })
}

fn stamped(number: u32) -> Build {
    Build::of("echo_stamped").stamped(number)
}

#[test]
fn directories_that_are_polled_need_no_file_events() {
    let scene = scene(WatcherKind::Poll(Duration::from_millis(20)));
    for number in 2..5 {
        assert_eq!(scene.install(stamped(number)).published(), u64::from(number));
    }
    assert_eq!(scene.install("counter_v1").published(), 1);
    std::fs::remove_file(scene.plugins().join("libcounter.so")).unwrap();
    let gone = |event: &Event| matches!(event, Event::FileGone { .. });
    scene.eventually(|scene| scene.events().iter().any(gone));
}

#[test]
fn what_nobody_watches_is_looked_at_when_somebody_says_so() {
    let scene = scene(WatcherKind::None);
    let expecting = scene.install(stamped(2));
    // Longer than an event takes.
    slowly(Duration::from_millis(100));
    assert_eq!(scene.generation("echo"), Some(1));
    assert!(scene.host.look_at(&expecting.file));
    assert_eq!(expecting.published(), 2);
    let expecting = scene.install(stamped(3));
    scene.host.rescan();
    assert_eq!(expecting.published(), 3);
    // What is not vouched for, or is no plugin by its name.
    let outside = scene.shelve(&stamped(4)).with_file_name("libecho.so");
    for nothing in [outside, scene.plugins().join("notes.txt"), scene.plugins().join("deep/libecho.so")] {
        assert!(!scene.host.look_at(&nothing), "{}", nothing.display());
    }
    let file = scene.plugins().join("libecho.so");
    assert!(scene.host.shutdown(Duration::from_secs(10)) && !scene.host.look_at(file));
}

#[test]
fn a_host_that_does_not_follow_does_not_look_either() {
    for watcher in [WatcherKind::Native, WatcherKind::None, WatcherKind::Own(Arc::new(Refuses))] {
        let scene = Scene::with_options(&["echo_v1"], |options| {
            (options.watcher, options.follow) = (watcher, false);
        });
        assert!(!scene.host.look_at(scene.plugins().join("libecho.so")));
    }
}

/// Cannot tell of anything.
struct Refuses;

impl WatchSource for Refuses {
    fn begin(&self, _: &[PathBuf], _: LookAt) -> Result<(), String> {
        Err("the queue does not answer".into())
    }
}

#[test]
fn a_source_that_cannot_begin_keeps_the_host_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = WatcherKind::Own(Arc::new(Refuses));
    let error = reseat::Host::start(Options { watcher, ..crate::scene::options(dir.path()) }).err().unwrap();
    assert!(matches!(error, StartError::Watch(_)), "{error}");
    assert!(error.to_string().contains("the queue does not answer"), "{error}");
}

/// Tells what it is told to.
#[derive(Default)]
struct Told {
    begun: Mutex<Option<(Vec<PathBuf>, LookAt)>>,
    ended: Mutex<bool>,
}

impl WatchSource for Told {
    fn begin(&self, directories: &[PathBuf], looks: LookAt) -> Result<(), String> {
        *self.begun.lock().unwrap() = Some((directories.to_owned(), looks));
        Ok(())
    }

    fn end(&self) {
        *self.ended.lock().unwrap() = true;
    }
}

#[test]
fn a_source_of_the_embedders_own_tells_of_files_until_the_host_ends() {
    let told = Arc::new(Told::default());
    let scene = scene(WatcherKind::Own(told.clone()));
    let (directories, looks) = told.begun.lock().unwrap().clone().unwrap();
    assert_eq!(directories, [scene.plugins()]);
    let expecting = scene.install(stamped(2));
    let file = expecting.file.clone();
    assert!(looks.look_at(&file));
    assert_eq!(expecting.published(), 2);
    // Told twice, it is loaded once.
    assert!(looks.look_at(&file) && !*told.ended.lock().unwrap());
    assert!(scene.host.shutdown(Duration::from_secs(10)));
    assert!(*told.ended.lock().unwrap() && !looks.look_at(&file));
    assert_eq!(scene.events().iter().filter(|event| event.to_string().contains("took over")).count(), 1);
}
