//! What handlers take out of a request: a JSON body, a query, `If-Match`, who asked. Refusals are in the API's own shape.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::ApiError;

/// The peer of an admin connection; absent in tests without a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// A JSON body, whatever its `Content-Type` says: `curl -d` sends another, and the guard of writes does not rest on it.
/// What is no JSON is 400; JSON that is not what is asked for is 422, with the place.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await;
        let bytes =
            bytes.map_err(|rejection| ApiError::new(rejection.status(), "bad_request", rejection.body_text()))?;
        // serde would fill a struct from an array too, by position: nobody means that.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(ApiError::invalid("the body is an array where an object is expected"));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => ApiError::invalid(error.to_string()),
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => {
                ApiError::new(StatusCode::BAD_REQUEST, "bad_request", format!("the body is not JSON: {error}"))
            }
        })
    }
}

/// A body of text.
pub(super) struct Text(pub(super) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let text = String::from_request(request, state).await;
        text.map(Self).map_err(|rejection| ApiError::new(rejection.status(), "bad_request", rejection.body_text()))
    }
}

/// The query.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|rejection| {
            // What follows the extractor's own words is the key and what is wrong with it.
            let text = rejection.body_text();
            ApiError::invalid(text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text))
        })
    }
}

/// Who asks and on what condition.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The peer's address, for the audit log.
    pub(super) peer: String,
    /// The entity tags of `If-Match`; `None`: no condition.
    tags: Option<Vec<String>>,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<Peer>().map_or_else(|| "-".to_owned(), |peer| peer.0.to_string());
        Ok(Self { peer, tags: if_match(&parts.headers) })
    }
}

impl Caller {
    /// Whether the condition holds of a thing with this entity tag.
    pub(super) fn allows(&self, tag: &str) -> bool {
        self.tags.as_ref().is_none_or(|tags| tags.iter().any(|wanted| wanted == "*" || wanted == tag))
    }

    /// Whether there is a condition at all.
    pub(super) fn has_condition(&self) -> bool {
        self.tags.is_some()
    }
}

fn if_match(headers: &HeaderMap) -> Option<Vec<String>> {
    if !headers.contains_key(header::IF_MATCH) {
        return None;
    }
    let lines = headers.get_all(header::IF_MATCH).iter().filter_map(|line| line.to_str().ok());
    Some(lines.flat_map(|line| line.split(',')).map(|tag| tag.trim().to_owned()).collect())
}
