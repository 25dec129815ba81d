//! The caller's side of a slot: `enter` and its waits.
//!
//! The names R1 to R7 are those of the algorithm in the head of the module.

#![allow(unsafe_code)] // validated frames are followed

use super::errand;
use super::error::EnterError;
use super::frame::Frame;
use super::generation::{Generation, Header, Kept};
use super::guard::Guard;
use super::lease::Lease;
use super::record::{ANNOTATION, FRAMES, Record, SEEN, TAGS, UNVALIDATED};
use super::registry::registry;
use super::set::Set;
use super::slot::{Slot, State};
use super::sync::{Deadline, Ordering, fence};
use super::thread;
use std::hint::assert_unchecked;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// What a caller does at a closed gate.
#[derive(Clone, Copy)]
enum Patience {
    None,
    OfTheSlot,
    For(Duration),
}

impl<T: Send + Sync + 'static> Slot<T> {
    /// Enters the current generation, or, inside another call to this slot on the same thread, the
    /// generation which that call is in.
    ///
    /// The guard keeps the generation callable: it holds up its drain, and at a closed gate the
    /// handover. A call nested in another one passes a closed gate, and works after the slot was
    /// closed, because its outer call is still inside. The first call of a thread allocates.
    ///
    /// # Errors
    ///
    /// At once if the slot is empty, or if as many wait at its closed gate as may; after the slot's
    /// wait limit if the gate does not open.
    #[inline(always)]
    pub fn enter(&self) -> Result<Guard<'_, T>, EnterError> {
        match self.enter_outermost() {
            Some(guard) => Ok(guard),
            None => self.enter_slow(Patience::OfTheSlot),
        }
    }

    /// [`enter`](Self::enter) with the caller's own limit in place of the slot's.
    ///
    /// # Errors
    ///
    /// As for `enter`.
    #[inline(always)]
    pub fn enter_within(&self, limit: Duration) -> Result<Guard<'_, T>, EnterError> {
        match self.enter_outermost() {
            Some(guard) => Ok(guard),
            None => self.enter_slow(Patience::For(limit)),
        }
    }

    /// [`enter`](Self::enter) without ever waiting.
    ///
    /// # Errors
    ///
    /// [`EnterError::Paused`] at a closed gate, unless the call is nested; [`EnterError::Empty`].
    #[inline(always)]
    pub fn try_enter(&self) -> Result<Guard<'_, T>, EnterError> {
        match self.enter_outermost() {
            Some(guard) => Ok(guard),
            None => self.enter_slow(Patience::None),
        }
    }

    /// A lease on what [`enter`](Self::enter) would enter.
    ///
    /// # Errors
    ///
    /// As for `enter`.
    pub fn lease(&self) -> Result<Lease<T>, EnterError> {
        Ok(self.enter()?.lease())
    }

    /// The whole of the usual case; `None` for all others, which [`enter`](Self::enter) knows.
    #[inline(always)]
    pub(crate) fn enter_outermost(&self) -> Option<Guard<'_, T>> {
        self.publish(thread::outside()?.frame(0))
    }

    /// [`enter`](Self::enter) for whoever is in a call most of the time, as one plugin is that calls another.
    #[inline(always)]
    pub(crate) fn enter_nested(&self) -> Result<Guard<'_, T>, EnterError> {
        match self.enter_quickly() {
            Some(guard) => Ok(guard),
            None => self.enter_slow(Patience::OfTheSlot),
        }
    }

    /// Whatever can be told from the first block of the record: an outermost call, a call of what is on the stack
    /// already, and a call of another slot, if nothing on the stack is linked to anything. `None` for all others.
    ///
    /// It does what [`inherit`](Self::inherit) and [`enter_or_wait`](Self::enter_or_wait) do, but for the first look for a
    /// link, which tells nothing that the one after R5 does not tell.
    #[inline(always)]
    pub(crate) fn enter_quickly(&self) -> Option<Guard<'_, T>> {
        let record = thread::current_or_nobody()?;
        // The usual depths each by themselves: so a call need not wait for the number that the one before has stored.
        match () {
            () if record.is_at(1) => self.enter_at(record, 1),
            () if FRAMES > 2 && record.is_at(2) => self.enter_at(record, 2),
            () if record.is_outside() => self.publish(record.frame(0)),
            () => self.enter_deeper(record),
        }
    }

    #[inline(never)]
    fn enter_deeper(&self, record: &'static Record) -> Option<Guard<'_, T>> {
        self.enter_at(record, (3..FRAMES).find(|&depth| record.is_at(depth))?)
    }

    /// The same, nested, in the frame at this depth.
    #[inline(always)]
    fn enter_at(&self, record: &'static Record, depth: usize) -> Option<Guard<'_, T>> {
        for word in record.words_quickly(depth) {
            if word.is_null() || word.addr() & (UNVALIDATED | ANNOTATION) != 0 {
                return None;
            }
            let header = word.map_addr(|a| a & !SEEN);
            // SAFETY: kept by its frame, which is validated.
            if unsafe { (*header).slot } == self.id {
                return Some(self.copy(record.take_quickly(depth), header));
            }
        }
        let guard = self.publish(record.take_quickly(depth))?;
        // S3, for all that is on the stack.
        let is_linked = |word: *mut Header| {
            let header = word.map_addr(|a| a & !SEEN);
            // SAFETY: as above; all of them were validated, and have stayed.
            unsafe { &*header }.set().is_some()
        };
        if record.words_quickly(depth).any(is_linked) {
            return give_up(guard);
        }
        Some(guard)
    }

    /// Case 3. The header is one of this slot, and kept by a lower frame than this.
    #[inline(always)]
    fn copy(&self, frame: Frame, header: *mut Header) -> Guard<'_, T> {
        frame.fill(header);
        // SAFETY: it is a `Generation<T>`, since its slot is this one, and kept by the frame.
        let kept = unsafe { Kept::new(NonNull::new_unchecked(header.cast())) };
        Guard::new(kept, frame)
    }

    /// R1 to R5 in an empty frame. `None` if the slot is closed, or was swapped at this very moment.
    #[inline(always)]
    fn publish(&self, frame: Frame) -> Option<Guard<'_, T>> {
        // R1. Relaxed: this is a guess, and R4 checks it.
        let State::Open(guess) = State::of(self.current.load(Ordering::Relaxed)) else { return None };
        frame.fill_unvalidated(guess.as_ptr().cast()); // R2
        self.fence.light(); // R3: partner of W2
        // R4. Acquire: partner of W1. No model can tell it from Relaxed: there the full fence that
        // stands for R3 acquires what R1 has read.
        let current = self.current.load(Ordering::Acquire);
        if current != guess.as_ptr() {
            self.retract(frame);
            return None;
        }
        // From here on the pointer that R4 has read, never the one of R1: if the two are equal by
        // address only (case 2), this one is the one that is alive.
        // SAFETY: equal to `guess`, hence not null.
        unsafe { assert_unchecked(!current.is_null()) };
        frame.fill(current.cast()); // R5
        // SAFETY: as above; kept by the validated frame (cases 1 and 2).
        let kept = unsafe { Kept::new(NonNull::new_unchecked(current)) };
        Some(Guard::new(kept, frame))
    }

    /// Undoes R2. A drainer may have seen it and be waiting (case 6).
    #[cold]
    #[inline(never)]
    fn retract(&self, frame: Frame) {
        if frame.empty() != 0 {
            errand::answer_drainers(frame.block().first());
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_slow(&self, patience: Patience) -> Result<Guard<'_, T>, EnterError> {
        let record = thread::current_or_new();
        let outcome = match self.inherit(record) {
            Some(guard) => Ok(guard),
            None => self.enter_or_wait(record, patience),
        };
        if outcome.is_err() {
            errand::attend(record); // there will be no exit to do it
        }
        outcome
    }

    /// A call tree sees one generation, and does not wait at a gate that waits for it: if this slot
    /// has a call on the stack already, go where the innermost of them is.
    pub(super) fn inherit(&self, record: &'static Record) -> Option<Guard<'_, T>> {
        let depth = record.depth();
        let word = record.occupied_below(depth).find(|word| {
            let header: *const Header = word.map_addr(|a| a & !(ANNOTATION | SEEN));
            // An unvalidated frame is one that a signal handler has interrupted us in.
            // SAFETY: kept by that frame, or by the lease whose call further up the stack it notes.
            word.addr() & UNVALIDATED == 0 && unsafe { (*header).slot == self.id }
        })?;
        let header = word.map_addr(|a| a & !TAGS);
        if word.addr() & ANNOTATION != 0 {
            let generation = NonNull::new(header.cast::<Generation<T>>())?;
            // SAFETY: kept as above; it is a `Generation<T>`, since its slot is this one.
            let kept = unsafe { Kept::new(generation) };
            // Case 5: nothing turns a lease into a frame.
            return Some(Guard::new(kept.with_lease(), registry().counted_frame()));
        }
        Some(self.copy(record.take(depth), header)) // case 3: above the frame it copies
    }

    /// The innermost call on the stack whose generation gives way together with one of this slot, and which that is.
    fn link(&self, record: &'static Record, depth: usize) -> Option<Link> {
        record.occupied_below(depth).find_map(|word| {
            if word.addr() & UNVALIDATED != 0 {
                return None;
            }
            let header: *const Header = word.map_addr(|a| a & !TAGS);
            // SAFETY: kept by that frame, or by the lease whose call further up the stack it notes; and so is its set.
            let from: &'static Header = unsafe { &*header };
            let set = from.set()?;
            let to = set.member(self.id)?;
            Some(Link { from, set, to, is_lease: word.addr() & ANNOTATION != 0 })
        })
    }

    /// A call tree sees what gives way together from one time, and does not wait at a gate that waits for it: S2 and S5
    /// of the proof in `set`. `None`: no link leads here.
    fn follow(&self, record: &'static Record, depth: usize) -> Option<Result<Guard<'_, T>, EnterError>> {
        let Link { from, set, to, is_lease } = self.link(record, depth)?;
        let Some(generation) = NonNull::new(to.cast::<Generation<T>>()) else {
            return Some(Err(EnterError::Empty));
        };
        let frame = record.take(depth);
        frame.fill_unvalidated(to);
        self.fence.light(); // partner of the heavy fence in `Set::unlink`
        if !from.set().is_some_and(|now| std::ptr::eq(now, set)) {
            self.retract(frame);
            return None;
        }
        frame.fill(to);
        // SAFETY: of this slot, hence a `Generation<T>`; kept by the frame, by S2.
        let kept = unsafe { Kept::new(generation) };
        if !is_lease {
            return Some(Ok(Guard::new(kept, frame)));
        }
        let counted = kept.with_lease();
        set.count_pass();
        if frame.empty() != 0 {
            errand::answer_drainers(frame.block().first());
        }
        Some(Ok(Guard::new(counted, registry().counted_frame())))
    }

    fn enter_or_wait(&self, record: &'static Record, patience: Patience) -> Result<Guard<'_, T>, EnterError> {
        let mut deadline = None;
        loop {
            let depth = record.depth();
            if let Some(outcome) = self.follow(record, depth) {
                return outcome;
            }
            if let Some(guard) = self.publish(record.take(depth)) {
                // Whoever put this generation there had made the links before: R4 has acquired them.
                if self.link(record, depth).is_none() {
                    return Ok(guard);
                }
                continue;
            }
            match self.state() {
                State::Open(_) => {} // swapped or opened since
                State::Empty => return Err(EnterError::Empty),
                State::Paused => {
                    let limit = match patience {
                        Patience::None => return Err(EnterError::Paused),
                        Patience::OfTheSlot => self.wait_limit(),
                        Patience::For(limit) => limit,
                    };
                    self.wait(deadline.get_or_insert_with(|| Deadline::after(limit)), record)?;
                }
            }
        }
    }

    /// Waits until the gate is no longer closed, or a link leads behind it.
    ///
    /// A handover that migrates nothing takes some 20 µs, so yield for twice that before paying for a
    /// sleep. Then one word for everybody: those who wake touch their own lines only, so waking them all
    /// is the quickest and cannot lose a link, as a chain of wakers can.
    #[cold]
    fn wait(&self, deadline: &Deadline, record: &'static Record) -> Result<(), EnterError> {
        const YIELDING: Duration = Duration::from_micros(40);
        if record.depth() == 0 {
            errand::run_pending(record);
        }
        let _queued = Queued::join(self)?;
        let start = Instant::now();
        loop {
            let seen = self.openings.number();
            if !matches!(self.state(), State::Paused) || self.link(record, record.depth()).is_some() {
                return Ok(());
            }
            let Some(left) = deadline.left() else {
                return Err(EnterError::TimedOut { waited: deadline.waited() });
            };
            if cfg!(any(miri, reseat_loom)) || start.elapsed() >= YIELDING {
                self.openings.wait(seen, left);
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// What has been entered is linked to what is on the stack: that link leads elsewhere.
#[cold]
#[inline(never)]
fn give_up<T: Send + Sync + 'static>(guard: Guard<'_, T>) -> Option<Guard<'_, T>> {
    drop(guard);
    None
}

/// From one generation of a set to another.
struct Link {
    from: &'static Header,
    set: &'static Set,
    to: *mut Header,
    /// The first is not kept by a frame.
    is_lease: bool,
}

/// A place among those who wait at a closed gate.
struct Queued<'s, T: Send + Sync + 'static>(&'s Slot<T>);

impl<'s, T: Send + Sync + 'static> Queued<'s, T> {
    fn join(slot: &'s Slot<T>) -> Result<Self, EnterError> {
        let before = slot.waiting.fetch_add(1, Ordering::Relaxed);
        let queued = Self(slot);
        fence(Ordering::SeqCst); // partner of the one in `Slot::open`
        if before >= slot.max_waiters() {
            return Err(EnterError::Crowded { waiting: before as usize });
        }
        Ok(queued)
    }
}

impl<T: Send + Sync + 'static> Drop for Queued<'_, T> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
