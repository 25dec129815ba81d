//! What became of a file.

use serde::Serialize;

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
    /// It gets a part of the scopes, until it has proved itself.
    Candidate {
        /// The plugin.
        plugin: String,
        /// The candidate.
        generation: u64,
        /// The generation that serves.
        serving: Option<u64>,
        /// How many of 100 scopes go to the candidate.
        percent: u8,
    },
    /// It would be accepted; nothing was changed.
    Acceptable {
        /// The plugin.
        plugin: String,
        /// The version of the build.
        version: String,
        /// The generation that serves, and would be replaced.
        serving: Option<u64>,
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
            Outcome::Candidate { plugin, generation, percent, .. } => {
                write!(f, "generation {generation} of {plugin} gets {percent} of 100 scopes")
            }
            Outcome::Acceptable { plugin, version, serving: Some(serving) } => {
                write!(f, "version {version} of {plugin} would be accepted after generation {serving}")
            }
            Outcome::Acceptable { plugin, version, serving: None } => {
                write!(f, "version {version} of {plugin} would be accepted")
            }
            Outcome::Unchanged { plugin, generation } => {
                write!(f, "unchanged: generation {generation} of {plugin} is this build")
            }
        }
    }
}
