//! What a thread shows to drainers: which generations the calls on its stack are in.
//!
//! Invariants:
//! 1. A record is never freed, only recycled. So a scan needs no lock.
//! 2. Frames are written by the owner only, save for the mark of the sampler, and read by anyone.
//! 3. A frame belongs to one guard (or one lease call) from the moment it is filled until that guard
//!    empties it; a guard that is never dropped keeps it for ever.
//! 4. No frame above `high` is occupied. `high` is exact only when a frame is taken.

#![allow(unsafe_code)] // records link to one another by address

use super::frame::Frame;
use super::generation::Header;
use super::os;
use super::sync::{AtomicPtr, AtomicU32, Ordering, OwnerCell, OwnerPtr};
use std::ptr;
use std::sync::atomic::{AtomicU32 as Word, AtomicU64};

/// Frames in one block. Deeper nesting hangs further blocks on the record.
pub(super) const FRAMES: usize = if cfg!(reseat_loom) { 2 } else { 8 };

/// A frame is filled but not yet checked: it holds drains up, and nobody may follow the pointer.
pub(super) const UNVALIDATED: usize = 1;
/// The frame is a lease call's: nested calls may follow the pointer, but the lease, not the frame,
/// holds drains up.
pub(super) const ANNOTATION: usize = 2;
/// The sampler has seen the frame's guard, see `ages`. The only thing in a frame that its owner does not write.
pub(super) const SEEN: usize = 4;
pub(super) const TAGS: usize = UNVALIDATED | ANNOTATION | SEEN;

/// The bits of a record's and of each place's `wake`, which send the owner to the slow side of leaving.
pub(super) mod wake {
    /// A drainer waits and wants to hear of the next exit.
    pub(in super::super) const NOTICE: u32 = 1;
    /// The errand hook is to be run on this thread.
    pub(in super::super) const ERRAND: u32 = 2;
    /// For good: the record that stands for all guards that are counted as leases.
    pub(in super::super) const COUNTED: u32 = 4;
    /// For good: a further block of another record.
    pub(in super::super) const EXTENSION: u32 = 8;
    /// The owner's thread-locals are gone: the record goes back with the last frame.
    pub(in super::super) const LATE: u32 = 16;
    /// For good: not the place of the outermost call. Its exits always look at the record.
    pub(in super::super) const NESTED: u32 = 32;
    /// The owner wants the leave hook to be run when a call at this place ends. Set and taken back by the owner only.
    pub(in super::super) const TELL: u32 = 64;
}

const FREE: u32 = 0;
const OWNED: u32 = 1;
/// The owner ended with an occupied frame: a leaked guard, or a thread torn down inside a call.
const ORPHANED: u32 = 2;

/// What an outermost call reads and writes is in the first of four cache lines. Others write there when they ask
/// something of the owner (`wake`), when they mark a frame, and when a proxy that was lent to them notes a call.
#[repr(C, align(256))]
pub(super) struct Record {
    pub(super) places: [Place; FRAMES],
    state: AtomicU32,
    /// Errands wait while this is not 0.
    pub(super) errands_held: OwnerCell,
    os_tid: Word,
    /// How often the record has been taken, so that a `ThreadRef` to an earlier owner is told apart.
    uses: Word,
    /// The next block of frames, once this one has overflowed; kept for the next owner.
    more: OwnerPtr<Record>,
    /// The next record of the registry, constant once published. In a further block: the first one.
    next: AtomicPtr<Record>,
    /// In a further block: the one before it, constant. Read by the owner only.
    before: Link,
    name: [AtomicU64; 2],
}

/// A frame, and what belongs to it. A guard knows the place of its frame, so all that its end needs is beside it.
#[repr(C)]
pub(super) struct Place {
    /// Of the first place: the requests to the owner of the record. Of the others: a constant.
    wake: AtomicU32,
    /// Of the first place: see invariant 4.
    high: OwnerCell,
    pub(super) frame: OwnerPtr<Header>,
    /// What the guard's holder has noted, see `Guard::note`.
    pub(super) note: NoteCell,
}

impl Place {
    #[cfg(not(reseat_loom))]
    const fn new(wake: u32, high: u32) -> Self {
        Self {
            wake: AtomicU32::new(wake),
            high: OwnerCell::new(high),
            frame: OwnerPtr::null(),
            note: NoteCell::new(ptr::null_mut()),
        }
    }

    #[cfg(reseat_loom)]
    fn new(wake: u32, high: u32) -> Self {
        Self {
            wake: AtomicU32::new(wake),
            high: OwnerCell::new(high),
            frame: OwnerPtr::null(),
            note: NoteCell::new(ptr::null_mut()),
        }
    }

    /// Which requests are open; normally none. In a place that is not the first: always something.
    #[inline(always)]
    pub(super) fn requests(&self) -> u32 {
        self.wake.load(Ordering::Relaxed)
    }

    /// See [`wake::TELL`]. Not for the place of all counted guards.
    pub(super) fn tell(&self) -> bool {
        let requests = self.requests();
        if requests & (wake::TELL | wake::COUNTED) == 0 {
            self.wake.fetch_or(wake::TELL, Ordering::Relaxed);
        }
        requests & wake::COUNTED == 0
    }

    /// Takes that back.
    pub(super) fn told(&self) {
        self.wake.fetch_and(!wake::TELL, Ordering::Relaxed);
    }

    /// W3 for one frame: what is in it, if that holds up the drain of such a generation.
    ///
    /// An unvalidated frame does. An annotation does not: there the lease does.
    pub(super) fn holds(&self, is_it: impl Fn(*const Header) -> bool) -> Option<*mut Header> {
        let word = self.frame.read();
        let held = word.map_addr(|a| a & !(UNVALIDATED | SEEN)).cast_const();
        (!held.is_null() && is_it(held)).then_some(word)
    }
}

#[cfg(not(reseat_loom))]
const _: () = assert!(size_of::<Record>() == 256 && align_of::<Record>() == 256);

/// Not of the models: no other thread reads it.
type Link = std::sync::atomic::AtomicPtr<Record>;

/// A word in which whoever holds a guard may note what for. Nothing depends on it.
pub type NoteCell = std::sync::atomic::AtomicPtr<()>;

impl Record {
    pub(super) fn new(wake: u32) -> Self {
        let mut places = std::array::from_fn(|_| Place::new(wake::NESTED, 0));
        places[0] = Place::new(wake, 0);
        Self {
            places,
            state: AtomicU32::new(OWNED),
            errands_held: OwnerCell::new(0),
            os_tid: Word::new(0),
            uses: Word::new(0),
            more: OwnerPtr::null(),
            next: AtomicPtr::new(ptr::null_mut()),
            before: Link::new(ptr::null_mut()),
            name: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// Stands for no record: see `thread`.
    #[cfg(not(reseat_loom))]
    pub(super) const fn nobody() -> Self {
        Self {
            places: [const { Place::new(0, u32::MAX) }; FRAMES],
            state: AtomicU32::new(FREE),
            errands_held: OwnerCell::new(0),
            os_tid: Word::new(0),
            uses: Word::new(0),
            more: OwnerPtr::null(),
            next: AtomicPtr::new(ptr::null_mut()),
            before: Link::new(ptr::null_mut()),
            name: [const { AtomicU64::new(0) }; 2],
        }
    }

    // ---- the owner's side ------------------------------------------------------------------------

    /// Whether no call at all is on this thread's stack: the next one takes frame 0.
    #[inline(always)]
    pub(super) fn is_outside(&'static self) -> bool {
        self.places[0].frame.own().addr() | self.high().get() as usize == 0
    }

    fn high(&self) -> &OwnerCell {
        &self.places[0].high
    }

    fn wake(&self) -> &AtomicU32 {
        &self.places[0].wake
    }

    /// Lowers `high` to where it is exact, so that the next call finds itself outside. Not in a signal handler:
    /// what it has interrupted may be between raising `high` and filling the frame. That is why a handler that
    /// enters must hold errands, see [`hold_errands`](super::hold_errands).
    pub(super) fn settle(&'static self, depth: usize) {
        if self.errands_held.get() == 0 {
            self.high().set(depth.saturating_sub(1) as u32);
        }
    }

    #[inline(always)]
    pub(super) fn frame(&'static self, index: usize) -> Frame {
        debug_assert!(index < FRAMES);
        Frame::new(self, index)
    }

    /// The frame for a call at this depth, which must be [`depth`](Self::depth). Allocates a further
    /// block if the thread was never this deep in calls before.
    #[inline]
    pub(super) fn take(&'static self, depth: usize) -> Frame {
        let frame = if depth < FRAMES { self.frame(depth) } else { self.take_further(depth) };
        // After what may allocate, since an allocator may call, too. A stack of 2³² calls does not fit a thread.
        self.high().set(depth as u32);
        frame
    }

    #[cold]
    fn take_further(&'static self, depth: usize) -> Frame {
        let mut block = self;
        for _ in 0..depth / FRAMES {
            block = follow(block.more.own()).unwrap_or_else(|| block.extend(self));
        }
        block.frame(depth % FRAMES)
    }

    /// Release: partner of the scan's reading of `more`. A scan that sees a frame emptied which was
    /// copied into the new block also sees the block, whole.
    fn extend(&self, first: &'static Record) -> &'static Record {
        let block: &'static Record = Box::leak(Box::new(Self::new(wake::EXTENSION)));
        block.next.store(ptr::from_ref(first).cast_mut(), Ordering::Relaxed);
        block.before.store(ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        self.more.write(ptr::from_ref(block).cast_mut(), Ordering::Release);
        block
    }

    /// One more than the highest occupied frame: the number of calls on this stack, unless guards
    /// were dropped out of order.
    #[inline]
    pub(super) fn depth(&'static self) -> usize {
        let above = self.high().get() as usize + 1;
        above - self.words_below(above).take_while(|word| word.is_null()).count()
    }

    /// Whether this many frames are in use, by a look at `high` and at the highest: fewer than there are in this block.
    #[inline(always)]
    pub(super) fn is_at(&'static self, depth: usize) -> bool {
        self.high().get() as usize == depth - 1 && !self.places[depth - 1].frame.own().is_null()
    }

    /// [`take`](Self::take) at such a depth.
    #[inline(always)]
    pub(super) fn take_quickly(&'static self, depth: usize) -> Frame {
        self.high().set(depth as u32);
        self.frame(depth)
    }

    /// What is in the frames below such a depth, innermost first.
    #[inline(always)]
    pub(super) fn words_quickly(&'static self, depth: usize) -> impl Iterator<Item = *mut Header> {
        self.places[..depth].iter().rev().map(|place| place.frame.own())
    }

    /// What [`attend`](super::errand::attend) does for a guard that has just left the frame at this depth, if that is all
    /// there is to do: nobody has asked for anything, and whoever it was nested in is still there, right below. Says
    /// whether so.
    #[inline(always)]
    pub(super) fn settle_quickly(&'static self, depth: usize) -> bool {
        let is_all = self.requests() == 0
            && self.errands_held.get() == 0
            && self.high().get() as usize == depth
            && !self.places[depth - 1].frame.own().is_null();
        if is_all {
            self.high().set(depth as u32 - 1);
        }
        is_all
    }

    /// What is in the frames below this depth, innermost first.
    pub(super) fn occupied_below(&'static self, depth: usize) -> impl Iterator<Item = *mut Header> {
        self.words_below(depth).filter(|word| !word.is_null())
    }

    /// The same with the empty ones. Block by block, since a stack of calls may be deep.
    fn words_below(&'static self, depth: usize) -> impl Iterator<Item = *mut Header> {
        let further = depth.saturating_sub(1) / FRAMES;
        let (mut block, mut index) = (self.further(further), depth - further * FRAMES);
        std::iter::from_fn(move || {
            if index == 0 {
                (block, index) = (follow(block.before.load(Ordering::Relaxed))?, FRAMES);
            }
            index -= 1;
            Some(block.places[index].frame.own())
        })
    }

    /// The block that comes so many after this one. It was made before `high` was raised to its frames.
    fn further(&'static self, count: usize) -> &'static Record {
        let further = (0..count).try_fold(self, |block, _| follow(block.more.own()));
        further.expect("a frame that was taken has a block")
    }

    /// The record that the owner of this block of frames is known by.
    pub(super) fn first(&'static self) -> &'static Record {
        if self.requests() & wake::EXTENSION == 0 {
            return self;
        }
        // SAFETY: an extension's `next` was set in `extend` to a record, which is never freed.
        unsafe { self.next.load(Ordering::Relaxed).as_ref() }.expect("an extension has a first block")
    }

    /// Makes a free record this thread's. Acquire: partner of [`give_back`](Self::give_back).
    pub(super) fn claim(&'static self) -> bool {
        let free = self.state.load(Ordering::Relaxed) == FREE
            && self.state.compare_exchange(FREE, OWNED, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if free {
            self.sign();
        }
        free
    }

    /// Writes down whose it is now.
    pub(super) fn sign(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.os_tid.store(os::thread_id(), Ordering::Relaxed);
        for (word, half) in self.name.iter().zip(os::thread_name().as_chunks().0) {
            word.store(u64::from_ne_bytes(*half), Ordering::Relaxed);
        }
        self.errands_held.set(0);
        for place in &self.places {
            place.note.store(ptr::null_mut(), Ordering::Relaxed);
        }
    }

    /// The owner ends. Release: partner of [`claim`](Self::claim).
    ///
    /// With an occupied frame the record is never recycled: that generation must not be unloaded, and
    /// every scan must see why. `NOTICE` stays; it could go, and no model can tell: whoever asked before
    /// its D3 has been answered by the last exit or sees the frames empty. An old one costs the next
    /// owner a needless notification.
    pub(super) fn give_back(&'static self) {
        if self.depth() != 0 {
            self.state.store(ORPHANED, Ordering::Release);
            return;
        }
        self.wake().fetch_and(!(wake::ERRAND | wake::LATE), Ordering::Relaxed);
        self.state.store(FREE, Ordering::Release);
    }

    // ---- the side of the others --------------------------------------------------------------------

    /// Which requests are open.
    #[inline(always)]
    pub(super) fn requests(&self) -> u32 {
        self.places[0].requests()
    }

    /// Release: what was prepared for the request is seen by whoever [`accept`](Self::accept)s it.
    pub(super) fn request(&self, bit: u32) {
        self.wake().fetch_or(bit, Ordering::Release);
    }

    /// Takes one request back and says whether it was open. The others stay: they are a set.
    /// Acquire: partner of [`request`](Self::request).
    pub(super) fn accept(&self, bit: u32) -> bool {
        self.requests() & bit != 0 && self.wake().fetch_and(!bit, Ordering::Acquire) & bit != 0
    }

    /// The frames, for W3: in ascending order, each to be read before the next is asked for.
    ///
    /// Ascending, and Acquire: if a lower frame is read as already emptied, then whatever was copied
    /// from it to a higher frame before (case 3) is seen when the scan gets there, and so are the
    /// effects of the call that emptied it (case 1). The link to a further block is read after the frames of
    /// this one, for the same reason.
    pub(super) fn places(&'static self) -> impl Iterator<Item = &'static Place> {
        let (mut block, mut index) = (self, 0);
        std::iter::from_fn(move || {
            if index == FRAMES {
                (block, index) = (follow(block.more.read())?, 0);
            }
            let place = &block.places[index];
            index += 1;
            Some(place)
        })
    }

    /// W3 for one record.
    pub(super) fn holds(&'static self, is_it: impl Fn(*const Header) -> bool) -> bool {
        self.places().any(|place| place.holds(&is_it).is_some())
    }

    pub(super) fn next(&self) -> &AtomicPtr<Record> {
        &self.next
    }

    pub(super) fn uses(&self) -> u32 {
        self.uses.load(Ordering::Relaxed)
    }

    pub(super) fn is_owned(&self) -> bool {
        self.state.load(Ordering::Relaxed) == OWNED
    }

    pub(super) fn is_orphaned(&self) -> bool {
        self.state.load(Ordering::Acquire) == ORPHANED
    }

    pub(super) fn os_tid(&self) -> u32 {
        self.os_tid.load(Ordering::Relaxed)
    }

    /// The owner's name when it first came to the gate, as far as the kernel keeps it.
    pub(super) fn name(&self) -> Option<String> {
        let bytes: Vec<u8> =
            self.name.iter().flat_map(|half| half.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let name = bytes.split(|byte| *byte == 0).next()?;
        (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    }
}

fn follow(further: *mut Record) -> Option<&'static Record> {
    // SAFETY: what is in `more` is null or a block that was leaked in `extend`.
    unsafe { further.as_ref() }
}
