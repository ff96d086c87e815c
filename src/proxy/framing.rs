//! What a request may look like at all: refuses what the parsers let through. Pure; runs before routing.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Version};

use super::error::Refusal;
use crate::config::ListenerPlan;

/// What the head says that the request path needs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framed {
    /// `Content-Length`, where there is one.
    pub content_length: Option<u64>,
    /// The client waits for a 100 before it sends its body.
    pub expect_continue: bool,
    /// It asks for another protocol.
    pub upgrade: bool,
    /// It names fields in `Connection`.
    pub connection: bool,
    /// Its `Host` is the one the caller knew.
    pub known_host: bool,
}

/// The fields that framing depends on, found in one walk over the head: a look-up by name costs a hash each.
#[derive(Default)]
struct Fields<'a> {
    bytes: usize,
    hosts: usize,
    host: Option<&'a HeaderValue>,
    lengths: usize,
    length: Option<&'a HeaderValue>,
    codings: usize,
    coding: Option<&'a HeaderValue>,
    expect: Option<&'a HeaderValue>,
    upgrade: bool,
    connection: bool,
}

impl<'a> Fields<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            // Name, value, colon, space, line end.
            fields.bytes += name.as_str().len() + value.len() + 4;
            if *name == header::HOST {
                fields.hosts += 1;
                fields.host = Some(value);
            } else if *name == header::CONTENT_LENGTH {
                fields.lengths += 1;
                fields.length = Some(value);
            } else if *name == header::TRANSFER_ENCODING {
                fields.codings += 1;
                fields.coding = Some(value);
            } else if *name == header::EXPECT {
                fields.expect = Some(value);
            } else if *name == header::UPGRADE {
                fields.upgrade = true;
            } else if *name == header::CONNECTION {
                fields.connection = true;
            }
        }
        fields
    }
}

static MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");

/// Takes one from the `Max-Forwards` of an `OPTIONS` that was found to have some left (RFC 9110 section 7.6.2).
pub fn one_hop_less(head: &mut Parts) {
    if head.method == Method::OPTIONS
        && let Some(left) = hops_left(&head.headers)
    {
        head.headers.insert(MAX_FORWARDS.clone(), HeaderValue::from(left.saturating_sub(1)));
    }
}

/// What `Max-Forwards` says; anything but one number is ignored.
fn hops_left(headers: &HeaderMap) -> Option<u64> {
    let digits = headers.get(&MAX_FORWARDS)?.to_str().ok()?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Checks a request head. `known_host`: a `Host` that was found valid before, on the same connection; may be empty.
///
/// # Errors
/// The refusal to answer with.
pub fn check(head: &Parts, limits: &ListenerPlan, known_host: &[u8]) -> Result<Framed, Refusal> {
    if head.method == Method::CONNECT || head.method == Method::TRACE {
        return Err(Refusal::MethodNotAllowed);
    }
    target(head, limits)?;
    let fields = Fields::of(&head.headers);
    if head.headers.len() > limits.max_headers || fields.bytes > limits.max_header_bytes {
        return Err(Refusal::HeadTooLarge);
    }
    let known_host = fields.host.is_some_and(|host| *host == *known_host);
    hosts(head, &fields, known_host)?;
    let content_length = content_length(&fields)?;
    if fields.codings > 0 {
        transfer_encoding(head, &fields, content_length)?;
    }
    if limits.max_body != 0 && content_length.is_some_and(|length| length > limits.max_body) {
        return Err(Refusal::BodyTooLarge);
    }
    let expect_continue = head.version == Version::HTTP_11
        && fields.expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if head.method == Method::OPTIONS && hops_left(&head.headers) == Some(0) {
        return Err(Refusal::LastHop);
    }
    Ok(Framed { content_length, expect_continue, upgrade: fields.upgrade, connection: fields.connection, known_host })
}

fn target(head: &Parts, limits: &ListenerPlan) -> Result<(), Refusal> {
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = head.uri.authority().map_or("", http::uri::Authority::as_str);
    if path.len() + authority.len() > limits.max_uri {
        return Err(Refusal::TargetTooLong);
    }
    if path == "*" && head.method != Method::OPTIONS {
        return Err(Refusal::Malformed("the target * is only for OPTIONS"));
    }
    if !authority.is_empty() {
        if authority.contains('@') {
            return Err(Refusal::Malformed("a request target must not carry user information"));
        }
        // It becomes the host (RFC 9112 section 3.2.2), so it must be one.
        if !is_host(authority.as_bytes()) {
            return Err(Refusal::Malformed("the host of the target is not valid"));
        }
    }
    if head.uri.scheme().is_some_and(|scheme| !matches!(scheme.as_str(), "http" | "https")) {
        return Err(Refusal::Malformed("the scheme of the target is neither http nor https"));
    }
    // Authority form (`GET example.com:80`) has no path at all.
    if head.uri.path_and_query().is_none() && !authority.is_empty() && head.uri.scheme().is_none() {
        return Err(Refusal::Malformed("the target has no path"));
    }
    Ok(())
}

/// RFC 9112 section 3.2: one valid `Host`, in HTTP/1.1 always; in HTTP/2 none that disagrees with `:authority`.
fn hosts(head: &Parts, fields: &Fields<'_>, is_known: bool) -> Result<(), Refusal> {
    let Some(host) = fields.host else {
        return match head.version {
            Version::HTTP_11 => Err(Refusal::Malformed("Host is missing")),
            Version::HTTP_2 if head.uri.authority().is_none() => Err(Refusal::Malformed("neither :authority nor Host")),
            _ => Ok(()),
        };
    };
    if fields.hosts > 1 {
        return Err(Refusal::Malformed("more than one Host"));
    }
    // A port of nothing names nobody (RFC 9110 section 4.2.1); an empty field stands for a client without a name for us.
    if !is_known && (host.as_bytes().first() == Some(&b':') || !is_host(host.as_bytes())) {
        return Err(Refusal::Malformed("Host is not valid"));
    }
    let disagrees =
        |authority: &http::uri::Authority| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
    if head.version == Version::HTTP_2 && head.uri.authority().is_some_and(disagrees) {
        return Err(Refusal::Malformed("Host and :authority disagree"));
    }
    Ok(())
}

/// Bytes of a registered name (RFC 3986 section 3.2.2, without the comma, which lists would hide behind).
const IN_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let extra = b"-._~%!$&'()*+;=";
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut index = 0;
    while index < extra.len() {
        table[extra[index] as usize] = true;
        index += 1;
    }
    table
};

/// Whether `host` is `uri-host [":" port]` of RFC 9110 section 7.2, by its bytes. Empty is allowed there.
pub fn is_host(host: &[u8]) -> bool {
    if host.first() == Some(&b'[') {
        return host.iter().position(|byte| *byte == b']').is_some_and(|end| {
            let name = &host[1..end];
            let inside = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            !name.is_empty() && name.iter().all(inside) && is_port(&host[end + 1..])
        });
    }
    match host.iter().position(|byte| !IN_HOST[usize::from(*byte)]) {
        None => true,
        Some(colon) => is_port(&host[colon..]),
    }
}

/// Nothing, or a colon and up to five digits that fit 16 bits.
fn is_port(port: &[u8]) -> bool {
    match port {
        [] => true,
        [b':', digits @ ..] if digits.len() <= 5 => {
            let value = digits
                .iter()
                .try_fold(0u32, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0')));
            value.is_some_and(|value| value <= u32::from(u16::MAX))
        }
        _ => false,
    }
}

fn content_length(fields: &Fields<'_>) -> Result<Option<u64>, Refusal> {
    let Some(value) = fields.length else { return Ok(None) };
    if fields.lengths > 1 {
        return Err(Refusal::Malformed("more than one Content-Length"));
    }
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Malformed("Content-Length is not a number"));
    }
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    // Others count in signed numbers: what overflows there must not look sound here.
    length
        .filter(|length| i64::try_from(*length).is_ok())
        .map(Some)
        .ok_or(Refusal::Malformed("Content-Length is too large"))
}

/// Only one exact `chunked`, in HTTP/1.1, without `Content-Length`.
fn transfer_encoding(head: &Parts, fields: &Fields<'_>, content_length: Option<u64>) -> Result<(), Refusal> {
    if head.version != Version::HTTP_11 {
        return Err(Refusal::Malformed("Transfer-Encoding belongs to HTTP/1.1"));
    }
    if content_length.is_some() {
        return Err(Refusal::Malformed("both Content-Length and Transfer-Encoding"));
    }
    match fields.coding {
        Some(value) if fields.codings == 1 && value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::NotImplemented("the only transfer coding is a single chunked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn refusal(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Option<u16> {
        let limits = ListenerPlan::new(([127, 0, 0, 1], 0).into());
        let (head, ()) = build(Request::builder()).body(()).unwrap().into_parts();
        check(&head, &limits, b"").err().map(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn heads_that_pass_and_heads_that_do_not() {
        assert_eq!(refusal(|r| r.uri("/").header("host", "a")), None);
        assert_eq!(refusal(|r| r.uri("http://b:1/x").header("host", "a")), None);
        assert_eq!(refusal(|r| r.uri("*").method("OPTIONS").header("host", "a")), None);
        assert_eq!(refusal(|r| r.uri("/").header("host", "a").header("transfer-encoding", "Chunked")), None);
        assert_eq!(refusal(|r| r.uri("/").version(Version::HTTP_10)), None);
        assert_eq!(refusal(|r| r.uri("/")), Some(400));
        assert_eq!(refusal(|r| r.uri("/").header("host", "a").header("host", "a")), Some(400));
        assert_eq!(refusal(|r| r.uri("/").header("host", "a b")), Some(400));
        assert_eq!(refusal(|r| r.uri("http://u@b/").header("host", "b")), Some(400));
        assert_eq!(refusal(|r| r.uri("*").header("host", "a")), Some(400));
        assert_eq!(refusal(|r| r.uri("/").method("TRACE").header("host", "a")), Some(405));
        assert_eq!(refusal(|r| r.uri("a:1").method("CONNECT").header("host", "a")), Some(405));
        assert_eq!(refusal(|r| r.uri("/").header("host", "a").header("transfer-encoding", "gzip, chunked")), Some(501));
        let twice = |r: http::request::Builder| {
            r.uri("/").header("host", "a").header("transfer-encoding", "chunked").header("transfer-encoding", "chunked")
        };
        assert_eq!(refusal(twice), Some(501));
        let both = |r: http::request::Builder| {
            r.uri("/").header("host", "a").header("transfer-encoding", "chunked").header("content-length", "1")
        };
        assert_eq!(refusal(both), Some(400));
        assert_eq!(refusal(|r| r.uri("/").header("host", "a").header("content-length", "+1")), Some(400));
        let longest = "9223372036854775808";
        assert_eq!(refusal(|r| r.uri("/").header("host", "a").header("content-length", longest)), Some(400));
        assert_eq!(refusal(|r| r.uri("/").header("host", "")), None);
        assert_eq!(refusal(|r| r.uri("/").header("host", ":80")), Some(400));
        assert_eq!(refusal(|r| r.uri(format!("/{}", "a".repeat(17 << 10))).header("host", "a")), Some(414));
        assert_eq!(refusal(|r| r.uri("/").header("host", "a").header("x", "a".repeat(65 << 10))), Some(431));
        let many = |mut r: http::request::Builder| {
            for number in 0..101 {
                r = r.header(format!("x-{number}"), "1");
            }
            r.uri("/").header("host", "a")
        };
        assert_eq!(refusal(many), Some(431));
    }

    #[test]
    fn hosts_by_their_bytes() {
        for good in ["a", "a.b:80", "[::1]", "[::1]:8080", "127.0.0.1:1", "", "a:", "xn--p1ai.example"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in ["a b", "a/b", "u@a", "a,b", "a:x", "a:123456", "a:65536", "[::1", "[]", "a\\b", "a\"", "[::1]x"] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
