//! From a settled file to a transaction of its plugin.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::gather::Coming;
use super::take_over::take_over;
use super::wait::{Waited, wait_for_its_time};
use super::{Stop, Wish, expect, gather, stop};
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
    /// Whoever is kept back waits for it.
    pub(super) coming: Cell<Option<Coming>>,
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
            coming: Cell::default(),
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

/// A build that has been looked at, and the plugin that it is of.
pub(super) struct Candidate {
    pub(super) settled: Settled,
    /// The private copy; `None` when it has been taken on.
    pub(super) incoming: Option<Incoming>,
    pub(super) build: Arc<Build>,
    pub(super) plugin: Arc<Plugin>,
    pub(super) wish: Wish,
    pub(super) progress: Progress,
}

/// Takes a file through all steps.
pub(crate) fn admit(core: &Arc<Core>, settled: Settled, wish: Wish) -> Result<Outcome, ReloadError> {
    let candidate = match candidate(core, settled, wish)? {
        Seen::Build(candidate) => *candidate,
        Seen::Superseded(outcome) => return Ok(outcome),
    };
    if let Some(coming) = candidate.progress.coming.take()
        && core.is_linked(&candidate.plugin, &candidate.build)
    {
        return core.gathering.join(core, candidate, coming);
    }
    let mut outcomes = take_over(core, vec![candidate]);
    outcomes.pop().expect("one outcome for each candidate")
}

/// Takes several files through all steps, together: all of them take over at one moment, or none does. The outcomes are in
/// the order of the files.
pub(crate) fn admit_together(
    core: &Arc<Core>,
    files: Vec<(Settled, Wish)>,
) -> Vec<Result<Outcome, ReloadError>> {
    let candidates = files.into_iter().map(|(settled, wish)| asked(core, settled, wish));
    let candidates = each_once(candidates.collect());
    match candidates.iter().position(Result::is_err) {
        None => take_over(core, candidates.into_iter().flatten().collect()),
        Some(_) => none_of(candidates),
    }
}

/// Refuses what is a second build of a plugin.
fn each_once(candidates: Vec<Result<Candidate, ReloadError>>) -> Vec<Result<Candidate, ReloadError>> {
    let mut known: BTreeMap<String, PathBuf> = BTreeMap::new();
    let once = |one: Result<Candidate, ReloadError>| {
        let one = one?;
        let (plugin, file) = (one.plugin.name.clone(), one.build.file.clone());
        match known.insert(plugin.clone(), file) {
            None => Ok(one),
            Some(by) => {
                let reason = RefusalReason::NameTaken { plugin, by };
                Err(ReloadError::Refused(one.progress.refusal(stop(Step::Vet, reason))))
            }
        }
    };
    candidates.into_iter().map(once).collect()
}

/// The same, but only those take over together who have to do with one another, and what cannot even be looked at holds up
/// nobody.
pub(crate) fn admit_all(core: &Arc<Core>, files: Vec<(Settled, Wish)>) -> Vec<Result<Outcome, ReloadError>> {
    let mut outcomes: Vec<_> = files.iter().map(|_| Err(ReloadError::Closed)).collect();
    let mut good = Vec::new();
    for (at, (settled, wish)) in files.into_iter().enumerate() {
        match asked(core, settled, wish) {
            Ok(candidate) => good.push((at, candidate)),
            Err(error) => outcomes[at] = Err(error),
        }
    }
    for set in gather::sets(core, good) {
        let (places, candidates): (Vec<_>, Vec<_>) = set.into_iter().unzip();
        take_over(core, candidates).into_iter().zip(places).for_each(|(outcome, at)| outcomes[at] = outcome);
    }
    outcomes
}

/// Looks at a file of which somebody has asked for what it holds.
fn asked(core: &Arc<Core>, settled: Settled, wish: Wish) -> Result<Candidate, ReloadError> {
    match candidate(core, settled, wish)? {
        Seen::Build(candidate) => Ok(*candidate),
        Seen::Superseded(_) => unreachable!("nobody waits for the time of what was asked for"),
    }
}

fn candidate(core: &Arc<Core>, settled: Settled, wish: Wish) -> Result<Seen, ReloadError> {
    let progress = Progress::begin(settled.origin.path().to_owned(), None, settled.noticed);
    let may_join = wish.noticed && !wish.at_start;
    progress.coming.set(may_join.then(|| Coming::to(core)));
    let (plugin, incoming, build) = match progress.contain(|| look_at(core, &settled, &wish, &progress))? {
        Ok(found) => found,
        Err(superseded) => return Ok(Seen::Superseded(superseded)),
    };
    let incoming = Some(incoming);
    Ok(Seen::Build(Box::new(Candidate { settled, incoming, build, plugin, wish, progress })))
}

/// One cannot even be looked at, so the others stay as they are, too.
fn none_of(candidates: Vec<Result<Candidate, ReloadError>>) -> Vec<Result<Outcome, ReloadError>> {
    let refused = candidates.iter().find_map(|one| match one {
        Err(ReloadError::Refused(refusal)) => Some(refusal),
        _ => None,
    });
    let reasons: Vec<_> = candidates.iter().map(|_| refused.map(Refusal::of_partner)).collect();
    let stays = |one: Candidate, reason: Option<RefusalReason>| match reason {
        Some(reason) => ReloadError::Refused(one.progress.refusal(stop(Step::Vet, reason))),
        None => ReloadError::Closed,
    };
    let all = candidates.into_iter().zip(reasons);
    all.map(|(one, reason)| Err(one.map_or_else(|error| error, |one| stays(one, reason)))).collect()
}

/// What a look at a file has found.
enum Seen {
    Build(Box<Candidate>),
    /// Something newer is in its place by now.
    Superseded(Outcome),
}

/// A plugin, the private copy of a build of it, and what that says.
type Found = (Arc<Plugin>, Incoming, Arc<Build>);

/// The error is the outcome where there is nothing more to be done.
fn look_at(
    core: &Arc<Core>,
    settled: &Settled,
    wish: &Wish,
    progress: &Progress,
) -> Result<Result<Found, Outcome>, ReloadError> {
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
        match wait_for_its_time(core, &plugin, settled, &build, progress)? {
            Waited::NotAtAll => {}
            // Nothing that was found out then need be so still.
            Waited::Long => (incoming, build) = stage_and_vet(core, settled, progress).map_err(refuse)?,
            Waited::Superseded => return Ok(Err(acceptable(&plugin, &build))),
        }
    }
    Ok(Ok((plugin, incoming, Arc::new(build))))
}

pub(super) fn acceptable(plugin: &Plugin, build: &Build) -> Outcome {
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
