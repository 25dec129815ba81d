//! The buckets. Tokens are counted in thousandths, so that sums are exact.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rate_limiter_interface::Decision;

use crate::state::{Known, Level};

/// Thousandths in a token.
pub const MILLI: u64 = 1000;
/// How many locks the keys are spread over.
const SHARDS: usize = 16;
/// How many buckets are looked at to find one to forget.
const SAMPLE: usize = 16;

/// What a bucket holds and how it refills.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// A full bucket, in thousandths of a token.
    pub full: u64,
    /// Tokens in a second, which is thousandths in a millisecond.
    pub per_ms: f64,
    /// How many keys are remembered.
    pub max_keys: usize,
}

impl Rule {
    /// The level at a time.
    fn refilled(&self, level: Level, now_ms: u64) -> Level {
        let passed = now_ms.saturating_sub(level.at_ms);
        let gained = (passed as f64 * self.per_ms) as u64;
        if level.milli.saturating_add(gained) >= self.full {
            return Level { milli: self.full, at_ms: now_ms.max(level.at_ms) };
        }
        if gained == 0 {
            // The time is kept, so that many short waits refill as much as a long one.
            return level;
        }
        // Only the time that the whole thousandths took; the rest goes on counting.
        let used = (gained as f64 / self.per_ms) as u64;
        Level { milli: level.milli + gained, at_ms: level.at_ms + used.min(passed) }
    }

    fn decide(&self, level: Level, cost: u32) -> Decision {
        let cost = u64::from(cost) * MILLI;
        let tokens_left = |milli: u64| (milli / MILLI) as u32;
        if cost <= level.milli {
            return Decision {
                allowed: true,
                tokens_left: tokens_left(level.milli - cost),
                retry_after_ms: 0,
            };
        }
        let retry_after_ms = match cost <= self.full {
            true => ((cost - level.milli) as f64 / self.per_ms).ceil() as u64,
            false => u64::MAX,
        };
        Decision { allowed: false, tokens_left: tokens_left(level.milli), retry_after_ms }
    }
}

/// All buckets.
pub struct Buckets {
    rule: Rule,
    hasher: RandomState,
    shards: [Mutex<HashMap<String, Level>>; SHARDS],
}

impl Buckets {
    /// Buckets that are known from before, under a rule that may be another than they were filled by.
    pub fn new(rule: Rule, known: Known, now_ms: u64) -> Self {
        let buckets = Buckets { rule, hasher: RandomState::new(), shards: Default::default() };
        for (key, level) in known.buckets {
            let level = Level { milli: level.milli.min(rule.full), at_ms: level.at_ms.min(now_ms) };
            buckets.store(&mut buckets.shard(&key), &key, level, now_ms);
        }
        buckets
    }

    /// Takes tokens, if they are there. A cost of nothing takes nothing, and makes no bucket.
    pub fn take(&self, key: &str, cost: u32, now_ms: u64) -> Decision {
        let mut shard = self.shard(key);
        let level = self.level(&shard, key, now_ms);
        let decision = self.rule.decide(level, cost);
        if decision.allowed && cost > 0 {
            let left = Level { milli: level.milli - u64::from(cost) * MILLI, ..level };
            self.store(&mut shard, key, left, now_ms);
        }
        decision
    }

    /// Looks at a bucket that there is.
    pub fn peek(&self, key: &str, now_ms: u64) -> Option<Decision> {
        let shard = self.shard(key);
        shard.contains_key(key).then(|| self.rule.decide(self.level(&shard, key, now_ms), 0))
    }

    /// What crosses a reload. Full buckets need not: a key without a bucket has a full one.
    pub fn known(&self, now_ms: u64) -> Known {
        let mut known = Known::default();
        for shard in &self.shards {
            let shard = lock(shard);
            let not_full = |level: &Level| self.rule.refilled(*level, now_ms).milli < self.rule.full;
            let levels = shard.iter().filter(|(_, level)| not_full(level));
            known.buckets.extend(levels.map(|(key, level)| (key.clone(), *level)));
        }
        known
    }

    /// How many keys are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn level(&self, shard: &HashMap<String, Level>, key: &str, now_ms: u64) -> Level {
        match shard.get(key) {
            Some(level) => self.rule.refilled(*level, now_ms),
            None => Level { milli: self.rule.full, at_ms: now_ms },
        }
    }

    /// Keeps a level. At the limit another bucket is forgotten first: of a few that are looked at, the fullest,
    /// which is the one whose key has the least to gain by it.
    fn store(&self, shard: &mut HashMap<String, Level>, key: &str, level: Level, now_ms: u64) {
        if let Some(known) = shard.get_mut(key) {
            *known = level;
            return;
        }
        if shard.len() >= self.rule.max_keys.div_ceil(SHARDS) {
            let refilled = |level: &Level| self.rule.refilled(*level, now_ms).milli;
            let fullest = shard.iter().take(SAMPLE).max_by_key(|(_, level)| refilled(level));
            if let Some(key) = fullest.map(|(key, _)| key.clone()) {
                shard.remove(&key);
            }
        }
        shard.insert(key.to_owned(), level);
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, HashMap<String, Level>> {
        lock(&self.shards[self.hasher.hash_one(key) as usize % SHARDS])
    }
}

/// A panic between two statements here would leave a map that is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
