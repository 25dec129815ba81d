//! The place where generations of one plugin succeed one another: the writer's side.
//!
//! Invariants:
//! 1. `current` is one word and is the whole state of the slot: empty, paused, or a generation.
//! 2. Only the holder of the one `Paused` takes the slot out of the paused state.
//! 3. A generation that is taken out of `current` gets a `Retired`, after a heavy fence.

#![allow(unsafe_code)] // generations are raw pointers between `current` and `Retired`

use super::drain::Retired;
use super::error::{PauseError, SwapError};
use super::fence::Fence;
use super::futex::Futex;
use super::generation::{Generation, Kept};
use super::paused::Paused;
use super::registry::registry;
use super::sync::{AtomicPtr, AtomicU32, Ordering, fence};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32 as Word, AtomicU64};
use std::time::Duration;

/// The place where values of one kind succeed one another while threads use them.
///
/// A slot does not number its generations and never destroys one by itself: what is replaced comes
/// back as a [`Retired`], which can be drained and taken apart. Dropping the slot is the exception: it
/// drops the current value on the spot, or leaks it if a lease or a leaked guard is left.
#[repr(align(128))]
pub struct Slot<T: Send + Sync + 'static> {
    /// What a call reads: this word, `fence` and `id` share a line that is written by swaps only,
    /// and by those who wait at a closed gate.
    pub(super) current: AtomicPtr<Generation<T>>,
    pub(super) fence: Fence,
    pub(super) waiting: AtomicU32,
    pub(super) id: u64,
    /// Advanced when the gate opens.
    pub(super) openings: Futex,
    wait_limit: AtomicU64,
    max_waiters: Word,
}

/// What one reading of `current` says.
pub(super) enum State<T> {
    Empty,
    Paused,
    Open(NonNull<Generation<T>>),
}

const EMPTY: usize = 0;
const PAUSED: usize = 1;
/// In no slot: a first exchange that fails is how `replace` reads, see `OwnerPtr`.
const NEVER: usize = 2;

impl<T> State<T> {
    #[inline(always)]
    pub(super) fn of(current: *mut Generation<T>) -> Self {
        match NonNull::new(current) {
            None => Self::Empty,
            Some(word) if word.addr().get() == PAUSED => Self::Paused,
            Some(generation) => Self::Open(generation),
        }
    }
}

impl<T: Send + Sync + 'static> Slot<T> {
    /// How long callers wait at a closed gate unless told otherwise.
    pub const DEFAULT_WAIT_LIMIT: Duration = Duration::from_secs(5);
    /// How many callers may wait at a closed gate unless told otherwise.
    pub const DEFAULT_MAX_WAITERS: usize = 10_000;

    /// A slot with nothing in it: entering fails with [`EnterError::Empty`](super::EnterError::Empty).
    pub fn empty() -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Self::with_id(IDS.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn with_id(id: u64) -> Self {
        registry(); // made here, so that no call finds it missing
        let slot = Self {
            current: AtomicPtr::new(ptr::without_provenance_mut(EMPTY)),
            fence: Fence::of_process(),
            waiting: AtomicU32::new(0),
            id,
            openings: Futex::new(),
            wait_limit: AtomicU64::new(0),
            max_waiters: Word::new(0),
        };
        slot.set_wait_limit(Self::DEFAULT_WAIT_LIMIT);
        slot.set_max_waiters(Self::DEFAULT_MAX_WAITERS);
        slot
    }

    /// A slot that is open, with its first generation.
    pub fn new(value: T) -> Self {
        let mut slot = Self::empty();
        slot.current = AtomicPtr::new(Generation::boxed(slot.id, value));
        slot
    }

    /// How long [`enter`](Self::enter) waits at a closed gate. Then it fails with
    /// [`EnterError::TimedOut`](super::EnterError::TimedOut); those who wait already keep their limit.
    pub fn set_wait_limit(&self, limit: Duration) {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX); // 584 years
        self.wait_limit.store(nanos, Ordering::Relaxed);
    }

    /// How many threads may wait at a closed gate. The next one fails with
    /// [`EnterError::Crowded`](super::EnterError::Crowded).
    pub fn set_max_waiters(&self, waiters: usize) {
        let waiters = u32::try_from(waiters).unwrap_or(u32::MAX); // more threads than Linux can have
        self.max_waiters.store(waiters, Ordering::Relaxed);
    }

    /// Makes `value` the current generation and returns the one before, `None` if the slot was empty.
    ///
    /// Calls never wait for it: those that have begun stay in the old generation, those that begin
    /// after this has returned are in the new one.
    ///
    /// # Errors
    ///
    /// Gives the value back if the gate is closed: then [`Paused::resume_with`] decides.
    pub fn swap(&self, value: T) -> Result<Option<Retired<T>>, SwapError<T>> {
        let new = Generation::boxed(self.id, value);
        match self.replace(new, |state| !matches!(state, State::Paused)) {
            Ok(old) => Ok(self.retire(old)),
            Err(_) => {
                // SAFETY: `boxed` made it above and nothing else has seen it.
                let generation = *unsafe { Box::from_raw(new) };
                Err(SwapError { value: generation.value })
            }
        }
    }

    /// Closes the gate: new calls wait, nested calls of those already inside pass.
    ///
    /// For handing state over, which needs a time when nobody is in either generation. The gate opens
    /// again with [`Paused::resume_with`], or with the old generation when the `Paused` is dropped.
    ///
    /// # Errors
    ///
    /// If the slot is empty or its gate is closed already.
    pub fn pause(&self) -> Result<Paused<'_, T>, PauseError> {
        let closed = ptr::without_provenance_mut(PAUSED);
        match self.replace(closed, |state| matches!(state, State::Open(_))) {
            Ok(old) => Ok(Paused::new(self, self.retire(old).expect("an open slot has a generation"))),
            Err(State::Paused) => Err(PauseError::AlreadyPaused),
            Err(_) => Err(PauseError::Empty),
        }
    }

    /// Empties the slot and returns the generation that was current, if there was one.
    ///
    /// New calls fail at once with [`EnterError::Empty`](super::EnterError::Empty); nested calls of
    /// those already inside still pass.
    ///
    /// # Errors
    ///
    /// [`PauseError::AlreadyPaused`] if the gate is closed for a handover.
    pub fn close(&self) -> Result<Option<Retired<T>>, PauseError> {
        let empty = ptr::without_provenance_mut(EMPTY);
        match self.replace(empty, |state| !matches!(state, State::Paused)) {
            Ok(old) => Ok(self.retire(old)),
            Err(_) => Err(PauseError::AlreadyPaused),
        }
    }

    /// W1, if the state allows it; the old word, or the state that did not.
    ///
    /// AcqRel. Release: partner of R4, which must find the new value whole. Acquire: partner of the
    /// Release of the writer before, whose value is about to be looked at.
    pub(super) fn replace(
        &self,
        new: *mut Generation<T>,
        allowed: impl Fn(State<T>) -> bool,
    ) -> Result<*mut Generation<T>, State<T>> {
        let mut word = ptr::without_provenance_mut(NEVER);
        loop {
            match self.current.compare_exchange(word, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(old) => return Ok(old),
                Err(now) if allowed(State::of(now)) => word = now,
                Err(now) => return Err(State::of(now)),
            }
        }
    }

    /// W1 of a set: closes the gate, of an empty slot, too. The word that was there.
    pub(super) fn take_for_pause(&self) -> Result<*mut Generation<T>, PauseError> {
        let closed = ptr::without_provenance_mut(PAUSED);
        let taken = self.replace(closed, |state| !matches!(state, State::Paused));
        taken.map_err(|_| PauseError::AlreadyPaused)
    }

    /// W2 and on: takes charge of a word that `replace` has taken out of `current`.
    pub(super) fn retire(&self, old: *mut Generation<T>) -> Option<Retired<T>> {
        let State::Open(old) = State::of(old) else { return None };
        self.fence.heavy(); // W2: partner of R3
        // SAFETY: it was current until now, so nobody has retired it; only `Retired` can end that.
        Some(Retired::new(unsafe { Kept::new(old) }))
    }

    /// Opens a paused slot. By invariant 2 nobody else changes `current` meanwhile.
    ///
    /// Waiters count themselves, then read `openings`, then `current`; here it is the other way round
    /// with a full fence in between, so either we see a waiter or it sees the gate open.
    pub(super) fn open(&self, generation: NonNull<Generation<T>>) {
        self.open_with(generation.as_ptr());
    }

    /// The same, also for the word of an empty slot.
    pub(super) fn open_with(&self, word: *mut Generation<T>) {
        self.current.store(word, Ordering::Release); // partner of R4
        self.wake_waiting();
    }

    /// The word of a slot with nothing in it.
    pub(super) fn empty_word() -> *mut Generation<T> {
        ptr::without_provenance_mut(EMPTY)
    }

    /// Whoever waits at the gate looks again.
    pub(super) fn wake_waiting(&self) {
        self.openings.advance();
        fence(Ordering::SeqCst); // partner of the one in `Queued::join`
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.openings.wake_all();
        }
    }

    /// Whether calls pass.
    pub fn is_open(&self) -> bool {
        matches!(self.state(), State::Open(_))
    }

    /// Whether the gate is closed for a handover.
    pub fn is_paused(&self) -> bool {
        matches!(self.state(), State::Paused)
    }

    /// How many threads wait at the closed gate.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) as usize
    }

    /// Acquire: whoever reads an open gate here goes on to read what is behind it.
    pub(super) fn state(&self) -> State<T> {
        State::of(self.current.load(Ordering::Acquire))
    }

    /// How long [`enter`](Self::enter) waits at a closed gate.
    pub fn wait_limit(&self) -> Duration {
        match self.wait_limit.load(Ordering::Relaxed) {
            u64::MAX => Duration::MAX,
            nanos => Duration::from_nanos(nanos),
        }
    }

    pub(super) fn max_waiters(&self) -> u32 {
        self.max_waiters.load(Ordering::Relaxed)
    }
}

impl<T: Send + Sync + 'static> Drop for Slot<T> {
    fn drop(&mut self) {
        // A `Paused` borrows the slot, so there is none, unless it was leaked: then so is its value.
        if let Ok(Some(retired)) = self.close() {
            drop(retired.into_inner()); // what is not drained is leaked by dropping it
        }
    }
}

impl<T: Send + Sync + 'static> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state() {
            State::Empty => "empty",
            State::Paused => "paused",
            State::Open(_) => "open",
        };
        f.debug_struct("Slot").field("state", &state).field("waiting", &self.waiting()).finish()
    }
}
