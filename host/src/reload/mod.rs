//! How files become the serving generations: the steps, in their order, are those of [`Set::run`].
//!
//! Everything that can fail comes before *publish*; until then a refusal leaves the serving generations and their states
//! as they were. What has been done is undone by dropping it: the pause re-opens the gates with the old
//! generations, the [`Trial`] stops, destroys and closes the new one. Whatever waits has a limit, and can be cancelled.

mod admit;
mod back;
mod before;
mod beside;
mod drain;
mod fits;
mod gather;
mod kept;
mod record;
mod set;
mod take_over;
mod together;
mod trial;
mod wait;

use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plugin_api::CallError;

use crate::beside::Canary;
use crate::deputy::{Deputy, Stuck};
use crate::events::{Event, Step};
use crate::ffi::{Hooks, Surroundings, Table, Tables, open_trusted};
use crate::file::{self, Incoming};
use crate::opening::OnItsWay;
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::peer::Calls;
use crate::plugin::{Build, Loaded, Plugin, Serving, Transaction};
use crate::refusal::RefusalReason;
use crate::registry::Core;
use crate::snapshot::{self, Frame};
use crate::store::Tried;

use admit::Progress;
pub(crate) use admit::{Settled, admit, admit_all, admit_together, text_of};
use back::Back;
pub(crate) use back::roll_back;
pub(crate) use beside::{Pending, no_candidate, promote};
use fits::version_in_common;
pub(crate) use fits::{continues, expect, fits};
pub(crate) use gather::Gathering;
pub(crate) use kept::{begin_serving_again, go_on};
use set::{Prepared, Published, Set};
use together::Member;
pub(crate) use together::Together;
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
    /// One that does not fit the others need not keep them.
    pub(crate) may_stay_behind: bool,
    /// With this state, instead of that of what serves.
    pub(crate) state: Option<Frame>,
    /// Beside what serves, for a part of the scopes, until it has proved itself.
    pub(crate) canary: Option<Canary>,
    /// What served stays beside it, as long as it is among so many.
    pub(crate) keep: usize,
}

/// One plugin's part in a transaction.
struct Reload<'a> {
    core: &'a Arc<Core>,
    plugin: &'a Arc<Plugin>,
    turn: &'a Transaction,
    /// All that change together with it, and itself.
    together: &'a Together,
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
    /// Since those are known.
    on_its_way: OnceCell<OnItsWay>,
    /// The numbers of the interfaces that have been resolved for it just now.
    resolved: OnceCell<BTreeSet<usize>>,
}

impl<'a> Reload<'a> {
    /// The part of the member at this place.
    fn of(
        core: &'a Arc<Core>,
        together: &'a Together,
        at: usize,
        settled: &'a Settled,
        wish: Wish,
        progress: &'a Progress,
    ) -> Self {
        let Member { turn, plugin, build, serving } = &together.members[at];
        Reload {
            core,
            plugin,
            turn,
            together,
            origin: &settled.origin,
            serving: serving.clone(),
            build: build.clone(),
            noticed: settled.noticed,
            wish,
            progress,
            passed: Cell::new(None),
            resolved: OnceCell::new(),
            calls: OnceCell::new(),
            on_its_way: OnceCell::new(),
        }
    }

    /// Takes the only member of a transaction through all steps.
    fn run(self, incoming: Incoming) -> Result<Outcome, Stop> {
        let outcomes = Set::alone(self).run(vec![incoming]).map_err(|stopped| stopped.stop)?;
        Ok(outcomes.into_iter().next().expect("one outcome for each member"))
    }
}

impl Reload<'_> {
    /// What it is opened with.
    fn prepare(&self, incoming: Incoming) -> Result<Prepared, Stop> {
        let kept = self.kept_state()?;
        // Taken when it is opened: nobody else takes one during this turn.
        let number = self.plugin.record().next;
        let staged = incoming.name(&self.plugin.name, number).map_err(|e| stop(Step::Stage, e))?;
        Ok(Prepared { number, kept, staged })
    }

    /// Steps 5 and 8 for a generation that takes no state over from another: nobody has to wait.
    fn begin(&self, trial: &mut Trial) -> Result<(), Stop> {
        match &trial.begins_with {
            None => self.create(trial)?,
            Some(state) => self.restore(trial, state.clone())?,
        }
        self.check(trial)
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

    /// Whether somebody wants no more of it, or of what changes with it.
    fn is_cancelled(&self) -> bool {
        self.together.is_cancelled()
    }

    /// Comes to a step, unless somebody has cancelled.
    fn at(&self, step: Step) -> Result<(), Stop> {
        if self.is_cancelled() {
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
    fn open(&self, prepared: Prepared) -> Result<Trial, Stop> {
        let Prepared { number, kept: begins_with, staged } = prepared;
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
                registrations: self.core.registrations.begin(&self.plugin.name, number),
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
                (trial.kept, trial.begins_with) = (kept, begins_with);
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
        let saved = snapshot::save(&old.deputy, &old.instance, version, limit, || self.is_cancelled());
        saved.map_err(|reason| {
            stop(Step::Save, if self.is_cancelled() { RefusalReason::Cancelled } else { reason })
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
        let done = deputy.begin(hook, || {}, call).wait(limit, || self.is_cancelled());
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(stop(step, RefusalReason::Hook { hook, error })),
            Err(_) if self.is_cancelled() => Err(stop(step, RefusalReason::Cancelled)),
            Err((stuck, _)) => Err(stop(step, hook_stuck(hook, limit, stuck))),
        }
    }

    /// Resolves the methods of every interface that somebody uses who stays, and says whether it is to be judged. New
    /// handles wait for the turn, so none can be missed.
    fn resolve(&self, trial: &Trial) -> Result<(Tables, bool), Stop> {
        let options = self.core.options();
        let on_probation = options.probation_of(&self.plugin.name).is_some() && self.wish.back.is_none();
        let tables = Tables::new(on_probation || options.measure_calls);
        let used = self.together.used_of(self.plugin);
        let _ = self.resolved.set(used.iter().map(|(number, _)| *number).collect());
        for (number, interface) in used {
            tables
                .bind(number, &interface, trial.hooks().image())
                .map_err(|reason| stop(Step::Open, RefusalReason::Open(reason)))?;
        }
        Ok((tables, on_probation))
    }

    /// What it has registered is about to count.
    fn register(&self, table: &Arc<Table>) -> Result<(), Stop> {
        let admitted = self.core.registrations.admit(table);
        admitted.map_err(|reason| stop(Step::Check, RefusalReason::Registration(reason)))
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
