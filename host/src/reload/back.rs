//! The way back: the build before takes over again, through the same steps.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::admit::{Progress, stage_and_vet};
use super::{Published, Reload, Settled, Stop, Together, Wish, stop, version_in_common};
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
    /// The state that the build had when it was left, if that is recent.
    state: Option<Frame>,
    /// What becomes of the present one if it cannot be written for the build.
    lost: LostState,
    /// Why.
    pub(super) reason: String,
}

/// Puts the build before in the place of generation `from`, if that still serves, and denies the one that is left.
pub(crate) fn roll_back(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    from: u64,
    reason: &str,
) -> Result<Outcome, ReloadError> {
    if core.is_closed() {
        return Err(ReloadError::Closed);
    }
    let file = plugin.record().file.clone();
    let progress = Progress::begin(file, Some(plugin.clone()), Instant::now());
    let outcome = progress.contain(|| take_back(core, plugin, from, reason, &progress));
    if let Err(ReloadError::Refused(refusal)) = &outcome {
        core.report(refusal);
    }
    outcome
}

fn take_back(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    from: u64,
    reason: &str,
    progress: &Progress,
) -> Result<Outcome, ReloadError> {
    let noticed = Instant::now();
    let turn = plugin.begin(Step::Stage)?;
    let refuse = |stop: Stop| ReloadError::Refused(progress.refusal(stop));
    let no_previous = || stop(Step::Stage, RefusalReason::NoPrevious);
    if core.is_closed() {
        return Err(ReloadError::Closed);
    }
    // In two steps: whoever refuses looks into the record, too.
    let serving = plugin.record().serving.clone();
    let serving = serving.ok_or_else(no_previous).map_err(refuse)?;
    if serving.number != from {
        return Ok(Outcome::Unchanged { plugin: plugin.name.clone(), generation: serving.number });
    }
    let previous =
        plugin.record().previous.as_ref().map(|previous| {
            (previous.build.clone(), File::open(previous.copy.path()), previous.state.clone())
        });
    let (build, copy, state) = previous.ok_or_else(no_previous).map_err(refuse)?;
    let file = copy.map_err(|source| {
        refuse(stop(Step::Stage, RefusalReason::Stage(crate::file::StageError::Unreadable { source })))
    })?;
    let signature = SignatureAt::Kept(build.signature.clone());
    let settled = Settled { file, origin: TrustedFile::watched(build.file.clone()), signature, noticed };
    let (incoming, copied) = stage_and_vet(core, &settled, progress).map_err(refuse)?;
    let lost = core.options().probation_of(&plugin.name).map_or(LostState::Earlier, |terms| terms.lost_state);
    let back = Some(Back { state, lost, reason: reason.to_owned() });
    let wish = Wish { force: true, back, ..Wish::default() };
    // By its own hash: in the copy a mark may have been cleared.
    let copied = Build { hash: build.hash, ..copied };
    let together = Together::alone(turn, plugin, copied);
    let reload = Reload::of(core, &together, 0, &settled, wish, progress);
    let outcome = reload.run(incoming).map_err(refuse)?;
    // Before the turn ends, so that it is not loaded again in between.
    let Build { hash, manifest, file, .. } = &*serving.build;
    core.store.deny_left(
        *hash,
        &manifest.plugin,
        &manifest.version,
        file,
        format!("it was sent back: {reason}"),
    );
    drop(together);
    Ok(outcome)
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

    /// What the plugin's record and the store say from now on, and whether there is a way back from here.
    pub(super) fn remember(&self, number: u64, published: &mut Published) -> bool {
        let may_go_back = self.note(number, published);
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
        for used in &mut record.interfaces {
            used.is_resolved = self.together.is_in_use(used);
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
            record.previous = copy.map(|copy| Previous { build: left.build, copy, state });
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
