//! What a host offers to a plugin: configuration, log, counters, threads; memory is in [`region`](crate::region),
//! what the host calls by a name in [`registration`](crate::registration).

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use abi_stable::std_types::RStr;
use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use crate::contain::describe;
use crate::interface::Interface;
use crate::link::link;
use crate::peer::{Handle, Provider};
use crate::region::OwnRegions;
use crate::registration::OwnRegistrations;
use crate::types::Lend;

/// The host, as one instance of a plugin sees it. Cheap to clone; the host outlives the plugin, so it may
/// be kept.
#[derive(Clone)]
pub struct Services(Arc<Shared>);

struct Shared {
    plugin: &'static str,
    config: String,
    stop: StopToken,
    /// Threads to join at retirement.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Where there is no host.
    regions: OwnRegions,
    /// The same: what stands in for other plugins, by their interfaces.
    provided: Mutex<BTreeMap<TypeId, Arc<dyn Provider>>>,
    /// The same: what it has registered.
    registrations: OwnRegistrations,
}

impl Services {
    /// The services of one instance.
    pub(crate) fn new(plugin: &'static str, config: String) -> Self {
        Services(Arc::new(Shared {
            plugin,
            config,
            stop: StopToken::default(),
            threads: Mutex::default(),
            regions: OwnRegions::default(),
            provided: Mutex::default(),
            registrations: OwnRegistrations::default(),
        }))
    }

    /// The plugin's name.
    pub fn name(&self) -> &str {
        self.0.plugin
    }

    /// This plugin's configuration, as its own type. A plugin without configuration gets an empty one, so
    /// that a type whose fields all have `#[serde(default)]` always works.
    ///
    /// # Errors
    /// The configuration does not fit the type; the error names the field.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.0.config)
            .with_context(|| format!("the configuration of plugin `{}` does not fit", self.0.plugin))
    }

    /// A counter that belongs to the plugin, not to this build of it: a reload does not reset it. Shown by
    /// the host as `name`.
    pub fn counter(&self, name: &str) -> Counter {
        let Some(link) = link() else {
            return Counter(Box::leak(Box::new(AtomicU64::new(0))));
        };
        // SAFETY: attached. The host answers with the address of an `AtomicU64` that lives as long as it does.
        Counter(unsafe { &*link.host.counter()(link.generation, name.lend()).cast() })
    }

    /// Starts a named thread that belongs to this instance. When the instance retires, the token says stop,
    /// and the thread is joined before the library is unloaded. A panic of it ends the thread, and is logged.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub fn spawn(&self, name: &str, f: impl FnOnce(&StopToken) + Send + 'static) -> Result<()> {
        let (plugin, token, own_name) = (self.0.plugin, self.0.stop.clone(), name.to_owned());
        let handle = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Said at once, not only when somebody joins: the plugin's panic hook is silent.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| f(&token))) {
                    let (location, message) = describe(payload);
                    log(
                        Level::Error,
                        plugin,
                        format_args!("thread `{own_name}` panicked at {location}: {message}"),
                    );
                }
            })
            .with_context(|| format!("thread `{name}` of plugin `{}` cannot be started", self.0.plugin))?;
        lock(&self.0.threads).push(handle);
        Ok(())
    }

    /// Tells long-running work that this instance retires.
    pub fn stop_token(&self) -> &StopToken {
        &self.0.stop
    }

    /// Tells calls that last whether they are asked to end soon: when a reload has been waiting for them for half of
    /// its deadline. A call that gives up then, with an error or with what it has, lets the reload go on; one that does
    /// not is waited for until the deadline, and then serves on in the old build.
    pub fn cancel_token(&self) -> CancelToken {
        // SAFETY: attached. The flag lives for as long as this generation is attached, so for as long as its code runs.
        CancelToken(
            link().map(|link| unsafe { &*link.host.cancel_flag()(link.generation).cast::<AtomicU32>() }),
        )
    }

    /// Whether this instance is only tried, in a helper process, before the build may serve. What it does to the
    /// world is done a second time in the host: so it had better not bind ports, take locks, or send anything.
    pub fn is_probe(&self) -> bool {
        std::env::var_os(PROBE_VARIABLE).is_some()
    }

    /// From now on this implements an interface for a plugin without a host.
    pub(crate) fn provide<I: Interface + ?Sized>(&self, provider: Arc<dyn Provider>) {
        lock(&self.0.provided).insert(TypeId::of::<I>(), provider);
    }

    pub(crate) fn provided<I: Interface + ?Sized>(&self) -> Option<Handle<I>> {
        lock(&self.0.provided).get(&TypeId::of::<I>()).cloned().map(Handle::of)
    }

    /// The regions of a plugin without a host.
    pub(crate) fn own_regions(&self) -> &OwnRegions {
        &self.0.regions
    }

    /// The registrations of a plugin without a host.
    pub(crate) fn own_registrations(&self) -> &OwnRegistrations {
        &self.0.registrations
    }

    /// Tells all threads to stop and joins them.
    pub(crate) fn join_threads(&self) {
        self.0.stop.stop();
        // One at a time and outside the lock: a thread may start another while it ends.
        while let Some(handle) = { lock(&self.0.threads).pop() } {
            // A panic has been logged where it happened.
            let _ = handle.join();
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("plugin", &self.0.plugin).finish_non_exhaustive()
    }
}

/// Set in the environment of the helper process in which builds are tried.
pub const PROBE_VARIABLE: &str = "RESEAT_PROBE";

/// Says whether calls in flight are asked to end soon. Costs one load.
#[derive(Clone, Copy, Debug)]
pub struct CancelToken(Option<&'static AtomicU32>);

impl CancelToken {
    /// Is somebody waiting for this call to end?
    pub fn is_cancelled(&self) -> bool {
        self.0.is_some_and(|flag| flag.load(Ordering::Relaxed) != 0)
    }
}

/// Says when an instance retires.
#[derive(Clone, Debug, Default)]
pub struct StopToken(Arc<(Mutex<bool>, Condvar)>);

impl StopToken {
    /// Is it time to stop?
    pub fn is_stopped(&self) -> bool {
        *lock(&self.0.0)
    }

    /// Waits until it is time to stop, or for `limit`. `true`: stop.
    pub fn wait(&self, limit: Duration) -> bool {
        let (stopped, changed) = &*self.0;
        let waiting = changed.wait_timeout_while(lock(stopped), limit, |stopped| !*stopped);
        *waiting.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn stop(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }
}

/// Locks that outlive a panic: the data they protect is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that only grows, kept by the host.
#[derive(Clone, Copy, Debug)]
pub struct Counter(&'static AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How important a line in the log is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum Level {
    /// Something is broken.
    Error = 1,
    /// Something looks wrong.
    Warn = 2,
    /// Something happened.
    Info = 3,
    /// For the author.
    Debug = 4,
    /// For the author, in detail.
    Trace = 5,
}

/// Writes a line to the host's log, or to standard error where there is no host. Used by [`info!`] and its
/// siblings.
///
/// [`info!`]: crate::info
pub fn log(level: Level, target: &str, message: fmt::Arguments<'_>) {
    let Some(link) = link() else {
        if !crate::testing::take(level, &message) {
            eprintln!("{level:?} {target}: {message}");
        }
        return;
    };
    // SAFETY: attached.
    if !unsafe { link.host.log_enabled()(link.generation, level as u32) } {
        return;
    }
    let text = message.as_str().map_or_else(|| std::borrow::Cow::Owned(message.to_string()), Into::into);
    let text: RStr<'static> = (*text).lend();
    // SAFETY: attached; both texts are lent for the duration of this call, in which the host copies them.
    unsafe { link.host.log()(link.generation, level as u32, target.lend(), text) }
}

/// Writes an error to the host's log.
#[macro_export]
macro_rules! error { ($($arg:tt)+) => { $crate::log($crate::Level::Error, module_path!(), format_args!($($arg)+)) }; }
/// Writes a warning to the host's log.
#[macro_export]
macro_rules! warn { ($($arg:tt)+) => { $crate::log($crate::Level::Warn, module_path!(), format_args!($($arg)+)) }; }
/// Writes what happened to the host's log.
#[macro_export]
macro_rules! info { ($($arg:tt)+) => { $crate::log($crate::Level::Info, module_path!(), format_args!($($arg)+)) }; }
/// Writes a detail for the author to the host's log.
#[macro_export]
macro_rules! debug { ($($arg:tt)+) => { $crate::log($crate::Level::Debug, module_path!(), format_args!($($arg)+)) }; }
