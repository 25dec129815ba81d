//! A token-bucket rate limiter: each key has a bucket of tokens that refills at a steady rate, and a request goes
//! on if it can take what it costs.
//!
//! Change a constant, save, and watch a running host answer with the new rule while every bucket keeps its tokens.
#![forbid(unsafe_code)]

mod buckets;
mod config;
mod state;

use plugin_api::prelude::*;
use rate_limiter_interface::{Decision, RateLimiter};

use buckets::Buckets;
use config::Config;

/// How many tokens a full bucket holds.
const BURST: u32 = 10;
/// How many tokens flow back into a bucket in a second.
const REFILL_PER_SECOND: f64 = 5.0;
/// How many keys are remembered.
const MAX_KEYS: usize = 100_000;

struct TokenBuckets {
    buckets: Buckets,
    allowed: Counter,
    denied: Counter,
}

impl TokenBuckets {
    fn new(host: &Services, known: state::Known) -> Result<Self> {
        let rule = host.config::<Config>()?.rule()?;
        let buckets = Buckets::new(rule, known, state::now_ms());
        Ok(TokenBuckets { buckets, allowed: host.counter("allowed"), denied: host.counter("denied") })
    }
}

impl Plugin for TokenBuckets {
    const STATE_VERSION: u32 = 2;

    fn create(host: &Services) -> Result<Self> {
        TokenBuckets::new(host, state::Known::default())
    }

    fn save(&self) -> Result<Saved> {
        Saved::encode(&self.buckets.known(state::now_ms()))
    }

    fn restore(host: &Services, saved: Saved) -> Result<Self> {
        let known = match saved.version() {
            2 => saved.decode()?,
            1 => saved.decode::<state::V1>()?.into(),
            other => bail!(saved.unsupported(other)),
        };
        TokenBuckets::new(host, known)
    }
}

impl RateLimiter for TokenBuckets {
    fn check(&self, key: &str, cost: u32) -> Decision {
        let decision = self.buckets.take(key, cost, state::now_ms());
        if decision.allowed {
            self.allowed.add(1)
        } else {
            self.denied.add(1)
        }
        decision
    }

    fn peek(&self, key: &str) -> Result<Option<Decision>> {
        ensure!(!key.is_empty(), "an empty key has no bucket");
        Ok(self.buckets.peek(key, state::now_ms()))
    }
}

export_plugin!(TokenBuckets: RateLimiter);

#[cfg(test)]
mod tests;
