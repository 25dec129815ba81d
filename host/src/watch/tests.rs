use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use notify::event::{
    AccessKind, AccessMode, CreateKind, DataChange, Flag, ModifyKind, RemoveKind, RenameMode,
};
use notify::{Event, EventKind};

use super::native::{Native, Signal, is_candidate, meaning};
use super::{Notice, Watcher};

/// Long enough for a busy machine; no test waits for it unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// A rescan that comes only when it is asked for.
const NEVER: Duration = Duration::from_secs(86_400);
/// A rescan that comes soon.
const SOON: Duration = Duration::from_millis(100);

struct Scene {
    root: tempfile::TempDir,
    watcher: Watcher,
    notices: Receiver<Notice>,
    markers: Cell<usize>,
}

impl Scene {
    /// Watches `dir`, after `prepare` has been there.
    fn after(rescan_every: Duration, prepare: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        prepare(root.path());
        let (notices, received) = unbounded();
        let watcher = Watcher::start(vec![root.path().join("dir")], rescan_every, notices).unwrap();
        let scene = Scene { root, watcher, notices: received, markers: Cell::new(0) };
        // The first rescan is over when this file has been looked at, and the directory is watched before
        // that.
        if scene.path("").exists() {
            scene.write("first.so", "");
            scene.expect(&scene.look("first.so"));
        }
        scene
    }

    fn new(rescan_every: Duration) -> Self {
        Self::after(rescan_every, |_| ())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("dir").join(name)
    }

    fn outside(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn look(&self, name: &str) -> Notice {
        Notice::Look(self.path(name))
    }

    fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).unwrap();
    }

    /// Waits for this notice, and gives what came before it.
    fn expect(&self, expected: &Notice) -> Vec<Notice> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        loop {
            match self.notices.recv_deadline(deadline) {
                Ok(notice) if notice == *expected => return before,
                Ok(notice) => before.push(notice),
                Err(_) => panic!("no {expected:?}, only {before:?}"),
            }
        }
    }

    /// Everything that has been said when a file made last has been looked at.
    fn so_far(&self) -> Vec<Notice> {
        let marker = format!("marker{}.so", self.markers.replace(self.markers.get() + 1));
        self.write(&marker, "");
        let mut said = self.expect(&self.look(&marker));
        said.retain(|notice| !format!("{notice:?}").contains("/marker"));
        said
    }
}

#[test]
fn what_is_there_at_the_start_is_looked_at() {
    let scene = Scene::after(NEVER, |root| {
        fs::write(root.join("dir/a.so"), "a").unwrap();
        fs::write(root.join("dir/b.txt"), "b").unwrap();
        fs::write(root.join("dir/.hidden.so"), "c").unwrap();
        fs::create_dir(root.join("dir/below")).unwrap();
        fs::write(root.join("dir/below/d.so"), "d").unwrap();
    });
    // `a.so` came before `first.so`, which the scene has waited for; it is not told again.
    assert!(!scene.so_far().contains(&scene.look("a.so")));
    let (notices, received) = unbounded();
    let _second = Watcher::start(vec![scene.path("")], NEVER, notices).unwrap();
    let looks: Vec<_> = std::iter::from_fn(|| received.recv_timeout(PATIENCE).ok()).take(2).collect();
    assert_eq!(looks, [scene.look("a.so"), scene.look("first.so")]);
}

#[test]
fn a_new_file_is_looked_at() {
    let scene = Scene::new(NEVER);
    scene.write("a.so", "a");
    scene.expect(&scene.look("a.so"));
}

#[test]
fn a_file_renamed_into_the_directory_is_looked_at() {
    let scene = Scene::new(NEVER);
    fs::write(scene.outside("a.so"), "a").unwrap();
    fs::rename(scene.outside("a.so"), scene.path("a.so")).unwrap();
    scene.expect(&scene.look("a.so"));
    // Over another one, and from another name in the same directory.
    scene.write("b.tmp", "b");
    fs::rename(scene.path("b.tmp"), scene.path("a.so")).unwrap();
    scene.expect(&scene.look("a.so"));
    fs::rename(scene.path("a.so"), scene.path("c.so")).unwrap();
    scene.expect(&scene.look("c.so"));
    scene.expect(&Notice::Gone(scene.path("a.so")));
}

#[test]
fn a_file_linked_as_cargo_does_it_is_looked_at_and_never_gone() {
    let scene = Scene::new(NEVER);
    for version in 0..20 {
        let built = scene.outside(&format!("built{version}"));
        fs::write(&built, version.to_string()).unwrap();
        let _ = fs::remove_file(scene.path("a.so"));
        fs::hard_link(&built, scene.path("a.so")).unwrap();
        let before = scene.expect(&scene.look("a.so"));
        assert!(!before.contains(&Notice::Gone(scene.path("a.so"))), "{before:?}");
    }
}

#[test]
fn a_file_overwritten_in_place_is_looked_at_when_it_is_closed() {
    let scene = Scene::new(NEVER);
    scene.write("a.so", "old");
    scene.so_far();
    let mut file = fs::OpenOptions::new().write(true).open(scene.path("a.so")).unwrap();
    file.write_all(b"new").unwrap();
    assert!(!scene.so_far().contains(&scene.look("a.so")), "a write means nothing");
    drop(file);
    scene.expect(&scene.look("a.so"));
}

#[test]
fn reading_and_touching_mean_nothing() {
    let scene = Scene::new(NEVER);
    scene.write("a.so", "a");
    scene.so_far();
    fs::read(scene.path("a.so")).unwrap();
    fs::set_permissions(scene.path("a.so"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(scene.so_far(), []);
}

#[test]
fn a_file_is_gone_when_it_stays_away() {
    let scene = Scene::new(NEVER);
    scene.write("a.so", "a");
    scene.so_far();
    let removed = Instant::now();
    fs::remove_file(scene.path("a.so")).unwrap();
    scene.expect(&Notice::Gone(scene.path("a.so")));
    assert!(removed.elapsed() >= super::ABSENCE, "{:?}", removed.elapsed());
}

#[test]
fn a_link_that_is_switched_is_looked_at() {
    let scene = Scene::new(NEVER);
    fs::write(scene.outside("one"), "one").unwrap();
    fs::write(scene.outside("two"), "two").unwrap();
    symlink(scene.outside("one"), scene.path("a.so")).unwrap();
    scene.expect(&scene.look("a.so"));
    symlink(scene.outside("two"), scene.path(".next")).unwrap();
    fs::rename(scene.path(".next"), scene.path("a.so")).unwrap();
    scene.expect(&scene.look("a.so"));
}

#[test]
fn a_link_whose_target_is_replaced_is_found_by_a_rescan() {
    let scene = Scene::new(SOON);
    fs::write(scene.outside("target"), "one").unwrap();
    symlink(scene.outside("target"), scene.path("a.so")).unwrap();
    scene.expect(&scene.look("a.so"));
    fs::write(scene.outside("next"), "two").unwrap();
    fs::rename(scene.outside("next"), scene.outside("target")).unwrap();
    scene.expect(&scene.look("a.so"));
    fs::remove_file(scene.outside("target")).unwrap();
    scene.expect(&Notice::Gone(scene.path("a.so")));
}

#[test]
fn a_library_is_looked_at_when_its_signature_comes_and_not_when_it_goes() {
    let scene = Scene::new(NEVER);
    scene.write("a.so.minisig", "");
    assert!(!scene.so_far().contains(&scene.look("a.so")), "there is no library");
    scene.write("a.so", "");
    scene.expect(&scene.look("a.so"));
    scene.so_far();
    fs::remove_file(scene.path("a.so.minisig")).unwrap();
    assert_eq!(scene.so_far(), []);
    fs::write(scene.outside("signature"), "signed").unwrap();
    fs::rename(scene.outside("signature"), scene.path("a.so.minisig")).unwrap();
    scene.expect(&scene.look("a.so"));
}

#[test]
fn a_signature_whose_event_was_missed_is_found_by_a_rescan() {
    let scene = Scene::new(SOON);
    fs::create_dir(scene.outside("elsewhere")).unwrap();
    let signature = scene.outside("elsewhere").join("signature");
    fs::write(&signature, "").unwrap();
    symlink(&signature, scene.path("a.so.minisig")).unwrap();
    scene.write("a.so", "");
    scene.expect(&scene.look("a.so"));
    // What a link leads to is not watched.
    fs::write(&signature, "signed").unwrap();
    scene.expect(&scene.look("a.so"));
}

#[test]
fn a_directory_removed_and_made_again_is_watched_again() {
    let scene = Scene::new(NEVER);
    fs::remove_dir_all(scene.path("")).unwrap();
    let before = scene.expect(&Notice::DirectoryGone(scene.root.path().join("dir")));
    assert!(before.contains(&Notice::Gone(scene.path("first.so"))), "{before:?}");
    fs::create_dir(scene.path("")).unwrap();
    scene.expect(&Notice::DirectoryBack(scene.root.path().join("dir")));
    scene.write("a.so", "a");
    scene.expect(&scene.look("a.so"));
}

#[test]
fn a_directory_exchanged_in_a_moment_is_watched_again() {
    let scene = Scene::new(NEVER);
    for round in 0..20 {
        fs::remove_dir_all(scene.path("")).unwrap();
        fs::create_dir(scene.path("")).unwrap();
        let name = format!("a{round}.so");
        scene.write(&name, "a");
        scene.expect(&scene.look(&name));
        // Its watch works: this is an event, no rescan.
        let name = format!("b{round}.so");
        scene.write(&name, "b");
        scene.expect(&scene.look(&name));
    }
}

#[test]
fn a_directory_renamed_away_is_not_mistaken_for_the_new_one() {
    let scene = Scene::new(NEVER);
    fs::rename(scene.path(""), scene.outside("old")).unwrap();
    fs::create_dir(scene.path("")).unwrap();
    scene.write("a.so", "a");
    scene.expect(&scene.look("a.so"));
    scene.so_far();
    fs::write(scene.outside("old/b.so"), "b").unwrap();
    assert!(!scene.so_far().contains(&scene.look("b.so")));
}

#[test]
fn a_directory_link_that_is_switched_is_followed() {
    let scene = Scene::after(SOON, |root| {
        fs::rename(root.join("dir"), root.join("one")).unwrap();
        fs::create_dir(root.join("two")).unwrap();
        fs::write(root.join("two/a.so"), "a").unwrap();
        symlink(root.join("one"), root.join("dir")).unwrap();
    });
    symlink(scene.outside("two"), scene.outside("next")).unwrap();
    fs::rename(scene.outside("next"), scene.root.path().join("dir")).unwrap();
    let before = scene.expect(&scene.look("a.so"));
    assert!(!before.iter().any(|notice| matches!(notice, Notice::DirectoryGone(_))), "{before:?}");
    scene.expect(&Notice::Gone(scene.path("first.so")));
}

#[test]
fn a_directory_that_does_not_exist_yet_is_waited_for() {
    let scene = Scene::after(NEVER, |root| fs::remove_dir(root.join("dir")).unwrap());
    assert_eq!(scene.expect(&Notice::DirectoryGone(scene.root.path().join("dir"))), []);
    fs::create_dir(scene.path("")).unwrap();
    scene.expect(&Notice::DirectoryBack(scene.root.path().join("dir")));
    scene.write("a.so", "a");
    scene.expect(&scene.look("a.so"));
}

#[test]
fn a_file_in_the_place_of_a_directory_is_a_directory_gone() {
    let scene = Scene::after(NEVER, |root| {
        fs::remove_dir(root.join("dir")).unwrap();
        symlink(root.join("nowhere"), root.join("dir")).unwrap();
    });
    scene.expect(&Notice::DirectoryGone(scene.root.path().join("dir")));
}

#[test]
fn the_last_of_fifty_versions_in_a_second_is_looked_at() {
    let scene = Scene::new(NEVER);
    let (next, path) = (scene.outside("next"), scene.path("a.so"));
    let writer = std::thread::spawn(move || {
        for version in 0..50 {
            fs::write(&next, version.to_string()).unwrap();
            fs::rename(&next, &path).unwrap();
        }
    });
    // Each look reads what is there at that moment. Only a look that was sent after the last version finds
    // it.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let notice = scene.notices.recv_deadline(deadline).expect("nobody told of the last version");
        if notice == scene.look("a.so") && fs::read_to_string(scene.path("a.so")).unwrap() == "49" {
            break;
        }
    }
    writer.join().unwrap();
}

#[test]
fn repeats_within_a_burst_are_merged() {
    let scene = Scene::new(NEVER);
    for _ in 0..200 {
        scene.write("a.so", "a");
    }
    let looks = scene.so_far().iter().filter(|notice| **notice == scene.look("a.so")).count();
    assert!((1..=400).contains(&looks), "{looks}");
}

#[test]
fn a_rescan_can_be_asked_for() {
    let scene = Scene::new(NEVER);
    fs::write(scene.outside("target"), "one").unwrap();
    symlink(scene.outside("target"), scene.path("a.so")).unwrap();
    scene.expect(&scene.look("a.so"));
    fs::write(scene.outside("target"), "another").unwrap();
    scene.watcher.rescan_now();
    scene.expect(&scene.look("a.so"));
}

#[test]
fn a_rescan_does_not_repeat_what_an_event_told() {
    let scene = Scene::new(NEVER);
    scene.write("a.so", "a");
    scene.so_far();
    for _ in 0..3 {
        scene.watcher.rescan_now();
        assert_eq!(scene.so_far(), []);
    }
}

#[test]
fn dropping_a_watcher_stops_it_even_if_nobody_listens() {
    let root = tempfile::tempdir().unwrap();
    for number in 0..10 {
        fs::write(root.path().join(format!("{number}.so")), "").unwrap();
    }
    let (notices, received) = crossbeam_channel::bounded(1);
    let watcher = Watcher::start(vec![root.path().into()], NEVER, notices).unwrap();
    assert!(received.recv_timeout(PATIENCE).is_ok());
    drop(watcher); // it is stuck in sending
    assert!(received.iter().count() <= 1);
}

#[test]
fn a_watcher_without_a_listener_ends() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.so"), "").unwrap();
    let (notices, received) = unbounded();
    drop(received);
    let watcher = Watcher::start(vec![root.path().into()], NEVER, notices).unwrap();
    watcher.rescan_now();
}

#[test]
fn without_file_events_rescans_do_it_and_say_so_once() {
    let root = tempfile::tempdir().unwrap();
    let (notices, received) = unbounded();
    let refuse = |_| Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
    let watcher = Watcher::start_with(Native::new(refuse), vec![root.path().into()], SOON, notices).unwrap();
    let next = || received.recv_timeout(PATIENCE).unwrap();
    let Notice::Trouble { dir, message } = next() else { panic!("no trouble") };
    assert_eq!(dir, root.path());
    assert!(message.contains("changes are found by rescans alone"), "{message}");
    let path = root.path().join("a.so");
    for contents in ["a", "version 2", "version three"] {
        fs::write(&path, contents).unwrap();
        // A rescan may come in the middle of it and see the empty file, too.
        while next() == Notice::Look(path.clone()) && fs::read_to_string(&path).unwrap() != contents {}
    }
    fs::remove_file(&path).unwrap();
    while next() != Notice::Gone(path.clone()) {}
    drop(watcher);
}

#[test]
fn names_that_can_be_libraries() {
    for (name, can) in [
        ("a.so", true),
        ("lib.x.so", true),
        (".a.so", false),
        (".so", false),
        ("a.so.1", false),
        ("a", false),
    ] {
        assert_eq!(is_candidate(name.as_ref()), can, "{name}");
    }
}

#[test]
fn events_mean_this() {
    let event = |kind, paths: &[&str]| {
        meaning(&paths.iter().fold(Event::new(kind), |event, path| event.add_path(path.into())))
    };
    let look = |path: &str| vec![Signal::Look(path.into())];
    let close = |mode| EventKind::Access(AccessKind::Close(mode));
    let rename = |mode| EventKind::Modify(ModifyKind::Name(mode));
    assert_eq!(event(EventKind::Create(CreateKind::File), &["/d/a.so"]), look("/d/a.so"));
    assert_eq!(event(close(AccessMode::Write), &["/d/a.so"]), look("/d/a.so"));
    assert_eq!(event(rename(RenameMode::To), &["/d/a.so"]), look("/d/a.so"));
    assert_eq!(event(rename(RenameMode::Any), &["/d/a.so"]), look("/d/a.so"));
    assert_eq!(event(rename(RenameMode::Both), &["/d/b.so", "/d/a.so"]), look("/d/a.so"));
    assert_eq!(event(rename(RenameMode::From), &["/d/a.so"]), [Signal::Absent("/d/a.so".into())]);
    assert_eq!(event(EventKind::Remove(RemoveKind::File), &["/d/a.so"]), [Signal::Absent("/d/a.so".into())]);
    assert_eq!(event(EventKind::Remove(RemoveKind::Folder), &["/d"]), [Signal::Directory("/d".into())]);
    let nothing = [
        (EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/d/a.so"),
        (EventKind::Access(AccessKind::Open(AccessMode::Any)), "/d/a.so"),
        (close(AccessMode::Read), "/d/a.so"),
        (EventKind::Create(CreateKind::File), "/d/a.txt"),
    ];
    for (kind, path) in nothing {
        assert_eq!(event(kind, &[path]), []);
    }
    assert_eq!(event(EventKind::Create(CreateKind::File), &[]), []);
    assert_eq!(meaning(&Event::new(EventKind::Other).set_flag(Flag::Rescan)), [Signal::Rescan]);
}
