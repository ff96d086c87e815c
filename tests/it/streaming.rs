//! Nothing is buffered: what one side sends, the other sees before the next piece exists. What one side does not take,
//! the other is not asked for.

use std::time::Duration;

use crate::support::*;

/// Two chunks with a gate between: the second exists only once the first has been seen at the other end.
#[test]
fn chunks_pass_one_by_one_both_ways() {
    let (gate, uploaded) = (Gate::new(), Gate::new());
    let (held, first_seen) = (gate.clone(), uploaded.clone());
    let backend = TestBackend::new(move |turn| {
        turn.read_until("first\r\n");
        first_seen.open();
        turn.read_until("0\r\n\r\n");
        turn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        turn.send(chunked("data: one\n\n"));
        held.pass();
        turn.send(chunked("data: two\n\n"));
        turn.send("0\r\n\r\n");
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(chunked("first"));
    uploaded.pass();
    client.send(chunked("second"));
    client.send("0\r\n\r\n");
    let mut answer = client.head();
    assert_eq!(answer.field("x-accel-buffering"), Some("no"));
    client.read_until("data: one\n\n\r\n");
    proxy.comes_to("evenkeel_in_flight", &[], 1.0);
    gate.open();
    client.body(&mut answer);
    assert_eq!((answer.text().as_str(), answer.whole), ("data: two\n\n", true));
}

/// The head alone is passed on at once; so are the pieces of a body of known length, and of one until close.
#[test]
fn heads_and_pieces_do_not_wait_for_more() {
    for framing in ["Content-Length: 10\r\n", ""] {
        let (head, piece) = (Gate::new(), Gate::new());
        let (after_head, after_piece) = (head.clone(), piece.clone());
        let backend = TestBackend::new(move |turn| {
            turn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"));
            after_head.pass();
            turn.send("piece");
            after_piece.pass();
            turn.send("rest!");
            turn.close();
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut answer = client.head();
        head.open();
        client.read_until("piece");
        piece.open();
        if framing.is_empty() {
            client.read_until("rest!\r\n0\r\n\r\n");
        } else {
            answer.fields.retain(|(name, _)| name != "content-length");
            client.read_until("rest!");
        }
    }
}

/// A backend may answer while it still reads: both directions flow at once.
#[test]
fn a_response_flows_while_the_request_still_does() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for number in 0..5 {
            let asked = turn.read_until(format!("ask{number}\r\n"));
            assert!(!asked.is_empty());
            turn.send(chunked(format!("answer{number}")));
        }
        turn.read_until("0\r\n\r\n");
        turn.send("0\r\n\r\n");
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.head();
    for number in 0..5 {
        client.send(chunked(format!("ask{number}")));
        client.read_until(format!("answer{number}\r\n"));
    }
    client.send("0\r\n\r\n");
    client.read_until("0\r\n\r\n");
}

/// The most that may lie between a backend and a client that takes nothing, or between a client and a backend that
/// takes nothing: our buffers, and those of four kernel sockets (on loopback up to 6 MB each, tcp_rmem and tcp_wmem).
const BETWEEN: usize = 32 << 20;
/// What is offered: far more.
const OFFERED: usize = 48 << 20;

/// A client that stops reading stops its backend; once it reads on, every byte is there.
#[test]
fn a_stalled_client_holds_its_backend_back() {
    let stalled = Gate::new();
    let at_rest = stalled.clone();
    let backend = TestBackend::new(move |turn| {
        turn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {OFFERED}\r\n\r\n"));
        let piece = vec![b'x'; 64 << 10];
        let taken = turn.send_until_stalled(&piece, OFFERED, Duration::from_millis(500));
        assert!(taken < BETWEEN, "{taken} bytes were taken for a client that reads nothing");
        at_rest.open();
        let mut left = OFFERED - taken;
        while left > 0 {
            let size = left.min(piece.len());
            assert!(turn.send(&piece[..size]), "the balancer gave up with {left} bytes to come");
            left -= size;
        }
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answer = client.head();
    stalled.pass();
    client.body(&mut answer);
    assert!(answer.whole && answer.body.len() == OFFERED && answer.body.iter().all(|byte| *byte == b'x'));
}

/// A backend that stops reading stops its client; once it reads on, every byte is there.
#[test]
fn a_stalled_backend_holds_its_client_back() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        held.pass();
        turn.answer(200, "all of it");
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {OFFERED}\r\n\r\n"));
    let piece = vec![b'y'; 64 << 10];
    let taken = client.send_until_stalled(&piece, OFFERED, Duration::from_millis(500));
    assert!(taken < BETWEEN, "{taken} bytes were taken for a backend that reads nothing");
    gate.open();
    let mut left = OFFERED - taken;
    while left > 0 {
        let size = left.min(piece.len());
        client.send(&piece[..size]);
        left -= size;
    }
    assert_eq!(client.response().text(), "all of it");
    let seen = backend.only_request();
    assert!(seen.whole && seen.body.len() == OFFERED && seen.body.iter().all(|byte| *byte == b'y'));
}
