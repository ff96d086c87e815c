//! The headers a proxy owns: what is dropped, what is added, whom to believe (reliability.md §4).

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use rand::{Rng, RngExt};
use smallvec::SmallVec;

use super::Downstream;
use super::affinity::cookies_without;
use super::orca;
use crate::config::Cidr;
use crate::upstream::http1::Asks;
use crate::upstream::http1::request::{BodyFraming, is_hop_by_hop, write_end, write_field, write_headers, write_line};

/// Our header for the request's identifier.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// Longest identifier taken over from a trusted proxy.
const LONGEST_REQUEST_ID: usize = 128;

/// Who the client is, for keys, logs and limits: the peer, or what a trusted proxy says, read from right to left
/// through the trusted ranges only.
pub fn client_address(headers: &HeaderMap, downstream: &Downstream) -> IpAddr {
    if !downstream.trusted {
        return downstream.peer;
    }
    let trusted: &[Cidr] = &downstream.listener.trusted_proxies;
    let mut client = downstream.peer;
    let lines: SmallVec<[&HeaderValue; 4]> = headers.get_all(FORWARDED_FOR).iter().collect();
    for line in lines.iter().rev() {
        for element in line.as_bytes().rsplit(|byte| *byte == b',') {
            let Some(address) = parse_address(element.trim_ascii()) else { return client };
            client = address.to_canonical();
            if !trusted.iter().any(|range| range.contains(client)) {
                return client;
            }
        }
    }
    client
}

/// An element of `X-Forwarded-For`: an address, perhaps with a port or in brackets.
fn parse_address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    text.parse()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

/// The identifier of a request: a trusted proxy's, or a new one of 128 random bits.
#[inline]
pub fn request_id(headers: &HeaderMap, trusted: bool, rng: &mut impl Rng) -> HeaderValue {
    if trusted
        && let Some(id) = headers.get(&X_REQUEST_ID)
        && (1..=LONGEST_REQUEST_ID).contains(&id.len())
        && id.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return id.clone();
    }
    let mut text = [0u8; 32];
    let random: u128 = rng.random();
    for (pair, byte) in text.chunks_exact_mut(2).zip(random.to_ne_bytes()) {
        pair.copy_from_slice(&HEX[usize::from(byte)]);
    }
    // INVARIANT: hex digits are a valid header value.
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Every byte as two hex digits.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// What a forwarded request says beyond the client's own head.
#[derive(Debug)]
pub struct Outbound<'a> {
    /// The client's head.
    pub head: &'a Parts,
    /// The connection it came on.
    pub downstream: &'a Downstream,
    /// The host it is for.
    pub host: &'a [u8],
    /// The identifier of the request.
    pub request_id: &'a HeaderValue,
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
        write_field(out, "host", self.host);
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

    /// The request for an HTTP/2 backend. `fallback`: the authority when the client named none.
    ///
    /// # Errors
    /// The host is not one that HTTP/2 can carry.
    pub fn to_http2<T>(&self, body: T, scheme: &str, fallback: &str) -> Result<Request<T>, http::Error> {
        let head = self.head;
        let authority = Some(self.host).filter(|host| !host.is_empty()).unwrap_or(fallback.as_bytes());
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build()?;
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
        let wants_trailers = |value: &HeaderValue| {
            let mut tokens = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tokens.any(|token| token.eq_ignore_ascii_case(b"trailers"))
        };
        if head.headers.get_all(header::TE).iter().any(wants_trailers) {
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
        headers.insert(X_REQUEST_ID.clone(), self.request_id.clone());
        headers.append(header::VIA, HeaderValue::from_static(via(head.version).1));
        if let BodyFraming::Length(length) = self.framing {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(request)
    }

    /// Whether a field of the client's passes; ours are written apart.
    #[inline]
    fn passes(&self, name: &HeaderName) -> bool {
        if *name == header::HOST || *name == header::EXPECT {
            return false;
        }
        if *name == header::FORWARDED {
            return self.downstream.trusted;
        }
        let name = name.as_str();
        if self.is_guarded(name) {
            return false;
        }
        match name.as_bytes() {
            [b'x', b'-', ..] => {
                !matches!(name, FORWARDED_FOR | "x-request-id")
                    && (self.downstream.trusted || !matches!(name, FORWARDED_PROTO | FORWARDED_HOST | "x-real-ip"))
            }
            // Servers that map names to variables (CGI) would take these for the real ones.
            [b'x', b'_', ..] => {
                !matches!(name, "x_forwarded_for" | "x_forwarded_proto" | "x_forwarded_host" | "x_real_ip")
            }
            _ => true,
        }
    }

    /// Whether only we may say it; servers that map names to variables take `_` for `-`.
    #[inline]
    fn is_guarded(&self, name: &str) -> bool {
        let alike = |guarded: &String| {
            let pairs = || guarded.bytes().zip(name.bytes());
            guarded.len() == name.len()
                && pairs().all(|(ours, theirs)| ours == theirs || (ours == b'-' && theirs == b'_'))
        };
        self.downstream.listener.guarded_headers.iter().any(alike)
    }

    fn write_subject(&self, out: &mut Vec<u8>) {
        let tls = self.downstream.listener.tls.as_ref();
        if let (Some(name), Some(subject)) = (tls.and_then(|tls| tls.subject_header.as_ref()), &self.downstream.subject)
        {
            write_field(out, name, subject.as_bytes());
        }
    }

    fn write_forwarded(&self, out: &mut Vec<u8>) {
        if !self.downstream.trusted {
            out.extend_from_slice(&self.downstream.forwarded);
            write_field(out, FORWARDED_HOST, self.host);
            return;
        }
        let peer = self.downstream.peer_text.as_bytes();
        out.extend_from_slice(FORWARDED_FOR.as_bytes());
        out.extend_from_slice(b": ");
        if self.downstream.trusted {
            for line in self.head.headers.get_all(FORWARDED_FOR) {
                out.extend_from_slice(line.as_bytes());
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(peer);
        out.extend_from_slice(b"\r\n");
        let has = |name: &str| self.downstream.trusted && self.head.headers.contains_key(name);
        if !has(FORWARDED_PROTO) {
            write_field(out, FORWARDED_PROTO, if self.downstream.secure { b"https" } else { b"http" });
        }
        if !has(FORWARDED_HOST) {
            write_field(out, FORWARDED_HOST, self.host);
        }
    }
}

/// What an untrusted peer's requests say of it: the same for every request of a connection.
pub(super) fn forwarded(peer: &str, secure: bool) -> Vec<u8> {
    let proto = if secure { "https" } else { "http" };
    format!("{FORWARDED_FOR}: {peer}\r\n{FORWARDED_PROTO}: {proto}\r\n").into_bytes()
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

/// Makes a backend's headers ours: the identifier is on every response, and event streams are not buffered by anyone
/// in front of us.
#[inline]
pub fn finish_response(headers: &mut HeaderMap, request_id: &HeaderValue, streamed: bool) {
    if streamed && !headers.contains_key(&X_ACCEL_BUFFERING) {
        headers.insert(X_ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"));
    }
    headers.insert(X_REQUEST_ID.clone(), request_id.clone());
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
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn downstream(trusted: &[&str]) -> Downstream {
        let mut listener = ListenerPlan::new(([127, 0, 0, 1], 0).into());
        listener.trusted_proxies = trusted.iter().map(|range| range.parse().unwrap()).collect();
        Downstream::new([10, 0, 0, 1].into(), false, Arc::new(listener))
    }

    fn written(head: &Parts, downstream: &Downstream) -> Vec<String> {
        let id = HeaderValue::from_static("id");
        let host = host(head);
        let outbound = Outbound {
            head,
            downstream,
            host: host.as_bytes(),
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
            ("x_forwarded_for", "6.6.6.6"),
            ("x-request-id", "mine"),
            ("connection", "x-secret, Host, x-forwarded-for"),
            ("x-secret", "1"),
            ("via", "1.0 first"),
            ("accept", "*/*"),
        ]);
        let lines = written(&head, &downstream(&[]));
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
        assert_eq!(client_address(&head.headers, &near), IpAddr::from([1, 2, 3, 4]));
    }

    #[test]
    fn the_client_is_the_first_address_from_the_right_that_is_not_trusted() {
        let near = downstream(&["10.0.0.0/8"]);
        let cases = [
            ("6.6.6.6, 1.2.3.4, 10.1.1.1", "1.2.3.4"),
            ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
            ("junk, 10.2.2.2", "10.2.2.2"),
            ("1.2.3.4:555", "1.2.3.4"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
            ("", "10.0.0.1"),
        ];
        for (line, expected) in cases {
            let head = parts(&[("x-forwarded-for", line)]);
            assert_eq!(client_address(&head.headers, &near).to_string(), expected, "{line}");
        }
    }

    #[test]
    fn a_request_id_is_random_unless_a_trusted_proxy_gave_one() {
        let mut rng = SmallRng::seed_from_u64(1);
        let head = parts(&[("x-request-id", "theirs")]);
        assert_eq!(request_id(&head.headers, true, &mut rng), "theirs");
        let (a, b) = (request_id(&head.headers, false, &mut rng), request_id(&head.headers, false, &mut rng));
        assert_ne!(a, b);
        assert!(a.len() == 32 && a.as_bytes().iter().all(u8::is_ascii_hexdigit));
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
