//! What comes before a build is opened in this process, and what everybody is told when it serves.

use std::sync::Arc;
use std::time::Duration;

use super::wait::held_back;
use super::{Reload, Stop, fits, stop};
use crate::events::Step;
use crate::file::{Staged, StateVersions};
use crate::mode::{PARTNERS, ReloadMode};
use crate::observer::{Change, Moment};
use crate::outcome::Outcome;
use crate::peer::Calls;
use crate::plugin::{Awaiting, Build, Loaded, Plugin};
use crate::probe::{Candidate, Failed};
use crate::refusal::RefusalReason;
use crate::snapshot::Frame;
use crate::store::Tried;

/// How long callers wait at most so that a build can be tried with the present state.
const MOMENT: Duration = Duration::from_millis(100);

impl Reload<'_> {
    /// What can be refused without running anything.
    pub(super) fn fits(&self) -> Result<(), Stop> {
        let refuse = |reason| stop(Step::Vet, reason);
        if self.wish.back.is_some() {
            // It has served before; how its state is written is seen when it is.
            self.fits_after(None)?;
            return self.core.may_open_another().map_err(|reason| stop(Step::Open, reason));
        }
        let plugin = &self.plugin.name;
        let is_never_reloaded = self.core.options().mode_of(plugin) == ReloadMode::Never;
        if is_never_reloaded && self.serving.is_some() && !self.wish.noticed {
            return Err(refuse(RefusalReason::NeverReloaded { plugin: plugin.clone() }));
        }
        if let Some(denial) = self.core.store.denial(self.build.hash) {
            return Err(refuse(RefusalReason::Denied(denial)));
        }
        let serving = self.serving.as_ref().map(|serving| &*serving.build);
        // Neither is the state of what serves.
        let serving = serving.filter(|_| self.wish.state.is_none());
        self.fits_after(serving)?;
        if let Some(frame) = &self.wish.state {
            let contents = plugin_api::state::frame::parse(frame);
            self.reads(contents.map_or(0, |contents| contents.version)).map_err(refuse)?;
        }
        self.core.may_open_another().map_err(|reason| stop(Step::Open, reason))
    }

    fn fits_after(&self, serving: Option<&Build>) -> Result<(), Stop> {
        let fits = fits(self.plugin, serving, &self.build, Some(self.together));
        fits.map_err(|mut reason| {
            if let RefusalReason::Alone { by, .. } = &mut reason {
                let stays = |name: &String| {
                    self.core.find(name).is_some_and(|it| self.together.member(&it).is_none())
                };
                *by = self.core.callers(self.plugin).into_iter().filter(stays).collect();
                if self.wish.noticed {
                    let (file, hash) = (self.build.file.clone(), self.build.hash);
                    self.plugin.record().awaiting = Some(Awaiting { file, hash, what: PARTNERS });
                }
            }
            stop(Step::Vet, reason)
        })
    }

    /// What somebody has to do before this build, of which nobody has asked for, is taken in.
    pub(super) fn is_held_back(&self) -> Option<(&'static str, String)> {
        let (options, plugin) = (self.core.options(), &self.plugin.name);
        if !self.wish.noticed {
            return None;
        }
        match &self.serving {
            Some(_) if self.wish.at_start && options.mode_of(plugin) == ReloadMode::Never => None,
            Some(_) => held_back(self.core, plugin),
            None => options
                .is_lazy(plugin)
                .then(|| ("first-call", format!("somebody calls it: `{plugin}` is opened then"))),
        }
    }

    fn reads(&self, version: u32) -> Result<(), RefusalReason> {
        let state = self.build.manifest.state;
        if state.is_some_and(|state| state.reads(version)) {
            return Ok(());
        }
        let range = |state: StateVersions| format!("{}..={}", state.reads_from, state.writes);
        let reads = state.map_or("none: it is stateless".into(), range);
        Err(RefusalReason::KeptStateVersion { version, reads })
    }

    /// The state with which the first generation in this host begins.
    pub(super) fn kept_state(&self) -> Result<Option<Frame>, Stop> {
        if self.serving.is_some() {
            return Ok(None);
        }
        let refuse = |reason| stop(Step::Vet, reason);
        let kept = self.core.store.state_of(&self.plugin.name);
        let kept = kept.map_err(|why| refuse(RefusalReason::KeptState(why)))?;
        kept.map(|(version, state)| self.reads(version).map_err(refuse).map(|()| state)).transpose()
    }

    /// The plugins that implement what this one calls. One that it cannot do without has to be there.
    pub(super) fn find_whom_it_calls(&self) -> Result<(), Stop> {
        let (of, manifest) = (&self.plugin.name, &self.build.manifest);
        if !manifest.requires.is_empty() {
            // Until it serves: others may wait for it as it does for them.
            self.core.note_waiting(manifest);
        }
        let provide = |requirement| self.core.provide(of, requirement, self.together);
        let found = manifest.requires.iter().map(|requirement| match provide(requirement) {
            Ok(target) => Ok((requirement.clone(), Some(target))),
            Err(_) if requirement.optional => Ok((requirement.clone(), None)),
            Err(reason) => Err(stop(Step::Vet, reason)),
        });
        let calls = Calls::new(self.core, of, found.collect::<Result<_, _>>()?);
        let stays = |target: &Plugin| self.together.member(target).is_some() || target.is_loaded();
        let on_its_way = self.core.set_out(of, &calls, stays).map_err(|gone| {
            stop(Step::Vet, self.core.unmet(of, &manifest.requires[gone].interface, Vec::new()))
        })?;
        let _ = (self.calls.set(calls), self.on_its_way.set(on_its_way));
        Ok(())
    }

    /// Step 2: what it does in a process that may die of it.
    pub(super) fn probe(&self, staged: &Staged, kept: Option<&Frame>) -> Result<(), Stop> {
        let options = self.core.options();
        let Some(probe) = options.probe_of(&self.plugin.name) else { return Ok(()) };
        let given = kept.or(self.wish.state.as_ref());
        let way = |with_state| if with_state { Tried::WithState } else { Tried::Empty };
        let wanted = way(given.is_some() || self.hands_over());
        let has_passed = !self.wish.dry_run && self.core.store.has_passed(self.build.hash, wanted);
        if self.wish.back.is_some() || has_passed {
            return Ok(());
        }
        self.at(Step::Probe)?;
        let state = given.map_or_else(|| self.copy_of_the_state(), |state| Ok(Some(state.clone())))?;
        let tried = way(state.is_some());
        let config = self.core.config(&self.plugin.name);
        let (regions, _exhibited) = self.plugin.regions.exhibit();
        let candidate = Candidate {
            library: staged.path(),
            plugin: &self.plugin.name,
            manifest_hash: self.build.facts.manifest_hash,
            config: &config,
            state: state.as_deref().map(Vec::as_slice),
            regions: &regions,
        };
        match probe.run(&candidate, || self.is_cancelled()) {
            Ok(()) => {
                self.passed.set(Some(tried));
                Ok(())
            }
            Err(Failed::Cancelled) => Err(stop(Step::Probe, RefusalReason::Cancelled)),
            Err(error @ Failed::Helper { .. }) => {
                Err(stop(Step::Probe, RefusalReason::NoProbe(error.to_string())))
            }
            Err(Failed::Build(failure)) => {
                let denied = failure.is_lasting();
                if denied {
                    let Build { manifest, hash, file, .. } = &*self.build;
                    let (name, version) = (&manifest.plugin, &manifest.version);
                    self.core.store.deny(*hash, name, version, file, failure.to_string());
                }
                Err(stop(Step::Probe, RefusalReason::Probe { failure, denied }))
            }
        }
    }

    /// The state with which a build is tried that is to take it over: as it is now, for which callers have to wait for a
    /// moment if the serving build does not say that it may be saved beside calls. If calls last, the state that was
    /// kept last has to do, if there is one.
    fn copy_of_the_state(&self) -> Result<Option<Frame>, Stop> {
        if !self.hands_over() {
            return Ok(None);
        }
        let gate = |reason: String| stop(Step::Probe, RefusalReason::Gate(reason));
        let serving = self.serving.as_ref().and_then(|serving| serving.build.manifest.state);
        let saved = if serving.is_some_and(|state| state.beside_calls) {
            let held = self.plugin.slot.lease();
            self.save_for(&*held.map_err(|error| gate(self.plugin.cannot_enter(&error).to_string()))?)
        } else {
            let mut pause = self.plugin.slot.pause().map_err(|error| gate(error.to_string()))?;
            if pause.drain(MOMENT.min(self.core.options().drain_deadline_of(&self.plugin.name))).is_err() {
                drop(pause);
                let kept = self.core.store.state_of(&self.plugin.name).ok().flatten();
                return Ok(kept.filter(|(version, _)| self.reads(*version).is_ok()).map(|(_, state)| state));
            }
            self.save_for(pause.value())
        };
        saved.map(|state| Some(Arc::new(state))).map_err(|failed| Stop { step: Step::Probe, ..failed })
    }

    fn save_for(&self, old: &Loaded) -> Result<Vec<u8>, Stop> {
        self.save(old, self.version_to_save(&old.build)?)
    }

    pub(super) fn would_be_accepted(&self) -> Outcome {
        Outcome::Acceptable {
            plugin: self.plugin.name.clone(),
            version: self.build.manifest.version.clone(),
            serving: self.serving.as_ref().map(|serving| serving.number),
        }
    }

    fn change(&self, to: u64) -> Change {
        Change {
            plugin: self.plugin.name.clone(),
            from: self.serving.as_ref().map(|serving| serving.number),
            to,
            version: self.build.manifest.version.clone(),
            file: self.build.file.clone(),
            hash: self.build.hash.to_string(),
        }
    }

    /// Step 3.
    pub(super) fn ask_observers(&self, number: u64) -> Result<(), Stop> {
        let options = self.core.options();
        // Nobody can object to leaving what is bad.
        if options.observers.is_empty() || self.wish.back.is_some() {
            return Ok(());
        }
        self.at(Step::Observe)?;
        let (change, limit) = (self.change(number), options.hook_deadline);
        let asked = options.observers.before_reload(&change, limit, || self.is_cancelled());
        asked.map_err(|reason| {
            let is_cancelled = self.is_cancelled();
            stop(
                Step::Observe,
                if is_cancelled { RefusalReason::Cancelled } else { RefusalReason::Vetoed(reason) },
            )
        })
    }

    /// After all is done: nobody can object any more.
    pub(super) fn tell_observers(&self, number: u64) {
        if self.core.options().observers.is_empty() {
            return;
        }
        let change = self.change(number);
        let moment = match change.from {
            None => Moment::AfterLoad(change),
            Some(_) => Moment::AfterReload(change),
        };
        self.core.tell_observers(&moment);
    }

    /// And when all of a set were told of. While the host loads what is there, that is for its start to do, once.
    pub(super) fn have_it_prepared(&self) {
        if self.core.has_started() && !self.core.options().observers.is_empty() {
            self.core.tell_observers(&Moment::Prepare);
        }
    }
}
