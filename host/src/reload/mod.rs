//! How a file becomes the serving generation: the steps, in their order, are those of [`Reload::run`].
//!
//! Everything that can fail comes before *publish*; until then a refusal leaves the serving generation and its state
//! as they were. What has been done is undone in reverse order by dropping it: the pause re-opens the gate with the old
//! generation, the [`Trial`] stops, destroys and closes the new one. Whatever waits has a limit, and can be cancelled.

mod admit;
mod back;
mod before;
mod beside;
mod drain;
mod fits;
mod kept;
mod record;
mod trial;
mod wait;

use std::cell::{Cell, OnceCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plugin_api::{CallError, Stopping};

use crate::beside::Canary;
use crate::deputy::{Deputy, Stuck};
use crate::events::{Event, RolledBackState, Step};
use crate::ffi::{Hooks, Surroundings, Tables, open_trusted};
use crate::file::{self, Incoming, Kept, Staged};
use crate::gate::{Paused, Retired};
use crate::meter::Meter;
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::peer::Calls;
use crate::plugin::{Build, Loaded, Plugin, Serving, Transaction};
use crate::refusal::RefusalReason;
use crate::registry::Core;
use crate::snapshot::{self, Frame};
use crate::store::Tried;

use admit::Progress;
pub(crate) use admit::{Settled, admit, text_of};
use back::Back;
pub(crate) use back::roll_back;
pub(crate) use beside::{Pending, no_candidate, promote};
use fits::version_in_common;
pub(crate) use fits::{continues, expect, fits};
pub(crate) use kept::{begin_serving_again, go_on};
use trial::Trial;

/// Why a transaction stopped.
struct Stop {
    step: Step,
    reason: RefusalReason,
}

fn stop(step: Step, reason: impl Into<RefusalReason>) -> Stop {
    Stop { step, reason: reason.into() }
}

/// How a reload that somebody asked for differs from one that a file event brought about.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    /// Even if the file is what serves already.
    pub(crate) force: bool,
    /// Nobody has asked for it: a file has changed.
    pub(crate) noticed: bool,
    /// The host is only just starting.
    pub(crate) at_start: bool,
    /// Until a transaction that is under way has ended.
    pub(crate) may_wait: bool,
    /// The old generation is never closed.
    pub(crate) leak_old: bool,
    /// Everything but opening it here.
    pub(crate) dry_run: bool,
    /// For this plugin, which goes on being followed where it was.
    pub(crate) only: Option<String>,
    /// Back to a build that has served before.
    pub(crate) back: Option<Back>,
    /// It has proved itself under the host before this one.
    pub(crate) proven: bool,
    /// With this state, instead of that of what serves.
    pub(crate) state: Option<Frame>,
    /// Beside what serves, for a part of the scopes, until it has proved itself.
    pub(crate) canary: Option<Canary>,
    /// What served stays beside it, as long as it is among so many.
    pub(crate) keep: usize,
}

/// One transaction.
struct Reload<'a> {
    core: &'a Arc<Core>,
    plugin: &'a Arc<Plugin>,
    turn: &'a Transaction,
    origin: &'a TrustedFile,
    serving: Option<Serving>,
    build: Arc<Build>,
    noticed: Instant,
    wish: Wish,
    progress: &'a Progress,
    /// How it was tried, if it was and has passed.
    passed: Cell<Option<Tried>>,
    /// The other plugins that it calls.
    calls: OnceCell<Arc<Calls>>,
}

impl<'a> Reload<'a> {
    fn new(
        core: &'a Arc<Core>,
        plugin: &'a Arc<Plugin>,
        turn: &'a Transaction,
        settled: &'a Settled,
        build: Build,
        wish: Wish,
        progress: &'a Progress,
    ) -> Self {
        let (serving, build) = (plugin.record().serving.clone(), Arc::new(build));
        let Settled { origin, noticed, .. } = settled;
        let passed = Cell::new(None);
        let calls = OnceCell::new();
        Reload {
            core,
            plugin,
            turn,
            origin,
            serving,
            build,
            noticed: *noticed,
            wish,
            progress,
            passed,
            calls,
        }
    }
}

/// A generation that has taken the state over, and where that is from.
struct Carried {
    state: Frame,
    fate: RolledBackState,
    loaded: Loaded,
    kept: Option<Kept>,
}

/// What publishing left to do.
struct Published {
    old: Option<Retired<Loaded>>,
    closed_for: Duration,
    state: Option<Frame>,
    fate: RolledBackState,
    kept: Option<Kept>,
    meter: Arc<Meter>,
}

impl Reload<'_> {
    /// The steps. Step 1, *settle, stage, vet*, was taken by whoever called this.
    fn run(&self, incoming: Incoming) -> Result<Outcome, Stop> {
        let _span = tracing::debug_span!("reload", plugin = %self.plugin.name).entered();
        self.fits()?;
        if let Some(outcome) = self.stands_beside()? {
            return Ok(outcome);
        }
        self.find_whom_it_calls()?;
        let kept = self.kept_state()?;
        // Taken when it is opened: nobody else takes one during this turn.
        let number = self.plugin.record().next;
        let staged = incoming.name(&self.plugin.name, number).map_err(|e| stop(Step::Stage, e))?;
        self.probe(&staged, kept.as_ref())?; //               2
        if self.wish.dry_run {
            return Ok(self.would_be_accepted());
        }
        self.ask_observers(number)?; //                       3
        let mut trial = self.open(number, staged)?; //        4: from here on, dropping the trial undoes it
        let mut published = if self.hands_over() {
            self.hand_over(&mut trial)? //                    6 to 9
        } else {
            match &kept {
                None => self.create(&mut trial)?, //          5
                Some(state) => self.restore(&mut trial, state.clone())?,
            }
            self.check(&mut trial)?; //                       8: the last veto
            if let Some(outcome) = self.put_beside(&mut trial)? {
                return Ok(outcome); //                        9, for a part of the scopes
            }
            self.publish(&mut trial, kept)? //                9: the point of no return
        };
        let old = self.keep_beside(number, published.old.take());
        self.whatever_happens(number, || self.record(number, &mut published)); // 10 and 11
        if let Some(old) = old {
            let why = if self.wish.back.is_some() { Stopping::RolledBack } else { Stopping::Replaced };
            self.core.reaper.retire(self.plugin.clone(), old, why, self.wish.leak_old); // 12
        }
        self.whatever_happens(number, || self.tell_observers(number));
        Ok(self.outcome(number))
    }

    /// The new generation serves, so a panic (which is a mistake in the host) is told of, and that is all.
    fn whatever_happens(&self, number: u64, then: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(then)) {
            let plugin = &self.plugin.name;
            let what = format!(
                "generation {number} of {plugin} serves, but afterwards there was a mistake in the host: {}; please report this",
                text_of(&*payload)
            );
            self.core.journal.record(Event::Trouble { what });
        }
    }

    /// Steps 6 to 9 for a stateful plugin: closes the gate, lets the calls in flight finish, carries the state across.
    fn hand_over(&self, trial: &mut Trial) -> Result<Published, Stop> {
        self.at(Step::Drain)?;
        // Dropping the pause, on any error below, re-opens the gate with the old generation.
        let (mut pause, closed) = self.close()?; //           6
        let carried = self.carry_over(&mut pause, trial).inspect_err(|_| {
            // The old generation serves on, and nobody in it need leave any more.
            pause.value().let_stay();
        });
        let Carried { state, fate, loaded, kept } = carried?;
        let meter = loaded.meter.clone();
        let old = pause.resume_with(loaded); //               9: one pointer, and the gate opens
        let closed_for = closed.elapsed();
        Ok(Published { old: Some(old), closed_for, state: Some(state), fate, kept, meter })
    }

    /// Steps 7 and 8, behind the closed gate.
    fn carry_over(&self, pause: &mut Paused<'_, Loaded>, trial: &mut Trial) -> Result<Carried, Stop> {
        self.at(Step::Save)?;
        let (state, fate) = self.state(pause.value())?; //    7
        self.restore(trial, state.clone())?; //               8
        self.check(trial)?; //                                8: the last veto
        self.at(Step::Publish)?;
        let (kept, loaded) = (trial.kept.take(), self.bind(trial)?);
        Ok(Carried { state, fate, loaded, kept })
    }

    /// Comes to a step, unless somebody has cancelled.
    fn at(&self, step: Step) -> Result<(), Stop> {
        if self.turn.is_cancelled() {
            return Err(stop(step, RefusalReason::Cancelled));
        }
        self.turn.at(step);
        self.progress.come_to(step);
        self.core.pass(step).map_err(|reason| stop(step, reason))
    }

    fn hands_over(&self) -> bool {
        let stateful = |build: &Build| build.manifest.state.is_some();
        let wanted = self.wish.back.is_none() || stateful(&self.build);
        wanted && self.serving.as_ref().is_some_and(|serving| stateful(&serving.build))
    }

    /// Step 4: opens the private copy.
    fn open(&self, number: u64, staged: Staged) -> Result<Trial, Stop> {
        self.at(Step::Open)?;
        self.plugin.record().next = number + 1;
        let failed = |reason: String| stop(Step::Open, RefusalReason::Open(reason));
        let deputy = Deputy::start(&self.plugin.name).map_err(|e| failed(e.to_string()))?;
        let kept = staged.keep_for_later().map_err(|e| self.cannot_keep(&e)).ok();
        let open = {
            let (origin, name) = (self.origin.clone(), self.plugin.name.clone());
            let manifest_hash = self.build.facts.manifest_hash;
            let around = Surroundings {
                counters: self.plugin.counters.clone(),
                regions: self.plugin.regions.clone(),
                peers: self.calls.get().expect("found before").clone(),
            };
            move || {
                let image = open_trusted(&origin, staged.path(), &name, number, manifest_hash, around);
                image.map(|image| (Hooks::new(image), staged))
            }
        };
        let limit = self.core.options().hook_deadline;
        match deputy.begin("its constructors", || {}, open).wait(limit, || false) {
            Ok(Ok(parts)) => {
                let mut trial = Trial::new(self.core, self.plugin, number, &self.build, deputy, parts);
                trial.kept = kept;
                Ok(trial)
            }
            Ok(Err(error)) => {
                deputy.end();
                Err(failed(error.to_string()))
            }
            Err((stuck, pending)) => {
                let version = self.build.manifest.version.clone();
                match pending {
                    Some(pending) => {
                        self.core.reaper.await_open(self.plugin.clone(), number, version, pending, deputy);
                    }
                    None => deputy.end_afterwards(),
                }
                Err(stop(
                    Step::Open,
                    match stuck {
                        Stuck::Running => RefusalReason::ConstructorStuck { limit },
                        stuck => hook_stuck("opening it", limit, stuck),
                    },
                ))
            }
        }
    }

    /// Step 5, for a stateless plugin or the first generation of any: nobody has to wait.
    fn create(&self, trial: &mut Trial) -> Result<(), Stop> {
        self.at(Step::Create)?;
        let config = self.core.config(&self.plugin.name);
        let hooks = trial.hooks();
        let instance = self.hook(trial.deputy(), Step::Create, "create", move || hooks.create(&config))?;
        trial.instance = Some(instance);
        Ok(())
    }

    /// Costs the way back, and nothing else.
    fn cannot_keep(&self, error: &file::StageError) {
        let what = format!("there will be no way back to this build of {}: {error}", self.plugin.name);
        self.core.journal.record(Event::Trouble { what });
    }

    /// Step 7. May be repeated, and changes nothing.
    fn save(&self, old: &Loaded, version: u32) -> Result<Vec<u8>, Stop> {
        let limit = self.core.options().hook_deadline;
        let saved = snapshot::save(&old.deputy, &old.instance, version, limit, || self.turn.is_cancelled());
        saved.map_err(|reason| {
            stop(Step::Save, if self.turn.is_cancelled() { RefusalReason::Cancelled } else { reason })
        })
    }

    /// Step 8, its first half.
    fn restore(&self, trial: &mut Trial, state: Frame) -> Result<(), Stop> {
        self.at(Step::Restore)?;
        let config = self.core.config(&self.plugin.name);
        let hooks = trial.hooks();
        let restore = move || hooks.restore(&config, state);
        let instance = self.hook(trial.deputy(), Step::Restore, "restore", restore)?;
        trial.instance = Some(instance);
        Ok(())
    }

    /// Step 8, its second half: the last veto.
    fn check(&self, trial: &mut Trial) -> Result<(), Stop> {
        self.at(Step::Check)?;
        let instance = trial.instance.clone().expect("created or restored just before");
        let checked = instance.clone();
        self.hook(trial.deputy(), Step::Check, "started", move || instance.started())?;
        self.hook(trial.deputy(), Step::Check, "self_check", move || checked.self_check())
    }

    fn hook<R: Send + 'static>(
        &self,
        deputy: &Deputy,
        step: Step,
        hook: &'static str,
        call: impl FnOnce() -> Result<R, CallError> + Send + 'static,
    ) -> Result<R, Stop> {
        let limit = self.core.options().hook_deadline;
        let done = deputy.begin(hook, || {}, call).wait(limit, || self.turn.is_cancelled());
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(stop(step, RefusalReason::Hook { hook, error })),
            Err(_) if self.turn.is_cancelled() => Err(stop(step, RefusalReason::Cancelled)),
            Err((stuck, _)) => Err(stop(step, hook_stuck(hook, limit, stuck))),
        }
    }

    /// Resolves the methods of every interface that there are handles of. New handles wait for the turn, so
    /// none can be missed.
    fn bind(&self, trial: &mut Trial) -> Result<Loaded, Stop> {
        let (tables, on_probation) = self.resolve(trial)?;
        // Last: from here on it is published.
        let regions = trial.hooks().image().publish_regions();
        regions.map_err(|error| stop(Step::Check, RefusalReason::Region(error.to_string())))?;
        Ok(trial.take_loaded(tables, on_probation))
    }

    /// Its methods, and whether it is to be judged.
    fn resolve(&self, trial: &Trial) -> Result<(Tables, bool), Stop> {
        let options = self.core.options();
        let on_probation = options.probation_of(&self.plugin.name).is_some() && self.wish.back.is_none();
        let tables = Tables::new(on_probation || options.measure_calls);
        let interfaces = self.plugin.record().interfaces.clone();
        for (number, used) in interfaces.iter().enumerate().filter(|(_, used)| used.is_in_use()) {
            tables
                .bind(number, &used.interface, trial.hooks().image())
                .map_err(|reason| stop(Step::Open, RefusalReason::Open(reason)))?;
        }
        Ok((tables, on_probation))
    }

    /// Step 9, where no state was to be handed over.
    fn publish(&self, trial: &mut Trial, state: Option<Frame>) -> Result<Published, Stop> {
        self.at(Step::Publish)?;
        self.wait_for_scopes()?;
        let (kept, loaded) = (trial.kept.take(), self.bind(trial)?);
        let meter = loaded.meter.clone();
        let old = self.plugin.slot.swap(loaded).map_err(|error| {
            trial.take_back(error.value);
            stop(Step::Publish, RefusalReason::Gate("its gate is closed by another handover".into()))
        })?;
        let (closed_for, fate) = (Duration::ZERO, RolledBackState::None);
        Ok(Published { old, closed_for, state, fate, kept, meter })
    }

    fn outcome(&self, number: u64) -> Outcome {
        let plugin = self.plugin.name.clone();
        match &self.serving {
            Some(serving) => Outcome::Reloaded { plugin, from: serving.number, generation: number },
            None => Outcome::Loaded { plugin, generation: number },
        }
    }
}

pub(crate) fn hook_stuck(hook: &'static str, limit: Duration, stuck: Stuck) -> RefusalReason {
    match stuck {
        Stuck::Running => RefusalReason::HookStuck { hook, limit },
        Stuck::Behind { job, since } => RefusalReason::ThreadBusy { hook, limit, job, since },
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
