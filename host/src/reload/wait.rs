//! What a build waits for before its transaction begins, and those that are not taken in at all unless somebody asks.
//!
//! Nothing is held meanwhile: whoever asks for a reload gets it at once.

use std::sync::Arc;
use std::time::Duration;

use super::admit::Progress;
use super::gather::Coming;
use super::{Settled, fits};
use crate::error::ReloadError;
use crate::events::Event;
use crate::file::FileIdentity;
use crate::mode::{ON_DEMAND, ReloadMode};
use crate::plugin::{Awaiting, Build, Plugin};
use crate::registry::Core;

/// It waits for scopes to end.
const SCOPES: &str = "scopes";

/// How a wait has ended.
pub(super) enum Waited {
    /// There was nothing to wait for.
    NotAtAll,
    /// Its time has come. What was trusted or denied may be otherwise by now.
    Long,
    /// Something newer is in its place.
    Superseded,
}

/// Waits until a build that nobody has asked for may be taken in. While it does, nobody else takes it for one that comes.
///
/// # Errors
/// The host is shut down.
pub(super) fn wait_for_its_time(
    core: &Arc<Core>,
    plugin: &Arc<Plugin>,
    settled: &Settled,
    build: &Build,
    progress: &Progress,
) -> Result<Waited, ReloadError> {
    if !may_be_accepted(core, plugin, build) || obstacle(core, plugin, settled, build).is_none() {
        return Ok(Waited::NotAtAll);
    }
    let was_coming = progress.coming.take().is_some();
    let path = settled.origin.path();
    let identity = FileIdentity::of(path);
    loop {
        if core.is_closed() {
            return Err(ReloadError::Closed);
        }
        let Some((what, until)) = obstacle(core, plugin, settled, build) else {
            progress.coming.set(was_coming.then(|| Coming::to(core)));
            return Ok(Waited::Long);
        };
        if FileIdentity::of(path) != identity {
            return Ok(Waited::Superseded);
        }
        tell(core, plugin, build, what, until);
        // Scopes may follow one another closely.
        let pause = Duration::from_millis(if what == SCOPES { 1 } else { 20 });
        std::thread::sleep(pause);
    }
}

/// Whether a build would not be refused at once, which it need not wait for.
fn may_be_accepted(core: &Core, plugin: &Plugin, build: &Build) -> bool {
    let serving = plugin.record().serving.clone();
    let fits = fits(plugin, serving.as_ref().map(|serving| &*serving.build), build, None);
    fits.is_ok() && core.store.denial(build.hash).is_none()
}

/// What a build has to wait for, in a word and as the end of a sentence.
fn obstacle(
    core: &Core,
    plugin: &Plugin,
    settled: &Settled,
    build: &Build,
) -> Option<(&'static str, String)> {
    let options = core.options();
    let mode = options.mode_of(&plugin.name);
    let (serving, reloaded) = {
        let record = plugin.record();
        (record.serving.clone()?, record.reloaded)
    };
    // What is not taken in does not wait for its time, either.
    if serving.build.hash == build.hash || matches!(mode, ReloadMode::OnDemand | ReloadMode::Never) {
        return None;
    }
    let cooldown = options.cooldown_of(&plugin.name);
    if reloaded.is_some_and(|reloaded| reloaded.elapsed() < cooldown) {
        return Some(("cooldown", format!("{cooldown:?} have passed since the last reload of it")));
    }
    let in_scopes = mode == ReloadMode::BetweenScopes && plugin.scopes.holding() > 0;
    (in_scopes && settled.noticed.elapsed() < options.scope_wait)
        .then(|| (SCOPES, "no scope holds it".to_owned()))
}

/// What somebody has to do before a new build is taken in, by the mode of its plugin.
pub(super) fn held_back(core: &Core, plugin: &str) -> Option<(&'static str, String)> {
    match core.options().mode_of(plugin) {
        ReloadMode::Auto | ReloadMode::BetweenScopes => None,
        ReloadMode::OnDemand => {
            Some((ON_DEMAND, format!("somebody asks for it: `{plugin}` is reloaded on demand")))
        }
        ReloadMode::Never => Some(("never", format!("the next host: `{plugin}` is never reloaded"))),
    }
}

/// Tells, once for each build, that it waits.
pub(super) fn tell(core: &Core, plugin: &Plugin, build: &Build, what: &'static str, until: String) {
    let awaiting = Awaiting { file: build.file.clone(), hash: build.hash, what };
    {
        let mut record = plugin.record();
        let known = record.awaiting.as_ref();
        if known.is_some_and(|known| known.hash == awaiting.hash && known.what == what) {
            return;
        }
        record.awaiting = Some(awaiting);
    }
    core.journal.record(Event::Waiting {
        plugin: plugin.name.clone(),
        version: build.manifest.version.clone(),
        file: build.file.clone(),
        until,
    });
}
