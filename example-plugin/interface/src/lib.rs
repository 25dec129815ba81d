//! The interface between rate limiter plugins and their hosts: both depend on this crate, neither on the other.
#![forbid(unsafe_code)]

use plugin_api::prelude::*;

/// Decides who may go on and who has to wait.
#[plugin_api::interface(version = "1.1")]
pub trait RateLimiter {
    /// Takes `cost` tokens out of the bucket of `key`, if they are there.
    fn check(&self, key: &str, cost: u32) -> Decision;

    /// Looks at the bucket of `key` without taking anything; `None` if there is none yet.
    #[since("1.1")]
    fn peek(&self, key: &str) -> Result<Option<Decision>>;
}

/// The answer to a [`RateLimiter::check`].
#[derive(AbiType, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Decision {
    /// Whether the request may go on; if not, no tokens were taken.
    pub allowed: bool,
    /// Whole tokens left in the bucket.
    pub tokens_left: u32,
    /// How long until the same request would be allowed, in milliseconds; 0 if it is, `u64::MAX` if it
    /// never will be, because it costs more than a full bucket holds.
    pub retry_after_ms: u64,
}
