//! Errors of the API, in the OpenAI shape that the data path uses too.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The header that carries a request's identifier.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What went wrong.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Further members of the body, such as `errors`.
    more: Vec<(&'static str, Value)>,
}

impl ApiError {
    /// An error with this status, machine-readable code and sentence.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), more: Vec::new() }
    }

    /// 422
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    /// 404
    pub(super) fn not_found(what: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} {name:?}"))
    }

    /// 412
    pub(super) fn stale() -> Self {
        let message = "it was changed meanwhile: the entity tag of If-Match is not the present one";
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
    }

    /// Adds a member to the body.
    pub(super) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.more.push((name, value));
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let id = request_id();
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let error = json!({ "message": self.message, "type": kind, "code": self.code, "request_id": id });
        let mut body = serde_json::Map::from_iter([("error".to_owned(), error)]);
        body.extend(self.more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let mut response = (self.status, Json(Value::Object(body))).into_response();
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An identifier for one admin request.
pub(super) fn request_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
