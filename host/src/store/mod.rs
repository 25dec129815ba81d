//! What outlives the process, in the state directory: which builds are known to be bad, which have passed their probe,
//! and for each plugin the build that served last, with its state, and the one before.
//!
//! Nothing is written before there is something to write. A store that cannot be written while the host runs costs its
//! memory and nothing else: the host says so, goes on, and tries again. One that cannot be *read* keeps a host from
//! starting, since it would begin with less than it was told to keep, until it is told to begin afresh.

mod database;
mod files;
mod keeper;
mod pairs;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::events::Event;
use crate::file::ContentHash;
use crate::journal::{Journal, now_ms};
use crate::lock::{join_within, lock};
use crate::options::Options;
use crate::snapshot::Frame;

use database::{Database, Read, Verdicts};
use files::Files;
use keeper::Keeper;
pub(crate) use pairs::{Commit, Pair};

/// How long a host that starts waits for a disk.
const LIMIT: Duration = Duration::from_secs(5);

/// How a build was tried: what it does when it starts empty says nothing about what it does with a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tried {
    Empty,
    WithState,
}

/// A build that is refused for what it has done before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Denial {
    /// SHA-256 of the file, hexadecimal.
    pub hash: String,
    /// The plugin that it claims to be.
    pub plugin: String,
    /// The version of the build.
    pub version: String,
    /// Where it was.
    pub file: PathBuf,
    /// What it has done.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A build of a plugin that is kept, and the state that it goes on from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Committed {
    /// SHA-256 of the build, hexadecimal.
    pub hash: String,
    /// Its version.
    pub version: String,
    /// Where it came from.
    pub file: PathBuf,
    /// When it took over, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether a host has lived for a minute after that.
    pub proven: bool,
    /// Its state, if it has one that was saved.
    pub state: Option<SavedState>,
}

/// A state that was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SavedState {
    /// Its version.
    pub version: u32,
    /// Its size.
    pub bytes: u64,
    /// When it was saved, in milliseconds since 1970.
    pub at_ms: u64,
    /// Where it is. `None`: it is being written.
    pub path: Option<PathBuf>,
}

/// Why a host does not begin with what was kept for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store is not readable.
    #[error(
        "the store {} is damaged: {why}; put back a copy of it, or begin without it, with `reseat run --fresh` or `start_fresh`, which sets it and the saved states aside",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There are saved states and no store that says what they are.
    #[error(
        "the store {} is gone, but there are saved states beside it: put it back, or begin without them, with `reseat run --fresh` or `start_fresh`, which sets them aside",
        path.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// What is there cannot be set aside.
    #[error("what is in {} cannot be set aside: {source}", directory.display())]
    Aside {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The system refuses another thread.
    #[error("no thread for the store: {0}")]
    Thread(#[source] std::io::Error),
}

/// A plugin to go on with.
pub(crate) struct Kept {
    pub(crate) plugin: String,
    pub(crate) pair: Pair,
    pub(crate) before: Option<Pair>,
}

/// See the module.
pub(crate) struct Store {
    database: Database,
    verdicts: Mutex<Verdicts>,
    keeper: Arc<Keeper>,
    /// `None`: pairs are not kept.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close(LIMIT);
    }
}

impl Store {
    /// Reads what an earlier host has written.
    pub(crate) fn open(options: &Options, journal: Arc<Journal>) -> Result<Store, StoreError> {
        let Options { ref state_dir, persist: keeps, start_fresh: fresh, proving, .. } = *options;
        let files = Files::of(state_dir);
        let path = state_dir.join("store.redb");
        let set_aside = |store: Option<&Path>| {
            let aside = files.set_aside(store, now_ms());
            let aside =
                aside.map_err(|source| StoreError::Aside { directory: state_dir.to_owned(), source })?;
            if let Some(aside) = aside {
                let what = format!("what was saved before is set aside in {}", aside.display());
                journal.record(Event::Trouble { what });
            }
            Ok(())
        };
        if !fresh && !path.exists() && files.has_states() {
            return Err(StoreError::Gone { path });
        }
        let (database, Read { verdicts, mut pairs, died_with }) = match Database::open(&path, &journal) {
            Ok(opened) => opened,
            Err(_) if fresh => {
                set_aside(Some(&path))?;
                (Database::new(&path, &journal), Read::default())
            }
            Err(why) => return Err(StoreError::Damaged { path, why }),
        };
        // What is beside a store that another host uses is that host's.
        let is_ours = database.is_usable();
        if fresh && is_ours {
            // First what names the files, then the files.
            let cleared = database.clear_pairs();
            cleared.map_err(|error| StoreError::Damaged { path: path.clone(), why: error.to_string() })?;
            set_aside(None)?;
        }
        let keeps = keeps && is_ours;
        if !keeps || fresh {
            pairs = pairs::Pairs::default();
        } else if let Some(opened) = died_with {
            pairs.blame(&opened);
        }
        let keeper = Arc::new(Keeper::new(files, pairs, database.clone(), journal, proving));
        let thread = keeps.then(|| Keeper::start(&keeper)).transpose().map_err(StoreError::Thread)?;
        Ok(Store { database, verdicts: Mutex::new(verdicts), keeper, thread: Mutex::new(thread) })
    }

    /// Writes what has yet to be written, and leaves the file to the next host. A disk that does not answer is not waited
    /// for longer than this.
    pub(crate) fn close(&self, limit: Duration) {
        if let Some(thread) = lock(&self.thread).take() {
            self.keeper.end();
            join_within(thread, limit);
        }
        self.database.close();
    }

    fn keeps(&self) -> bool {
        lock(&self.thread).is_some()
    }

    /// Why a build is denied, if it is.
    pub(crate) fn denial(&self, hash: ContentHash) -> Option<Denial> {
        lock(&self.verdicts).denied.get(&hash).cloned()
    }

    /// All of them, oldest first.
    pub(crate) fn denials(&self) -> Vec<Denial> {
        let mut denials: Vec<_> = lock(&self.verdicts).denied.values().cloned().collect();
        denials.sort_by_key(|denial| denial.at_ms);
        denials
    }

    /// Denies a build from now on.
    pub(crate) fn deny(&self, hash: ContentHash, plugin: &str, version: &str, file: &Path, reason: String) {
        let denial = self.deny_here(hash, plugin, version, file, reason);
        self.database.deny(hash, &denial);
    }

    /// Denies a build that another has just taken the place of. On disk not before that is there, too: otherwise a host
    /// that begins in between would have nothing to begin with.
    pub(crate) fn deny_left(
        &self,
        hash: ContentHash,
        plugin: &str,
        version: &str,
        file: &Path,
        reason: String,
    ) {
        let denial = self.deny_here(hash, plugin, version, file, reason);
        if self.keeps() {
            let change = self.keeper.last_change(plugin);
            // If it cannot be written, this can hardly be.
            let _ = self.keeper.wait_for(plugin, change, LIMIT, || false);
        }
        self.database.deny(hash, &denial);
    }

    fn deny_here(
        &self,
        hash: ContentHash,
        plugin: &str,
        version: &str,
        file: &Path,
        reason: String,
    ) -> Denial {
        let denial = Denial {
            hash: hash.to_string(),
            plugin: plugin.to_owned(),
            version: version.to_owned(),
            file: file.to_owned(),
            reason,
            at_ms: now_ms(),
        };
        let mut verdicts = lock(&self.verdicts);
        verdicts.passed.retain(|(passed, _)| *passed != hash);
        verdicts.denied.insert(hash, denial.clone());
        denial
    }

    /// Denies a build no longer. `None`: it was not denied.
    pub(crate) fn allow(&self, hash: ContentHash) -> Option<Denial> {
        let denial = lock(&self.verdicts).denied.remove(&hash)?;
        self.database.allow(hash);
        self.keeper.pardon(hash);
        Some(denial)
    }

    /// Whether a build has passed its probe.
    pub(crate) fn has_passed(&self, hash: ContentHash, tried: Tried) -> bool {
        lock(&self.verdicts).passed.contains(&(hash, tried))
    }

    /// A build has passed its probe.
    pub(crate) fn note_passed(&self, hash: ContentHash, tried: Tried) {
        if let Some(forgotten) = lock(&self.verdicts).note_passed(hash, tried) {
            self.database.note_passed(hash, tried, forgotten);
        }
    }

    /// A build has taken over.
    pub(crate) fn commit(&self, plugin: &str, commit: &Commit<'_>) {
        if self.keeps() {
            self.keeper.commit(plugin, commit);
        }
    }

    /// Keeps a newer state of the build that serves. The number of the change, to be waited for.
    ///
    /// # Errors
    /// Nothing is kept, or of another build by now.
    pub(crate) fn snapshot(&self, plugin: &str, hash: ContentHash, frame: Frame) -> Result<u64, String> {
        if !self.keeps() {
            return Err("this host keeps nothing".into());
        }
        self.keeper.snapshot(plugin, hash, frame).ok_or_else(|| "another build serves by now".into())
    }

    /// Waits until a change is on disk, or one that has overtaken it.
    ///
    /// # Errors
    /// It is not there within `limit`, and why.
    pub(crate) fn wait_for(
        &self,
        plugin: &str,
        change: u64,
        limit: Duration,
        give_up: impl Fn() -> bool,
    ) -> Result<(), String> {
        self.keeper.wait_for(plugin, change, limit, give_up)
    }

    /// Nothing is left of a plugin.
    pub(crate) fn forget(&self, plugin: &str) {
        self.keeper.forget(plugin);
    }

    /// The pairs of a plugin: that which serves or would, and the one before.
    pub(crate) fn history(&self, plugin: &str) -> Vec<Committed> {
        self.keeper.history(plugin)
    }

    /// The state with which a plugin begins that has served before.
    ///
    /// # Errors
    /// There is one, and it cannot be used: which, and why.
    pub(crate) fn state_of(&self, plugin: &str) -> Result<Option<(u32, Frame)>, String> {
        self.keeper.current(plugin).and_then(|pair| pair.state).map_or(Ok(None), |state| {
            let frame = self.keeper.read(plugin, &state)?;
            Ok(Some((state.version, frame)))
        })
    }

    /// Where a build is kept.
    pub(crate) fn build(&self, hash: ContentHash) -> PathBuf {
        self.keeper.files.build(hash)
    }

    /// The signature that was kept with a build.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(crate) fn signature(&self, hash: ContentHash) -> std::io::Result<Option<Arc<str>>> {
        self.keeper.files.signature(hash)
    }

    /// What served when the last host ended. A build that is denied, or has ended too many hosts and is denied for that
    /// now, gives its place to the one before it.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        if !self.keeps() {
            return Vec::new();
        }
        for Kept { plugin, pair, .. } in self.keeper.all() {
            if pair.deaths >= pairs::DEATHS {
                let reason =
                    format!("the host has ended {} times within a minute after it took over", pairs::DEATHS);
                self.deny(pair.hash, &plugin, &pair.version, &pair.file, reason);
            }
            if self.denial(pair.hash).is_some() {
                self.keeper.send_back(&plugin);
            }
        }
        self.keeper.all()
    }

    /// These plugins are about to be opened, and one of them may end this host. What is known of that, and of those before,
    /// is on disk when this returns.
    pub(crate) fn note_begin(&self, plugins: &[&Kept]) {
        let names: Vec<_> = plugins.iter().map(|kept| kept.plugin.clone()).collect();
        if !names.is_empty()
            && let Err(error) = self.database.note_begin(&names)
        {
            self.keeper.tell(&names.join(", "), &error.to_string());
        }
        self.keeper.wait_for_all(LIMIT);
    }
}
