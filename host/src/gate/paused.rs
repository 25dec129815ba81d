//! A closed gate, and the three ways it opens.

use super::drain::Retired;
use super::generation::Generation;
use super::slot::Slot;
use super::stragglers::Stragglers;
use std::fmt;
use std::ptr::NonNull;
use std::time::Duration;

/// The gate of a slot is closed for a handover.
///
/// New calls wait, each for its own limit. Dropping this opens the gate with the old generation, as if
/// nothing had been: whatever goes wrong during a handover, callers are served.
///
/// A call that waits for another thread which stands at this gate cannot end, and so cannot the drain:
/// only its deadline ends that.
#[must_use = "dropping it opens the gate at once"]
pub struct Paused<'s, T: Send + Sync + 'static> {
    slot: &'s Slot<T>,
    /// Taken by whichever way the gate opens.
    old: Option<Retired<T>>,
}

impl<'s, T: Send + Sync + 'static> Paused<'s, T> {
    pub(super) fn new(slot: &'s Slot<T>, old: Retired<T>) -> Self {
        Self { slot, old: Some(old) }
    }

    /// Waits until nobody is in the old generation; see [`Retired::drain`].
    ///
    /// # Errors
    ///
    /// Who is still in it, when the limit has passed. The gate is still closed then.
    pub fn drain(&mut self, limit: Duration) -> Result<(), Stragglers> {
        self.old.as_mut().expect(CLOSED).drain(limit)
    }

    /// The old generation, for instance to save its state once it is drained.
    pub fn value(&self) -> &T {
        self.old.as_ref().expect(CLOSED).value()
    }

    /// Opens the gate with a new generation and returns the old one.
    pub fn resume_with(mut self, value: T) -> Retired<T> {
        let old = self.old.take().expect(CLOSED);
        let new = Generation::boxed(self.slot.id, value);
        self.slot.open(NonNull::new(new).expect("a box is not null"));
        old
    }
}

const CLOSED: &str = "the gate is closed until this value is gone";

impl<T: Send + Sync + 'static> Drop for Paused<'_, T> {
    fn drop(&mut self) {
        if let Some(old) = self.old.take() {
            self.slot.open(old.reinstate());
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Paused<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paused").finish_non_exhaustive()
    }
}
