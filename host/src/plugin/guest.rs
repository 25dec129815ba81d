//! Whoever needs no change of what serves, but that nothing changes meanwhile: a guest of the transaction under way, once that
//! has published, or one of its own if there is none.
//!
//! So an observer that is told of what serves now, by a transaction that waits for its answer, may ask for a handle of that.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Plugin, Transaction, Turn};
use crate::error::Busy;
use crate::events::Step;

/// As long as this is there, what serves is neither replaced nor taken away, and nobody else has one.
pub(crate) enum Guest {
    Alone(#[allow(dead_code)] Transaction), // dropped
    Of(Arc<Plugin>),
}

impl Plugin {
    /// # Errors
    /// What serves may still change, and did not stop to within `limit`.
    pub(crate) fn be_guest(self: &Arc<Self>, limit: Duration) -> Result<Guest, Busy> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turn.as_mut().filter(|turn| turn.gives_way) {
            turn.cancelled = true;
        }
        let keeps_out =
            |turn: &mut Option<Turn>| turn.as_ref().is_some_and(|it| !it.is_settled || it.has_guest);
        let waited = self.turn_ended.wait_timeout_while(turn, limit, keeps_out);
        let (mut turn, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &mut *turn {
            Some(Turn { step, since, is_settled, has_guest, .. }) => {
                if !*is_settled || *has_guest {
                    return Err(Busy { plugin: self.name.clone(), step: *step, since: since.elapsed() });
                }
                *has_guest = true;
                Ok(Guest::Of(self.clone()))
            }
            None => {
                *turn = Some(Turn::at(Step::Publish, false));
                Ok(Guest::Alone(Transaction(self.clone())))
            }
        }
    }

    /// The turn, when nobody is its guest.
    pub(super) fn without_guests(&self) -> MutexGuard<'_, Option<Turn>> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let has_guest = |turn: &mut Option<Turn>| turn.as_ref().is_some_and(|turn| turn.has_guest);
        self.turn_ended.wait_while(turn, has_guest).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transaction {
    /// It has published, and changes nothing any more of what serves or of what that is bound to.
    pub(crate) fn settle(&self) {
        if let Some(turn) = &mut *self.0.turn.lock().unwrap_or_else(PoisonError::into_inner) {
            turn.is_settled = true;
        }
        self.0.turn_ended.notify_all();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Guest::Of(plugin) = self {
            if let Some(turn) = &mut *plugin.turn.lock().unwrap_or_else(PoisonError::into_inner) {
                turn.has_guest = false;
            }
            plugin.turn_ended.notify_all();
        }
    }
}
