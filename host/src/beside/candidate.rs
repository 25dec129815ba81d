//! A build that has a part of the scopes: how it comes, how it is judged, and how it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plugin_api::Stopping;

use super::{CANDIDATE, OnTrial, There};
use crate::error::ReloadError;
use crate::events::{Event, Step};
use crate::gate::Retired;
use crate::meter::{Meter, Reading};
use crate::peer::Calls;
use crate::plugin::{Build, Loaded, Plugin};
use crate::probation::{LOOK, Probation, RARELY};
use crate::refusal::RefusalReason;
use crate::registry::Core;
use crate::reload::{self, Pending};

/// Begins the trial of a build, and tells of it. The caller has the turn, and has seen to it that there is no other.
pub(crate) fn begin(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    loaded: Loaded,
    calls: Arc<Calls>,
    trial: OnTrial,
    event: Event,
) {
    let (number, meter) = (loaded.number, loaded.meter.clone());
    let entry = There::of(&loaded, CANDIDATE, calls, Some(Arc::new(trial)));
    let before = plugin.beside.slot(CANDIDATE).swap(loaded).expect("no slot beside is paused");
    debug_assert!(before.is_none());
    plugin.beside.put(entry);
    core.journal.record(event);
    let Some(terms) = core.options().probation_of(&plugin.name).cloned() else { return };
    let watch = Watch { core: core.clone(), plugin: plugin.clone(), number, meter, terms };
    let spawned = std::thread::Builder::new().name("reseat-canary".into()).spawn(move || watch.run());
    if let Err(error) = spawned {
        let what = format!(
            "generation {number} of {} is not judged, and stays a candidate until somebody promotes or discards it: no thread for that: {error}",
            plugin.name
        );
        core.journal.record(Event::Trouble { what });
    }
}

/// Makes the candidate current in the plugin's own slot; what was current there. The caller has the turn, and has seen that
/// there is a candidate.
pub(crate) fn take_over(plugin: &Plugin) -> Result<Option<Retired<Loaded>>, RefusalReason> {
    let (entry, retired) = plugin.beside.take_candidate().expect("nobody else has the turn");
    let regions = retired.value().instance.image().publish_regions();
    let adopted = match regions {
        Err(error) => Err((retired, RefusalReason::Region(error.to_string()))),
        Ok(()) => plugin
            .slot
            .adopt(retired)
            .map_err(|error| (error.value, RefusalReason::Gate("its gate is closed by a handover".into()))),
    };
    adopted.map_err(|(retired, reason)| {
        let before = plugin.beside.slot(CANDIDATE).adopt(retired).expect("no slot beside is paused");
        debug_assert!(before.is_none());
        plugin.beside.put(entry);
        reason
    })
}

/// Why a candidate goes.
pub(crate) enum Fate {
    /// Another build has come.
    Superseded(String),
    /// It is bad, or somebody says so, and is denied.
    Bad(String),
}

/// Discards the candidate, if there is one. The caller has the turn.
pub(crate) fn dismiss(core: &Core, plugin: &Arc<Plugin>, fate: Fate) -> bool {
    let Some((There { number, version, trial, .. }, old)) = plugin.beside.take_candidate() else {
        return false;
    };
    let build = &trial.expect("it was the candidate").pending.build;
    let serving = plugin.record().serving.clone();
    // What is denied is not what serves.
    let may_be_denied = serving.as_ref().is_none_or(|serving| serving.build.hash != build.hash);
    let (why, reason, denied) = match fate {
        Fate::Superseded(reason) => (Stopping::Replaced, reason, false),
        Fate::Bad(reason) => (Stopping::RolledBack, reason, may_be_denied),
    };
    core.reaper.retire(plugin.clone(), old, why, false);
    if denied {
        let said = format!("it was discarded: {reason}");
        core.store.deny(build.hash, &plugin.name, &version, &build.file, said);
    }
    core.journal.record(Event::Discarded {
        plugin: plugin.name.clone(),
        generation: number,
        version,
        reason,
        denied,
        serving: serving.map(|serving| serving.number),
    });
    true
}

/// The file of a candidate holds again what serves. The caller has the turn.
pub(crate) fn superseded(core: &Core, plugin: &Arc<Plugin>, now: &Build) {
    let trial = plugin.beside.candidate();
    if trial.is_some_and(|trial| trial.pending.build.file == now.file) {
        let reason = "its file holds the build again that serves".to_owned();
        dismiss(core, plugin, Fate::Superseded(reason));
    }
}

/// Discards the candidate of this number, or whichever there is.
pub(crate) fn discard(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    number: Option<u64>,
    reason: &str,
) -> Result<(), ReloadError> {
    if core.is_closed() {
        return Err(ReloadError::Closed);
    }
    let _turn = plugin.begin(Step::Publish)?;
    let trial = plugin.beside.candidate();
    let is_it = trial.is_some_and(|trial| number.is_none_or(|number| number == trial.number));
    if is_it && dismiss(core, plugin, Fate::Bad(reason.to_owned())) {
        return Ok(());
    }
    Err(reload::no_candidate(plugin))
}

/// Judges a candidate, on a thread of its own, until it has taken over or gone.
struct Watch {
    core: Arc<Core>,
    plugin: Arc<Plugin>,
    number: u64,
    meter: Arc<Meter>,
    terms: Probation,
}

impl Watch {
    fn run(self) {
        let begun = Instant::now();
        let mut checked = begun;
        loop {
            std::thread::sleep(LOOK);
            if self.is_over() {
                return;
            }
            let reading = self.meter.read();
            let mut fault = self.terms.fault(&reading, self.serving().as_ref());
            if fault.is_none() && self.is_due(checked) {
                checked = Instant::now();
                fault = self.self_check();
            }
            let done = match fault {
                Some(fault) => {
                    // At once, even if it has to be waited for the turn.
                    self.plugin.beside.stop();
                    discard(&self.core, &self.plugin, Some(self.number), &fault)
                }
                None if self.has_proved_itself(begun, &reading) => {
                    reload::promote(&self.core, &self.plugin, Some((self.number, reading))).map(drop)
                }
                None => continue,
            };
            match done {
                // Somebody else is at it. This is looked at again.
                Err(ReloadError::Busy { .. }) => {}
                // What was refused has been told.
                _ => return,
            }
        }
    }

    fn is_over(&self) -> bool {
        let trial = self.plugin.beside.candidate();
        self.core.is_closed() || trial.is_none_or(|trial| trial.number != self.number)
    }

    fn is_due(&self, checked: Instant) -> bool {
        !self.terms.self_check_every.is_zero() && checked.elapsed() >= self.terms.self_check_every
    }

    fn has_proved_itself(&self, begun: Instant, reading: &Reading) -> bool {
        let enough = reading.calls >= self.terms.calls || begun.elapsed() >= self.terms.period * RARELY;
        enough && begun.elapsed() >= self.terms.period
    }

    /// How the generation does that serves, or how the last one did that has proved itself.
    fn serving(&self) -> Option<Reading> {
        let held = self.plugin.slot.try_enter().ok().filter(|held| held.tables.is_metered());
        let now = held.map(|held| held.meter.read()).filter(|now| now.calls >= self.terms.calls);
        now.or_else(|| self.plugin.record().baseline)
    }

    /// What its own `self_check` says.
    fn self_check(&self) -> Option<String> {
        let held = self.plugin.beside.enter(self.number)?.lease();
        let instance = held.instance.clone();
        let limit: Duration = self.core.options().hook_deadline;
        match held.deputy.run("self_check", limit, move || instance.self_check()) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("its self_check failed: {error}")),
            Err(_) => Some(format!("its self_check has not returned within {limit:?}")),
        }
    }
}

impl OnTrial {
    /// A build that is to get a part of the scopes.
    pub(crate) fn new(number: u64, percent: u8, pending: Pending) -> OnTrial {
        OnTrial { number, percent: percent.min(100), pending }
    }
}

/// Tells of a build that gets a part of the scopes from now on.
pub(crate) fn event(
    plugin: &Plugin,
    trial: &OnTrial,
    took_ms: f64,
    steps: Vec<crate::events::StepTime>,
) -> Event {
    let build = &trial.pending.build;
    Event::Candidate {
        plugin: plugin.name.clone(),
        generation: trial.number,
        version: build.manifest.version.clone(),
        file: build.file.clone(),
        serving: plugin.serving_number(),
        percent: trial.percent,
        took_ms,
        steps,
    }
}
