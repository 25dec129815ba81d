//! An asymmetric pair of fences: next to nothing for callers, dear for whoever changes a slot.
//!
//! A light fence on one thread and a heavy fence on another order what is around them, as two
//! sequentially consistent fences would; two light fences order nothing. (P1202R5 has the same pair.)
//!
//! | | light | heavy |
//! | --- | --- | --- |
//! | membarrier | compiler fence | `membarrier(PRIVATE_EXPEDITED)`: 0.4 µs, 11.5 µs if it must interrupt a core |
//! | fence | `fence(SeqCst)`, about 4 ns | `fence(SeqCst)` |
//!
//! The second row is for kernels and sandboxes that refuse membarrier, for Miri, and for the models.

use super::os;
use super::sync::{Ordering, fence};
use std::hint::cold_path;
use std::sync::OnceLock;
use std::sync::atomic::compiler_fence;

/// Which pair this process uses; decided once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fence {
    Membarrier,
    Full,
}

impl Fence {
    /// The pair of this process. `RESEAT_GATE=fence` in the environment forces the second row;
    /// otherwise the first is used if the kernel grants it.
    pub(super) fn of_process() -> Self {
        static CHOICE: OnceLock<Fence> = OnceLock::new();
        *CHOICE.get_or_init(|| {
            let forced = std::env::var_os("RESEAT_GATE").is_some_and(|value| value == "fence");
            if !forced && os::grants_barrier() { Self::Membarrier } else { Self::Full }
        })
    }

    /// The reader's side, R3.
    #[inline(always)]
    pub(super) fn light(self) {
        if self == Self::Membarrier {
            compiler_fence(Ordering::SeqCst);
        } else {
            cold_path();
            fence(Ordering::SeqCst);
        }
    }

    /// The writer's side, W2 and D3.
    pub(super) fn heavy(self) {
        if self == Self::Membarrier {
            os::barrier();
        } else {
            fence(Ordering::SeqCst);
        }
    }

    /// How long a drainer may sleep before it looks again. With full fences, leaving has only a
    /// compiler fence (R7), so a wake-up may be missed there and the nap bounds what that costs;
    /// with membarrier none is missed, and the nap is a second line of defence.
    #[cfg(not(any(test, reseat_loom)))]
    pub(super) fn nap(self) -> std::time::Duration {
        std::time::Duration::from_millis(if self == Self::Membarrier { 10 } else { 1 })
    }

    /// The tests sleep long in membarrier mode, so that a missed wake-up shows.
    #[cfg(all(test, not(reseat_loom)))]
    pub(super) fn nap(self) -> std::time::Duration {
        std::time::Duration::from_millis(if self == Self::Membarrier { 100_000 } else { 1 })
    }

    /// The models never time out, so that a missed wake-up is a deadlock that loom reports.
    #[cfg(reseat_loom)]
    pub(super) fn nap(self) -> std::time::Duration {
        std::time::Duration::MAX
    }
}

/// The light fence of a guard that leaves, R7. It does not ask which pair is in use: `Guard` has no
/// room for the answer. See [`Fence::nap`] for what that means without membarrier.
#[inline(always)]
pub(super) fn light_on_exit() {
    compiler_fence(Ordering::SeqCst);
    #[cfg(reseat_loom)]
    fence(Ordering::SeqCst); // the models speak of the membarrier row, with full fences in its place
}

/// How entering and swapping are ordered in this process: `"membarrier"`, or `"fence"` where the
/// kernel refuses that or `RESEAT_GATE=fence` is set. For status; callers pay about 4 ns more with the
/// second.
pub fn fence_mode() -> &'static str {
    match Fence::of_process() {
        Fence::Membarrier => "membarrier",
        Fence::Full => "fence",
    }
}
