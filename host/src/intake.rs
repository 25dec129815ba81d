//! From "look at this path" to a transaction: waits until a file is complete, ignores what is not a plugin,
//! tries again what may yet be accepted.
//!
//! One thread looks after all paths; each transaction runs on a thread of its own, so that a plugin whose
//! calls take long holds up nobody else's reload. There is at most one transaction per path, and the newest
//! content of a path wins: it is read when its turn comes.

mod ending;
mod later;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use self::later::{Lack, Rouse};
use crate::error::{ReloadError, StartError};
use crate::events::Event;
use crate::file::{FileIdentity, Progress, Settling, signature_of};
use crate::lock::be_ready_to_wait;
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::registry::Core;
use crate::reload::{self, Settled, Wish};
use crate::source::{self, LookAt, WatchSource};
use crate::watch::{Notice, Watcher};

/// For how long a file that is cut short may be a file that is still being written by somebody who closes it
/// in between.
const GRACE: Duration = Duration::from_secs(3);
/// How soon a file is tried again that was refused because of those who use the plugin, the first time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How long the start waits for files to be loaded.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The running intake.
pub(crate) struct Intake {
    watcher: Option<Watcher>,
    /// `None`: nothing is followed.
    looks: Option<LookAt>,
    source: Option<Arc<dyn WatchSource>>,
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

pub(crate) enum Order {
    Notice(Notice),
    /// Somebody wants to know of what was refused whether it still is.
    Rescan,
    LookAgain,
    /// A build serves that implements these: others may have waited for it.
    Loaded {
        plugin: String,
        interfaces: Vec<String>,
        /// And its plugin did not serve before.
        is_first: bool,
    },
    Retry {
        path: PathBuf,
        told: Option<String>,
    },
    Done {
        path: PathBuf,
        result: Result<Outcome, ReloadError>,
        noticed: Instant,
    },
    End,
}

impl Intake {
    /// Loads what is there, then follows it.
    pub(crate) fn start(core: Arc<Core>) -> Result<Intake, StartError> {
        let (orders, incoming) = unbounded();
        // First of all, so that what changes from now on is noticed.
        let watcher = source::watch(&core, &orders)?;
        let looks = source::look_at(&core, &orders);
        let source = source::listen(&core, looks.as_ref())?;
        let loaded = orders.clone();
        // Nobody takes orders any more when the host ends.
        let _ = core.on_load.set(Box::new(move |manifest, is_first| {
            let interfaces = manifest.interfaces.iter().map(|interface| interface.name.clone()).collect();
            let plugin = manifest.plugin.clone();
            drop(loaded.send(Order::Loaded { plugin, interfaces, is_first }));
        }));
        reload::go_on(&core);
        let mut desk = Desk::new(core, orders.clone());
        desk.look_at_everything();
        desk.work_until_idle(&incoming, Instant::now() + START_LIMIT);
        desk.is_starting = false;
        let thread = std::thread::Builder::new()
            .name("reseat-intake".into())
            .spawn(move || {
                be_ready_to_wait();
                desk.serve(&incoming);
            })
            .map_err(StartError::Thread)?;
        Ok(Intake { watcher, looks, source, orders, thread })
    }

    /// Looks at everything, also at what was refused: something else than the file may be otherwise now.
    pub(crate) fn rescan(&self) {
        if self.looks.is_some() {
            let _ = self.orders.send(Order::Rescan);
        }
        if let Some(watcher) = &self.watcher {
            watcher.rescan_now();
        }
    }

    /// Looks at one file, if it is where files are followed.
    pub(crate) fn look_at(&self, path: &Path) -> bool {
        self.looks.as_ref().is_some_and(|looks| looks.look_at(path))
    }

    /// Looks at what is there once more, as if it were new, if it is followed.
    pub(crate) fn look_again(&self) {
        if self.looks.is_some() {
            let _ = self.orders.send(Order::LookAgain);
        }
    }

    /// Tries a file again that somebody has asked for, if that may end otherwise than in this error.
    pub(crate) fn retry(&self, file: &TrustedFile, error: &ReloadError) {
        let told = match error {
            ReloadError::Refused(refusal) if refusal.reason.is_passing() => Some(refusal.step.to_string()),
            ReloadError::Busy { .. } => None,
            _ => return,
        };
        // Nobody takes orders any more when the host ends.
        let _ = self.orders.send(Order::Retry { path: file.path().to_owned(), told });
    }
}

/// A path that waits for something.
struct Waiting {
    settling: Settling,
    noticed: Instant,
    due: Instant,
    /// How often it has been put off by those who use the plugin.
    put_off: u32,
    /// The passing reason that was last told.
    told: Option<String>,
    /// Which change of another file is worth another try.
    roused_by: Rouse,
    /// The interface that is missing, if that is what it waits for: no other plugin that comes is worth another try.
    lacks: Option<Lack>,
    /// The file has changed, which others may wait for. Otherwise it is only tried again.
    is_change: bool,
}

/// What a file was when it was last dealt with, and its signature, where one is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    library: FileIdentity,
    signature: Option<FileIdentity>,
}

/// The intake thread's own state.
struct Desk {
    core: Arc<Core>,
    orders: Sender<Order>,
    waiting: BTreeMap<PathBuf, Waiting>,
    running: BTreeSet<PathBuf>,
    /// What was dealt with for good; the same file is not looked at twice.
    settled: HashMap<PathBuf, Option<Identity>>,
    /// What was accepted of that.
    accepted: BTreeSet<PathBuf>,
    /// How many plugins have been seen to serve for the first time, how many had been when a transaction began, and when
    /// an interface has last come with one.
    loads: u64,
    begun: HashMap<PathBuf, u64>,
    /// Under way while another file came that has changed.
    overtaken: BTreeSet<PathBuf>,
    /// Refused because another file provides the plugin.
    taken: BTreeSet<PathBuf>,
    came: HashMap<Lack, u64>,
    /// How often a path was put off, and what was told of it, across transactions.
    history: HashMap<PathBuf, (u32, Option<String>)>,
    /// The host is not there yet.
    is_starting: bool,
}

impl Desk {
    fn new(core: Arc<Core>, orders: Sender<Order>) -> Self {
        Desk {
            core,
            orders,
            waiting: BTreeMap::new(),
            running: BTreeSet::new(),
            settled: HashMap::new(),
            accepted: BTreeSet::new(),
            loads: 0,
            begun: HashMap::new(),
            overtaken: BTreeSet::new(),
            taken: BTreeSet::new(),
            came: HashMap::new(),
            history: HashMap::new(),
            is_starting: true,
        }
    }

    /// The libraries that are in the directories now.
    fn look_at_everything(&mut self) {
        for dir in self.core.options().watch.clone() {
            match std::fs::read_dir(dir.path()) {
                Ok(entries) => {
                    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
                    // In the order of their names, so that of two that claim one plugin it is always the same.
                    paths.sort();
                    paths.into_iter().filter(|path| may_be_plugin(path)).for_each(|path| self.look(path));
                }
                Err(error) => {
                    let what = format!(
                        "{} cannot be read: {error}; plugins that appear there will be loaded",
                        dir.path().display()
                    );
                    self.core.journal.record(Event::Trouble { what });
                }
            }
        }
    }

    fn serve(mut self, incoming: &Receiver<Order>) {
        while self.turn(incoming, Duration::from_secs(3600)) {}
        // Transactions under way end first.
        while !self.running.is_empty() {
            match incoming.recv() {
                Ok(Order::Done { path, result, noticed }) => self.done(path, result, noticed),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }

    fn work_until_idle(&mut self, incoming: &Receiver<Order>, deadline: Instant) {
        while Instant::now() < deadline {
            self.begin_due();
            // A path that has been put off is not waited for.
            let fresh = self.waiting.values().any(|waiting| waiting.put_off == 0);
            if self.running.is_empty() && !fresh {
                return;
            }
            if !self.turn(incoming, Duration::from_millis(50)) {
                return;
            }
        }
    }

    /// Waits for an order or a due path. `false`: it is over.
    fn turn(&mut self, incoming: &Receiver<Order>, longest: Duration) -> bool {
        match incoming.recv_timeout(self.pause().min(longest)) {
            Ok(Order::Notice(notice)) => self.notice(notice),
            Ok(Order::Rescan) => {
                // What is just being looked at is no news.
                self.settled.retain(|path, _| self.accepted.contains(path) || self.running.contains(path));
                self.look_at_everything();
            }
            Ok(Order::LookAgain) => {
                self.settled.clear();
                self.look_at_everything();
            }
            Ok(Order::Loaded { plugin, interfaces, is_first }) => self.loaded(&plugin, interfaces, is_first),
            Ok(Order::Retry { path, told }) => {
                self.put_off(path, Instant::now(), FIRST_PAUSE, 1, told);
            }
            Ok(Order::Done { path, result, noticed }) => self.done(path, result, noticed),
            Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => {}
        }
        self.begin_due();
        true
    }

    fn pause(&self) -> Duration {
        let mut next: Option<Instant> = None;
        for (path, Waiting { due, .. }) in &self.waiting {
            if next.is_none_or(|next| *due < next) && !self.running.contains(path) {
                next = Some(*due);
            }
        }
        next.map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()))
    }

    fn identity(&self, path: &Path) -> Option<Identity> {
        let is_asked_for = !self.core.options().trusted_keys.is_empty();
        let signature = is_asked_for.then(|| FileIdentity::of(&signature_of(path))).flatten();
        Some(Identity { library: FileIdentity::of(path)?, signature })
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Look(path) => self.look(path),
            Notice::Gone(path) => {
                self.waiting.remove(&path);
                self.settled.remove(&path);
                let mut plugins = self.core.all().into_iter();
                let owner = plugins.find(|plugin| plugin.record().is_followed_at(&path));
                if let Some(plugin) = owner {
                    self.core.journal.record(Event::FileGone { plugin: plugin.name.clone(), file: path });
                    // Whose name was taken may have it now.
                    for path in std::mem::take(&mut self.taken) {
                        self.settled.remove(&path);
                        self.look(path);
                    }
                }
            }
            Notice::DirectoryGone(dir) => {
                let what = format!(
                    "{} is gone; its plugins serve on, and it is followed again when it is back",
                    dir.display()
                );
                self.core.journal.record(Event::Trouble { what });
            }
            Notice::DirectoryBack(dir) => {
                let what = format!("{} is back", dir.display());
                self.core.journal.record(Event::Trouble { what });
            }
            Notice::Trouble { dir, message } => {
                let what = format!("{}: {message}", dir.display());
                self.core.journal.record(Event::Trouble { what });
            }
        }
    }

    fn look(&mut self, path: PathBuf) {
        let (known, found) = (self.settled.get(&path).copied().flatten(), self.identity(&path));
        if known.is_some() && known == found {
            return;
        }
        self.history.remove(&path);
        let now = Instant::now();
        let is_same = known.zip(found).is_some_and(|(known, found)| known.library == found.library);
        // A new signature beside a library that was accepted: that of the next one, most likely, which is on its way.
        let due = if is_same && self.accepted.contains(&path) { now + GRACE } else { now };
        let waiting = Waiting {
            settling: Settling::start(&path),
            noticed: now,
            due,
            put_off: 0,
            told: None,
            roused_by: Rouse::None,
            lacks: None,
            is_change: true,
        };
        self.waiting.insert(path, waiting);
    }

    fn begin_due(&mut self) {
        let now = Instant::now();
        let due: Vec<PathBuf> = self
            .waiting
            .iter()
            .filter(|(path, waiting)| waiting.due <= now && !self.running.contains(*path))
            .map(|(path, _)| path.clone())
            .collect();
        for path in due {
            self.poll(path, now);
        }
    }

    fn poll(&mut self, path: PathBuf, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(&path) else { return };
        match waiting.settling.poll(now) {
            Progress::Wait(pause) => waiting.due = now + pause,
            // A directory, a FIFO or a device of a plugin's name is not a plugin.
            Progress::Gone | Progress::NotAFile(_) => {
                self.waiting.remove(&path);
            }
            Progress::Unreadable(error) => {
                self.waiting.remove(&path);
                self.settled.insert(path.clone(), self.identity(&path));
                let what = format!("{} cannot be read: {error}", path.display());
                self.core.journal.record(Event::Trouble { what });
            }
            Progress::Ready(file) => {
                let noticed = waiting.noticed;
                let history = (waiting.put_off, waiting.told.take());
                // Those that wait for one another meet when the clock brings back one of them, too.
                let is_change = waiting.is_change;
                if is_change || waiting.roused_by == Rouse::Any {
                    self.rouse(&path, is_change);
                }
                self.waiting.remove(&path);
                self.history.insert(path.clone(), history);
                // Before the file is read: what changes later is looked at again.
                self.settled.insert(path.clone(), self.identity(&path));
                self.begin(Settled::there(file, TrustedFile::watched(path), noticed));
            }
        }
    }

    fn begin(&mut self, settled: Settled) {
        let path = settled.origin.path().to_owned();
        self.begun.insert(path.clone(), self.loads);
        self.overtaken.remove(&path);
        let (core, orders, noticed, done) =
            (self.core.clone(), self.orders.clone(), settled.noticed, path.clone());
        let wish = Wish { noticed: true, at_start: self.is_starting, ..Wish::default() };
        let transaction = move || {
            let result = core.admit(settled, wish);
            let _ = orders.send(Order::Done { path: done, result, noticed });
        };
        match std::thread::Builder::new().name("reseat-reload".into()).spawn(transaction) {
            Ok(_) => {
                self.running.insert(path);
            }
            Err(error) => {
                let what = format!("no thread for the reload of {}: {error}; trying again", path.display());
                self.core.journal.record(Event::Trouble { what });
                self.put_off(path, noticed, Duration::from_secs(1), 1, None);
            }
        }
    }

    fn done(&mut self, path: PathBuf, result: Result<Outcome, ReloadError>, noticed: Instant) {
        self.running.remove(&path);
        match result {
            Ok(_) => self.accepted.insert(path.clone()),
            Err(_) => self.accepted.remove(&path),
        };
        let (put_off, told) = self.history.remove(&path).unwrap_or_default();
        match result {
            Ok(_) | Err(ReloadError::Closed | ReloadError::NoSuchPlugin { .. }) => {}
            Err(ReloadError::Busy { .. }) => {
                self.put_off(path, noticed, Duration::from_millis(10), put_off, told);
            }
            Err(ReloadError::Refused(refusal)) => self.refused(path, &refusal, noticed, put_off, told),
        }
    }
}

/// Whether a file's name is one that a plugin can have.
pub(crate) fn may_be_plugin(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.ends_with(".so") && !name.starts_with('.'))
}
