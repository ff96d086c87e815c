//! Who may: a bearer token where one is configured, and on an open loopback address a guard against other people's web
//! pages.
//!
//! Without a token every program on this machine is trusted, but a browser on it runs pages from anywhere. Such a page
//! can send requests here (and with a name that it lets resolve to 127.0.0.1, even as "same origin"), so writes must
//! name a loopback host and come from no other origin.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::{AdminState, ApiError, dashboard};

/// Lets a request through, or answers 401 or 403.
pub(super) async fn guard(State(admin): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let is_public = matches!(path, "/healthz" | "/readyz") || path == "/metrics" && admin.public_metrics;
    match admin.token.load_full() {
        Some(token) => {
            let may = is_public && is_read || bears(request.headers(), &token);
            if !may {
                // A person with a browser gets the page that asks for the token; it shows nothing without one.
                if path == "/" && is_read {
                    return dashboard::locked();
                }
                let message = "this needs the header Authorization: Bearer TOKEN, with the admin token";
                return ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
            }
        }
        None => {
            if !is_read && let Err(message) = is_local(request.headers(), request.uri().authority()) {
                return ApiError::new(StatusCode::FORBIDDEN, "forbidden", message).into_response();
            }
        }
    }
    next.run(request).await
}

/// Whether the headers bear `token`. The comparison takes the same time wherever the first difference is.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Some((scheme, given)) = value.as_bytes().split_at_checked(7) else { return false };
    scheme.eq_ignore_ascii_case(b"bearer ") && given.trim_ascii().ct_eq(token.as_bytes()).into()
}

/// Whether a write names a loopback host and comes from no other origin.
fn is_local(headers: &HeaderMap, target: Option<&Authority>) -> Result<(), &'static str> {
    let host = match (target, headers.get(header::HOST)) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host.to_str().map_err(|_| "the Host header is not text")?,
        (None, None) => return Err("a change needs a Host header"),
    };
    if !is_loopback(host) {
        return Err("a change must name a loopback host in its Host header (no token is configured)");
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
            return Err("a change may not come from a page of another origin");
        }
    }
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return Err("a change may not come from a page of another site");
    }
    Ok(())
}

/// Whether `host`, with or without port, is this machine under a name that nobody else can give it.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || literal.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_told_from_all_others() {
        for host in ["localhost", "LocalHost:9901", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:9901"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "a@127.0.0.1",
            "127.0.0.1@evil",
            "[::2]",
            "0.0.0.0:9901",
            "localhost:1:2",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn tokens() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bears(&headers, "s3cret")
        };
        assert!(with(&["Bearer s3cret"]) && with(&["bearer  s3cret"]));
        for faulty in [&[][..], &["Bearer s3cre"], &["Bearer s3cret2"], &["Basic s3cret"], &["s3cret"], &["Bearer "]] {
            assert!(!with(faulty), "{faulty:?}");
        }
        assert!(!with(&["Bearer s3cret", "Bearer s3cret"]), "two credentials are none");
    }
}
