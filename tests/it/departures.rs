//! A client that leaves cancels the work of its backend at once, wherever its request is; a backend that leaves is told
//! to its client; in either case nothing stays in flight and no other client ever notices.

use std::io::Write as _;
use std::time::Duration;

use crate::support::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    BeforeTheResponse,
    AmidTheResponse,
    DuringTheUpload,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Close,
    Reset,
    /// Only its sending side; it would still listen.
    HalfClose,
}

/// The upstream connection closes although the backend is silent, and in flight falls to zero.
#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    for method in ["GET", "POST"] {
        for when in [When::BeforeTheResponse, When::AmidTheResponse, When::DuringTheUpload] {
            for how in [How::Close, How::Reset, How::HalfClose] {
                if (method, when) != ("GET", When::DuringTheUpload) {
                    leave(method, when, how);
                }
            }
        }
    }
}

fn leave(method: &str, when: When, how: How) {
    let what = format!("{method} {when:?} {how:?}");
    let backend = TestBackend::new(move |turn| {
        match when {
            When::BeforeTheResponse if turn.request.method() == "POST" => assert!(turn.read_body()),
            When::BeforeTheResponse => {}
            When::AmidTheResponse => {
                turn.read_body();
                turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                turn.send(chunked("first"));
            }
            When::DuringTheUpload => {
                turn.read_until("half");
            }
        }
        let more = turn.until_gone();
        assert!(!String::from_utf8_lossy(&more).contains("0\r\n"), "half a body was made to look whole");
    });
    let proxy = Setup::new(&[&backend]).logged().start();
    let mut client = proxy.client();
    match (method, when) {
        ("GET", _) => client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (_, When::DuringTheUpload) => {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            client.send(chunked("half"));
        }
        _ => client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"),
    }
    match when {
        When::AmidTheResponse => drop(client.read_until("first\r\n")),
        When::BeforeTheResponse | When::DuringTheUpload => backend.wait_for(1),
    }
    proxy.comes_to("evenkeel_in_flight", &[], 1.0);
    let mut listening = None;
    match how {
        How::Close => drop(client),
        How::Reset => client.reset(),
        How::HalfClose => {
            client.half_close();
            listening = Some(client);
        }
    }
    until(&format!("{what}: the upstream connection closes"), || backend.open() == 0);
    until(&format!("{what}: nothing in flight"), || proxy.in_flight() == 0.0);
    let line = &proxy.log(1)[0];
    assert_eq!(line["end"], "client_gone", "{what}: {line}");
    drop(listening);
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("evenkeel_client_disconnects_total", &[]), 1.0, "{what}");
    assert_eq!(metrics.sum("evenkeel_requests_total", &[]), 1.0, "{what}");
}

/// A client that has sent something ahead of its answer is watched all the same, little or more than is read ahead.
#[test]
fn a_client_that_sent_ahead_is_missed_when_it_leaves() {
    for ahead in ["G".to_owned(), "\r\n".to_owned(), "GET /next HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2000)] {
        for how in [How::Close, How::Reset] {
            let what = format!("{} bytes ahead, {how:?}", ahead.len());
            let backend = TestBackend::new(|turn| drop(turn.until_gone()));
            let proxy = Setup::new(&[&backend]).logged().start();
            let mut client = proxy.client();
            client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
            backend.wait_for(1);
            client.send(&ahead);
            // The client's pause, and no race: without it the bytes and the end would be read together.
            std::thread::sleep(Duration::from_millis(300));
            match how {
                How::Reset => client.reset(),
                How::Close | How::HalfClose => drop(client),
            }
            until(&format!("{what}: the upstream connection closes"), || backend.open() == 0);
            until(&format!("{what}: nothing in flight"), || proxy.in_flight() == 0.0);
            assert_eq!(proxy.log(1)[0]["end"], "client_gone", "{what}");
            assert_eq!(backend.count(), 1, "{what}");
        }
    }
}

/// A client that is lost amid an upload which its backend does not read.
#[test]
fn a_client_lost_amid_an_upload_that_nobody_reads_is_missed() {
    const LENGTH: usize = 50_000_000;
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        held.pass();
        turn.until_gone();
    });
    let proxy = Setup::new(&[&backend]).logged().start();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
    let sent = client.send_until_stalled(&[b'x'; 64 * 1024], LENGTH - 1, Duration::from_millis(500));
    assert!(sent < LENGTH - 64 * 1024, "all of it was taken");
    proxy.comes_to("evenkeel_in_flight", &[], 1.0);
    client.reset();
    until("nothing in flight", || proxy.in_flight() == 0.0);
    assert_eq!(proxy.log(1)[0]["end"], "client_gone");
    gate.open();
    until("the upstream connection closes", || backend.open() == 0);
}

/// A client that has said all it has to say, and closes its sending side, gets an answer that is ready at once.
#[test]
fn a_client_that_half_closes_gets_what_is_ready() {
    let backend = TestBackend::saying("served");
    let proxy = Setup::new(&[&backend]).start();
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let mut client = proxy.client();
        client.send(request);
        client.half_close();
        let answer = client.response();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "served"), "{request}");
        client.assert_closed();
    }
}

/// It also gets an answer that takes its time, as long as it flows.
#[test]
fn a_client_that_half_closes_gets_what_flows() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Longer than a client is given that takes nothing; the pauses are the backend's and no race.
        for _ in 0..30 {
            turn.send(chunked("piece"));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        turn.send("0\r\n\r\n");
    });
    let proxy = Setup::new(&[&backend]).start();
    // On a machine so busy that a pause grows beyond what is allowed, another try shows it.
    until("an answer that flows is whole", || {
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.half_close();
        let answer = client.response();
        answer.whole && answer.text() == "piece".repeat(30)
    });
}

/// Cut off for taking nothing, it must see that: to a client of HTTP/1.0 a polite close is the end of a body.
#[test]
fn what_breaks_off_for_a_half_closed_client_does_not_look_whole() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        turn.send("HTTP/1.0 200 OK\r\n\r\nhello");
        held.pass();
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.half_close();
    client.read_until("hello");
    client.assert_reset();
    gate.open();
}

/// A client that sends all of its request before it reads is not waited for by a backend that answers meanwhile.
#[test]
fn an_upload_goes_on_while_the_client_takes_nothing_of_the_response() {
    const SIZE: usize = 24 << 20;
    let backend = TestBackend::new(|turn| {
        turn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        // Of its response it sends as much as is taken while it reads: a third hand.
        let mut answering = turn.socket();
        let answer = std::thread::spawn(move || answering.write_all(&vec![b'y'; SIZE]).is_ok());
        assert!(turn.read_body(), "the upload ends");
        assert!(answer.join().unwrap(), "the answer is taken");
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    client.send(vec![b'x'; SIZE]);
    let answer = client.response();
    assert_eq!((answer.status(), answer.text().len(), answer.whole), (200, SIZE, true));
}

/// A client that leaves while its request waits frees its place in the queue.
#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        if turn.number == 0 {
            held.pass();
        }
        turn.answer(200, "served");
    });
    let proxy = Setup::new(&[&backend]).pool(|pool| pool.max_in_flight = 1).start();
    let mut first = proxy.client();
    first.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_for(1);
    let waiting = |count: f64| until("the queue", || proxy.metric("evenkeel_queue_length", &[]) == count);
    let mut leaver = proxy.client();
    leaver.send("GET /leaver HTTP/1.1\r\nHost: a\r\n\r\n");
    waiting(1.0);
    let mut last = proxy.client();
    last.send("GET /last HTTP/1.1\r\nHost: a\r\n\r\n");
    waiting(2.0);
    drop(leaver);
    waiting(1.0);
    gate.open();
    assert_eq!((first.response().text(), last.response().text()), ("served".to_owned(), "served".to_owned()));
    let targets: Vec<_> = backend.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, ["/first", "/last"]);
}

/// What a backend breaks off must look broken to the client, and must not be asked for again.
#[test]
fn a_response_that_breaks_ends_broken() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases: [(&str, String, bool); 9] = [
        ("a short body", format!("{length}hello"), false),
        ("a short body, reset", format!("{length}hello"), true),
        ("no byte of the body", length.to_owned(), false),
        ("no last chunk", format!("{chunks}5\r\nhello\r\n"), false),
        ("no last chunk, reset", format!("{chunks}5\r\nhello\r\n"), true),
        ("half a chunk", format!("{chunks}a\r\nhello"), false),
        ("half a last chunk", format!("{chunks}5\r\nhello\r\n0\r\n"), false),
        ("a bad size", format!("{chunks}5\r\nhello\r\nxyz\r\n"), false),
        ("no CRLF after the data", format!("{chunks}5\r\nhelloXX0\r\n\r\n"), false),
    ];
    for (what, bytes, reset) in cases {
        let (gate, sent) = (Gate::new(), bytes.clone());
        let head_seen = gate.clone();
        let backend = TestBackend::new(move |turn| {
            if turn.number > 0 {
                return turn.answer(200, "clean");
            }
            turn.send(&sent);
            // The break comes once the head is out: before that it would be a failed request, not a broken response.
            head_seen.pass();
            if reset { turn.reset() } else { turn.close() }
        });
        let proxy = Setup::new(&[&backend]).logged().start();
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut answer = client.head();
        assert_eq!(answer.status(), 200, "{what}");
        gate.open();
        client.body(&mut answer);
        assert!(!answer.whole, "{what}: {answer:?}");
        assert!(b"hello".starts_with(&answer.body[..]), "{what}: {answer:?}");
        client.assert_closed();
        assert_eq!(backend.count(), 1, "{what}: repeated although its head was forwarded");
        assert_eq!(proxy.get("/").text(), "clean", "{what}");
        assert_eq!(proxy.log(2)[0]["end"], "backend_reset", "{what}");
    }
}

/// To a client of HTTP/1.0 an answer of unknown length ends with the connection: one that breaks ends with a reset.
#[test]
fn a_response_that_breaks_resets_an_old_client() {
    for end in ["", "xyz\r\n"] {
        let gate = Gate::new();
        let held = gate.clone();
        let backend = TestBackend::new(move |turn| {
            turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            held.pass();
            turn.send(end);
            turn.close();
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(client.head().status(), 200);
        client.read_until("hello");
        gate.open();
        client.assert_reset();
    }
}

/// A backend that leaves before its head is a 502; in-flight falls to zero on every path.
#[test]
fn a_backend_that_leaves_before_its_head_is_a_bad_gateway() {
    let backend = TestBackend::new(|turn| match turn.request.target() {
        "/close" => turn.close(),
        "/reset" => turn.reset(),
        "/half" => {
            turn.send("HTTP/1.1 200 OK\r\nContent-");
            turn.close();
        }
        "/half-closed" => {
            turn.read_body();
            turn.half_close();
            turn.until_gone();
        }
        other => panic!("{other}"),
    });
    let proxy = Setup::new(&[&backend]).start();
    for path in ["/close", "/reset", "/half", "/half-closed"] {
        let mut client = proxy.client();
        let answer = client.post(path, "body");
        assert_eq!((answer.status(), answer.error_code().as_str()), (502, "backend_failed"), "{path}");
        // The client's connection is not to blame.
        assert_eq!(client.post(path, "body").status(), 502, "{path}");
        until("nothing in flight", || proxy.in_flight() == 0.0);
    }
    assert_eq!(backend.count(), 8, "no POST is repeated once it was sent");
}

/// Bytes that a backend sends after the end of its response never reach anybody.
#[test]
fn bytes_after_the_end_of_a_response_reach_nobody() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";
    let ends = [
        ("length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("204", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
    ];
    for (what, good) in ends {
        for together in [true, false] {
            let (gate, later) = (Gate::new(), Gate::new());
            let (held, done) = (gate.clone(), later.clone());
            let backend = TestBackend::new(move |turn| {
                if turn.number > 0 {
                    return turn.answer(200, "clean");
                }
                if together {
                    turn.send(format!("{good}{evil}"));
                } else {
                    turn.send(good);
                    held.pass();
                    turn.send(evil);
                    done.open();
                }
                turn.until_gone();
            });
            let proxy = Setup::new(&[&backend]).start();
            let mut client = proxy.client();
            let method = if what == "HEAD" { "HEAD" } else { "GET" };
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            let answer = client.response_to(method);
            assert!(answer.whole && !answer.text().contains("EVIL"), "{what}: {answer:?}");
            if !together {
                gate.open();
                later.pass();
            }
            for _ in 0..3 {
                assert_eq!(client.get("/").text(), "clean", "{what}, together: {together}");
                assert_eq!(proxy.client().post("/", "x").text(), "clean", "{what}, together: {together}");
            }
            assert_eq!(backend.connections(), 2, "{what}, together: {together}");
        }
    }
}
