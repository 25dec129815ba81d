//! One opened library: from `dlopen` to the verdict after `dlclose`.
//!
//! Invariants:
//! 1. An [`Image`] that is dropped stays mapped for ever; only [`Image::close`] closes it.
//! 2. The record that the plugin was attached with lives until the image is closed.

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libloading::os::unix::Library;
use plugin_api::abi::{
    BOUNDARY_VERSION, DESCRIPTOR_SYMBOL, Descriptor, GenerationRef, HeapUse, InterfaceExport, MAGIC,
    PluginContractRef,
};

use super::capture::Book;
use super::contract::{GenerationRecord, HOST, Surroundings};
use super::loader::{self, LoaderBusy};
use super::region::{RegionError, Views};
use super::registrations::{Register, Table};
use super::{os_linux as os, second_check, witness};

/// Why a library could not be opened. It is closed again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{0}")]
    Busy(#[from] LoaderBusy),
    #[error("{} is open already, so the loader would give back the old image; this is a bug in reseat", .0.display())]
    AlreadyOpen(PathBuf),
    #[error("the loader refuses it: {0}")]
    Loader(String),
    #[error(
        "its descriptor lies in another library: its symbol {DESCRIPTOR_SYMBOL} is marked unique, which export_plugin! never does"
    )]
    OtherImage,
    #[error(
        "the symbol {DESCRIPTOR_SYMBOL} is not a descriptor: it begins with {found:02x?}, expected {MAGIC:02x?}: rebuild the plugin"
    )]
    Magic { found: [u8; 16] },
    #[error(
        "it speaks boundary {found}, this host speaks {BOUNDARY_VERSION}: rebuild the plugin against the host's plugin-api"
    )]
    Boundary { found: u32 },
    #[error("its descriptor has {found} bytes, expected at least {}: rebuild the plugin", size_of::<Descriptor>())]
    Size { found: u32 },
    #[error("its descriptor belongs to another manifest than the one in the file: rebuild the plugin")]
    Manifest,
    #[error("{0}: rebuild the plugin against the host's plugin-api")]
    Layout(String),
}

impl OpenError {
    /// What the loader says is the source of what `libloading` says.
    fn of_loader(error: &libloading::Error) -> Self {
        let source = std::error::Error::source(error);
        OpenError::Loader(source.map_or_else(|| error.to_string(), ToString::to_string))
    }
}

/// See the module.
pub(crate) struct Image {
    library: ManuallyDrop<Library>,
    descriptor: *const Descriptor,
    range: Range<usize>,
    path: PathBuf,
    record: ManuallyDrop<Box<GenerationRecord>>,
    attached: bool,
}

// SAFETY: the descriptor is a constant of the image, which stays mapped for as long as the value lives.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

/// What became of an image that was to be closed.
#[must_use]
pub(crate) enum Closed {
    /// It was closed; whether it is gone is another question.
    Closed(Remnant),
    /// It was not closed, because something would have crashed.
    NotYet(Image, String),
}

/// Whether an image that was closed is gone.
#[must_use]
pub(crate) enum Gone {
    /// It is out of memory. What it has left on the heap, if it kept count.
    Unloaded(Option<HeapUse>),
    /// The loader keeps it.
    Mapped(Remnant),
}

/// How long opening and closing wait for the loader, of which there is one in a process.
const TURN_LIMIT: Duration = Duration::from_secs(2);

impl Image {
    /// Opens a library that somebody has vouched for, checks its descriptor and attaches it.
    ///
    /// # Errors
    /// It is not what its file said; then it has been closed again.
    ///
    /// # Safety
    /// Runs the library's constructors: the file is from a directory that was vouched for.
    pub(crate) unsafe fn open(
        path: &Path,
        plugin: &str,
        number: u64,
        manifest_hash: u64,
        around: Surroundings,
    ) -> Result<Image, OpenError> {
        let _turn = loader::turn(path, "constructors", TURN_LIMIT)?;
        if os::is_open(path) {
            return Err(OpenError::AlreadyOpen(path.to_owned()));
        }
        // SAFETY: promised by the caller.
        let library = unsafe { os::open(path) }.map_err(|e| OpenError::of_loader(&e))?;
        // SAFETY: plugins export a `Descriptor` under this name; its magic is checked before the rest is read.
        let descriptor = unsafe { library.get::<*const Descriptor>(DESCRIPTOR_SYMBOL) }
            .map_err(|e| OpenError::of_loader(&e))?
            .as_raw_ptr()
            .cast::<Descriptor>()
            .cast_const();
        let range = os::mapped_range(path)
            .ok_or_else(|| OpenError::Loader("it is not in the loader's list".into()))?;
        // A symbol that the loader keeps unique leads to the first library that had it.
        if !range.contains(&descriptor.addr()) {
            return Err(OpenError::OtherImage);
        }
        // SAFETY: the address of a symbol of the open library.
        unsafe { check(descriptor, manifest_hash) }?;
        let Surroundings { counters, regions, peers, registrations } = around;
        // SAFETY: checked just before.
        let exports = unsafe { (*descriptor).interfaces };
        let record = Box::new(GenerationRecord {
            plugin: plugin.to_owned(),
            number,
            book: Book::open(),
            counters,
            regions: Views::new(regions, number),
            peers,
            register: Register::new(registrations, exports),
            leave: AtomicU32::new(0),
        });
        let image = Image {
            library: ManuallyDrop::new(library),
            descriptor,
            range,
            path: path.to_owned(),
            record: ManuallyDrop::new(record),
            attached: true,
        };
        // SAFETY: [open, once, before anything else]; the record lives until the image is closed (invariant 2).
        unsafe { image.contract().attach()(HOST, GenerationRef((&raw const **image.record).cast())) };
        Ok(image)
    }

    fn descriptor(&self) -> &Descriptor {
        // SAFETY: `open` checked it, and the image is mapped for as long as the value lives.
        unsafe { &*self.descriptor }
    }

    pub(super) fn contract(&self) -> PluginContractRef {
        self.descriptor().contract
    }

    pub(super) fn interfaces(&self) -> &[InterfaceExport] {
        self.descriptor().interfaces.as_slice()
    }

    /// What it has registered with the process.
    pub(crate) fn book(&self) -> &Arc<Book> {
        &self.record.book
    }

    /// What it has registered with the host.
    pub(crate) fn registrations(&self) -> &Arc<Table> {
        &self.record.register.table
    }

    /// How much address space it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.range.len() as u64
    }

    /// Asks those who are in its calls to leave soon, or no longer.
    pub(crate) fn ask_to_leave(&self, soon: bool) {
        self.record.leave.store(u32::from(soon), Ordering::Relaxed);
    }

    /// Whether it has left alone what it may not change before it serves.
    ///
    /// # Errors
    /// It has not, or nobody can say.
    pub(crate) fn check_regions(&self) -> Result<(), RegionError> {
        self.record.regions.check()
    }

    /// Whether it has asked for any.
    pub(crate) fn has_regions(&self) -> bool {
        self.record.regions.are_any()
    }

    /// It is about to serve: its regions are the plugin's from now on.
    ///
    /// # Errors
    /// It may not serve: as for [`Image::check_regions`].
    pub(crate) fn publish_regions(&self) -> Result<(), RegionError> {
        self.record.regions.publish()
    }

    /// Whether nothing of the image can run any more.
    ///
    /// # Errors
    /// What keeps it, as a phrase.
    pub(crate) fn may_close(&self) -> Result<(), String> {
        self.record.book.check()?;
        if let Some(signal) = os::handlers_in(&self.range).first() {
            return Err(format!("its handler of signal {signal} is still installed"));
        }
        Ok(())
    }

    /// Asks the second witness whether any thread but the calling one is in one of these images, which
    /// [`Image::may_close`] all say may be closed. At most [`TOGETHER`](super::TOGETHER). For each of them, who may be in
    /// it, as a phrase.
    pub(crate) fn ask_second_witness(images: &[&Image]) -> Vec<Result<(), String>> {
        let ranges: Vec<_> = images.iter().map(|image| image.range.clone()).collect();
        let report = |reason| format!("{reason}; the host counts nobody there: please report this");
        witness::examine(&ranges).into_iter().map(|verdict| verdict.map_err(report)).collect()
    }

    /// Closes the image if nothing of it can run any more, which [`Image::may_close`] has said just before.
    ///
    /// On the thread that opened it: some libraries clear away there what they have made there.
    pub(crate) fn close(mut self) -> Closed {
        if let Err(reason) = self.may_close() {
            return Closed::NotYet(self, reason);
        }
        let turn = match loader::turn(&self.path, "finalizers", TURN_LIMIT) {
            Ok(turn) => turn,
            Err(busy) => return Closed::NotYet(self, busy.to_string()),
        };
        self.detach();
        if let Err(reason) = self.record.book.close() {
            return Closed::NotYet(self, reason);
        }
        let mut image = self;
        // SAFETY: `image` is forgotten below, so both are taken once. No code of the image can run: the book is
        // closed, and the caller has drained and destroyed the generation.
        let (library, record) =
            unsafe { (ManuallyDrop::take(&mut image.library), ManuallyDrop::take(&mut image.record)) };
        let left = image.descriptor().heap.map(|in_use| in_use());
        let remnant = Remnant { left, path: std::mem::take(&mut image.path), range: image.range.clone() };
        std::mem::forget(image);
        if let Err(error) = library.close() {
            tracing::warn!("dlclose of {}: {error}", remnant.path.display());
        }
        drop((record, turn));
        Closed::Closed(remnant)
    }
}

impl Image {
    /// Disconnects the plugin, once. What it registers from here on goes to libc, which then keeps the image.
    fn detach(&mut self) {
        if std::mem::take(&mut self.attached) {
            // SAFETY: [destroyed, once, last]: the instance is gone, since `Instance` holds the image.
            unsafe { self.contract().detach()() };
        }
    }
}

/// Checks a descriptor, reading nothing behind magic and version until they match.
///
/// # Safety
/// `descriptor` is the address of a symbol with at least 24 readable bytes (`vet` has seen its size).
unsafe fn check(descriptor: *const Descriptor, manifest_hash: u64) -> Result<(), OpenError> {
    // SAFETY: promised by the caller; fields are read in the order in which they are proven to be there.
    unsafe {
        let magic = (&raw const (*descriptor).magic).read_unaligned();
        if magic != MAGIC {
            return Err(OpenError::Magic { found: magic });
        }
        let boundary = (&raw const (*descriptor).boundary).read();
        if boundary != BOUNDARY_VERSION {
            return Err(OpenError::Boundary { found: boundary });
        }
        let size = (&raw const (*descriptor).size).read();
        if (size as usize) < size_of::<Descriptor>() {
            return Err(OpenError::Size { found: size });
        }
        if (*descriptor).manifest_hash != manifest_hash {
            return Err(OpenError::Manifest);
        }
        second_check::check(&*descriptor).map_err(OpenError::Layout)
    }
}

/// An image that was closed, and that the loader may still keep.
pub(crate) struct Remnant {
    left: Option<HeapUse>,
    path: PathBuf,
    range: Range<usize>,
}

impl Remnant {
    /// Asks whether it is gone. Not before the thread that opened it has ended, whose thread-locals may keep it.
    pub(crate) fn look(self) -> Gone {
        // Asking by name also makes the loader let go of what no thread-local keeps any longer. While somebody else is in
        // the loader that is for another time, and what it does not list is gone all the same.
        let is_open = || os::is_open(&self.path);
        let known = loader::turn(&self.path, "closing", Duration::ZERO).is_ok_and(|_turn| is_open());
        if known || os::mapped_range(&self.path).is_some() {
            return Gone::Mapped(self);
        }
        entomb(self.range);
        Gone::Unloaded(self.left)
    }

    /// How much address space it takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.range.len() as u64
    }
}

/// How many ranges of unloaded images stay reserved.
const TOMBSTONES: usize = 256;

/// Reserves the range of an unloaded image, so that a stale call faults instead of running the next image.
/// The oldest reservation is given up when there are too many.
fn entomb(range: Range<usize>) {
    static RESERVED: Mutex<std::collections::VecDeque<Range<usize>>> =
        Mutex::new(std::collections::VecDeque::new());
    if !os::entomb(&range) {
        return;
    }
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    reserved.push_back(range);
    if reserved.len() > TOMBSTONES
        && let Some(oldest) = reserved.pop_front()
    {
        os::disentomb(&oldest);
    }
}
