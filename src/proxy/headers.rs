//! The headers a proxy owns: what is dropped, what is added, whom to believe (reliability.md §4).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use smallvec::SmallVec;

use super::Downstream;
use super::affinity::cookies_without;
use super::forwarded;
use super::orca;
use super::request_id::{RequestId, X_REQUEST_ID};
use crate::config::Address;
use crate::upstream::http1::Asks;
use crate::upstream::http1::request::{BodyFraming, is_hop_by_hop, write_end, write_field, write_headers, write_line};

static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What a forwarded request says beyond the client's own head.
#[derive(Debug)]
pub struct Outbound<'a> {
    /// The client's head.
    pub head: &'a Parts,
    /// The connection it came on.
    pub downstream: &'a Downstream,
    /// The host it is for, where the client named one.
    pub named_host: &'a [u8],
    /// Where it goes: stands for a host that the client did not name.
    pub address: &'a Address,
    /// The identifier of the request.
    pub request_id: &'a RequestId,
    /// How its body is framed.
    pub framing: BodyFraming,
    /// What it asks for beside a response.
    pub asks: Asks,
    /// The client's head has a `Connection` field, so names in it are to be dropped.
    pub connection_field: bool,
    /// A cookie of ours, which backends do not see.
    pub own_cookie: Option<&'a str>,
    /// The backend is asked for load reports.
    pub orca: bool,
}

impl Outbound<'_> {
    /// Writes the whole head for an HTTP/1.1 backend.
    pub fn write(&self, out: &mut Vec<u8>) {
        let head = self.head;
        // Path and query pass byte for byte; `*` stands for itself; an absolute target without a path means `/`.
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        if target.starts_with('?') {
            write_line(out, head.method.as_str(), &format!("/{target}"));
        } else {
            write_line(out, head.method.as_str(), target);
        }
        match self.named_host {
            [] => write_field(out, "host", self.address.to_string().as_bytes()),
            host => write_field(out, "host", host),
        }
        let dropped = if self.connection_field { named_by_connection(&head.headers) } else { SmallVec::new() };
        let crumbs = head.version == Version::HTTP_2 && self.own_cookie.is_none();
        let ours = self.own_cookie.is_some();
        write_headers(out, &head.headers, |name, _| {
            self.passes(name)
                && !dropped.contains(name)
                && !((crumbs || ours) && *name == header::COOKIE)
                && !(self.orca && name == orca::FORMAT_HEADER)
        });
        if self.orca {
            write_field(out, orca::FORMAT_HEADER, b"text");
        }
        if let Some(cookies) = self.own_cookie.and_then(|own| cookies_without(&head.headers, own)) {
            write_field(out, "cookie", &cookies);
        }
        if crumbs {
            write_cookie_crumbs(out, &head.headers);
        }
        self.write_forwarded(out);
        self.write_subject(out);
        write_field(out, X_REQUEST_ID.as_str(), self.request_id.as_bytes());
        out.extend_from_slice(via(head.version).0.as_bytes());
        if self.asks.expect_continue {
            write_field(out, "expect", b"100-continue");
        }
        if self.asks.upgrade {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        write_end(out, self.framing);
    }

    /// The request for an HTTP/2 backend.
    ///
    /// # Errors
    /// The host is not one that HTTP/2 can carry.
    pub fn to_http2<T>(&self, body: T, scheme: &str) -> Result<Request<T>, http::Error> {
        let head = self.head;
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let uri = Uri::builder().scheme(scheme).path_and_query(target);
        let uri = match self.named_host {
            [] => uri.authority(self.address.to_string()).build()?,
            host => uri.authority(host).build()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        let dropped = if self.connection_field { named_by_connection(&head.headers) } else { SmallVec::new() };
        let headers = request.headers_mut();
        headers.reserve(head.headers.len() + 6);
        for (name, value) in &head.headers {
            let ours = *name == header::CONTENT_LENGTH || (self.own_cookie.is_some() && *name == header::COOKIE);
            if !ours && !is_hop_by_hop(name) && self.passes(name) && !dropped.contains(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        if let Some(cookies) = self.own_cookie.and_then(|own| cookies_without(&head.headers, own)) {
            headers.insert(header::COOKIE, HeaderValue::from_bytes(&cookies)?);
        }
        // gRPC asks for its trailers this way, and HTTP/2 allows nothing else here.
        if wants_trailers(&head.headers) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        let mut forwarded = Vec::new();
        self.write_forwarded(&mut forwarded);
        self.write_subject(&mut forwarded);
        for line in forwarded.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end) {
            if let Some(colon) = line.iter().position(|byte| *byte == b':') {
                let name = HeaderName::from_bytes(&line[..colon])?;
                headers.insert(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii())?);
            }
        }
        if self.orca {
            headers.insert(orca::FORMAT_HEADER, HeaderValue::from_static("text"));
        }
        headers.insert(X_REQUEST_ID.clone(), self.request_id.to_value());
        headers.append(header::VIA, HeaderValue::from_static(via(head.version).1));
        if let BodyFraming::Length(length) = self.framing {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(request)
    }

    /// Whether a field of the client's passes; ours are written apart.
    #[inline]
    fn passes(&self, name: &HeaderName) -> bool {
        !(*name == header::HOST
            || *name == header::EXPECT
            || forwarded::is_reserved(name, self.downstream.trusted)
            || is_guarded(name, self.downstream))
    }

    fn write_subject(&self, out: &mut Vec<u8>) {
        let tls = self.downstream.listener.tls.as_ref();
        if let (Some(name), Some(subject)) = (tls.and_then(|tls| tls.subject_header.as_ref()), &self.downstream.subject)
        {
            write_field(out, name, subject.as_bytes());
        }
    }

    fn write_forwarded(&self, out: &mut Vec<u8>) {
        forwarded::write(out, &self.head.headers, self.downstream, self.named_host);
    }
}

/// Whether only we may say it, as the operator has it (the subject of a client's certificate).
#[inline]
fn is_guarded(name: &HeaderName, downstream: &Downstream) -> bool {
    let name = name.as_str().as_bytes();
    let alike = |guarded: &String| {
        guarded.len() == name.len() && name.iter().zip(guarded.bytes()).all(|(a, b)| forwarded::same(*a, b))
    };
    downstream.listener.guarded_headers.iter().any(alike)
}

/// Whether the client says that it takes trailers.
fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| {
        let mut tokens = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        tokens.any(|token| token.eq_ignore_ascii_case(b"trailers"))
    })
}

/// Our line of `Via`, and its value, by the version the request came with.
fn via(version: Version) -> (&'static str, &'static str) {
    match version {
        Version::HTTP_10 => ("via: 1.0 evenkeel\r\n", "1.0 evenkeel"),
        Version::HTTP_2 => ("via: 2.0 evenkeel\r\n", "2.0 evenkeel"),
        _ => ("via: 1.1 evenkeel\r\n", "1.1 evenkeel"),
    }
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 servers expect one (RFC 9113 section 8.2.3).
fn write_cookie_crumbs(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (number, crumb) in headers.get_all(header::COOKIE).iter().enumerate() {
        out.extend_from_slice(if number == 0 { b"cookie: " } else { b"; " });
        out.extend_from_slice(crumb.as_bytes());
    }
    if headers.contains_key(header::COOKIE) {
        out.extend_from_slice(b"\r\n");
    }
}

/// The host a request is for: the target's authority before the `Host` field (RFC 9112 section 3.2.2).
pub fn host(head: &Parts) -> HeaderValue {
    match (head.uri.authority(), head.headers.get(header::HOST)) {
        // INVARIANT: every byte of an authority may stand in a header value.
        (Some(authority), _) => {
            HeaderValue::from_str(authority.as_str()).unwrap_or_else(|_| HeaderValue::from_static(""))
        }
        (None, Some(host)) => host.clone(),
        (None, None) => HeaderValue::from_static(""),
    }
}

/// Names in `Connection` lines, as bytes that need not be text.
fn named_by_connection(headers: &HeaderMap) -> SmallVec<[HeaderName; 2]> {
    let mut names = SmallVec::new();
    for line in headers.get_all(header::CONNECTION) {
        for token in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token) {
                names.push(name);
            }
        }
    }
    names
}

/// How the body is framed upstream, whatever framing the client used.
pub fn body_framing(method: &Method, content_length: Option<u64>, has_body: bool) -> BodyFraming {
    match (content_length, has_body) {
        (Some(length), _) => BodyFraming::Length(length),
        (None, true) => BodyFraming::Chunked,
        // A method that expects a body says that there is none (RFC 9110 section 8.6).
        (None, false) if *method == Method::POST || *method == Method::PUT || *method == Method::PATCH => {
            BodyFraming::Length(0)
        }
        (None, false) => BodyFraming::None,
    }
}

/// Event streams are not to be buffered by anyone in front of us.
#[cold]
pub fn forbid_buffering(headers: &mut HeaderMap) {
    if !headers.contains_key(&X_ACCEL_BUFFERING) {
        headers.insert(X_ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"));
    }
}

/// Whether a request is a gRPC call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Removes from trailers what would be about framing, routing or the connection (RFC 9110 section 6.5.1): the next
/// recipient may merge them into the head.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    for name in [header::CONTENT_LENGTH, header::HOST, header::TRAILER] {
        trailers.remove(name);
    }
}

/// As [`strip_trailers`], for a client's: nothing may be said behind the body that must not be said before it, nor what
/// tells who is asking.
pub fn strip_request_trailers(trailers: &mut HeaderMap, downstream: &Downstream) {
    strip_trailers(trailers);
    let names: SmallVec<[HeaderName; 4]> = trailers.keys().cloned().collect();
    for name in names {
        let tells_who =
            [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::VIA, header::EXPECT];
        if forwarded::is_reserved(&name, false) || is_guarded(&name, downstream) || tells_who.contains(&name) {
            trailers.remove(name);
        }
    }
}

/// Removes what must not reach a client on another connection; for responses of hyper's client, ours are clean.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named = named_by_connection(headers);
    let names: SmallVec<[HeaderName; 8]> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in names.iter().chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::ListenerPlan;
    use proptest::prelude::*;

    fn downstream(trusted: &[&str]) -> Downstream {
        let mut listener = ListenerPlan::new(([127, 0, 0, 1], 0).into());
        listener.trusted_proxies = trusted.iter().map(|range| range.parse().unwrap()).collect();
        Downstream::new([10, 0, 0, 1].into(), false, Arc::new(listener))
    }

    fn written(head: &Parts, downstream: &Downstream) -> Vec<String> {
        let id = RequestId::Theirs(HeaderValue::from_static("id"));
        let host = host(head);
        let address = "127.0.0.1:9000".parse().unwrap();
        let outbound = Outbound {
            head,
            downstream,
            named_host: host.as_bytes(),
            address: &address,
            request_id: &id,
            framing: BodyFraming::None,
            asks: Asks::default(),
            connection_field: true,
            own_cookie: None,
            orca: false,
        };
        let mut out = Vec::new();
        outbound.write(&mut out);
        String::from_utf8(out).unwrap().split("\r\n").map(str::to_owned).collect()
    }

    fn parts(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("http://real:81/a%2f../b?q=%zz").header("host", "lie");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn an_untrusted_client_is_not_believed() {
        let head = parts(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x_forwarded-for", "6.6.6.6"),
            ("x-forwarded-port", "1"),
            ("x_client-subject", "CN=admin"),
            ("x-client_subject", "CN=admin"),
            ("x-client-subject", "CN=admin"),
            ("x-request-id", "mine"),
            ("connection", "x-secret, Host, x-forwarded-for"),
            ("x-secret", "1"),
            ("via", "1.0 first"),
            ("accept", "*/*"),
        ]);
        let mut guarding = ListenerPlan::new(([127, 0, 0, 1], 0).into());
        guarding.guarded_headers = vec!["x-client-subject".to_owned()];
        let lines = written(&head, &Downstream::new([10, 0, 0, 1].into(), false, Arc::new(guarding)));
        let expected = [
            "GET /a%2f../b?q=%zz HTTP/1.1",
            "host: real:81",
            "via: 1.0 first",
            "accept: */*",
            "x-forwarded-for: 10.0.0.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: real:81",
            "x-request-id: id",
            "via: 1.1 evenkeel",
            "",
            "",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_appended_to() {
        let head =
            parts(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "10.0.0.9"), ("x-forwarded-proto", "https")]);
        let near = downstream(&["10.0.0.0/8"]);
        let lines = written(&head, &near);
        assert!(lines.contains(&"x-forwarded-for: 1.2.3.4, 10.0.0.9, 10.0.0.1".to_owned()), "{lines:?}");
        assert!(lines.contains(&"x-forwarded-proto: https".to_owned()));
    }

    #[test]
    fn a_client_that_names_no_host() {
        let mut head = parts(&[]);
        head.headers.remove(header::HOST);
        head.uri = Uri::from_static("/");
        let lines = written(&head, &downstream(&[]));
        assert!(lines.contains(&"host: 127.0.0.1:9000".to_owned()), "{lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with("x-forwarded-host")), "{lines:?}");
    }

    #[test]
    fn trailers_say_nothing_that_a_head_may_not() {
        let head = parts(&[
            ("grpc-status", "0"),
            ("x_forwarded-for", "6.6.6.6"),
            ("x-forwarded-prefix", "/"),
            ("x-request-id", "mine"),
            ("forwarded", "for=6.6.6.6"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
        ]);
        let mut trailers = head.headers;
        strip_request_trailers(&mut trailers, &downstream(&["10.0.0.0/8"]));
        assert_eq!(trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }

    proptest! {
        #[test]
        fn a_connection_field_of_any_bytes_never_panics_nor_removes_what_is_ours(tokens in proptest::collection::vec(32..=255u8, 0..60)) {
            let mut head = parts(&[("accept", "*/*")]);
            if let Ok(value) = HeaderValue::from_bytes(&tokens) {
                head.headers.insert(header::CONNECTION, value);
            }
            let lines = written(&head, &downstream(&[]));
            prop_assert!(lines.contains(&"host: real:81".to_owned()));
            prop_assert!(lines.contains(&"x-forwarded-for: 10.0.0.1".to_owned()));
        }
    }
}
