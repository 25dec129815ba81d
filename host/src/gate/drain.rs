//! A generation that is no longer current, and the wait until nobody is in it.
//!
//! The names W3, W4 and D1 to D4 are those of the algorithm in the head of the module.

#![allow(unsafe_code)] // the end of a generation

use super::ages::Marked;
use super::fence::Fence;
use super::generation::{Generation, Header, Kept};
use super::os;
use super::record::{Place, Record, TAGS, UNVALIDATED, wake};
use super::registry::registry;
use super::set::Set;
use super::stragglers::{Held, Straggler, Stragglers};
use super::sync::{Deadline, Ordering};
use super::thread::{self, ThreadRef};
use std::fmt;
use std::hint;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

/// A generation that is no longer current.
///
/// Once it is drained, [`into_inner`](Self::into_inner) gives the value out, to be dropped wherever that
/// may happen. Dropping this undrained leaks the generation: it stays loaded for ever, and safe.
#[must_use = "a generation that is never drained is never unloaded"]
pub struct Retired<T: Send + Sync + 'static> {
    generation: Kept<T>,
    /// When the heavy fence of the retirement had been passed: whoever is inside entered before.
    since: Instant,
    drained: bool,
}

/// What a drainer finds after it has asked everybody to be told.
enum Look {
    Drained,
    /// Everybody who is inside was asked before the fence, and will tell.
    AllAsked,
    /// Somebody was not.
    SomeUnasked,
}

impl<T: Send + Sync + 'static> Retired<T> {
    /// The generation has been taken out of its slot, and a heavy fence has followed.
    pub(super) fn new(generation: Kept<T>) -> Self {
        generation.header.leases.retire();
        Self { generation, since: Instant::now(), drained: false }
    }

    /// Makes it current again: the opposite of `new`.
    pub(super) fn reinstate(self) -> NonNull<Generation<T>> {
        self.generation.header.leases.reinstate();
        self.generation.as_ptr()
    }

    /// The id of the slots that it may be in.
    pub(super) fn slot(&self) -> u64 {
        self.generation.header.slot
    }

    /// Whether nobody is inside. Does not wait.
    ///
    /// W3 and then W4: guards become leases and never the other way, so in this order none is missed.
    pub fn poll(&mut self) -> bool {
        self.drained = self.drained
            || match self.set() {
                Some(set) => set.poll(),
                None => self.inside().next().is_none() && self.own_leases() == 0,
            };
        self.drained
    }

    /// Waits until no guard and no lease of this generation is left; what their holders did is then
    /// visible here.
    ///
    /// # Errors
    ///
    /// Who is still inside when the limit has passed; at once if this very thread is.
    pub fn drain(&mut self, limit: Duration) -> Result<(), Stragglers> {
        let deadline = Deadline::after(limit);
        if self.poll() {
            return Ok(());
        }
        if self.is_held_here() {
            return Err(self.stragglers());
        }
        if self.poll_for_a_moment(limit) {
            return Ok(());
        }
        let mut rest = Duration::ZERO;
        loop {
            let seen = registry().notices.number(); // D1
            let asked = self.ask_stragglers(); // D2
            Fence::of_process().heavy(); // D3: partner of R7
            let look = self.look(&asked);
            if let Look::Drained = look {
                self.drained = true;
                return Ok(());
            }
            let Some(left) = deadline.left() else { return self.give_up() };
            if let Look::AllAsked = look {
                registry().notices.wait(seen, left.min(Fence::of_process().nap())); // D4
            }
            if self.poll() {
                return Ok(());
            }
            rest = longer_rest(rest, left);
        }
    }

    /// The time is up. Whoever has left since the last look is not to blame.
    fn give_up(&mut self) -> Result<(), Stragglers> {
        let stragglers = self.stragglers();
        if stragglers.is_empty() && self.poll() { Ok(()) } else { Err(stragglers) }
    }

    /// Most calls end within 20 µs. Yields, because on few cores the straggler may be waiting for ours.
    fn poll_for_a_moment(&mut self, limit: Duration) -> bool {
        const MOMENT: Duration = Duration::from_micros(if cfg!(any(miri, reseat_loom)) { 0 } else { 20 });
        let start = Instant::now();
        let moment = MOMENT.min(limit);
        let mut round = 0;
        while start.elapsed() < moment && !self.poll() {
            round += 1;
            if round % 8 == 0 {
                std::thread::yield_now();
            } else {
                (0..32).for_each(|_| hint::spin_loop());
            }
        }
        self.drained
    }

    /// D2. Relaxed would do: it is D3 that orders this before the look.
    fn ask_stragglers(&self) -> Vec<&'static Record> {
        let records: Vec<_> = self.inside().collect();
        records.iter().for_each(|record| record.request(wake::NOTICE));
        records
    }

    /// W3 and W4 once more, and whether it is safe to sleep (case 6).
    fn look(&self, asked: &[&'static Record]) -> Look {
        match self.set() {
            Some(set) => {
                let (inside, leases) = set.look();
                Self::compare(asked, inside.into_iter(), || leases)
            }
            None => Self::compare(asked, self.inside(), || self.own_leases()),
        }
    }

    fn compare(
        asked: &[&'static Record],
        inside: impl Iterator<Item = &'static Record>,
        leases: impl FnOnce() -> usize,
    ) -> Look {
        // Both are in the order of the registry, so one walk over `asked` compares them.
        let mut asked = asked.iter();
        let mut inside = inside.map(|record| asked.any(|one| ptr::eq(*one, record)));
        match inside.next() {
            None if leases() == 0 => Look::Drained,
            None => Look::AllAsked, // the last lease notifies unasked
            Some(first) if first && inside.all(|asked| asked) => Look::AllAsked,
            Some(_) => Look::SomeUnasked,
        }
    }

    /// The value, if nobody is inside any more; itself otherwise.
    pub fn into_inner(mut self) -> Result<T, Self> {
        if !self.poll() {
            return Err(self);
        }
        // SAFETY: made by `Generation::boxed`; drained, so nobody else keeps it, and this is consumed.
        let generation = *unsafe { Box::from_raw(self.generation.as_ptr().as_ptr()) };
        Ok(generation.value)
    }

    /// The value, which is as usable as ever.
    pub fn value(&self) -> &T {
        &self.generation.value
    }

    /// Who is inside: of what this gives way with as well, since all of them are waited for.
    pub fn stragglers(&self) -> Stragglers {
        let leases = self.set().map_or_else(|| self.own_leases(), |set| set.look().1);
        self.found(leases, |held| self.is_waited_for(held))
    }

    /// Who is inside of this very generation.
    pub fn own_stragglers(&self) -> Stragglers {
        self.found(self.own_leases(), |held| ptr::eq(held, self.header()))
    }

    fn found(&self, leases: usize, is_it: impl Fn(*const Header) -> bool) -> Stragglers {
        let marked = Marked::look();
        let inside = registry().inside(&is_it);
        let threads = inside.filter_map(|record| self.straggler(record, &marked, &is_it)).collect();
        Stragglers { threads, leases, self_deadlock: self.is_held_here() }
    }

    /// `None` if it has left meanwhile.
    fn straggler(
        &self,
        record: &'static Record,
        marked: &Marked,
        is_it: &impl Fn(*const Header) -> bool,
    ) -> Option<Straggler> {
        let guards: Vec<_> = record.places().filter_map(|place| self.held(place, marked, is_it)).collect();
        let (os_tid, orphaned) = (record.os_tid(), record.is_orphaned());
        let name_now = if orphaned { None } else { os::name_of_thread(os_tid) };
        (!guards.is_empty()).then(|| Straggler {
            thread: ThreadRef::to(record),
            os_tid,
            name: name_now.or_else(|| record.name()),
            guards,
            orphaned,
        })
    }

    fn held(&self, place: &Place, marked: &Marked, is_it: &impl Fn(*const Header) -> bool) -> Option<Held> {
        let word = place.holds(is_it)?;
        // Case 9.
        let since_retirement = (word.addr() & UNVALIDATED == 0).then(|| self.since.elapsed());
        let note = NonZeroUsize::new(place.note.load(Ordering::Relaxed).addr());
        Some(Held { since: marked.age(&place.frame, word).max(since_retirement), note })
    }

    /// W3: the records with a frame of this generation, or of one that it gives way with.
    fn inside(&self) -> impl Iterator<Item = &'static Record> {
        registry().inside(|held| self.is_waited_for(held))
    }

    fn is_waited_for(&self, held: *const Header) -> bool {
        self.set().map_or_else(|| ptr::eq(held, self.header()), |set| set.has(held))
    }

    /// W4.
    fn own_leases(&self) -> usize {
        self.generation.header.leases.count()
    }

    fn set(&self) -> Option<&Set> {
        self.generation.header.set()
    }

    /// Whether this thread is in a call of this generation, or of one of its leases.
    fn is_held_here(&self) -> bool {
        thread::current().is_some_and(|record| {
            let mut own = record.occupied_below(record.depth());
            own.any(|word| self.is_waited_for(word.map_addr(|a| a & !TAGS).cast_const()))
        })
    }

    fn header(&self) -> *const Header {
        self.header_mut()
    }

    pub(super) fn header_mut(&self) -> *mut Header {
        self.generation.as_ptr().as_ptr().cast()
    }
}

/// Rests for so long before asking again, and returns for how long the next time. A thread that nests call
/// after call in the one that is waited for notifies at each exit; asked more rarely, it is not slowed.
fn longer_rest(rest: Duration, left: Duration) -> Duration {
    const STEP: Duration = Duration::from_micros(20);
    const LONGEST: Duration = Duration::from_millis(1);
    if !cfg!(reseat_loom) {
        std::thread::sleep(rest.min(left));
    }
    (rest * 2).clamp(STEP, LONGEST)
}

impl<T: Send + Sync + 'static> fmt::Debug for Retired<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retired").field("drained", &self.drained).finish_non_exhaustive()
    }
}
