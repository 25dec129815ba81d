//! Builds that are not where they came from: what served when the last host ended, and what serves and is to begin
//! again with another state.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::admit::{Progress, stage_and_vet};
use super::{Reload, Settled, Stop, Together, Wish, stop};
use crate::error::ReloadError;
use crate::events::{Event, Step};
use crate::file::{self, Incoming, NotSigned, SignatureAt, StageError};
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::plugin::{Build, Plugin, Previous};
use crate::refusal::{Refusal, RefusalReason};
use crate::registry::Core;
use crate::snapshot::Frame;
use crate::store::{Kept, Pair};

/// Goes on with what served when the last host ended, wherever its file is still in a directory that is watched.
pub(crate) fn go_on(core: &Arc<Core>) {
    let kept = core.store.kept();
    // One that is opened at its first call goes on then, with its state, from the file that is there.
    let begins = |kept: &&Kept| is_watched(core, &kept.pair.file) && !core.options().is_lazy(&kept.plugin);
    let kept: Vec<_> = kept.iter().filter(begins).collect();
    core.store.note_begin(&kept);
    let mut left = kept;
    loop {
        let before = left.len();
        let outcomes = std::thread::scope(|scope| {
            let all: Vec<_> =
                left.iter().map(|kept| (*kept, scope.spawn(|| go_on_with(core, kept)))).collect();
            all.into_iter().map(|(kept, thread)| (kept, thread.join())).collect::<Vec<_>>()
        });
        // Those that call others may have come before them.
        let waits = |(kept, outcome): (_, std::thread::Result<_>)| {
            outcome.is_ok_and(|went_on: WentOn| went_on == WentOn::NotYet).then_some(kept)
        };
        left = outcomes.into_iter().filter_map(waits).collect();
        if left.is_empty() || left.len() == before {
            // What is in the directory waits for whoever is missing.
            return;
        }
    }
}

/// What became of a plugin that was to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WentOn {
    /// It serves, or it has been told why not.
    Done,
    /// It calls others, who are not there.
    NotYet,
}

fn is_watched(core: &Core, file: &Path) -> bool {
    let watched = core.options().watch.iter().any(|directory| file.parent() == Some(directory.path()));
    watched && file.exists()
}

fn go_on_with(core: &Arc<Core>, kept: &Kept) -> WentOn {
    let copy = core.store.build(kept.pair.hash);
    if !copy.exists() {
        // What is in the directory is all there is.
        return WentOn::Done;
    }
    let progress = Progress::begin(kept.pair.file.clone(), None, Instant::now());
    match progress.contain(|| begin_again(core, kept, &copy, &progress)) {
        Ok(()) => {}
        // The same is said of what is in the directory.
        Err(ReloadError::Refused(Refusal { reason: RefusalReason::KeptState(_), .. })) => {}
        Err(ReloadError::Refused(Refusal { reason: RefusalReason::Unmet { .. }, .. })) => {
            return WentOn::NotYet;
        }
        Err(ReloadError::Refused(refusal)) => core.report(&refusal),
        Err(error) => {
            let what = format!("{} does not go on where it was: {error}", kept.plugin);
            core.journal.record(Event::Trouble { what });
        }
    }
    WentOn::Done
}

fn begin_again(core: &Arc<Core>, kept: &Kept, copy: &Path, progress: &Progress) -> Result<(), ReloadError> {
    let refuse = |stop: Stop| ReloadError::Refused(progress.refusal(stop));
    let (settled, incoming, build) = staged(core, copy, &kept.pair, progress).map_err(refuse)?;
    let plugin = core.claim(&build).map_err(|(_, reason)| refuse(stop(Step::Vet, reason)))?;
    progress.plugin.replace(Some(plugin.clone()));
    let turn = plugin.begin(Step::Vet)?;
    if plugin.is_loaded() {
        return Ok(());
    }
    if let Some(before) = &kept.before {
        remember(core, &plugin, before);
    }
    let wish = Wish { force: true, proven: kept.pair.proven, ..Wish::default() };
    let together = Together::alone(turn, &plugin, build);
    let reload = Reload::of(core, &together, 0, &settled, wish, progress);
    reload.run(incoming).map(drop).map_err(refuse)
}

/// A private copy of a build that was kept.
fn staged(
    core: &Core,
    copy: &Path,
    pair: &Pair,
    progress: &Progress,
) -> Result<(Settled, Incoming, Build), Stop> {
    let file = File::open(copy)
        .map_err(|source| stop(Step::Stage, RefusalReason::Stage(StageError::Unreadable { source })))?;
    let unreadable = |source| NotSigned::Unreadable { signature: file::signature_of(copy), source };
    let signature = core.store.signature(pair.hash).map_err(|e| stop(Step::Vet, unreadable(e)))?;
    let settled = Settled {
        file,
        origin: TrustedFile::watched(pair.file.clone()),
        signature: SignatureAt::Kept(signature),
        noticed: Instant::now(),
    };
    let (incoming, build) = stage_and_vet(core, &settled, progress)?;
    if build.hash != pair.kept {
        // So that there is room for a whole one.
        let _ = std::fs::remove_file(copy);
        let (found, expected) = (build.hash.to_string(), pair.kept.to_string());
        return Err(stop(Step::Stage, RefusalReason::KeptBuild { found, expected }));
    }
    // By the hash of its file: in the copy a mark may have been cleared.
    Ok((settled, incoming, Build { hash: pair.hash, ..build }))
}

/// There is a way back across a restart.
fn remember(core: &Arc<Core>, plugin: &Arc<Plugin>, before: &Pair) {
    let progress = Progress::begin(before.file.clone(), None, Instant::now());
    let name = &plugin.name;
    let previous =
        staged(core, &core.store.build(before.hash), before, &progress).and_then(|(_, incoming, build)| {
            let staged = incoming.name(name, 0).map_err(|error| stop(Step::Stage, error))?;
            let copy = staged.keep_for_later().map_err(|error| stop(Step::Stage, error))?;
            Ok(Previous { build: Arc::new(build), copy, state: None, with: Vec::new() })
        });
    match previous {
        Ok(previous) => plugin.record().previous = Some(previous),
        Err(Stop { reason, .. }) => {
            let what = format!("there is no way back to the build of {name} before this one: {reason}");
            core.journal.record(Event::Trouble { what });
        }
    }
}

/// Has the build that serves begin again: with this state, or with its own.
pub(crate) fn begin_serving_again(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    state: Option<Frame>,
) -> Result<Outcome, ReloadError> {
    let file = plugin.record().file.clone();
    let progress = Progress::begin(file, Some(plugin.clone()), Instant::now());
    let outcome = progress.contain(|| {
        let turn = plugin.begin(Step::Stage)?;
        let refuse = |stop: Stop| ReloadError::Refused(progress.refusal(stop));
        if core.is_closed() {
            return Err(ReloadError::Closed);
        }
        if let Some(state) = &state {
            let none = |error| stop(Step::Vet, RefusalReason::NoState(format!("{error:#}")));
            plugin_api::state::frame::check(state).map_err(none).map_err(refuse)?;
        }
        let (settled, incoming, build) = staged_again(core, plugin, &progress)?;
        let wish = Wish { force: true, only: Some(plugin.name.clone()), state, ..Wish::default() };
        let together = Together::alone(turn, plugin, build);
        Reload::of(core, &together, 0, &settled, wish, &progress).run(incoming).map_err(refuse)
    });
    if let Err(ReloadError::Refused(refusal)) = &outcome {
        core.report(refusal);
    }
    outcome
}

/// Another private copy of the build that serves.
fn staged_again(
    core: &Core,
    plugin: &Plugin,
    progress: &Progress,
) -> Result<(Settled, Incoming, Build), ReloadError> {
    let refuse = |stop: Stop| ReloadError::Refused(progress.refusal(stop));
    let serving = {
        let record = plugin.record();
        let copy = record.kept.as_ref().map(|kept| File::open(kept.path()));
        record.serving.as_ref().map(|serving| (serving.build.clone(), copy))
    };
    let (serving, copy) = serving
        .ok_or_else(|| ReloadError::NoSuchPlugin { name: plugin.name.clone(), known: core.names() })?;
    let (hash, origin) = (serving.hash, serving.file.clone());
    let (copy, signature) = match copy {
        Some(copy) => (copy, SignatureAt::Kept(serving.signature.clone())),
        None => (File::open(&origin), SignatureAt::Beside(origin.clone())),
    };
    let unreadable = |source| stop(Step::Stage, RefusalReason::Stage(StageError::Unreadable { source }));
    let file = copy.map_err(unreadable).map_err(refuse)?;
    let (origin, noticed) = (TrustedFile::watched(origin), Instant::now());
    let settled = Settled { file, origin, signature, noticed };
    let (incoming, build) = stage_and_vet(core, &settled, progress).map_err(refuse)?;
    // By its own hash: in the copy a mark may have been cleared.
    Ok((settled, incoming, Build { hash, ..build }))
}
