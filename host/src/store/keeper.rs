//! The thread that makes what is on disk equal to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::database::Database;
use super::files::Files;
use super::pairs::{Commit, Entry, Filed, Pair, Pairs, Place, State};
use super::{Committed, Kept, SavedState};
use crate::events::Event;
use crate::file::ContentHash;
use crate::journal::Journal;
use crate::snapshot::Frame;

/// Until something is to be done.
const LONG: Duration = Duration::from_secs(3600);

/// How soon a wait is given up.
const LOOK: Duration = Duration::from_millis(20);

/// How soon it is tried again when it could not be written.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Keeper {
    pub(super) files: Files,
    database: Database,
    journal: Arc<Journal>,
    /// See [`Options::proving`](crate::Options::proving).
    proving: Duration,
    desk: Mutex<Desk>,
    changed: Condvar,
}

struct Desk {
    pairs: Pairs,
    /// What the store says now: its files must stay until it says otherwise.
    on_disk: BTreeMap<String, Entry>,
    /// Builds that have yet to prove themselves, and when they will have.
    proving: Vec<(Instant, String, ContentHash)>,
    /// Why plugins' pairs cannot be written at the moment, and when it is tried again.
    failures: BTreeMap<String, (String, Instant)>,
    ending: bool,
}

impl Keeper {
    pub(super) fn new(
        files: Files,
        pairs: Pairs,
        database: Database,
        journal: Arc<Journal>,
        proving: Duration,
    ) -> Keeper {
        let on_disk = pairs.on_disk();
        let desk = Desk { pairs, on_disk, proving: Vec::new(), failures: BTreeMap::new(), ending: false };
        Keeper { files, database, journal, proving, desk: Mutex::new(desk), changed: Condvar::new() }
    }

    pub(super) fn start(keeper: &Arc<Keeper>) -> io::Result<JoinHandle<()>> {
        let keeper = keeper.clone();
        // A host that was killed may have left what nothing names.
        keeper.files.sweep_unknown(&keeper.desk().on_disk.keys().cloned().collect());
        std::thread::Builder::new().name("reseat-store".into()).spawn(move || keeper.run())
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is left to write, and ends the thread.
    pub(super) fn end(&self) {
        self.desk().ending = true;
        self.changed.notify_all();
    }

    pub(super) fn commit(&self, plugin: &str, commit: &Commit<'_>) {
        let mut desk = self.desk();
        // Under the lock, so that it is not swept away before anything names it.
        let keep = |copy| self.files.keep_build(commit.hash, copy, commit.signature);
        let kept = commit.copy.map_or(Ok(()), keep);
        if let Err(error) = kept {
            let what = format!(
                "this build of {plugin} cannot be kept for the next host, which will take what is at {}: {error}",
                commit.file.display()
            );
            self.journal.record(Event::Trouble { what });
        }
        desk.pairs.commit(plugin, commit);
        desk.proving.retain(|(_, name, _)| name != plugin);
        desk.proving.push((Instant::now() + self.proving, plugin.to_owned(), commit.hash));
        self.changed.notify_all();
    }

    pub(super) fn snapshot(&self, plugin: &str, hash: ContentHash, frame: Frame) -> Option<u64> {
        let change = self.desk().pairs.snapshot(plugin, hash, frame);
        self.changed.notify_all();
        change
    }

    pub(super) fn forget(&self, plugin: &str) {
        self.desk().pairs.forget(plugin);
        self.changed.notify_all();
    }

    /// The last change of a plugin's pairs, to be waited for.
    pub(super) fn last_change(&self, plugin: &str) -> u64 {
        self.desk().pairs.entries.get(plugin).map_or(0, |entry| entry.changed)
    }

    /// Waits until a change is on disk, or one that has overtaken it.
    pub(super) fn wait_for(
        &self,
        plugin: &str,
        change: u64,
        limit: Duration,
        give_up: impl Fn() -> bool,
    ) -> Result<(), String> {
        let begun = Instant::now();
        let mut desk = self.desk();
        loop {
            let waits = desk.pairs.entries.get(plugin).is_some_and(|entry| entry.written < change);
            let left = limit.saturating_sub(begun.elapsed());
            if !waits || desk.failures.contains_key(plugin) || left.is_zero() || give_up() {
                break;
            }
            desk = self.sleep(desk, left.min(LOOK));
        }
        match (desk.failures.get(plugin), desk.pairs.entries.get(plugin)) {
            (_, None) => Err(format!("{plugin} was unloaded meanwhile")),
            (_, Some(entry)) if entry.written >= change => Ok(()),
            (Some((failure, _)), _) => Err(failure.clone()),
            (None, _) => Err(format!("it is not on disk after {limit:?}")),
        }
    }

    /// Waits until everything is on disk, for a while.
    pub(super) fn wait_for_all(&self, limit: Duration) {
        let waits = |desk: &mut Desk| desk.next_job().is_some();
        let waited = self.changed.wait_timeout_while(self.desk(), limit, waits);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn current(&self, plugin: &str) -> Option<Pair> {
        self.desk().pairs.entries.get(plugin).map(|entry| entry.current.clone())
    }

    pub(super) fn all(&self) -> Vec<Kept> {
        let desk = self.desk();
        let entries = desk.pairs.entries.iter();
        entries
            .map(|(plugin, Entry { current, before, .. })| Kept {
                plugin: plugin.clone(),
                pair: current.clone(),
                before: before.clone(),
            })
            .collect()
    }

    /// Puts the pair before in the place of one that is not to be started.
    pub(super) fn send_back(&self, plugin: &str) {
        self.desk().pairs.send_back(plugin);
        self.changed.notify_all();
    }

    pub(super) fn pardon(&self, hash: ContentHash) {
        self.desk().pairs.pardon(hash);
        self.changed.notify_all();
    }

    /// A state, whole.
    pub(super) fn read(&self, plugin: &str, state: &State) -> Result<Frame, String> {
        let name = match &state.place {
            Place::Memory(frame) => return Ok(frame.clone()),
            Place::File(name) => name,
        };
        let path = self.files.state(plugin, name);
        let wrong = |why: String| format!("its saved state {} cannot be used: {why}", path.display());
        let frame = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        let contents =
            plugin_api::state::frame::check(&frame).map_err(|error| wrong(format!("{error:#}")))?;
        if contents.version != state.version {
            return Err(wrong(format!("it is of version {}, expected {}", contents.version, state.version)));
        }
        Ok(Arc::new(frame))
    }

    pub(super) fn history(&self, plugin: &str) -> Vec<Committed> {
        let desk = self.desk();
        let pairs = desk.pairs.entries.get(plugin).into_iter().flat_map(Entry::pairs);
        pairs
            .map(|pair| Committed {
                hash: pair.hash.to_string(),
                version: pair.version.clone(),
                file: pair.file.clone(),
                at_ms: pair.at_ms,
                proven: pair.proven,
                state: pair.state.as_ref().map(|state| SavedState {
                    version: state.version,
                    bytes: state.bytes,
                    at_ms: state.at_ms,
                    path: match &state.place {
                        Place::Memory(_) => None,
                        Place::File(name) => Some(self.files.state(plugin, name)),
                    },
                }),
            })
            .collect()
    }

    fn run(&self) {
        let mut desk = self.desk();
        loop {
            desk.prove();
            if let Some(job) = desk.next_job() {
                drop(desk);
                let done = self.write(&job);
                desk = self.desk();
                self.note(&mut desk, &job, done);
            } else if desk.ending {
                drop(desk);
                if let Err(error) = self.database.note_end() {
                    let what = format!("the next host will take this one's end for a death: {error}");
                    self.journal.record(Event::Trouble { what });
                }
                return;
            } else {
                let proved = desk.proving.iter().map(|(at, ..)| *at);
                let pause = proved.chain(desk.failures.values().map(|(_, again)| *again)).min();
                let pause = pause.map_or(LONG, |at| at.saturating_duration_since(Instant::now()));
                desk = self.sleep(desk, pause);
            }
        }
    }

    fn sleep<'a>(&'a self, desk: MutexGuard<'a, Desk>, limit: Duration) -> MutexGuard<'a, Desk> {
        self.changed.wait_timeout(desk, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Writes one plugin's pairs: the states first, then what names them.
    fn write(&self, job: &Job) -> Result<Written, String> {
        match job {
            Job::Write(plugin, entry) => {
                let mut entry = Entry::clone(entry);
                let (text, files) = entry.write(plugin, &self.files).map_err(|error| error.to_string())?;
                self.database.put(plugin, Some(&text)).map_err(|error| {
                    // Nothing names them, and the next try writes them again.
                    files.iter().for_each(|(_, name)| self.files.remove_state(plugin, name));
                    error.to_string()
                })?;
                Ok(Written { entry: Some(entry), files })
            }
            Job::Remove(plugin) => {
                self.database.put(plugin, None).map_err(|error| error.to_string())?;
                Ok(Written { entry: None, files: Vec::new() })
            }
        }
    }

    fn note(&self, desk: &mut Desk, job: &Job, done: Result<Written, String>) {
        let (Job::Write(plugin, _) | Job::Remove(plugin)) = job;
        let written = match done {
            Ok(written) => written,
            Err(why) => {
                let again = Instant::now() + AGAIN;
                if desk.failures.insert(plugin.clone(), (why.clone(), again)).is_none() {
                    self.tell(plugin, &why);
                }
                self.changed.notify_all();
                return;
            }
        };
        desk.failures.remove(plugin);
        match written.entry {
            Some(entry) => {
                desk.pairs.note_written(plugin, entry.changed, &written.files);
                desk.on_disk.insert(plugin.clone(), entry);
            }
            None => {
                desk.pairs.forgotten.retain(|name| name != plugin);
                desk.on_disk.remove(plugin);
            }
        }
        // What nobody names any more. If it stays, it goes the next time.
        let _ = self.files.sweep_states(plugin, &desk.names(plugin));
        let _ = self.files.sweep_builds(&desk.builds());
        self.changed.notify_all();
    }

    pub(super) fn tell(&self, plugin: &str, why: &str) {
        let what = format!(
            "what serves of {plugin}, and its state, cannot be kept for the next host: {why}; what was kept before stays, and this is tried again"
        );
        self.journal.record(Event::Trouble { what });
    }
}

enum Job {
    Write(String, Box<Entry>),
    Remove(String),
}

struct Written {
    /// What the store says of the plugin now.
    entry: Option<Entry>,
    files: Filed,
}

impl Desk {
    fn next_job(&self) -> Option<Job> {
        let now = Instant::now();
        // At the end, what has failed is not waited for.
        let may =
            |plugin: &str| self.failures.get(plugin).is_none_or(|(_, again)| !self.ending && *again <= now);
        let mut entries = self.pairs.entries.iter();
        let dirty = entries.find(|(plugin, entry)| entry.is_dirty() && may(plugin));
        let write = dirty.map(|(plugin, entry)| Job::Write(plugin.clone(), Box::new(entry.clone())));
        let mut forgotten = self.pairs.forgotten.iter();
        write.or_else(|| forgotten.find(|plugin| may(plugin)).cloned().map(Job::Remove))
    }

    fn prove(&mut self) {
        let now = Instant::now();
        for (_, plugin, hash) in self.proving.extract_if(.., |(at, ..)| *at <= now) {
            self.pairs.prove(&plugin, hash);
        }
    }

    /// The files of a plugin's states.
    fn names(&self, plugin: &str) -> BTreeSet<String> {
        let entries = [self.pairs.entries.get(plugin), self.on_disk.get(plugin)];
        let pairs = entries.into_iter().flatten().flat_map(Entry::pairs);
        let places = pairs.filter_map(|pair| pair.state.as_ref()).map(|state| &state.place);
        places
            .filter_map(|place| match place {
                Place::File(name) => Some(name.clone()),
                Place::Memory(_) => None,
            })
            .collect()
    }

    fn builds(&self) -> BTreeSet<ContentHash> {
        let entries = self.pairs.entries.values().chain(self.on_disk.values());
        entries.flat_map(Entry::pairs).map(|pair| pair.hash).collect()
    }
}
