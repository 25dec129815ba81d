//! What a reseat plugin is written against.
//!
//! # What is not promised
//! * A plugin is trusted native code in the host's address space. A wild pointer, an `abort()` or a stack
//!   overflow in it ends the host. Panics do not: they end the call.
//! * A library that leaves threads running, or that was linked with `-z nodelete`, is not unloaded; the host
//!   says so, with the reason.
//! * `static`s start afresh in every generation. What must survive goes through `save` and `restore`.
//!
//! # Writing a plugin
//!
//! ```
//! use plugin_api::prelude::*;
//!
//! #[plugin_api::interface(version = "1.0")]
//! pub trait Greeter {
//!     fn greet(&self, name: &str) -> String;
//! }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Polite {
//!     greeted: u64,
//! }
//!
//! impl Plugin for Polite {
//!     const STATE_VERSION: u32 = 1;
//!     fn create(_: &Services) -> Result<Self> {
//!         Ok(Polite { greeted: 0 })
//!     }
//!     fn save(&self) -> Result<Saved> {
//!         Saved::encode(self)
//!     }
//!     fn restore(_: &Services, saved: Saved) -> Result<Self> {
//!         saved.decode()
//!     }
//! }
//!
//! impl Greeter for Polite {
//!     fn greet(&self, name: &str) -> String {
//!         format!("Good day, {name}.")
//!     }
//! }
//!
//! export_plugin!(Polite: Greeter);
//! ```
//!
//! In its own crate this is a library with `crate-type = ["cdylib"]`; `reseat new` writes one.

pub mod abi;
pub mod desc;
pub mod interface;
pub mod plugin;
pub mod region;
pub mod registration;
pub mod render;
pub mod services;
pub mod state;
pub mod testing;
pub mod transfer;
pub mod types;
pub mod versions;

mod callback;
#[doc(hidden)]
pub mod capture;
mod contain;
#[doc(hidden)]
pub mod export;
#[doc(hidden)]
pub mod failures;
#[doc(hidden)]
pub mod heap;
mod json;
#[doc(hidden)]
pub mod link;
mod peer;

pub use interface::{CallError, Interface};
pub use peer::{Guard, Handle};
pub use plugin::{Plugin, Stopping};
pub use region::{Region, Shared};
pub use registration::Registration;
pub use services::{CancelToken, Counter, Level, PROBE_VARIABLE, Services, StopToken, log};
pub use state::{Saved, Section, StateWriter};
pub use types::AbiType;

/// Derives [`trait@AbiType`] for a struct or enum whose fields can all cross.
///
/// With `#[repr(C)]` beside `Clone, Copy`, references and slices of it can be lent as arguments too.
pub use reseat_plugin_api_macros::AbiType;
/// Derives [`trait@Shared`] for a `#[repr(C)]` struct whose fields are all shared.
pub use reseat_plugin_api_macros::Shared;
/// Exports a type as a plugin: `export_plugin!(Type: Interface)`, or with several interfaces
/// `export_plugin!(Type: One + Two)`, or under another name than its package's
/// `export_plugin!(Type: Interface, name = "other")`.
///
/// With `allocator = host` the library's global allocator keeps account of what it has got, and the host says at the
/// end of each generation what that has left behind: `it left 48 B in 1 block`. That costs two atomic additions for
/// each allocation.
///
/// With `requires = [Storage >= 1.1, optional Cache]` the plugin calls other plugins that implement these interfaces, which
/// it gets from [`Services::plugin`]. It is loaded when those that are not optional are there, in that version or a later
/// one of the same major version; without a version, in the one that it is built with.
///
/// Use it once per library, in the library's own crate.
pub use reseat_plugin_api_macros::export_plugin;
/// Declares a trait as an interface between plugins and hosts.
///
/// `#[plugin_api::interface(version = "1.1")]`; a method that was added after `1.0` carries
/// `#[since("1.1")]`. Methods take `&self` and ordinary Rust types: see [`trait@AbiType`] and [`types::Lend`].
/// Generates the plugin's side, the host's proxy and the JSON entry from the one declaration.
pub use reseat_plugin_api_macros::interface;

/// `anyhow::Result`: the result of hooks.
pub use anyhow::Result;

/// All that a plugin usually needs.
pub mod prelude {
    pub use crate::{
        AbiType, CallError, CancelToken, Counter, Handle, Plugin, Region, Registration, Result, Saved,
        Section, Services, Shared, StateWriter, StopToken, Stopping, export_plugin, interface,
    };
    pub use anyhow::{Context as _, anyhow, bail, ensure};
    pub use serde::{Deserialize, Serialize};
}

/// For the macros. Not covered by any promise.
#[doc(hidden)]
pub mod __private {
    pub use crate::contain::{Failure, contain, contain_raw};
    pub use crate::interface::{Callback, CallbackGuard, ExportedBy, Interface, RawProxy, call, finish};
    pub use crate::json::{Arguments, CannotReadJson, CannotWriteJson, Probe, ReadJson, WriteJson};
    pub use crate::plugin::{Exported, Identity};
    pub use crate::region::Shared;
    pub use crate::transfer::{Malformed, Outgoing, TailReader, TailWriter, answer, incoming};
    pub use crate::types::{AbiType, Lend, Plain, Returns, lift_part, unknown_variant};
    pub use crate::{abi, capture, desc, export, link, render};
    pub use abi_stable::std_types::{RSlice, RStr};
}
