//! HTTP/2 requests as raw frames: what the protocol forbids is a stream error and reaches no backend; the host rules.

use crate::support::*;

pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const GOAWAY: u8 = 7;
pub(super) const DATA: u8 = 0;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// A header block of literals without indexing or compression (RFC 7541 section 6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "a longer one takes more than a byte to say");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection that has greeted.
pub(super) fn greeted(proxy: &TestProxy) -> Raw {
    let mut client = proxy.client();
    client.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat());
    client
}

/// The first frame that answers on `stream`, or says GOAWAY: its kind and payload.
pub(super) fn answer(client: &mut Raw, stream: u32) -> (u8, Vec<u8>) {
    loop {
        let head = client.take(9);
        let payload = client.take((usize::from(head[0]) << 16) | (usize::from(head[1]) << 8) | usize::from(head[2]));
        let on = u32::from_be_bytes([head[5] & 0x7F, head[6], head[7], head[8]]);
        if on == stream && head[3] != 8 || head[3] == GOAWAY {
            return (head[3], payload);
        }
    }
}

/// The status of a response head of ours: hyper writes it as an indexed field or as a literal of three digits.
pub(super) fn status(payload: &[u8]) -> u16 {
    match payload[0] {
        0x88 => 200,
        0x89 => 204,
        0x8C => 400,
        0x8D => 404,
        0x8E => 500,
        _ => {
            // Literal, with name index 8 (`:status`) and a Huffman-coded value: told by its bytes.
            0
        }
    }
}

pub(super) const METHOD: (&str, &str) = (":method", "GET");
pub(super) const SCHEME: (&str, &str) = (":scheme", "http");
pub(super) const PATH: (&str, &str) = (":path", "/");
pub(super) const AUTHORITY: (&str, &str) = (":authority", "test");

/// Malformed requests (RFC 9113 section 8.1.1): reset, and no backend hears of them.
#[test]
fn malformed_requests_are_stream_errors() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let usual = [METHOD, SCHEME, PATH, AUTHORITY];
    let with = |extra: &[(&'static str, &'static str)]| [usual.as_slice(), extra].concat();
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("an upper-case name", with(&[("X-Upper", "1")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "x")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "h2c")])),
        ("te that is not trailers", with(&[("te", "gzip")])),
        ("a pseudo-header behind a field", vec![METHOD, SCHEME, ("x", "1"), PATH, AUTHORITY]),
        ("a pseudo-header twice", vec![METHOD, METHOD, SCHEME, PATH, AUTHORITY]),
        ("an unknown pseudo-header", vec![METHOD, SCHEME, PATH, AUTHORITY, (":odd", "1")]),
        ("no method", vec![SCHEME, PATH, AUTHORITY]),
        ("no path", vec![METHOD, SCHEME, AUTHORITY]),
        ("a response's pseudo-header", with(&[(":status", "200")])),
        ("a line break in a value", with(&[("x", "a\r\nb: c")])),
        ("a NUL in a value", with(&[("x", "a\0b")])),
    ];
    for (what, fields) in cases {
        let mut client = greeted(&proxy);
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields)));
        let (kind, payload) = answer(&mut client, 1);
        let refused = kind == HEADERS && status(&payload) == 400;
        assert!(kind == RESET || kind == GOAWAY || refused, "{what}: frame {kind} {payload:?}");
    }
    // DATA that does not match content-length.
    for (length, data) in [("3", "four"), ("5", "four")] {
        let mut client = greeted(&proxy);
        let head = block(&[(":method", "POST"), SCHEME, PATH, AUTHORITY, ("content-length", length)]);
        client.send(frame(HEADERS, END_HEADERS, 1, &head));
        client.send(frame(DATA, END_STREAM, 1, data.as_bytes()));
        let (kind, payload) = answer(&mut client, 1);
        assert!(kind == RESET || kind == GOAWAY || status(&payload) == 400, "{length}: frame {kind} {payload:?}");
    }
    until("nothing in flight", || proxy.in_flight() == 0.0);
    assert!(backend.requests().iter().all(|seen| seen.method() == "POST" && !seen.whole), "{:?}", backend.requests());
    assert_eq!(proxy.get("/").status(), 200);
}

/// The host of a request is `:authority`; a `host` that agrees is allowed, one that does not is refused, and a `host` alone
/// will do.
#[test]
fn the_host_of_an_http2_request() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    type Case = (&'static [(&'static str, &'static str)], Option<&'static str>);
    let cases: [Case; 7] = [
        (&[METHOD, SCHEME, PATH, AUTHORITY], Some("test")),
        (&[METHOD, SCHEME, PATH, (":authority", "Test:8080")], Some("Test:8080")),
        (&[METHOD, SCHEME, PATH, AUTHORITY, ("host", "test")], Some("test")),
        (&[METHOD, SCHEME, PATH, ("host", "alone")], Some("alone")),
        (&[METHOD, SCHEME, PATH, AUTHORITY, ("host", "other")], None),
        (&[METHOD, SCHEME, PATH, (":authority", "user@test")], None),
        (&[METHOD, SCHEME, PATH], None),
    ];
    let mut asked = 0;
    for (fields, expected) in cases {
        let mut client = greeted(&proxy);
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields)));
        let (kind, payload) = answer(&mut client, 1);
        match expected {
            Some(host) => {
                assert_eq!((kind, status(&payload)), (HEADERS, 200), "{fields:?}");
                asked += 1;
                assert_eq!(backend.requests().pop().unwrap().all("host"), [host]);
            }
            None => assert!(kind == RESET || status(&payload) == 400, "{fields:?}: frame {kind} {payload:?}"),
        }
        assert_eq!(backend.count(), asked, "{fields:?}");
    }
}

/// CONNECT is not proxied over HTTP/2 either.
#[test]
fn connect_is_refused() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let mut client = greeted(&proxy);
    client.send(frame(HEADERS, END_HEADERS, 1, &block(&[(":method", "CONNECT"), (":authority", "test:1")])));
    let (kind, payload) = answer(&mut client, 1);
    assert!(kind == RESET || kind == HEADERS && status(&payload) != 200, "frame {kind} {payload:?}");
    assert_eq!(backend.count(), 0);
}
