//! Who hears of what happens, and what is remembered of it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use serde::Serialize;

use crate::events::Event;

/// An event with its place in the host's history.
#[derive(Clone, Debug, Serialize)]
pub struct Recorded {
    /// Counts from 1, without gaps.
    pub sequence: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// A subscription: an iterator that waits for the next event and ends with the host.
pub struct Events {
    receiver: Receiver<Recorded>,
}

impl Events {
    /// The next event with its sequence number and time; `None` when the host has ended.
    pub fn next_recorded(&mut self) -> Option<Recorded> {
        self.receiver.recv().ok()
    }

    /// The next event, if one comes within `limit`.
    pub fn next_within(&mut self, limit: Duration) -> Option<Event> {
        self.receiver.recv_timeout(limit).ok().map(|recorded| recorded.event)
    }
}

impl Iterator for Events {
    type Item = Event;
    fn next(&mut self) -> Option<Event> {
        self.next_recorded().map(|recorded| recorded.event)
    }
}

/// How many events a slow subscriber may lag behind.
const SUBSCRIBER_BOUND: usize = 1024;
/// How many events the host remembers.
const HISTORY: usize = 256;

/// Hands events to subscribers and remembers the last ones.
#[derive(Default)]
pub(crate) struct Journal(Mutex<JournalState>);

#[derive(Default)]
struct JournalState {
    last: u64,
    history: VecDeque<Recorded>,
    subscribers: Vec<Subscriber>,
}

struct Subscriber {
    sender: Sender<Recorded>,
    missed: u64,
}

impl Journal {
    pub(crate) fn record(&self, event: Event) {
        self.hand_out(event, true);
    }

    /// Tells of something that happens all the time: it is not remembered, so that what is stays to be seen.
    pub(crate) fn tell(&self, event: Event) {
        self.hand_out(event, false);
    }

    fn hand_out(&self, event: Event, is_remembered: bool) {
        match &event {
            Event::Snapshotted { .. } => tracing::debug!("{event}"),
            Event::Refused { .. } | Event::Trouble { .. } | Event::BuildFailed { .. } => {
                tracing::warn!("{event}")
            }
            _ => tracing::info!("{event}"),
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last += 1;
        let recorded = Recorded { sequence: state.last, at_ms: now_ms(), event };
        if is_remembered {
            if state.history.len() == HISTORY {
                state.history.pop_front();
            }
            state.history.push_back(recorded.clone());
        }
        state.subscribers.retain_mut(|subscriber| subscriber.send(&recorded));
    }

    pub(crate) fn subscribe(&self) -> Events {
        let (sender, receiver) = crossbeam_channel::bounded(SUBSCRIBER_BOUND);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.subscribers.push(Subscriber { sender, missed: 0 });
        Events { receiver }
    }

    pub(crate) fn recent(&self) -> Vec<Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).history.iter().cloned().collect()
    }

    /// Ends all subscriptions.
    pub(crate) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).subscribers.clear();
    }
}

impl Subscriber {
    /// `false`: it is gone.
    fn send(&mut self, recorded: &Recorded) -> bool {
        if self.missed > 0 {
            let note = Recorded { event: Event::Missed { count: self.missed }, ..*recorded };
            match self.sender.try_send(note) {
                Ok(()) => self.missed = 0,
                Err(TrySendError::Full(_)) => {
                    self.missed += 1;
                    return true;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        match self.sender.try_send(recorded.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
