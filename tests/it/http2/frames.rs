//! HTTP/2 requests as raw frames: what the protocol forbids reaches no backend, and ends its stream or its connection;
//! the host rules.

use crate::support::*;

pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
const PING: u8 = 6;
const ACK: u8 = 1;
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

/// The status of a response head of ours: `h2` writes it as an indexed field or as a literal of three digits.
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
const BYSTANDER: [(&str, &str); 4] = [METHOD, SCHEME, (":path", "/bystander"), AUTHORITY];

/// Malformed requests (RFC 9113 section 8.1.1): no backend hears of them, and other connections go on. Their own
/// connection may end with them: what the `h2` crate finds amid a header block ends it.
#[test]
fn malformed_requests_reach_no_backend() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let mut bystander = greeted(&proxy);
    let mut streams = (1..).step_by(2);
    let mut bystander_is_served = || {
        let stream = streams.next().unwrap();
        bystander.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&BYSTANDER)));
        let (kind, payload) = answer(&mut bystander, stream);
        assert_eq!((kind, status(&payload)), (HEADERS, 200));
    };
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
        bystander_is_served();
    }
    // DATA that does not match content-length.
    for (length, data) in [("3", "four"), ("5", "four")] {
        let mut client = greeted(&proxy);
        let head = block(&[(":method", "POST"), SCHEME, PATH, AUTHORITY, ("content-length", length)]);
        client.send(frame(HEADERS, END_HEADERS, 1, &head));
        client.send(frame(DATA, END_STREAM, 1, data.as_bytes()));
        let (kind, payload) = answer(&mut client, 1);
        assert!(kind == RESET || kind == GOAWAY || status(&payload) == 400, "{length}: frame {kind} {payload:?}");
        bystander_is_served();
    }
    until("nothing in flight", || proxy.in_flight() == 0.0);
    let seen = backend.requests();
    let malformed = || seen.iter().filter(|seen| seen.target() != "/bystander");
    assert!(malformed().all(|seen| seen.method() == "POST" && !seen.whole), "{seen:?}");
}

/// A pseudo-field among the trailers of a request, which the `h2` crate would drop in silence: the connection ends, and
/// the backend has seen no whole request.
#[test]
fn trailers_have_no_pseudo_fields() {
    let backend = TestBackend::new(|turn| {
        if turn.read_body() {
            turn.answer(200, "ok");
        } else {
            turn.close();
        }
    });
    let proxy = Setup::new(&[&backend]).start();
    let post = || frame(HEADERS, END_HEADERS, 1, &block(&[(":method", "POST"), SCHEME, PATH, AUTHORITY]));
    let cases = [(":path", "/other"), (":authority", "test"), (":status", "200"), (":odd", "1")];
    for (number, case) in cases.into_iter().enumerate() {
        let mut client = greeted(&proxy);
        client.send([post(), frame(DATA, 0, 1, b"data")].concat());
        backend.wait_for(number + 1);
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[("x-sum", "7"), case])));
        client.rest();
        until("nothing in flight", || proxy.in_flight() == 0.0);
    }
    until("all of them cut", || backend.open() == 0);
    assert!(backend.requests().iter().all(|seen| !seen.whole), "{:?}", backend.requests());
    proxy.comes_to("evenkeel_connections_cut_total", &[("reason", "malformed")], cases.len() as f64);
    // Without one they pass.
    let mut client = greeted(&proxy);
    client.send([post(), frame(DATA, 0, 1, b"data")].concat());
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&[("x-sum", "7")])));
    let (kind, payload) = answer(&mut client, 1);
    assert_eq!((kind, status(&payload)), (HEADERS, 200));
    assert_eq!(backend.requests().iter().filter(|seen| seen.whole).count(), 1);
}

/// A client has `header_timeout` to ask for something, and to finish a head that it has begun; one that has asked and
/// rests has `idle_timeout`, whatever frames it sends.
#[test]
fn a_slow_head_is_cut_over_http2() {
    let backend = TestBackend::saying("ok");
    let soon = |listener: &mut evenkeel::config::ListenerPlan| {
        listener.header_timeout = std::time::Duration::from_millis(300);
    };
    let proxy = Setup::new(&[&backend]).listener(soon).start();
    let get = || frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&BYSTANDER));
    let mut resting = greeted(&proxy);
    resting.send(get());
    assert_eq!(answer(&mut resting, 1).0, HEADERS);
    resting.send(frame(8, 0, 0, &1000u32.to_be_bytes()));

    let mut unsettled = proxy.client();
    unsettled.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut silent = greeted(&proxy);
    let mut half = greeted(&proxy);
    half.send(frame(HEADERS, END_STREAM, 1, &block(&BYSTANDER)));
    let mut later = greeted(&proxy);
    later.send(get());
    assert_eq!(answer(&mut later, 1).0, HEADERS);
    later.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&BYSTANDER))[..12]);
    for client in [&mut unsettled, &mut silent, &mut half, &mut later] {
        client.rest();
    }
    proxy.comes_to("evenkeel_connections_cut_total", &[("reason", "slow_head")], 4.0);
    resting.send(frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&BYSTANDER)));
    assert_eq!(answer(&mut resting, 3).0, HEADERS);
    assert_eq!(backend.count(), 3);
}

/// The next PING of ours; what it asks to be said again.
fn pinged(client: &mut Raw) -> Vec<u8> {
    loop {
        let head = client.take(9);
        let payload = client.take((usize::from(head[0]) << 16) | (usize::from(head[1]) << 8) | usize::from(head[2]));
        assert_ne!(head[3], GOAWAY, "{}", payload.escape_ascii());
        if (head[3], head[4]) == (PING, 0) {
            return payload;
        }
    }
}

/// A client that says nothing is pinged, again and again; one that does not answer is gone.
#[test]
fn a_silent_client_is_asked_whether_it_lives() {
    let backend = TestBackend::saying("ok");
    let often = |listener: &mut evenkeel::config::ListenerPlan| {
        listener.http2.ping = std::time::Duration::from_millis(200);
    };
    let proxy = Setup::new(&[&backend]).listener(often).start();
    let ask = |client: &mut Raw, stream| {
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&BYSTANDER)));
        assert_eq!(answer(client, stream).0, HEADERS);
    };
    let (mut gone, mut silent) = (greeted(&proxy), greeted(&proxy));
    ask(&mut gone, 1);
    pinged(&mut gone);
    ask(&mut silent, 1);
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked = pinged(&mut silent);
        silent.send(frame(PING, ACK, 0, &asked));
    }
    assert_eq!(asked.len(), 8);
    for stream in [3, 5] {
        // Whatever it says is as good as the answer, and the answer may come later.
        let late = pinged(&mut silent);
        ask(&mut silent, stream);
        silent.send(frame(PING, ACK, 0, &late));
    }
    gone.rest();
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
