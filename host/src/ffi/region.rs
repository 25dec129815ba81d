//! Regions: memory of a plugin that its generations hand on as it is.
//!
//! Invariants:
//! 1. What a plugin's regions are changes only by a generation that serves, or is about to: see [`Views::publish`].
//! 2. A generation that takes a region over has a private view of it until then, so it has changed nothing.
//! 3. A generation's mappings live until its image is closed: they are in the record that it was attached with.
//!
//! Locks, in the order in which they may be taken: `Views::list`, then `Regions::now`. No code of a plugin runs under
//! either.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use plugin_api::abi::{RawBefore, RawRegion};
use plugin_api::region::{Impossible, LIMIT, size_of_region};
use serde::{Deserialize, Serialize};

use super::memory::{Mapping, Memory, View};
use crate::lock::lock;

/// Why a generation does not get a region, or may not serve with those that it has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegionError {
    #[error("{0}")]
    Impossible(#[from] Impossible),
    #[error(
        "this build has region `{name}` already, with {len} elements of {size} bytes; asked for were {asked_len} of {asked_size} bytes{}",
        if (len, size) == (asked_len, asked_size) { " and another type" } else { "" }
    )]
    Other { name: String, len: usize, size: usize, asked_len: usize, asked_size: usize },
    #[error("region `{name}` cannot be made: the plugin has {LIMIT} others, and can have no more")]
    TooMany { name: String },
    #[error("region `{name}` of {bytes} bytes cannot be had: {source}")]
    System { name: String, bytes: usize, source: io::Error },
    #[error(
        "it wrote to region `{name}` before it served: until then it has a private copy, and what it wrote would be lost; write in calls, or when `Region::serves` says so"
    )]
    Written { name: String },
    #[error(
        "whether it wrote to region `{name}` before it served cannot be seen: /proc/self/pagemap: {source}"
    )]
    Unseen { name: String, source: io::Error },
    #[error(
        "the serving build has put another region `{name}` in place of the one that this build has taken over"
    )]
    Replaced { name: String },
}

/// One region: its memory, and what it is.
struct Region {
    /// Never used twice.
    number: u64,
    name: String,
    layout: u64,
    size: usize,
    len: usize,
    memory: Arc<Memory>,
}

impl Region {
    fn is(&self, asked: &Asked<'_>) -> bool {
        (self.layout, self.size, self.len) == (asked.layout, asked.size, asked.len)
    }

    fn bytes(&self) -> usize {
        self.size * self.len
    }

    fn map(&self, view: View) -> Result<Mapping, RegionError> {
        self.memory.map(view).map_err(|source| self.system(source))
    }

    fn system(&self, source: io::Error) -> RegionError {
        RegionError::System { name: self.name.clone(), bytes: self.bytes(), source }
    }
}

/// What a generation asks for.
pub(super) struct Asked<'a> {
    pub(super) name: &'a str,
    pub(super) layout: u64,
    pub(super) size: usize,
    pub(super) len: usize,
}

/// The regions of one plugin; they outlive its generations.
pub(crate) struct Regions {
    plugin: String,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    current: BTreeMap<String, Arc<Region>>,
    /// The generation that serves, and may change them.
    serving: Option<u64>,
}

/// A region as another process can look at it, for as long as it is [`Exhibited`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exhibit {
    name: String,
    layout: u64,
    size: usize,
    len: usize,
    file: PathBuf,
}

/// Keeps what is exhibited.
pub(crate) struct Exhibited(#[allow(dead_code, reason = "it is dropped")] Vec<Arc<Region>>);

impl Regions {
    pub(crate) fn new(plugin: &str) -> Arc<Regions> {
        Arc::new(Regions { plugin: plugin.to_owned(), now: Mutex::default() })
    }

    /// Whether no generation that has served has left any.
    pub(crate) fn are_none(&self) -> bool {
        lock(&self.now).current.is_empty()
    }

    /// What another process of this user can look at, while the second value lives.
    pub(crate) fn exhibit(&self) -> (Vec<Exhibit>, Exhibited) {
        let regions: Vec<_> = lock(&self.now).current.values().cloned().collect();
        let process = std::process::id();
        let exhibits = regions.iter().map(|region| Exhibit {
            name: region.name.clone(),
            layout: region.layout,
            size: region.size,
            len: region.len,
            file: format!("/proc/{process}/fd/{}", region.memory.descriptor()).into(),
        });
        (exhibits.collect(), Exhibited(regions))
    }

    /// Regions of a plugin in another process, to be taken over by a build that never serves.
    pub(crate) fn visit(plugin: &str, exhibits: &[Exhibit]) -> Result<Arc<Regions>, RegionError> {
        let mut current = BTreeMap::new();
        for Exhibit { name, layout, size, len, file } in exhibits {
            let bytes = size_of_region(name, *size, *len)?;
            let file = File::open(file).map_err(|source| RegionError::System {
                name: name.clone(),
                bytes,
                source,
            })?;
            let region = Region {
                number: fresh(),
                name: name.clone(),
                layout: *layout,
                size: *size,
                len: *len,
                memory: Arc::new(Memory::of(file, bytes)),
            };
            current.insert(name.clone(), Arc::new(region));
        }
        let now = Mutex::new(Now { current, serving: None });
        Ok(Arc::new(Regions { plugin: plugin.to_owned(), now }))
    }

    /// The plugin is taken out of service: its state is gone, and this with it, as soon as nobody has it mapped.
    pub(crate) fn clear(&self) {
        *lock(&self.now) = Now::default();
    }

    fn make(&self, asked: &Asked<'_>) -> Result<Arc<Region>, RegionError> {
        let Asked { name, layout, size, len } = *asked;
        let bytes = size_of_region(name, size, len)?;
        let memory = Memory::new(&format!("reseat-{}-{name}", self.plugin), bytes)
            .map_err(|source| RegionError::System { name: name.to_owned(), bytes, source })?;
        let (number, name) = (fresh(), name.to_owned());
        Ok(Arc::new(Region { number, name, layout, size, len, memory: Arc::new(memory) }))
    }
}

fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Exhibit {
    /// How much address space a view of it takes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.size as u64).saturating_mul(self.len as u64)
    }
}

/// The regions of a plugin as one generation has them.
pub(super) struct Views {
    of: Arc<Regions>,
    generation: u64,
    /// Not 0 once the generation has been published. Read by the plugin.
    serves: AtomicU32,
    list: Mutex<Vec<Taken>>,
}

/// A region that a generation has asked for.
struct Taken {
    region: Arc<Region>,
    mapping: Mapping,
    /// Which region had the name then.
    found: Option<u64>,
    /// That one, if it was another, until it is asked for or the generation serves.
    before: Option<Arc<Region>>,
}

impl Taken {
    fn is_taken_over(&self) -> bool {
        self.found == Some(self.region.number)
    }

    fn name(&self) -> String {
        self.region.name.clone()
    }

    /// Whether what the generation has is what it was when it was taken over.
    fn check(&self) -> Result<(), RegionError> {
        if !self.is_taken_over() {
            return Ok(());
        }
        match self.mapping.was_written() {
            Ok(false) => Ok(()),
            Ok(true) => Err(RegionError::Written { name: self.name() }),
            Err(source) => Err(RegionError::Unseen { name: self.name(), source }),
        }
    }
}

impl Views {
    pub(super) fn new(of: Arc<Regions>, generation: u64) -> Views {
        Views { of, generation, serves: AtomicU32::new(0), list: Mutex::default() }
    }

    /// Whether it has asked for any.
    pub(super) fn are_any(&self) -> bool {
        !lock(&self.list).is_empty()
    }

    /// A region for this generation.
    pub(super) fn ask(&self, asked: &Asked<'_>) -> Result<RawRegion, RegionError> {
        let mut list = lock(&self.list);
        if let Some(number) = list.iter().position(|taken| taken.region.name == asked.name) {
            let region = &list[number].region;
            if !region.is(asked) {
                return Err(RegionError::Other {
                    name: asked.name.to_owned(),
                    len: region.len,
                    size: region.size,
                    asked_len: asked.len,
                    asked_size: asked.size,
                });
            }
            return Ok(self.raw(number, &list[number].mapping, false));
        }
        let taken = self.take(asked, &list)?;
        let raw = self.raw(list.len(), &taken.mapping, !taken.is_taken_over());
        list.push(taken);
        Ok(raw)
    }

    fn take(&self, asked: &Asked<'_>, list: &[Taken]) -> Result<Taken, RegionError> {
        let mut now = lock(&self.of.now);
        let found = now.current.get(asked.name).cloned();
        let number = found.as_ref().map(|region| region.number);
        if let Some(region) = found.as_ref().filter(|region| region.is(asked)) {
            let is_candidate = self.serves.load(Ordering::Relaxed) == 0;
            let mapping = region.map(if is_candidate { View::Private } else { View::Shared })?;
            return Ok(Taken { region: region.clone(), mapping, found: number, before: None });
        }
        let others = list.iter().filter(|taken| !now.current.contains_key(&taken.region.name));
        if found.is_none() && now.current.len() + others.count() >= LIMIT {
            return Err(RegionError::TooMany { name: asked.name.to_owned() });
        }
        let region = self.of.make(asked)?;
        let mapping = region.map(View::Shared)?;
        if now.serving == Some(self.generation) {
            now.current.insert(region.name.clone(), region.clone());
        }
        Ok(Taken { region, mapping, found: number, before: found })
    }

    fn raw(&self, number: usize, mapping: &Mapping, is_new: bool) -> RawRegion {
        RawRegion {
            start: mapping.start(),
            serves: self.serves.as_ptr(),
            number: u32::try_from(number).expect("there are few"),
            is_new: u32::from(is_new),
        }
    }

    /// What a region was before, once.
    pub(super) fn before(&self, number: u32) -> Option<RawBefore> {
        let region = lock(&self.list).get_mut(number as usize)?.before.take()?;
        let mapping = match region.map(View::Private) {
            Ok(mapping) => Box::new(mapping),
            Err(error) => {
                tracing::warn!("what region `{}` of {} was before: {error}", region.name, self.of.plugin);
                return None;
            }
        };
        let (start, len, layout) = (mapping.start(), region.bytes(), region.layout);
        Some(RawBefore { start, len, layout, owner: Box::into_raw(mapping).cast(), release })
    }

    /// Whether the generation, which does not serve, has changed nothing that is not its own.
    pub(super) fn check(&self) -> Result<(), RegionError> {
        lock(&self.list).iter().try_for_each(Taken::check)
    }

    /// The generation is about to serve: what it has taken over becomes what everybody has, and what it has made becomes
    /// what the next one finds.
    pub(super) fn publish(&self) -> Result<(), RegionError> {
        let mut list = lock(&self.list);
        let mut now = lock(&self.of.now);
        for taken in &*list {
            let current = now.current.get(&taken.region.name).map(|region| region.number);
            if current != taken.found {
                return Err(RegionError::Replaced { name: taken.name() });
            }
            taken.check()?;
        }
        for taken in list.iter().filter(|taken| taken.is_taken_over()) {
            if let Err(source) = taken.mapping.change(View::Shared) {
                // It is going to be discarded, and its destructor must not reach what others have.
                for taken in list.iter().filter(|taken| taken.is_taken_over()) {
                    let _ = taken.mapping.change(View::Private);
                }
                return Err(taken.region.system(source));
            }
        }
        for taken in &mut *list {
            now.current.insert(taken.name(), taken.region.clone());
            taken.before = None;
        }
        now.serving = Some(self.generation);
        // Release: whoever reads it writes to what is there now.
        self.serves.store(1, Ordering::Release);
        Ok(())
    }
}

unsafe extern "C" fn release(owner: *mut c_void) {
    // SAFETY: the box that `before` handed over, given back once.
    drop(unsafe { Box::from_raw(owner.cast::<Mapping>()) });
}
