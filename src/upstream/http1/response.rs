//! A response head from an untrusted backend, parsed strictly. Pure: bytes in, verdict out.

use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::BytesMut;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use smallvec::SmallVec;

use super::maps;

/// Bytes of response head tolerated (reliability.md §1).
pub const MOST_HEAD_BYTES: usize = 64 * 1024;
/// Fields of a response head tolerated (reliability.md §1).
pub const MOST_FIELDS: usize = 200;
/// Fields parsed without the larger array: nearly all answers.
const USUAL_FIELDS: usize = 48;

/// How a response body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// Until the backend closes.
    UntilClose,
}

/// A response head, or an informational one: what passes on.
#[derive(Debug, Default)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The fields that may pass on: no hop-by-hop fields, nothing that `Connection` names.
    pub headers: HeaderMap,
    /// Whether it is streamed in events, by its `Content-Type`.
    pub streamed: bool,
    /// The protocol of the `Upgrade` field, with a 101.
    pub upgrade: Option<HeaderValue>,
}

/// What a head says of the bytes after it.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    /// What follows.
    pub framing: Framing,
    /// Whether the connection may be used again after the body.
    pub keep_alive: bool,
}

/// What the backend said about framing, collected while walking the fields.
#[derive(Default)]
struct Seen {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    named_by_connection: SmallVec<[HeaderName; 2]>,
    upgrade: Option<HeaderValue>,
    streamed: bool,
}

/// Server-sent events, or JSON lines.
#[inline]
pub fn is_event_stream(content_type: &[u8]) -> bool {
    let starts = |kind: &[u8]| content_type.get(..kind.len()).is_some_and(|head| head.eq_ignore_ascii_case(kind));
    starts(b"text/event-stream") || starts(b"application/x-ndjson")
}

/// Parses one head from the front of `buffer` into `head`, as the answer to a request with `method`. `None`: more bytes
/// are needed. On success the head is removed from `buffer`; header values are slices of it, not copies. Until then `head`
/// is as it was.
///
/// # Errors
/// What is wrong; the connection must not be used any further.
pub fn parse(buffer: &mut BytesMut, method: &Method, head: &mut Head) -> Result<Option<Rest>, &'static str> {
    match parse_with::<USUAL_FIELDS>(buffer, method, head) {
        Err(Problem::TooManyFields) => parse_with::<MOST_FIELDS>(buffer, method, head).map_err(Problem::text),
        other => other.map_err(Problem::text),
    }
}

enum Problem {
    TooManyFields,
    Other(&'static str),
}

impl Problem {
    fn text(self) -> &'static str {
        match self {
            Self::TooManyFields => "too many header fields",
            Self::Other(text) => text,
        }
    }
}

impl From<&'static str> for Problem {
    fn from(text: &'static str) -> Self {
        Self::Other(text)
    }
}

fn parse_with<const FIELDS: usize>(
    buffer: &mut BytesMut,
    method: &Method,
    head: &mut Head,
) -> Result<Option<Rest>, Problem> {
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let used = match config.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if buffer.len() >= MOST_HEAD_BYTES => return Err("head too large".into()),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Problem::TooManyFields),
        Err(httparse::Error::Status) => return Err("invalid status".into()),
        Err(httparse::Error::Version) => return Err("invalid version".into()),
        Err(_) => return Err("invalid head".into()),
    };
    if used > MOST_HEAD_BYTES {
        return Err("head too large".into());
    }
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or("invalid status")?;

    // Offsets first: once the buffer is frozen, values become slices of it.
    let base = buffer.as_ptr() as usize;
    let mut kept: SmallVec<[Kept; USUAL_FIELDS]> = SmallVec::new();
    let mut seen = Seen::default();
    for field in parsed.headers.iter() {
        let known = match framing_field(field.name.as_bytes(), field.value, &mut seen)? {
            Field::Ours => continue,
            Field::Known(name) => Some(name),
            Field::Other => None,
        };
        let at = |part: &[u8]| {
            let from = part.as_ptr() as usize - base;
            from..from + part.len()
        };
        kept.push(Kept { known, name: at(field.name.as_bytes()), value: at(field.value) });
    }
    let frozen = buffer.split_to(used).freeze();
    // What is ours may join them.
    let mut headers = maps::take();
    headers.reserve(kept.len() + 4);
    for field in &kept {
        let name = match field.known {
            Some(name) => name.clone(),
            None => HeaderName::from_bytes(&frozen[field.name.clone()]).map_err(|_| "invalid header name")?,
        };
        if seen.named_by_connection.contains(&name) {
            continue;
        }
        let value = HeaderValue::from_maybe_shared(frozen.slice(field.value.clone()));
        headers.append(name, value.map_err(|_| "invalid header value")?);
    }
    let framing = framing(&seen, status, version, method)?;
    // A body's own length is written from its size; where there is no body the field is information.
    if let (Framing::Empty, Some(length)) = (framing, seen.length)
        && !seen.chunked
        && (*method == Method::HEAD || status == StatusCode::NOT_MODIFIED)
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let persistent = if version == Version::HTTP_11 { !seen.close } else { seen.keep_alive && !seen.close };
    // Both framings at once is how responses are smuggled: the coding rules, and the connection is not trusted again.
    let keep_alive = persistent && framing != Framing::UntilClose && !(seen.chunked && seen.length.is_some());
    *head = Head { status, headers, upgrade: seen.upgrade, streamed: seen.streamed };
    Ok(Some(Rest { framing, keep_alive }))
}

/// What becomes of a field.
enum Field {
    /// It is between the backend and us.
    Ours,
    /// It passes, and its name was recognized on the way.
    Known(&'static HeaderName),
    /// It passes.
    Other,
}

/// Where a field that passes stands in the head.
struct Kept {
    known: Option<&'static HeaderName>,
    name: Range<usize>,
    value: Range<usize>,
}

static CONTENT_TYPE: HeaderName = header::CONTENT_TYPE;
static SERVER: HeaderName = header::SERVER;
static DATE: HeaderName = header::DATE;

/// Notes what a framing or hop-by-hop field says. By length first: most fields are told
/// apart by one comparison, before a `HeaderName` is made of them.
fn framing_field(name: &[u8], value: &[u8], seen: &mut Seen) -> Result<Field, &'static str> {
    // Backends write these in small letters or in capitals; other spellings are compared letter by letter.
    macro_rules! is {
        ($small:literal, $capital:literal) => {
            *name == *$small || *name == *$capital || name.eq_ignore_ascii_case($small)
        };
    }
    match name.len() {
        14 if is!(b"content-length", b"Content-Length") => {
            let length = content_length(value)?;
            if seen.length.is_some_and(|known| known != length) {
                return Err("conflicting content-length");
            }
            seen.length = Some(length);
            Ok(Field::Ours)
        }
        17 if is!(b"transfer-encoding", b"Transfer-Encoding") => {
            if seen.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("unknown transfer-encoding");
            }
            seen.chunked = true;
            Ok(Field::Ours)
        }
        10 if is!(b"connection", b"Connection") => {
            for token in value.split(|byte| *byte == b',') {
                connection_token(token.trim_ascii(), seen);
            }
            Ok(Field::Ours)
        }
        7 if is!(b"upgrade", b"Upgrade") => {
            seen.upgrade = HeaderValue::from_bytes(value).ok();
            Ok(Field::Ours)
        }
        12 if is!(b"content-type", b"Content-Type") => {
            seen.streamed = is_event_stream(value);
            Ok(Field::Known(&CONTENT_TYPE))
        }
        // `Trailer` passes: it announces end-to-end fields, and trailers are sent only when it is there.
        10 if is!(b"keep-alive", b"Keep-Alive") => Ok(Field::Ours),
        2 if is!(b"te", b"TE") => Ok(Field::Ours),
        16 if is!(b"proxy-connection", b"Proxy-Connection") => Ok(Field::Ours),
        18 if is!(b"proxy-authenticate", b"Proxy-Authenticate") => Ok(Field::Ours),
        6 if is!(b"server", b"Server") => Ok(Field::Known(&SERVER)),
        4 if is!(b"date", b"Date") => Ok(Field::Known(&DATE)),
        _ => Ok(Field::Other),
    }
}

fn connection_token(token: &[u8], seen: &mut Seen) {
    if token.eq_ignore_ascii_case(b"close") {
        seen.close = true;
    } else if token.eq_ignore_ascii_case(b"keep-alive") {
        seen.keep_alive = true;
    } else if let Ok(name) = HeaderName::from_bytes(token) {
        seen.named_by_connection.push(name);
    }
}

/// Digits only; a list must repeat one value (RFC 9112 section 6.3).
fn content_length(value: &[u8]) -> Result<u64, &'static str> {
    // Nearly all: up to 19 digits, which fit 64 bits.
    if (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit) {
        return Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')));
    }
    let mut found = None;
    for part in value.split(|byte| *byte == b',') {
        let part = part.trim_ascii();
        if part.is_empty() || !part.iter().all(u8::is_ascii_digit) {
            return Err("invalid content-length");
        }
        let text = std::str::from_utf8(part).map_err(|_| "invalid content-length")?;
        let length: u64 = text.parse().map_err(|_| "invalid content-length")?;
        if found.is_some_and(|known| known != length) {
            return Err("conflicting content-length");
        }
        found = Some(length);
    }
    found.ok_or("invalid content-length")
}

/// RFC 9112 section 6.3, in its order.
fn framing(seen: &Seen, status: StatusCode, version: Version, method: &Method) -> Result<Framing, &'static str> {
    if seen.chunked && version == Version::HTTP_10 {
        return Err("transfer-encoding in HTTP/1.0");
    }
    if status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || *method == Method::HEAD
    {
        return Ok(Framing::Empty);
    }
    if seen.chunked {
        return Ok(Framing::Chunked);
    }
    Ok(match seen.length {
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Option<(Head, Rest)>, &'static str> {
        let mut head = Head::default();
        let rest = parse(&mut BytesMut::from(text), &Method::GET, &mut head)?;
        Ok(rest.map(|rest| (head, rest)))
    }

    #[test]
    fn framing_follows_rfc_9112() {
        let cases: [(&str, Framing, bool); 12] = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", Framing::Empty, true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", Framing::Chunked, false),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), false),
            ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 5\r\n\r\n", Framing::Length(5), false),
            ("HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", Framing::Empty, true),
            ("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", Framing::Empty, true),
        ];
        for (text, framing, keep_alive) in cases {
            let (head, rest) = head(text).unwrap().unwrap();
            assert_eq!((rest.framing, rest.keep_alive), (framing, keep_alive), "{text:?}");
            assert!(!head.headers.contains_key("transfer-encoding") && !head.headers.contains_key("connection"));
        }
    }

    #[test]
    fn hostile_heads_are_refused() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MOST_FIELDS + 1));
        let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(MOST_HEAD_BYTES));
        let endless = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(MOST_HEAD_BYTES));
        let cases = [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20x OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "junk\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
            &many,
            &large,
            &endless,
        ];
        for text in cases {
            assert!(head(text).is_err(), "{:?}", &text[..text.len().min(80)]);
        }
        assert!(head("HTTP/1.1 200 OK\r\na: b\r\n").unwrap().is_none());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MOST_FIELDS));
        assert_eq!(head(&many).unwrap().unwrap().0.headers.len(), MOST_FIELDS);
    }

    #[test]
    fn what_connection_names_does_not_pass_and_head_keeps_its_length() {
        let text =
            "HTTP/1.1 200 OK\r\nconnection: x-a, keep-alive\r\nx-a: 1\r\nx-b: 2\r\ncontent-length: 7\r\n\r\nrest";
        let mut buffer = BytesMut::from(text);
        let mut head = Head::default();
        let rest = parse(&mut buffer, &Method::HEAD, &mut head).unwrap().unwrap();
        assert_eq!(&buffer[..], b"rest");
        assert_eq!(rest.framing, Framing::Empty);
        assert_eq!(head.headers["content-length"], "7");
        assert!(!head.headers.contains_key("x-a") && head.headers.contains_key("x-b"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), status in 0..1000u16) {
            let mut buffer = BytesMut::from(format!("HTTP/1.1 {status} x\r\n").as_bytes());
            buffer.extend_from_slice(&tail);
            let _ = parse(&mut buffer, &Method::GET, &mut Head::default());
        }

        #[test]
        fn what_follows_the_head_stays(rest in proptest::collection::vec(any::<u8>(), 0..50), length in any::<u64>()) {
            let mut buffer = BytesMut::from(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes());
            buffer.extend_from_slice(&rest);
            let after = parse(&mut buffer, &Method::GET, &mut Head::default()).unwrap().unwrap();
            prop_assert_eq!(after.framing, if length == 0 { Framing::Empty } else { Framing::Length(length) });
            prop_assert_eq!(&buffer[..], &rest[..]);
        }
    }
}
