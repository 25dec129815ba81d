//! The settings, from `[plugins.limiter.config]` in the host's `reseat.toml`; what is not set there is what the
//! constants in `lib.rs` say.

use plugin_api::prelude::*;

use crate::buckets::{Rule, TOKEN};
use crate::{BURST, MAX_KEYS, REFILL_PER_SECOND};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many tokens a full bucket holds; at least 1.
    burst: u32,
    /// How many tokens flow back into a bucket in a second; more than 0.
    refill_per_second: f64,
    /// How many keys are remembered; at least 1.
    max_keys: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { burst: BURST, refill_per_second: REFILL_PER_SECOND, max_keys: MAX_KEYS }
    }
}

impl Config {
    /// The rule that they make.
    pub fn rule(&self) -> Result<Rule> {
        let Config { burst, refill_per_second, max_keys } = *self;
        ensure!(burst >= 1, "burst is {burst}; expected at least 1");
        ensure!(max_keys >= 1, "max_keys is {max_keys}; expected at least 1");
        ensure!(
            refill_per_second.is_finite() && refill_per_second > 0.0,
            "refill_per_second is {refill_per_second}; expected a number above 0"
        );
        let full = u128::from(burst) * TOKEN;
        // Rounded once, here; from then on everything is exact.
        let refill = (refill_per_second * (TOKEN / 1000) as f64).round() as u128;
        Ok(Rule { full, refill: refill.clamp(1, full), max_keys })
    }
}
