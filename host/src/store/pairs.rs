//! For each plugin, the build that served last and the state it goes on from, and the pair before.
//!
//! What is wanted is kept in memory and changed by whoever publishes; a thread of the store makes what is on disk equal
//! to it, and may skip what was overtaken meanwhile. So nobody waits for a disk, and no more than two states of a plugin
//! wait to be written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::files::Files;
use crate::events::now_ms;
use crate::file::ContentHash;
use crate::snapshot::Frame;

/// After so many deaths of the host, each within a minute after it took over, a build is not started again.
pub(super) const DEATHS: u32 = 3;

/// A build, and the state it goes on from.
#[derive(Clone)]
pub(crate) struct Pair {
    /// Of the file that it came from.
    pub(crate) hash: ContentHash,
    /// Of the copy that is kept: a mark may have been cleared in it.
    pub(crate) kept: ContentHash,
    /// Its version.
    pub(crate) version: String,
    /// Where it came from.
    pub(crate) file: PathBuf,
    /// When it took over, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// A host has lived for a minute after it took over.
    pub(crate) proven: bool,
    /// How often the host has died before that.
    pub(crate) deaths: u32,
    pub(crate) state: Option<State>,
}

/// A state that was saved.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) version: u32,
    pub(crate) bytes: u64,
    pub(crate) at_ms: u64,
    /// The frame's checksum.
    sum: u32,
    pub(super) place: Place,
}

#[derive(Clone)]
pub(super) enum Place {
    /// It has yet to be written.
    Memory(Frame),
    /// A file of the plugin's directory.
    File(String),
}

/// States that lay in memory, and the files in which they are now.
pub(super) type Filed = Vec<(Frame, String)>;

/// The pairs of one plugin.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) current: Pair,
    pub(super) before: Option<Pair>,
    /// The number of the last change.
    pub(super) changed: u64,
    /// The last change that is on disk.
    pub(super) written: u64,
}

impl Entry {
    pub(super) fn is_dirty(&self) -> bool {
        self.written < self.changed
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = &Pair> {
        std::iter::once(&self.current).chain(&self.before)
    }

    pub(super) fn pairs_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        std::iter::once(&mut self.current).chain(&mut self.before)
    }
}

/// What a publish has brought about.
pub(crate) struct Commit<'a> {
    pub(crate) hash: ContentHash,
    pub(crate) version: &'a str,
    pub(crate) file: &'a Path,
    /// The private copy, if there is one to be kept.
    pub(crate) copy: Option<&'a Path>,
    /// Whether its contents are those of the file; a mark may have been cleared.
    pub(crate) is_exact: bool,
    /// The state that was carried across, if any.
    pub(crate) state: Option<Frame>,
    /// The build that can be gone back to.
    pub(crate) before: Option<ContentHash>,
    /// It need not prove itself.
    pub(crate) is_trusted: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Pairs {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Plugins that were forgotten, and are still on disk.
    pub(super) forgotten: Vec<String>,
    last_change: u64,
}

impl State {
    pub(super) fn of(frame: Frame) -> State {
        // Whoever hands it in has checked it.
        let version = plugin_api::state::frame::parse(&frame).map_or(0, |contents| contents.version);
        let sum = frame.last_chunk().map_or(0, |sum| u32::from_le_bytes(*sum));
        State { version, bytes: frame.len() as u64, at_ms: now_ms(), sum, place: Place::Memory(frame) }
    }

    fn equals(&self, other: &State) -> bool {
        (self.version, self.bytes, self.sum) == (other.version, other.bytes, other.sum)
    }

    fn is(&self, frame: &Frame) -> bool {
        matches!(&self.place, Place::Memory(own) if Arc::ptr_eq(own, frame))
    }
}

impl Pairs {
    /// All of them, as they were read.
    pub(super) fn on_disk(&self) -> BTreeMap<String, Entry> {
        self.entries.clone()
    }

    fn next_change(&mut self) -> u64 {
        self.last_change += 1;
        self.last_change
    }

    /// A build has taken over.
    pub(super) fn commit(&mut self, plugin: &str, commit: &Commit<'_>) {
        let changed = self.next_change();
        let Commit { hash, version, file, ref state, before, .. } = *commit;
        let marked = || commit.copy.filter(|_| !commit.is_exact).and_then(|copy| std::fs::read(copy).ok());
        let exact = || marked().map_or(hash, |contents| ContentHash::of(&contents));
        let old = self.entries.remove(plugin);
        let known = old.as_ref().and_then(|old| old.pairs().find(|pair| pair.hash == hash)).cloned();
        let state = state.clone().map(State::of);
        let before = old.and_then(|old| {
            let Entry { current, before: earlier, .. } = old;
            let left = Pair { state: state.clone().or_else(|| current.state.clone()), ..current };
            [Some(left), earlier].into_iter().flatten().find(|pair| Some(pair.hash) == before)
        });
        let (kept, proven, deaths) =
            known.map_or_else(|| (exact(), false, 0), |known| (known.kept, known.proven, known.deaths));
        let (version, file, proven) = (version.to_owned(), file.to_owned(), proven || commit.is_trusted);
        let current = Pair { hash, kept, version, file, at_ms: now_ms(), proven, deaths, state };
        self.entries.insert(plugin.to_owned(), Entry { current, before, changed, written: 0 });
        self.forgotten.retain(|name| name != plugin);
    }

    /// A newer state of the build that serves. The number of the change; `None`: another build serves.
    pub(super) fn snapshot(&mut self, plugin: &str, hash: ContentHash, frame: Frame) -> Option<u64> {
        let (changed, state) = (self.next_change(), State::of(frame));
        let entry = self.entries.get_mut(plugin).filter(|entry| entry.current.hash == hash)?;
        // What has not changed need not be written again.
        if !entry.current.state.as_ref().is_some_and(|known| known.equals(&state)) {
            (entry.current.state, entry.changed) = (Some(state), changed);
        }
        Some(entry.changed)
    }

    /// A host has lived for a minute after this build took over.
    pub(super) fn prove(&mut self, plugin: &str, hash: ContentHash) {
        let changed = self.next_change();
        let entry = self.entries.get_mut(plugin).filter(|entry| entry.current.hash == hash);
        if let Some(entry) = entry.filter(|entry| !entry.current.proven) {
            (entry.current.proven, entry.current.deaths, entry.changed) = (true, 0, changed);
        }
    }

    /// Nothing is left of a plugin.
    pub(super) fn forget(&mut self, plugin: &str) {
        if self.entries.remove(plugin).is_some() {
            self.forgotten.push(plugin.to_owned());
        }
    }

    pub(super) fn forget_all(&mut self) {
        self.forgotten.extend(std::mem::take(&mut self.entries).into_keys());
    }

    /// The host before this one has died: of the build that took over last among those that have yet to prove
    /// themselves, presumably.
    pub(super) fn blame(&mut self) {
        let changed = self.next_change();
        let unproven = self.entries.values_mut().filter(|entry| !entry.current.proven);
        if let Some(entry) = unproven.max_by_key(|entry| entry.current.at_ms) {
            (entry.current.deaths, entry.changed) = (entry.current.deaths + 1, changed);
        }
    }

    /// Puts the pair before in the place of one that has ended the host too often, which is returned. Without one
    /// before, nothing is left.
    pub(super) fn send_back(&mut self, plugin: &str) -> Option<Pair> {
        let changed = self.next_change();
        let entry = self.entries.get_mut(plugin).filter(|entry| entry.current.deaths >= DEATHS)?;
        match entry.before.take() {
            Some(before) => {
                entry.changed = changed;
                Some(std::mem::replace(&mut entry.current, before))
            }
            None => {
                let entry = self.entries.remove(plugin)?;
                self.forgotten.push(plugin.to_owned());
                Some(entry.current)
            }
        }
    }

    /// A change has been written: what waited in memory lies in files now.
    pub(super) fn note_written(&mut self, plugin: &str, change: u64, files: &Filed) {
        let Some(entry) = self.entries.get_mut(plugin) else { return };
        entry.written = entry.written.max(change);
        for state in entry.pairs_mut().filter_map(|pair| pair.state.as_mut()) {
            if let Some((_, name)) = files.iter().find(|(frame, _)| state.is(frame)) {
                state.place = Place::File(name.clone());
            }
        }
    }
}

/// The pairs of a plugin, as they stand in the store.
#[derive(Serialize, Deserialize)]
struct Written {
    current: WrittenPair,
    before: Option<WrittenPair>,
}

#[derive(Serialize, Deserialize)]
struct WrittenPair {
    hash: String,
    kept: String,
    version: String,
    file: PathBuf,
    at_ms: u64,
    proven: bool,
    deaths: u32,
    state: Option<WrittenState>,
}

#[derive(Serialize, Deserialize)]
struct WrittenState {
    version: u32,
    bytes: u64,
    at_ms: u64,
    sum: u32,
    file: String,
}

impl WrittenPair {
    fn of(pair: &Pair) -> WrittenPair {
        let Pair { hash, kept, ref version, ref file, at_ms, proven, deaths, ref state } = *pair;
        let state = state.as_ref().and_then(|state| match &state.place {
            Place::File(name) => Some(WrittenState {
                version: state.version,
                bytes: state.bytes,
                at_ms: state.at_ms,
                sum: state.sum,
                file: name.clone(),
            }),
            Place::Memory(_) => None,
        });
        let (hash, kept) = (hash.to_string(), kept.to_string());
        let (version, file) = (version.clone(), file.clone());
        WrittenPair { hash, kept, version, file, at_ms, proven, deaths, state }
    }

    fn read(self) -> Option<Pair> {
        let WrittenPair { hash, kept, version, file, at_ms, proven, deaths, state } = self;
        let state = state.map(|WrittenState { version, bytes, at_ms, sum, file }| State {
            version,
            bytes,
            at_ms,
            sum,
            place: Place::File(file),
        });
        let (hash, kept) = (hash.parse().ok()?, kept.parse().ok()?);
        Some(Pair { hash, kept, version, file, at_ms, proven, deaths, state })
    }
}

impl Entry {
    /// Writes what has yet to be written of its states, and gives what the store is to say, and the files.
    pub(super) fn write(&mut self, plugin: &str, files: &Files) -> std::io::Result<(Vec<u8>, Filed)> {
        let mut written: Filed = Vec::new();
        for pair in self.pairs_mut() {
            files.settle_build(pair.hash)?;
            let Some(State { place, version, .. }) = &mut pair.state else { continue };
            if let Place::Memory(frame) = &*place {
                let frame = frame.clone();
                let name = match written.iter().find(|(known, _)| Arc::ptr_eq(known, &frame)) {
                    Some((_, name)) => name.clone(),
                    None => files.write_state(plugin, *version, &frame)?,
                };
                written.push((frame, name.clone()));
                *place = Place::File(name);
            }
        }
        let text = Written {
            current: WrittenPair::of(&self.current),
            before: self.before.as_ref().map(WrittenPair::of),
        };
        Ok((serde_json::to_vec(&text)?, written))
    }

    /// What an earlier host has written.
    pub(super) fn read(text: &[u8]) -> Option<Entry> {
        let Written { current, before } = serde_json::from_slice(text).ok()?;
        let before = before.and_then(WrittenPair::read);
        Some(Entry { current: current.read()?, before, changed: 0, written: 0 })
    }
}
