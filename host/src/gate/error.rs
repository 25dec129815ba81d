//! Why a slot did not do what it was asked: one type per operation.

use std::fmt;
use std::time::Duration;

/// Why a slot could not be entered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// Nothing is loaded: not yet, or not any more.
    #[error("nothing is loaded")]
    Empty,
    /// The gate was closed for a handover and did not open within the limit.
    #[error("the gate is closed for a handover and did not open within {waited:.1?}")]
    TimedOut {
        /// How long this caller stood at the gate.
        waited: Duration,
    },
    /// The gate is closed for a handover and this caller does not wait.
    #[error("the gate is closed for a handover")]
    Paused,
    /// The gate is closed for a handover and as many threads wait there as may.
    #[error("the gate is closed for a handover and {waiting} threads wait there already")]
    Crowded {
        /// How many waited when this caller came.
        waiting: usize,
    },
}

/// Why the gate of a slot could not be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    /// Nothing is loaded, so there is nothing to hand over.
    #[error("nothing is loaded")]
    Empty,
    /// A handover is going on.
    #[error("the gate is closed for another handover")]
    AlreadyPaused,
}

/// A swap was refused because a handover is going on; the value comes back.
#[derive(thiserror::Error)]
#[error("the gate is closed for a handover")]
pub struct SwapError<T> {
    /// What was to be published.
    pub value: T,
}

impl<T> fmt::Debug for SwapError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwapError").finish_non_exhaustive()
    }
}
