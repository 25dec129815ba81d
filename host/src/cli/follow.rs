//! Which source directories have changed.
//!
//! Directories are watched one by one, not recursively, so that build output below them costs nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// How long further edits are waited for: an editor's save is several events.
const COALESCE: Duration = Duration::from_millis(20);

/// Watches source directories.
pub struct Sources {
    watcher: RecommendedWatcher,
    roots: Vec<PathBuf>,
    watched: BTreeSet<PathBuf>,
    /// Paths that have changed.
    edits: Receiver<PathBuf>,
}

impl Sources {
    /// Watches these directories and what is below them.
    pub fn watch(roots: Vec<PathBuf>) -> Result<Sources> {
        let (sender, edits) = unbounded();
        let watcher = notify::recommended_watcher(move |event| tell(event, &sender))
            .context("the sources cannot be watched")?;
        let mut sources = Sources { watcher, roots, watched: BTreeSet::new(), edits };
        sources.refresh();
        Ok(sources)
    }

    /// Watches directories that have come since.
    pub fn refresh(&mut self) {
        for root in self.roots.clone() {
            self.descend(&root);
        }
    }

    fn descend(&mut self, dir: &Path) {
        if !self.watched.contains(dir) {
            match self.watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(dir.to_owned())),
                Err(error) => tracing::warn!("{} is not followed: {error}", dir.display()),
            }
        }
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
        let mut edited = BTreeSet::new();
        let mut wait = limit;
        while let Ok(path) = self.edits.recv_timeout(wait) {
            edited.insert(path);
            wait = COALESCE;
        }
        if !edited.is_empty() {
            self.refresh();
        }
        edited
    }
}

fn tell(event: notify::Result<notify::Event>, sender: &Sender<PathBuf>) {
    let Ok(event) = event else { return };
    let changes = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    };
    if changes {
        for path in event.paths.into_iter().filter(|path| is_source(path)) {
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
        || [".swp", ".swx", ".tmp", ".bak"].iter().any(|end| name.ends_with(end))
        || name == "Cargo.lock"
        || name == "4913"; // vim's test whether it can write here
    !left_behind && !path.join("CACHEDIR.TAG").exists() && name != "target"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_told_and_what_an_editor_leaves_behind_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("src")).unwrap();
        std::fs::create_dir_all(dir.path().join("target/debug")).unwrap();
        let mut sources = Sources::watch(vec![dir.path().to_owned()]).unwrap();
        std::fs::write(dir.path().join("target/debug/out"), "").unwrap();
        std::fs::write(dir.path().join("src/.lib.rs.swp"), "").unwrap();
        std::fs::write(dir.path().join("src/lib.rs"), "").unwrap();
        let edited = sources.next(Duration::from_secs(20));
        assert_eq!(edited.into_iter().collect::<Vec<_>>(), [dir.path().join("src/lib.rs")]);
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
}
