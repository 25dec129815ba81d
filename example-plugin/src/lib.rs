//! A token-bucket rate limiter: stub
#![forbid(unsafe_code)]

use plugin_api::prelude::*;
use rate_limiter_interface::{Decision, RateLimiter};

#[derive(Serialize, Deserialize)]
struct TokenBuckets {}

impl Plugin for TokenBuckets {
    const STATE_VERSION: u32 = 1;
    fn create(_: &Services) -> Result<Self> {
        Ok(TokenBuckets {})
    }
    fn save(&self) -> Result<Saved> {
        Saved::encode(self)
    }
    fn restore(_: &Services, saved: Saved) -> Result<Self> {
        saved.decode()
    }
}

impl RateLimiter for TokenBuckets {
    fn check(&self, _key: &str, cost: u32) -> Decision {
        Decision { allowed: true, tokens_left: cost, retry_after_ms: 0 }
    }
    fn peek(&self, key: &str) -> Result<Option<Decision>> {
        ensure!(!key.is_empty(), "empty");
        Ok(None)
    }
}

export_plugin!(TokenBuckets: RateLimiter);
