//! What crosses a reload, in every version that was ever released.
//!
//! Times are by the wall clock, since state may also cross a restart of the host. A clock that jumps back makes
//! no bucket lose anything: time that has not passed refills nothing.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use plugin_api::prelude::*;

use crate::buckets::MILLI;

/// Version 2: thousandths of tokens, and when they were counted.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Sorted by key, so that the same buckets are the same bytes.
    pub buckets: BTreeMap<String, Level>,
}

/// One bucket.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Thousandths of a token.
    pub milli: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Version 1: whole tokens, counted just now.
#[derive(Serialize, Deserialize)]
pub struct V1(pub BTreeMap<String, u32>);

impl From<V1> for Known {
    fn from(V1(tokens): V1) -> Self {
        let at_ms = now_ms();
        let level = |tokens: u32| Level { milli: u64::from(tokens) * MILLI, at_ms };
        Known { buckets: tokens.into_iter().map(|(key, tokens)| (key, level(tokens))).collect() }
    }
}

/// The time, in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
