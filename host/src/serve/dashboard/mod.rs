//! The dashboard: `GET /`, the style sheet and the script that it loads, and nothing else.
//!
//! `GET /events` is its live stream, see [`stream`]; `POST /plugins/{plugin}/reload`, `/rollback` and `/unload` are what
//! its buttons ask for, see [`actions`].
//!
//! Invariants:
//! 1. A page loads and asks nothing but this host, and runs no script but its own file: it says so to the browser, which
//!    holds it to that ([`POLICY`]).
//! 2. What plugins say reaches a page as text, never as markup.

mod actions;
mod bars;
mod chart;
mod gauge;
mod history;
mod sample;
mod story;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{Semaphore, watch};

use self::sample::Sampler;
use super::calls::Calls;
use super::feed::Feed;

/// What a browser may do for a page of this host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// How many pages may be followed at a time.
const PAGES: usize = 64;

/// What pages are made from.
#[derive(Clone)]
pub struct Dashboard {
    sampler: Sampler,
    feed: Feed,
    places: Arc<Semaphore>,
    /// Closed when the host is about to end, and with it all streams: they would keep it waiting.
    stopping: watch::Receiver<()>,
}

impl Dashboard {
    /// Begins to look at the host, until it has ended. Call it within a tokio runtime.
    pub fn open(calls: Calls, feed: Feed, stopping: watch::Receiver<()>) -> Dashboard {
        let sampler = Sampler::start(calls, &feed);
        Dashboard { sampler, feed, places: Arc::new(Semaphore::new(PAGES)), stopping }
    }

    /// Where all that is found.
    pub fn routes(self) -> Router<Calls> {
        Router::new()
            .route("/", get(|| file("text/html; charset=utf-8", include_str!("assets/index.html"))))
            .route("/page.css", get(|| file("text/css; charset=utf-8", include_str!("assets/page.css"))))
            .route("/page.js", get(|| file("text/javascript; charset=utf-8", include_str!("assets/page.js"))))
            .route("/favicon.svg", get(|| file("image/svg+xml", include_str!("assets/favicon.svg"))))
            .route("/events", get(async move |calls, request| stream::follow(self, calls, request).await))
            .merge(actions::routes())
    }
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // The next host on this port may be another build.
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text).into_response()
}
