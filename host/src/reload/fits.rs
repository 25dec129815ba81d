//! Whether a build may take the place of another: compares text, runs nothing.

use std::path::Path;

use plugin_api::abi::BOUNDARY_VERSION;

use super::Together;
use crate::file::{self, Expect, InterfaceManifest, Manifest, StateVersions};
use crate::plugin::{Build, Plugin, Used};
use crate::refusal::RefusalReason;

/// What this host needs of a file.
pub(crate) fn expect(origin: &Path) -> Expect {
    Expect { boundary: BOUNDARY_VERSION, origin: Some(origin.to_owned()) }
}

/// Whether a build fits where `serving` serves, handles of `plugin` are in use, and other plugins call it that do not change
/// with it. Compares text only.
pub(crate) fn fits(
    plugin: &Plugin,
    serving: Option<&Build>,
    build: &Build,
    together: Option<&Together>,
) -> Result<(), RefusalReason> {
    let (manifest, record) = (&build.manifest, plugin.record());
    let in_use =
        |used: &&Used| together.map_or_else(|| used.is_in_use(), |together| together.is_in_use(used));
    let (by_the_host, by_others): (Vec<_>, Vec<_>) =
        record.interfaces.iter().filter(in_use).partition(|used| used.by_the_host);
    by_the_host.iter().try_for_each(|used| provides(manifest, &used.interface))?;
    serving.map_or(Ok(()), |serving| continues(&serving.manifest, manifest))?;
    // With other builds of those who call it, it may fit yet.
    by_others.iter().try_for_each(|used| {
        provides(manifest, &used.interface).map_err(|misfit| RefusalReason::Alone {
            interface: format!("{} {}", used.interface.name, used.interface.version),
            by: Vec::new(),
            misfit: misfit.to_string(),
        })
    })
}

/// Whether a build implements an interface as it is used.
fn provides(manifest: &Manifest, used: &InterfaceManifest) -> Result<(), RefusalReason> {
    let theirs = manifest.interface(&used.name).ok_or_else(|| RefusalReason::InterfaceGone {
        plugin: manifest.plugin.clone(),
        version: manifest.version.clone(),
        interface: format!("{} {}", used.name, used.version),
    })?;
    Ok(file::compare(used, theirs, &manifest.plugin, &manifest.version).map(drop)?)
}

/// Whether a build may follow another: its interfaces keep their promises, and its state can be read.
pub(crate) fn continues(old: &Manifest, new: &Manifest) -> Result<(), RefusalReason> {
    for theirs in &new.interfaces {
        let same = |ours: &&file::InterfaceManifest| {
            ours.name == theirs.name && ours.version.major == theirs.version.major
        };
        if let Some(ours) = old.interfaces.iter().find(same) {
            file::compare(ours, theirs, &new.plugin, &new.version)?;
        }
    }
    old.state.map_or(Ok(()), |old| version_in_common(old, new.state).map(drop))
}

/// The state version in which one build hands over to another: the newest that the one writes and the other reads.
pub(super) fn version_in_common(
    old: StateVersions,
    new: Option<StateVersions>,
) -> Result<u32, RefusalReason> {
    new.and_then(|new| old.in_common(&new)).ok_or_else(|| RefusalReason::StateVersion {
        writes: if old.writes_from == old.writes {
            old.writes.to_string()
        } else {
            format!("{}..={}", old.writes_from, old.writes)
        },
        reads: new
            .map_or("none: it is stateless".into(), |new| format!("{}..={}", new.reads_from, new.writes)),
    })
}
