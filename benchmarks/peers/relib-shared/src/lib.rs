//! What relib generates its bindings from, in the host and in the module.

pub mod exports;

/// The source of [`exports`].
pub const EXPORTS: &str = include_str!("exports.rs");
