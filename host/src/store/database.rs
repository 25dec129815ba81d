//! `store.redb`: small records, each change of which is on disk when it has been made.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::pairs::{Entry, Pairs};
use super::{Denial, Tried};
use crate::events::Event;
use crate::file::ContentHash;
use crate::journal::{Journal, now_ms};
use crate::lock::lock;

const DENIED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("denied");
const PASSED: TableDefinition<'_, &[u8], u64> = TableDefinition::new("passed");
const PAIRS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pairs");
/// The plugins that a running host has opened or is about to, and that it runs, under no name: if they are found, that
/// host has died.
const RUNNING: TableDefinition<'_, &str, u64> = TableDefinition::new("running");

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
    /// It could not be written, and has to be opened anew: the library does not go on with it.
    Closed,
    /// It is not to be used: another host uses it, or this one has ended.
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
    /// The plugins that it had opened, if it has not ended as it should.
    pub(super) died_with: Option<BTreeSet<String>>,
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
        match open_whole(path) {
            Ok((database, read)) => Ok((Database::with(path, journal, Backing::Open(database)), read)),
            Err(redb::Error::DatabaseAlreadyOpen) => {
                let what = format!(
                    "another host uses the store {}: what this one learns, and the state of its plugins, is forgotten when it ends",
                    path.display()
                );
                journal.record(Event::Trouble { what });
                Ok((Database::with(path, journal, Backing::Unusable), Read::default()))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether it is there, or can be.
    pub(super) fn is_usable(&self) -> bool {
        !matches!(*lock(&self.0.backing), Backing::Unusable)
    }

    /// Leaves the file to the next host, unless somebody is at it who waits for a disk.
    pub(super) fn close(&self) {
        if let Ok(mut backing) = self.0.backing.try_lock() {
            *backing = Backing::Unusable;
        }
    }

    /// Writes to the file, which is made if need be.
    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut backing = lock(&self.0.backing);
        match *backing {
            Backing::Absent => *backing = Backing::Open(create(&self.0.path)?),
            Backing::Closed => *backing = Backing::Open(open_whole(&self.0.path)?.0),
            Backing::Open(_) | Backing::Unusable => {}
        }
        let Backing::Open(database) = &*backing else { return Ok(()) };
        let written = write_to(database, change);
        if written.is_err() {
            *backing = Backing::Closed;
        }
        written
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

    /// A host begins that is about to open these plugins. On disk before it does, since one of them may end it.
    pub(super) fn note_begin(&self, plugins: &[String]) -> Result<(), redb::Error> {
        self.write(|transaction| {
            let mut table = transaction.open_table(RUNNING)?;
            table.retain(|_, _| false)?;
            table.insert("", now_ms())?;
            plugins.iter().try_for_each(|plugin| table.insert(plugin.as_str(), now_ms()).map(drop))?;
            Ok(())
        })
    }

    /// Forgets all pairs.
    pub(super) fn clear_pairs(&self) -> Result<(), redb::Error> {
        if matches!(*lock(&self.0.backing), Backing::Absent) {
            return Ok(());
        }
        self.write(|transaction| {
            transaction.delete_table(PAIRS)?;
            transaction.delete_table(RUNNING)?;
            Ok(())
        })
    }

    /// Writes the pairs of one plugin, `None` for one that is forgotten, and that a host runs which has opened it.
    pub(super) fn put(&self, plugin: &str, pairs: Option<&[u8]>) -> Result<(), redb::Error> {
        self.write(|transaction| {
            let mut table = transaction.open_table(PAIRS)?;
            match pairs {
                Some(pairs) => drop(table.insert(plugin, pairs)?),
                None => drop(table.remove(plugin)?),
            }
            let mut running = transaction.open_table(RUNNING)?;
            running.insert("", now_ms())?;
            running.insert(plugin, now_ms())?;
            Ok(())
        })
    }

    /// This host ends as it should.
    pub(super) fn note_end(&self) -> Result<(), redb::Error> {
        if matches!(*lock(&self.0.backing), Backing::Absent) {
            return Ok(());
        }
        self.write(|transaction| {
            transaction.open_table(RUNNING)?.retain(|_, _| false)?;
            Ok(())
        })
    }
}

/// Makes an empty one, which has its name only when it is whole.
fn create(path: &Path) -> Result<redb::Database, redb::Error> {
    if path.exists() {
        // Somebody else was quicker.
        return Ok(open_whole(path)?.0);
    }
    let unfinished = path.with_extension("redb.new");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let database = redb::Database::create(&unfinished)?;
    std::fs::rename(&unfinished, path)?;
    if let Some(directory) = path.parent() {
        std::fs::File::open(directory)?.sync_all()?;
    }
    Ok(database)
}

/// Opens one, and reads all of it.
fn open_whole(path: &Path) -> Result<(redb::Database, Read), redb::Error> {
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, redb::Error> {
        let database = redb::Database::open(path)?;
        let read = Read::from(&database.begin_read()?)?;
        Ok((database, read))
    }));
    // It is known to panic where a file is damaged.
    opened.unwrap_or_else(|_| Err(redb::Error::Corrupted("its pages contradict one another".into())))
}

fn write_to(
    database: &redb::Database,
    change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    change(&transaction)?;
    Ok(transaction.commit()?)
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
            let names = table.iter()?.map(|entry| Ok(entry?.0.value().to_owned()));
            let names = names.collect::<Result<BTreeSet<_>, redb::Error>>()?;
            read.died_with = Some(names).filter(|names| !names.is_empty());
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
