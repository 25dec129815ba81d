//! The way back: the build before takes over again, through the same steps.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::admit::{Candidate, Progress, stage_and_vet};
use super::take_over::take_over;
use super::{Published, Reload, Settled, Stop, Wish, stop, version_in_common};
use crate::error::ReloadError;
use crate::events::{RolledBackState, Step};
use crate::file::SignatureAt;
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::plugin::{Build, Loaded, Plugin, Previous, Serving};
use crate::probation::LostState;
use crate::refusal::RefusalReason;
use crate::registry::Core;
use crate::snapshot::Frame;
use crate::store::Commit;

/// How a reload that leads back differs from others.
#[derive(Clone)]
pub(crate) struct Back {
    /// The generation that is to be left; if another serves, there is nothing to do.
    pub(super) from: u64,
    /// The state that the build had when it was left, if that is recent.
    state: Option<Frame>,
    /// What becomes of the present one if it cannot be written for the build.
    lost: LostState,
    /// Why.
    pub(super) reason: String,
    /// Whether it is the one that is left that is bad, and not one that had taken over with it.
    is_bad: bool,
}

/// Puts the build before in the place of generation `from`, if that still serves, and denies the one that is left. What had
/// taken over with it and serves still goes back with it.
pub(crate) fn roll_back(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    from: u64,
    reason: &str,
) -> Result<Outcome, ReloadError> {
    if core.is_closed() {
        return Err(ReloadError::Closed);
    }
    if let Some(generation) = plugin.serving_number().filter(|now| *now != from) {
        return Ok(Outcome::Unchanged { plugin: plugin.name.clone(), generation });
    }
    let first = candidate(core, plugin, from, reason, true);
    let with = plugin.record().previous.as_ref().map(|previous| previous.with.clone()).unwrap_or_default();
    let outcomes = match first {
        Err(error) => vec![Err(error)],
        Ok(first) => {
            let mut candidates = vec![first];
            for (name, from) in with {
                let Some(other) = core.find(&name) else { continue };
                let serves = other.serving_number() == Some(from) && other.record().previous.is_some();
                let reason = || format!("{} goes back, with which it had taken over", plugin.name);
                // If it cannot be had, it stays, if it fits.
                candidates
                    .extend(serves.then(|| candidate(core, &other, from, &reason(), false).ok()).flatten());
            }
            take_over(core, candidates)
        }
    };
    core.report_all(&outcomes);
    outcomes.into_iter().next().expect("the first is that of the plugin")
}

/// The build before, as it was kept.
fn candidate(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    from: u64,
    reason: &str,
    is_bad: bool,
) -> Result<Candidate, ReloadError> {
    let noticed = Instant::now();
    let progress = Progress::begin(plugin.record().file.clone(), Some(plugin.clone()), noticed);
    let (settled, incoming, build, state) = progress.contain(|| {
        let refuse = |stop: Stop| ReloadError::Refused(progress.refusal(stop));
        let previous = {
            let record = plugin.record();
            let previous = record.previous.as_ref().filter(|_| record.serving.is_some());
            previous.map(|it| (it.build.clone(), File::open(it.copy.path()), it.state.clone()))
        };
        // In two steps: whoever refuses looks into the record, too.
        let (build, copy, state) =
            previous.ok_or_else(|| refuse(stop(Step::Stage, RefusalReason::NoPrevious)))?;
        let file = copy.map_err(|source| {
            refuse(stop(Step::Stage, RefusalReason::Stage(crate::file::StageError::Unreadable { source })))
        })?;
        let signature = SignatureAt::Kept(build.signature.clone());
        let settled = Settled { file, origin: TrustedFile::watched(build.file.clone()), signature, noticed };
        let (incoming, copied) = stage_and_vet(core, &settled, &progress).map_err(refuse)?;
        // By its own hash: in the copy a mark may have been cleared.
        Ok((settled, incoming, Build { hash: build.hash, ..copied }, state))
    })?;
    let lost = core.options().probation_of(&plugin.name).map_or(LostState::Earlier, |terms| terms.lost_state);
    let back = Some(Back { from, state, lost, reason: reason.to_owned(), is_bad });
    let wish = Wish { force: true, back, ..Wish::default() };
    let (incoming, build) = (Some(incoming), Arc::new(build));
    Ok(Candidate { settled, incoming, build, plugin: plugin.clone(), wish, progress })
}

impl Reload<'_> {
    /// Step 7: the state for the next generation, and where it is from.
    pub(super) fn state(&self, old: &Loaded) -> Result<(Frame, RolledBackState), Stop> {
        if let Some(state) = &self.wish.state {
            return Ok((state.clone(), RolledBackState::Carried));
        }
        let saved = self.version_to_save(&old.build).and_then(|version| self.save(old, version));
        match (saved, &self.wish.back) {
            (Ok(state), _) => Ok((Arc::new(state), RolledBackState::Carried)),
            (Err(_), Some(Back { state: Some(state), lost: LostState::Earlier, .. })) => {
                Ok((state.clone(), RolledBackState::Earlier))
            }
            (Err(failed), _) => Err(failed),
        }
    }

    /// The state version in which a build hands over to this one.
    pub(super) fn version_to_save(&self, old: &Build) -> Result<u32, Stop> {
        let refuse = |reason| stop(Step::Save, reason);
        old.manifest
            .state
            .map_or(Ok(0), |old| version_in_common(old, self.build.manifest.state))
            .map_err(refuse)
    }

    /// What was left for being bad is not loaded again.
    pub(super) fn deny_what_is_left(&self) {
        let (Some(Back { reason, is_bad: true, .. }), Some(left)) = (&self.wish.back, &self.serving) else {
            return;
        };
        let Build { hash, manifest, file, .. } = &*left.build;
        let why = format!("it was sent back: {reason}");
        self.core.store.deny_left(*hash, &manifest.plugin, &manifest.version, file, why);
    }

    /// What the plugin's record and the store say from now on, and whether there is a way back from here.
    pub(super) fn remember(&self, number: u64, published: &mut Published) -> bool {
        let may_go_back = self.note(number, published);
        // Before anybody is told: whoever acts on that may call it at once.
        self.core.note_change();
        let (file, copy, before) = {
            let record = self.plugin.record();
            (
                record.file.clone(),
                record.kept.as_ref().map(|kept| kept.path().to_owned()),
                record.previous.as_ref().map(|previous| previous.build.hash),
            )
        };
        self.core.store.commit(
            &self.plugin.name,
            &Commit {
                hash: self.build.hash,
                version: &self.build.manifest.version,
                file: &file,
                copy: copy.as_deref(),
                signature: self.build.signature.as_deref(),
                is_exact: self.build.facts.nodelete.is_none(),
                state: published.state.clone(),
                reads_back: self.left_reads(published.state.as_ref()),
                before,
                is_trusted: self.core.options().proving.is_zero(),
            },
        );
        may_go_back
    }

    /// Whether the build that was left reads what it has written: it may have written an older version than that.
    fn left_reads(&self, state: Option<&Frame>) -> bool {
        let left = self.serving.as_ref().and_then(|serving| serving.build.manifest.state);
        let contents = state.and_then(|frame| plugin_api::state::frame::parse(frame).ok());
        left.zip(contents).is_some_and(|(left, contents)| left.reads(contents.version))
    }

    fn note(&self, number: u64, published: &mut Published) -> bool {
        let calls = self.calls.get().expect("found before it was opened").clone();
        let is_judged = self.core.options().probation_of(&self.plugin.name).is_some();
        let mut record = self.plugin.record();
        let left = record.serving.replace(Serving { number, build: self.build.clone(), calls });
        record.last_refusal = None;
        for (number, used) in record.interfaces.iter_mut().enumerate() {
            // A candidate has been bound to what is in use, whenever that began.
            let is_in_use = || self.together.is_in_use(used);
            used.is_resolved = self.resolved.get().map_or_else(is_in_use, |it| it.contains(&number));
        }
        (record.awaiting, record.deferred) = (None, None);
        record.reloaded = left.is_some().then(Instant::now);
        record.state_bytes = published.state.as_ref().map(|state| state.len() as u64);
        if self.wish.only.is_none() && self.wish.back.is_none() {
            record.file.clone_from(&self.build.file);
        }
        let copy = std::mem::replace(&mut record.kept, published.kept.take());
        let unproven = record.on_probation.take();
        if self.wish.back.is_some() {
            // Not there again: whatever comes next must be another build.
            record.previous = None;
            return false;
        }
        let same = left.as_ref().is_some_and(|left| left.build.hash == self.build.hash);
        // From one that has not proved itself there is only the way to one that has.
        if let Some(left) = left.filter(|_| !same && unproven.is_none()) {
            // It is of use while it is recent, and only a probation says when it is not.
            let reads = self.left_reads(published.state.as_ref());
            let state = published.state.clone().filter(|_| is_judged && reads);
            let with = published.with.clone();
            record.previous = copy.map(|copy| Previous { build: left.build, copy, state, with });
        }
        // Nor does it lead to itself.
        record.previous.take_if(|previous| previous.build.hash == self.build.hash);
        let has_proved_itself = self.wish.proven || (same && unproven.is_none());
        let may_go_back = record.previous.is_some() && !has_proved_itself;
        // Where nobody judges, all are as good.
        record.on_probation = (may_go_back && is_judged).then_some(number);
        may_go_back
    }
}
