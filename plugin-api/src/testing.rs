//! Running a plugin in its own tests, in process and without a host.
//!
//! The type itself can be called directly; [`services`] is what its hooks ask for, and [`hand_over`] what a reload does
//! to its state. [`Instance`] goes the way of a host: all hooks in their order, calls by name with JSON. [`logged`] is
//! what was written to the log.
//!
//! ```
//! use plugin_api::prelude::*;
//! use plugin_api::testing::Instance;
//! use serde_json::json;
//!
//! #[plugin_api::interface(version = "1.0")]
//! pub trait Greeter {
//!     fn greet(&self, name: &str) -> String;
//! }
//!
//! struct Polite;
//! impl Plugin for Polite {
//!     fn create(_: &Services) -> Result<Self> {
//!         Ok(Polite)
//!     }
//! }
//! impl Greeter for Polite {
//!     fn greet(&self, name: &str) -> String {
//!         format!("Good day, {name}.")
//!     }
//! }
//! export_plugin!(Polite: Greeter, name = "greeter");
//!
//! # fn main() -> Result<()> {
//! let plugin = Instance::<Polite>::create(json!({}))?;
//! assert_eq!(plugin.greet("alice"), "Good day, alice.");
//! assert_eq!(plugin.call::<dyn Greeter>("greet", json!({ "name": "bob" }))?, "Good day, bob.");
//! # Ok(())
//! # }
//! ```

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde_json::Value;

use crate::abi::InstanceRef;
use crate::export;
use crate::interface::{CallError, ExportedBy, RawProxy};
use crate::peer::Provider;
use crate::plugin::{Identity, Plugin, Stopping};
use crate::registration::Registration;
use crate::services::{Level, Services};
use crate::state::{Saved, StateWriter};

/// Services without a host: the given configuration, log lines on standard error, counters that start at 0.
pub fn services(plugin: &'static str, config: Value) -> Services {
    Services::new(plugin, config.to_string())
}

/// Writes the state in a version, as a host has it written: appends a frame.
///
/// # Errors
/// Whatever `save` or `save_as` refuses.
pub fn save<P: Plugin>(plugin: &P, version: u32, frame: &mut Vec<u8>) -> Result<()> {
    let mut append = |bytes: &[u8]| frame.extend_from_slice(bytes);
    let mut writer = StateWriter::new(version, &mut append);
    plugin.save_to(&mut writer)?;
    writer.finish()
}

/// What a reload does to the state: saves it, frames it, checks the frame and restores it, perhaps as
/// another build's type.
///
/// # Errors
/// Whatever `save` or `restore` refuses.
pub fn hand_over<Old: Plugin, New: Plugin>(old: &Old, host: &Services) -> Result<New> {
    let mut frame = Vec::new();
    save(old, Old::STATE_VERSION, &mut frame)?;
    New::restore(host, Saved::from_frame(&frame)?)
}

/// What has been registered with these services, by kind and key.
pub fn registered(host: &Services) -> Vec<Registration> {
    host.own_registrations().list()
}

/// Has another plugin implement an interface for the one that gets these services: what a host does for what stands in
/// `requires` of `export_plugin!`.
///
/// ```
/// use plugin_api::prelude::*;
/// use plugin_api::testing::{self, Instance};
/// use serde_json::json;
///
/// #[plugin_api::interface(version = "1.0")]
/// pub trait Clock {
///     fn now(&self) -> u64;
/// }
///
/// struct Stopped;
/// impl Plugin for Stopped {
///     fn create(_: &Services) -> Result<Self> {
///         Ok(Stopped)
///     }
/// }
/// impl Clock for Stopped {
///     fn now(&self) -> u64 {
///         7
///     }
/// }
/// # mod clock { use super::*; export_plugin!(Stopped: Clock, name = "clock"); }
///
/// # fn main() -> Result<()> {
/// let host = testing::services("mine", json!({}));
/// testing::provide::<dyn Clock, _>(&host, Instance::<Stopped>::create(json!({}))?);
/// let clock = host.plugin::<dyn Clock>()?;
/// assert_eq!(clock.enter()?.now()?, 7);
/// # Ok(())
/// # }
/// ```
pub fn provide<I, P>(host: &Services, plugin: Instance<P>)
where
    I: ExportedBy<P> + ?Sized,
    P: Plugin + Identity,
{
    let methods = I::METHODS.iter().map(|method| method.call).collect();
    host.provide::<I>(Arc::new(StandIn { plugin, methods }));
}

/// A plugin in process, as another one calls it.
struct StandIn<P: Plugin + Identity> {
    plugin: Instance<P>,
    methods: Box<[*const c_void]>,
}

// SAFETY: the methods are addresses of code; plugins are `Send + Sync`.
unsafe impl<P: Plugin + Identity> Send for StandIn<P> {}
// SAFETY: as above.
unsafe impl<P: Plugin + Identity> Sync for StandIn<P> {}

impl<P: Plugin + Identity> Provider for StandIn<P> {
    fn proxy(&self) -> RawProxy {
        let instance = InstanceRef(std::ptr::from_ref(&self.plugin.instance).cast());
        // SAFETY: `METHODS` has one entry for each method of the interface, in its order, for instances of `P`; whoever
        // borrows the proxy borrows this.
        unsafe { RawProxy::new(self.methods.as_ptr(), instance) }
    }
}

/// An instance of an exported plugin that has been through the hooks that a host calls before it lets it serve, and
/// whose last hook is called when it is dropped: as if it were taken out of service, unless [`Instance::stop`] says
/// otherwise. Dereferences to the plugin.
pub struct Instance<P: Plugin + Identity> {
    instance: export::Instance<P>,
    why: Stopping,
}

impl<P: Plugin + Identity> Instance<P> {
    /// What a host does to load a plugin: `create`, `started`, `self_check`.
    ///
    /// # Errors
    /// What a host would refuse the build for, e.g. a configuration that does not fit.
    pub fn create(config: Value) -> Result<Self> {
        Self::begin(export::Instance::create(config.to_string())?)
    }

    /// What a host does to reload it: `save`, and `restore`, `started`, `self_check` of the next build, perhaps another
    /// type. This one serves on, as after a reload that is refused.
    ///
    /// # Errors
    /// What a host would refuse the reload for.
    pub fn hand_over<New: Plugin + Identity>(&self, config: Value) -> Result<Instance<New>> {
        let mut frame = Vec::new();
        self.instance.save(P::STATE_VERSION, &mut |bytes| frame.extend_from_slice(bytes))?;
        Saved::from_frame(&frame)?;
        Instance::begin(export::Instance::restore(config.to_string(), Arc::new(frame))?)
    }

    /// Calls a method by name, with an object of arguments, as `reseat call` and HTTP do.
    ///
    /// # Errors
    /// Whatever ended the call instead of a value: arguments that do not fit, an error or a panic of the plugin.
    pub fn call<I>(&self, method: &str, arguments: Value) -> Result<Value, CallError>
    where
        I: ExportedBy<P> + ?Sized,
    {
        let json = self.instance.call::<I>(method, &arguments.to_string())?;
        serde_json::from_str(&json).map_err(|error| CallError::Malformed(error.to_string()))
    }

    /// What it has registered, by kind and key.
    pub fn registered(&self) -> Vec<Registration> {
        registered(self.instance.services())
    }

    /// Ends it for this reason: `stopping`, and then it is dropped.
    pub fn stop(mut self, why: Stopping) {
        self.why = why;
    }

    /// Dropped, it stops what it may have begun.
    fn begin(instance: export::Instance<P>) -> Result<Self> {
        let mut instance = Instance { instance, why: Stopping::NeverServed };
        instance.started()?;
        instance.self_check()?;
        instance.why = Stopping::Removed;
        Ok(instance)
    }
}

impl<P: Plugin + Identity> Deref for Instance<P> {
    type Target = P;
    fn deref(&self) -> &P {
        self.instance.plugin()
    }
}

impl<P: Plugin + Identity> Drop for Instance<P> {
    fn drop(&mut self) {
        self.instance.stop(self.why);
    }
}

/// Runs `f`, and also answers with what this thread has written to the log meanwhile. What other threads write goes to
/// standard error as ever.
pub fn logged<R>(f: impl FnOnce() -> R) -> (R, Vec<(Level, String)>) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let listening = Listening { number: NEXT.fetch_add(1, Ordering::Relaxed), before: LISTENING.get() };
    LISTENING.set(listening.number);
    let result = f();
    (result, listening.taken())
}

thread_local! {
    /// Whose lines this thread writes; 0: nobody's. Without a destructor, because this is linked into plugins, too.
    static LISTENING: Cell<u64> = const { Cell::new(0) };
}

/// The lines that are listened for, each with its listener.
static LINES: Mutex<Vec<(u64, Level, String)>> = Mutex::new(Vec::new());

/// Ends the listening, also by a panic.
struct Listening {
    number: u64,
    before: u64,
}

impl Listening {
    fn taken(&self) -> Vec<(Level, String)> {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .extract_if(.., |(number, ..)| *number == self.number)
            .map(|(_, level, text)| (level, text))
            .collect()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENING.set(self.before);
        self.taken();
    }
}

/// Takes a line for whoever listens to this thread. `false`: nobody does.
pub(crate) fn take(level: Level, message: &fmt::Arguments<'_>) -> bool {
    let number = LISTENING.get();
    if number != 0 {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push((number, level, message.to_string()));
    }
    number != 0
}
