//! `store.redb`: small records, each change of which is on disk when it has been made.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::{DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::pairs::{Entry, Pairs};
use super::{Denial, Tried};
use crate::events::{Event, Journal, now_ms};
use crate::file::ContentHash;
use crate::lock::lock;

const DENIED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("denied");
const PASSED: TableDefinition<'_, &[u8], u64> = TableDefinition::new("passed");
const PAIRS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pairs");
/// There while a host runs that keeps pairs: if it is found, that host has died.
const RUNNING: TableDefinition<'_, (), u64> = TableDefinition::new("running");

/// How many builds are remembered as good; more are forgotten at random, and tried again.
const PASSED_LIMIT: usize = 4096;

/// The file. A clone is the same one.
#[derive(Clone)]
pub(super) struct Database(Arc<Shared>);

struct Shared {
    path: PathBuf,
    journal: Arc<Journal>,
    backing: Mutex<Backing>,
}

enum Backing {
    /// Nothing has been written yet.
    Absent,
    Open(redb::Database),
    /// It cannot be used any more; if something is wrong with it, that has been told.
    Unusable,
}

/// What is known of builds.
#[derive(Default)]
pub(super) struct Verdicts {
    pub(super) denied: BTreeMap<ContentHash, Denial>,
    pub(super) passed: BTreeSet<(ContentHash, Tried)>,
}

impl Verdicts {
    /// `None`: it was known. Else the one that is forgotten for it, if any.
    pub(super) fn note_passed(
        &mut self,
        hash: ContentHash,
        tried: Tried,
    ) -> Option<Option<(ContentHash, Tried)>> {
        if self.passed.contains(&(hash, tried)) {
            return None;
        }
        let forgotten = (self.passed.len() >= PASSED_LIMIT).then(|| self.passed.pop_first()).flatten();
        self.passed.insert((hash, tried));
        Some(forgotten)
    }
}

/// What an earlier host has written.
#[derive(Default)]
pub(super) struct Read {
    pub(super) verdicts: Verdicts,
    pub(super) pairs: Pairs,
    /// It has not ended as it should.
    pub(super) died: bool,
}

impl Database {
    /// One that will be made when there is something to write.
    pub(super) fn new(path: &Path, journal: &Arc<Journal>) -> Database {
        Database::with(path, journal, Backing::Absent)
    }

    fn with(path: &Path, journal: &Arc<Journal>, backing: Backing) -> Database {
        let (path, journal, backing) = (path.to_owned(), journal.clone(), Mutex::new(backing));
        Database(Arc::new(Shared { path, journal, backing }))
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// It is damaged, and how.
    pub(super) fn open(path: &Path, journal: &Arc<Journal>) -> Result<(Database, Read), String> {
        if !path.exists() {
            return Ok((Database::new(path, journal), Read::default()));
        }
        let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, redb::Error> {
            let database = redb::Database::open(path)?;
            let read = Read::from(&database.begin_read()?)?;
            Ok((database, read))
        }));
        match opened {
            Ok(Ok((database, read))) => Ok((Database::with(path, journal, Backing::Open(database)), read)),
            Ok(Err(redb::Error::DatabaseAlreadyOpen)) => {
                let what = format!(
                    "another host uses the store {}: what this one learns, and the state of its plugins, is forgotten when it ends",
                    path.display()
                );
                journal.record(Event::Trouble { what });
                Ok((Database::with(path, journal, Backing::Unusable), Read::default()))
            }
            Ok(Err(error)) => Err(error.to_string()),
            // It is known to panic where a file is damaged.
            Err(_) => Err("its pages contradict one another".into()),
        }
    }

    /// Whether it is there, or can be.
    pub(super) fn is_usable(&self) -> bool {
        !matches!(*lock(&self.0.backing), Backing::Unusable)
    }

    /// Leaves the file to the next host.
    pub(super) fn close(&self) {
        *lock(&self.0.backing) = Backing::Unusable;
    }

    /// Writes to the file, which is made if need be.
    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut backing = lock(&self.0.backing);
        if matches!(*backing, Backing::Absent) {
            *backing = Backing::Open(create(&self.0.path)?);
        }
        let Backing::Open(database) = &*backing else { return Ok(()) };
        let transaction = database.begin_write()?;
        change(&transaction)?;
        Ok(transaction.commit()?)
    }

    fn write_verdict(&self, change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) {
        if let Err(error) = self.write(change) {
            let what = format!(
                "the store {} cannot be used: {error}; what this host has just learned about a build is forgotten when it ends",
                self.0.path.display()
            );
            self.0.journal.record(Event::Trouble { what });
        }
    }

    pub(super) fn deny(&self, hash: ContentHash, denial: &Denial) {
        let text = serde_json::to_vec(denial).expect("plain data");
        self.write_verdict(|transaction| {
            let mut passed = transaction.open_table(PASSED)?;
            for tried in [Tried::Empty, Tried::WithState] {
                passed.remove(key(hash, tried).as_slice())?;
            }
            transaction.open_table(DENIED)?.insert(hash.0.as_slice(), text.as_slice())?;
            Ok(())
        });
    }

    pub(super) fn allow(&self, hash: ContentHash) {
        self.write_verdict(|transaction| {
            transaction.open_table(DENIED)?.remove(hash.0.as_slice())?;
            Ok(())
        });
    }

    pub(super) fn note_passed(
        &self,
        hash: ContentHash,
        tried: Tried,
        forgotten: Option<(ContentHash, Tried)>,
    ) {
        self.write_verdict(|transaction| {
            let mut table = transaction.open_table(PASSED)?;
            if let Some((hash, tried)) = forgotten {
                table.remove(key(hash, tried).as_slice())?;
            }
            table.insert(key(hash, tried).as_slice(), now_ms())?;
            Ok(())
        });
    }

    /// Writes the pairs of one plugin, `None` for one that is forgotten, and that a host runs.
    pub(super) fn put(&self, plugin: &str, pairs: Option<&[u8]>) -> Result<(), redb::Error> {
        self.write(|transaction| {
            let mut table = transaction.open_table(PAIRS)?;
            match pairs {
                Some(pairs) => drop(table.insert(plugin, pairs)?),
                None => drop(table.remove(plugin)?),
            }
            transaction.open_table(RUNNING)?.insert((), now_ms())?;
            Ok(())
        })
    }

    /// This host ends as it should.
    pub(super) fn note_end(&self) -> Result<(), redb::Error> {
        if matches!(*lock(&self.0.backing), Backing::Absent) {
            return Ok(());
        }
        self.write(|transaction| {
            transaction.open_table(RUNNING)?.remove(())?;
            Ok(())
        })
    }
}

fn create(path: &Path) -> Result<redb::Database, DatabaseError> {
    redb::Database::create(path)
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

fn hash_of(bytes: &[u8]) -> Option<ContentHash> {
    Some(ContentHash(bytes.try_into().ok()?))
}

impl Read {
    fn from(transaction: &ReadTransaction) -> Result<Read, redb::Error> {
        let mut read = Read::default();
        if let Some(table) = there(transaction.open_table(DENIED))? {
            for entry in table.iter()? {
                let (hash, denial) = entry?;
                // What another version has written otherwise is no reason to refuse a build.
                let denial = serde_json::from_slice::<Denial>(denial.value()).ok();
                read.verdicts.denied.extend(hash_of(hash.value()).zip(denial));
            }
        }
        if let Some(table) = there(transaction.open_table(PASSED))? {
            for entry in table.iter()? {
                read.verdicts.passed.extend(passed_of(entry?.0.value()));
            }
        }
        if let Some(table) = there(transaction.open_table(PAIRS))? {
            for entry in table.iter()? {
                let (plugin, pairs) = entry?;
                let pairs = Entry::read(pairs.value()).ok_or_else(|| {
                    redb::Error::Corrupted(format!("what is kept of `{}` is not readable", plugin.value()))
                })?;
                read.pairs.entries.insert(plugin.value().to_owned(), pairs);
            }
        }
        if let Some(table) = there(transaction.open_table(RUNNING))? {
            read.died = table.get(())?.is_some();
        }
        Ok(read)
    }
}

/// A table that nobody has written to is no mistake.
fn there<T>(table: Result<T, TableError>) -> Result<Option<T>, redb::Error> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
