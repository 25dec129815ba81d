//! Turns file events into "look at this path". Knows directories, names that end in `.so` and the names of their
//! signatures, and nothing of plugins.
//!
//! Invariants:
//! 1. Whatever the last change to a file was, a [`Notice::Look`] is sent after it: from its event at once,
//!    or, if the event was lost, from the next rescan.
//! 2. A removal means nothing for [`ABSENCE`]: build tools remove a file and then make it anew.
//! 3. The thread ends when the [`Watcher`] is dropped or nobody receives notices, and never because of one
//!    bad directory or event.

mod directory;
mod native;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use directory::Directory;
use native::{Native, Signal};

/// How long a file or directory has to be absent before it is called gone.
pub const ABSENCE: Duration = Duration::from_millis(250);

/// Directories that are absent are looked for this often: nothing tells when they come back.
const SEARCH: Duration = Duration::from_millis(100);

/// What the watcher has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// This path is new or may have changed, or what lies beside it as its signature.
    Look(PathBuf),
    /// This path has led nowhere for a while.
    Gone(PathBuf),
    /// This directory does not exist, or has ceased to; its files have been reported gone before.
    DirectoryGone(PathBuf),
    /// This directory exists again; its files follow.
    DirectoryBack(PathBuf),
    /// Something keeps the watcher from working well in this directory; it goes on trying. Said once, until
    /// it changes.
    Trouble {
        /// The directory.
        dir: PathBuf,
        /// What is wrong, and what is done about it.
        message: String,
    },
}

/// Watches directories, not what is below them, on a thread of its own. Dropping it stops the thread and
/// waits for it.
#[derive(Debug)]
pub struct Watcher {
    requests: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts watching. Paths in notices are absolute and begin as the directory was given. A directory that
    /// does not exist yet is waited for.
    ///
    /// Every file that is there already is looked at. A rescan every `rescan_every` finds what no event told.
    ///
    /// # Errors
    ///
    /// The thread cannot be started, or a relative path has nothing to be relative to.
    pub fn start(
        dirs: Vec<PathBuf>,
        rescan_every: Duration,
        notices: Sender<Notice>,
    ) -> Result<Watcher, WatchError> {
        Self::start_with(Native::new(native::recommended), dirs, rescan_every, notices)
    }

    /// As [`Watcher::start`], but without the system's file events: every directory is read in full this often.
    ///
    /// # Errors
    ///
    /// As for `start`.
    pub fn poll(dirs: Vec<PathBuf>, every: Duration, notices: Sender<Notice>) -> Result<Watcher, WatchError> {
        Self::start_with(Native::none(), dirs, every, notices)
    }

    /// Starts with this source of events.
    fn start_with(
        native: Native,
        dirs: Vec<PathBuf>,
        rescan_every: Duration,
        notices: Sender<Notice>,
    ) -> Result<Watcher, WatchError> {
        let mut directories: Vec<Directory> = Vec::new();
        for dir in dirs {
            let path = std::path::absolute(&dir).map_err(|source| WatchError::NoSuchPath { dir, source })?;
            if directories.iter().all(|known| known.path() != path) {
                directories.push(Directory::new(path));
            }
        }
        let (requests, asked) = bounded(1);
        let rescan_every = rescan_every.max(Duration::from_millis(10));
        let run = move || Loop { directories, native, rescan_every, notices, asked }.run();
        let thread = std::thread::Builder::new().name("reseat-watch".into()).spawn(run);
        let thread = thread.map_err(|source| WatchError::NoThread { source })?;
        Ok(Watcher { requests: Some(requests), thread: Some(thread) })
    }

    /// Rescans all directories now, on the watcher's thread.
    pub fn rescan_now(&self) {
        if let Some(requests) = &self.requests {
            // Full means that a rescan is about to begin anyway.
            let _ = requests.try_send(());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook; dropping is not the place for another.
            let _ = thread.join();
        }
    }
}

/// Why watching did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// A path cannot be made absolute.
    #[error("cannot watch {}: {source}", .dir.display())]
    NoSuchPath {
        /// The path.
        dir: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// What was to tell of changes cannot.
    #[error("cannot watch: {reason}")]
    Source {
        /// What it says.
        reason: String,
    },
    /// The thread cannot be started.
    #[error("cannot start the watcher's thread: {source}")]
    NoThread {
        /// What the system says.
        source: std::io::Error,
    },
}

/// The watcher's thread.
struct Loop {
    directories: Vec<Directory>,
    native: Native,
    rescan_every: Duration,
    notices: Sender<Notice>,
    asked: Receiver<()>,
}

/// Why the loop ends.
struct Stop;

impl Loop {
    fn run(mut self) {
        let mut rescan_at = Instant::now();
        loop {
            let now = Instant::now();
            let all = now >= rescan_at;
            if all {
                // Without a representable next time there is none.
                rescan_at = now.checked_add(self.rescan_every).unwrap_or(now + Duration::from_secs(86_400));
            }
            if self.scan(now, all).is_err() {
                return;
            }
            let wait = self.next_wait(rescan_at);
            let events = self.native.events().clone();
            let stop = select! {
                recv(events) -> signal => self.handle(signal.ok(), &mut rescan_at),
                recv(self.asked) -> asked => match asked {
                    Ok(()) => { rescan_at = Instant::now(); Ok(()) }
                    Err(_) => Err(Stop),
                },
                default(wait) => Ok(()),
            };
            if stop.is_err() {
                return;
            }
        }
    }

    /// Rescans what is due: everything, or what is waited for.
    fn scan(&mut self, now: Instant, all: bool) -> Result<(), Stop> {
        let mut notices = Vec::new();
        for directory in &mut self.directories {
            if all || directory.due_at().is_some_and(|due| now >= due) {
                directory.rescan(now, &mut self.native, &mut notices);
            }
        }
        self.send(notices)
    }

    fn next_wait(&self, rescan_at: Instant) -> Duration {
        let due = self.directories.iter().filter_map(Directory::due_at).min();
        due.map_or(rescan_at, |due| due.min(rescan_at)).saturating_duration_since(Instant::now())
    }

    /// Takes this signal and all that have arrived with it as one batch.
    fn handle(&mut self, first: Option<Signal>, rescan_at: &mut Instant) -> Result<(), Stop> {
        let now = Instant::now();
        let mut looks = BTreeSet::new();
        let events = self.native.events().clone();
        // No more than have arrived by now: under a flood of events the looks must still be sent.
        for signal in first.into_iter().chain(events.try_iter().take(events.len())) {
            match signal {
                Signal::Look(path) => {
                    looks.insert(path);
                }
                Signal::Absent(path) => self.absent(&path, now),
                Signal::Directory(path) => self.rescan_soon(&path, now),
                Signal::Rescan => *rescan_at = now,
            }
        }
        if self.native.lost() {
            *rescan_at = now;
        }
        let mut notices = Vec::new();
        for path in looks {
            if let Some(directory) = self.directory_of(&path) {
                directory.look(&path, now, &mut notices);
            }
        }
        self.send(notices)
    }

    fn absent(&mut self, path: &Path, now: Instant) {
        if let Some(directory) = self.directory_of(path) {
            directory.absent(path, now);
        }
    }

    fn rescan_soon(&mut self, path: &Path, now: Instant) {
        if let Some(directory) = self.directories.iter_mut().find(|directory| directory.path() == path) {
            directory.rescan_at(now);
        }
    }

    fn directory_of(&mut self, path: &Path) -> Option<&mut Directory> {
        let parent = path.parent()?;
        self.directories.iter_mut().find(|directory| directory.path() == parent)
    }

    /// Sends, unless the watcher is dropped meanwhile: nobody may be receiving any more.
    fn send(&mut self, notices: Vec<Notice>) -> Result<(), Stop> {
        for notice in notices {
            let mut notice = Some(notice);
            while let Some(next) = notice.take() {
                select! {
                    send(self.notices, next.clone()) -> sent => sent.map_err(|_| Stop)?,
                    recv(self.asked) -> asked => {
                        asked.map_err(|_| Stop)?;
                        self.directories.iter_mut().for_each(|directory| directory.rescan_at(Instant::now()));
                        notice = Some(next);
                    }
                }
            }
        }
        Ok(())
    }
}
