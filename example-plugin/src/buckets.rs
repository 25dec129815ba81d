//! The buckets: who has how many tokens. Knows nothing of plugins, and is told the time.
//!
//! Tokens are counted in units so small that every refill is a whole number of them, and all sums are exact: it
//! makes no difference how often a bucket is looked at, or how many threads take from it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rate_limiter_interface::Decision;

/// Units in a token.
pub const TOKEN: u128 = 1_000_000_000_000_000_000;
/// How many locks the keys are spread over, at most; and how many keys there are for each, at least.
const SHARDS: usize = 16;
const SHARD: usize = 64;
/// How many buckets are looked at to find one to forget.
const SAMPLE: usize = 16;

/// What a bucket holds and how it refills.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// A full bucket, in units.
    pub full: u128,
    /// What flows back in a millisecond, in units; at least 1.
    pub refill: u128,
    /// How many keys are remembered; at least 1.
    pub max_keys: usize,
}

/// What was in a bucket at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// In units.
    pub units: u128,
    /// By the clock that the caller reads, in milliseconds.
    pub at_ms: u64,
}

impl Rule {
    fn refilled(&self, level: Level, now_ms: u64) -> Level {
        // Another thread may have read the clock a little later and come here a little sooner.
        let passed = now_ms.saturating_sub(level.at_ms);
        let units = self.refill.saturating_mul(passed.into()).saturating_add(level.units);
        Level { units: units.min(self.full), at_ms: now_ms.max(level.at_ms) }
    }

    fn decide(&self, level: Level, cost: u32) -> Decision {
        let cost = u128::from(cost) * TOKEN;
        let tokens_left = |units: u128| u32::try_from(units / TOKEN).unwrap_or(u32::MAX);
        if cost <= level.units {
            let left = level.units - cost;
            return Decision { allowed: true, tokens_left: tokens_left(left), retry_after_ms: 0 };
        }
        let missing = (cost - level.units).div_ceil(self.refill);
        let retry_after_ms = if cost > self.full { u64::MAX } else { missing.try_into().unwrap_or(u64::MAX) };
        Decision { allowed: false, tokens_left: tokens_left(level.units), retry_after_ms }
    }
}

/// All buckets.
pub struct Buckets {
    rule: Rule,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    /// Buckets in all shards. The limit is one for all of them: how the keys are spread differs from process to
    /// process, and must not decide who is forgotten in a reload.
    count: AtomicUsize,
}

impl Buckets {
    /// No buckets, which is as good as a full one for everybody.
    pub fn new(rule: Rule) -> Self {
        let shards = (rule.max_keys / SHARD).clamp(1, SHARDS);
        let shards = std::iter::repeat_with(Mutex::default).take(shards).collect();
        Buckets { rule, hasher: RandomState::new(), shards, count: AtomicUsize::new(0) }
    }

    /// Puts a bucket back that was filled under another rule, perhaps.
    pub fn restore(&self, key: &str, level: Level, now_ms: u64) {
        let level = Level { units: level.units.min(self.rule.full), ..level };
        self.store(&mut self.shard(key), key, level, now_ms);
    }

    /// Takes tokens, if they are there. A cost of nothing takes nothing, and makes no bucket.
    pub fn take(&self, key: &str, cost: u32, now_ms: u64) -> Decision {
        let mut shard = self.shard(key);
        let level = shard.level(&self.rule, key, now_ms);
        let decision = self.rule.decide(level, cost);
        if decision.allowed && cost > 0 {
            let left = Level { units: level.units - u128::from(cost) * TOKEN, ..level };
            self.store(&mut shard, key, left, now_ms);
        }
        decision
    }

    /// Looks at a bucket that there is.
    pub fn peek(&self, key: &str, now_ms: u64) -> Option<Decision> {
        let shard = self.shard(key);
        let known = shard.places.contains_key(key);
        known.then(|| self.rule.decide(shard.level(&self.rule, key, now_ms), 0))
    }

    /// The buckets that are not full, in no order. A key without a bucket has a full one, so the others need
    /// not be kept.
    pub fn levels(&self, now_ms: u64) -> Vec<(String, Level)> {
        let mut levels = Vec::new();
        for shard in &self.shards {
            let refilled =
                |(key, level): &(Arc<str>, Level)| (key.to_string(), self.rule.refilled(*level, now_ms));
            let not_full = |(_, level): &(String, Level)| level.units < self.rule.full;
            levels.extend(lock(shard).buckets.iter().map(refilled).filter(not_full));
        }
        levels
    }

    /// How many keys are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).buckets.len()).sum()
    }

    fn store(&self, shard: &mut Shard, key: &str, level: Level, now_ms: u64) {
        if let Some(&place) = shard.places.get(key) {
            shard.buckets[place].1 = level;
            return;
        }
        // A shard that has nothing to forget may go beyond the limit: whoever takes tokens is remembered.
        let nothing = shard.buckets.is_empty();
        let room = |count| (nothing || count < self.rule.max_keys).then_some(count + 1);
        if self.count.fetch_update(Relaxed, Relaxed, room).is_ok() {
            shard.add(key.into(), level);
        } else {
            let place = shard.least_missed(&self.rule, now_ms);
            shard.replace(place, key.into(), level);
        }
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let number = self.hasher.hash_one(key) % self.shards.len() as u64;
        lock(&self.shards[number as usize])
    }
}

/// The keys behind one lock.
#[derive(Default)]
struct Shard {
    /// In places that they keep, so that a hand can go round.
    buckets: Vec<(Arc<str>, Level)>,
    places: HashMap<Arc<str>, usize>,
    hand: usize,
}

impl Shard {
    fn add(&mut self, key: Arc<str>, level: Level) {
        self.places.insert(key.clone(), self.buckets.len());
        self.buckets.push((key, level));
    }

    fn replace(&mut self, place: usize, key: Arc<str>, level: Level) {
        let (forgotten, _) = std::mem::replace(&mut self.buckets[place], (key.clone(), level));
        self.places.remove(&forgotten);
        self.places.insert(key, place);
    }

    /// The place of the bucket to forget at the limit: of the next few that the hand comes to, the fullest, and
    /// among equals the one that was used least recently. Who is forgotten has a full bucket again, so the
    /// fullest has the least to gain by it: a flood of new keys pushes out itself, and not those who have used
    /// up their tokens.
    fn least_missed(&mut self, rule: &Rule, now_ms: u64) -> usize {
        let count = self.buckets.len();
        let rank = |place: &usize| {
            let level = self.buckets[*place].1;
            (rule.refilled(level, now_ms).units, now_ms.saturating_sub(level.at_ms))
        };
        let sample = (0..SAMPLE.min(count)).map(|step| (self.hand + step) % count);
        let place = sample.max_by_key(rank).expect("at the limit, a shard that forgets has a bucket");
        self.hand = (self.hand + SAMPLE) % count;
        place
    }

    fn level(&self, rule: &Rule, key: &str, now_ms: u64) -> Level {
        match self.places.get(key) {
            Some(&place) => rule.refilled(self.buckets[place].1, now_ms),
            None => Level { units: rule.full, at_ms: now_ms },
        }
    }
}

/// A panic between two statements here would leave maps that are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
