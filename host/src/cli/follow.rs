//! Which source directories have changed.
//!
//! Directories are watched one by one, not recursively, so that build output below them costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::fstat;

/// How long further edits are waited for: an editor's save is several events.
const COALESCE: Duration = Duration::from_millis(20);

/// Watches source directories.
pub struct Sources {
    watcher: RecommendedWatcher,
    roots: Vec<PathBuf>,
    /// Directories of which only the files are followed.
    flat: Vec<PathBuf>,
    watched: BTreeSet<PathBuf>,
    /// Paths that have changed.
    edits: Receiver<PathBuf>,
    /// What was in the files that have changed, as a hash; `None`: nothing that could be read.
    seen: BTreeMap<PathBuf, Option<u64>>,
}

impl Sources {
    /// Watches these directories and what is below them.
    pub fn watch(roots: Vec<PathBuf>) -> Result<Sources> {
        let (sender, edits) = unbounded();
        let watcher = notify::recommended_watcher(move |event| tell(event, &sender))
            .context("the sources cannot be watched")?;
        let (flat, watched, seen) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let mut sources = Sources { watcher, roots, flat, watched, edits, seen };
        sources.refresh();
        Ok(sources)
    }

    /// Watches these directories as well.
    pub fn extend(&mut self, roots: impl IntoIterator<Item = PathBuf>) {
        for root in roots {
            if !self.roots.contains(&root) {
                self.roots.push(root);
            }
        }
        self.refresh();
    }

    /// Watches the files of these directories, and not what is below them.
    pub fn extend_flat(&mut self, dirs: impl IntoIterator<Item = PathBuf>) {
        self.flat = dirs.into_iter().collect();
        self.refresh();
    }

    /// Watches directories that have come since.
    fn refresh(&mut self) {
        for dir in self.flat.clone() {
            self.watch_one(&dir);
        }
        for root in self.roots.clone() {
            self.descend(&root);
        }
    }

    fn watch_one(&mut self, dir: &Path) {
        if !self.watched.contains(dir) {
            match self.watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(dir.to_owned())),
                Err(error) => tracing::warn!("{} is not followed: {error}", dir.display()),
            }
        }
    }

    fn descend(&mut self, dir: &Path) {
        self.watch_one(dir);
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_source(&path) {
                self.descend(&path);
            }
        }
    }

    /// Waits for edits, for `limit` at most, and takes together what comes together.
    pub fn next(&mut self, limit: Duration) -> BTreeSet<PathBuf> {
        let edited = self.told(limit);
        for path in &edited {
            self.seen.insert(path.clone(), content(path));
        }
        edited
    }

    /// The edits that came during a build. A file that was written with what was in it before does not count: build
    /// scripts write among the sources too, and a build must not be what starts the next.
    pub fn during_a_build(&mut self) -> BTreeSet<PathBuf> {
        let mut edited = self.told(Duration::ZERO);
        edited.retain(|path| {
            let now = content(path);
            self.seen.insert(path.clone(), now) != Some(now)
        });
        edited
    }

    fn told(&mut self, limit: Duration) -> BTreeSet<PathBuf> {
        let mut edited = BTreeSet::new();
        let mut wait = limit;
        while let Ok(path) = self.edits.recv_timeout(wait) {
            edited.insert(path);
            wait = COALESCE;
        }
        if !edited.is_empty() {
            // A directory that is told of was made, moved or removed: what was watched by that name is no more.
            self.watched.retain(|dir| !edited.iter().any(|path| dir.starts_with(path)));
            self.refresh();
        }
        edited
    }
}

/// A hash of what is in a file.
fn content(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    hasher.write(&std::fs::read(path).ok()?);
    Some(hasher.finish())
}

fn tell(event: notify::Result<notify::Event>, sender: &Sender<PathBuf>) {
    let Ok(event) = event else { return };
    let changes = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    };
    if changes {
        for path in event.paths.into_iter().filter(|path| is_source(path) && !is_own_output(path)) {
            // Nobody listens any more when the program ends.
            let _ = sender.send(path);
        }
    }
}

/// Whether a path can be something that a person has written: not what builds and editors leave behind.
fn is_source(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let left_behind = name.starts_with('.')
        || name.starts_with('#')
        || name.ends_with('~')
        || [".swp", ".swx", ".tmp", ".bak", ".log"].iter().any(|end| name.ends_with(end))
        || name == "Cargo.lock"
        || name == "4913"; // vim's test whether it can write here
    !left_behind && !is_build_directory(path, name)
}

/// Whether this program writes it: what it says of an edit is not the next one.
fn is_own_output(path: &Path) -> bool {
    is_open_as(path, std::io::stdout()) || is_open_as(path, std::io::stderr())
}

fn is_open_as(path: &Path, open: impl AsFd) -> bool {
    let named = std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    named.is_ok_and(|named| fstat(open).is_ok_and(|file| (file.st_dev, file.st_ino) == named))
}

/// Cargo's own, whatever it is called; `src/target` is as good a source as any.
fn is_build_directory(path: &Path, name: &str) -> bool {
    let beside_a_manifest = || path.parent().is_some_and(|dir| dir.join("Cargo.toml").exists());
    path.join("CACHEDIR.TAG").exists() || (name == "target" && beside_a_manifest())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_told_and_what_an_editor_leaves_behind_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("src")).unwrap();
        std::fs::create_dir_all(dir.path().join("target/debug")).unwrap();
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        let mut sources = Sources::watch(vec![dir.path().to_owned()]).unwrap();
        std::fs::write(dir.path().join("target/debug/out"), "").unwrap();
        std::fs::write(dir.path().join("src/.lib.rs.swp"), "").unwrap();
        std::fs::write(dir.path().join("src/lib.rs"), "").unwrap();
        let edited = sources.next(Duration::from_secs(20));
        assert_eq!(edited.into_iter().collect::<Vec<_>>(), [dir.path().join("src/lib.rs")]);
    }

    #[test]
    fn what_this_program_writes_is_no_edit() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        let file = std::fs::File::create(&own).unwrap();
        std::fs::write(&other, "").unwrap();
        assert!(is_open_as(&own, &file) && !is_open_as(&other, &file));
        assert!(!is_source(&dir.path().join("dev.log")), "nor what another program writes for it");
    }

    #[test]
    fn a_directory_that_comes_later_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mut sources = Sources::watch(vec![dir.path().to_owned()]).unwrap();
        let module = dir.path().join("module");
        std::fs::create_dir(&module).unwrap();
        assert!(sources.next(Duration::from_secs(20)).contains(&module));
        std::fs::write(module.join("mod.rs"), "").unwrap();
        assert!(sources.next(Duration::from_secs(20)).contains(&module.join("mod.rs")));
    }

    #[test]
    fn of_a_flat_directory_the_files_are_followed_and_what_is_below_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("elsewhere")).unwrap();
        let mut sources = Sources::watch(Vec::new()).unwrap();
        sources.extend_flat([dir.path().to_owned()]);
        std::fs::write(dir.path().join("elsewhere/lib.rs"), "").unwrap();
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        let edited = sources.next(Duration::from_secs(20));
        assert_eq!(edited.into_iter().collect::<Vec<_>>(), [dir.path().join("Cargo.toml")]);
    }

    #[test]
    fn a_directory_that_is_replaced_is_followed_again() {
        let dir = tempfile::tempdir().unwrap();
        let (module, file) = (dir.path().join("module"), dir.path().join("module/mod.rs"));
        std::fs::create_dir(&module).unwrap();
        std::fs::write(&file, "").unwrap();
        let mut sources = Sources::watch(vec![dir.path().to_owned()]).unwrap();
        std::fs::remove_dir_all(&module).unwrap();
        assert!(sources.next(Duration::from_secs(20)).contains(&module));
        std::fs::create_dir(&module).unwrap();
        assert!(sources.next(Duration::from_secs(20)).contains(&module));
        std::fs::write(&file, "").unwrap();
        assert!(sources.next(Duration::from_secs(20)).contains(&file));
    }

    #[test]
    fn a_module_may_be_called_target() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("target")).unwrap();
        assert!(is_source(&dir.path().join("target")));
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        assert!(!is_source(&dir.path().join("target")));
    }

    #[test]
    fn a_build_that_writes_the_same_again_is_no_edit() {
        let dir = tempfile::tempdir().unwrap();
        let (made, mut sources) =
            (dir.path().join("made.rs"), Sources::watch(vec![dir.path().to_owned()]).unwrap());
        let write = |text: &str| std::fs::write(&made, text).unwrap();
        let mut edited = |during_a_build: bool| {
            // Told is told at once, but by another thread.
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            while sources.edits.is_empty() && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
            let edited =
                if during_a_build { sources.during_a_build() } else { sources.next(Duration::from_secs(20)) };
            !edited.is_empty()
        };
        write("1");
        assert!(edited(true), "not seen before");
        write("1");
        assert!(!edited(true), "the same");
        write("2");
        assert!(edited(true), "another");
        write("2");
        assert!(edited(false), "a person has saved it");
    }
}
