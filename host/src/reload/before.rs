//! What comes before a build is opened in this process, and what everybody is told when it serves.

use super::{Reload, Stop, fits, stop};
use crate::error::RefusalReason;
use crate::events::{Event, Step};
use crate::file::Staged;
use crate::host::Outcome;
use crate::observer::{self, Change};
use crate::plugin::Build;
use crate::probe::{Candidate, Failed};
use crate::store::Tried;

impl Reload<'_> {
    /// What can be refused without running anything.
    pub(super) fn fits(&self) -> Result<(), Stop> {
        let refuse = |reason| stop(Step::Vet, reason);
        if self.wish.back.is_some() {
            // It has served before; how its state is written is seen when it is.
            fits(self.plugin, None, &self.build).map_err(refuse)?;
            return self.core.may_open_another().map_err(|reason| stop(Step::Open, reason));
        }
        if let Some(denial) = self.core.store.denial(self.build.hash) {
            return Err(refuse(RefusalReason::Denied(denial)));
        }
        let serving = self.serving.as_ref().map(|serving| &*serving.build);
        fits(self.plugin, serving, &self.build).map_err(refuse)?;
        self.core.may_open_another().map_err(|reason| stop(Step::Open, reason))
    }

    /// Step 2: what it does in a process that may die of it.
    pub(super) fn probe(&self, staged: &Staged) -> Result<(), Stop> {
        let Some(probe) = self.core.probes(&self.plugin.name) else { return Ok(()) };
        let tried = if self.hands_over() { Tried::WithState } else { Tried::Empty };
        let has_passed = !self.wish.dry_run && self.core.store.has_passed(self.build.hash, tried);
        if self.wish.back.is_some() || has_passed {
            return Ok(());
        }
        self.at(Step::Probe)?;
        let state = self.copy_of_the_state()?;
        let config = self.core.config(&self.plugin.name);
        let candidate = Candidate {
            library: staged.path(),
            plugin: &self.plugin.name,
            manifest_hash: self.build.facts.manifest_hash,
            config: &config,
            state: state.as_deref(),
        };
        match probe.run(&candidate, || self.turn.is_cancelled()) {
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

    /// For the probe: of the serving generation as it is now, while calls go on.
    fn copy_of_the_state(&self) -> Result<Option<Vec<u8>>, Stop> {
        if !self.hands_over() {
            return Ok(None);
        }
        let held =
            self.plugin.slot.lease().map_err(|e| {
                stop(Step::Probe, RefusalReason::Gate(self.plugin.cannot_enter(&e).to_string()))
            })?;
        let version = self.version_to_save(&held.build)?;
        self.save(&held, version).map(Some).map_err(|failed| Stop { step: Step::Probe, ..failed })
    }

    pub(super) fn would_be_accepted(&self) -> Outcome {
        Outcome::Acceptable {
            plugin: self.plugin.name.clone(),
            version: self.build.manifest.version.clone(),
            serving: self.serving.as_ref().map(|serving| serving.number),
        }
    }

    fn change(&self) -> Change {
        Change {
            plugin: self.plugin.name.clone(),
            from: self.serving.as_ref().map(|serving| serving.number),
            version: self.build.manifest.version.clone(),
            file: self.build.file.clone(),
            hash: self.build.hash.to_string(),
        }
    }

    /// Step 3.
    pub(super) fn ask_observers(&self) -> Result<(), Stop> {
        let options = &self.core.options;
        // Nobody can object to leaving what is bad.
        if options.observers.is_empty() || self.wish.back.is_some() {
            return Ok(());
        }
        self.at(Step::Observe)?;
        observer::before_reload(&options.observers, &self.change(), options.hook_deadline)
            .map_err(|reason| stop(Step::Observe, RefusalReason::Vetoed(reason)))
    }

    /// After all is done: nobody can object any more.
    pub(super) fn tell_observers(&self) {
        let options = &self.core.options;
        let troubles = observer::after_reload(&options.observers, &self.change(), options.hook_deadline);
        for what in troubles {
            self.core.journal.record(Event::Trouble { what });
        }
    }
}
