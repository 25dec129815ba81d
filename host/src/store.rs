//! What outlives the process, in the state directory: which builds are known to be bad, and which have passed their
//! probe.
//!
//! Nothing is written before there is something to write, and a store that cannot be used costs its memory and nothing
//! else: the host says so, and goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::events::{Event, Journal, now_ms};
use crate::file::ContentHash;
use crate::lock::lock;

const DENIED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("denied");
const PASSED: TableDefinition<'_, &[u8], u64> = TableDefinition::new("passed");

/// How many builds are remembered as good; more are forgotten at random, and tried again.
const PASSED_LIMIT: usize = 4096;

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

/// See the module.
pub(crate) struct Store {
    path: PathBuf,
    journal: Arc<Journal>,
    inner: Mutex<Inner>,
}

struct Inner {
    file: Backing,
    denied: BTreeMap<ContentHash, Denial>,
    passed: BTreeSet<(ContentHash, Tried)>,
}

enum Backing {
    /// Nothing has been written yet.
    Absent,
    Open(Database),
    /// It cannot be used any more; if something is wrong with it, that has been told.
    Unusable,
}

impl Store {
    /// Reads what an earlier host has written.
    pub(crate) fn open(state_dir: &Path, journal: Arc<Journal>) -> Store {
        let path = state_dir.join("store.redb");
        let inner = Inner { file: Backing::Absent, denied: BTreeMap::new(), passed: BTreeSet::new() };
        let store = Store { path, journal, inner: Mutex::new(inner) };
        if store.path.exists() {
            let mut inner = lock(&store.inner);
            let read = catch_unwind(AssertUnwindSafe(|| {
                let database = Database::open(&store.path)?;
                inner.read(&database)?;
                Ok(database)
            }));
            // It is known to panic where a file is damaged.
            let damaged = |_| Err(redb::Error::Corrupted("it is damaged: move it away".into()));
            inner.file = store.usable(read.unwrap_or_else(damaged));
        }
        store
    }

    fn usable(&self, opened: Result<Database, redb::Error>) -> Backing {
        opened.map_or_else(
            |error| {
                self.trouble(&error);
                Backing::Unusable
            },
            Backing::Open,
        )
    }

    fn trouble(&self, error: &redb::Error) {
        let what = format!(
            "the store {} cannot be used: {error}; what this host learns about builds is forgotten when it ends",
            self.path.display()
        );
        self.journal.record(Event::Trouble { what });
    }

    /// Writes to the file, which is made if need be.
    fn write(
        &self,
        inner: &mut Inner,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) {
        if matches!(inner.file, Backing::Absent) {
            inner.file = self.usable(Database::create(&self.path).map_err(redb::Error::from));
        }
        let Backing::Open(database) = &inner.file else { return };
        let written = database.begin_write().map_err(redb::Error::from).and_then(|transaction| {
            change(&transaction)?;
            Ok(transaction.commit()?)
        });
        if let Err(error) = written {
            self.trouble(&error);
            inner.file = Backing::Unusable;
        }
    }

    /// Leaves the file to the next host.
    pub(crate) fn close(&self) {
        lock(&self.inner).file = Backing::Unusable;
    }

    /// Why a build is denied, if it is.
    pub(crate) fn denial(&self, hash: ContentHash) -> Option<Denial> {
        lock(&self.inner).denied.get(&hash).cloned()
    }

    /// All of them, oldest first.
    pub(crate) fn denials(&self) -> Vec<Denial> {
        let mut denials: Vec<_> = lock(&self.inner).denied.values().cloned().collect();
        denials.sort_by_key(|denial| denial.at_ms);
        denials
    }

    /// Denies a build from now on.
    pub(crate) fn deny(&self, hash: ContentHash, plugin: &str, version: &str, file: &Path, reason: String) {
        let denial = Denial {
            hash: hash.to_string(),
            plugin: plugin.to_owned(),
            version: version.to_owned(),
            file: file.to_owned(),
            reason,
            at_ms: now_ms(),
        };
        let mut inner = lock(&self.inner);
        inner.passed.retain(|(passed, _)| *passed != hash);
        let text = serde_json::to_vec(&denial).expect("plain data");
        inner.denied.insert(hash, denial);
        self.write(&mut inner, |transaction| {
            let mut passed = transaction.open_table(PASSED)?;
            for tried in [Tried::Empty, Tried::WithState] {
                passed.remove(key(hash, tried).as_slice())?;
            }
            transaction.open_table(DENIED)?.insert(hash.0.as_slice(), text.as_slice())?;
            Ok(())
        });
    }

    /// Denies a build no longer. `None`: it was not denied.
    pub(crate) fn allow(&self, hash: ContentHash) -> Option<Denial> {
        let mut inner = lock(&self.inner);
        let denial = inner.denied.remove(&hash)?;
        self.write(&mut inner, |transaction| {
            transaction.open_table(DENIED)?.remove(hash.0.as_slice())?;
            Ok(())
        });
        Some(denial)
    }

    /// Whether a build has passed its probe.
    pub(crate) fn has_passed(&self, hash: ContentHash, tried: Tried) -> bool {
        lock(&self.inner).passed.contains(&(hash, tried))
    }

    /// A build has passed its probe.
    pub(crate) fn note_passed(&self, hash: ContentHash, tried: Tried) {
        let mut inner = lock(&self.inner);
        let forgotten = (inner.passed.len() >= PASSED_LIMIT).then(|| inner.passed.pop_first()).flatten();
        if inner.passed.insert((hash, tried)) {
            self.write(&mut inner, |transaction| {
                let mut table = transaction.open_table(PASSED)?;
                if let Some((hash, tried)) = forgotten {
                    table.remove(key(hash, tried).as_slice())?;
                }
                table.insert(key(hash, tried).as_slice(), now_ms())?;
                Ok(())
            });
        }
    }
}

/// A hash, and behind it one byte for how it was tried.
fn key(hash: ContentHash, tried: Tried) -> [u8; 33] {
    let mut key = [u8::from(tried == Tried::WithState); 33];
    key[..32].copy_from_slice(&hash.0);
    key
}

fn passed_of(key: &[u8]) -> Option<(ContentHash, Tried)> {
    let (tried, hash) = key.split_last()?;
    Some((hash_of(hash)?, if *tried == 0 { Tried::Empty } else { Tried::WithState }))
}

impl Inner {
    fn read(&mut self, database: &Database) -> Result<(), redb::Error> {
        let transaction = database.begin_read()?;
        match transaction.open_table(DENIED) {
            Ok(table) => {
                for entry in table.iter()? {
                    let (hash, denial) = entry?;
                    // What another version has written otherwise is no reason to refuse a build.
                    let denial = serde_json::from_slice::<Denial>(denial.value()).ok();
                    self.denied.extend(hash_of(hash.value()).zip(denial));
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        match transaction.open_table(PASSED) {
            Ok(table) => {
                for entry in table.iter()? {
                    self.passed.extend(passed_of(entry?.0.value()));
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn hash_of(bytes: &[u8]) -> Option<ContentHash> {
    Some(ContentHash(bytes.try_into().ok()?))
}
