//! Builds of plugins' crates, which somebody else runs: whoever follows the host is told of them here.

use std::time::Duration;

use serde::Serialize;

use crate::events::Event;
use crate::journal::now_ms;
use crate::lock::lock;
use crate::registry::Core;

/// A build of a crate that has ended, for [`Host::tell_build`](crate::Host::tell_build).
#[derive(Clone, Debug)]
pub struct CrateBuild {
    /// The crate's package.
    pub package: String,
    /// The plugin that it makes, if that is known.
    pub plugin: Option<String>,
    /// What it took.
    pub took: Duration,
    /// `None`: there is a library. Otherwise what is wrong.
    pub failure: Option<BuildFailure>,
}

/// Why a build has made no library.
#[derive(Clone, Debug)]
pub struct BuildFailure {
    /// In one line.
    pub what: String,
    /// All that the compiler said.
    pub diagnostics: String,
}

/// A crate whose last build has failed.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FailedBuild {
    /// The crate's package.
    pub package: String,
    /// The plugin that it makes, if that is known.
    pub plugin: Option<String>,
    /// Why, in one line.
    pub what: String,
    /// All that the compiler said, but no more than 16 KiB of it.
    pub diagnostics: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Of what a compiler says the beginning is what matters.
const DIAGNOSTICS_LIMIT: usize = 16 << 10;

pub(crate) fn tell(core: &Core, build: CrateBuild) {
    let CrateBuild { package, plugin, took, failure } = build;
    let mut failed = lock(&core.failed_builds);
    let event = match failure {
        None => {
            failed.remove(&package);
            Event::Built { package, plugin, took_ms: took.as_secs_f64() * 1e3 }
        }
        Some(BuildFailure { what, mut diagnostics }) => {
            diagnostics.truncate(diagnostics.floor_char_boundary(DIAGNOSTICS_LIMIT));
            let told = FailedBuild {
                package: package.clone(),
                plugin: plugin.clone(),
                what: what.clone(),
                diagnostics: diagnostics.clone(),
                at_ms: now_ms(),
            };
            failed.insert(package.clone(), told);
            Event::BuildFailed { package, plugin, what, diagnostics }
        }
    };
    drop(failed);
    core.journal.record(event);
}
