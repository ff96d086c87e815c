//! A request head in wire form. Written straight from the client's header map into the connection's buffer: nothing is
//! cloned, removed or inserted in a map.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Connection-specific fields, never forwarded in either direction (RFC 9110 section 7.6.1). `Trailer` is none of them:
/// it announces fields from end to end, and only trailers it names are sent to an HTTP/1.1 client.
#[inline]
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    // `Keep-Alive` and `Proxy-Connection` have no constants in `http`.
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::TE
        || *name == header::UPGRADE
        || *name == header::PROXY_AUTHENTICATE
        || name.as_str() == "keep-alive"
        || name.as_str() == "proxy-connection"
}

/// How the body of a request is framed upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// No body, and no framing field.
    None,
    /// `Content-Length` (also 0, when the client said so).
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Writes the request line.
#[inline]
pub fn write_line(out: &mut Vec<u8>, method: &str, target: &str) {
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Writes one field.
#[inline]
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields of `headers` that `pass` allows. Framing fields never pass: they are ours.
#[inline]
pub fn write_headers(out: &mut Vec<u8>, headers: &HeaderMap, mut pass: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
    for (name, value) in headers {
        if *name != header::CONTENT_LENGTH && !is_hop_by_hop(name) && pass(name, value) {
            write_field(out, name.as_str(), value.as_bytes());
        }
    }
}

/// Writes the framing field and the empty line.
#[inline]
pub fn write_end(out: &mut Vec<u8>, framing: BodyFraming) {
    match framing {
        BodyFraming::None => {}
        BodyFraming::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        BodyFraming::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes `value` in decimal digits.
pub fn write_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes the size line of a chunk.
#[inline]
pub fn write_chunk_size(out: &mut Vec<u8>, size: usize) {
    let mut started = false;
    for shift in (0..usize::BITS / 4).rev() {
        let digit = (size >> (shift * 4) & 0xF) as u8;
        started |= digit != 0 || shift == 0;
        if started {
            out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for value in [0, 1, 9, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            write_decimal(&mut out, value);
            assert_eq!(out, value.to_string().into_bytes());
            let mut out = Vec::new();
            write_chunk_size(&mut out, value as usize);
            assert_eq!(out, format!("{value:x}\r\n").into_bytes());
        }
    }

    #[test]
    fn hop_by_hop_and_framing_fields_do_not_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-secret"),
            ("keep-alive", "1"),
            ("proxy-connection", "x"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "5"),
            ("x-kept", "yes"),
            ("x-dropped", "no"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut out = Vec::new();
        write_line(&mut out, "GET", "/a?b");
        write_headers(&mut out, &headers, |name, _| name != "x-dropped");
        write_end(&mut out, BodyFraming::Length(12));
        assert_eq!(String::from_utf8(out).unwrap(), "GET /a?b HTTP/1.1\r\nx-kept: yes\r\ncontent-length: 12\r\n\r\n");
    }
}
