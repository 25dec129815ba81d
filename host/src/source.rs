//! Where a host learns that a file may have changed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};

use crate::error::StartError;
use crate::intake::{Order, may_be_plugin};
use crate::lock::be_ready_to_wait;
use crate::registry::Core;
use crate::watch::{Notice, WatchError, Watcher};

/// How the directories of a host are watched, if they are followed at all. See [`Options::watcher`].
///
/// [`Options::watcher`]: crate::Options::watcher
#[derive(Clone, Default)]
pub enum WatcherKind {
    /// By the system's file events, and a rescan every [`Options::rescan_every`](crate::Options::rescan_every).
    #[default]
    Native,
    /// By reading them this often: for network mounts, where a change on another machine causes no event. A file has
    /// changed if its inode, size, or a time of it has.
    Poll(Duration),
    /// By nobody: a file is looked at when [`Host::look_at`](crate::Host::look_at) or
    /// [`Host::rescan`](crate::Host::rescan) says so.
    None,
    /// By something of the embedder's own, and as for `None`.
    Own(Arc<dyn WatchSource>),
}

impl PartialEq for WatcherKind {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (WatcherKind::Native, WatcherKind::Native) | (WatcherKind::None, WatcherKind::None) => true,
            (WatcherKind::Poll(ours), WatcherKind::Poll(theirs)) => ours == theirs,
            (WatcherKind::Own(ours), WatcherKind::Own(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }
}

impl fmt::Debug for WatcherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatcherKind::Native => f.write_str("Native"),
            WatcherKind::Poll(every) => f.debug_tuple("Poll").field(every).finish(),
            WatcherKind::None => f.write_str("None"),
            WatcherKind::Own(_) => f.write_str("Own"),
        }
    }
}

/// Something that knows when files change: a deployment that has put them there, a queue, another watcher.
pub trait WatchSource: Send + Sync {
    /// Begins to tell of changes in these directories, on whatever thread it likes, and returns. Called once for each
    /// host, before what is there already is loaded.
    ///
    /// # Errors
    /// It cannot, and why: the host does not start.
    fn begin(&self, directories: &[PathBuf], looks: LookAt) -> Result<(), String>;

    /// The host ends. What is told from now on is heard by nobody.
    fn end(&self) {}
}

/// Tells a host that a file may have changed.
#[derive(Clone)]
pub struct LookAt {
    directories: Arc<[PathBuf]>,
    orders: Sender<Order>,
}

impl LookAt {
    pub(crate) fn new(directories: Vec<PathBuf>, orders: Sender<Order>) -> Self {
        LookAt { directories: directories.into(), orders }
    }

    /// Has the host look at a file, on its own threads: as if its watcher had seen a change there. It may be told too
    /// often, and of files that are not complete yet.
    ///
    /// `false`: nobody looks: the file is not in one of the directories, a plugin cannot have its name, or the host
    /// has ended.
    pub fn look_at(&self, path: impl AsRef<Path>) -> bool {
        let Ok(path) = std::path::absolute(path) else { return false };
        let ours = path.parent().is_some_and(|parent| self.directories.iter().any(|one| one == parent));
        ours && may_be_plugin(&path) && self.orders.send(Order::Notice(Notice::Look(path))).is_ok()
    }
}

impl fmt::Debug for LookAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookAt").field("directories", &self.directories).finish_non_exhaustive()
    }
}

/// The way to tell of files, if any are followed.
pub(crate) fn look_at(core: &Core, orders: &Sender<Order>) -> Option<LookAt> {
    core.options().follow.then(|| LookAt::new(directories(core), orders.clone()))
}

fn directories(core: &Core) -> Vec<PathBuf> {
    core.options().watch.iter().map(|dir| dir.path().to_owned()).collect()
}

/// Has the embedder's own source tell of files, if there is one.
pub(crate) fn listen(
    core: &Core,
    looks: Option<&LookAt>,
) -> Result<Option<Arc<dyn WatchSource>>, StartError> {
    let (WatcherKind::Own(source), Some(looks)) = (core.options().watcher.clone(), looks) else {
        return Ok(None);
    };
    let begun = source.begin(&directories(core), looks.clone());
    begun.map_err(|reason| StartError::Watch(WatchError::Source { reason }))?;
    Ok(Some(source))
}

/// Has the directories watched, if they are followed and it is not left to somebody else.
pub(crate) fn watch(core: &Core, orders: &Sender<Order>) -> Result<Option<Watcher>, StartError> {
    let options = core.options();
    if !options.follow || options.watch.is_empty() {
        return Ok(None);
    }
    let (notices, noticed) = unbounded();
    let watcher = match options.watcher {
        WatcherKind::Native => Watcher::start(directories(core), options.rescan_every, notices),
        WatcherKind::Poll(every) => Watcher::poll(directories(core), every, notices),
        WatcherKind::None | WatcherKind::Own(_) => return Ok(None),
    };
    let watcher = watcher.map_err(StartError::Watch)?;
    let orders = orders.clone();
    std::thread::Builder::new()
        .name("reseat-notices".into())
        .spawn(move || {
            be_ready_to_wait();
            for notice in noticed {
                if orders.send(Order::Notice(notice)).is_err() {
                    break;
                }
            }
        })
        .map_err(StartError::Thread)?;
    Ok(Some(watcher))
}
