//! The book's snippets, compiled: each page with Rust in it is the documentation of an item here, so that
//! `cargo test --doc` compiles what it shows, and runs what can be run.

/// Writing plugins.
#[doc = include_str!("writing-plugins.md")]
pub mod writing_plugins {}

/// Interfaces.
#[doc = include_str!("interfaces.md")]
pub mod interfaces {}

/// State.
#[doc = include_str!("state.md")]
pub mod state {}

/// Embedding.
#[doc = include_str!("embedding.md")]
pub mod embedding {}

/// Migrating from hot-lib-reloader.
#[doc = include_str!("migrating-from-hot-lib-reloader.md")]
pub mod migrating {}

/// The program that `reseat new --template own-interface` shows in the README that it writes, with the interface that it
/// writes.
#[doc = include_str!(concat!(env!("OUT_DIR"), "/embedder.md"))]
pub mod embedder {}
