//! Floods over HTTP/2, as raw frames: what costs us more than its sender ends the connection; what does not is served;
//! and nobody else notices either way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

use super::frames::*;
use crate::support::*;

const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// A connection of which somebody reads all that comes, while the test writes.
struct Flood {
    stream: TcpStream,
    reader: JoinHandle<Vec<u8>>,
}

impl Flood {
    fn new(proxy: &TestProxy) -> Self {
        let mut stream = TcpStream::connect(proxy.address).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        let mut source = stream.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let (mut all, mut piece) = (Vec::new(), vec![0; 1 << 16]);
            loop {
                match source.read(&mut piece) {
                    Ok(0) => return all,
                    Ok(read) => all.extend_from_slice(&piece[..read]),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it stays open"),
                    // Closed with bytes of ours unread.
                    Err(_) => return all,
                }
            }
        });
        Self { stream, reader }
    }

    /// Sends what the balancer takes.
    fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it takes nothing");
        }
    }

    /// Waits until the balancer has closed, and returns what it said.
    #[track_caller]
    fn closed(self) -> Vec<u8> {
        self.reader.join().expect("a connection that the balancer closes")
    }

    /// Closes, and returns what the balancer said.
    fn finish(self) -> Vec<u8> {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.reader.join().unwrap()
    }
}

/// The kinds of the frames on `stream`.
fn kinds(mut bytes: &[u8], stream: u32) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, _, s @ ..] = bytes {
        let Some(on) = s.first_chunk::<4>() else { break };
        if u32::from_be_bytes(*on) == stream {
            kinds.push(*kind);
        }
        let length = (usize::from(*a) << 16) | (usize::from(*b) << 8) | usize::from(*c);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    kinds
}

fn get() -> Vec<u8> {
    block(&[METHOD, SCHEME, PATH, AUTHORITY])
}

/// The balancer serves others, and holds nothing of what is over.
#[track_caller]
fn assert_unharmed(proxy: &TestProxy) {
    assert_eq!(proxy.get("/").status(), 200);
    until("nothing in flight", || proxy.in_flight() == 0.0);
    assert_eq!(proxy.metric("evenkeel_panics_total", &[]), 0.0);
}

/// Streams that are opened and reset at once (Rapid Reset): the connection is ended.
#[test]
fn rapid_resets_end_the_connection() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let mut flood = Flood::new(&proxy);
    let frames = (0..3000u32).flat_map(|n| {
        let stream = 2 * n + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, &get()), frame(RESET, 0, stream, &8u32.to_be_bytes())]
            .concat()
    });
    flood.send(&frames.collect::<Vec<u8>>());
    flood.closed();
    assert!(backend.count() < 300, "{} requests reached the backend", backend.count());
    assert_unharmed(&proxy);
}

/// Streams whose errors make us reset them (MadeYouReset): the connection is ended.
#[test]
fn provoked_resets_end_the_connection() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    // A window that grows by nothing is an error of the stream (RFC 9113 section 6.9).
    let nothing = 0u32.to_be_bytes();
    let mut flood = Flood::new(&proxy);
    let frames = (0..3000u32).flat_map(|n| {
        let stream = 2 * n + 1;
        let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get());
        [head, frame(WINDOW_UPDATE, 0, stream, &nothing)].concat()
    });
    flood.send(&frames.collect::<Vec<u8>>());
    flood.closed();
    assert!(backend.count() < 600, "{} requests reached the backend", backend.count());
    assert_unharmed(&proxy);
}

/// A head that never ends: the connection is ended, and no backend hears of it.
#[test]
fn endless_heads_end_the_connection() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let pieces: [(&str, Vec<u8>, usize); 3] = [
        ("empty ones", Vec::new(), 2000),
        ("small ones", block(&[("x", "y")]), 2000),
        ("large ones", block(&[("x", &"y".repeat(100))]).repeat(100), 100),
    ];
    for (what, piece, count) in pieces {
        let mut flood = Flood::new(&proxy);
        flood.send(&frame(HEADERS, END_STREAM, 1, &get()));
        flood.send(&frame(CONTINUATION, 0, 1, &piece).repeat(count));
        flood.closed();
        assert_eq!(backend.count(), 0, "{what}");
    }
    assert_unharmed(&proxy);
}

/// One byte a field, thousands of bytes each when unpacked: refused within `max_header_bytes`.
#[test]
fn packed_heads_are_refused() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    // A literal that enters the table (RFC 7541 section 6.2.1): a name of one byte, a value of 3,000.
    let mut packed = get();
    packed.extend_from_slice(&[0x40, 1, b'x', 0x7F]);
    // 3,000 as an integer with a prefix of 7 bits: 127, then 2,873 in groups of 7.
    packed.extend_from_slice(&[0x80 | (2873 % 128) as u8, (2873 / 128) as u8]);
    packed.extend_from_slice(&[b'v'; 3000]);
    // The newest entry of the table, ten thousand times: 30 MB.
    packed.extend_from_slice(&[0x80 | 62; 10_000]);
    let mut client = greeted(&proxy);
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &packed));
    let (kind, payload) = answer(&mut client, 1);
    assert!(kind != HEADERS || status(&payload) != 200, "served: {}", payload.escape_ascii());
    assert_eq!(backend.count(), 0);
    assert_unharmed(&proxy);
}

/// Frames that ask for an answer each, and those that ask for nothing: what follows many of them is served; a flood ends
/// its connection.
#[test]
fn control_frames_are_answered_until_they_are_a_flood() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let floods = [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS with a window", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown", frame(0x2A, 0, 0, b"?")),
    ];
    for (what, one) in floods {
        let before = backend.count();
        let mut flood = Flood::new(&proxy);
        flood.send(&one.repeat(5_000));
        flood.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &get()));
        until("the request behind it", || backend.count() > before);
        // So many that the time they take does not earn them.
        flood.send(&one.repeat(100_000));
        flood.closed();
        assert_eq!(proxy.get("/").status(), 200, "{what}");
    }
    assert_unharmed(&proxy);
}

/// DATA without a byte, over and over: ended, or passed over; never the end of the request.
#[test]
fn empty_data_is_no_end() {
    let backend = TestBackend::new(|turn| {
        if turn.request.method() == "POST" && !turn.read_body() {
            return turn.close();
        }
        turn.answer(200, "ok");
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut flood = Flood::new(&proxy);
    let head = block(&[(":method", "POST"), SCHEME, PATH, AUTHORITY]);
    flood.send(&frame(HEADERS, END_HEADERS, 1, &head));
    flood.send(&frame(DATA, 0, 1, &[]).repeat(50_000));
    flood.send(&frame(DATA, END_STREAM, 1, b"end"));
    until("an answer, or the end", || flood.reader.is_finished() || backend.requests().iter().any(|seen| seen.whole));
    flood.finish();
    for seen in backend.requests().iter().filter(|seen| seen.whole) {
        assert_eq!(seen.body, b"end");
    }
    assert_unharmed(&proxy);
}

/// More streams at once than the listener allows: the rest is refused, and the backend sees no more than that.
#[test]
fn streams_beyond_the_limit_are_refused() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        if turn.request.target() == "/held" {
            held.pass();
        }
        turn.answer(200, "ok");
    });
    let proxy = Setup::new(&[&backend]).listener(|listener| listener.http2.max_streams = 10).start();
    let mut flood = Flood::new(&proxy);
    let head = block(&[METHOD, SCHEME, (":path", "/held"), AUTHORITY]);
    for n in 0..40 {
        flood.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &head));
    }
    backend.wait_for(10);
    assert_eq!(proxy.get("/").status(), 200);
    gate.open();
    until("nothing in flight", || proxy.in_flight() == 0.0);
    let said = flood.finish();
    let refused = (0..40).filter(|n| kinds(&said, 2 * n + 1).contains(&RESET)).count();
    assert_eq!((backend.count(), refused), (11, 30));
    assert_unharmed(&proxy);
}

/// Frames that break the connection's rules end it, and reach no backend.
#[test]
fn broken_connections_are_ended() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let most = 0x7FFF_FFFFu32.to_be_bytes();
    let cases: [(&str, Vec<u8>); 9] = [
        ("DATA on no stream", frame(DATA, 0, 0, b"x")),
        ("a stream of an even number", frame(HEADERS, END_STREAM | END_HEADERS, 2, &get())),
        ("a frame beyond the limit", frame(DATA, 0, 1, &[0; 20_000])),
        ("a window beyond the limit", frame(WINDOW_UPDATE, 0, 0, &most).repeat(2)),
        ("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &get())),
        ("a table index out of range", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xFF, 0x7F])),
        ("RST_STREAM of an idle stream", frame(RESET, 0, 7, &8u32.to_be_bytes())),
        ("SETTINGS of an odd length", frame(SETTINGS, 0, 0, &[0; 5])),
    ];
    for (what, bytes) in cases {
        let mut flood = Flood::new(&proxy);
        flood.send(&bytes);
        let said = flood.closed();
        assert!(said.is_empty() || kinds(&said, 0).contains(&GOAWAY), "{what}: {}", said.escape_ascii());
        assert_eq!(backend.count(), 0, "{what}");
    }
    assert_unharmed(&proxy);
}
