//! One generation on its way out of memory, and how far it has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::NAME_HOLDERS_AFTER;
use plugin_api::Stopping;

use crate::deputy::{Deputy, Pending};
use crate::events::Left;
use crate::ffi::{Closed, Hooks, Image, Instance, OpenError, Remnant};
use crate::file::Staged;
use crate::gate::Retired;
use crate::observer::Retirement;
use crate::plugin::{Loaded, Old, Plugin};
use crate::status::Phase;

/// A generation on its way out.
pub(super) struct Departure {
    pub(super) plugin: Arc<Plugin>,
    pub(super) number: u64,
    pub(super) version: String,
    /// Why. One that never served is not told of.
    pub(super) why: Stopping,
    /// It is to stay in memory when all else is done.
    pub(super) leak: bool,
    pub(super) since: Instant,
    /// Since when it has been drained, but for a hook that has not returned.
    pub(super) in_hook: Option<Instant>,
    /// When its holders are next named.
    pub(super) name_at: Duration,
    /// What it has left on the heap, once it is gone, if it kept count.
    pub(super) left: Option<Left>,
    /// What threads have not cleared away has been cleared away for them.
    pub(super) adopted: bool,
    /// When it may next be tried to close it.
    pub(super) close_at: Duration,
    /// The reason that was last told.
    pub(super) told: Option<String>,
    /// Why it lingers, if it does, and how much memory its image takes.
    pub(super) lingers: Option<(String, u64)>,
    /// The thread of this generation, until it is drained in the slot's value.
    pub(super) deputy: Option<Deputy>,
    /// `None` only while it is being advanced.
    pub(super) stage: Option<Stage>,
}

pub(super) enum Stage {
    /// Its constructors have not returned, and nobody waits for them any more.
    Opening(Pending<Result<(Hooks, Staged), OpenError>>),
    Draining(Retired<Loaded>),
    Drained(Instance, Staged),
    /// Observers are told before its last hooks run.
    Announced(Pending<()>, Instance, Staged),
    Unused(Hooks, Staged),
    Stopping(Pending<Stopped>, Staged, Instant),
    /// Something may yet keep it.
    Waiting(Image, Staged),
    /// By all counts nothing keeps it; the second witness has not been asked.
    Counted(Image, Staged),
    Closing(Pending<Closed>, Staged, Instant),
    Mapped(Remnant, Staged),
    /// Its thread is gone without an answer. It stays mapped, and nothing more can be done about it.
    Stuck,
    /// It is out of memory, and observers are told.
    Reported(Pending<()>),
    /// It is out of the reaper's hands.
    Gone,
    /// It stays in memory because somebody asked for that.
    Leaked,
}

/// What the last hooks give back.
pub(super) struct Stopped {
    pub(super) instance: Instance,
    pub(super) complaints: Vec<String>,
}

impl Departure {
    pub(super) fn new(
        plugin: Arc<Plugin>,
        number: u64,
        version: String,
        why: Stopping,
        stage: Stage,
    ) -> Self {
        Departure {
            plugin,
            number,
            version,
            why,
            leak: false,
            since: Instant::now(),
            in_hook: None,
            name_at: NAME_HOLDERS_AFTER,
            left: None,
            adopted: false,
            close_at: Duration::ZERO,
            told: None,
            lingers: None,
            deputy: None,
            stage: Some(stage),
        }
    }

    /// The thread of this generation.
    pub(super) fn deputy(&self) -> &Deputy {
        self.deputy.as_ref().expect("until the image is closed")
    }

    /// The image that the second witness is to be asked about.
    pub(super) fn counted(&self) -> Option<&Image> {
        match &self.stage {
            Some(Stage::Counted(image, _)) => Some(image),
            _ => None,
        }
    }

    /// Nothing of the generation is left for its thread to do.
    pub(super) fn end_thread(&mut self) {
        if let Some(deputy) = self.deputy.take() {
            deputy.end();
        }
    }

    /// For observers.
    pub(super) fn retirement(&self) -> Retirement {
        Retirement {
            plugin: self.plugin.name.clone(),
            generation: self.number,
            version: self.version.clone(),
            why: self.why,
        }
    }

    /// It never served; nobody needs to hear of its end.
    pub(super) fn is_quiet(&self) -> bool {
        self.why == Stopping::NeverServed
    }

    pub(super) fn phase(&self, phase: Phase, reason: Option<String>) {
        if !self.is_quiet() || phase == Phase::Lingering {
            let version = self.version.clone();
            let lingers = self.lingers.as_ref().filter(|_| phase == Phase::Lingering);
            let bytes = lingers.map(|(_, bytes)| *bytes);
            self.plugin.note_old(Old { number: self.number, version, phase, reason, bytes });
        }
    }
}

pub(super) fn run_last_hooks(instance: Instance, why: Stopping) -> Stopped {
    let mut complaints = Vec::new();
    if let Err(error) = instance.stopping(why) {
        complaints.push(format!("stopping: {error}"));
    }
    if let Err(error) = instance.destroy() {
        complaints.push(format!("its destructor: {error}"));
    }
    Stopped { instance, complaints }
}
