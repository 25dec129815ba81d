//! From a settled file to a transaction of its plugin.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::wait::{Waited, tell, wait_for_its_time};
use super::{Reload, Stop, Wish, expect, stop};
use crate::error::ReloadError;
use crate::events::{Step, StepTime};
use crate::file::{self, Incoming, SignatureAt, Vetted};
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::plugin::{Build, Plugin};
use crate::refusal::{Refusal, RefusalReason};
use crate::registry::Core;

/// A file that nobody writes to any more.
pub(crate) struct Settled {
    pub(crate) file: File,
    /// Where it is; somebody has vouched for it.
    pub(crate) origin: TrustedFile,
    /// Where its signature is, if one is asked for.
    pub(crate) signature: SignatureAt,
    /// When the change was noticed.
    pub(crate) noticed: Instant,
}

impl Settled {
    /// As it lies where somebody has put it.
    pub(crate) fn there(file: File, origin: TrustedFile, noticed: Instant) -> Settled {
        let signature = SignatureAt::Beside(origin.path().to_owned());
        Settled { file, origin, signature, noticed }
    }
}

/// How far a transaction has come, for the refusal.
pub(super) struct Progress {
    pub(super) file: PathBuf,
    pub(super) plugin: RefCell<Option<Arc<Plugin>>>,
    step: Cell<Step>,
    since: Cell<Instant>,
    times: RefCell<Vec<StepTime>>,
}

impl Progress {
    /// A change of a file that was noticed then is to be staged.
    pub(super) fn begin(file: PathBuf, plugin: Option<Arc<Plugin>>, noticed: Instant) -> Progress {
        let progress = Progress {
            file,
            plugin: RefCell::new(plugin),
            step: Cell::new(Step::Settle),
            since: Cell::new(noticed),
            times: RefCell::default(),
        };
        progress.come_to(Step::Stage);
        progress
    }

    /// The step before is over.
    pub(super) fn come_to(&self, step: Step) {
        let (since, now) = (self.since.get(), Instant::now());
        let ms = now.duration_since(since).as_secs_f64() * 1e3;
        self.times.borrow_mut().push(StepTime { step: self.step.replace(step), ms });
        self.since.set(now);
    }

    /// What each step has taken so far.
    pub(super) fn times(&self) -> Vec<StepTime> {
        self.come_to(self.step.get());
        self.times.borrow().clone()
    }

    pub(super) fn refusal(&self, stop: Stop) -> Refusal {
        let plugin = self.plugin.borrow();
        Refusal {
            plugin: plugin.as_ref().map(|plugin| plugin.name.clone()),
            file: self.file.clone(),
            step: stop.step,
            serving: plugin.as_ref().and_then(|plugin| plugin.serving_number()),
            reason: stop.reason,
        }
    }

    /// Runs a transaction. A panic in it is a mistake in the host, and costs no more than a refusal: what had been done
    /// was undone while it unwound.
    pub(super) fn contain<R>(
        &self,
        transaction: impl FnOnce() -> Result<R, ReloadError>,
    ) -> Result<R, ReloadError> {
        catch_unwind(AssertUnwindSafe(transaction)).unwrap_or_else(|payload| {
            let reason = RefusalReason::OwnMistake(text_of(&*payload));
            Err(ReloadError::Refused(self.refusal(Stop { step: self.step.get(), reason })))
        })
    }
}

/// Takes a file through all steps.
pub(crate) fn admit(core: &Arc<Core>, settled: &Settled, wish: Wish) -> Result<Outcome, ReloadError> {
    let file = settled.origin.path().to_owned();
    let progress = Progress::begin(file, None, settled.noticed);
    progress.contain(|| take(core, settled, wish, &progress))
}

fn take(
    core: &Arc<Core>,
    settled: &Settled,
    wish: Wish,
    progress: &Progress,
) -> Result<Outcome, ReloadError> {
    let refuse = |stop: Stop| ReloadError::Refused(progress.refusal(stop));
    let (mut incoming, mut build) = stage_and_vet(core, settled, progress).map_err(refuse)?;
    let plugin = match &wish.only {
        Some(name) => asked_for(core, name, &build).map_err(refuse)?,
        None => core.claim(&build).map_err(|(owner, reason)| {
            progress.plugin.replace(Some(owner));
            refuse(stop(Step::Vet, reason))
        })?,
    };
    progress.plugin.replace(Some(plugin.clone()));
    if wish.noticed {
        match wait_for_its_time(core, &plugin, settled, &build)? {
            Waited::NotAtAll => {}
            // Nothing that was found out then need be so still.
            Waited::Long => (incoming, build) = stage_and_vet(core, settled, progress).map_err(refuse)?,
            Waited::Superseded => return Ok(acceptable(&plugin, &build)),
        }
    }
    let turn = match wish.may_wait {
        true => plugin.begin_within(Step::Vet, core.options().call_wait)?,
        false => plugin.begin(Step::Vet)?,
    };
    if core.is_closed() {
        return Err(ReloadError::Closed);
    }
    let serving = plugin.record().serving.clone();
    if let Some(serving) = serving.as_ref().filter(|serving| serving.build.hash == build.hash && !wish.force)
    {
        // It may have been moved: `claim` has seen that nothing is left where it was.
        let mut record = plugin.record();
        record.file.clone_from(&build.file);
        record.awaiting = None;
        drop(record);
        crate::beside::superseded(core, &plugin, &build);
        return Ok(Outcome::Unchanged { plugin: plugin.name.clone(), generation: serving.number });
    }
    let reload = Reload::new(core, &plugin, &turn, settled, build, wish, progress);
    if let Some((what, until)) = reload.is_held_back() {
        reload.fits().map_err(refuse)?;
        if reload.serving.is_none() {
            plugin.record().deferred = Some(settled.origin.clone());
        }
        tell(core, &plugin, &reload.build, what, until);
        return Ok(acceptable(&plugin, &reload.build));
    }
    let outcome = reload.run(incoming).map_err(refuse)?;
    let (hash, passed) = (reload.build.hash, reload.passed.get());
    drop(turn);
    // Off everybody's path: it is written to disk.
    if let Some(tried) = passed {
        core.store.note_passed(hash, tried);
    }
    Ok(outcome)
}

fn acceptable(plugin: &Plugin, build: &Build) -> Outcome {
    let (plugin, serving) = (plugin.name.clone(), plugin.serving_number());
    Outcome::Acceptable { plugin, version: build.manifest.version.clone(), serving }
}

/// The plugin that was named, if the build is one of it.
fn asked_for(core: &Core, name: &str, build: &Build) -> Result<Arc<Plugin>, Stop> {
    let found = &build.manifest.plugin;
    match core.find(name) {
        Some(plugin) if name == found => Ok(plugin),
        _ => Err(stop(
            Step::Vet,
            RefusalReason::OtherPlugin { found: found.clone(), expected: name.to_owned() },
        )),
    }
}

/// The private copy, and what its bytes say. No code of it runs.
pub(super) fn stage_and_vet(
    core: &Core,
    settled: &Settled,
    progress: &Progress,
) -> Result<(Incoming, Build), Stop> {
    let path = settled.origin.path();
    core.pass(Step::Stage).map_err(|e| stop(Step::Stage, e))?;
    let incoming = core.staging.copy(&settled.file).map_err(|e| stop(Step::Stage, e))?;
    progress.come_to(Step::Vet);
    core.pass(Step::Vet).map_err(|e| stop(Step::Vet, e))?;
    let Vetted { manifest, facts } =
        file::vet_bytes(incoming.contents(), &expect(path)).map_err(|e| stop(Step::Vet, e))?;
    // After the bytes: what is no plugin need not be reported for who could write to it.
    let stat =
        settled.file.metadata().map_err(|source| stop(Step::Vet, file::VetError::Unreadable { source }))?;
    file::check_owner(path, &stat).map_err(|e| stop(Step::Vet, e))?;
    // Again each time, also for what the host has kept itself: a key that was trusted then may not be any more.
    let signature = file::check_signed(incoming.contents(), &settled.signature, &core.options().trusted_keys)
        .map_err(|e| stop(Step::Vet, e))?;
    if let Some(offset) = facts.nodelete {
        // Only the private copy is changed: the author's file stays as it is.
        incoming.clear_nodelete(offset).map_err(|e| stop(Step::Stage, e))?;
    }
    let build = Build { manifest, facts, hash: incoming.hash(), signature, file: path.to_owned() };
    Ok((incoming, build))
}

/// What a panic says.
pub(crate) fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".into())
}
