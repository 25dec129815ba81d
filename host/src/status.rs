//! What a host is doing, as plain data made for printing.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::builds::FailedBuild;
use crate::gate::{self, Lease};
use crate::lock::lock;
use crate::meter::{Meter, Reading};
use crate::plugin::{Loaded, Old, Plugin};
use crate::registry::Core;

/// A whole host.
#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    /// Its plugins, by name.
    pub plugins: Vec<PluginStatus>,
    /// How calls are guarded: `membarrier`, or `fence` where the kernel refuses it (slower calls).
    pub gate: &'static str,
    /// Whether what plugins would leave behind in the process is captured; if not, old generations linger.
    pub capture: String,
    /// The crates whose last build has failed, as far as the host was told.
    pub failed_builds: Vec<FailedBuild>,
    /// What was done to this host that keeps it from being as good as new, e.g. a generation that was to stay in
    /// memory.
    pub tainted: Vec<String>,
    /// The directories it watches.
    pub watching: Vec<PathBuf>,
    /// Where it keeps its private copies.
    pub state_dir: PathBuf,
}

/// One plugin.
#[derive(Clone, Debug, Serialize)]
pub struct PluginStatus {
    /// Its name.
    pub name: String,
    /// The version of the serving build.
    pub version: Option<String>,
    /// The number of the serving generation.
    pub generation: Option<u64>,
    /// The file it came from and is followed at.
    pub file: PathBuf,
    /// SHA-256 of the serving build, hexadecimal.
    pub hash: Option<String>,
    /// The version of the build that served before, if it can be gone back to.
    pub previous: Option<String>,
    /// The state version it writes; `None` for a stateless plugin.
    pub state_version: Option<u32>,
    /// `debug` or `release`.
    pub profile: Option<String>,
    /// What can be called.
    pub interfaces: Vec<InterfaceStatus>,
    /// Everything that is still in memory, oldest first.
    pub generations: Vec<GenerationStatus>,
    /// Counters that the plugin keeps with the host.
    pub counters: Vec<(String, u64)>,
    /// How the serving generation does that is measured: to be judged, or to judge the next one by.
    pub probation: Option<String>,
    /// How many guards, leases and scopes hold the serving generation at the moment. `None` while its gate is closed.
    pub in_flight: Option<u64>,
    /// How many callers wait at its closed gate.
    pub waiting: u64,
    /// The size of its state when that was written down last, in bytes.
    pub state_bytes: Option<u64>,
    /// What a transaction is doing right now, e.g. `drain since 1.2 s`.
    pub busy: Option<String>,
    /// The last refusal, in full, until a later build is accepted.
    pub last_refusal: Option<String>,
}

/// One interface of a plugin.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceStatus {
    /// The trait's name.
    pub name: String,
    /// `major.minor`.
    pub version: String,
    /// Its methods.
    pub methods: Vec<MethodStatus>,
}

/// One method.
#[derive(Clone, Debug, Serialize)]
pub struct MethodStatus {
    /// Its name.
    pub name: String,
    /// Its signature, for people.
    pub signature: String,
    /// A valid argument object.
    pub example: serde_json::Value,
}

/// One generation that is in memory.
#[derive(Clone, Debug, Serialize)]
pub struct GenerationStatus {
    /// Its number.
    pub generation: u64,
    /// The version of its build.
    pub version: String,
    /// What it is doing.
    pub phase: Phase,
    /// Why it is still here, if it should not be.
    pub reason: Option<String>,
    /// How much address space its image takes, of one that can be called or lingers.
    pub bytes: Option<u64>,
    /// How many of 100 scopes go to it, if it is a candidate.
    pub percent: Option<u8>,
}

/// What a generation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// It answers calls.
    Serving,
    /// It gets a part of the scopes, until it has proved itself.
    Candidate,
    /// It serves no more, and answers those who ask for it by its number.
    Kept,
    /// It waits for its guards, leases and scopes.
    Draining,
    /// Its hooks and destructors run.
    Retiring,
    /// It is closed or waiting to be, and still mapped.
    Lingering,
    /// It stays in memory because somebody asked for that.
    Leaked,
}

/// Asks a host what it is doing.
pub(crate) fn of(core: &Core) -> HostStatus {
    let plugins: Vec<_> = core.all().iter().map(|plugin| plugin_status(plugin)).collect();
    HostStatus {
        tainted: plugins.iter().flat_map(leaked).collect(),
        plugins,
        gate: gate::fence_mode(),
        capture: if core.captures { "works" } else { "does not work: old generations will linger" }.into(),
        failed_builds: lock(&core.failed_builds).values().cloned().collect(),
        watching: core.options().watch.iter().map(|dir| dir.path().to_owned()).collect(),
        state_dir: core.options().state_dir.clone(),
    }
}

fn leaked(plugin: &PluginStatus) -> impl Iterator<Item = String> {
    let leaked = plugin.generations.iter().filter(|generation| generation.phase == Phase::Leaked);
    leaked.map(|one| format!("generation {} of {} stays in memory as asked", one.generation, plugin.name))
}

fn plugin_status(plugin: &Plugin) -> PluginStatus {
    let busy = plugin.busy();
    let held = held(plugin);
    let (image, in_flight) = (held.as_ref().map(|held| held.image_bytes()), held.as_ref().map(in_flight));
    let probation = held.as_deref().filter(|held| held.tables.is_metered()).map(probation);
    drop(held);
    let beside = plugin.beside.status();
    let record = plugin.record();
    let serving = record.serving.as_ref();
    let manifest = serving.map(|serving| &serving.build.manifest);
    let mut generations: Vec<_> = record.old.iter().map(old_status).collect();
    generations.extend(serving.map(|serving| GenerationStatus {
        generation: serving.number,
        version: serving.build.manifest.version.clone(),
        phase: Phase::Serving,
        reason: None,
        bytes: image,
        percent: None,
    }));
    generations.extend(beside);
    generations.sort_by_key(|generation| generation.generation);
    PluginStatus {
        name: plugin.name.clone(),
        version: manifest.map(|manifest| manifest.version.clone()),
        generation: serving.map(|serving| serving.number),
        file: record.file.clone(),
        hash: serving.map(|serving| serving.build.hash.to_string()),
        previous: record.previous.as_ref().map(|previous| previous.build.manifest.version.clone()),
        state_version: manifest.and_then(|manifest| manifest.state).map(|state| state.writes),
        profile: manifest.map(|manifest| manifest.profile.clone()),
        interfaces: manifest.map(crate::check::interfaces).unwrap_or_default(),
        generations,
        counters: plugin.counters.list(),
        probation,
        in_flight,
        waiting: plugin.slot.waiting() as u64,
        state_bytes: record.state_bytes,
        busy,
        last_refusal: record.last_refusal.clone(),
    }
}

/// How the calls of a generation went, since it began to serve: the serving one of a plugin, or one beside that.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CallFigures {
    /// The plugin.
    pub plugin: String,
    /// The generation.
    pub generation: u64,
    /// Those that have ended. A guard counts as one, and so does what a scope does with one plugin; leases are not
    /// counted.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that panicked.
    pub panics: u64,
    /// What they took, in order: up to so many nanoseconds took so many calls, of those that were timed: all on
    /// probation, one in 32 afterwards. Right to one part in eight.
    pub latencies: Vec<(u64, u64)>,
}

impl CallFigures {
    pub(crate) fn of(plugin: &str, generation: u64, meter: &Meter) -> CallFigures {
        let Reading { calls, errors, panics, .. } = meter.read();
        let (plugin, latencies) = (plugin.to_owned(), meter.latencies());
        CallFigures { plugin, generation, calls, errors, panics, latencies }
    }
}

/// Of those whose calls are counted at the moment.
pub(crate) fn figures(core: &Core) -> Vec<CallFigures> {
    let of_plugin = |plugin: Arc<Plugin>| {
        let held = held(&plugin).filter(|held| held.tables.is_metered());
        let serving = held.map(|held| CallFigures::of(&plugin.name, held.number, &held.meter));
        serving.into_iter().chain(plugin.beside.figures(&plugin.name)).collect::<Vec<_>>()
    };
    core.all().into_iter().flat_map(of_plugin).collect()
}

/// The serving generation, if its gate is open.
fn held(plugin: &Plugin) -> Option<Lease<Loaded>> {
    plugin.slot.try_enter().ok().map(|guard| guard.lease())
}

fn in_flight(held: &Lease<Loaded>) -> u64 {
    held.others() as u64
}

fn probation(held: &Loaded) -> String {
    let Reading { calls, errors, panics, p99, .. } = held.meter.read();
    format!("{calls} calls, {errors} failed, {panics} panicked, 99 of 100 within {p99:.1?}")
}

fn old_status(old: &Old) -> GenerationStatus {
    GenerationStatus {
        generation: old.number,
        version: old.version.clone(),
        phase: old.phase,
        reason: old.reason.clone(),
        bytes: old.bytes,
        percent: None,
    }
}
