//! Generations that can be called beside the serving one: those that were kept when others took over, and a candidate that
//! gets a part of the scopes until it has proved itself.
//!
//! Invariants:
//! 1. None of it is seen by whoever does not ask: calls look at the plugin's own slot, scopes at one word more.
//! 2. What is here is changed by the holder of the plugin's turn only; anybody may look.
//! 3. All of it is stateless: two generations at once would be two states.

mod candidate;
mod face;
mod kept;
pub(crate) mod told;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use plugin_api::Stopping;

use crate::error::GenerationError;
use crate::file::InterfaceManifest;
use crate::gate::{EnterError, Guard, Retired, Slot};
use crate::lock::lock;
use crate::meter::{Meter, Reading};
use crate::peer::Calls;
use crate::plugin::{Loaded, Plugin};
use crate::registry::Core;
use crate::reload::Pending;
use crate::status::{CallFigures, GenerationStatus, Phase};

pub(crate) use candidate::{Fate, begin, dismiss, event, superseded, take_over};
pub(crate) use kept::keep;

/// How many old generations of one plugin can be kept.
pub(crate) const MAX_KEPT: usize = 16;

/// The candidate's slot; the others are for those that are kept.
const CANDIDATE: usize = 0;

/// A part of the scopes, for a build that has yet to prove itself. See [`Options::canary`](crate::Options::canary).
///
/// The candidate is loaded beside the generation that serves. Of the scopes ([`Host::scope`](crate::Host::scope),
/// [`Host::owned_scope`](crate::Host::owned_scope), [`Host::call_as_scope`](crate::Host::call_as_scope)) that call the plugin
/// for the first time some call it in the candidate, with all that they do, and all others, and all calls outside of
/// scopes, in the generation that serves. Those some are counted off, not drawn: with 5 % it is each twentieth, and of 100
/// one after another always 5. A scope in a scope, or in a call, that is in the plugin already is not counted, and goes where
/// that is.
///
/// It is judged by [`Options::probation`](crate::Options::probation), with its errors and latencies against those of the
/// generation that serves. If it proves bad, it is discarded and denied; when it has proved itself, it takes over, and the
/// scopes that are in it go on. Where nothing is judged, it stays as it is until
/// [`Host::promote`](crate::Host::promote) or [`Host::discard`](crate::Host::discard).
///
/// Leases, and so owned scopes, are counted off like others, and not judged: see [`Probation`](crate::Probation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// How many of 100 scopes. 0: only those that ask for it by its number; more than 100 is 100.
    pub percent: u8,
}

impl Default for Canary {
    /// 5 %.
    fn default() -> Self {
        Canary { percent: 5 }
    }
}

/// What can be called beside the serving generation of a plugin.
pub(crate) struct Beside {
    /// So many of 100 scopes go to the candidate. 0: nobody need look for one.
    share: AtomicU32,
    /// How many scopes have been counted off since it came.
    counted: AtomicU64,
    /// An empty one, of which the others are made.
    pattern: Slot<Loaded>,
    /// Made when they are needed first: most plugins never have anything beside them.
    slots: OnceLock<Box<[Slot<Loaded>]>>,
    there: Mutex<Vec<There>>,
}

/// A generation that is there.
struct There {
    number: u64,
    version: String,
    /// The place of its slot.
    at: usize,
    /// The other plugins that it calls.
    calls: Arc<Calls>,
    bytes: u64,
    meter: Arc<Meter>,
    is_metered: bool,
    /// The candidate: what it takes to publish it.
    trial: Option<Arc<OnTrial>>,
}

/// A candidate.
pub(crate) struct OnTrial {
    pub(crate) number: u64,
    pub(crate) percent: u8,
    pub(crate) pending: Pending,
}

impl Beside {
    /// Beside this slot.
    pub(crate) fn of(slot: &Slot<Loaded>) -> Self {
        Beside {
            share: AtomicU32::new(0),
            counted: AtomicU64::new(0),
            pattern: slot.beside(),
            slots: OnceLock::new(),
            there: Mutex::default(),
        }
    }

    fn slot(&self, at: usize) -> &Slot<Loaded> {
        let make = || (0..=MAX_KEPT).map(|_| self.pattern.beside()).collect();
        &self.slots.get_or_init(make)[at]
    }

    /// The candidate, if there is one.
    pub(crate) fn candidate(&self) -> Option<Arc<OnTrial>> {
        lock(&self.there).iter().find_map(|there| there.trial.clone())
    }

    /// The numbers of those that are kept, oldest first.
    pub(crate) fn kept(&self) -> Vec<u64> {
        let there = lock(&self.there);
        let mut kept: Vec<_> =
            there.iter().filter(|there| there.trial.is_none()).map(|there| there.number).collect();
        kept.sort_unstable();
        kept
    }

    /// What those that are there call.
    pub(crate) fn calls(&self) -> Vec<Arc<Calls>> {
        lock(&self.there).iter().map(|there| there.calls.clone()).collect()
    }

    /// Whether the next scope is the candidate's: each so many of 100, one after another.
    fn is_its_turn(&self) -> bool {
        let share = u64::from(self.share.load(Ordering::Relaxed));
        let number = self.counted.fetch_add(1, Ordering::Relaxed);
        number % 100 * share % 100 < share
    }

    /// No further scope goes to the candidate by itself.
    pub(crate) fn stop(&self) {
        self.share.store(0, Ordering::Relaxed);
    }

    /// Puts a generation there.
    fn put(&self, there: There) {
        let share = there.trial.as_ref().map(|trial| u32::from(trial.percent));
        lock(&self.there).push(there);
        if let Some(share) = share {
            self.counted.store(0, Ordering::Relaxed);
            self.share.store(share, Ordering::Relaxed);
        }
    }

    /// Takes one out of its slot.
    fn take(&self, is_it: impl Fn(&There) -> bool) -> Option<(There, Retired<Loaded>)> {
        let mut there = lock(&self.there);
        let at = there.iter().position(is_it)?;
        if there[at].at == CANDIDATE {
            self.stop();
        }
        let taken = there.remove(at);
        let retired = self.slot(taken.at).close().expect("no slot beside is paused");
        Some((taken, retired.expect("it was there")))
    }

    fn take_candidate(&self) -> Option<(There, Retired<Loaded>)> {
        self.take(|there| there.trial.is_some())
    }

    /// Enters one that is there. On a thread that is inside of the plugin this is another one.
    pub(crate) fn enter(&self, number: u64) -> Option<Guard<'_, Loaded>> {
        let at = lock(&self.there).iter().find(|there| there.number == number)?.at;
        // Its slot may have another one by now.
        self.slot(at).try_enter().ok().filter(|guard| guard.number == number)
    }

    /// How they stand.
    pub(crate) fn status(&self) -> Vec<GenerationStatus> {
        let there = lock(&self.there);
        let each = there.iter().map(|there| GenerationStatus {
            generation: there.number,
            version: there.version.clone(),
            phase: if there.trial.is_some() { Phase::Candidate } else { Phase::Kept },
            reason: there.trial.as_ref().map(|trial| {
                let (share, Reading { calls, errors, panics, .. }) = (trial.percent, there.meter.read());
                let done = || format!("; {calls} calls, {errors} failed, {panics} panicked");
                format!("{share} of 100 scopes{}", if there.is_metered { done() } else { String::new() })
            }),
            bytes: Some(there.bytes),
            percent: there.trial.as_ref().map(|trial| trial.percent),
        });
        each.collect()
    }

    /// Of those whose calls are counted.
    pub(crate) fn figures(&self, plugin: &str) -> Vec<CallFigures> {
        let there = lock(&self.there);
        let measured = there.iter().filter(|there| there.is_metered);
        measured.map(|there| CallFigures::of(plugin, there.number, &there.meter)).collect()
    }
}

impl Plugin {
    /// Enters the generation that a scope gets which has not called the plugin yet.
    #[inline]
    pub(crate) fn enter_for_a_scope(&self) -> Result<Guard<'_, Loaded>, EnterError> {
        // Relaxed: a scope that begins at the same time may go either way.
        match self.beside.share.load(Ordering::Relaxed) {
            0 => self.slot.enter_nested(),
            _ => self.count_off(),
        }
    }

    #[cold]
    fn count_off(&self) -> Result<Guard<'_, Loaded>, EnterError> {
        if let Some(guard) = self.slot.inherited() {
            return Ok(guard);
        }
        // If it has gone meanwhile, or been published, all is as ever.
        match self.beside.is_its_turn().then(|| self.beside.slot(CANDIDATE).try_enter()) {
            Some(Ok(guard)) => Ok(guard),
            _ => self.slot.enter(),
        }
    }

    /// Enters a generation by its number: one that serves or is beside that.
    pub(crate) fn enter_generation(&self, number: u64) -> Result<Guard<'_, Loaded>, GenerationError> {
        /// One that goes from one slot into another is in neither for a moment.
        const MOMENT: Duration = Duration::from_millis(100);
        let begun = Instant::now();
        if let Some(guard) = self.slot.inherited() {
            return self.only(guard, number);
        }
        loop {
            if let Some(guard) = self.beside.enter(number) {
                return Ok(guard);
            }
            if self.serving_number() == Some(number) {
                let guard = self.slot.enter().map_err(|error| self.cannot_enter(&error))?;
                if guard.number == number {
                    return Ok(guard);
                }
            }
            if self.busy().is_none() || begun.elapsed() > MOMENT {
                return Err(self.not_there(number));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What is held already, if it is this one.
    pub(crate) fn only<H: std::ops::Deref<Target = Loaded>>(
        &self,
        held: H,
        number: u64,
    ) -> Result<H, GenerationError> {
        match held.number {
            has if has == number => Ok(held),
            has => Err(GenerationError::HasAnother { plugin: self.name.clone(), generation: number, has }),
        }
    }

    #[cold]
    fn not_there(&self, number: u64) -> GenerationError {
        if self.is_closed() {
            return GenerationError::Closed;
        }
        let mut there = self.beside.kept();
        there.extend(self.serving_number());
        there.extend(self.beside.candidate().map(|trial| trial.number));
        GenerationError::NotThere { plugin: self.name.clone(), generation: number, there }
    }
}

impl There {
    /// What is to be known of a generation that is put there.
    fn of(loaded: &Loaded, at: usize, calls: Arc<Calls>, trial: Option<Arc<OnTrial>>) -> There {
        There {
            number: loaded.number,
            version: loaded.build.manifest.version.clone(),
            at,
            calls,
            bytes: loaded.image_bytes(),
            meter: loaded.meter.clone(),
            is_metered: loaded.tables.is_metered(),
            trial,
        }
    }
}

/// Resolves an interface for all that are there; a candidate that does not have it goes. The caller has the turn, and is inside
/// of none.
pub(crate) fn bind(core: &Core, plugin: &Arc<Plugin>, number: usize, wanted: &InterfaceManifest) {
    let there = lock(&plugin.beside.there).iter().map(|there| there.number).collect::<Vec<_>>();
    for guard in there.into_iter().filter_map(|number| plugin.beside.enter(number)) {
        let Err(why) = guard.tables.bind(number, wanted, guard.instance.image()) else { continue };
        // Whoever wants it there is told that it is not.
        guard.tables.unbind(number);
        if plugin.beside.candidate().is_some_and(|trial| trial.number == guard.number) {
            dismiss(core, plugin, Fate::Superseded(format!("somebody wants {} now: {why}", wanted.name)));
        }
    }
}

/// Retires all that is beside: the plugin goes. The caller has the turn.
pub(crate) fn clear(core: &Core, plugin: &Arc<Plugin>, why: Stopping) {
    while let Some((_, old)) = plugin.beside.take(|_| true) {
        core.reaper.retire(plugin.clone(), old, why, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(share: u32, scopes: u64) -> Vec<u64> {
        let beside = Beside::of(&Slot::empty());
        beside.share.store(share, Ordering::Relaxed);
        (0..scopes).filter(|_| beside.is_its_turn()).collect()
    }

    #[test]
    fn of_a_hundred_scopes_as_many_as_the_share_says_are_the_candidates_and_evenly() {
        assert_eq!(chosen(5, 100), [0, 20, 40, 60, 80]);
        assert_eq!(chosen(100, 7).len(), 7);
        for share in 0..=100 {
            assert_eq!(chosen(share, 300).len() as u32, 3 * share, "{share} %");
        }
    }
}
