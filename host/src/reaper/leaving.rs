//! How those stand who are on their way out, for somebody who asks.
//!
//! Asked of the reaper, because it alone may look at who is in them. It runs nothing of a plugin and waits for none, so it answers
//! soon; whoever asks waits on a lock of ours and not at a channel, see [`be_ready_to_wait`](crate::lock::be_ready_to_wait).

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::departure::{Departure, Stage};
use super::{Message, Reaper};
use crate::lock::lock;
use crate::why::Holders;

/// For how long it is waited for an answer. On a busy machine the reaper may have to wait for its turn.
const SOON: Duration = Duration::from_secs(1);

/// A generation on its way out.
pub(crate) struct Leaving {
    pub(crate) number: u64,
    /// For how long it has been.
    pub(crate) since: Duration,
    /// Who is in it, if it drains.
    pub(crate) holders: Option<Holders>,
}

/// Somebody wants to know of the generations of one plugin.
pub(super) struct Question {
    plugin: String,
    answer: Mutex<Option<Vec<Leaving>>>,
    answered: Condvar,
}

impl Reaper {
    /// How the old generations of a plugin stand. Nothing is known of those that it does not have any more, and of none if it
    /// does not answer.
    pub(crate) fn ask(&self, plugin: &str) -> Vec<Leaving> {
        let question =
            Question { plugin: plugin.to_owned(), answer: Mutex::default(), answered: Condvar::new() };
        let question = Arc::new(question);
        if self.queue.send(Message::Ask(question.clone())).is_err() {
            return Vec::new();
        }
        let waited = question.answered.wait_timeout_while(lock(&question.answer), SOON, |it| it.is_none());
        let (mut answer, _) = waited.unwrap_or_else(PoisonError::into_inner);
        answer.take().unwrap_or_default()
    }
}

impl Question {
    pub(super) fn answer(&self, departures: &[Departure]) {
        let asked = departures.iter().filter(|departure| departure.plugin.name == self.plugin);
        let leaving = asked.map(|departure| Leaving {
            number: departure.number,
            since: departure.since.elapsed(),
            holders: holders(departure),
        });
        *lock(&self.answer) = Some(leaving.collect());
        self.answered.notify_all();
    }
}

fn holders(departure: &Departure) -> Option<Holders> {
    let Some(Stage::Draining(old)) = &departure.stage else { return None };
    let stragglers = old.stragglers();
    (!stragglers.is_empty()).then(|| Holders::of(old.value(), &stragglers))
}
