//! Whose turn it is to change what a plugin's slot holds; see also `guest`.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Loaded, Plugin};
use crate::error::Busy;
use crate::events::Step;
use crate::gate::Stragglers;
use crate::lock::lock;
use crate::why::Holders;

/// What a transaction is doing.
#[derive(Clone)]
pub(crate) struct Turn {
    pub(crate) step: Step,
    pub(crate) since: Instant,
    pub(crate) cancelled: bool,
    /// Whom it was last seen to wait for at this step, behind the closed gate.
    pub(crate) holders: Option<Holders>,
    /// Whoever wants the turn gets it as soon as this one has noticed.
    pub(super) gives_way: bool,
    /// What serves is what will when it has ended: see `guest`.
    pub(super) is_settled: bool,
    pub(super) has_guest: bool,
}

impl Turn {
    pub(super) fn at(step: Step, gives_way: bool) -> Turn {
        let since = Instant::now();
        Turn { step, since, cancelled: false, holders: None, gives_way, is_settled: false, has_guest: false }
    }

    pub(super) fn busy(&self, plugin: &str) -> Busy {
        Busy { plugin: plugin.to_owned(), step: self.step, since: self.since.elapsed() }
    }
}
impl Plugin {
    /// Begins a transaction. One that is only looking at bytes, or has published already, is waited for: it is as good as
    /// over, and whoever acts on the event that it has just recorded, or asks right when a file has changed, would
    /// otherwise find it still under way.
    ///
    /// # Errors
    /// Another is under way: which step, since when.
    pub(crate) fn begin(self: &Arc<Self>, step: Step) -> Result<Transaction, Busy> {
        const ALMOST_OVER: Duration = Duration::from_secs(1);
        let brief = |turn: &Turn| turn.gives_way || turn.step <= Step::Vet || turn.step == Step::Publish;
        self.begin_after(step, ALMOST_OVER, false, brief)
    }

    /// Begins a transaction that changes nothing, and gives way to any other.
    ///
    /// # Errors
    /// One is under way.
    pub(crate) fn begin_giving_way(
        self: &Arc<Self>,
        step: Step,
        limit: Duration,
    ) -> Result<Transaction, Busy> {
        self.begin_after(step, limit, true, |_| true)
    }

    /// Begins a transaction as soon as the one under way has ended.
    ///
    /// # Errors
    /// It has not ended within `limit`.
    pub(crate) fn begin_within(self: &Arc<Self>, step: Step, limit: Duration) -> Result<Transaction, Busy> {
        self.begin_after(step, limit, false, |_| true)
    }

    fn begin_after(
        self: &Arc<Self>,
        step: Step,
        limit: Duration,
        gives_way: bool,
        worth_waiting: impl Fn(&Turn) -> bool,
    ) -> Result<Transaction, Busy> {
        let mut turn = self.wait_for_turn(limit, gives_way, worth_waiting);
        match &*turn {
            Some(turn) => Err(turn.busy(&self.name)),
            None => {
                *turn = Some(Turn::at(step, gives_way));
                Ok(Transaction(self.clone()))
            }
        }
    }

    /// The turn when it has ended, or is not worth waiting for, or the limit has passed. One that gives way is told of
    /// whoever does not.
    pub(super) fn wait_for_turn(
        &self,
        limit: Duration,
        gives_way: bool,
        worth_waiting: impl Fn(&Turn) -> bool,
    ) -> MutexGuard<'_, Option<Turn>> {
        let mut turn = lock(&self.turn);
        if let Some(turn) = turn.as_mut().filter(|turn| turn.gives_way && !gives_way) {
            turn.cancelled = true;
        }
        let waits = |turn: &mut Option<Turn>| turn.as_ref().is_some_and(&worth_waiting);
        let waited = self.turn_ended.wait_timeout_while(turn, limit, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Asks the transaction under way to stop before it publishes anything. Which step it is at; `None`: there is none.
    pub(crate) fn cancel(&self) -> Option<Step> {
        let mut turn = lock(&self.turn);
        turn.as_mut().map(|turn| {
            turn.cancelled = true;
            turn.step
        })
    }

    /// What a transaction is doing, for people.
    pub(crate) fn busy(&self) -> Option<String> {
        let turn = self.under_way()?;
        Some(format!("{} since {:.1} s", turn.step, turn.since.elapsed().as_secs_f64()))
    }

    /// The transaction under way, as it is now.
    pub(crate) fn under_way(&self) -> Option<Turn> {
        lock(&self.turn).clone()
    }

    /// Notes whom the transaction under way waits for. That is forgotten when it goes on.
    pub(crate) fn note_holders(&self, in_it: &Loaded, stragglers: &Stragglers) {
        let holders = Holders::of(in_it, stragglers);
        if let Some(turn) = &mut *lock(&self.turn) {
            turn.holders = Some(holders);
        }
    }
}

/// The right to change what a plugin's slot holds; there is one at a time.
pub(crate) struct Transaction(pub(super) Arc<Plugin>);

impl Transaction {
    /// The transaction comes to a step.
    pub(crate) fn at(&self, step: Step) {
        if let Some(turn) = &mut *lock(&self.0.turn) {
            (turn.step, turn.since, turn.holders) = (step, Instant::now(), None);
        }
    }

    /// Whether somebody wants no more of it.
    pub(crate) fn is_cancelled(&self) -> bool {
        lock(&self.0.turn).as_ref().is_some_and(|turn| turn.cancelled)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        *self.0.without_guests() = None;
        // Guests may wait as well as transactions.
        self.0.turn_ended.notify_all();
    }
}
