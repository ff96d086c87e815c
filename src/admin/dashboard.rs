//! The dashboard: one page with its style and script inside, no outside assets. It knows nothing by itself; its script
//! reads the API, with the token that the person types in.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

/// The page.
const PAGE: &str = include_str!("assets/dashboard.html");

/// What the page may do: its own inline style and script, requests to where it came from, nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The dashboard.
#[utoipa::path(get, path = "/", tag = "telemetry", responses((status = 200, content_type = "text/html", body = String)))]
pub(super) async fn page() -> Response {
    response(StatusCode::OK)
}

/// The same page for who has not shown the token yet: it asks for it.
pub(super) fn locked() -> Response {
    let mut response = response(StatusCode::UNAUTHORIZED);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn response(status: StatusCode) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, Html(PAGE)).into_response()
}
