//! The time, for as long as one generation lives: it never jumps, whatever is done to the clock on the wall.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub struct Clock(Instant);

impl Clock {
    /// What every clock shows when it starts: far from zero, so that what was before is a number, too.
    pub const START_MS: u64 = 1 << 62;

    pub fn start() -> Self {
        Clock(Instant::now())
    }

    /// Milliseconds.
    pub fn now_ms(&self) -> u64 {
        Self::START_MS + self.0.elapsed().as_millis() as u64
    }
}

/// The clock on the wall, in milliseconds since 1970: what two generations, or two processes, have in common.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
