//! A request head from an untrusted client, parsed into what the request path takes. Pure: bytes in, verdict out.
//!
//! httparse tells the lines apart; here the head gets its types, and what follows it its framing. What a head may say beyond
//! that is [`framing::check`]'s to decide, which also refuses the codings and lengths that are left unclear here.
//!
//! [`framing::check`]: crate::proxy::framing::check

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use smallvec::SmallVec;

use crate::upstream::http1::maps;

/// Fields for which there is room without an allocation: nearly all requests.
const USUAL_FIELDS: usize = 100;
/// Longest target that [`Uri`] takes.
const MOST_URI: usize = (u16::MAX - 1) as usize;

/// A request head.
#[derive(Debug)]
pub struct Head {
    /// The request without its body.
    pub parts: Parts,
    /// What follows the head.
    pub body: Announced,
    /// Whether the client lets the connection carry another request.
    pub keep_alive: bool,
    /// The client waits for a 100 before it sends its body.
    pub expects_continue: bool,
    /// The client takes trailers.
    pub takes_trailers: bool,
}

/// What a head says of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// There is none.
    Nothing,
    /// So many bytes, at least one.
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// Nobody can say where it ends; the request is sure to be refused.
    Unclear,
}

/// Why a head is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// It is not HTTP.
    Malformed,
    /// Its fields are too many or too long.
    TooLarge,
    /// Its target is too long.
    TargetTooLong,
}

impl Bad {
    /// What the client is told.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
        }
    }
}

/// What the fields say about framing, collected while walking them.
#[derive(Default)]
struct Seen {
    length: Option<u64>,
    coded: bool,
    /// The one coding is chunked.
    chunked: bool,
    /// The last coding is another.
    unfinished: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    takes_trailers: bool,
}

/// Where a field stands in the head.
struct Field {
    known: Option<&'static HeaderName>,
    name: Range<usize>,
    value: Range<usize>,
}

/// Parses one head from the front of `buffer`. `None`: more bytes are needed. On success the head is removed from `buffer`,
/// and its target and values are slices of it, not copies. `most_fields`: how many fields it may have.
///
/// # Errors
/// What is wrong; the connection must not be read any further.
pub fn parse(buffer: &mut BytesMut, most_fields: usize) -> Result<Option<Head>, Bad> {
    let mut usual = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; USUAL_FIELDS];
    let mut many = Vec::new();
    let room = match usual.get_mut(..most_fields) {
        Some(room) => room,
        None => {
            many.resize(most_fields, MaybeUninit::uninit());
            many.as_mut_slice()
        }
    };
    let mut parsed = httparse::Request::new(&mut []);
    let used = match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, buffer, room) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Bad::TooLarge),
        Err(_) => return Err(Bad::Malformed),
    };
    // Offsets first: once the buffer is frozen, values become slices of it.
    let base = buffer.as_ptr() as usize;
    let at = |part: &[u8]| {
        let from = part.as_ptr() as usize - base;
        from..from + part.len()
    };
    let is_http11 = parsed.version == Some(1);
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| Bad::Malformed)?;
    let target = at(parsed.path.unwrap_or_default().as_bytes());
    if target.len() > MOST_URI {
        return Err(Bad::TargetTooLong);
    }
    let mut fields: SmallVec<[Field; 32]> = SmallVec::new();
    for field in parsed.headers.iter() {
        let known = known(field.name.as_bytes());
        fields.push(Field { known, name: at(field.name.as_bytes()), value: at(field.value) });
    }
    let frozen = buffer.split_to(used).freeze();

    let uri = Uri::from_maybe_shared(frozen.slice(target)).map_err(|_| Bad::Malformed)?;
    let mut headers = maps::take();
    headers.reserve(fields.len());
    let mut seen = Seen::default();
    for field in &fields {
        let name = match field.known {
            Some(name) => name.clone(),
            None => HeaderName::from_bytes(&frozen[field.name.clone()]).map_err(|_| Bad::Malformed)?,
        };
        let value = HeaderValue::from_maybe_shared(frozen.slice(field.value.clone())).map_err(|_| Bad::Malformed)?;
        if note(&name, &value, is_http11, &mut seen, &mut headers)? {
            headers.append(name, value);
        }
    }
    let body = announced(&seen)?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method;
    parts.uri = uri;
    parts.version = if is_http11 { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers = headers;
    Ok(Some(Head {
        parts,
        body,
        // Both framings at once is how requests are smuggled: the coding rules, and nothing is read behind it.
        keep_alive: (is_http11 || seen.keep_alive) && !seen.close && !(seen.coded && seen.length.is_some()),
        expects_continue: is_http11 && seen.expects_continue,
        takes_trailers: seen.takes_trailers,
    }))
}

static HOST: HeaderName = header::HOST;
static ACCEPT: HeaderName = header::ACCEPT;
static COOKIE: HeaderName = header::COOKIE;
static USER_AGENT: HeaderName = header::USER_AGENT;
static CONNECTION: HeaderName = header::CONNECTION;
static CONTENT_TYPE: HeaderName = header::CONTENT_TYPE;
static AUTHORIZATION: HeaderName = header::AUTHORIZATION;
static CONTENT_LENGTH: HeaderName = header::CONTENT_LENGTH;
static ACCEPT_ENCODING: HeaderName = header::ACCEPT_ENCODING;

/// The names of most fields, as clients write them: one comparison spares making a `HeaderName` of the bytes.
fn known(name: &[u8]) -> Option<&'static HeaderName> {
    let found: (&[u8], &[u8], &'static HeaderName) = match name.len() {
        4 => (b"Host", b"host", &HOST),
        6 => match name.first() {
            Some(b'A' | b'a') => (b"Accept", b"accept", &ACCEPT),
            _ => (b"Cookie", b"cookie", &COOKIE),
        },
        10 => match name.first() {
            Some(b'U' | b'u') => (b"User-Agent", b"user-agent", &USER_AGENT),
            _ => (b"Connection", b"connection", &CONNECTION),
        },
        12 => (b"Content-Type", b"content-type", &CONTENT_TYPE),
        13 => (b"Authorization", b"authorization", &AUTHORIZATION),
        14 => (b"Content-Length", b"content-length", &CONTENT_LENGTH),
        15 => (b"Accept-Encoding", b"accept-encoding", &ACCEPT_ENCODING),
        _ => return None,
    };
    (name == found.0 || name == found.1).then_some(found.2)
}

/// Notes what a field says of framing and of the connection; `false`: it is to be left out.
#[inline]
fn note(
    name: &HeaderName,
    value: &HeaderValue,
    is_http11: bool,
    seen: &mut Seen,
    headers: &mut HeaderMap,
) -> Result<bool, Bad> {
    match *name {
        header::CONTENT_LENGTH => {
            let length = length(value.as_bytes()).ok_or(Bad::Malformed)?;
            let again = seen.length.replace(length);
            if again.is_some_and(|known| known != length) {
                return Err(Bad::Malformed);
            }
            // Said twice it is one, and beside a coding it says nothing (RFC 9112 section 6.3).
            return Ok(again.is_none() && !seen.coded);
        }
        header::TRANSFER_ENCODING => {
            if !is_http11 {
                return Err(Bad::Malformed);
            }
            headers.remove(header::CONTENT_LENGTH);
            let is_last_chunked = value.as_bytes().rsplit(|byte| *byte == b',').next();
            let is_last_chunked =
                is_last_chunked.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            seen.chunked = is_last_chunked && !seen.coded && value.as_bytes().eq_ignore_ascii_case(b"chunked");
            seen.unfinished = !is_last_chunked;
            seen.coded = true;
        }
        header::CONNECTION => {
            for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                seen.close |= token.eq_ignore_ascii_case(b"close");
                seen.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        header::EXPECT => seen.expects_continue = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
        header::TE => {
            let mut codings = value.as_bytes().split(|byte| *byte == b',');
            seen.takes_trailers |= codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        }
        _ => {}
    }
    Ok(true)
}

/// Digits and nothing else, that fit 64 bits.
fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0u64, |length, digit| length.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// RFC 9112 section 6.3, in its order.
fn announced(seen: &Seen) -> Result<Announced, Bad> {
    match seen.length {
        // Where the last coding is not chunked nothing tells the end of the body.
        _ if seen.coded && seen.unfinished => Err(Bad::Malformed),
        _ if seen.chunked => Ok(Announced::Chunked),
        _ if seen.coded => Ok(Announced::Unclear),
        None | Some(0) => Ok(Announced::Nothing),
        Some(length) => Ok(Announced::Length(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Option<Head>, Bad> {
        parse(&mut BytesMut::from(text), 100)
    }

    #[test]
    fn framing_follows_rfc_9112() {
        let cases: [(&str, Announced, bool); 16] = [
            ("GET / HTTP/1.1\r\n\r\n", Announced::Nothing, true),
            ("GET / HTTP/1.0\r\n\r\n", Announced::Nothing, false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Announced::Nothing, true),
            ("GET / HTTP/1.1\r\nconnection: x, close\r\nConnection: keep-alive\r\n\r\n", Announced::Nothing, false),
            ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", Announced::Nothing, true),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Announced::Length(5), true),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\nCONTENT-LENGTH: 05\r\n\r\n", Announced::Length(5), true),
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", Announced::Length(u64::MAX), true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", Announced::Chunked, true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", Announced::Chunked, false),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Announced::Chunked, false),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Announced::Unclear, true),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", Announced::Unclear, true),
            (
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                Announced::Unclear,
                true,
            ),
            ("POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", Announced::Length(1), true),
            ("\r\n\r\nGET / HTTP/1.1\r\nTE: deflate, trailers\r\n\r\n", Announced::Nothing, true),
        ];
        for (text, body, keep_alive) in cases {
            let head = head(text).unwrap().unwrap();
            assert_eq!((head.body, head.keep_alive), (body, keep_alive), "{text:?}");
            let headers = &head.parts.headers;
            let lengths = headers.get_all(header::CONTENT_LENGTH).iter().count();
            assert!(lengths <= 1 && (lengths == 0 || !headers.contains_key(header::TRANSFER_ENCODING)), "{text:?}");
            assert_eq!(head.expects_continue, text.contains("100-Continue"), "{text:?}");
            assert_eq!(head.takes_trailers, text.contains("trailers"), "{text:?}");
        }
    }

    #[test]
    fn heads_that_are_none() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MOST_URI));
        let cases = [
            ("GET / HTTP/2.0\r\n\r\n", Bad::Malformed),
            ("GET / HTTP/1.10\r\n\r\n", Bad::Malformed),
            ("GET /\r\n\r\n", Bad::Malformed),
            ("GET  / HTTP/1.1\r\n\r\n", Bad::Malformed),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Bad::Malformed),
            ("\u{16}\u{3}\u{1}\r\n\r\n", Bad::Malformed),
            ("GET / HTTP/1.1\r\na : b\r\n\r\n", Bad::Malformed),
            ("GET / HTTP/1.1\r\n a: b\r\n\r\n", Bad::Malformed),
            ("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n", Bad::Malformed),
            ("GET / HTTP/1.1\r\na: b\0\r\n\r\n", Bad::Malformed),
            ("GET / HTTP/1.1\r\nb\r\n\r\n", Bad::Malformed),
            ("POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", Bad::Malformed),
            ("POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", Bad::Malformed),
            ("POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", Bad::Malformed),
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n", Bad::Malformed),
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Bad::Malformed),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", Bad::Malformed),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", Bad::Malformed),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Bad::Malformed),
            (&many, Bad::TooLarge),
            (&long, Bad::TargetTooLong),
        ];
        for (text, bad) in cases {
            assert_eq!(head(text).unwrap_err(), bad, "{:?}", text.get(..60.min(text.len())));
        }
        let ten = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10));
        for (most, fits) in [(9, false), (10, true), (1000, true)] {
            assert_eq!(parse(&mut BytesMut::from(ten.as_str()), most).is_ok(), fits);
        }
        assert!(parse(&mut BytesMut::from(many.as_str()), 101).unwrap().is_some());
    }

    #[test]
    fn what_follows_a_head_stays() {
        let mut buffer = BytesMut::from("POST /a?b HTTP/1.1\r\nHost: h\r\nx-Y: 1\r\nX-y: 2\r\n\r\nbody");
        let head = parse(&mut buffer, 100).unwrap().unwrap();
        assert_eq!(buffer, "body");
        assert_eq!((head.parts.method.as_str(), head.parts.uri.to_string().as_str()), ("POST", "/a?b"));
        let fields: Vec<_> = head.parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("host", b"h".as_slice()), ("x-y", b"1"), ("x-y", b"2")]);
    }

    #[test]
    fn usual_names_are_those_that_http_would_make_of_them() {
        for name in [&HOST, &ACCEPT, &COOKIE, &USER_AGENT, &CONNECTION, &CONTENT_TYPE, &AUTHORIZATION, &CONTENT_LENGTH]
        {
            assert_eq!(known(name.as_str().as_bytes()), Some(name));
        }
        assert_eq!(known(b"Accept-Encoding"), Some(&ACCEPT_ENCODING));
        for other in ["hosT", "cookies", "accepT", "x", "", "user_agent", "content-type "] {
            assert_eq!(known(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_a_head_is_whole_only_once(
            text in proptest::collection::vec(prop_oneof![
                Just("GET / HTTP/1.1\r\n".to_owned()), Just("Host: a\r\n".to_owned()), Just("\r\n".to_owned()),
                Just("Content-Length: 3\r\n".to_owned()), Just("Transfer-Encoding: chunked\r\n".to_owned()),
                "[ -~\r\n]{0,12}",
            ], 0..8),
            cut in any::<proptest::sample::Index>(),
        ) {
            let bytes = text.concat().into_bytes();
            let verdict = |bytes: &[u8]| {
                let mut buffer = BytesMut::from(bytes);
                let parsed = parse(&mut buffer, 100);
                parsed.map(|head| head.map(|head| (head.body, head.parts.headers, bytes.len() - buffer.len())))
            };
            let whole = verdict(&bytes);
            let first = cut.index(bytes.len() + 1);
            match verdict(&bytes[..first]) {
                Ok(None) => {}
                decided => prop_assert_eq!(decided, whole, "what was decided does not change with more bytes"),
            }
        }
    }
}
