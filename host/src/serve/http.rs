//! HTTP: `POST /call/{plugin}/{method}`, what plugins have registered as [routes](super::routes), `GET /plugins`,
//! `GET /plugins/{plugin}/why`, `GET /metrics`, and the [dashboard](super::dashboard) with what it asks for: `GET /`, `GET /events`, `POST /plugins/{plugin}/reload`, `/rollback` and `/unload`. Who may ask is up to
//! [`access`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use reseat::CallError;
use serde_json::json;
use tokio::net::TcpListener;

use super::access::{self, Access};
use super::calls::Calls;
use super::dashboard::Dashboard;
use super::metrics::Metrics;
use super::named::Named;
use super::routes;

/// The largest request body, in bytes.
const BODY_LIMIT: usize = 16 << 20;
/// How long it may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Where a host serves unless told otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7380);

/// Listens where it was asked to; without a wish, at the default or, if that is taken, at a free port.
///
/// # Errors
/// The address is not of this machine alone, and it was not said that it may be so (`remote`); or it is taken.
pub async fn bind(wish: Option<SocketAddr>, remote: bool) -> Result<TcpListener> {
    let Some(address) = wish else {
        return match TcpListener::bind(DEFAULT).await {
            Ok(listener) => Ok(listener),
            Err(error) => {
                let any = SocketAddr::new(DEFAULT.ip(), 0);
                let listener = TcpListener::bind(any).await.context("no port of 127.0.0.1 is free")?;
                tracing::info!("{DEFAULT} cannot be served ({error}): {} is instead", listener.local_addr()?);
                Ok(listener)
            }
        };
    };
    ensure!(
        remote || address.ip().is_loopback(),
        "{address} can be reached from other machines: name a loopback address, e.g. 127.0.0.1:{}, or say --http-remote",
        address.port()
    );
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{address} cannot be served; try another port, or port 0 for a free one"))
}

/// The routes of a host.
pub fn router(calls: Calls, counted: Metrics, dashboard: Dashboard, access: Arc<Access>) -> Router {
    Router::new()
        .route("/plugins", get(plugins))
        .route("/plugins/{plugin}/why", get(why))
        .route("/metrics", get(async move |calls: State<Calls>| metrics(calls, counted).await))
        .route("/call/{plugin}/{method}", post(call))
        .route("/routes/", any(routes::answer))
        .route("/routes/{*path}", any(routes::answer))
        .merge(dashboard.routes())
        .fallback(async || refuse(StatusCode::NOT_FOUND, "no-such-page", "nothing is here: see /"))
        .method_not_allowed_fallback(async || {
            refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "calls and what is to be done are POST, everything else is GET",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(access, access::check))
        .with_state(calls)
}

async fn plugins(State(calls): State<Calls>) -> Response {
    match calls.ask(|host| host.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
    }
}

async fn why(State(calls): State<Calls>, Named(plugin): Named<String>) -> Response {
    match calls.ask(move |host| host.why(&plugin)).await {
        Ok(Ok(why)) => Json(why).into_response(),
        Ok(Err(error)) => refuse(StatusCode::NOT_FOUND, "no-such-plugin", &error.to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
    }
}

async fn metrics(State(calls): State<Calls>, counted: Metrics) -> Response {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match calls.ask(move |host| counted.text(host)).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
    }
}

async fn call(
    State(calls): State<Calls>,
    Named((plugin, method)): Named<(String, String)>,
    request: Request,
) -> Response {
    let body = match body_in_time(&calls, request).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match calls.call(plugin, method, body).await {
        Ok(Ok(json)) => in_json(json),
        Ok(Err(error)) => {
            let (status, kind) = status_of(&error);
            refuse(status, kind, &error.to_string())
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
    }
}

/// What a plugin has answered.
pub fn in_json(json: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// The body of a request, if it arrives.
pub async fn body_in_time(calls: &Calls, request: Request) -> Result<String, Response> {
    let late = |_| {
        let error = format!("the body has not arrived within {BODY_PATIENCE:?}");
        refuse(StatusCode::REQUEST_TIMEOUT, "slow", &error)
    };
    tokio::time::timeout(BODY_PATIENCE, body(calls, request)).await.map_err(late)?
}

/// The body of a request, when there is room for it.
async fn body(calls: &Calls, request: Request) -> Result<String, Response> {
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let bytes = announced.unwrap_or(BODY_LIMIT);
    if bytes > BODY_LIMIT {
        let error = format!("this body is too long: {} MiB is the most", BODY_LIMIT >> 20);
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "bad-arguments", &error));
    }
    let _room = calls.room(bytes).await;
    String::from_request(request, &())
        .await
        .map_err(|rejection| refuse(rejection.status(), "bad-arguments", &rejection.body_text()))
}

/// How a call that has failed is told.
pub fn status_of(error: &CallError) -> (StatusCode, &'static str) {
    match error {
        CallError::NoSuchPlugin { .. } => (StatusCode::NOT_FOUND, "no-such-plugin"),
        CallError::NoSuchMethod { .. } => (StatusCode::NOT_FOUND, "no-such-method"),
        CallError::BadArguments(_) => (StatusCode::BAD_REQUEST, "bad-arguments"),
        CallError::Plugin(_) => (StatusCode::UNPROCESSABLE_ENTITY, "plugin"),
        CallError::Unsupported { .. } => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
        CallError::NotDynamic(_) => (StatusCode::NOT_IMPLEMENTED, "not-dynamic"),
        CallError::NotLoaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not-loaded"),
        CallError::CannotLoad { .. } => (StatusCode::SERVICE_UNAVAILABLE, "cannot-load"),
        CallError::Closed => (StatusCode::SERVICE_UNAVAILABLE, "closed"),
        CallError::TimedOut { .. } => (StatusCode::SERVICE_UNAVAILABLE, "timed-out"),
        CallError::Crowded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "crowded"),
        CallError::Panicked { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "panicked"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "malformed"),
    }
}

/// A refusal, for people and for programs.
pub fn refuse(status: StatusCode, kind: &str, error: &str) -> Response {
    (status, Json(json!({ "error": error, "kind": kind }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_others_can_reach_is_refused() {
        let error = bind(Some("0.0.0.0:0".parse().unwrap()), false).await.unwrap_err();
        assert!(error.to_string().contains("can be reached from other machines"), "{error}");
    }

    #[tokio::test]
    async fn without_a_wish_a_taken_port_is_replaced_by_a_free_one() {
        let first = bind(None, false).await.unwrap();
        let second = bind(None, false).await.unwrap();
        assert_ne!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }
}
