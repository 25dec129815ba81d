//! How a file becomes the serving generation. Everything that can fail comes before *publish*; until then a
//! refusal leaves the serving generation and its state as they were.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plugin_api::CallError;
use plugin_api::abi::BOUNDARY_VERSION;

use crate::deputy::{Deputy, Stuck};
use crate::error::{Refusal, RefusalReason, ReloadError};
use crate::events::{Event, Step};
use crate::ffi::{Hooks, Instance, Tables, open_trusted};
use crate::file::{self, Expect, Incoming, Manifest, Staged, Vetted};
use crate::gate::{Paused, Retired};
use crate::host::Outcome;
use crate::options::TrustedFile;
use crate::plugin::{Build, Loaded, Plugin, Serving, Transaction, stated};
use crate::reaper::NAME_HOLDERS_AFTER;
use crate::registry::Core;

/// A file that nobody writes to any more.
pub(crate) struct Settled {
    pub(crate) file: File,
    /// Where it is; somebody has vouched for it.
    pub(crate) origin: TrustedFile,
    /// When the change was noticed.
    pub(crate) noticed: Instant,
}

/// Why a transaction stopped.
struct Stop {
    step: Step,
    reason: RefusalReason,
}

fn stop(step: Step, reason: impl Into<RefusalReason>) -> Stop {
    Stop { step, reason: reason.into() }
}

/// How a reload that somebody asked for differs from one that a file event brought about.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wish {
    /// Even if the file is what serves already.
    pub(crate) force: bool,
    /// The old generation is never closed.
    pub(crate) leak_old: bool,
}

/// Takes a file through all steps.
pub(crate) fn admit(core: &Arc<Core>, settled: &Settled, wish: Wish) -> Result<Outcome, ReloadError> {
    let refuse = |plugin: Option<&Plugin>, stop: Stop| {
        ReloadError::Refused(Refusal {
            plugin: plugin.map(|plugin| plugin.name.clone()),
            file: settled.origin.path().to_owned(),
            step: stop.step,
            serving: plugin.and_then(|plugin| plugin.record().serving.as_ref().map(|serving| serving.number)),
            reason: stop.reason,
        })
    };
    let (incoming, build) = stage_and_vet(core, settled).map_err(|stop| refuse(None, stop))?;
    let plugin =
        core.claim(&build).map_err(|(owner, reason)| refuse(Some(&owner), stop(Step::Vet, reason)))?;
    let turn = plugin.begin(Step::Vet)?;
    let serving = plugin.record().serving.clone();
    if let Some(serving) = serving.as_ref().filter(|serving| serving.build.hash == build.hash && !wish.force)
    {
        // It may have been moved: `claim` has seen that nothing is left where it was.
        plugin.record().file.clone_from(&build.file);
        return Ok(Outcome::Unchanged { plugin: plugin.name.clone(), generation: serving.number });
    }
    core.may_open_another().map_err(|reason| refuse(Some(&plugin), stop(Step::Open, reason)))?;
    let reload = Reload {
        core,
        plugin: &plugin,
        turn: &turn,
        origin: &settled.origin,
        build: Arc::new(build),
        noticed: settled.noticed,
        leak_old: wish.leak_old,
    };
    reload.run(serving.as_ref(), incoming).map_err(|stop| refuse(Some(&plugin), stop))
}

/// Steps 1 and 2: the private copy, and what its bytes say. No code of it runs.
fn stage_and_vet(core: &Core, settled: &Settled) -> Result<(Incoming, Build), Stop> {
    let path = settled.origin.path();
    let incoming = core.staging.copy(&settled.file).map_err(|e| stop(Step::Stage, e))?;
    let Vetted { manifest, facts } =
        file::vet_bytes(incoming.contents(), &expect(path)).map_err(|e| stop(Step::Vet, e))?;
    // After the bytes: what is no plugin need not be reported for who could write to it.
    let stat =
        settled.file.metadata().map_err(|source| stop(Step::Vet, file::VetError::Unreadable { source }))?;
    file::check_owner(path, &stat).map_err(|e| stop(Step::Vet, e))?;
    if let Some(offset) = facts.nodelete {
        // Only the private copy is changed: the author's file stays as it is.
        incoming.clear_nodelete(offset).map_err(|e| stop(Step::Stage, e))?;
    }
    let build = Build { manifest, facts, hash: incoming.hash(), file: path.to_owned() };
    Ok((incoming, build))
}

/// What this host needs of a file.
pub(crate) fn expect(origin: &Path) -> Expect {
    Expect { boundary: BOUNDARY_VERSION, origin: Some(origin.to_owned()) }
}

/// Whether a build fits where `serving` serves and handles of `plugin` are in use. Compares text only.
pub(crate) fn fits(plugin: &Plugin, serving: Option<&Build>, build: &Build) -> Result<(), RefusalReason> {
    let manifest = &build.manifest;
    let interfaces = plugin.record().interfaces.clone();
    for desc in interfaces {
        let ours = stated(desc);
        let theirs = manifest.interfaces.iter().find(|theirs| theirs.name == ours.name).ok_or_else(|| {
            RefusalReason::InterfaceGone {
                plugin: manifest.plugin.clone(),
                version: manifest.version.clone(),
                interface: format!("{} {}", ours.name, ours.version),
            }
        })?;
        file::compare(&ours, theirs, &manifest.plugin, &manifest.version)?;
    }
    serving.map_or(Ok(()), |serving| continues(&serving.manifest, manifest))
}

/// Whether a build may follow another: its interfaces keep their promises, and its state can be read.
pub(crate) fn continues(old: &Manifest, new: &Manifest) -> Result<(), RefusalReason> {
    for theirs in &new.interfaces {
        let same = |ours: &&file::InterfaceManifest| {
            ours.name == theirs.name && ours.version.major == theirs.version.major
        };
        if let Some(ours) = old.interfaces.iter().find(same) {
            file::compare(ours, theirs, &new.plugin, &new.version)?;
        }
    }
    match (old.state, new.state) {
        (Some(old), Some(new)) if new.reads(old.writes) => Ok(()),
        (None, _) => Ok(()),
        (Some(old), new) => Err(RefusalReason::StateVersion {
            writes: old.writes,
            reads: new
                .map_or("none: it is stateless".into(), |new| format!("{}..={}", new.reads_from, new.writes)),
        }),
    }
}

/// One transaction.
struct Reload<'a> {
    core: &'a Arc<Core>,
    plugin: &'a Arc<Plugin>,
    turn: &'a Transaction,
    origin: &'a TrustedFile,
    build: Arc<Build>,
    noticed: Instant,
    leak_old: bool,
}

/// What publishing left to do.
struct Published {
    old: Option<Retired<Loaded>>,
    closed_for: Duration,
    state_bytes: usize,
}

impl Reload<'_> {
    fn run(&self, serving: Option<&Serving>, incoming: Incoming) -> Result<Outcome, Stop> {
        fits(self.plugin, serving.map(|serving| &*serving.build), &self.build)
            .map_err(|e| stop(Step::Vet, e))?;
        let mut trial = self.open(incoming)?;
        let stateful = serving.is_some_and(|serving| serving.build.manifest.state.is_some());
        let number = trial.number;
        let published = if stateful { self.hand_over(&mut trial) } else { self.start_empty(&mut trial) }?;
        self.finish(number, serving, published)
    }

    /// Opens the private copy. From here on there is something to undo: dropping the trial does it.
    fn open(&self, incoming: Incoming) -> Result<Trial, Stop> {
        let number = {
            let mut record = self.plugin.record();
            record.next += 1;
            record.next - 1
        };
        let staged = incoming.name(&self.plugin.name, number).map_err(|e| stop(Step::Stage, e))?;
        self.turn.at(Step::Open);
        let failed = |reason: String| stop(Step::Open, RefusalReason::Open(reason));
        let deputy = Deputy::start(&self.plugin.name).map_err(|e| failed(e.to_string()))?;
        let open = {
            let (origin, name) = (self.origin.clone(), self.plugin.name.clone());
            let (manifest_hash, counters) = (self.build.facts.manifest_hash, self.plugin.counters.clone());
            move || {
                let image = open_trusted(&origin, &staged, &name, number, manifest_hash, counters);
                image.map(|image| (Hooks::new(image), staged))
            }
        };
        let limit = self.core.options.hook_deadline;
        let parts = match deputy.begin("its constructors", || {}, open).wait(limit) {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => {
                deputy.end();
                return Err(failed(error.to_string()));
            }
            Err((stuck, pending)) => {
                if let Some(pending) = pending {
                    let version = self.build.manifest.version.clone();
                    self.core.reaper.await_open(self.plugin.clone(), number, version, pending, deputy);
                }
                return Err(stop(
                    Step::Open,
                    match stuck {
                        Stuck::Running => RefusalReason::ConstructorStuck { limit },
                        Stuck::Behind { .. } => hook_stuck("opening it", limit, stuck),
                    },
                ));
            }
        };
        Ok(Trial {
            core: self.core.clone(),
            plugin: self.plugin.clone(),
            number,
            build: self.build.clone(),
            deputy: Some(deputy),
            parts: Some(parts),
            instance: None,
        })
    }

    /// A stateless plugin, or the first generation of any: nobody has to wait.
    fn start_empty(&self, trial: &mut Trial) -> Result<Published, Stop> {
        self.turn.at(Step::Create);
        let config = self.core.config(&self.plugin.name);
        let hooks = trial.hooks();
        let instance = self.hook(trial.deputy(), Step::Create, "create", move || hooks.create(&config))?;
        trial.instance = Some(instance);
        self.check(trial)?;
        let loaded = self.bind(trial)?;
        self.turn.at(Step::Publish);
        // The point of no return.
        let old = self.plugin.slot.swap(loaded).map_err(|error| {
            trial.take_back(error.value);
            stop(Step::Publish, RefusalReason::Gate("its gate is closed by another handover".into()))
        })?;
        Ok(Published { old, closed_for: Duration::ZERO, state_bytes: 0 })
    }

    /// A stateful plugin: closes the gate, lets the calls in flight finish, and carries the state across.
    fn hand_over(&self, trial: &mut Trial) -> Result<Published, Stop> {
        self.turn.at(Step::Drain);
        let closed = Instant::now();
        // Dropping the pause, on any error below, re-opens the gate with the old generation.
        let mut pause =
            self.plugin.slot.pause().map_err(|e| stop(Step::Drain, RefusalReason::Gate(e.to_string())))?;
        self.drain(&mut pause)?;
        self.turn.at(Step::Save);
        let frame = self.save(pause.value())?;
        let state_bytes = frame.len();
        self.turn.at(Step::Restore);
        let config = self.core.config(&self.plugin.name);
        let hooks = trial.hooks();
        let instance =
            self.hook(trial.deputy(), Step::Restore, "restore", move || hooks.restore(&config, &frame))?;
        trial.instance = Some(instance);
        self.check(trial)?;
        let loaded = self.bind(trial)?;
        self.turn.at(Step::Publish);
        // The point of no return: one pointer, and the gate opens.
        let old = pause.resume_with(loaded);
        Ok(Published { old: Some(old), closed_for: closed.elapsed(), state_bytes })
    }

    fn drain(&self, pause: &mut Paused<'_, Loaded>) -> Result<(), Stop> {
        let limit = self.core.options.drain_deadline;
        let at_once = NAME_HOLDERS_AFTER.min(limit);
        let drained = pause.drain(at_once).or_else(|stragglers| {
            if stragglers.self_deadlock || at_once == limit {
                return Err(stragglers);
            }
            let old = pause.value();
            self.core.journal.record(Event::Draining {
                plugin: self.plugin.name.clone(),
                generation: old.number,
                holders: old.holders(&stragglers),
                since_ms: at_once.as_millis() as u64,
            });
            pause.drain(limit - at_once)
        });
        drained.map_err(|stragglers| {
            let reason = if stragglers.self_deadlock {
                RefusalReason::SelfDeadlock
            } else {
                RefusalReason::Held { limit, holders: pause.value().holders(&stragglers) }
            };
            stop(Step::Drain, reason)
        })
    }

    fn save(&self, old: &Loaded) -> Result<Vec<u8>, Stop> {
        let instance = old.instance.clone();
        let frame = self.hook(&old.deputy, Step::Save, "save", move || instance.save(0))?;
        // What leaves a plugin is checked before it is believed: a damaged frame must not reach the next one.
        plugin_api::Saved::from_frame(&frame).map_err(|error| {
            stop(
                Step::Save,
                RefusalReason::Hook { hook: "save", error: CallError::Malformed(format!("{error:#}")) },
            )
        })?;
        Ok(frame)
    }

    /// The last veto.
    fn check(&self, trial: &mut Trial) -> Result<(), Stop> {
        self.turn.at(Step::Check);
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
        let limit = self.core.options.hook_deadline;
        match deputy.run(hook, limit, call) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(stop(step, RefusalReason::Hook { hook, error })),
            Err(stuck) => Err(stop(step, hook_stuck(hook, limit, stuck))),
        }
    }

    /// Resolves the methods of every interface that there are handles of. New handles wait for the turn, so
    /// none can be missed.
    fn bind(&self, trial: &mut Trial) -> Result<Loaded, Stop> {
        let tables = Tables::new();
        let interfaces = self.plugin.record().interfaces.clone();
        for (number, desc) in interfaces.into_iter().enumerate() {
            tables
                .bind(number, desc, trial.hooks().image())
                .map_err(|reason| stop(Step::Open, RefusalReason::Open(reason)))?;
        }
        Ok(trial.take_loaded(tables))
    }

    /// After the point of no return: nothing here can fail.
    fn finish(&self, number: u64, serving: Option<&Serving>, published: Published) -> Result<Outcome, Stop> {
        {
            let mut record = self.plugin.record();
            record.serving = Some(Serving { number, build: self.build.clone() });
            record.file.clone_from(&self.build.file);
            record.last_refusal = None;
        }
        let plugin = self.plugin.name.clone();
        let version = self.build.manifest.version.clone();
        let file = self.build.file.clone();
        let took_ms = millis(self.noticed.elapsed());
        let outcome = match serving {
            Some(Serving { number: from, .. }) => {
                self.core.journal.record(Event::Reloaded {
                    plugin: plugin.clone(),
                    from: *from,
                    generation: number,
                    version,
                    file,
                    took_ms,
                    closed_ms: millis(published.closed_for),
                    state_bytes: published.state_bytes,
                });
                Outcome::Reloaded { plugin, from: *from, generation: number }
            }
            None => {
                self.core.reaper.watch_calls();
                self.core.journal.record(Event::Loaded {
                    plugin: plugin.clone(),
                    generation: number,
                    version,
                    file,
                    took_ms,
                });
                Outcome::Loaded { plugin, generation: number }
            }
        };
        if let Some(old) = published.old {
            self.core.reaper.retire(self.plugin.clone(), old, self.leak_old);
        }
        Ok(outcome)
    }
}

fn hook_stuck(hook: &'static str, limit: Duration, stuck: Stuck) -> RefusalReason {
    match stuck {
        Stuck::Running => RefusalReason::HookStuck { hook, limit },
        Stuck::Behind { job, since } => RefusalReason::ThreadBusy { hook, limit, job, since },
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A generation that has not been published. Dropped, it is undone: whatever was created is stopped,
/// destroyed and closed by the reaper.
struct Trial {
    core: Arc<Core>,
    plugin: Arc<Plugin>,
    number: u64,
    build: Arc<Build>,
    deputy: Option<Deputy>,
    parts: Option<(Hooks, Staged)>,
    instance: Option<Instance>,
}

impl Trial {
    fn hooks(&self) -> Hooks {
        self.parts.as_ref().expect("until it is published").0.clone()
    }

    fn deputy(&self) -> &Deputy {
        self.deputy.as_ref().expect("until it is published")
    }

    fn take_loaded(&mut self, tables: Tables) -> Loaded {
        let (_, staged) = self.parts.take().expect("published once");
        let instance = self.instance.take().expect("created or restored");
        let deputy = self.deputy.take().expect("published once");
        Loaded { number: self.number, tables, instance, build: self.build.clone(), staged, deputy }
    }

    /// Publishing failed after all.
    fn take_back(&mut self, loaded: Loaded) {
        self.parts = Some((loaded.instance.clone().into_hooks(), loaded.staged));
        self.instance = Some(loaded.instance);
        self.deputy = Some(loaded.deputy);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let (Some(parts), Some(deputy)) = (self.parts.take(), self.deputy.take()) {
            let version = self.build.manifest.version.clone();
            let instance = self.instance.take();
            self.core.reaper.discard(self.plugin.clone(), self.number, version, parts, instance, deputy);
        }
    }
}
