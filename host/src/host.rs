//! The host: what an embedder starts, asks and stops.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plugin_api::desc::InterfaceDesc;
use plugin_api::{CallError, Interface};
use serde::Serialize;

use crate::check::Inspection;
use crate::error::{CheckError, PluginError, Refusal, RefusalReason, ReloadError, StartError, UnloadError};
use crate::events::{Event, Events, Journal, Recorded, Step};
use crate::ffi::{Dynamic, MAX_INTERFACES, dynamic_call};
use crate::file::{self, StagingDir};
use crate::gate;
use crate::handle::Handle;
use crate::intake::Intake;
use crate::options::{Options, TrustedFile};
use crate::plugin::{Build, Loaded, Plugin, same, stated};
use crate::reaper::Reaper;
use crate::reload::{self, Settled};
use crate::status::HostStatus;

/// A running host. Dropping it shuts it down.
///
/// # What is not promised
/// Plugins are native code in this process: a wild pointer or an `abort()` in one ends the host. A generation
/// that something still uses is never unloaded by force; it lingers, and the host says why.
pub struct Host {
    core: Arc<Core>,
    intake: Mutex<Option<Intake>>,
}

/// What a load or reload did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// The plugin serves for the first time.
    Loaded {
        /// The plugin.
        plugin: String,
        /// Its generation.
        generation: u64,
    },
    /// A new generation has taken over.
    Reloaded {
        /// The plugin.
        plugin: String,
        /// The generation before.
        from: u64,
        /// The generation that serves.
        generation: u64,
    },
    /// The file is what serves already.
    Unchanged {
        /// The plugin.
        plugin: String,
        /// The generation that serves.
        generation: u64,
    },
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Loaded { plugin, generation } => write!(f, "generation {generation} of {plugin} serves"),
            Outcome::Reloaded { plugin, from, generation } => {
                write!(f, "generation {generation} of {plugin} serves, after generation {from}")
            }
            Outcome::Unchanged { plugin, generation } => {
                write!(f, "unchanged: generation {generation} of {plugin} is this build")
            }
        }
    }
}

/// What the parts of a host share.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) staging: StagingDir,
    pub(crate) journal: Arc<Journal>,
    pub(crate) reaper: Reaper,
    pub(crate) captures: bool,
    plugins: Mutex<BTreeMap<String, Arc<Plugin>>>,
    closed: AtomicBool,
}

impl Host {
    /// Starts a host: loads every plugin that is in the watched directories, and follows them.
    ///
    /// Files that are refused do not keep the host from starting; they are in [`Host::recent_events`].
    ///
    /// # Errors
    /// The state directory cannot be used, or the system refuses what a host needs.
    pub fn start(options: Options) -> Result<Host, StartError> {
        let staging = StagingDir::open(&options.state_dir).map_err(StartError::StateDir)?;
        let journal = Arc::new(Journal::default());
        let reaper = Reaper::start(journal.clone(), options.hook_deadline).map_err(StartError::Thread)?;
        let core = Arc::new(Core {
            options,
            staging,
            journal,
            reaper,
            captures: crate::ffi::self_test(),
            plugins: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let intake = Intake::start(core.clone())?;
        Ok(Host { core, intake: Mutex::new(Some(intake)) })
    }

    /// A handle of a plugin, typed by one of its interfaces.
    ///
    /// While there are handles of an interface, builds that do not fit it are refused.
    ///
    /// # Errors
    /// There is no such plugin, or its serving generation does not fit the interface: the error shows the
    /// difference.
    pub fn plugin<I: Interface + ?Sized>(&self, name: &str) -> Result<Handle<I>, PluginError> {
        if self.core.is_closed() {
            return Err(PluginError::Closed);
        }
        let plugin = self
            .core
            .find(name)
            .ok_or_else(|| PluginError::NoSuchPlugin { name: name.into(), known: self.core.names() })?;
        let number = self.core.register(&plugin, I::DESC)?;
        Ok(Handle::new(plugin, number))
    }

    /// Calls a method by name. `arguments` is a JSON object by parameter name, the result is JSON. `method` may
    /// be written `Interface.method`.
    ///
    /// Blocks for as long as the method takes, and while a handover keeps the gate closed.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&self, plugin: &str, method: &str, arguments: &str) -> Result<String, CallError> {
        let plugin = self.core.find(plugin).ok_or_else(|| {
            if self.core.is_closed() {
                CallError::Closed
            } else {
                CallError::NoSuchPlugin { name: plugin.into(), known: self.core.names() }
            }
        })?;
        let loaded = plugin.slot.enter().map_err(|error| plugin.cannot_enter(&error))?;
        let dynamic =
            Dynamic::find(loaded.instance.image(), method).ok_or_else(|| CallError::NoSuchMethod {
                plugin: plugin.name.clone(),
                method: method.into(),
                known: method_names(&loaded.build),
            })?;
        dynamic_call(&loaded.instance, &dynamic, arguments)
    }

    /// Loads a file: as a new plugin, or as the next generation of the plugin that its manifest names.
    ///
    /// # Errors
    /// [`ReloadError::Refused`] names the step and the reason; whatever served before serves on.
    pub fn load(&self, file: &TrustedFile) -> Result<Outcome, ReloadError> {
        self.core.load(file, false)
    }

    /// Looks at a plugin's file again and reloads it, even if it is unchanged.
    ///
    /// # Errors
    /// As for [`Host::load`]; [`ReloadError::Busy`] if a transaction is under way.
    pub fn reload(&self, plugin: &str) -> Result<Outcome, ReloadError> {
        let plugin = self.core.find(plugin).ok_or_else(|| {
            if self.core.is_closed() {
                ReloadError::Closed
            } else {
                ReloadError::NoSuchPlugin { name: plugin.into(), known: self.core.names() }
            }
        })?;
        let file = TrustedFile::watched(plugin.record().file.clone());
        self.core.load(&file, true)
    }

    /// Takes a plugin out of service: new calls end with [`CallError::NotLoaded`] at once, those in flight
    /// finish, then the generation is unloaded. Its state is gone. Handles stay valid, and work again when the
    /// plugin is loaded again.
    ///
    /// # Errors
    /// There is no such plugin, or a transaction is under way.
    pub fn unload(&self, plugin: &str) -> Result<(), UnloadError> {
        if self.core.is_closed() {
            return Err(UnloadError::Closed);
        }
        let plugin = self
            .core
            .find(plugin)
            .filter(|plugin| plugin.is_loaded())
            .ok_or_else(|| UnloadError::NoSuchPlugin { name: plugin.into(), known: self.core.names() })?;
        let _turn =
            plugin.begin(Step::Publish).map_err(|error| UnloadError::Busy { busy: error.to_string() })?;
        if let Some(generation) = self.core.take_down(&plugin) {
            self.core.journal.record(Event::Removed { plugin: plugin.name.clone(), generation });
        }
        Ok(())
    }

    /// Would this file be accepted as the next generation of `plugin`? Runs no code of it.
    ///
    /// # Errors
    /// It would not, and why.
    pub fn check(&self, file: &Path, plugin: &str) -> Result<Inspection, CheckError> {
        let plugin = self
            .core
            .find(plugin)
            .ok_or_else(|| CheckError::NoSuchPlugin { name: plugin.into(), known: self.core.names() })?;
        crate::check::live(file, &plugin)
    }

    /// What happens from now on. A subscriber that lags behind misses events, and is told how many.
    pub fn events(&self) -> Events {
        self.core.journal.subscribe()
    }

    /// The last few hundred events.
    pub fn recent_events(&self) -> Vec<Recorded> {
        self.core.journal.recent()
    }

    /// What the host is doing.
    pub fn status(&self) -> HostStatus {
        crate::status::of(&self.core)
    }

    /// Reads the watched directories in full, now.
    pub fn rescan(&self) {
        if let Some(intake) = &*lock(&self.intake) {
            intake.rescan();
        }
    }

    /// Ends the host: new calls end with [`CallError::Closed`], those in flight finish, all plugins are stopped
    /// and unloaded. `false`: something was still in use after `limit`; it is left as it is.
    pub fn shutdown(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        // Nothing new comes in; a transaction under way ends first.
        if let Some(intake) = lock(&self.intake).take() {
            intake.end();
        }
        let first = !self.core.closed.swap(true, Ordering::SeqCst);
        for plugin in self.core.all() {
            plugin.set_closed();
            if let Ok(_turn) = plugin.begin_within(Step::Publish, left()) {
                self.core.take_down(&plugin);
            }
        }
        while self.core.reaper.unfinished() > 0 && !left().is_zero() {
            // This thread may have called: what it has to clear away, nobody else can.
            gate::run_errands();
            std::thread::sleep(Duration::from_millis(1));
        }
        let clean = self.core.reaper.unfinished() == 0;
        if first {
            self.core.reaper.end();
            self.core.journal.close();
        }
        clean
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.core.is_closed() {
            self.shutdown(self.core.options.drain_deadline);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn method_names(build: &Build) -> Vec<String> {
    let interfaces = &build.manifest.interfaces;
    interfaces
        .iter()
        .flat_map(|interface| interface.methods.iter().map(|method| method.name.clone()))
        .collect()
}

impl Core {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Plugin>> {
        lock(&self.plugins).get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Plugin>> {
        lock(&self.plugins).values().cloned().collect()
    }

    /// The names of what is loaded.
    fn names(&self) -> Vec<String> {
        self.all().iter().filter(|plugin| plugin.is_loaded()).map(|plugin| plugin.name.clone()).collect()
    }

    /// A plugin's configuration, as JSON.
    pub(crate) fn config(&self, plugin: &str) -> String {
        self.options.config.get(plugin).map_or_else(|| "{}".into(), ToString::to_string)
    }

    /// The plugin that a build belongs to. The first file that claims a name keeps it, for as long as it is there
    /// and serves.
    pub(crate) fn claim(&self, build: &Build) -> Result<Arc<Plugin>, (Arc<Plugin>, RefusalReason)> {
        let name = &build.manifest.plugin;
        let plugin = lock(&self.plugins)
            .entry(name.clone())
            .or_insert_with(|| Plugin::new(name.clone(), build.file.clone(), self.options.call_wait))
            .clone();
        let owner = plugin.record().file.clone();
        let taken = owner != build.file && plugin.is_loaded() && owner.exists();
        if taken {
            return Err((plugin, RefusalReason::NameTaken { plugin: name.clone(), by: owner }));
        }
        Ok(plugin)
    }

    fn load(self: &Arc<Self>, file: &TrustedFile, force: bool) -> Result<Outcome, ReloadError> {
        let result = self.settle(file).and_then(|settled| self.admit(&settled, force));
        if let Err(ReloadError::Refused(refusal)) = &result {
            self.report(refusal);
        }
        result
    }

    pub(crate) fn admit(self: &Arc<Self>, settled: &Settled, force: bool) -> Result<Outcome, ReloadError> {
        if self.is_closed() {
            return Err(ReloadError::Closed);
        }
        reload::admit(self, settled, force)
    }

    /// Waits until nobody writes to the file.
    fn settle(&self, file: &TrustedFile) -> Result<Settled, ReloadError> {
        let noticed = Instant::now();
        let mut settling = file::Settling::start(file.path());
        let refuse = |reason: RefusalReason| {
            ReloadError::Refused(Refusal {
                plugin: None,
                file: file.path().to_owned(),
                step: Step::Settle,
                serving: None,
                reason,
            })
        };
        loop {
            match settling.poll(Instant::now()) {
                file::Progress::Ready(open) => {
                    return Ok(Settled { file: open, origin: file.clone(), noticed });
                }
                file::Progress::Wait(pause) if noticed.elapsed() < self.options.drain_deadline => {
                    std::thread::sleep(pause.min(Duration::from_millis(20)));
                }
                file::Progress::Wait(_) => {
                    let waited = noticed.elapsed();
                    let why = format!(
                        "it is still being written to after {waited:.1?}: wait for the build to finish"
                    );
                    return Err(refuse(RefusalReason::NotSettled(why)));
                }
                file::Progress::Gone => {
                    return Err(refuse(RefusalReason::NotSettled("there is no such file".into())));
                }
                file::Progress::Unreadable(source) => {
                    return Err(refuse(RefusalReason::Vet(file::VetError::Unreadable { source })));
                }
                file::Progress::NotAFile(kind) => {
                    return Err(refuse(RefusalReason::Vet(file::VetError::NotAFile { kind })));
                }
            }
        }
    }

    /// Tells of a refusal.
    pub(crate) fn report(&self, refusal: &Refusal) {
        if let Some(plugin) = refusal.plugin.as_ref().and_then(|name| self.find(name)) {
            plugin.record().last_refusal = Some(format!("{}: {}", refusal.step, refusal.reason));
        }
        self.journal.record(Event::Refused {
            plugin: refusal.plugin.clone(),
            file: refusal.file.clone(),
            step: refusal.step,
            reason: refusal.reason.to_string(),
            serving: refusal.serving,
        });
    }

    /// Gives an interface its number, and resolves it for the serving generation.
    fn register(&self, plugin: &Arc<Plugin>, desc: &'static InterfaceDesc) -> Result<usize, PluginError> {
        // While this turn lasts no generation is bound without the new interface.
        let _turn = plugin
            .begin_within(Step::Publish, self.options.call_wait)
            .map_err(|error| PluginError::Busy { name: plugin.name.clone(), busy: error.to_string() })?;
        let known = plugin.record().interfaces.iter().position(|known| same(known, desc));
        if let Some(number) = known {
            return Ok(number);
        }
        let number = plugin.record().interfaces.len();
        if number == MAX_INTERFACES {
            return Err(PluginError::TooManyInterfaces { limit: MAX_INTERFACES });
        }
        // On a thread of its own: inside of a call, entering would give that call's generation, which may be an
        // older one.
        std::thread::scope(|scope| {
            let bind = || match plugin.slot.try_enter() {
                Ok(loaded) => bind(&plugin.name, number, desc, &loaded),
                Err(_) => Err(PluginError::NotLoaded { name: plugin.name.clone() }),
            };
            scope.spawn(bind).join().expect("binding does not panic")
        })?;
        plugin.record().interfaces.push(desc);
        Ok(number)
    }

    /// Empties a plugin's slot; its generation goes to the reaper. The caller has the turn.
    fn take_down(&self, plugin: &Arc<Plugin>) -> Option<u64> {
        let old = plugin.slot.close().ok().flatten()?;
        let number = old.value().number;
        plugin.record().serving = None;
        self.reaper.retire(plugin.clone(), old);
        Some(number)
    }
}

/// Resolves an interface for the serving generation.
fn bind(name: &str, number: usize, desc: &InterfaceDesc, loaded: &Loaded) -> Result<(), PluginError> {
    let (ours, manifest) = (stated(desc), &loaded.build.manifest);
    let not_implemented = |interface: String| PluginError::NotImplemented {
        name: name.to_owned(),
        interface,
        implements: implemented(&loaded.build),
    };
    let theirs = manifest
        .interface(&ours.name)
        .ok_or_else(|| not_implemented(format!("{} {}", ours.name, ours.version)))?;
    file::compare(&ours, theirs, &manifest.plugin, &manifest.version).map_err(PluginError::Interface)?;
    loaded
        .tables
        .bind(number, desc, loaded.instance.image())
        .map_err(|reason| not_implemented(format!("{} {}: {reason}", ours.name, ours.version)))
}

fn implemented(build: &Build) -> String {
    let names: Vec<_> =
        build.manifest.interfaces.iter().map(|i| format!("{} {}", i.name, i.version)).collect();
    names.join(", ")
}
