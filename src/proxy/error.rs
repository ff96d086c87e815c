//! The answers that Evenkeel makes itself: small JSON in the OpenAI error shape, never naming a backend's address.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::access_log::End;
use super::request_id::RequestId;
use crate::upstream::Fault;

/// Why a request gets an answer of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request is not HTTP as we accept it: what is wrong.
    Malformed(&'static str),
    /// CONNECT or TRACE.
    MethodNotAllowed,
    /// An OPTIONS that may go no further (`Max-Forwards: 0`): no refusal, but an answer of ours all the same.
    LastHop,
    /// A transfer coding we do not know.
    NotImplemented(&'static str),
    /// No route.
    NoRoute,
    /// The body is larger than the listener allows.
    BodyTooLarge,
    /// The request target is longer than the listener allows.
    TargetTooLong,
    /// The head is larger than the listener allows.
    HeadTooLarge,
    /// The client was too slow.
    RequestTimeout,
    /// The client sends more requests than it may; come again in so many seconds.
    TooManyRequests(u64),
    /// The backend could not be reached, or broke off.
    BackendFailed,
    /// The backend was too slow.
    BackendTimeout,
    /// No backend can take it; come again in so many seconds.
    NoBackend(u64),
    /// We have no descriptor or memory left to ask a backend.
    Starved,
    /// The queue is full; come again in so many seconds.
    QueueFull(u64),
    /// No place became free in time; come again in so many seconds.
    QueueTimeout(u64),
}

impl Refusal {
    /// What a failed exchange means for the client.
    pub fn of_fault(fault: &Fault) -> Self {
        match fault {
            Fault::ClientGone | Fault::ClientBody(_) => Self::Malformed("the request body is malformed or incomplete"),
            Fault::ClientBodyTimeout => Self::RequestTimeout,
            Fault::ClientBodyTooLarge => Self::BodyTooLarge,
            Fault::FirstByteTimeout | Fault::IdleTimeout | Fault::TotalTimeout => Self::BackendTimeout,
            Fault::Starved(_) => Self::Starved,
            Fault::Connect(_)
            | Fault::Unresolved
            | Fault::OtherProtocol
            | Fault::Closed
            | Fault::Io(_)
            | Fault::StreamReset
            | Fault::Protocol(_) => Self::BackendFailed,
        }
    }

    /// The status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::LastHop => StatusCode::NO_CONTENT,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BackendFailed => StatusCode::BAD_GATEWAY,
            Self::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::NoBackend(_) | Self::Starved | Self::QueueFull(_) | Self::QueueTimeout(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// What the access log calls it.
    pub fn end(self) -> End {
        match self {
            Self::BackendFailed => End::BackendReset,
            Self::BackendTimeout => End::BackendTimeout,
            Self::NoBackend(_) | Self::Starved | Self::QueueFull(_) => End::NoBackend,
            Self::QueueTimeout(_) => End::QueueTimeout,
            Self::LastHop => End::Ok,
            Self::Malformed(_)
            | Self::MethodNotAllowed
            | Self::NotImplemented(_)
            | Self::NoRoute
            | Self::BodyTooLarge
            | Self::TargetTooLong
            | Self::HeadTooLarge
            | Self::RequestTimeout
            | Self::TooManyRequests(_) => End::Rejected,
        }
    }

    /// `type` and `code` of the OpenAI error shape, and the message.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        const CLIENT: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::Malformed(what) => (CLIENT, "malformed_request", what),
            Self::MethodNotAllowed => (CLIENT, "method_not_allowed", "this method is not proxied"),
            Self::LastHop => ("", "", ""),
            Self::NotImplemented(what) => (CLIENT, "not_implemented", what),
            Self::NoRoute => (CLIENT, "no_route", "no route matches this request"),
            Self::BodyTooLarge => (CLIENT, "body_too_large", "the request body is larger than allowed"),
            Self::TargetTooLong => (CLIENT, "uri_too_long", "the request target is longer than allowed"),
            Self::HeadTooLarge => (CLIENT, "headers_too_large", "the request head is larger than allowed"),
            Self::RequestTimeout => (CLIENT, "request_timeout", "the request came too slowly"),
            Self::TooManyRequests(_) => {
                ("rate_limit_error", "too_many_requests", "this client sends too many requests")
            }
            Self::BackendFailed => (SERVER, "backend_failed", "the backend could not answer"),
            Self::BackendTimeout => (SERVER, "backend_timeout", "the backend did not answer in time"),
            Self::NoBackend(_) => (SERVER, "no_backend", "no backend is available"),
            Self::Starved => (SERVER, "overloaded", "the balancer is short of resources, please try again"),
            Self::QueueFull(_) => (SERVER, "queue_full", "all backends are busy and the queue is full"),
            Self::QueueTimeout(_) => (SERVER, "queue_timeout", "all backends stayed busy for too long"),
        }
    }

    /// The response to a gRPC call: a head that ends its stream, with the gRPC status that the call specification maps
    /// this HTTP status to. A gRPC client would take our JSON for a broken message.
    pub fn grpc_response(self) -> Response<Bytes> {
        let code = match self.status() {
            StatusCode::BAD_REQUEST => "13",
            StatusCode::NOT_FOUND => "12",
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => "14",
            _ => "2",
        };
        let (_, _, message) = self.words();
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static(code));
        headers.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(message));
        response
    }

    /// The response, with its JSON body.
    pub fn response(self, request_id: &RequestId) -> Response<Bytes> {
        const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        if self == Self::LastHop {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = self.status();
            response.headers_mut().insert(header::ALLOW, METHODS);
            return response;
        }
        let (kind, code, message) = self.words();
        let id = request_id.as_str();
        let body = serde_json::json!({
            "error": { "message": message, "type": kind, "code": code, "request_id": id }
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self {
            Self::NoBackend(after)
            | Self::QueueFull(after)
            | Self::QueueTimeout(after)
            | Self::TooManyRequests(after) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(after.max(1)));
            }
            Self::Starved => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::MethodNotAllowed => {
                headers.insert(header::ALLOW, METHODS);
                // What follows a CONNECT is no HTTP.
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::Malformed(_)
            | Self::NotImplemented(_)
            | Self::BodyTooLarge
            | Self::RequestTimeout
            | Self::TargetTooLong
            | Self::HeadTooLarge => {
                // What is left of such a request must not be read as the next one.
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::LastHop | Self::NoRoute | Self::BackendFailed | Self::BackendTimeout => {}
        }
        response
    }
}
