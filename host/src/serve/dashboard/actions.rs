//! What an operator can have done over HTTP: `POST /plugins/{plugin}/reload`, `/rollback` and `/unload`, without a body, and
//! `POST /reload` with `{"plugins": […]}`, for several at one moment.
//!
//! Answers are those of the control socket: the outcome (of `unload`: null), or `{"error": …, "kind": …}` with 404 for a
//! plugin that is not there, 409 for what is refused or busy, 503 for a host that ends. Who has gone away in the meantime
//! has asked even so.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use reseat::{Host, ReloadError, UnloadError};
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use crate::serve::calls::Calls;
use crate::serve::http::{body_in_time, refuse};
use crate::serve::named::Named;

pub fn routes() -> Router<Calls> {
    Router::new()
        .route("/plugins/{plugin}/reload", post(reload))
        .route("/reload", post(reload_together))
        .route("/plugins/{plugin}/rollback", post(roll_back))
        .route("/plugins/{plugin}/unload", post(unload))
}

async fn reload(State(calls): State<Calls>, Named(plugin): Named<String>) -> Response {
    answer(calls.ask(move |host| host.reload(&plugin).map_err(Why::from)).await)
}

/// Several at one moment, or none.
async fn reload_together(State(calls): State<Calls>, request: Request) -> Response {
    let body = match body_in_time(&calls, request).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let plugins = match serde_json::from_str::<Several>(&body) {
        Ok(Several { plugins }) if !plugins.is_empty() => plugins,
        Ok(_) => return refuse(StatusCode::BAD_REQUEST, "bad-arguments", "no plugin is named"),
        Err(error) => {
            let error = format!("expected {{\"plugins\": [\"…\"]}}: {error}");
            return refuse(StatusCode::BAD_REQUEST, "bad-arguments", &error);
        }
    };
    let reload = move |host: &Host| {
        let plugins: Vec<_> = plugins.iter().map(String::as_str).collect();
        host.reload_together(&plugins).map_err(Why::from)
    };
    answer(calls.ask(reload).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Several {
    plugins: Vec<String>,
}

async fn roll_back(State(calls): State<Calls>, Named(plugin): Named<String>) -> Response {
    answer(calls.ask(move |host| host.roll_back(&plugin).map_err(Why::from)).await)
}

async fn unload(State(calls): State<Calls>, Named(plugin): Named<String>) -> Response {
    answer(calls.ask(move |host| host.unload(&plugin).map_err(Why::from)).await)
}

fn answer(result: Result<Result<impl Serialize, Why>, JoinError>) -> Response {
    match result {
        Ok(Ok(done)) => Json(done).into_response(),
        Ok(Err(Why { status, kind, error })) => refuse(status, kind, &error),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
    }
}

/// Why something was not done.
struct Why {
    status: StatusCode,
    kind: &'static str,
    error: String,
}

impl From<ReloadError> for Why {
    fn from(error: ReloadError) -> Why {
        let (status, kind) = match error {
            ReloadError::NoSuchPlugin { .. } => (StatusCode::NOT_FOUND, "no-such-plugin"),
            ReloadError::Busy { .. } => (StatusCode::CONFLICT, "busy"),
            ReloadError::Closed => (StatusCode::SERVICE_UNAVAILABLE, "closed"),
            _ => (StatusCode::CONFLICT, "refused"),
        };
        Why { status, kind, error: error.to_string() }
    }
}

impl From<UnloadError> for Why {
    fn from(error: UnloadError) -> Why {
        let (status, kind) = match error {
            UnloadError::NoSuchPlugin { .. } => (StatusCode::NOT_FOUND, "no-such-plugin"),
            UnloadError::Busy { .. } => (StatusCode::CONFLICT, "busy"),
            UnloadError::Closed => (StatusCode::SERVICE_UNAVAILABLE, "closed"),
            _ => (StatusCode::CONFLICT, "refused"),
        };
        Why { status, kind, error: error.to_string() }
    }
}
