//! How a host is started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::beside::Canary;
use crate::file::TrustedKey;
use crate::mode::{ReloadMode, SCOPE_WAIT};
use crate::observer::Observers;
use crate::probation::Probation;
use crate::probe::Probe;
use crate::source::WatcherKind;

/// What a host watches, and how long it waits for what.
///
/// A plain struct: write down what differs from the default.
///
/// ```no_run
/// use reseat::{Host, Options, TrustedDir};
///
/// // SAFETY: only our own build writes to this directory.
/// let plugins = unsafe { TrustedDir::new("plugins") };
/// let host = Host::start(Options { watch: vec![plugins], ..Options::default() })?;
/// # Ok::<(), reseat::StartError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Directories whose plugins are loaded at start and followed afterwards.
    pub watch: Vec<TrustedDir>,
    /// Whose signatures are accepted. If there are any, every library must be signed by one of them: its signature, as
    /// `minisign` or `reseat sign` makes it, lies beside it, under its name with `.minisig` behind it, and may come later;
    /// the library is then tried again. It is checked over the bytes that are opened, and again for what was kept
    /// when a host goes on with it: a key that is taken out of here has signed nothing. Empty: nobody need sign.
    pub trusted_keys: Vec<TrustedKey>,
    /// Whether files that appear or change after the start are acted on. Off: only [`Host::load`] and
    /// [`Host::reload`] change anything.
    ///
    /// [`Host::load`]: crate::Host::load
    /// [`Host::reload`]: crate::Host::reload
    pub follow: bool,
    /// How it is noticed that they do, where they are followed.
    pub watcher: WatcherKind,
    /// When new builds take over.
    pub mode: ReloadMode,
    /// How long a build waits for a moment between scopes, see [`ReloadMode::BetweenScopes`]. When it passes, the reload
    /// goes on as in [`ReloadMode::Auto`].
    pub scope_wait: Duration,
    /// For how long a changed file of a plugin that calls others, or is called by them, is kept back so that what changes with
    /// it takes over at the same moment; each further one is waited for as long; 10 ms at the least. Those that do not
    /// fit without one another wait for one another, however long that takes.
    pub gather: Duration,
    /// After a reload of a plugin the next one that nobody has asked for waits for so long. What its file holds then is
    /// loaded, whatever it held in between.
    pub cooldown: Duration,
    /// Whether plugins that are there at the start, or appear later, are only looked at, and opened when they are called
    /// for the first time: by [`Host::plugin`], [`Host::call`] or [`Host::reload`]. Whoever calls first waits for that,
    /// and is told if the file is refused. Other plugins open it when they are loaded and require it, or when they call it.
    /// A handle from before it was unloaded does not.
    ///
    /// [`Host::plugin`]: crate::Host::plugin
    /// [`Host::call`]: crate::Host::call
    /// [`Host::reload`]: crate::Host::reload
    pub lazy: bool,
    /// Where the host keeps its private copies; created with mode 0700.
    pub state_dir: PathBuf,
    /// Whether what serves, with its state, is kept in the state directory, so that the next host goes on with it: the
    /// build that served last and the one before. It is written after each reload, at the end, and every
    /// `snapshot_every`, by a thread of its own.
    pub persist: bool,
    /// How often the state of plugins that declare
    /// [`SAVES_BESIDE_CALLS`](plugin_api::Plugin::SAVES_BESIDE_CALLS) is kept while they serve. `None`: only after
    /// reloads and at the end, as that of others.
    pub snapshot_every: Option<Duration>,
    /// For how long a host has to live after a build has taken over for that build to have proved that it may be started.
    /// One during whose proving three hosts have died is not started again: the one before it is, with its state. Zero:
    /// no build is ever blamed.
    pub proving: Duration,
    /// Whether this host begins without what earlier ones have kept. It is not deleted, but set aside in the state
    /// directory.
    pub start_fresh: bool,
    /// Each plugin's configuration, by plugin name. It is read when a generation is created.
    pub config: BTreeMap<String, serde_json::Value>,
    /// How long the handover of a stateful plugin waits for calls in flight. When it passes, the reload is
    /// refused, the old generation goes on, and the same file is tried again later.
    pub drain_deadline: Duration,
    /// What becomes of a handover for which calls in flight do not end.
    pub drain_policy: DrainPolicy,
    /// How long any one hook of a plugin may take. When it passes, the reload is refused; the thread that is
    /// stuck keeps its generation in memory.
    pub hook_deadline: Duration,
    /// How long a caller waits while a handover keeps the gate closed. When it passes, its call ends with
    /// [`CallError::TimedOut`](crate::CallError::TimedOut).
    pub call_wait: Duration,
    /// How many callers may wait at a closed gate, for each plugin. The next one's call ends at once with
    /// [`CallError::Crowded`](crate::CallError::Crowded).
    pub max_waiting: usize,
    /// How builds that this host has not seen are tried before they are opened: in a helper process. `None`: not at
    /// all.
    pub probe: Option<Probe>,
    /// By what a build that has taken over is judged, and after which time it has proved itself. `None`: it is not.
    pub probation: Option<Probation>,
    /// Whether builds of stateless plugins that the host takes in by itself get a part of the scopes first. `None`: they
    /// take over at once.
    pub canary: Option<Canary>,
    /// What goes wrong in this host, for tests.
    #[cfg(feature = "faults")]
    #[doc(hidden)]
    pub faults: crate::fault::Faults,
    /// Whether calls are counted all the time, and one in 32 of them timed, as all are while a build is on probation:
    /// see [`Host::figures`](crate::Host::figures). Off, calls cost what they always cost.
    pub measure_calls: bool,
    /// Who is asked before a reload, and told of what comes and goes.
    pub observers: Observers,
    /// What is otherwise for single plugins, by name.
    pub plugins: BTreeMap<String, PluginOptions>,
    /// How often directories are read in full, in case an event was missed.
    pub rescan_every: Duration,
    /// How much of old generations may linger before further builds are refused.
    pub max_lingering: MaxLingering,
    /// How long a generation that retires waits for threads to clear away its thread-locals themselves (when they next
    /// leave a call, call [`quiesce`](crate::quiesce), or end), before the host does it for them on a thread of its
    /// own. `None`, the default: for ever.
    ///
    /// The risk: the destructor of a thread-local may rely on the thread it runs on. One that is a guard of a lock, a
    /// handle of a window system, or an `Rc` shared with another thread-local of the same thread is undone on the
    /// wrong thread. A thread that ends meanwhile waits until the destructor that was its own has returned: for ever, if
    /// that waits for the thread. Values under a pthread key that a plugin has made itself are not destroyed at all then.
    pub adopt_after: Option<Duration>,
    /// Whether every stack is looked through before a library is closed, as a check of the host's own counts. If
    /// it finds a thread inside that they do not know of, the library is not closed, and that is reported.
    ///
    /// It costs a few hundred microseconds for each unload, on the reaper's thread, and takes the signal
    /// `SIGRTMIN + 11` for itself: threads that are running, or have words of the library on their stack, are
    /// interrupted by it, so that they may see system calls fail with `EINTR` that are not restarted.
    pub second_witness: bool,
}

/// What becomes of the handover of a stateful plugin for which calls in flight do not end. Those who are in such a
/// call for longer than half of the deadline can learn that they are asked to leave, from
/// [`Services::cancel_token`](plugin_api::Services::cancel_token).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainPolicy {
    /// At the deadline the reload is refused and the old generation serves on; a file is tried again later.
    #[default]
    Refuse,
    /// It goes on waiting; so do new callers, each for as long as it will. It can be cancelled.
    Wait,
    /// It does not wait: the state is saved while those calls go on, and they end in the old generation. What they
    /// still change there is lost. For plugins whose calls do not change the state they hand over, or to which a lost
    /// change matters less than a late one.
    Overlap,
}

/// What is otherwise for one plugin. `None`: as for all others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PluginOptions {
    /// Instead of [`Options::drain_policy`].
    pub drain_policy: Option<DrainPolicy>,
    /// Which plugin implements an interface for this one, by the interface's name, where several do.
    pub bind: BTreeMap<String, String>,
    /// Instead of [`Options::drain_deadline`].
    pub drain_deadline: Option<Duration>,
    /// Whether its builds are tried in a helper process, if there is one.
    pub probe: Option<bool>,
    /// Instead of [`Options::probation`]; `Some(None)`: its builds are not judged.
    pub probation: Option<Option<Probation>>,
    /// Instead of [`Options::canary`]; `Some(None)`: its builds take over at once.
    pub canary: Option<Option<Canary>>,
    /// Instead of [`Options::snapshot_every`]; `Some(None)`: only after reloads and at the end.
    pub snapshot_every: Option<Option<Duration>>,
    /// Instead of [`Options::mode`].
    pub mode: Option<ReloadMode>,
    /// Instead of [`Options::cooldown`].
    pub cooldown: Option<Duration>,
    /// Instead of [`Options::lazy`].
    pub lazy: Option<bool>,
}

/// How much of old generations may linger in memory. At either limit further builds are refused, until
/// something is unloaded; the refused files are tried again then.
///
/// A generation that is only waiting for calls to end does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxLingering {
    /// How many generations.
    pub generations: usize,
    /// How many bytes of address space, all images together.
    pub bytes: u64,
}

impl Default for MaxLingering {
    /// 32 generations, 256 MiB. A small plugin's image takes some hundred kilobytes and five mappings, of
    /// which Linux gives a process 65,530.
    fn default() -> Self {
        MaxLingering { generations: 32, bytes: 256 << 20 }
    }
}

/// What holds for one plugin: its own, or what holds for all.
impl Options {
    pub(crate) fn drain_policy_of(&self, plugin: &str) -> DrainPolicy {
        self.own(plugin).and_then(|own| own.drain_policy).unwrap_or(self.drain_policy)
    }

    pub(crate) fn drain_deadline_of(&self, plugin: &str) -> Duration {
        self.own(plugin).and_then(|own| own.drain_deadline).unwrap_or(self.drain_deadline)
    }

    pub(crate) fn probe_of(&self, plugin: &str) -> Option<&Probe> {
        let wanted = self.own(plugin).and_then(|own| own.probe).unwrap_or(true);
        self.probe.as_ref().filter(|_| wanted)
    }

    pub(crate) fn probation_of(&self, plugin: &str) -> Option<&Probation> {
        self.own(plugin).and_then(|own| own.probation.as_ref()).unwrap_or(&self.probation).as_ref()
    }

    pub(crate) fn canary_of(&self, plugin: &str) -> Option<Canary> {
        self.own(plugin).and_then(|own| own.canary).unwrap_or(self.canary)
    }

    pub(crate) fn snapshot_every_of(&self, plugin: &str) -> Option<Duration> {
        self.own(plugin).and_then(|own| own.snapshot_every).unwrap_or(self.snapshot_every)
    }

    pub(crate) fn mode_of(&self, plugin: &str) -> ReloadMode {
        self.own(plugin).and_then(|own| own.mode).unwrap_or(self.mode)
    }

    pub(crate) fn cooldown_of(&self, plugin: &str) -> Duration {
        self.own(plugin).and_then(|own| own.cooldown).unwrap_or(self.cooldown)
    }

    pub(crate) fn is_lazy(&self, plugin: &str) -> bool {
        self.own(plugin).and_then(|own| own.lazy).unwrap_or(self.lazy)
    }

    fn own(&self, plugin: &str) -> Option<&PluginOptions> {
        self.plugins.get(plugin)
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            watch: Vec::new(),
            trusted_keys: Vec::new(),
            follow: true,
            watcher: WatcherKind::Native,
            mode: ReloadMode::Auto,
            scope_wait: SCOPE_WAIT,
            gather: Duration::from_millis(50),
            cooldown: Duration::ZERO,
            lazy: false,
            state_dir: PathBuf::from(".reseat"),
            persist: true,
            snapshot_every: Some(Duration::from_secs(30)),
            proving: Duration::from_secs(60),
            start_fresh: false,
            config: BTreeMap::new(),
            drain_deadline: Duration::from_secs(5),
            drain_policy: DrainPolicy::Refuse,
            hook_deadline: Duration::from_secs(10),
            call_wait: Duration::from_secs(30),
            max_waiting: 10_000,
            probe: None,
            probation: Some(Probation::default()),
            canary: None,
            #[cfg(feature = "faults")]
            faults: crate::fault::Faults::default(),
            measure_calls: false,
            observers: Observers::none(),
            plugins: BTreeMap::new(),
            rescan_every: Duration::from_secs(2),
            max_lingering: MaxLingering::default(),
            adopt_after: None,
            second_witness: false,
        }
    }
}

/// A directory for whose libraries somebody has vouched. The only promise that an embedder makes; from here
/// on, loading what is in it is an ordinary function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrustedDir(PathBuf);

impl TrustedDir {
    /// Vouches for a directory. It need not exist yet.
    ///
    /// # Safety
    /// Every file that is ever put there under a name that a plugin can have is native code that may run in
    /// this process with all its rights: whoever can write to the directory is trusted as much as the
    /// program itself. Its libraries were compiled from plugins written against `plugin-api`, or, where they
    /// are something else, running their constructors does no harm.
    #[allow(unsafe_code)] // the one promise of an embedder
    pub unsafe fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // Absolute, so that a file has one name, and a change of the working directory changes nothing.
        TrustedDir(std::path::absolute(&path).unwrap_or(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// One file in it, trusted likewise. `name` is a bare file name: nothing outside the directory can be
    /// named.
    pub fn file(&self, name: impl AsRef<Path>) -> Option<TrustedFile> {
        let name = name.as_ref();
        let bare = name.components().count() == 1 && name.file_name().is_some();
        bare.then(|| TrustedFile(self.0.join(name)))
    }
}

/// A file in a [`TrustedDir`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrustedFile(PathBuf);

impl TrustedFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file that the watcher reported; it only reports what is in trusted directories.
    pub(crate) fn watched(path: PathBuf) -> Self {
        TrustedFile(path)
    }
}
