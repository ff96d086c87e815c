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

/// What the path names. A part that is no UTF-8 text is refused in the API's own shape.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value)).map_err(|rejection| {
            let what = "a name in the path is not UTF-8 text when its %HH are decoded";
            ApiError::new(rejection.status(), "bad_request", what)
        })
    }
}

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
            serde_json::error::Category::Data => ApiError::invalid(plain(&error.to_string())),
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
            ApiError::invalid(plain(text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text)))
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

    /// Refuses with 412 when the condition does not hold of a thing with this entity tag.
    pub(super) fn demand(&self, tag: &str) -> Result<(), ApiError> {
        if self.allows(tag) { Ok(()) } else { Err(ApiError::stale()) }
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

/// The deserializer's words without those that only a Rust programmer knows.
fn plain(text: &str) -> String {
    const WORDS: [(&str, &str); 11] = [
        ("invalid digit found in string", "is not a whole number"),
        ("cannot parse integer from empty string", "is not a whole number"),
        ("number too large to fit in target type", "is too large a number"),
        ("expected u128", "expected a whole number from 0"),
        ("expected u64", "expected a whole number from 0"),
        ("expected usize", "expected a whole number from 0"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected f64", "expected a number"),
        ("expected a map", "expected an object"),
        ("expected a sequence", "expected an array"),
    ];
    let mut text = text.to_owned();
    for (theirs, ours) in WORDS {
        text = text.replace(theirs, ours);
    }
    // The name of our type: `expected struct PatchBody`, `expected enum StateWord`.
    for (theirs, ours) in [("expected struct ", "expected an object"), ("expected enum ", "expected a text")] {
        while let Some(at) = text.find(theirs) {
            let rest = text.get(at + theirs.len()..).unwrap_or_default();
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            text.replace_range(at..at + theirs.len() + name, ours);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_the_language_reaches_a_person() {
        for (theirs, ours) in [
            (
                "invalid type: string \"x\", expected u32 at line 1 column 12",
                "invalid type: string \"x\", expected a whole number from 0 to 4294967295 at line 1 column 12",
            ),
            (
                "invalid type: integer `3`, expected struct PatchBody at line 1",
                "invalid type: integer `3`, expected an object at line 1",
            ),
            ("last: invalid digit found in string", "last: is not a whole number"),
            ("unknown field `a`, expected `b`", "unknown field `a`, expected `b`"),
        ] {
            assert_eq!(plain(theirs), ours);
        }
    }
}
