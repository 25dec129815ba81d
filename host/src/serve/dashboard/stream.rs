//! `GET /events`: what happens, as it happens, as `text/event-stream`.
//!
//! Messages are called `event` (one event: its fields, and `text`; its id is its place in the host's history, if it is
//! remembered there) and `state` (the status, the figures and the drawings of now: once a second, and right after an
//! event). A client that says what it has heard last, as `Last-Event-ID` or `?after=…`, is told what the host remembers of
//! the time since. `?width=…` is how wide the drawings are to be.
//!
//! Invariants:
//! 1. A message is made when the connection has taken the one before. So nothing piles up for a client that is slow: it
//!    misses states, and is told how many events it has missed.
//! 2. A stream ends when the host is about to end, so that nobody waits for it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use reseat::Recorded;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::spawn_blocking;

use super::sample::Sampler;
use super::{Dashboard, PAGES};
use crate::serve::calls::Calls;
use crate::serve::feed::{missed, told};
use crate::serve::http::refuse;

/// How wide drawings may be.
const WIDTHS: std::ops::RangeInclusive<u64> = 240..=1200;
/// They are made for a multiple of this, so that pages of about one width share them.
const WIDTH_STEP: u64 = 8;
/// When a client that has lost us should ask again.
const RETRY: Duration = Duration::from_secs(1);

/// Tells a client what happens.
pub async fn follow(dashboard: Dashboard, State(calls): State<Calls>, request: Request) -> Response {
    let Ok(place) = dashboard.places.try_acquire_owned() else {
        let error = format!("{PAGES} pages are open already: close one of them");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "crowded", &error);
    };
    // Subscribed before the past is read, so that nothing falls between the two.
    let Some(news) = dashboard.feed.subscribe() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "closed", "the host has ended");
    };
    let past = calls.host().recent_events();
    // A host that ends is not kept by those who watch it end.
    drop(calls);
    let last = past.last().map_or(0, |recorded| recorded.sequence);
    let heard = heard(&request).filter(|heard| *heard <= last).unwrap_or(0);
    let listener = Listener {
        past: past.into_iter().filter(|recorded| recorded.sequence > heard).collect(),
        last,
        news,
        // It has changed when there has been a look: then the state comes at once.
        looks: dashboard.sampler.looks.clone(),
        sampler: dashboard.sampler,
        width: width(&request),
        stopping: dashboard.stopping,
        _place: place,
    };
    let messages = unfold(listener, |mut listener| async {
        let message = listener.next().await?;
        Some((Ok::<_, Infallible>(message), listener))
    });
    Sse::new(messages).into_response()
}

/// A client that follows.
struct Listener {
    /// What it is still to be told of the past.
    past: VecDeque<Recorded>,
    /// What it has been told, or will be as the past.
    last: u64,
    news: Receiver<Recorded>,
    looks: watch::Receiver<u64>,
    sampler: Sampler,
    width: u32,
    stopping: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next message; `None`: there is none any more.
    async fn next(&mut self) -> Option<Event> {
        if let Some(recorded) = self.past.pop_front() {
            return Some(one(&recorded));
        }
        loop {
            tokio::select! {
                biased;
                _ = self.stopping.changed() => return None,
                recorded = self.news.recv() => match recorded {
                    Ok(recorded) if recorded.sequence > self.last => {
                        self.last = recorded.sequence;
                        return Some(one(&recorded));
                    }
                    Ok(_) => {} // told as the past
                    Err(RecvError::Lagged(count)) => return Some(one(&missed(self.last, count))),
                    Err(RecvError::Closed) => return None,
                },
                looked = self.looks.changed() => {
                    looked.ok()?;
                    let (sampler, width) = (self.sampler.clone(), self.width);
                    let state = spawn_blocking(move || sampler.message(width)).await.ok()?;
                    return Some(Event::default().event("state").data(state).retry(RETRY));
                }
            }
        }
    }
}

fn one(recorded: &Recorded) -> Event {
    let message = Event::default().event("event").data(told(recorded).to_string());
    match recorded.event {
        // The host does not remember it, so nobody can go on from there.
        reseat::Event::Snapshotted { .. } => message,
        _ => message.id(recorded.sequence.to_string()),
    }
}

/// What the client has heard last.
fn heard(request: &Request) -> Option<u64> {
    let header = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    header.or_else(|| number(request, "after"))
}

fn width(request: &Request) -> u32 {
    let wish = number(request, "width").unwrap_or(*WIDTHS.end()).clamp(*WIDTHS.start(), *WIDTHS.end());
    (wish / WIDTH_STEP * WIDTH_STEP) as u32
}

fn number(request: &Request, name: &str) -> Option<u64> {
    let pairs = request.uri().query().unwrap_or("").split('&');
    let mut values = pairs.filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    values.next()?.parse().ok()
}
