//! The files beside the store: the saved states, each a frame, and the builds that are kept.
//!
//! Invariants:
//! 1. A file has its final name only when all of it is on disk.
//! 2. The store names a file only after that, and what it does not name is removed.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file::{ContentHash, signature_of};

/// Where a host keeps states and builds.
pub(super) struct Files {
    state_dir: PathBuf,
}

const STATES: &str = "saved";
const BUILDS: &str = "builds";

impl Files {
    pub(super) fn of(state_dir: &Path) -> Files {
        Files { state_dir: state_dir.to_owned() }
    }

    fn states(&self) -> PathBuf {
        self.state_dir.join(STATES)
    }

    fn builds(&self) -> PathBuf {
        self.state_dir.join(BUILDS)
    }

    /// Where a state of a plugin is.
    pub(super) fn state(&self, plugin: &str, name: &str) -> PathBuf {
        self.states().join(plugin).join(name)
    }

    /// Where a build is kept.
    pub(super) fn build(&self, hash: ContentHash) -> PathBuf {
        self.builds().join(format!("{hash}.so"))
    }

    /// Whether states were saved here.
    pub(super) fn has_states(&self) -> bool {
        fs::read_dir(self.states()).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// The signature that is kept with a build.
    pub(super) fn signature(&self, hash: ContentHash) -> io::Result<Option<Arc<str>>> {
        match fs::read_to_string(signature_of(&self.build(hash))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => text.map(|text| Some(text.into())),
        }
    }

    /// Gives a private copy one more name, under which it stays. Its signature comes first: a build without it would not
    /// be gone on with.
    pub(super) fn keep_build(
        &self,
        hash: ContentHash,
        copy: &Path,
        signature: Option<&str>,
    ) -> io::Result<()> {
        let kept = self.build(hash);
        make(&self.builds())?;
        if let Some(signature) =
            signature.filter(|text| !matches!(self.signature(hash), Ok(Some(known)) if *known == **text))
        {
            let unfinished = kept.with_extension("new-signature");
            fs::write(&unfinished, signature)?;
            fs::rename(unfinished, signature_of(&kept))?;
        }
        if kept.exists() {
            return Ok(());
        }
        match fs::hard_link(copy, &kept) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                // Not on this file system.
                let unfinished = kept.with_extension("new");
                fs::copy(copy, &unfinished)?;
                fs::rename(unfinished, kept)
            }
            _ => Ok(()),
        }
    }

    /// Sees to it that a kept build is on disk.
    pub(super) fn settle_build(&self, hash: ContentHash) -> io::Result<()> {
        for path in [signature_of(&self.build(hash)), self.build(hash)] {
            match File::open(path) {
                Ok(file) => file.sync_all()?,
                // It has none, or could not be kept, which has been told.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        match sync(&self.builds()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    /// Writes a state under a name of its own.
    pub(super) fn write_state(&self, plugin: &str, version: u32, frame: &[u8]) -> io::Result<String> {
        let directory = self.states().join(plugin);
        make(&directory)?;
        let number = self.names(plugin)?.iter().filter_map(|name| number(name)).max().unwrap_or(0) + 1;
        let name = format!("{number}-v{version}.state");
        let unfinished = directory.join(".new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let written = file.write_all(frame).and_then(|()| file.sync_all());
        written.inspect_err(|_| self.remove_state(plugin, ".new"))?;
        let named = fs::rename(&unfinished, directory.join(&name)).and_then(|()| sync(&directory));
        named.inspect_err(|_| self.remove_state(plugin, &name)).map(|()| name)
    }

    /// Removes a state, if it is there.
    pub(super) fn remove_state(&self, plugin: &str, name: &str) {
        let _ = fs::remove_file(self.state(plugin, name));
    }

    fn names(&self, plugin: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.states().join(plugin)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Removes the states of a plugin, but for those named.
    pub(super) fn sweep_states(&self, plugin: &str, named: &BTreeSet<String>) -> io::Result<()> {
        for name in self.names(plugin)?.iter().filter(|name| !named.contains(*name)) {
            fs::remove_file(self.state(plugin, name))?;
        }
        if named.is_empty() {
            // It may not be there.
            let _ = fs::remove_dir(self.states().join(plugin));
        }
        Ok(())
    }

    /// Removes the states of all plugins but those named.
    pub(super) fn sweep_unknown(&self, plugins: &BTreeSet<String>) {
        let entries = fs::read_dir(self.states()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        for plugin in names.filter(|name| !plugins.contains(name)) {
            // What stays goes another time.
            let _ = self.sweep_states(&plugin, &BTreeSet::new());
        }
    }

    /// Removes the builds but for those named, with their signatures.
    pub(super) fn sweep_builds(&self, named: &BTreeSet<ContentHash>) -> io::Result<()> {
        let entries = match fs::read_dir(self.builds()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().and_then(|name| name.to_str());
            let hash = name.and_then(|name| name.split('.').next()?.parse::<ContentHash>().ok());
            if !hash.is_some_and(|hash| named.contains(&hash)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Puts all of this, and `more`, where no host looks. Where that is, if there was anything.
    pub(super) fn set_aside(&self, more: Option<&Path>, at_ms: u64) -> io::Result<Option<PathBuf>> {
        let aside = self.state_dir.join(format!("set-aside-{at_ms}"));
        let all = [self.states(), self.builds()].into_iter().chain(more.map(Path::to_owned));
        let there: Vec<_> = all.filter(|path| path.exists()).collect();
        if there.is_empty() {
            return Ok(None);
        }
        make(&aside)?;
        for path in there {
            fs::rename(&path, aside.join(path.file_name().unwrap_or_default()))?;
        }
        Ok(Some(aside))
    }
}

/// A name's number.
fn number(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok()
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Names are on disk only when their directory is.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
