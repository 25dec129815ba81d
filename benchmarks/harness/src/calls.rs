//! One call, in every way there is.
//!
//! Where a loop lies in its cache lines can change a call of 1.5 ns by half. So each way of calling is compiled
//! at four places of a 64-byte line, and is measured at all of them.

use std::arch::asm;
use std::hint::black_box;

/// A way to call the callee's `step`.
pub trait Way: Sync {
    /// `a * 31 + b`.
    fn step(&self, a: u64, b: u64) -> u64;
}

/// Whether a call waits for the result of the one before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    Dependent,
    Independent,
}

/// The places of a line at which a loop is tried.
pub const PLACES: [usize; 4] = [0, 16, 32, 48];

/// So many calls, by a loop at one of [`PLACES`].
pub fn repeat<W: Way>(way: &W, calls: Calls, place: usize, count: u64) {
    let way = black_box(way);
    let result = match (calls, place) {
        (Calls::Dependent, 0) => looped::<W, true, 0>(way, count),
        (Calls::Dependent, 16) => looped::<W, true, 16>(way, count),
        (Calls::Dependent, 32) => looped::<W, true, 32>(way, count),
        (Calls::Dependent, _) => looped::<W, true, 48>(way, count),
        (Calls::Independent, 0) => looped::<W, false, 0>(way, count),
        (Calls::Independent, 16) => looped::<W, false, 16>(way, count),
        (Calls::Independent, 32) => looped::<W, false, 32>(way, count),
        (Calls::Independent, _) => looped::<W, false, 48>(way, count),
    };
    black_box(result);
}

#[inline(never)]
fn looped<W: Way, const DEPENDENT: bool, const PLACE: usize>(way: &W, count: u64) -> u64 {
    let mut result = 1;
    // SAFETY: it does nothing, at a certain place.
    unsafe {
        asm!(".p2align 6", ".fill {place}, 1, 0x90", place = const PLACE, options(nomem, nostack, preserves_flags))
    };
    for i in 0..count {
        if DEPENDENT {
            result = way.step(result, i);
        } else {
            result ^= way.step(i, i);
        }
    }
    result
}
