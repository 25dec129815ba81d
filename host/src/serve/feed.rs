//! The host's events, for any number of clients that come and go.
//!
//! A subscription of the host blocks its thread, and nothing but an event or the host's end wakes it. So there is one
//! for all clients, handed on by one thread: a client that leaves leaves nothing behind.

use std::io;
use std::time::SystemTime;

use reseat::{Event, Events, Recorded};
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, Receiver, WeakSender};

/// How many events a slow client may lag behind.
const LAG: usize = 1024;

/// Events as they happen, until the host has ended.
#[derive(Clone)]
pub struct Feed(WeakSender<Recorded>);

impl Feed {
    /// # Errors
    /// The system refuses another thread.
    pub fn start(mut events: Events) -> io::Result<Feed> {
        let (sender, _) = broadcast::channel(LAG);
        let feed = Feed(sender.downgrade());
        std::thread::Builder::new().name("reseat-feed".into()).spawn(move || {
            while let Some(recorded) = events.next_recorded() {
                // It is no matter if nobody listens.
                let _ = sender.send(recorded);
            }
        })?;
        Ok(feed)
    }

    /// What happens from now on; `None` if the host has ended.
    pub fn subscribe(&self) -> Option<Receiver<Recorded>> {
        self.0.upgrade().map(|sender| sender.subscribe())
    }
}

/// An event as clients are told it: its fields, and `text`, the line that people read.
pub fn told(recorded: &Recorded) -> Value {
    let mut value = json!(recorded);
    value["text"] = Value::String(recorded.event.to_string());
    value
}

/// What a client is told that was too slow for `count` events after this one.
pub fn missed(sequence: u64, count: u64) -> Recorded {
    Recorded { sequence, at_ms: now_ms(), event: Event::Missed { count } }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
