//! Whoever needs no change of what serves, but that nothing changes meanwhile: a guest of the transaction under way, once that
//! has published, or one of its own if there is none.
//!
//! So an observer that is told of what serves now, by a transaction that waits for its answer, may ask for a handle of that.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Plugin, Transaction, Turn};
use crate::error::Busy;
use crate::events::Step;
use crate::lock::lock;

/// As long as this is there, what serves is neither replaced nor taken away, and nobody else has one.
pub(crate) enum Guest {
    Alone(#[allow(dead_code)] Transaction), // dropped
    Of(Arc<Plugin>),
}

impl Plugin {
    /// # Errors
    /// What serves may still change, and did not stop to within `limit`.
    pub(crate) fn be_guest(self: &Arc<Self>, limit: Duration) -> Result<Guest, Busy> {
        let may_enter = |turn: &Turn| turn.is_settled && !turn.has_guest;
        let mut turn = self.wait_for_turn(limit, false, |turn| !may_enter(turn));
        match &mut *turn {
            Some(turn) if may_enter(turn) => {
                turn.has_guest = true;
                Ok(Guest::Of(self.clone()))
            }
            Some(turn) => Err(turn.busy(&self.name)),
            None => {
                *turn = Some(Turn::at(Step::Publish, false));
                Ok(Guest::Alone(Transaction(self.clone())))
            }
        }
    }

    /// The turn, when nobody is its guest.
    pub(super) fn without_guests(&self) -> MutexGuard<'_, Option<Turn>> {
        let turn = lock(&self.turn);
        let has_guest = |turn: &mut Option<Turn>| turn.as_ref().is_some_and(|turn| turn.has_guest);
        self.turn_ended.wait_while(turn, has_guest).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transaction {
    /// It has published, and changes nothing any more of what serves or of what that is bound to.
    pub(crate) fn settle(&self) {
        if let Some(turn) = &mut *lock(&self.0.turn) {
            turn.is_settled = true;
        }
        self.0.turn_ended.notify_all();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Guest::Of(plugin) = self {
            if let Some(turn) = &mut *lock(&plugin.turn) {
                turn.has_guest = false;
            }
            plugin.turn_ended.notify_all();
        }
    }
}
