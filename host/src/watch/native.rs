//! The system's own file events, reduced to what means something.
//!
//! The handler runs on a thread of `notify` and never blocks: when too many events wait, the rest becomes one
//! request to rescan.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::file::SIGNATURE_ENDING;

/// So many signals may wait before a rescan replaces them.
const WAITING: usize = 4096;

/// What an event means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The file of this name is new or complete.
    Look(PathBuf),
    /// The name is gone, perhaps for a moment.
    Absent(PathBuf),
    /// Something happened to this directory itself.
    Directory(PathBuf),
    /// Events were lost.
    Rescan,
}

/// Takes what `notify` tells.
pub(super) type Handler = Box<dyn FnMut(Result<Event, notify::Error>) + Send>;

/// Makes the watcher of this system.
pub(super) fn recommended(handler: Handler) -> Result<RecommendedWatcher, notify::Error> {
    notify::recommended_watcher(handler)
}

/// The native watcher, made when it is first needed, and tried again when it could not be made.
pub(super) struct Native {
    /// `None`: there are to be no events.
    make: Option<fn(Handler) -> Result<RecommendedWatcher, notify::Error>>,
    watcher: Option<RecommendedWatcher>,
    signals: Sender<Signal>,
    events: Receiver<Signal>,
    lost: Arc<AtomicBool>,
}

impl Native {
    pub(super) fn new(make: fn(Handler) -> Result<RecommendedWatcher, notify::Error>) -> Self {
        Native { make: Some(make), ..Native::none() }
    }

    /// Without any events.
    pub(super) fn none() -> Self {
        let (signals, events) = bounded(WAITING);
        Native { make: None, watcher: None, signals, events, lost: Arc::default() }
    }

    /// What has happened.
    pub(super) fn events(&self) -> &Receiver<Signal> {
        &self.events
    }

    /// Whether signals were dropped since the last question.
    pub(super) fn lost(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// Watches a directory.
    pub(super) fn watch(&mut self, directory: &Path) -> Result<(), notify::Error> {
        let watcher = match (self.watcher.take(), self.make) {
            (Some(watcher), _) => watcher,
            (None, Some(make)) => make(self.handler())?,
            (None, None) => return Ok(()),
        };
        self.watcher.insert(watcher).watch(directory, RecursiveMode::NonRecursive)
    }

    /// Stops watching what this path led to, if it still is watched.
    pub(super) fn unwatch(&mut self, directory: &Path) {
        if let Some(watcher) = &mut self.watcher {
            // The watch ends by itself with its directory, so there may be none.
            let _ = watcher.unwatch(directory);
        }
    }

    fn handler(&self) -> Handler {
        let (signals, lost) = (self.signals.clone(), Arc::clone(&self.lost));
        Box::new(move |event| {
            let found = match event {
                Ok(event) => meaning(&event),
                Err(error) => {
                    tracing::debug!(%error, "file events were lost");
                    vec![Signal::Rescan]
                }
            };
            for signal in found {
                if signals.try_send(signal).is_err() {
                    lost.store(true, Ordering::Relaxed);
                }
            }
        })
    }
}

/// Whether a name can be that of a library.
pub(super) fn is_candidate(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.ends_with(b".so") && !name.starts_with(b".")
}

/// The library that a file is the signature of, by its name.
fn signed(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(SIGNATURE_ENDING)?;
    is_candidate(OsStr::new(name)).then(|| path.with_file_name(name))
}

/// What an event means. Most mean nothing: a file that is modified is not complete, and one that is read has
/// not changed; every look of ours causes some of these.
pub(super) fn meaning(event: &Event) -> Vec<Signal> {
    use EventKind::{Access, Create, Modify, Remove};
    if event.need_rescan() {
        return vec![Signal::Rescan];
    }
    let path = match event.kind {
        // Both paths of a rename: the second is where the file is now.
        Modify(ModifyKind::Name(RenameMode::Both)) => event.paths.last(),
        _ => event.paths.first(),
    };
    let Some(path) = path else { return Vec::new() };
    let signal: fn(PathBuf) -> Signal = match event.kind {
        Create(_) | Access(AccessKind::Close(AccessMode::Write)) => Signal::Look,
        Modify(ModifyKind::Name(RenameMode::From)) | Remove(_) => Signal::Absent,
        Modify(ModifyKind::Name(_)) => Signal::Look,
        _ => return Vec::new(),
    };
    match path.file_name() {
        Some(name) if is_candidate(name) => vec![signal(path.clone())],
        // A library whose signature is gone is what it was; one whose signature is new may count for more.
        _ if let Some(library) = signed(path) => {
            vec![signal(library)].into_iter().filter(|signal| matches!(signal, Signal::Look(_))).collect()
        }
        // What is removed or renamed may be the directory itself; another name of its kind is sorted out
        // later.
        _ if signal(PathBuf::new()) == Signal::Absent(PathBuf::new()) => {
            vec![Signal::Directory(path.clone())]
        }
        _ => Vec::new(),
    }
}
