//! Memory of the host that one build leaves to the next as it is: state that is too large to be written and read again.
//!
//! A plugin asks for a *region* by name, with [`Services::region`]. The build that comes after it asks for the same name
//! and gets the same memory, at another address, if its elements are described in the same words; otherwise it gets new
//! memory, and what was there before as [`Before`].
//!
//! ```
//! use plugin_api::prelude::*;
//! use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//!
//! #[derive(Shared)]
//! #[repr(C)]
//! struct Cell {
//!     hits: AtomicU64,
//!     last_seen: AtomicU64,
//! }
//!
//! struct Table {
//!     cells: Region<Cell>,
//! }
//!
//! impl Plugin for Table {
//!     fn create(host: &Services) -> Result<Self> {
//!         Ok(Table { cells: host.region("cells", 1 << 20)? })
//!     }
//! }
//!
//! impl Table {
//!     fn hit(&self, key: usize) -> u64 {
//!         self.cells[key].hits.fetch_add(1, Relaxed) + 1
//!     }
//! }
//! # let table = Table::create(&plugin_api::testing::services("table", serde_json::json!({})))?;
//! # assert_eq!((table.hit(7), table.hit(7)), (1, 2));
//! # anyhow::Ok(())
//! ```
//!
//! # What is not promised
//! * A region does not outlive the process, nor an unload of the plugin. What must, goes through `save`;
//!   [`Region::is_new`] says that there is something to be filled in.
//! * Memory is taken page by page, as it is touched. Where the system has none left, that ends the process.
//! * There is no copy and no checksum. What a build has written wrongly its successor finds, and so does the build that
//!   is gone back to.
//! * A description tells layouts apart, not meanings: a build that gives a field another meaning gives it another name.
//! * It is not a part of the state that `save` writes: who begins again with an earlier state finds the region as it is
//!   now, or new. In a helper process that tries a build, the build that serves goes on changing it: there it need not
//!   agree with the state that the build is given.
//! * A region that no build asks for any more stays until the plugin is unloaded.
//!
//! # Threads
//! * Until a build serves, its view of a region that it takes over is a private copy: a build that is refused has
//!   changed nothing. What it writes before would be lost, so a build that has written is refused, too. Calls come
//!   only when it serves; a thread of [`Services::spawn`] asks [`Region::serves`] before it writes.
//! * For a while two builds have the memory. A stateful plugin hands over while no call is in flight; calls of a
//!   stateless one, or of one whose handovers overlap, go on in the old build beside the new. And so do threads of its
//!   own, and its destructor, which has nothing to do here: when it runs, the next build works with what is there.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::*;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};

use crate::abi::{RawBefore, Status};
use crate::desc::TypeDesc;
use crate::interface::CallError;
use crate::link::{Link, link};
use crate::render;
use crate::services::Services;
use crate::transfer::Outgoing;
use crate::types::Lend;

/// What the memory of a region may consist of: atomic integers, arrays of them, and structs that derive it.
///
/// # Safety
/// Do not implement it by hand; derive it. Any bytes are a value, zeros among them, and stay one while others write:
/// so there are no pointers in it, no enums, and nothing is changed but through atomics. Two types with equal
/// descriptions have the same memory. Nobody drops a value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be shared between builds",
    label = "no `Shared`",
    note = "atomic integers can, and arrays of them; a struct of your own can: put `#[derive(Shared)]` and `#[repr(C)]` on it",
    note = "plain numbers cannot, since two builds may write at once: use AtomicU64 and its siblings; a bool or an enum \
            is kept as a number, since not any byte is one"
)]
pub unsafe trait Shared: Sync + Sized + 'static {
    /// The whole structure of its memory.
    const LAYOUT: &'static TypeDesc;
}

macro_rules! atomic {
    ($($ty:ident)*) => { $(
        // SAFETY: an atomic integer has the same memory in every build for one target, and any bytes are one.
        #[diagnostic::do_not_recommend]
        unsafe impl Shared for $ty {
            const LAYOUT: &'static TypeDesc = &TypeDesc::Named(stringify!($ty));
        }
    )* };
}
atomic!(AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize);

// SAFETY: its elements, one after the other.
#[diagnostic::do_not_recommend]
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {
    const LAYOUT: &'static TypeDesc = &TypeDesc::Array { inner: T::LAYOUT, len: N };
}

/// The fingerprint by which builds know their elements' description, see [`Before::layout`].
pub const fn layout_of<T: Shared>() -> u64 {
    render::layout(T::LAYOUT)
}

/// How many regions a plugin can have.
pub const LIMIT: usize = 64;

/// What no region can be.
#[derive(Debug, thiserror::Error)]
pub enum Impossible {
    /// The name.
    #[error("a region's name has 1 to 64 bytes and no control characters, this one is {0:?}")]
    Name(String),
    /// Nothing would be in it.
    #[error("region `{0}` would be empty: ask for at least one element, of at least one byte")]
    Empty(String),
    /// It is larger than memory can be.
    #[error("region `{name}`: {len} elements of {size} bytes are more than there can be")]
    TooLarge {
        /// The name.
        name: String,
        /// How many elements.
        len: usize,
        /// How large each is.
        size: usize,
    },
}

/// How many bytes a region has.
///
/// # Errors
/// It cannot be.
pub fn size_of_region(name: &str, size: usize, len: usize) -> Result<usize, Impossible> {
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(Impossible::Name(name.to_owned()));
    }
    match size.checked_mul(len) {
        Some(0) => Err(Impossible::Empty(name.to_owned())),
        // Rounded up to pages it is still an `isize`.
        Some(bytes) if bytes <= isize::MAX as usize / 2 => Ok(bytes),
        _ => Err(Impossible::TooLarge { name: name.to_owned(), len, size }),
    }
}

impl Services {
    /// Memory of the plugin, of `len` elements: as the build before has left it, if that had a region of this name,
    /// type and length; otherwise new and all zero. The same region for as long as this build lives, however often it is
    /// asked for; from any thread. See [`region`](crate::region) for what is not promised, and for threads.
    ///
    /// Without a host it is ordinary memory, kept by these services. Who asks there for another type or length is taken
    /// for the next build, as [`hand_over`](crate::testing::hand_over) makes one.
    ///
    /// # Errors
    /// The name is empty, longer than 64 bytes or has control characters; there would be nothing in it, or more than
    /// there is memory; this build has it already, of another type or length; the plugin has [`LIMIT`] regions.
    pub fn region<T: Shared>(&self, name: &str, len: usize) -> Result<Region<T>> {
        const {
            assert!(
                align_of::<T>() <= 4096,
                "what is shared between builds lies on pages: align it to at most 4096"
            );
            assert!(!std::mem::needs_drop::<T>(), "what is shared between builds is never dropped");
        }
        let bytes = size_of_region(name, size_of::<T>(), len)?;
        let (start, source, is_new) = match link() {
            Some(link) => of_host::<T>(link, name, len)?,
            None => {
                let (memory, is_new) = self.own_regions().get::<T>(name, bytes)?;
                (memory.start, Source::Own(memory), is_new)
            }
        };
        Ok(Region { start: start.cast(), len, is_new, source, elements: PhantomData })
    }
}

fn of_host<T: Shared>(link: Link, name: &str, len: usize) -> Result<(NonNull<u8>, Source, bool)> {
    let mut outgoing = Outgoing::new();
    // SAFETY: attached; name and transfer are lent for the call.
    let reply = unsafe {
        link.host.region()(
            link.generation,
            name.lend(),
            layout_of::<T>(),
            size_of::<T>(),
            len,
            outgoing.head(),
        )
    };
    if reply.status != Status::OK {
        bail!(CallError::of(reply.status, outgoing.into_string()));
    }
    // SAFETY: the host initialises the value when it answers OK.
    let raw = unsafe { reply.value.assume_init() };
    let Some(start) = NonNull::new(raw.start.cast()) else {
        bail!("the host has no memory for region `{name}`")
    };
    // SAFETY: the flag lives for as long as this generation is attached, so for as long as its code runs.
    let serves = unsafe { &*raw.serves.cast::<AtomicU32>() };
    Ok((start, Source::Host { serves, number: raw.number }, raw.is_new != 0))
}

/// Memory that the next build gets as it is: a slice of atomics. A clone is the same memory.
pub struct Region<T: Shared> {
    start: NonNull<T>,
    len: usize,
    is_new: bool,
    source: Source,
    elements: PhantomData<T>,
}

#[derive(Clone)]
enum Source {
    /// Valid for as long as code of this library runs.
    Host {
        serves: &'static AtomicU32,
        number: u32,
    },
    Own(Arc<OwnMemory>),
}

// SAFETY: what is reached through it is `Sync`, and no thread is the one that owns it.
unsafe impl<T: Shared> Send for Region<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Region<T> {}

impl<T: Shared> Region<T> {
    /// Whether it was made when it was asked for: then it was all zero. `false`: the build before has left it, or this
    /// one has asked for it before.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether what is written now is there for the next build. Until a build serves it is not, see
    /// [`region`](crate::region); in a call it always is.
    pub fn serves(&self) -> bool {
        match &self.source {
            // Acquire: what is written after this goes to the shared memory.
            Source::Host { serves, .. } => serves.load(Ordering::Acquire) != 0,
            Source::Own(_) => true,
        }
    }

    /// What the region of this name was before, if that had another layout or length: to be read, and its content
    /// written here. Once, and before this build serves; afterwards it is gone.
    pub fn take_before(&self) -> Option<Before> {
        match &self.source {
            Source::Host { number, .. } => {
                let link = link()?;
                // SAFETY: attached; the number is the one that this generation was given.
                let reply = unsafe { link.host.region_before()(link.generation, *number) };
                // SAFETY: the host initialises the value when it answers OK.
                let raw = (reply.status == Status::OK).then(|| unsafe { reply.value.assume_init() })?;
                let start = NonNull::new(raw.start.cast())?;
                let (len, layout) = (raw.len, raw.layout);
                Some(Before { start, len, layout, _memory: Lent::Host(HostMemory(raw)) })
            }
            Source::Own(memory) => {
                let before = memory.before.lock().unwrap_or_else(PoisonError::into_inner).take()?;
                let (start, len, layout) = (before.start.cast(), before.place.size(), before.layout);
                Some(Before { start, len, layout, _memory: Lent::Own(before) })
            }
        }
    }
}

impl<T: Shared> Deref for Region<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements are there, for as long as this value or, with a host, this library is; any bytes are
        // values of `T`, and whoever else has them changes them by atomics alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Shared> Clone for Region<T> {
    fn clone(&self) -> Self {
        Region { source: self.source.clone(), elements: PhantomData, ..*self }
    }
}

impl<T: Shared> fmt::Debug for Region<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("len", &self.len).field("is_new", &self.is_new).finish_non_exhaustive()
    }
}

/// What a region was under another layout or length. Threads of the build before may still be writing to it, so it is
/// read through atomics; what is written to it goes nowhere.
pub struct Before {
    start: NonNull<AtomicU8>,
    len: usize,
    layout: u64,
    _memory: Lent,
}

// SAFETY: atomics, and memory that may be given back on any thread.
unsafe impl Send for Before {}
// SAFETY: as above.
unsafe impl Sync for Before {}

enum Lent {
    Host(#[allow(dead_code, reason = "it is dropped")] HostMemory),
    Own(#[allow(dead_code, reason = "it is dropped")] Arc<OwnMemory>),
}

impl Before {
    /// The fingerprint of its elements' description, see [`layout_of`].
    pub fn layout(&self) -> u64 {
        self.layout
    }

    /// Its bytes. Each by itself: two of them may be from before and after the same write.
    pub fn as_bytes(&self) -> &[AtomicU8] {
        // SAFETY: so many bytes are there until `_memory` is dropped, and whoever else has them changes them by atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// A copy of its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.as_bytes().iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    /// Its elements, if these are they: a build that keeps the type of the build before can read them where they lie.
    pub fn as_slice_of<Old: Shared>(&self) -> Option<&[Old]> {
        let is_it = self.layout == layout_of::<Old>() && size_of::<Old>() != 0;
        let len = is_it.then(|| self.len / size_of::<Old>())?;
        // SAFETY: as for `as_bytes`; the fingerprint says that they are elements of this type, so they lie as it does.
        Some(unsafe { std::slice::from_raw_parts(self.start.cast().as_ptr(), len) })
    }
}

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Before").field("len", &self.len).field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// Memory that the host takes back.
struct HostMemory(RawBefore);

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: the host's own function, for what came with it, once.
        unsafe { (self.0.release)(self.0.owner) }
    }
}

/// The regions of a plugin without a host.
#[derive(Default)]
pub(crate) struct OwnRegions(Mutex<BTreeMap<String, Arc<OwnMemory>>>);

impl OwnRegions {
    /// The memory of this name, and whether it has just been made.
    fn get<T: Shared>(&self, name: &str, bytes: usize) -> Result<(Arc<OwnMemory>, bool)> {
        let place = Layout::from_size_align(bytes, align_of::<T>())?;
        let layout = layout_of::<T>();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(name).cloned();
        match before {
            Some(memory) if memory.layout == layout && memory.place == place => Ok((memory, false)),
            None if known.len() == LIMIT => bail!("a plugin can have at most {LIMIT} regions"),
            before => {
                let memory = Arc::new(OwnMemory::new(place, layout, before));
                known.insert(name.to_owned(), memory.clone());
                Ok((memory, true))
            }
        }
    }
}

/// Ordinary memory, all zero at first.
struct OwnMemory {
    start: NonNull<u8>,
    place: Layout,
    layout: u64,
    before: Mutex<Option<Arc<OwnMemory>>>,
}

// SAFETY: it holds atomics, and belongs to no thread.
unsafe impl Send for OwnMemory {}
// SAFETY: as above.
unsafe impl Sync for OwnMemory {}

impl OwnMemory {
    fn new(place: Layout, layout: u64, before: Option<Arc<OwnMemory>>) -> Self {
        // SAFETY: a region has at least one byte, see `size_of_region`.
        let start = unsafe { alloc_zeroed(place) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(place) };
        OwnMemory { start, place, layout, before: Mutex::new(before) }
    }
}

impl Drop for OwnMemory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, in this place, and this is its end.
        unsafe { dealloc(self.start.as_ptr(), self.place) }
    }
}
