//! The head of a response as an HTTP/1.1 or HTTP/1.0 client gets it, with the framing of what follows. Pure.

use http::header::{self, HeaderMap, HeaderName};
use http::{StatusCode, Version};

use crate::listener::date;
use crate::proxy::request_id::X_REQUEST_ID;
use crate::upstream::http1::request::{write_decimal, write_field};

/// Said where a status has no name: an empty phrase is allowed, but some clients do not expect it.
const UNNAMED: &str = "Unknown";

/// What the request says of its response.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Its version: 1.1 or 1.0.
    pub version: Version,
    /// It is HEAD: the response has no body, whatever its head says.
    pub head_only: bool,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// Trailers are taken.
    pub takes_trailers: bool,
}

/// How the body of a response is framed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coding {
    /// There is none.
    Nothing,
    /// So many bytes.
    Length(u64),
    /// In chunks, and then those trailers that were announced.
    Chunked(Vec<HeaderName>),
    /// Until the connection is closed.
    UntilClose,
}

/// Writes a head to `out`. `request_id`: told in the place of any other; none where it is empty. `length`: of the body, where
/// it is known. Gives the framing of the body, and whether the
/// connection stays open behind it.
pub fn write(
    status: StatusCode,
    headers: &HeaderMap,
    request_id: &[u8],
    length: Option<u64>,
    asked: &Asked,
    out: &mut Vec<u8>,
) -> (Coding, bool) {
    let is_http11 = asked.version == Version::HTTP_11;
    let is_bare = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut coding = match length {
        _ if is_bare || asked.head_only => Coding::Nothing,
        Some(0) => Coding::Nothing,
        Some(length) => Coding::Length(length),
        None if is_http11 => Coding::Chunked(Vec::new()),
        None => Coding::UntilClose,
    };
    if is_http11 && status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.extend_from_slice(if is_http11 { b"HTTP/1.1 " } else { b"HTTP/1.0 " });
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or(UNNAMED).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let mut stays = asked.keep_alive && coding != Coding::UntilClose && status != StatusCode::SWITCHING_PROTOCOLS;
    let (mut is_dated, mut is_measured, mut is_connection_told) = (false, false, false);
    for (name, value) in headers {
        match *name {
            // Written below from the body's own; where there is no body it says what there would be.
            header::CONTENT_LENGTH if coding != Coding::Nothing || status == StatusCode::NO_CONTENT => continue,
            header::CONTENT_LENGTH if !asked.head_only && !is_bare => continue,
            header::CONTENT_LENGTH => is_measured = true,
            header::TRANSFER_ENCODING => continue,
            header::TRAILER => {
                let Coding::Chunked(announced) = &mut coding else { continue };
                if asked.takes_trailers {
                    let names = value.as_bytes().split(|byte| *byte == b',');
                    announced.extend(names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
                }
            }
            header::CONNECTION => {
                is_connection_told = true;
                stays &= !value.as_bytes().eq_ignore_ascii_case(b"close");
            }
            header::DATE => is_dated = true,
            _ if *name == X_REQUEST_ID => continue,
            _ => {}
        }
        write_field(out, name.as_str(), value.as_bytes());
    }
    if !request_id.is_empty() {
        write_field(out, X_REQUEST_ID.as_str(), request_id);
    }
    if !is_connection_told && stays != is_http11 {
        out.extend_from_slice(if stays { b"connection: keep-alive\r\n" } else { b"connection: close\r\n" });
    }
    match &coding {
        Coding::Length(length) => write_length(out, *length),
        Coding::Chunked(_) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Coding::Nothing if is_bare || is_measured => {}
        // Of a response to HEAD only what is known is said.
        Coding::Nothing => match length {
            Some(length) if asked.head_only && length > 0 => write_length(out, length),
            _ if asked.head_only => {}
            _ => write_length(out, 0),
        },
        Coding::UntilClose => {}
    }
    if is_dated {
        out.extend_from_slice(b"\r\n");
    } else {
        out.extend_from_slice(b"date: ");
        date::with(|date| out.extend_from_slice(date.as_bytes()));
        out.extend_from_slice(b"\r\n\r\n");
    }
    (coding, stays)
}

/// Writes the length of a body.
fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn written(
        status: u16,
        fields: &[(&'static str, &'static str)],
        length: Option<u64>,
        asked: Asked,
    ) -> (String, Coding, bool) {
        let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let mut out = Vec::new();
        let status = StatusCode::from_u16(status).unwrap();
        let (coding, stays) = write(status, &fields.collect(), b"", length, &asked, &mut out);
        let text = String::from_utf8(out).unwrap();
        let dated = text.split("\r\n").filter(|line| line.starts_with("date: ")).count();
        assert_eq!(dated, 1, "{text}");
        (text.split("\r\n").filter(|line| !line.starts_with("date: ")).collect::<Vec<_>>().join("|"), coding, stays)
    }

    const ASKED: Asked = Asked { version: Version::HTTP_11, head_only: false, keep_alive: true, takes_trailers: true };
    const OLD: Asked = Asked { version: Version::HTTP_10, ..ASKED };
    const HEAD: Asked = Asked { head_only: true, ..ASKED };
    const LAST: Asked = Asked { keep_alive: false, ..ASKED };

    #[test]
    fn heads_and_their_framing() {
        let announced = vec![HeaderName::from_static("a"), HeaderName::from_static("b")];
        let both = &[("trailer", "a, B"), ("content-length", "7")];
        let close = &[("connection", "close")];
        let upgrade = &[("connection", "upgrade"), ("upgrade", "websocket")];
        let length = &[("content-length", "7")];
        let cases: [(_, &[_], _, _, &str, Coding, bool); 15] = [
            (200, &[("x", "y")], Some(3), ASKED, "200 OK|x: y|content-length: 3||", Coding::Length(3), true),
            (200, &[], Some(0), ASKED, "200 OK|content-length: 0||", Coding::Nothing, true),
            (404, &[], Some(3), LAST, "404 Not Found|connection: close|content-length: 3||", Coding::Length(3), false),
            (200, close, Some(3), ASKED, "200 OK|connection: close|content-length: 3||", Coding::Length(3), false),
            (
                200,
                both,
                None,
                ASKED,
                "200 OK|trailer: a, B|transfer-encoding: chunked||",
                Coding::Chunked(announced),
                true,
            ),
            (200, both, None, OLD, "200 OK||", Coding::UntilClose, false),
            (200, &[], Some(3), OLD, "200 OK|connection: keep-alive|content-length: 3||", Coding::Length(3), true),
            (204, length, None, ASKED, "204 No Content||", Coding::Nothing, true),
            (304, length, Some(0), ASKED, "304 Not Modified|content-length: 7||", Coding::Nothing, true),
            (200, length, Some(0), HEAD, "200 OK|content-length: 7||", Coding::Nothing, true),
            (200, &[], Some(0), HEAD, "200 OK||", Coding::Nothing, true),
            (200, &[], Some(9), HEAD, "200 OK|content-length: 9||", Coding::Nothing, true),
            (200, &[], None, HEAD, "200 OK||", Coding::Nothing, true),
            (
                101,
                upgrade,
                Some(0),
                ASKED,
                "101 Switching Protocols|connection: upgrade|upgrade: websocket||",
                Coding::Nothing,
                false,
            ),
            (299, &[], Some(0), LAST, "299 Unknown|connection: close|content-length: 0||", Coding::Nothing, false),
        ];
        for (status, fields, length, asked, text, coding, stays) in cases {
            let version = if asked.version == Version::HTTP_10 { "HTTP/1.0 " } else { "HTTP/1.1 " };
            assert_eq!(written(status, fields, length, asked), (format!("{version}{text}"), coding, stays));
        }
    }

    #[test]
    fn a_date_is_kept_and_an_identifier_is_not() {
        let mut out = Vec::new();
        let fields = [(header::DATE, "then"), (X_REQUEST_ID.clone(), "theirs")];
        let headers = fields.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect();
        write(StatusCode::OK, &headers, b"ours", Some(0), &ASKED, &mut out);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\ndate: then\r\nx-request-id: ours\r\ncontent-length: 0\r\n\r\n");
    }

    proptest! {
        /// Whatever fields there are: one framing at most, and it is the one that was told.
        #[test]
        fn the_framing_is_the_one_that_is_said(
            status in prop_oneof![Just(200u16), Just(204), Just(304), Just(404), 100..600u16],
            names in proptest::collection::vec(prop_oneof![Just("content-length"), Just("transfer-encoding"), Just("x"), Just("trailer")], 0..5),
            length in proptest::option::of(0..3u64),
            (is_old, head_only, keep_alive) in any::<(bool, bool, bool)>(),
        ) {
            let version = if is_old { Version::HTTP_10 } else { Version::HTTP_11 };
            let asked = Asked { version, head_only, keep_alive, takes_trailers: true };
            let mut headers = HeaderMap::new();
            for name in &names {
                headers.append(*name, HeaderValue::from_static("7"));
            }
            let mut out = Vec::new();
            let (coding, stays) = write(StatusCode::from_u16(status).unwrap(), &headers, b"id", length, &asked, &mut out);
            let mut fields = [httparse::EMPTY_HEADER; 20];
            let mut parsed = httparse::Response::new(&mut fields);
            prop_assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())));
            let all = |name: &str| parsed.headers.iter().filter(|field| field.name == name).map(|field| field.value).collect::<Vec<_>>();
            let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
            match &coding {
                Coding::Length(length) => {
                    let length = length.to_string();
                    prop_assert_eq!((lengths, codings), (vec![length.as_bytes()], vec![]));
                }
                Coding::Chunked(_) => prop_assert_eq!((lengths, codings), (vec![], vec![b"chunked".as_slice()])),
                Coding::UntilClose => prop_assert_eq!((lengths.len(), codings.len(), stays), (0, 0, false)),
                Coding::Nothing => prop_assert!(codings.is_empty()),
            }
            prop_assert!(!stays || keep_alive);
        }
    }
}
