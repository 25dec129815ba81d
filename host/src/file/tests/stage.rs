use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::sample::{library, vet, write};
use crate::file::run_dir::started;
use crate::file::{ContentHash, Incoming, StageError, Staged, StagingDir};

struct Scene {
    root: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Scene { root: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn open(&self) -> StagingDir {
        StagingDir::open(&self.state()).unwrap()
    }

    fn source(&self, bytes: &[u8]) -> File {
        let path = self.root.path().join("source.so");
        write(&path, bytes);
        File::open(path).unwrap()
    }

    fn copy(&self, staging: &StagingDir, bytes: &[u8]) -> Incoming {
        again(|| staging.copy(&self.source(bytes)))
    }

    /// A directory as a host of this process id leaves it when it is killed.
    fn left_by(&self, name: &str, record: Option<&str>) -> PathBuf {
        let path = self.state().join("run").join(name);
        fs::create_dir_all(&path).unwrap();
        if let Some(record) = record {
            write(&path.join("started"), record.as_bytes());
            write(&path.join("limiter-1-00000000.so"), b"old");
        }
        path
    }
}

/// Tries until it works. Another test may start a program at this moment, and until that runs it has every
/// file of this process open, also one that is being made here.
fn again<T>(mut attempt: impl FnMut() -> Result<T, StageError>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(StageError::ChangedWhileCopied) if Instant::now() < deadline => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn name_of(staged: &Staged) -> &str {
    staged.path().file_name().unwrap().to_str().unwrap()
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_copy_is_vetted_and_named() {
    let scene = Scene::new();
    let staging = scene.open();
    let incoming = scene.copy(&staging, library());
    assert_eq!(incoming.hash(), ContentHash::of(library()));
    assert_eq!(fs::metadata(incoming.path()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(vet(incoming.contents()).unwrap().manifest.plugin, "limiter");

    let staged = incoming.name("limiter", 3).unwrap();
    let expected = format!("limiter-3-{}.so", ContentHash::of(library()).short());
    assert_eq!(staged.path(), staging.path().join(expected));
    assert_eq!(
        (fs::read(staged.path()).unwrap().as_slice(), staged.bytes()),
        (library(), library().len() as u64)
    );
    assert_eq!(fs::metadata(staged.path()).unwrap().mode() & 0o777, 0o500);
    assert_eq!(names_in(staging.path()).len(), 2, "the record and the copy");
}

#[test]
fn a_name_in_use_is_never_used_again() {
    let scene = Scene::new();
    let staging = scene.open();
    let stage = || scene.copy(&staging, b"same").name("limiter", 1).unwrap();
    let (first, second, third) = (stage(), stage(), stage());
    let stem = format!("limiter-1-{}", ContentHash::of(b"same").short());
    assert_eq!(name_of(&first), format!("{stem}.so"));
    assert_eq!(name_of(&second), format!("{stem}-2.so"));
    assert_eq!(name_of(&third), format!("{stem}-3.so"));
    assert_eq!(fs::read(first.path()).unwrap(), b"same");
}

#[test]
fn what_nobody_keeps_is_removed() {
    let scene = Scene::new();
    let staging = scene.open();
    let incoming = scene.copy(&staging, b"a");
    let path = incoming.path().to_path_buf();
    drop(incoming);
    assert!(!path.exists());

    let staged = scene.copy(&staging, b"b").name("limiter", 1).unwrap();
    let path = staged.path().to_path_buf();
    staged.unlink();
    assert!(!path.exists());

    let kept = scene.copy(&staging, b"c").name("limiter", 2).unwrap().keep();
    assert!(kept.exists());
    drop(staging);
    assert!(kept.exists(), "what is kept keeps its directory");
}

#[test]
fn the_directory_goes_with_the_last_copy() {
    let scene = Scene::new();
    let staging = scene.open();
    let directory = staging.path().to_path_buf();
    let staged = scene.copy(&staging, b"a").name("limiter", 1).unwrap();
    drop(staging);
    assert!(directory.exists());
    drop(staged);
    assert!(!directory.exists());
    assert_eq!(names_in(&scene.state().join("run")), Vec::<String>::new());
}

#[test]
fn a_source_that_is_written_to_is_not_copied() {
    let scene = Scene::new();
    let staging = scene.open();
    let source = scene.source(b"half");
    let _writer = fs::OpenOptions::new().append(true).open(scene.root.path().join("source.so")).unwrap();
    let error = staging.copy(&source).unwrap_err();
    assert!(matches!(error, StageError::ChangedWhileCopied), "{error}");
    assert_eq!(names_in(staging.path()), ["started"]);
}

#[test]
fn a_source_is_copied_from_its_beginning() {
    let scene = Scene::new();
    let staging = scene.open();
    let source = scene.source(b"whole");
    std::io::read_to_string(&source).unwrap();
    assert_eq!(again(|| staging.copy(&source)).contents(), b"whole");
}

#[test]
fn a_name_that_is_a_path_is_refused() {
    let scene = Scene::new();
    let staging = scene.open();
    let error = scene.copy(&staging, b"a").name("../../limiter", 1).unwrap_err();
    assert!(matches!(error, StageError::NotAName { .. }), "{error}");
}

#[test]
fn a_huge_source_is_refused_without_reading_it() {
    let scene = Scene::new();
    let staging = scene.open();
    let source = scene.source(b"");
    fs::OpenOptions::new()
        .write(true)
        .open(scene.root.path().join("source.so"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert!(matches!(staging.copy(&source), Err(StageError::TooLarge { .. })));
}

#[test]
fn directories_are_private() {
    let scene = Scene::new();
    let staging = scene.open();
    for directory in [scene.state(), scene.state().join("run"), staging.path().to_path_buf()] {
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700, "{}", directory.display());
    }
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let open = |state: &Path, run: u32| {
        fs::create_dir_all(state.join("run")).unwrap();
        let modes = [(state.join("run"), run), (state.to_path_buf(), 0o777)];
        modes.iter().for_each(|(path, mode)| {
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        });
        StagingDir::open(state)
    };
    let scene = Scene::new();
    let error = open(&scene.state(), 0o700).unwrap_err();
    assert!(error.to_string().contains("state: it is writable by others (mode 0777"), "{error}");
    let error = open(&scene.state(), 0o777).unwrap_err();
    assert!(error.to_string().contains("state/run: it is writable by others"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let scene = Scene::new();
    write(&scene.state(), b"a file");
    let error = StagingDir::open(&scene.state()).unwrap_err().to_string();
    assert!(error.contains(scene.state().to_str().unwrap()), "{error}");
}

#[test]
fn two_hosts_in_one_process_do_not_share() {
    let scene = Scene::new();
    let (first, second) = (scene.open(), scene.open());
    let pid = std::process::id();
    assert_eq!(first.path(), scene.state().join("run").join(pid.to_string()));
    assert_eq!(second.path(), scene.state().join("run").join(format!("{pid}-2")));
    let staged = scene.copy(&first, b"a").name("limiter", 1).unwrap();
    drop(second);
    assert!(staged.path().exists());
}

/// The id of a process that has ended.
fn dead() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn what_dead_hosts_left_is_swept() {
    let scene = Scene::new();
    let dead = dead();
    let left = [
        scene.left_by(&dead.to_string(), Some("123 boot")),
        scene.left_by(&format!("{dead}-2"), Some("")),
        scene.left_by(&format!(".{dead}-0"), Some("123 boot")),
        scene.left_by(&format!(".{dead}-1"), None),
    ];
    let _staging = scene.open();
    for path in left {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn a_process_id_used_again_keeps_no_garbage() {
    let scene = Scene::new();
    // Process 1 lives, but it is not the one that was recorded; nor are we.
    let left = [
        scene.left_by("1", Some("0 other boot")),
        scene.left_by(&std::process::id().to_string(), Some("0 x")),
    ];
    let staging = scene.open();
    assert!(!left[0].exists());
    assert_eq!(staging.path(), left[1], "our own name was free again");
    assert_eq!(names_in(staging.path()), ["started"]);
}

#[test]
fn what_belongs_to_a_living_host_stays() {
    let scene = Scene::new();
    let dead = dead();
    let recorded = scene.left_by("1", Some(&started(1).unwrap()));
    // A process that we cannot see, for instance in another container, still holds its lock.
    let locked = scene.left_by(&dead.to_string(), Some("123 boot"));
    let lock = File::open(locked.join("started")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let strange = scene.left_by("lost+found", Some("x"));
    let _staging = scene.open();
    for path in [&recorded, &locked, &strange] {
        assert_eq!(names_in(path).len(), 2, "{}", path.display());
    }
    drop(lock);
    // Not at once: a program that another test starts may hold the lock for a moment, too.
    let deadline = Instant::now() + Duration::from_secs(20);
    while locked.exists() && Instant::now() < deadline {
        drop(scene.open());
    }
    assert!(!locked.exists() && recorded.exists());
}

#[test]
fn hosts_that_start_at_once_get_directories_of_their_own() {
    let scene = Scene::new();
    let dead = dead();
    for number in 2..20 {
        scene.left_by(&format!("{dead}-{number}"), Some("123 boot"));
    }
    let open = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| scene.open())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let mut paths: Vec<_> = open.iter().map(|staging| staging.path().to_path_buf()).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), 8);
    assert_eq!(names_in(&scene.state().join("run")).len(), 8, "the rest was swept");
}

#[test]
fn hashes_are_printed_and_read() {
    let hash = ContentHash::of(b"");
    let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!((hash.to_string(), hash.short()), (text.to_owned(), text[..8].to_owned()));
    assert_eq!(text.parse(), Ok(hash));
    assert_eq!(serde_json::to_value(hash).unwrap(), text);
    for bad in ["", "e3", &text[1..], &text.replace('e', "x"), &"ä".repeat(32)] {
        assert!(bad.parse::<ContentHash>().is_err(), "{bad}");
    }
}
