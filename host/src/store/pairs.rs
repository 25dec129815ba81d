//! For each plugin, the build that served last and the state it goes on from, and the pair before.
//!
//! What is wanted is kept in memory and changed by whoever publishes; a thread of the store makes what is on disk equal
//! to it, and may skip what was overtaken meanwhile. So nobody waits for a disk, and no more than two states of a plugin
//! wait to be written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::files::Files;
use crate::file::ContentHash;
use crate::journal::now_ms;
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
    /// Of two builds, the one with the higher number has taken over later, whatever the clock says.
    order: u64,
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
    /// The signature that it was accepted with, to be kept with it.
    pub(crate) signature: Option<&'a str>,
    /// Whether its contents are those of the file; a mark may have been cleared.
    pub(crate) is_exact: bool,
    /// The state that was carried across, if any.
    pub(crate) state: Option<Frame>,
    /// Whether the build that was left reads that, too.
    pub(crate) reads_back: bool,
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

    fn next_order(&self) -> u64 {
        self.entries.values().flat_map(Entry::pairs).map(|pair| pair.order).max().unwrap_or(0) + 1
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
        let goes_on = old.as_ref().filter(|old| old.current.hash == hash);
        let (at_ms, order) = goes_on
            .map_or_else(|| (now_ms(), self.next_order()), |old| (old.current.at_ms, old.current.order));
        let state = state.clone().map(State::of);
        let before = old.and_then(|old| {
            let Entry { current, before: earlier, .. } = old;
            let carried = state.clone().filter(|_| commit.reads_back);
            let left = Pair { state: carried.or_else(|| current.state.clone()), ..current };
            [Some(left), earlier].into_iter().flatten().find(|pair| Some(pair.hash) == before)
        });
        let (kept, proven, deaths) =
            known.map_or_else(|| (exact(), false, 0), |known| (known.kept, known.proven, known.deaths));
        let (version, file, proven) = (version.to_owned(), file.to_owned(), proven || commit.is_trusted);
        let current = Pair { hash, kept, version, file, at_ms, proven, deaths, order, state };
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

    /// The host before this one has died, with these plugins: of the build that took over last among those of them that
    /// have yet to prove themselves, presumably.
    pub(super) fn blame(&mut self, opened: &BTreeSet<String>) {
        let changed = self.next_change();
        let opened = self.entries.iter_mut().filter(|(plugin, _)| opened.contains(*plugin));
        let unproven = opened.map(|(_, entry)| entry).filter(|entry| !entry.current.proven);
        if let Some(entry) = unproven.max_by_key(|entry| entry.current.order) {
            (entry.current.deaths, entry.changed) = (entry.current.deaths + 1, changed);
        }
    }

    /// A build is allowed again.
    pub(super) fn pardon(&mut self, hash: ContentHash) {
        let changed = self.next_change();
        for entry in self.entries.values_mut().filter(|entry| entry.current.hash == hash) {
            (entry.current.deaths, entry.changed) = (0, changed);
        }
    }

    /// Puts the pair before in the place of one that is not to be started. Without one before it stays, for its state.
    pub(super) fn send_back(&mut self, plugin: &str) {
        let changed = self.next_change();
        let Some(entry) = self.entries.get_mut(plugin) else { return };
        if let Some(before) = entry.before.take() {
            (entry.current, entry.changed) = (before, changed);
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
    order: u64,
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
        let Pair { hash, kept, ref version, ref file, at_ms, proven, deaths, order, ref state } = *pair;
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
        WrittenPair { hash, kept, version, file, at_ms, proven, deaths, order, state }
    }

    fn read(self) -> Option<Pair> {
        let WrittenPair { hash, kept, version, file, at_ms, proven, deaths, order, state } = self;
        let state = state.map(|WrittenState { version, bytes, at_ms, sum, file }| State {
            version,
            bytes,
            at_ms,
            sum,
            place: Place::File(file),
        });
        let (hash, kept) = (hash.parse().ok()?, kept.parse().ok()?);
        Some(Pair { hash, kept, version, file, at_ms, proven, deaths, order, state })
    }
}

impl Entry {
    /// Writes what has yet to be written of its states, and gives what the store is to say, and the files. If that fails,
    /// none is left.
    pub(super) fn write(&mut self, plugin: &str, files: &Files) -> std::io::Result<(Vec<u8>, Filed)> {
        let mut written: Filed = Vec::new();
        if let Err(error) = self.write_states(plugin, files, &mut written) {
            written.iter().for_each(|(_, name)| files.remove_state(plugin, name));
            return Err(error);
        }
        let text = Written {
            current: WrittenPair::of(&self.current),
            before: self.before.as_ref().map(WrittenPair::of),
        };
        Ok((serde_json::to_vec(&text)?, written))
    }

    fn write_states(&mut self, plugin: &str, files: &Files, written: &mut Filed) -> std::io::Result<()> {
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
        Ok(())
    }

    /// What an earlier host has written.
    pub(super) fn read(text: &[u8]) -> Option<Entry> {
        let Written { current, before } = serde_json::from_slice(text).ok()?;
        let before = before.and_then(WrittenPair::read);
        Some(Entry { current: current.read()?, before, changed: 0, written: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes_over(pairs: &mut Pairs, plugin: &str, build: u8, before: Option<u8>) {
        let hash = |number: u8| ContentHash([number; 32]);
        pairs.commit(
            plugin,
            &Commit {
                hash: hash(build),
                version: "1",
                file: Path::new("lib.so"),
                copy: None,
                signature: None,
                is_exact: true,
                state: None,
                reads_back: true,
                before: before.map(hash),
                is_trusted: false,
            },
        );
    }

    fn deaths(pairs: &Pairs) -> Vec<(&str, u32)> {
        pairs.entries.iter().map(|(plugin, entry)| (plugin.as_str(), entry.current.deaths)).collect()
    }

    #[test]
    fn the_build_that_took_over_last_is_blamed_whoever_went_on_after_it() {
        let mut pairs = Pairs::default();
        takes_over(&mut pairs, "old", 1, None);
        takes_over(&mut pairs, "new", 2, None);
        // The next host goes on with both, in any order.
        takes_over(&mut pairs, "new", 2, None);
        takes_over(&mut pairs, "old", 1, None);
        let both = ["new".to_owned(), "old".to_owned()].into();
        pairs.blame(&both);
        assert_eq!(deaths(&pairs), [("new", 1), ("old", 0)]);
        pairs.prove("new", ContentHash([2; 32]));
        pairs.blame(&both);
        assert_eq!(deaths(&pairs), [("new", 0), ("old", 1)]);
    }

    #[test]
    fn a_plugin_that_was_not_opened_is_not_blamed() {
        let mut pairs = Pairs::default();
        takes_over(&mut pairs, "there", 1, None);
        takes_over(&mut pairs, "away", 2, None);
        pairs.blame(&["there".to_owned()].into());
        pairs.blame(&[String::new()].into());
        assert_eq!(deaths(&pairs), [("away", 0), ("there", 1)]);
    }

    #[test]
    fn what_is_sent_back_gives_its_place_to_the_one_before_or_stays_for_its_state() {
        let mut pairs = Pairs::default();
        takes_over(&mut pairs, "one", 1, None);
        pairs.send_back("one");
        assert_eq!(pairs.entries["one"].current.hash, ContentHash([1; 32]));
        takes_over(&mut pairs, "one", 2, Some(1));
        pairs.send_back("one");
        assert_eq!(pairs.entries["one"].current.hash, ContentHash([1; 32]));
        assert!(pairs.entries["one"].before.is_none());
    }
}
