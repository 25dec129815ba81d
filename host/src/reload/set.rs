//! What changes together, in most cases one plugin: the steps of a reload, which all of it takes before any takes the next.
//!
//! Invariants:
//! 1. Providers come before those who call them.
//! 2. Before the gates open with the new generations, whatever stops one member has changed none.
//! 3. Nobody who is in an old generation of the set meets a new one of it, nor the other way round: see
//!    [`PausedSet`].

use std::time::{Duration, Instant};

use plugin_api::Stopping;

use super::trial::Trial;
use super::{Reload, Stop, stop};
use crate::events::{RolledBackState, Step};
use crate::ffi::Table;
use crate::file::{Incoming, Kept, Staged};
use crate::gate::{PausedSet, Retired};
use crate::meter::Meter;
use crate::outcome::Outcome;
use crate::plugin::Loaded;
use crate::refusal::RefusalReason;
use crate::registrations::ChangeTogether;
use crate::snapshot::Frame;
use std::sync::Arc;

/// Plugins that change together.
pub(super) struct Set<'a> {
    members: Vec<Reload<'a>>,
}

/// What stopped a set: which of its members, and why.
pub(super) struct Stopped {
    pub(super) at: usize,
    pub(super) stop: Stop,
}

/// A member that is about to be opened.
pub(super) struct Prepared {
    pub(super) number: u64,
    /// The state that was kept for it, if it has none to take over.
    pub(super) kept: Option<Frame>,
    pub(super) staged: Staged,
}

/// A state that is on its way from one generation to the next, and where it is from.
type Carried = (Frame, RolledBackState);

/// What publishing left to do for one member.
pub(super) struct Published {
    pub(super) number: u64,
    pub(super) old: Option<Retired<Loaded>>,
    pub(super) closed_for: Duration,
    pub(super) state: Option<Frame>,
    pub(super) fate: RolledBackState,
    pub(super) kept: Option<Kept>,
    pub(super) meter: Arc<Meter>,
    pub(super) registrations: Arc<Table>,
    /// The others of the set, and their generations.
    pub(super) with: Vec<(String, u64)>,
}

impl<'a> Set<'a> {
    /// In the order of invariant 1.
    pub(super) fn of(members: Vec<Reload<'a>>) -> Self {
        Set { members }
    }

    pub(super) fn alone(member: Reload<'a>) -> Self {
        Set { members: vec![member] }
    }

    pub(super) fn members(&self) -> &[Reload<'a>] {
        &self.members
    }

    /// The steps. Step 1, *settle, stage, vet*, was taken by whoever called this.
    pub(super) fn run(&self, incoming: Vec<Incoming>) -> Result<Vec<Outcome>, Stopped> {
        let names = || self.members.iter().map(|one| &*one.plugin.name).collect::<Vec<_>>().join(", ");
        let _span = tracing::debug_span!("reload", plugin = %names()).entered();
        self.each(Reload::fits)?;
        if let [one] = &self.members[..]
            && let Some(outcome) = one.stands_beside().map_err(|stop| Stopped { at: 0, stop })?
        {
            return Ok(vec![outcome]);
        }
        self.each(Reload::find_whom_it_calls)?;
        let prepared = self.with(incoming, Reload::prepare)?;
        let _together = self.change_together();
        self.with(&prepared, |one, it| one.probe(&it.staged, it.kept.as_ref()))?; //   2
        if self.members.iter().any(|one| one.wish.dry_run) {
            return Ok(self.members.iter().map(Reload::would_be_accepted).collect());
        }
        self.with(&prepared, |one, it| one.ask_observers(it.number))?; //              3
        let mut trials = self.with(prepared, Reload::open)?; //  4: from here on, dropping the trials undoes it
        let published = if self.members.iter().any(Reload::hands_over) {
            self.hand_over(&mut trials)? //                                            5 to 9
        } else {
            self.with(&mut trials, Reload::begin)?; //                                 5 and 8
            if let ([one], [trial]) = (&self.members[..], &mut trials[..])
                && let Some(outcome) = one.put_beside(trial).map_err(|stop| Stopped { at: 0, stop })?
            {
                return Ok(vec![outcome]); //  9, for a part of the scopes
            }
            self.replace(&mut trials)? //                                              9: the point of no return
        };
        Ok(self.finish(published)) //                                                  10 to 12
    }

    /// Steps 5 to 9 where a state is handed over: those that take over none begin beside the calls; then all gates are closed,
    /// the calls in flight finish, and the states are carried across.
    fn hand_over(&self, trials: &mut [Trial]) -> Result<Vec<Published>, Stopped> {
        let begin =
            |one: &Reload<'_>, trial: &mut Trial| if one.hands_over() { Ok(()) } else { one.begin(trial) };
        self.with(&mut *trials, begin)?; //                                            5
        self.each(|one| one.at(Step::Drain))?;
        // Dropping the pause, on any error below, re-opens the gates with the old generations.
        let (pause, closed) = self.close()?; //                                        6
        let carried = self.carry_over(&pause, trials).inspect_err(|_| let_stay(&pause));
        let (states, loaded) = carried?;
        let published = self.to_publish(loaded, states);
        Ok(open(pause, published, closed)) //                                          9: one pointer each, and the gates open
    }

    /// Steps 7 and 8, behind the closed gates.
    #[allow(clippy::type_complexity)] // what each has been handed, and what is to serve
    fn carry_over(
        &self,
        pause: &PausedSet<'_, Loaded>,
        trials: &mut [Trial],
    ) -> Result<(Vec<Option<Carried>>, Vec<(Loaded, Option<Kept>)>), Stopped> {
        let takes_over = |one: &Reload<'_>| one.hands_over();
        let states = self.with(pause.values(), |one, old| match old.filter(|_| takes_over(one)) {
            Some(old) => {
                one.at(Step::Save)?;
                one.state(old).map(Some) //                                            7
            }
            None => Ok(None),
        })?;
        self.with(trials.iter_mut().zip(&states), |one, (trial, state)| match state {
            Some((state, _)) => one.restore(trial, state.clone()), //                  8
            None => Ok(()),
        })?;
        self.with(&mut *trials, |one, trial| if takes_over(one) { one.check(trial) } else { Ok(()) })?; // 8: the last veto
        self.each(|one| one.at(Step::Publish))?;
        Ok((states, self.bind(trials)?))
    }

    /// Step 9 where no state is handed over: one pointer, and nobody waits. Of several, the gates are closed for that
    /// moment; nobody is waited for.
    fn replace(&self, trials: &mut [Trial]) -> Result<Vec<Published>, Stopped> {
        self.each(|one| one.at(Step::Publish))?;
        self.wait_for_scopes()?;
        let states = trials.iter().map(|trial| Some((trial.begins_with.clone()?, RolledBackState::None)));
        let states: Vec<_> = states.collect();
        let loaded = self.bind(trials)?;
        let busy = || RefusalReason::Gate("its gate is closed by another handover".into());
        if let [member] = &self.members[..] {
            let mut published = self.to_publish(loaded, states);
            let (mut one, loaded) = published.pop().expect("one member has one generation");
            one.old = member.plugin.slot.swap(loaded).map_err(|error| {
                trials[0].take_back(error.value);
                Stopped { at: 0, stop: stop(Step::Publish, busy()) }
            })?;
            return Ok(vec![one]);
        }
        match PausedSet::close(self.slots()) {
            Ok(pause) => {
                let closed = Instant::now();
                Ok(open(pause, self.to_publish(loaded, states), closed))
            }
            Err(_) => {
                trials.iter_mut().zip(loaded).for_each(|(trial, (loaded, _))| trial.take_back(loaded));
                Err(Stopped { at: 0, stop: stop(Step::Publish, busy()) })
            }
        }
    }

    /// What can still fail, for all; then nothing can for any.
    fn bind(&self, trials: &mut [Trial]) -> Result<Vec<(Loaded, Option<Kept>)>, Stopped> {
        let tables = self.with(trials.iter(), Reload::resolve)?;
        self.with(trials.iter(), |one, trial| one.register(&trial.registrations()))?;
        if self.members.len() > 1 {
            self.with(trials.iter(), |_, trial| trial.check_regions())?;
        }
        let mut bound = Vec::new();
        for (at, (trial, (tables, on_probation))) in trials.iter_mut().zip(tables).enumerate() {
            // Last: from here on it is published.
            if let Err(stop) = trial.publish_regions() {
                trials.iter_mut().zip(bound).for_each(|(trial, (loaded, _))| trial.take_back(loaded));
                return Err(Stopped { at, stop });
            }
            bound.push((trial.take_loaded(tables, on_probation), trial.kept.take()));
        }
        Ok(bound)
    }

    fn to_publish(
        &self,
        loaded: Vec<(Loaded, Option<Kept>)>,
        states: Vec<Option<Carried>>,
    ) -> Vec<(Published, Loaded)> {
        let parts = loaded.into_iter().zip(states);
        let publish = |((loaded, kept), carried): ((Loaded, Option<Kept>), Option<Carried>)| {
            let (state, fate) =
                carried.map_or((None, RolledBackState::None), |(state, fate)| (Some(state), fate));
            let (number, meter) = (loaded.number, loaded.meter.clone());
            let registrations = loaded.instance.image().registrations().clone();
            let published = Published {
                number,
                old: None,
                closed_for: Duration::ZERO,
                state,
                fate,
                kept,
                meter,
                registrations,
                with: Vec::new(),
            };
            (published, loaded)
        };
        parts.map(publish).collect()
    }

    /// Steps 10 to 12. Nothing can fail any more.
    fn finish(&self, mut published: Vec<Published>) -> Vec<Outcome> {
        let members = self.members.iter().zip(&mut published);
        let old: Vec<_> = members.map(|(one, it)| one.keep_beside(it.number, it.old.take())).collect();
        let all = self.members.iter().zip(&published).map(|(one, it)| (one.plugin.name.clone(), it.number));
        let all: Vec<_> = all.collect();
        for (at, published) in published.iter_mut().enumerate() {
            let others = all.iter().enumerate().filter(|(other, _)| *other != at);
            published.with = others.map(|(_, other)| other.clone()).collect();
        }
        for (one, published) in self.members.iter().zip(&mut published) {
            let number = published.number;
            one.whatever_happens(number, || one.record(number, published)); //         10 and 11
        }
        // Whoever is told of it below may ask for handles.
        self.members.iter().for_each(|one| one.turn.settle());
        // Those who call others end before them.
        for (one, old) in self.members.iter().zip(old).rev() {
            let Some(old) = old else { continue };
            let why = if one.wish.back.is_some() { Stopping::RolledBack } else { Stopping::Replaced };
            one.core.reaper.retire(one.plugin.clone(), old, why, one.wish.leak_old); // 12
        }
        for (one, published) in self.members.iter().zip(&published) {
            one.whatever_happens(published.number, || one.tell_observers(published.number));
        }
        if let (Some(last), Some(published)) = (self.members.last(), published.last()) {
            last.whatever_happens(published.number, || last.have_it_prepared());
        }
        self.members.iter().zip(&published).map(|(one, published)| one.outcome(published.number)).collect()
    }

    pub(super) fn slots(&self) -> Vec<&'a crate::gate::Slot<Loaded>> {
        self.members.iter().map(|one| &one.plugin.slot).collect()
    }

    /// What one of them has registered another may have from now on, if there are several.
    fn change_together(&self) -> Option<ChangeTogether> {
        let names = || self.members.iter().map(|one| one.plugin.name.clone()).collect();
        let core = &self.members.first().filter(|_| self.members.len() > 1)?.core;
        Some(core.registrations.change_together(names()))
    }

    /// Somebody wants no more of it.
    pub(super) fn is_cancelled(&self) -> bool {
        self.members.iter().any(|one| one.is_cancelled())
    }

    /// A step of all, one after another.
    pub(super) fn each<R>(&self, step: impl Fn(&Reload<'a>) -> Result<R, Stop>) -> Result<Vec<R>, Stopped> {
        self.with(&self.members, |one, _| step(one))
    }

    /// The same, with what each has for it.
    fn with<T, R>(
        &self,
        parts: impl IntoIterator<Item = T>,
        step: impl Fn(&Reload<'a>, T) -> Result<R, Stop>,
    ) -> Result<Vec<R>, Stopped> {
        let members = self.members.iter().zip(parts).enumerate();
        members.map(|(at, (one, part))| step(one, part).map_err(|stop| Stopped { at, stop })).collect()
    }
}

/// Step 9: the point of no return.
fn open(
    pause: PausedSet<'_, Loaded>,
    published: Vec<(Published, Loaded)>,
    closed: Instant,
) -> Vec<Published> {
    let (mut published, loaded): (Vec<_>, Vec<_>) = published.into_iter().unzip();
    let old = pause.resume_with(loaded);
    let closed_for = closed.elapsed();
    for (one, old) in published.iter_mut().zip(old) {
        (one.old, one.closed_for) = (old, closed_for);
    }
    published
}

/// The old generations serve on, and nobody in them need leave any more.
pub(super) fn let_stay(pause: &PausedSet<'_, Loaded>) {
    pause.values().flatten().for_each(Loaded::let_stay);
}
