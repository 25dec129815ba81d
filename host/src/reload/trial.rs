//! A generation on its way to being published, and how it is undone.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Stop, stop};
use crate::deputy::Deputy;
use crate::events::Step;
use crate::ffi::{Hooks, Instance, RegionError, Table, Tables};
use crate::file::{Kept, Staged};
use crate::meter::Meter;
use crate::plugin::{Build, Loaded, Plugin};
use crate::refusal::RefusalReason;
use crate::registry::Core;
use crate::snapshot::Frame;

/// A generation that has not been published. Dropped, it is undone: whatever was created is stopped,
/// destroyed and closed by the reaper.
pub(super) struct Trial {
    core: Arc<Core>,
    plugin: Arc<Plugin>,
    number: u64,
    build: Arc<Build>,
    deputy: Option<Deputy>,
    parts: Option<(Hooks, Staged)>,
    pub(super) instance: Option<Instance>,
    /// The state that was kept for it, if it has none to take over.
    pub(super) begins_with: Option<Frame>,
    /// One more name of the private copy, for the way back.
    pub(super) kept: Option<Kept>,
}

impl Trial {
    pub(super) fn new(
        core: &Arc<Core>,
        plugin: &Arc<Plugin>,
        number: u64,
        build: &Arc<Build>,
        deputy: Deputy,
        parts: (Hooks, Staged),
    ) -> Self {
        Trial {
            core: core.clone(),
            plugin: plugin.clone(),
            number,
            build: build.clone(),
            deputy: Some(deputy),
            parts: Some(parts),
            instance: None,
            begins_with: None,
            kept: None,
        }
    }

    pub(super) fn hooks(&self) -> Hooks {
        self.parts.as_ref().expect("until it is published").0.clone()
    }

    pub(super) fn deputy(&self) -> &Deputy {
        self.deputy.as_ref().expect("until it is published")
    }

    /// What it has registered.
    pub(super) fn registrations(&self) -> Arc<Table> {
        self.hooks().image().registrations().clone()
    }

    /// Whether it has left alone what it may not change before it serves.
    pub(super) fn check_regions(&self) -> Result<(), Stop> {
        self.hooks().image().check_regions().map_err(wrong_region)
    }

    /// It is about to serve.
    pub(super) fn publish_regions(&self) -> Result<(), Stop> {
        self.hooks().image().publish_regions().map_err(wrong_region)
    }

    pub(super) fn take_loaded(&mut self, tables: Tables, on_probation: bool) -> Loaded {
        let (_, staged) = self.parts.take().expect("published once");
        let instance = self.instance.take().expect("created or restored");
        let deputy = self.deputy.take().expect("published once");
        let meter = Arc::new(Meter::new());
        if !on_probation {
            meter.time_only_some();
        }
        Loaded {
            number: self.number,
            tables,
            instance,
            build: self.build.clone(),
            staged,
            deputy,
            meter,
            is_to_leave: AtomicBool::new(false),
        }
    }

    /// Publishing failed after all.
    pub(super) fn take_back(&mut self, loaded: Loaded) {
        self.parts = Some((loaded.instance.clone().into_hooks(), loaded.staged));
        self.instance = Some(loaded.instance);
        self.deputy = Some(loaded.deputy);
    }
}

fn wrong_region(error: RegionError) -> Stop {
    stop(Step::Check, RefusalReason::Region(error.to_string()))
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
