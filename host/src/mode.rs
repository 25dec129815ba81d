//! When a new build of a plugin takes over.

use std::time::Duration;

/// When a new build takes over, once the plugin serves. See [`Options::mode`].
///
/// In each mode the build is looked at first, without running any of it: one that would not be accepted is refused at
/// once. What waits is told, once for each build, as [`Event::Waiting`].
///
/// [`Options::mode`]: crate::Options::mode
/// [`Event::Waiting`]: crate::Event::Waiting
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReloadMode {
    /// As soon as its file is complete.
    #[default]
    Auto,
    /// When somebody asks for it, with [`Host::reload`](crate::Host::reload).
    OnDemand,
    /// At a moment when no scope, owned or not, has called the plugin and still lasts. Guards and leases outside of
    /// scopes are waited for behind a closed gate, as ever. Scopes are not: while one is under way the gate stays open,
    /// so that no drain runs out of time for the sake of a scope. This holds for reloads that are asked for, too.
    ///
    /// Where scopes overlap all the time there is no such moment. After
    /// [`Options::scope_wait`](crate::Options::scope_wait) the reload goes on as in `Auto`.
    ///
    /// Scopes that had called the plugin before it got this mode count as guards. A plugin without a state is replaced
    /// without closing its gate: a scope that begins at that very moment ends in the old generation.
    BetweenScopes,
    /// Never: what was loaded at the start stays. Later builds are ignored, and [`Host::reload`](crate::Host::reload) is
    /// refused. The way to a new build is the next host, or [`Host::unload`](crate::Host::unload) and a load.
    Never,
}

/// Unless told otherwise, how long a build waits for a moment without scopes.
pub(crate) const SCOPE_WAIT: Duration = Duration::from_secs(60);

/// What a build waits for that does not fit those who call its plugin, in a word.
pub(crate) const PARTNERS: &str = "partners";

/// What a build waits for until somebody asks for it, in a word.
pub(crate) const ON_DEMAND: &str = "on-demand";
