//! A token-bucket rate limiter: each key has a bucket of tokens that refills at a steady rate, and a request goes
//! on if it can take what it costs.
//!
//! Change a constant, save, and watch a running host answer with the new rule while every bucket keeps its tokens.
#![forbid(unsafe_code)]

mod buckets;
mod clock;
mod config;
mod state;

use plugin_api::prelude::*;
use rate_limiter_interface::{Decision, RateLimiter};

use buckets::Buckets;
use clock::{Clock, wall_ms};
use config::Config;
use state::{V1, V2};

/// How many tokens a full bucket holds.
const BURST: u32 = 10;
/// How many tokens flow back into a bucket in a second.
const REFILL_PER_SECOND: f64 = 5.0;
/// How many keys are remembered.
const MAX_KEYS: usize = 100_000;

struct TokenBuckets {
    buckets: Buckets,
    clock: Clock,
    allowed: Counter,
    denied: Counter,
}

impl Plugin for TokenBuckets {
    const STATE_VERSION: u32 = 2;
    /// Each bucket is true by itself.
    const SAVES_BESIDE_CALLS: bool = true;

    fn create(host: &Services) -> Result<Self> {
        let buckets = Buckets::new(host.config::<Config>()?.rule()?);
        let (allowed, denied) = (host.counter("allowed"), host.counter("denied"));
        Ok(TokenBuckets { buckets, clock: Clock::start(), allowed, denied })
    }

    fn save(&self) -> Result<Saved> {
        Saved::encode(&V2::of(&self.buckets, self.clock.now_ms(), wall_ms()))
    }

    fn restore(host: &Services, saved: Saved) -> Result<Self> {
        let state = match saved.version() {
            2 => saved.decode::<V2>()?,
            1 => saved.decode::<V1>()?.into_v2(wall_ms()),
            other => bail!(saved.unsupported(other)),
        };
        let limiter = TokenBuckets::create(host)?;
        state.put_into(&limiter.buckets, limiter.clock.now_ms(), wall_ms());
        Ok(limiter)
    }
}

impl RateLimiter for TokenBuckets {
    fn check(&self, key: &str, cost: u32) -> Decision {
        let decision = self.buckets.take(key, cost, self.clock.now_ms());
        let counter = if decision.allowed { self.allowed } else { self.denied };
        counter.add(1);
        decision
    }

    fn peek(&self, key: &str) -> Result<Option<Decision>> {
        ensure!(!key.is_empty(), "an empty key has no bucket");
        Ok(self.buckets.peek(key, self.clock.now_ms()))
    }
}

export_plugin!(TokenBuckets: RateLimiter);

#[cfg(test)]
mod tests;
