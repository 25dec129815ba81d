//! What is named in the path of a request.

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::http::refuse;

/// As [`Path`], but what cannot be understood is told as everything else is.
pub struct Named<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(named)) => Ok(Named(named)),
            Err(rejection) => {
                let error = format!("this path is not understood: {}", rejection.body_text());
                Err(refuse(StatusCode::BAD_REQUEST, "bad-path", &error))
            }
        }
    }
}
