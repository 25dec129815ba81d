//! What crosses a reload, in every version that was ever released.
//!
//! A reload neither refills nor drains a bucket, except for the time that really passed. Ages are measured by a
//! clock that does not jump; the clock on the wall only bridges the moment between `save` and `restore`, or the
//! time in which no host ran. If it jumps back in between, no time has passed.

use std::collections::BTreeMap;

use plugin_api::prelude::*;

use crate::buckets::{Buckets, Level, TOKEN};

/// Version 2.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct V2 {
    /// When this was written, by the clock on the wall.
    pub saved_at_ms: u64,
    /// Sorted by key, so that equal buckets are equal bytes.
    pub buckets: BTreeMap<String, Bucket>,
}

/// One bucket of version 2.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Whole tokens.
    pub tokens: u32,
    /// What is more than whole tokens, in units.
    pub units: u64,
    /// How long before `saved_at_ms` that was.
    pub age_ms: u64,
}

/// Version 1: whole tokens, counted just now.
#[derive(Serialize, Deserialize)]
pub struct V1(pub BTreeMap<String, u32>);

impl V2 {
    /// All buckets, at one moment by both clocks.
    pub fn of(buckets: &Buckets, now_ms: u64, wall_ms: u64) -> Self {
        let bucket = |(key, level): (String, Level)| (key, Bucket::of(level, now_ms));
        V2 { saved_at_ms: wall_ms, buckets: buckets.levels(now_ms).into_iter().map(bucket).collect() }
    }

    /// Puts them back, at another moment by both clocks.
    pub fn put_into(&self, buckets: &Buckets, now_ms: u64, wall_ms: u64) {
        let since_saved = wall_ms.saturating_sub(self.saved_at_ms);
        for (key, bucket) in &self.buckets {
            let age = bucket.age_ms.saturating_add(since_saved);
            let level = Level { units: bucket.units(), at_ms: now_ms.saturating_sub(age) };
            buckets.restore(key, level, now_ms);
        }
    }
}

impl Bucket {
    fn of(level: Level, now_ms: u64) -> Self {
        Bucket {
            tokens: u32::try_from(level.units / TOKEN).unwrap_or(u32::MAX),
            units: (level.units % TOKEN) as u64,
            age_ms: now_ms.saturating_sub(level.at_ms),
        }
    }

    fn units(&self) -> u128 {
        u128::from(self.tokens) * TOKEN + u128::from(self.units)
    }
}

impl V1 {
    /// As version 2 would have written it.
    pub fn into_v2(self, wall_ms: u64) -> V2 {
        let bucket = |(key, tokens)| (key, Bucket { tokens, units: 0, age_ms: 0 });
        V2 { saved_at_ms: wall_ms, buckets: self.0.into_iter().map(bucket).collect() }
    }
}
