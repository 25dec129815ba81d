//! Plugins that an embedder, an operator or a build has changed at one moment.

use std::collections::BTreeSet;

use crate::error::ReloadError;
use crate::host::Host;
use crate::lock::lock;
use crate::options::TrustedFile;
use crate::outcome::Outcome;
use crate::refusal::{Refusal, RefusalReason};
use crate::reload::Wish;

impl Host {
    /// Reloads several plugins at one moment: all of them, or, if one is refused, none. Whoever is in one of the old
    /// generations meanwhile, with a guard or in a scope, finds the others of the set as they were with it, and whoever
    /// comes later finds all of them new. Their files may fit one another only: an interface and all who call it can
    /// change together.
    ///
    /// Calls that are made by plugins under a plain [`Lease`](crate::Lease) are not part of that: take it in an
    /// [`OwnedScope`](crate::OwnedScope).
    ///
    /// # Errors
    /// As for [`Host::reload`]: the refusal is of the one that has stopped them. Each of the others is told of as refused
    /// because of that one. The outcomes are in the order of the plugins' names.
    pub fn reload_together(&self, plugins: &[&str]) -> Result<Vec<Outcome>, ReloadError> {
        let mut files = Vec::new();
        for name in plugins.iter().collect::<BTreeSet<_>>() {
            let plugin = self.find(name)?;
            let file = TrustedFile::watched(plugin.record().file.clone());
            files.push((file, Wish { force: true, only: Some(plugin.name.clone()), ..Wish::default() }));
        }
        together(self.core.load_together(files))
    }

    /// The same from other files than those that they came from, which go on being followed: see [`Host::reload_from`]. The
    /// outcomes are in the order of the files.
    ///
    /// # Errors
    /// As for [`Host::reload_together`].
    pub fn reload_together_from(&self, files: &[(&str, &TrustedFile)]) -> Result<Vec<Outcome>, ReloadError> {
        let wish = |plugin: &str| Wish { force: true, only: Some(plugin.to_owned()), ..Wish::default() };
        let files = files.iter().map(|(plugin, file)| {
            self.find(plugin)?;
            Ok(((*file).clone(), wish(plugin)))
        });
        together(self.core.load_together(files.collect::<Result<_, ReloadError>>()?))
    }

    /// Loads several files at one moment, each as [`Host::load`] does: all of them, or, if one is refused, none.
    ///
    /// # Errors
    /// As for [`Host::reload_together`].
    pub fn load_together(&self, files: &[TrustedFile]) -> Result<Vec<Outcome>, ReloadError> {
        together(self.core.load_together(files.iter().map(|file| (file.clone(), Wish::default())).collect()))
    }

    /// Loads files that one build has made. Those of plugins that have to do with one another take over at one moment, all of
    /// them or none, but for what does not fit them, which waits; others each for themselves. What may be accepted
    /// later is tried again as by [`Host::load_or_retry`]. What has become of each, in the order of the files.
    pub fn load_all_or_retry(&self, files: &[TrustedFile]) -> Vec<Result<Outcome, ReloadError>> {
        let results = self.core.load_all(files);
        if let Some(intake) = &*lock(&self.intake) {
            for (file, result) in files.iter().zip(&results) {
                result.as_ref().err().into_iter().for_each(|error| intake.retry(file, error));
            }
        }
        results
    }
}

/// The outcomes of all, or the refusal of the one that has stopped the others.
fn together(results: Vec<Result<Outcome, ReloadError>>) -> Result<Vec<Outcome>, ReloadError> {
    let (mut outcomes, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => errors.push(error),
        }
    }
    let is_because_of_another = |error: &ReloadError| {
        matches!(error, ReloadError::Refused(Refusal { reason: RefusalReason::Partner { .. }, .. }))
    };
    let own = errors.iter().position(|error| !is_because_of_another(error));
    if errors.is_empty() { Ok(outcomes) } else { Err(errors.swap_remove(own.unwrap_or(0))) }
}
