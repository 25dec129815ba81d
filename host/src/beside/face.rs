//! What an embedder asks of generations beside the serving one.

use std::sync::Arc;

use super::{Canary, candidate, kept};
use crate::by_name;
use crate::error::{GenerationError, ReloadError};
use crate::host::Host;
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::plugin::Plugin;
use crate::reload::{self, Wish};

impl Host {
    /// As [`Host::reload`], but the generation before stays beside the new one, for as long as it is among the `most`
    /// youngest that were kept: whoever asks for it by its number ([`Scope::enter_at`](crate::Scope::enter_at)) calls it, and
    /// nobody else. Older ones than those retire. With 0 this is `reload`.
    ///
    /// Reloads that keep nothing leave those that are kept alone; [`Host::release`] and [`Host::unload`] do not. A kept
    /// generation does not linger, and does not count for [`Options::max_lingering`](crate::Options::max_lingering).
    ///
    /// # Errors
    /// As for [`Host::reload`]; [`RefusalReason::TwoStates`](crate::RefusalReason::TwoStates) if the plugin has a state, and
    /// [`RefusalReason::KeepsTooMany`](crate::RefusalReason::KeepsTooMany) beyond 16.
    pub fn reload_keeping(&self, plugin: &str, most: usize) -> Result<Outcome, ReloadError> {
        self.reload_as(plugin, None, Wish { force: true, keep: most, ..Wish::default() })
    }

    /// The generations of a plugin that are kept, oldest first.
    pub fn kept(&self, plugin: &str) -> Vec<u64> {
        self.core.find(plugin).map_or_else(Vec::new, |plugin| plugin.beside.kept())
    }

    /// Lets a generation go that is kept. Whoever is in it stays until they leave.
    ///
    /// # Errors
    /// It is not kept; a transaction is under way.
    pub fn release(&self, plugin: &str, generation: u64) -> Result<(), GenerationError> {
        kept::release(&self.core, &self.find_generations(plugin)?, generation)
    }

    /// Reloads a plugin, from its own file or another, so that `percent` of 100 scopes get the new build first: see
    /// [`Canary`]. Also from another file it goes on being followed where it was, as by [`Host::reload_from`]. A candidate that
    /// is there already is discarded for it. If nothing serves, it is loaded.
    ///
    /// # Errors
    /// As for [`Host::reload`]; [`RefusalReason::TwoStates`](crate::RefusalReason::TwoStates) if the plugin has a state.
    pub fn reload_as_canary(
        &self,
        plugin: &str,
        file: Option<&TrustedFile>,
        percent: u8,
    ) -> Result<Outcome, ReloadError> {
        let canary = Some(Canary { percent });
        self.reload_as(plugin, file, Wish { force: true, canary, ..Wish::default() })
    }

    /// Publishes the candidate of a plugin for everybody, whatever it has proved: the scopes that are in it go on, and it is
    /// on probation like a build that was reloaded.
    ///
    /// # Errors
    /// [`RefusalReason::NoCandidate`](crate::RefusalReason::NoCandidate); it does not fit any more, and is discarded; a
    /// transaction is under way.
    pub fn promote(&self, plugin: &str) -> Result<Outcome, ReloadError> {
        reload::promote(&self.core, &self.find(plugin)?, None)
    }

    /// Discards the candidate of a plugin. Its build is denied, as one is that was sent back. Scopes that are in it stay
    /// until they end.
    ///
    /// # Errors
    /// [`RefusalReason::NoCandidate`](crate::RefusalReason::NoCandidate); a transaction is under way.
    pub fn discard(&self, plugin: &str) -> Result<(), ReloadError> {
        candidate::discard(&self.core, &self.find(plugin)?, None, "it was asked for")
    }

    /// As [`Host::call`], in this generation: the one that serves, one that is kept, or a candidate.
    ///
    /// # Errors
    /// It is not there, or [`GenerationError::Call`].
    pub fn call_at(
        &self,
        plugin: &str,
        generation: u64,
        method: &str,
        arguments: &str,
    ) -> Result<String, GenerationError> {
        let plugin = self.find_generations(plugin)?;
        let loaded = plugin.enter_generation(generation)?;
        Ok(by_name::call(&plugin, &loaded, method, arguments)?)
    }

    fn find_generations(&self, plugin: &str) -> Result<Arc<Plugin>, GenerationError> {
        self.find(plugin).map_err(|error| match error {
            ReloadError::NoSuchPlugin { name, known } => GenerationError::NoSuchPlugin { name, known },
            _ => GenerationError::Closed,
        })
    }
}
