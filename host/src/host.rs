//! The host: what an embedder starts, asks and stops.

use std::path::Path;
use std::sync::{Arc, Mutex};

use plugin_api::{CallError, Interface, Stopping};

use crate::beside;
use crate::builds::CrateBuild;
use crate::by_name;
use crate::check::Inspection;
use crate::error::{CheckError, PluginError, ReloadError, StartError, StateError, UnloadError};
use crate::events::{Event, Step};
use crate::file::StagingDir;
use crate::gate;
use crate::handle::Handle;
use crate::intake::Intake;
use crate::journal::{Events, Journal, Recorded};
use crate::lazy;
use crate::lock::lock;
use crate::options::{Options, TrustedFile};
use crate::outcome::Outcome;
use crate::plugin::{Plugin, stated};
use crate::reaper::Reaper;
use crate::registry::Core;
use crate::reload::Wish;
use crate::snapshot::{self, Callers, Snapshots};
use crate::status::{CallFigures, HostStatus};
use crate::store::{Committed, Denial};
use crate::unit::Units;

/// A running host. Dropping it shuts it down.
///
/// # What is not promised
/// Plugins are native code in this process: a wild pointer or an `abort()` in one ends the host. A generation
/// that something still uses is never unloaded by force; it lingers, and the host says why.
pub struct Host {
    pub(crate) core: Arc<Core>,
    /// If somebody is to be told of them.
    pub(crate) units: Option<Arc<Units>>,
    pub(crate) intake: Mutex<Option<Intake>>,
    pub(crate) snapshots: Mutex<Option<Snapshots>>,
}

impl Host {
    /// Starts a host: loads every plugin that is in the watched directories, and follows them.
    ///
    /// Files that are refused do not keep the host from starting; they are in [`Host::recent_events`].
    ///
    /// # Errors
    /// The state directory cannot be used, or the system refuses what a host needs.
    pub fn start(mut options: Options) -> Result<Host, StartError> {
        // Wherever the process goes, its state stays where it is.
        if let Ok(state_dir) = std::path::absolute(&options.state_dir) {
            options.state_dir = state_dir;
        }
        let staging = StagingDir::open(&options.state_dir).map_err(StartError::StateDir)?;
        // Otherwise every build would be found to be bad.
        if is_noexec(&options.state_dir) {
            return Err(StartError::NoExec(options.state_dir.clone()));
        }
        let journal = Arc::new(Journal::default());
        let reaper = Reaper::start(journal.clone(), &options).map_err(StartError::Thread)?;
        let units = Units::of(options.observers.of_scopes(), &journal);
        let core = Core::new(options, staging, journal, reaper)?;
        let intake = Intake::start(core.clone())?;
        let snapshots = Snapshots::start(&core).map_err(StartError::Thread)?;
        core.note_start();
        Ok(Host { core, units, intake: Mutex::new(Some(intake)), snapshots: Mutex::new(snapshots) })
    }

    /// A handle of a plugin, typed by one of its interfaces.
    ///
    /// While there are handles of an interface, builds that do not fit it are refused. A plugin that waits for its first
    /// call, see [`Options::lazy`], is loaded before.
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
        lazy::load_first(&self.core, &plugin).map_err(|error| match error {
            ReloadError::Closed => PluginError::Closed,
            error => PluginError::CannotLoad { name: name.into(), reason: Box::new(error) },
        })?;
        let patience = self.core.options().call_wait;
        let (number, _) = self.core.register(&plugin, &stated(I::DESC), true, patience)?;
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
        let plugin = self.find_for_call(plugin)?;
        let loaded = lazy::enter(&self.core, &plugin)?;
        by_name::call(&plugin, &loaded, method, arguments)
    }

    pub(crate) fn find_for_call(&self, plugin: &str) -> Result<Arc<Plugin>, CallError> {
        self.core.find(plugin).ok_or_else(|| {
            if self.core.is_closed() {
                CallError::Closed
            } else {
                CallError::NoSuchPlugin { name: plugin.into(), known: self.core.names() }
            }
        })
    }

    /// Loads a file: as a new plugin, or as the next generation of the plugin that its manifest names.
    ///
    /// # Errors
    /// [`ReloadError::Refused`] names the step and the reason; whatever served before serves on.
    pub fn load(&self, file: &TrustedFile) -> Result<Outcome, ReloadError> {
        self.core.load(file, Wish::default())
    }

    /// Loads a file, and if it is refused because of those who use the plugin, goes on trying by itself, less and less
    /// often, as it does with files in watched directories. What became of that is told as events.
    ///
    /// # Errors
    /// As for [`Host::load`]: how the first attempt has ended.
    pub fn load_or_retry(&self, file: &TrustedFile) -> Result<Outcome, ReloadError> {
        let result = self.load(file);
        if let (Err(error), Some(intake)) = (&result, &*lock(&self.intake)) {
            intake.retry(file, error);
        }
        result
    }

    /// Tells everybody who follows this host how a build of a plugin's crate has ended, which somebody else has run: as an
    /// event, and, until one of the same package succeeds, in [`HostStatus::failed_builds`]. Loads nothing.
    pub fn tell_build(&self, build: CrateBuild) {
        crate::builds::tell(&self.core, build);
    }

    /// Looks at a plugin's file again and reloads it, even if it is unchanged.
    ///
    /// # Errors
    /// As for [`Host::load`]; [`ReloadError::Busy`] if a transaction is under way.
    pub fn reload(&self, plugin: &str) -> Result<Outcome, ReloadError> {
        self.reload_as(plugin, None, Wish { force: true, ..Wish::default() })
    }

    /// As [`Host::reload`], but the old generation is never closed: its code stays in memory for as long as the
    /// process lives, and [`HostStatus::tainted`] says so. Its last hooks and destructors run as ever.
    ///
    /// For somebody who knows that something outside of the host's sight, a callback registered with a C library,
    /// say, still leads into it.
    ///
    /// # Errors
    /// As for [`Host::reload`].
    pub fn reload_leaking(&self, plugin: &str) -> Result<Outcome, ReloadError> {
        self.reload_as(plugin, None, Wish { force: true, leak_old: true, ..Wish::default() })
    }

    /// Reloads a plugin from another file than the one it came from. It goes on being followed where it was: the next
    /// build that appears there takes over again.
    ///
    /// # Errors
    /// As for [`Host::reload`]; [`RefusalReason::OtherPlugin`](crate::RefusalReason::OtherPlugin) if the file is
    /// another plugin.
    pub fn reload_from(&self, plugin: &str, file: &TrustedFile) -> Result<Outcome, ReloadError> {
        self.reload_as(plugin, Some(file), Wish { force: true, ..Wish::default() })
    }

    /// Takes a file (the plugin's own, if none is named) through everything that comes before it is opened here: vets
    /// it, and tries it in a helper process, if there is one. Nothing is changed.
    ///
    /// # Errors
    /// As for [`Host::reload`].
    pub fn dry_run(&self, plugin: &str, file: Option<&TrustedFile>) -> Result<Outcome, ReloadError> {
        self.reload_as(plugin, file, Wish { force: true, dry_run: true, ..Wish::default() })
    }

    /// Goes back to the build before, which takes over in the same way as a new one does: with the state, if the
    /// serving build can write it in the version that the other reads. The build that is left is denied.
    ///
    /// After one step back there is none.
    ///
    /// # Errors
    /// [`RefusalReason::NoPrevious`](crate::RefusalReason::NoPrevious); else as for [`Host::reload`].
    pub fn roll_back(&self, plugin: &str) -> Result<Outcome, ReloadError> {
        let plugin = self.find(plugin)?;
        let serving = plugin.serving_number().unwrap_or_default();
        crate::reload::roll_back(&self.core, &plugin, serving, "it was asked for")
    }

    /// The state of a plugin, as it is now: a frame, see [`plugin_api::state`]. If the plugin does not say that it may be
    /// saved beside calls, its gate is closed meanwhile, as in a reload.
    ///
    /// # Errors
    /// It has none, is in use, or does not write it; [`StateError::Busy`] also if a reload wants to begin, to which this
    /// gives way.
    pub fn state(&self, plugin: &str) -> Result<Arc<Vec<u8>>, StateError> {
        let plugin = self.find_for_state(plugin)?;
        snapshot::take(&self.core, &plugin, Callers::MayWait, |taken| taken.frame)
    }

    /// Keeps the state of a plugin, as it is now, in the state directory, and returns when it is on disk. How many bytes
    /// it has.
    ///
    /// # Errors
    /// As for [`Host::state`]; [`StateError::NotKept`] if it is not on disk.
    pub fn snapshot(&self, plugin: &str) -> Result<u64, StateError> {
        let plugin = self.find_for_state(plugin)?;
        snapshot::keep(&self.core, &plugin, Callers::MayWait, || false)
    }

    /// Has the build that serves begin again with another state, a frame as [`Host::state`] gives it: as a reload, with
    /// this instead of its own state, which is gone then.
    ///
    /// # Errors
    /// [`RefusalReason::NoState`](crate::RefusalReason::NoState) if it is not a whole frame; else as for
    /// [`Host::reload`].
    pub fn load_state(&self, plugin: &str, frame: Vec<u8>) -> Result<Outcome, ReloadError> {
        let plugin = self.find(plugin)?;
        crate::reload::begin_serving_again(&self.core, &plugin, Some(Arc::new(frame)))
    }

    /// What is kept of a plugin in the state directory: the build that serves, with the last state that was saved, and
    /// the one before.
    pub fn history(&self, plugin: &str) -> Vec<Committed> {
        self.core.store.history(plugin)
    }

    /// The thread that keeps states goes by other options.
    pub(crate) fn snapshots_anew(&self) {
        if let Some(snapshots) = &*lock(&self.snapshots) {
            snapshots.look_again();
        }
    }

    fn find_for_state(&self, plugin: &str) -> Result<Arc<Plugin>, StateError> {
        self.find(plugin).map_err(|error| match error {
            ReloadError::NoSuchPlugin { name, known } => StateError::NoSuchPlugin { name, known },
            _ => StateError::Closed,
        })
    }

    /// Cancels the reload of a plugin that is under way: it is refused, and what served before serves on. At which step
    /// it is; `None`: none is under way. A reload that is being published can no longer be cancelled.
    pub fn cancel(&self, plugin: &str) -> Option<Step> {
        self.core.find(plugin)?.cancel()
    }

    /// The builds that are refused for what they have done before, oldest first.
    pub fn denied(&self) -> Vec<Denial> {
        self.core.store.denials()
    }

    /// Denies a build no longer, by the beginning of its hash. Those it were.
    pub fn allow(&self, hash: &str) -> Vec<Denial> {
        let named = self.denied().into_iter().filter(|denial| denial.hash.starts_with(hash));
        let hashes: Vec<_> = named.filter_map(|denial| denial.hash.parse().ok()).collect();
        hashes.into_iter().filter_map(|hash| self.core.store.allow(hash)).collect()
    }

    pub(crate) fn find(&self, plugin: &str) -> Result<Arc<Plugin>, ReloadError> {
        self.core.find(plugin).ok_or_else(|| {
            if self.core.is_closed() {
                ReloadError::Closed
            } else {
                ReloadError::NoSuchPlugin { name: plugin.into(), known: self.core.names() }
            }
        })
    }

    pub(crate) fn reload_as(
        &self,
        plugin: &str,
        file: Option<&TrustedFile>,
        wish: Wish,
    ) -> Result<Outcome, ReloadError> {
        let plugin = self.find(plugin)?;
        match file {
            Some(file) => self.core.load(file, Wish { only: Some(plugin.name.clone()), ..wish }),
            None => {
                let file = TrustedFile::watched(plugin.record().file.clone());
                self.core.load(&file, wish)
            }
        }
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
            plugin.begin(Step::Publish).map_err(|busy| UnloadError::Busy { busy: busy.to_string() })?;
        let taken = self.core.take_down_alone(&plugin);
        let taken = taken.map_err(|by| UnloadError::Required { name: plugin.name.clone(), by })?;
        if let Some(old) = taken {
            let generation = old.value().number;
            beside::clear(&self.core, &plugin, Stopping::Removed);
            self.core.reaper.retire(plugin.clone(), old, Stopping::Removed, false);
            self.core.store.forget(&plugin.name);
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
        crate::check::live(file, &plugin, &self.core.options().trusted_keys)
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

    /// How calls went, of the plugins whose calls are counted: all of them with
    /// [`Options::measure_calls`](crate::Options::measure_calls), else those on probation.
    pub fn figures(&self) -> Vec<CallFigures> {
        crate::status::figures(&self.core)
    }

    /// What counts has changed, not the files.
    pub(crate) fn look_again(&self) {
        if let Some(intake) = &*lock(&self.intake) {
            intake.look_again();
        }
    }

    /// Has a file looked at, as if the watcher had seen a change there: see
    /// [`LookAt::look_at`](crate::LookAt::look_at). `false` also where nothing is followed.
    pub fn look_at(&self, path: impl AsRef<Path>) -> bool {
        lock(&self.intake).as_ref().is_some_and(|intake| intake.look_at(path.as_ref()))
    }

    /// Reads the watched directories in full, now, and looks once more at what was refused.
    pub fn rescan(&self) {
        if let Some(intake) = &*lock(&self.intake) {
            intake.rescan();
        }
    }
}

/// Whether nothing in a directory may be run. `false` if that cannot be found out.
fn is_noexec(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

/// Clears away what old generations have left on the calling thread: the destructors of their thread-locals, which
/// only this thread may run. Says whether there was anything to do.
///
/// A thread does this by itself whenever it leaves a call to a plugin, and when it ends. A thread that is going to
/// sleep for long, a worker that parks, say, calls this before (and again when it wakes), so that it keeps no old
/// generation in memory meanwhile. Inside of a call to a plugin it does nothing.
pub fn quiesce() -> bool {
    gate::run_errands()
}
