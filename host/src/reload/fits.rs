//! Whether a build may take the place of another: compares text, runs nothing.

use std::path::Path;

use plugin_api::abi::BOUNDARY_VERSION;

use crate::file::{self, Expect, Manifest, StateVersions};
use crate::plugin::{Build, Plugin};
use crate::refusal::RefusalReason;

/// What this host needs of a file.
pub(crate) fn expect(origin: &Path) -> Expect {
    Expect { boundary: BOUNDARY_VERSION, origin: Some(origin.to_owned()) }
}

/// Whether a build fits where `serving` serves and handles of `plugin` are in use. Compares text only.
pub(crate) fn fits(plugin: &Plugin, serving: Option<&Build>, build: &Build) -> Result<(), RefusalReason> {
    let manifest = &build.manifest;
    let interfaces = plugin.record().interfaces.clone();
    for used in interfaces.iter().filter(|used| used.is_in_use()) {
        let ours = &used.interface;
        let theirs = manifest.interface(&ours.name).ok_or_else(|| RefusalReason::InterfaceGone {
            plugin: manifest.plugin.clone(),
            version: manifest.version.clone(),
            interface: format!("{} {}", ours.name, ours.version),
        })?;
        file::compare(ours, theirs, &manifest.plugin, &manifest.version)?;
    }
    serving.map_or(Ok(()), |serving| continues(&serving.manifest, manifest))
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
