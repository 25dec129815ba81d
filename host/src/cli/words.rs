//! Values of settings that are words, or are read as such.

use std::time::Duration;

use reseat::{DrainPolicy, LostState, ReloadMode, TrustedKey, WatcherKind};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// What becomes of a handover for which calls do not end.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    Refuse,
    Wait,
    Overlap,
}

impl From<Policy> for DrainPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Refuse => DrainPolicy::Refuse,
            Policy::Wait => DrainPolicy::Wait,
            Policy::Overlap => DrainPolicy::Overlap,
        }
    }
}

/// How directories are watched.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watching {
    Native,
    Poll,
    None,
}

/// When new builds take over.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Auto,
    OnDemand,
    BetweenScopes,
    Never,
}

impl From<Mode> for ReloadMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => ReloadMode::Auto,
            Mode::OnDemand => ReloadMode::OnDemand,
            Mode::BetweenScopes => ReloadMode::BetweenScopes,
            Mode::Never => ReloadMode::Never,
        }
    }
}

/// What becomes of a state that cannot be written for the build before.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    Earlier,
    Stay,
}

impl From<Lost> for LostState {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Earlier => LostState::Earlier,
            Lost::Stay => LostState::Stay,
        }
    }
}

impl Watching {
    /// With this pause between two looks, where looks are what it takes.
    pub fn every(self, pause: Duration) -> WatcherKind {
        match self {
            Watching::Native => WatcherKind::Native,
            Watching::Poll => WatcherKind::Poll(pause),
            Watching::None => WatcherKind::None,
        }
    }
}

/// Lines as minisign writes them.
pub fn trusted_keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<TrustedKey>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts
        .iter()
        .map(|text| text.parse().map_err(|why| D::Error::custom(format!("{text:?}: {why}"))))
        .collect()
}

/// A part of 100.
pub fn percent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u8>, D::Error> {
    let percent = u64::deserialize(from)?;
    let fitting = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
    fitting.map(Some).ok_or_else(|| D::Error::custom(format!("{percent} of 100 scopes: 100 is the most")))
}
