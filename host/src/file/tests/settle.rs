use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::file::lease::Writers;
use crate::file::{FileKind, Progress, Settling, UNWITNESSED, WaitReason};

struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Scene { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, contents: &str) -> PathBuf {
        fs::write(self.path(name), contents).unwrap();
        self.path(name)
    }
}

fn look(path: &Path) -> Progress {
    Settling::start(path).poll(Instant::now())
}

/// Looks until the file is ready. Another test may start a program at this moment, and until that runs it has
/// every file of this process open, also one that is being made here.
fn ready(settling: &mut Settling) -> File {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match settling.poll(Instant::now()) {
            Progress::Ready(file) => return file,
            Progress::Wait(_) if Instant::now() < deadline => std::thread::yield_now(),
            other => panic!("not ready: {other:?} ({})", settling.reason()),
        }
    }
}

fn contents(progress: Progress) -> String {
    match progress {
        Progress::Ready(file) => std::io::read_to_string(file).unwrap(),
        other => panic!("not ready: {other:?}"),
    }
}

#[test]
fn a_file_that_nobody_writes_is_ready() {
    let scene = Scene::new();
    let file = ready(&mut Settling::start(scene.file("a.so", "whole")));
    assert_eq!(std::io::read_to_string(file).unwrap(), "whole");
}

#[test]
fn a_file_is_not_ready_while_somebody_has_it_open_for_writing() {
    let scene = Scene::new();
    let path = scene.file("a.so", "");
    let mut writer = File::create(&path).unwrap();
    writer.set_len(1000).unwrap(); // preallocated: no size tells that it is incomplete
    let mut settling = Settling::start(&path);
    let now = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..4 {
        match settling.poll(now + Duration::from_secs(1)) {
            Progress::Wait(wait) => waits.push(wait.as_millis()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(waits, [5, 10, 20, 20]);
    assert_eq!(settling.reason(), &WaitReason::BeingWritten);
    assert_eq!(settling.waited(now + Duration::from_secs(3)), Duration::from_secs(2));
    writer.write_all(&[b'x'; 1000]).unwrap();
    drop(writer);
    assert_eq!(std::io::read_to_string(ready(&mut settling)).unwrap(), "x".repeat(1000));
}

#[test]
fn what_is_no_file_is_told() {
    let scene = Scene::new();
    assert!(matches!(look(&scene.path("absent.so")), Progress::Gone));
    assert!(matches!(look(&scene.file("a.so", "").join("b.so")), Progress::Gone));
    assert!(matches!(look(scene.directory.path()), Progress::NotAFile(FileKind::Directory)));
    assert!(matches!(look(Path::new("/dev/zero")), Progress::NotAFile(FileKind::Device)));
    assert!(Command::new("mkfifo").arg(scene.path("fifo.so")).status().unwrap().success());
    assert!(matches!(look(&scene.path("fifo.so")), Progress::NotAFile(FileKind::Fifo)));
    std::os::unix::fs::symlink(scene.path("absent.so"), scene.path("dangling.so")).unwrap();
    assert!(matches!(look(&scene.path("dangling.so")), Progress::Gone));
    std::os::unix::fs::symlink(scene.path("loop.so"), scene.path("loop.so")).unwrap();
    assert!(matches!(look(&scene.path("loop.so")), Progress::Unreadable(_)));
}

thread_local! {
    /// Files to rename, one at each question to the witness.
    static EXCHANGES: RefCell<Vec<(PathBuf, PathBuf)>> = const { RefCell::new(Vec::new()) };
}

fn exchange_and_say_nobody(_: &File) -> Writers {
    if let Some((from, to)) = EXCHANGES.with_borrow_mut(Vec::pop) {
        fs::rename(from, to).unwrap();
    }
    Writers::Nobody
}

#[test]
fn a_file_exchanged_meanwhile_is_not_handed_out() {
    let scene = Scene::new();
    let path = scene.file("a.so", "old");
    EXCHANGES.set(vec![(scene.file("new", "new"), path.clone())]);
    let mut settling = Settling::start(&path);
    settling.witness = exchange_and_say_nobody;
    assert_eq!(contents(settling.poll(Instant::now())), "new");
}

#[test]
fn a_file_exchanged_for_ever_is_waited_for() {
    let scene = Scene::new();
    let path = scene.file("a.so", "old");
    EXCHANGES.set((0..3).map(|n| (scene.file(&format!("new{n}"), "new"), path.clone())).collect());
    let mut settling = Settling::start(&path);
    settling.witness = exchange_and_say_nobody;
    assert!(matches!(settling.poll(Instant::now()), Progress::Wait(_)));
    assert_eq!(settling.reason(), &WaitReason::Exchanged);
    assert_eq!(contents(settling.poll(Instant::now())), "new");
}

fn say_nothing(_: &File) -> Writers {
    Writers::Unknown(std::io::ErrorKind::PermissionDenied.into())
}

#[test]
fn without_a_witness_a_file_has_to_stay_the_same() {
    let scene = Scene::new();
    let path = scene.file("a.so", "half");
    let mut settling = Settling::start(&path);
    settling.witness = say_nothing;
    let start = Instant::now();
    let mut at = |after: u64| settling.poll(start + Duration::from_millis(after));
    assert!(matches!(at(0), Progress::Wait(UNWITNESSED)));
    assert!(matches!(at(400), Progress::Wait(left) if left == Duration::from_millis(100)));
    fs::write(&path, "whole").unwrap();
    assert!(matches!(at(500), Progress::Wait(UNWITNESSED)), "it was written to");
    assert!(matches!(at(999), Progress::Wait(_)));
    assert_eq!(contents(at(1_000)), "whole");
    assert!(settling.reason().to_string().contains("permission denied"));
}

#[test]
fn a_change_that_no_time_stamp_shows_is_seen_in_the_contents() {
    let scene = Scene::new();
    let path = scene.file("a.so", "one");
    let mut settling = Settling::start(&path);
    settling.witness = say_nothing;
    let start = Instant::now();
    assert!(matches!(settling.poll(start), Progress::Wait(_)));
    // As if the file had been read as something else at the first look.
    settling.forge_reading();
    assert!(matches!(settling.poll(start + UNWITNESSED), Progress::Wait(UNWITNESSED)));
    assert_eq!(contents(settling.poll(start + 2 * UNWITNESSED)), "one");
}

#[test]
fn a_writer_that_arrives_while_we_look_notices_nothing() {
    let scene = Scene::new();
    let path = scene.file("a.so", "x");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writes = 0;
            while !stop.load(Ordering::Relaxed) || writes == 0 {
                fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
                writes += 1;
            }
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut ready, mut looks) = (0, 0);
        while (ready < 100 || looks < 2_000) && Instant::now() < deadline {
            ready += usize::from(matches!(look(&path), Progress::Ready(_)));
            looks += 1;
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        assert!(ready > 0, "never ready in {looks} looks");
    });
}

#[test]
fn the_signal_of_a_file_is_put_back() {
    let scene = Scene::new();
    let path = scene.file("a.so", "x");
    let file = ready(&mut Settling::start(&path));
    assert_eq!(crate::file::lease::signal_of(&file), 0);
}
