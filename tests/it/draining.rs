//! The end of a process: SIGTERM finishes what is under way, up to a deadline; exit codes say how it went.

use std::net::TcpStream;
use std::time::Duration;

use crate::support::*;

/// A backend that streams: one chunk at once, the last when the gate opens.
fn streaming(gate: &Gate) -> TestBackend {
    let held = gate.clone();
    TestBackend::new(move |turn| {
        if turn.request.target() != "/stream" {
            return turn.answer(200, "ok");
        }
        turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        turn.send(chunked("first"));
        held.pass();
        turn.send(chunked("last"));
        turn.send("0\r\n\r\n");
    })
}

fn open_stream(binary: &Binary) -> (Raw, Message) {
    let mut client = binary.client();
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.head();
    client.read_until("first\r\n");
    (client, answer)
}

/// An open stream is finished; idle connections close at once; new ones are refused; then it exits with 0.
#[test]
fn a_stream_is_finished_and_nobody_else_is_let_in() {
    let gate = Gate::new();
    let backend = streaming(&gate);
    let mut binary = Binary::run(&Config::new(&[&backend]).text());
    let mut idle = binary.client();
    assert_eq!(idle.get("/").text(), "ok");
    let mut untouched = binary.client();
    let (mut client, mut answer) = open_stream(&binary);
    binary.signal("TERM");
    idle.assert_closed();
    untouched.assert_closed();
    assert_eq!(binary.admin().get("/readyz").status(), 503);
    assert_eq!(binary.admin().get("/healthz").status(), 200);
    until("new connections are refused", || TcpStream::connect(binary.address()).is_err());
    assert!(binary.is_running());
    gate.open();
    client.body(&mut answer);
    assert_eq!((answer.text().as_str(), answer.whole), ("last", true));
    client.assert_closed();
    assert_eq!(binary.wait().code(), Some(0), "{}", binary.log());
}

/// What was sent before the end is answered, wherever it waits: in the kernel's queue of connections, on a connection of
/// which nothing was read yet, behind an answer.
#[test]
fn what_was_sent_before_the_end_is_answered() {
    let backend = TestBackend::saying("ok");
    let config = Config { server: "threads = 1", ..Config::new(&[&backend]) };
    let mut binary = Binary::run(&config.text());
    let mut clients: Vec<Raw> = (0..4).map(|_| binary.client()).collect();
    // Two that were answered before; the other two have said nothing.
    for client in &mut clients[..2] {
        assert_eq!(client.get("/").text(), "ok");
    }
    until("all are known", || binary.metric("evenkeel_connections", &[]) == 4.0);
    binary.signal("STOP");
    clients.extend((0..100).map(|_| binary.client()));
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    binary.signal("TERM");
    binary.signal("CONT");
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = client.try_head().unwrap_or_else(|error| panic!("client {number}: {error}"));
        let mut answer = answer.unwrap_or_else(|| panic!("client {number} was closed without an answer"));
        client.body(&mut answer);
        assert_eq!(answer.text(), "ok", "client {number}");
        client.assert_closed();
    }
    assert_eq!(binary.wait().code(), Some(0), "{}", binary.log());
}

/// A request that was under way gets its answer, which says that the connection closes.
#[test]
fn a_request_under_way_is_answered_with_close() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        held.pass();
        turn.answer(200, "answered");
    });
    let mut binary = Binary::run(&Config::new(&[&backend]).text());
    let mut client = binary.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_for(1);
    binary.signal("INT");
    until("it drains", || binary.admin().get("/readyz").status() == 503);
    until("new connections are refused", || TcpStream::connect(binary.address()).is_err());
    gate.open();
    let answer = client.response();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("answered", Some("close")));
    client.assert_closed();
    assert_eq!(binary.wait().code(), Some(0));
}

/// A stream that does not end is cut at the deadline, visibly broken; that is still a good end.
#[test]
fn a_stream_is_cut_at_the_deadline() {
    let gate = Gate::new();
    let backend = streaming(&gate);
    let config = Config { server: "threads = 2\ndrain_timeout = \"300ms\"", ..Config::new(&[&backend]) };
    let mut binary = Binary::run(&config.text());
    let (mut client, mut answer) = open_stream(&binary);
    binary.signal("TERM");
    client.body(&mut answer);
    assert!(!answer.whole, "{answer:?}");
    assert_eq!(binary.wait().code(), Some(0), "{}", binary.log());
    gate.open();
}

/// A second signal ends it at once, with 1.
#[test]
fn a_second_signal_ends_it_at_once() {
    let gate = Gate::new();
    let backend = streaming(&gate);
    let mut binary = Binary::run(&Config::new(&[&backend]).text());
    let (mut client, mut answer) = open_stream(&binary);
    binary.signal("TERM");
    until("it drains", || binary.admin().get("/readyz").status() == 503);
    binary.signal("TERM");
    assert_eq!(binary.wait().code(), Some(1), "{}", binary.log());
    client.body(&mut answer);
    assert!(!answer.whole, "{answer:?}");
    gate.open();
}

/// With a delay: not ready, but still open, so that whoever balances before us can look elsewhere first.
#[test]
fn a_delay_keeps_the_doors_open_while_readiness_says_no() {
    let backend = TestBackend::saying("ok");
    let config = Config { server: "threads = 2\ndrain_delay = \"1h\"", ..Config::new(&[&backend]) };
    let mut binary = Binary::run(&config.text());
    assert_eq!(binary.admin().get("/readyz").status(), 200);
    binary.signal("TERM");
    until("not ready", || binary.admin().get("/readyz").status() == 503);
    let mut client = binary.client();
    assert_eq!((client.get("/").text(), client.get("/").text()), ("ok".to_owned(), "ok".to_owned()));
    binary.signal("TERM");
    assert_eq!(binary.wait().code(), Some(1));
}

/// Under load, SIGTERM costs no request that was sent: each is answered, or its connection was closed before it.
#[test]
fn an_app_drains_under_load_without_cutting_anything() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).plan(|plan| plan.server.drain_timeout = Duration::from_secs(20)).start();
    let mut clients: Vec<_> = (0..8).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "ok");
    }
    let summary = proxy.end();
    assert!(summary.clean && summary.cut == 0 && !summary.aborted, "{summary}");
    for client in &mut clients {
        client.assert_closed();
    }
}
