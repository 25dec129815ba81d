//! Builds that come beside what serves, old ones that stay there, and how a candidate is published for everybody.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plugin_api::Stopping;

use super::admit::Progress;
use super::trial::Trial;
use super::{Published, Reload, Stop, Together, Wish, fits, millis, stop};
use crate::beside::{self, Canary, Fate, MAX_KEPT, OnTrial};
use crate::error::ReloadError;
use crate::events::{Event, RolledBackState, Step};
use crate::ffi::Table;
use crate::file::Kept;
use crate::gate::Retired;
use crate::lock::lock;
use crate::meter::{Meter, Reading};
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::peer::Calls;
use crate::plugin::{Build, Loaded, Plugin};
use crate::refusal::RefusalReason;
use crate::registry::Core;

/// What it takes to publish a candidate.
pub(crate) struct Pending {
    pub(crate) build: Arc<Build>,
    calls: Arc<Calls>,
    origin: TrustedFile,
    wish: Wish,
    meter: Arc<Meter>,
    registrations: Arc<Table>,
    /// A copy of the build, to be gone back to; taken when it is published.
    copy: Mutex<Option<Kept>>,
}

impl Reload<'_> {
    /// Whether this build is to get a part of the scopes first.
    fn canary(&self) -> Option<Canary> {
        let serving = self.serving.as_ref()?;
        let by_itself = || {
            // For what has a state, what comes after the publish is its trial.
            let fits = self.wish.noticed && self.is_stateless(&serving.build);
            self.core.options().canary_of(&self.plugin.name).filter(|_| fits)
        };
        self.wish.canary.or_else(by_itself).filter(|_| self.wish.back.is_none())
    }

    /// What is known before anything is done: that it would be two states, or that it is on trial already.
    pub(super) fn stands_beside(&self) -> Result<Option<Outcome>, Stop> {
        let refuse = |reason| stop(Step::Vet, reason);
        let Some(serving) = &self.serving else { return Ok(None) };
        if self.wish.keep > MAX_KEPT {
            return Err(refuse(RefusalReason::KeepsTooMany { asked: self.wish.keep, limit: MAX_KEPT }));
        }
        let is_asked_for = self.wish.canary.is_some() || self.wish.keep > 0;
        if is_asked_for && !self.is_stateless(&serving.build) {
            return Err(refuse(self.two_states()));
        }
        let trial =
            self.plugin.beside.candidate().filter(|trial| trial.pending.build.hash == self.build.hash);
        Ok(trial.filter(|_| self.wish.noticed).map(|trial| self.on_trial(&trial)))
    }

    /// Whether neither build has a state. Regions are one, too.
    fn is_stateless(&self, serving: &Build) -> bool {
        [serving, &self.build].iter().all(|build| build.manifest.state.is_none())
            && self.plugin.regions.are_none()
    }

    fn two_states(&self) -> RefusalReason {
        RefusalReason::TwoStates { plugin: self.plugin.name.clone() }
    }

    fn on_trial(&self, trial: &OnTrial) -> Outcome {
        let (plugin, serving) = (self.plugin.name.clone(), self.plugin.serving_number());
        Outcome::Candidate { plugin, generation: trial.number, serving, percent: trial.percent }
    }

    /// Step 9, for a part of the scopes. `None`: it is to be published for all.
    pub(super) fn put_beside(&self, trial: &mut Trial) -> Result<Option<Outcome>, Stop> {
        let Some(Canary { percent }) = self.canary() else { return Ok(None) };
        if trial.hooks().image().has_regions() {
            // Only its code says that it has any.
            return match self.wish.canary {
                Some(_) => Err(stop(Step::Check, self.two_states())),
                None => Ok(None),
            };
        }
        self.at(Step::Publish)?;
        let (tables, is_judged) = self.resolve(trial)?;
        let (copy, loaded) = (Mutex::new(trial.kept.take()), trial.take_loaded(tables, is_judged));
        let number = loaded.number;
        let pending = Pending {
            build: self.build.clone(),
            calls: self.calls.get().expect("found before").clone(),
            origin: self.origin.clone(),
            wish: self.wish.clone(),
            meter: loaded.meter.clone(),
            registrations: loaded.instance.image().registrations().clone(),
            copy,
        };
        let newer = Fate::Superseded(format!("generation {number} has come in its place"));
        beside::dismiss(self.core, self.plugin, newer);
        {
            let mut record = self.plugin.record();
            (record.last_refusal, record.awaiting) = (None, None);
        }
        let calls = pending.calls.clone();
        let on_trial = OnTrial::new(number, percent, pending);
        let took_ms = millis(self.noticed.elapsed());
        let event = beside::event(self.plugin, &on_trial, took_ms, self.progress.times());
        let outcome = self.on_trial(&on_trial);
        beside::begin(self.core, self.plugin, loaded, calls, on_trial, event);
        self.core.note_waits_no_more(&self.plugin.name);
        Ok(Some(outcome))
    }

    /// What becomes of those beside when generation `number` has taken over, and of the one before, if it is to stay. What
    /// is to go is given back.
    pub(super) fn keep_beside(&self, number: u64, old: Option<Retired<Loaded>>) -> Option<Retired<Loaded>> {
        // The way back leads from what serves; what is on trial may be what helps.
        if self.wish.back.is_none() {
            let reason = format!("generation {number} has taken over");
            beside::dismiss(self.core, self.plugin, Fate::Superseded(reason));
        }
        match (old, &self.serving) {
            (Some(old), Some(serving)) if self.wish.keep > 0 => {
                beside::keep(self.core, self.plugin, old, serving.calls.clone(), self.wish.keep);
                None
            }
            (old, _) => old,
        }
    }
}

/// Publishes the candidate for everybody: the one that has proved itself, or whichever there is.
pub(crate) fn promote(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    proved: Option<(u64, Reading)>,
) -> Result<Outcome, ReloadError> {
    if core.is_closed() {
        return Err(ReloadError::Closed);
    }
    let file = plugin.record().file.clone();
    let progress = Progress::begin(file, Some(plugin.clone()), Instant::now());
    let outcome = progress.contain(|| take_over(core, plugin, proved, &progress));
    if let Err(ReloadError::Refused(refusal)) = &outcome {
        core.report(refusal);
    }
    outcome
}

fn take_over(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    proved: Option<(u64, Reading)>,
    progress: &Progress,
) -> Result<Outcome, ReloadError> {
    let turn = plugin.begin(Step::Publish)?;
    progress.come_to(Step::Publish);
    let trial = plugin.beside.candidate();
    let trial = trial.filter(|trial| proved.is_none_or(|(number, _)| number == trial.number));
    let trial = trial.ok_or_else(|| no_candidate(plugin))?;
    let refuse = |reason| ReloadError::Refused(progress.refusal(stop(Step::Publish, reason)));
    let serving = plugin.record().serving.clone();
    let fits = fits(plugin, serving.as_ref().map(|serving| &*serving.build), &trial.pending.build, None);
    let registered = || {
        let admitted = core.registrations.admit(&trial.pending.registrations);
        admitted.map_err(RefusalReason::Registration)
    };
    let old =
        fits.and_then(|()| registered()).and_then(|()| beside::take_over(plugin)).map_err(|reason| {
            if !matches!(reason, RefusalReason::Gate(_)) {
                // Nor will it be able to later.
                beside::dismiss(core, plugin, Fate::Superseded(format!("it cannot take over: {reason}")));
            }
            refuse(reason)
        })?;
    let Pending { build, calls, origin, wish, meter, copy, registrations } = &trial.pending;
    let together = Together::alone(turn, plugin, build.clone());
    let reload = Reload {
        core,
        plugin,
        turn: &together.members[0].turn,
        together: &together,
        origin,
        serving,
        build: build.clone(),
        noticed: Instant::now(),
        wish: Wish { proven: proved.is_some(), ..wish.clone() },
        progress,
        passed: Default::default(),
        calls: calls.clone().into(),
        // Whom it calls has stayed while it was beside what serves.
        on_its_way: core.set_out(&plugin.name, calls, |_| true).map(Into::into).unwrap_or_default(),
        resolved: Default::default(),
    };
    let mut published = Published {
        old: None,
        closed_for: Duration::ZERO,
        state: None,
        fate: RolledBackState::None,
        kept: lock(copy).take(),
        meter: meter.clone(),
        number: trial.number,
        registrations: registrations.clone(),
        with: Vec::new(),
    };
    let old = reload.keep_beside(trial.number, old);
    reload.whatever_happens(trial.number, || {
        reload.note_promotion(&trial.pending, trial.number, proved.map(|(_, reading)| reading));
        reload.record(trial.number, &mut published);
    });
    reload.turn.settle();
    if let Some(old) = old {
        core.reaper.retire(plugin.clone(), old, Stopping::Replaced, false);
    }
    reload.whatever_happens(trial.number, || {
        reload.tell_observers(trial.number);
        reload.have_it_prepared();
    });
    Ok(reload.outcome(trial.number))
}

/// There is nothing to be published or discarded.
pub(crate) fn no_candidate(plugin: &Arc<Plugin>) -> ReloadError {
    let file = plugin.record().file.clone();
    let progress = Progress::begin(file, Some(plugin.clone()), Instant::now());
    let reason = RefusalReason::NoCandidate { plugin: plugin.name.clone() };
    ReloadError::Refused(progress.refusal(stop(Step::Publish, reason)))
}

impl Reload<'_> {
    /// How the candidate did, for everybody and for the next build.
    fn note_promotion(&self, from: &Pending, number: u64, proved: Option<Reading>) {
        if proved.is_some() {
            self.plugin.record().baseline = proved;
        }
        let Reading { calls, errors, panics, p99, .. } = proved.unwrap_or_else(|| from.meter.read());
        self.core.journal.record(Event::Promoted {
            plugin: self.plugin.name.clone(),
            generation: number,
            version: from.build.manifest.version.clone(),
            proved: proved.is_some(),
            calls,
            errors,
            panics,
            p99_us: p99.as_secs_f64() * 1e6,
        });
    }
}
