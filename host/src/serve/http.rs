//! HTTP on loopback: `POST /call/{plugin}/{method}`, `GET /plugins`.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use axum::extract::rejection::StringRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use reseat::CallError;
use serde_json::json;
use tokio::net::TcpListener;

use super::calls::Calls;

/// The largest request body, in bytes.
const BODY_LIMIT: usize = 16 << 20;
/// Where a host serves unless told otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7380);

/// Listens where it was asked to; without a wish, at the default or, if that is taken, at a free port.
///
/// # Errors
/// The address is not of this machine alone, or is taken.
pub async fn bind(wish: Option<SocketAddr>) -> Result<TcpListener> {
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
        address.ip().is_loopback(),
        "{address} can be reached from other machines: whoever can call plugins is trusted, so only loopback addresses are served, e.g. 127.0.0.1:{}",
        address.port()
    );
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{address} cannot be served; try another port, or port 0 for a free one"))
}

/// The routes of a host.
pub fn router(calls: Calls) -> Router {
    Router::new()
        .route(
            "/",
            get(|| async {
                "reseat: POST /call/{plugin}/{method} with a JSON object of arguments; GET /plugins\n"
            }),
        )
        .route("/plugins", get(plugins))
        .route("/call/{plugin}/{method}", post(call))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "no-such-page", "nothing is here: see /"))
        .method_not_allowed_fallback(async || {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "calls are POST, everything else is GET")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(only_from_here))
        .with_state(calls)
}

/// Refuses what a web page of somebody else might send through a browser on this machine.
async fn only_from_here(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = text(headers, header::HOST);
    if !host.is_some_and(is_local) {
        return refuse(StatusCode::MISDIRECTED_REQUEST, "host", "the Host header does not name this machine");
    }
    let foreign = text(headers, header::ORIGIN)
        .is_some_and(|origin| !origin.split_once("://").is_some_and(|(_, authority)| is_local(authority)));
    if foreign {
        return refuse(StatusCode::FORBIDDEN, "origin", "requests of pages from elsewhere are refused");
    }
    next.run(request).await
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether `name` or `name:port` is this machine's own.
fn is_local(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
        None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn plugins(State(calls): State<Calls>) -> Response {
    match calls.ask(|host| host.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
    }
}

async fn call(
    State(calls): State<Calls>,
    Path((plugin, method)): Path<(String, String)>,
    body: Result<String, StringRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse(rejection.status(), "bad-arguments", &rejection.body_text()),
    };
    match calls.call(plugin, method, body).await {
        Ok(Ok(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(Err(error)) => {
            let (status, kind) = status_of(&error);
            refuse(status, kind, &error.to_string())
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
    }
}

fn status_of(error: &CallError) -> (StatusCode, &'static str) {
    match error {
        CallError::NoSuchPlugin { .. } => (StatusCode::NOT_FOUND, "no-such-plugin"),
        CallError::NoSuchMethod { .. } => (StatusCode::NOT_FOUND, "no-such-method"),
        CallError::BadArguments(_) => (StatusCode::BAD_REQUEST, "bad-arguments"),
        CallError::Plugin(_) => (StatusCode::UNPROCESSABLE_ENTITY, "plugin"),
        CallError::Unsupported { .. } => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
        CallError::NotDynamic(_) => (StatusCode::NOT_IMPLEMENTED, "not-dynamic"),
        CallError::NotLoaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not-loaded"),
        CallError::Closed => (StatusCode::SERVICE_UNAVAILABLE, "closed"),
        CallError::TimedOut { .. } => (StatusCode::SERVICE_UNAVAILABLE, "timed-out"),
        CallError::Crowded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "crowded"),
        CallError::Panicked { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "panicked"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "malformed"),
    }
}

fn refuse(status: StatusCode, kind: &str, error: &str) -> Response {
    (status, Json(json!({ "error": error, "kind": kind }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in ["localhost", "localhost:7380", "127.0.0.1:1", "127.0.0.1", "[::1]:7380", "LOCALHOST:1"]
        {
            assert!(is_local(local), "{local}");
        }
        for foreign in ["example.org", "localhost.example.org:7380", "10.0.0.1:7380", "", "[2001:db8::1]:80"]
        {
            assert!(!is_local(foreign), "{foreign}");
        }
    }

    #[tokio::test]
    async fn an_address_that_others_can_reach_is_refused() {
        let error = bind(Some("0.0.0.0:0".parse().unwrap())).await.unwrap_err();
        assert!(error.to_string().contains("can be reached from other machines"), "{error}");
    }

    #[tokio::test]
    async fn without_a_wish_a_taken_port_is_replaced_by_a_free_one() {
        let first = bind(None).await.unwrap();
        let second = bind(None).await.unwrap();
        assert_ne!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }
}
