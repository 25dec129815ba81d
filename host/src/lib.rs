//! reseat replaces native code in a running process: a plugin host for Rust `cdylib`s.
//!
//! # What is not promised
//! * A plugin is trusted native code in the same address space. A wild pointer, an `abort()` or a stack overflow
//!   in it ends the host. Panics do not: they end the call.
//! * A generation that something still uses is not unloaded by force. It lingers, and the host says why.
//! * Only Linux with glibc on x86-64 has been run. Other platforms are prepared for, not claimed.
//!
//! # Embedding
//!
//! ```no_run
//! use rate_limiter_interface::RateLimiter;
//! use reseat::{Handle, Host, Options, TrustedDir};
//!
//! // SAFETY: only our own build writes to this directory.
//! let plugins = unsafe { TrustedDir::new("plugins") };
//! let host = Host::start(Options { watch: vec![plugins], ..Options::default() })?;
//! let limiter: Handle<dyn RateLimiter> = host.plugin("limiter")?;
//!
//! let decision = limiter.enter()?.check("alice", 1)?;
//! println!("{decision:?}");
//! for event in host.events() {
//!     println!("{event}");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]
#![allow(clippy::result_large_err)] // a refusal is rare, and carries what a person needs

mod batches;
mod beside;
mod builds;
mod by_name;
mod check;
mod deputy;
mod error;
mod event_text;
mod events;
#[cfg(feature = "faults")]
#[doc(hidden)]
pub mod fault;
mod ffi;
pub mod file;
pub mod gate;
mod handle;
mod host;
mod intake;
mod journal;
mod lazy;
mod lock;
mod meter;
mod mode;
mod numbers;
mod observer;
mod opening;
mod options;
mod outcome;
mod peer;
mod plugin;
mod probation;
pub mod probe;
mod reaper;
mod reconfigure;
mod refusal;
mod registrations;
mod registry;
mod reload;
mod requirements;
mod scope;
mod shutdown;
mod snapshot;
mod source;
mod status;
mod step;
mod store;
mod together;
#[cfg(feature = "tower")]
pub mod tower;
mod unit;
pub mod watch;
mod why;

pub use batches::{BatchPart, Batches};
pub use beside::Canary;
pub use builds::{BuildFailure, CrateBuild, FailedBuild};
pub use check::{Inspection, SignatureStatus, compare, inspect, signer};
pub use error::{
    CheckError, GenerationError, PluginError, ReloadError, StartError, StateError, UnloadError, WhyError,
};
pub use events::{Event, Left, RolledBackState, Step, StepTime};
pub use file::{KeyId, NotSigned, TrustedKey};
pub use handle::{Guard, Handle, Lease};
pub use host::{Host, quiesce};
pub use journal::{Events, Recorded};
pub use mode::ReloadMode;
pub use observer::{Change, Observer, Observers, Retirement};
pub use options::{DrainPolicy, MaxLingering, Options, PluginOptions, TrustedDir, TrustedFile};
pub use outcome::Outcome;
pub use plugin_api::{CallError, Interface, Stopping};
pub use probation::{LostState, Probation};
pub use probe::Probe;
pub use reconfigure::Reconfigured;
pub use refusal::{Refusal, RefusalReason};
pub use registrations::{DispatchError, Notified, Registered};
pub use scope::{OwnedScope, Scope, Scoped};
pub use source::{LookAt, WatchSource, WatcherKind};
pub use status::{
    CallFigures, GenerationStatus, HostStatus, InterfaceStatus, MethodStatus, Phase, PluginStatus,
};
pub use store::{Committed, Denial, SavedState, StoreError};
pub use unit::ScopeObserver;
pub use why::{Holder, Holders, Missing, OldGeneration, UnderWay, WaitingBuild, WaitingCallers, Why};
