//! The end of the intake: nothing new is taken in from now on; what has begun ends by itself.

use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::{Intake, Order};
use crate::events::Event;
use crate::journal::Journal;
use crate::lock::join_within;

/// What may not have ended yet.
pub(crate) struct Ending {
    source: Option<JoinHandle<()>>,
    thread: JoinHandle<()>,
}

impl Intake {
    /// Stops following. Nothing is waited for: a transaction under way has the turn of its plugin.
    pub(crate) fn end(self, journal: &Journal) -> Ending {
        drop(self.watcher);
        let source = self.source.and_then(|source| {
            // An embedder's code: it may take as long as it likes.
            let thread = Builder::new().name("reseat-source".into()).spawn(move || source.end());
            let told = thread.inspect_err(|error| {
                let what = format!("the source of files is not told of the end: no thread for that: {error}");
                journal.record(Event::Trouble { what });
            });
            told.ok()
        });
        let _ = self.orders.send(Order::End);
        Ending { source, thread: self.thread }
    }
}

impl Ending {
    /// Waits for it, for no longer than this.
    pub(crate) fn wait(self, limit: Duration, journal: &Journal) {
        let deadline = Instant::now() + limit;
        if self.source.is_some_and(|source| !join_within(source, limit)) {
            let what = "the source of files has not ended in time".to_owned();
            journal.record(Event::Trouble { what });
        }
        join_within(self.thread, deadline.saturating_duration_since(Instant::now()));
    }
}
