//! The whole boundary in one process: plugins linked into this program are called through the tables that a
//! library would export, exactly as a host calls them.

/// A plugin in this program, as a host sees it.
mod in_process;
/// An interface with every kind of argument and result, and a plugin that hands everything back.
mod kinds;

/// Closures of the caller, called by the plugin.
mod callbacks;
/// What a plugin is told of why it stops.
mod ending;
/// Calls by name, with JSON.
mod json;
/// The hooks of a plugin's life, through the contract.
mod life;
/// Errors, panics, methods that are missing.
mod outcomes;
/// Memory of the host.
mod regions;
/// What a plugin registers.
mod registrations;
/// Values come back as they were.
mod values;
