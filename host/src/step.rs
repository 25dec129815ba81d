//! The steps of a generation's life, as they are named in events and refusals.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The steps of a reload, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// Waiting until nobody writes to the file.
    Settle,
    /// Making the private copy.
    Stage,
    /// Looking at the bytes.
    Vet,
    /// Trying it in a helper process.
    Probe,
    /// Asking the observers.
    Observe,
    /// Opening the library.
    Open,
    /// Creating an instance.
    Create,
    /// Waiting for calls in flight.
    Drain,
    /// Writing the old generation's state.
    Save,
    /// Reading it into the new generation.
    Restore,
    /// The new generation's `started` and `self_check`.
    Check,
    /// Making it the current one.
    Publish,
    /// Noting that it is.
    Record,
    /// Running the last hooks of a generation.
    Retire,
    /// Closing its library.
    Close,
}

/// What a step of a reload took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepTime {
    /// The step.
    pub step: Step,
    /// In milliseconds.
    pub ms: f64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Settle => "settle",
            Step::Stage => "stage",
            Step::Vet => "vet",
            Step::Probe => "probe",
            Step::Observe => "observe",
            Step::Open => "open",
            Step::Create => "create",
            Step::Drain => "drain",
            Step::Save => "save",
            Step::Restore => "restore",
            Step::Check => "check",
            Step::Publish => "publish",
            Step::Record => "record",
            Step::Retire => "retire",
            Step::Close => "close",
        })
    }
}
