//! One watched directory: what is known to be in it, and what has changed since.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use super::native::{Native, is_candidate};
use super::{ABSENCE, Notice, SEARCH};
use crate::file::signature_of;

/// A directory, present or absent.
pub(super) struct Directory {
    path: PathBuf,
    /// Which directory the path led to at the last rescan; the watch on another one has to end.
    identity: Option<Identity>,
    /// Since when the path leads nowhere.
    absent_since: Option<Instant>,
    said_gone: bool,
    said_trouble: Option<String>,
    entries: BTreeMap<OsString, Entry>,
    rescan_at: Option<Instant>,
}

/// Device, inode and time of birth: inode numbers are used again at once.
type Identity = (u64, u64, Option<SystemTime>);

/// A name in the directory.
struct Entry {
    seen: Seen,
    absent_since: Option<Instant>,
}

/// What changes when a file is written or exchanged, or its signature; `None` if it cannot be told.
type Seen = Option<(Stamp, Option<Stamp>)>;

type Stamp = [i128; 5];

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Directory {
            path,
            identity: None,
            absent_since: None,
            said_gone: false,
            said_trouble: None,
            entries: BTreeMap::new(),
            rescan_at: None,
        }
    }

    /// Asks for a rescan at this time.
    pub(super) fn rescan_at(&mut self, at: Instant) {
        self.rescan_at = Some(self.rescan_at.map_or(at, |known| known.min(at)));
    }

    /// An event says that this file is new or complete: tell at once, and remember what it was, so that the
    /// next rescan does not tell again.
    pub(super) fn look(&mut self, path: &Path, now: Instant, notices: &mut Vec<Notice>) {
        let Some(name) = path.file_name() else { return };
        match see(path) {
            Ok(seen) => {
                self.entries.insert(name.to_owned(), Entry { seen, absent_since: None });
                notices.push(Notice::Look(path.to_owned()));
            }
            Err(Nowhere) => self.absent(path, now),
        }
    }

    /// An event says that this name is gone; in a while it is known whether for good.
    pub(super) fn absent(&mut self, path: &Path, now: Instant) {
        let entry = path.file_name().and_then(|name| self.entries.get_mut(name));
        if let Some(entry) = entry {
            entry.absent_since.get_or_insert(now);
            self.rescan_at(now + ABSENCE);
        }
    }

    /// Compares what is there with what is known.
    pub(super) fn rescan(&mut self, now: Instant, native: &mut Native, notices: &mut Vec<Notice>) {
        self.rescan_at = None;
        match fs::metadata(&self.path) {
            Ok(stat) if stat.is_dir() => self.present(&stat, now, native, notices),
            Err(error) if !leads_nowhere(&error) => self.unreadable(&error, now, notices),
            _ => self.missing(now, native, notices),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// When it wants to be scanned besides the regular rescans.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.rescan_at
    }

    fn present(&mut self, stat: &Metadata, now: Instant, native: &mut Native, notices: &mut Vec<Notice>) {
        self.absent_since = None;
        if std::mem::take(&mut self.said_gone) {
            notices.push(Notice::DirectoryBack(self.path.clone()));
        }
        let identity = (stat.dev(), stat.ino(), stat.created().ok());
        if self.identity.replace(identity).is_some_and(|before| before != identity) {
            native.unwatch(&self.path);
        }
        // Watched before it is listed, so that nothing happens in between unseen. And each time again: the
        // watch may have ended with a directory that had the same identity, and repeating it is cheap.
        let watched = native.watch(&self.path);
        let trouble =
            watched.err().map(|e| format!("no file events ({e}): changes are found by rescans alone"));
        match fs::read_dir(&self.path).and_then(|listing| self.compare(listing, now, notices)) {
            Ok(()) => self.trouble(trouble, notices),
            Err(error) => self.unreadable(&error, now, notices),
        }
    }

    fn compare(&mut self, listing: fs::ReadDir, now: Instant, notices: &mut Vec<Notice>) -> io::Result<()> {
        let mut present = BTreeMap::new();
        for entry in listing {
            let name = entry?.file_name();
            if is_candidate(&name)
                && let Ok(seen) = see(&self.path.join(&name))
            {
                present.insert(name, seen);
            }
        }
        self.entries_absent(now, |name| !present.contains_key(name), notices);
        for (name, seen) in present {
            let known = self.entries.get(&name).map(|entry| entry.seen);
            if known != Some(seen) {
                notices.push(Notice::Look(self.path.join(&name)));
            }
            self.entries.insert(name, Entry { seen, absent_since: None });
        }
        Ok(())
    }

    /// Tells which of the absent names are gone, and remembers since when the others are absent.
    fn entries_absent(
        &mut self,
        now: Instant,
        is_absent: impl Fn(&OsStr) -> bool,
        notices: &mut Vec<Notice>,
    ) {
        let mut next = None;
        self.entries.retain(|name, entry| {
            if !is_absent(name) {
                return true;
            }
            let due = *entry.absent_since.get_or_insert(now) + ABSENCE;
            if due <= now {
                notices.push(Notice::Gone(self.path.join(name)));
                return false;
            }
            next = Some(next.map_or(due, |next: Instant| next.min(due)));
            true
        });
        if let Some(next) = next {
            self.rescan_at(next);
        }
    }

    fn missing(&mut self, now: Instant, native: &mut Native, notices: &mut Vec<Notice>) {
        let known = self.identity.take().is_some();
        if known {
            native.unwatch(&self.path);
        }
        let since = *self.absent_since.get_or_insert(now);
        self.entries_absent(now, |_| true, notices);
        // A directory that never was there has nothing to come back from for a moment.
        let is_gone = !known && self.entries.is_empty() && (now >= since + ABSENCE || since == now);
        if is_gone && !std::mem::replace(&mut self.said_gone, true) {
            notices.push(Notice::DirectoryGone(self.path.clone()));
        }
        self.rescan_at(now + SEARCH);
    }

    /// Neither present nor gone: what was known stays known.
    fn unreadable(&mut self, error: &io::Error, now: Instant, notices: &mut Vec<Notice>) {
        if leads_nowhere(error) {
            return self.rescan_at(now + SEARCH); // removed since it was found
        }
        self.trouble(Some(format!("cannot be read: {error}")), notices);
    }

    fn trouble(&mut self, message: Option<String>, notices: &mut Vec<Notice>) {
        if let Some(message) = message.clone().filter(|message| self.said_trouble.as_ref() != Some(message)) {
            notices.push(Notice::Trouble { dir: self.path.clone(), message });
        }
        self.said_trouble = message;
    }
}

/// A path leads to no file.
struct Nowhere;

fn see(path: &Path) -> Result<Seen, Nowhere> {
    match fs::metadata(path) {
        Ok(stat) => Ok(Some((stamp(&stat), fs::metadata(signature_of(path)).ok().as_ref().map(stamp)))),
        Err(error) if leads_nowhere(&error) => Err(Nowhere),
        Err(_) => Ok(None), // whoever looks will be told why
    }
}

fn stamp(stat: &Metadata) -> Stamp {
    [
        stat.dev().into(),
        stat.ino().into(),
        stat.size().into(),
        i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()),
        i128::from(stat.ctime()) * 1_000_000_000 + i128::from(stat.ctime_nsec()),
    ]
}

fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
