//! Slots that change together: whoever is in one of them finds the others as they were with it.
//!
//! All gates of a set are closed at once, behind one heavy fence; then its old generations are linked with one another,
//! and nobody is out of them before nobody is in any. A call that is inside of one member and comes to another, whose
//! gate is closed, or which has been opened with its next generation since, follows the link: it is let into the old
//! generation there. So whoever is inside of one, for as long as that lasts, never sees two of the set from different times,
//! and never waits for a gate that waits for it.
//!
//! # Proof
//!
//! *Claim: when a drain of a member returns `Ok`, no call is in flight in any generation of the set, none will begin, and
//! none has followed a link to memory that was free.* Beside the cases in the head of the module, whose W1 and W2 are here
//! one exchange for each slot and one fence for all:
//!
//! * **S1. New calls.** Those that are in no member are case 1 or 2, for the slot that they enter. Links are made
//!   after the fence, so whoever is let in otherwise follows one.
//! * **S2. It follows a link from a frame.** The thread holds a validated frame F of the member A, so A is kept, and with it
//!   the set. It fills a higher frame with the member B, unvalidated, and then reads A's link again. If the link still
//!   stands, B is a generation of the set that was not free when the frame was filled: a set is only drained when no frame
//!   of *any* member is found, and a scan ascends; if it read F as emptied, that came after the second frame was filled (case 3,
//!   with "a generation of the set" in place of "the generation").
//! * **S3. It finds no link, and then a new generation**, because the change came in between. Whoever opens a gate with a
//!   new generation has made the links before, and R4 acquires that: so after R5 it looks once more, and if there is a link now, it
//!   leaves and follows that. The quick way of entering looks only then. What it misses before is a link that is undone by the time
//!   at which R4 finds the gate open (with the old generation, by S4), and one at a gate that is closed, where it gives up.
//! * **S4. The links are undone**, because the change was given up. Undoing is a store, a heavy fence, and only then is
//!   anything made current again. A thread that fills its frame before its point P of that fence is seen by whoever
//!   retires B later. One that does so after P finds the link gone, and retracts.
//! * **S5. It follows a link from a lease** of A. It takes a frame of B as in S2, a lease from that, and counts itself
//!   in `passes`; all the while it holds the lease of A. A drainer that has found no frame reads `passes`, then the
//!   leases of all members, then `passes` again. Suppose that it reads those of B before the new one was added, and those of A
//!   after the old one was released: then the count was advanced before that release, after the first reading, and the
//!   second reading, which comes after an Acquire of the release, sees it.
//! * **S6. One drainer takes its generation apart** while another still looks. Whoever reads the headers of other members holds
//!   `looking` meanwhile, and has found there that the set is not drained. Nothing is taken apart before somebody
//!   has noted there that it is; from then on nobody reads them.

#![allow(unsafe_code)] // generations are raw pointers between `current` and `Retired`

use super::drain::Retired;
use super::error::PauseError;
use super::fence::Fence;
use super::generation::{Generation, Header, Kept};
use super::record::Record;
use super::registry::registry;
use super::slot::{Slot, State};
use super::stragglers::Stragglers;
use super::sync::{AtomicUsize, Mutex, Ordering};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The old generations of a set.
pub(super) struct Set {
    members: Box<[Member]>,
    /// How often somebody has gone from a lease of one member to a lease of another.
    passes: AtomicUsize,
    /// Whether it is drained. Held by whoever looks, by S6.
    looking: Mutex<bool>,
}

/// One slot of a set, and what was in it; null: nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Member {
    slot: u64,
    generation: *mut Header,
}

// SAFETY: the pointers are followed only while a member is kept, see the proof; the rest is atomic or locked.
unsafe impl Send for Set {}
// SAFETY: as above.
unsafe impl Sync for Set {}

impl Set {
    /// What the set has of a slot; `None`: nothing, the slot is no member.
    pub(super) fn member(&self, slot: u64) -> Option<*mut Header> {
        self.members.iter().find(|member| member.slot == slot).map(|member| member.generation)
    }

    /// S5. Release, by the release of the lease that follows it; partner of `leases`.
    pub(super) fn count_pass(&self) {
        self.passes.fetch_add(1, Ordering::AcqRel);
    }

    /// W3: the records with a frame of any generation of the set.
    fn inside(&self) -> impl Iterator<Item = &'static Record> {
        registry().inside(|held| self.has(held))
    }

    /// W4: all leases at one moment, by S5. The caller has `looking`, by S6.
    fn leases(&self) -> usize {
        loop {
            let before = self.passes.load(Ordering::Acquire);
            // SAFETY: not drained (the caller), so none of them is free.
            let leases = self.generations().map(|member| unsafe { (*member).leases.count() }).sum();
            if leases != 0 || self.passes.load(Ordering::Acquire) == before {
                return leases;
            }
        }
    }

    /// Whether this is one of its generations.
    pub(super) fn has(&self, generation: *const Header) -> bool {
        self.generations().any(|member| ptr::eq(member, generation))
    }

    /// Looks, unless somebody has found it drained: S6.
    pub(super) fn poll(&self) -> bool {
        let mut drained = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        *drained = *drained || (self.inside().next().is_none() && self.leases() == 0);
        *drained
    }

    /// W3 and W4 in the middle of a drain: who is inside, and how many leases there are; nobody if it is drained.
    pub(super) fn look(&self) -> (Vec<&'static Record>, usize) {
        let mut drained = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if *drained {
            return (Vec::new(), 0);
        }
        let inside: Vec<_> = self.inside().collect();
        let leases = self.leases();
        *drained = inside.is_empty() && leases == 0;
        (inside, leases)
    }

    fn generations(&self) -> impl Iterator<Item = *const Header> {
        self.members.iter().map(|member| member.generation.cast_const()).filter(|member| !member.is_null())
    }

    /// Links the generations, each with a share of the set: what a thread that holds one reads there stays.
    fn link(members: Vec<Member>) -> Arc<Set> {
        let headers = || members.iter().filter_map(|member| NonNull::new(member.generation));
        // SAFETY: whoever calls this has just retired them all, so they are kept.
        let first = headers().next().and_then(|header| unsafe { header.as_ref() }.known_set(&members));
        let set = first.unwrap_or_else(|| {
            let members = members.clone().into_boxed_slice();
            Arc::new(Set { members, passes: AtomicUsize::new(0), looking: Mutex::new(false) })
        });
        // SAFETY: as above.
        headers().for_each(|header| unsafe { header.as_ref() }.link(&set));
        set
    }

    fn is_of(&self, members: &[Member]) -> bool {
        *self.members == *members
    }

    /// S4. The caller makes nothing current before this has returned.
    fn unlink(&self) {
        // SAFETY: the caller still has all of them, retired.
        self.generations()
            .for_each(|member| unsafe { (*member).set.store(ptr::null_mut(), Ordering::Release) });
        Fence::of_process().heavy();
    }
}

impl Header {
    /// A change of the same generations that was given up before: one set will do, however often that is tried.
    fn known_set(&self, members: &[Member]) -> Option<Arc<Set>> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.iter().find(|set| set.is_of(members)).cloned()
    }

    /// Release: partner of the reading in `Slot::follow`, which must find the set whole.
    fn link(&self, set: &Arc<Set>) {
        {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            if !sets.iter().any(|known| Arc::ptr_eq(known, set)) {
                sets.push(set.clone());
            }
        }
        self.set.store(Arc::as_ptr(set).cast_mut(), Ordering::Release);
    }

    /// The set that this generation gives way with, for as long as whoever asks keeps the generation.
    pub(super) fn set(&self) -> Option<&Set> {
        // SAFETY: null, or one that `sets` keeps as long as the generation.
        unsafe { self.set.load(Ordering::Acquire).as_ref() }
    }
}

/// The gates of several slots are closed, at once. Dropping this opens all of them as they were.
#[must_use = "dropping it opens the gates at once"]
pub struct PausedSet<'s, T: Send + Sync + 'static> {
    slots: Vec<&'s Slot<T>>,
    /// `None`: there was nothing in that slot. Emptied by whichever way the gates open.
    old: Vec<Option<Retired<T>>>,
    /// `None` for a set of one: that is a [`Paused`](super::Paused) by another name.
    set: Option<Arc<Set>>,
}

impl<'s, T: Send + Sync + 'static> PausedSet<'s, T> {
    /// Closes the gates of these slots, of which none is there twice; empty ones may be among them.
    ///
    /// # Errors
    ///
    /// One of them is closed already; all are then as they were.
    pub fn close(slots: Vec<&'s Slot<T>>) -> Result<Self, PauseError> {
        let mut words = Vec::with_capacity(slots.len());
        for slot in &slots {
            match slot.take_for_pause() {
                Ok(word) => words.push(word),
                Err(error) => {
                    // Nothing is linked and nothing retired: they open with the words that they had.
                    slots.iter().zip(words).for_each(|(slot, word)| slot.open_with(word));
                    return Err(error);
                }
            }
        }
        Fence::of_process().heavy(); // W2 for all
        let retire = |word: *mut Generation<T>| match State::of(word) {
            // SAFETY: it was current until now, so nobody has retired it; only `Retired` can end that.
            State::Open(old) => Some(Retired::new(unsafe { Kept::new(old) })),
            _ => None,
        };
        let mut paused = Self { slots, old: words.into_iter().map(retire).collect(), set: None };
        paused.link();
        Ok(paused)
    }

    fn link(&mut self) {
        if self.slots.len() < 2 || self.old.iter().all(Option::is_none) {
            return;
        }
        let pairs = self.slots.iter().zip(&self.old);
        let members = pairs.map(|(slot, old)| Member {
            slot: slot.id,
            generation: old.as_ref().map_or(ptr::null_mut(), Retired::header_mut),
        });
        self.set = Some(Set::link(members.collect()));
        // Some may have come to a gate between its closing and the links, and now pass.
        self.slots.iter().for_each(|slot| slot.wake_waiting());
    }

    /// Waits until nobody is in any of the old generations; see [`Retired::drain`]. One deadline for all.
    ///
    /// # Errors
    ///
    /// Who is still inside, for each slot, when the limit has passed. The gates are still closed then.
    pub fn drain(&mut self, limit: Duration) -> Result<(), Vec<Stragglers>> {
        // By the links, one of them is as good as all.
        let drained = self.old.iter_mut().flatten().next().map_or(Ok(()), |old| old.drain(limit));
        drained.map_err(|all| {
            let own = |old: &Option<Retired<T>>| {
                let stragglers = old.as_ref().map(Retired::own_stragglers).unwrap_or_default();
                Stragglers { self_deadlock: all.self_deadlock, ..stragglers }
            };
            self.old.iter().map(own).collect()
        })
    }

    /// The old generation of each slot.
    pub fn values(&self) -> impl Iterator<Item = Option<&T>> {
        self.old.iter().map(|old| old.as_ref().map(Retired::value))
    }

    /// Opens all gates, each with its new generation, and returns the old ones. Whoever is still in an old one stays
    /// among the old.
    ///
    /// # Panics
    ///
    /// If there is not one value for each slot.
    pub fn resume_with(mut self, values: Vec<T>) -> Vec<Option<Retired<T>>> {
        assert_eq!(values.len(), self.slots.len(), "one value for each slot");
        let old = std::mem::take(&mut self.old);
        let new = self.slots.iter().zip(values).map(|(slot, value)| Generation::boxed(slot.id, value));
        // Boxed before the first is opened, so that callers find the gates open one right after the other.
        let new: Vec<_> = new.collect();
        self.slots.iter().zip(new).for_each(|(slot, word)| slot.open_with(word));
        old
    }
}

impl<T: Send + Sync + 'static> Drop for PausedSet<'_, T> {
    fn drop(&mut self) {
        let old = std::mem::take(&mut self.old);
        if old.is_empty() {
            return;
        }
        if let Some(set) = &self.set {
            set.unlink();
        }
        for (slot, old) in self.slots.iter().zip(old) {
            slot.open_with(old.map_or_else(Slot::<T>::empty_word, |old| old.reinstate().as_ptr()));
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for PausedSet<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PausedSet").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}
