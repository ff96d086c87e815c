//! Events leave as they come, over both protocols; informational responses come before the final one.

use bytes::Bytes;

use crate::http2::h2c;
use crate::http2::support::*;
use crate::support::*;

/// A backend that sends ten events, each only when the one before has been seen at the other end.
fn eventful(kind: &'static str, extra: &'static str, seen: &Gates) -> TestBackend {
    let seen = seen.clone();
    TestBackend::new(move |turn| {
        turn.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{extra}Transfer-Encoding: chunked\r\n\r\n"));
        for number in 0..10 {
            turn.send(chunked(event(number)));
            seen.0[number].pass();
        }
        turn.send("0\r\n\r\n");
    })
}

#[derive(Clone)]
struct Gates(std::sync::Arc<Vec<Gate>>);

impl Gates {
    fn new() -> Self {
        Self(std::sync::Arc::new((0..10).map(|_| Gate::new()).collect()))
    }
}

fn event(number: usize) -> String {
    format!("data: {{\"n\":{number}}}\n\n")
}

/// Server-sent events and JSON lines: each event leaves at once; nobody in front of us is to buffer them, unless the
/// backend has said something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn events_leave_at_once() {
    let cases = [
        ("text/event-stream", "", Some("no")),
        ("Text/Event-Stream; charset=utf-8", "", Some("no")),
        ("application/x-ndjson", "", Some("no")),
        ("text/event-stream", "X-Accel-Buffering: yes\r\n", Some("yes")),
        ("application/json", "", None),
    ];
    for (kind, extra, expected) in cases {
        let gates = Gates::new();
        let backend = eventful(kind, extra, &gates);
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.head();
        assert_eq!(head.all("x-accel-buffering"), expected.into_iter().collect::<Vec<_>>(), "{kind} {extra}");
        for number in 0..10 {
            client.read_until(event(number));
            gates.0[number].open();
        }
        client.read_until("0\r\n\r\n");

        let gates = Gates::new();
        let backend = eventful(kind, extra, &gates);
        let proxy = Setup::new(&[&backend]).start();
        let client = Client::connect(proxy.address).await;
        let mut begun = client.open(get("/"), None).await.unwrap();
        assert_eq!(
            begun.head.headers.get("x-accel-buffering").map(|v| v.to_str().unwrap()),
            expected,
            "{kind} {extra}"
        );
        for number in 0..10 {
            assert_eq!(begun.piece().await.unwrap(), Some(Bytes::from(event(number))));
            gates.0[number].open();
        }
        assert_eq!(begun.piece().await.unwrap(), None);
    }
}

/// The same from an HTTP/2 backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn events_of_an_http2_backend_leave_at_once() {
    let gates = Gates::new();
    let held = gates.clone();
    let backend = H2Backend::new(move |mut turn| {
        let held = held.clone();
        async move {
            let mut stream = turn.head(200, &[("content-type", "text/event-stream")], false).unwrap();
            for number in 0..10 {
                send_all(&mut stream, event(number).into(), false).await;
                let gate = held.0[number].clone();
                tokio::task::spawn_blocking(move || gate.pass()).await.unwrap();
            }
            send_all(&mut stream, Bytes::new(), true).await;
        }
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().field("x-accel-buffering"), Some("no"));
    for number in 0..10 {
        client.read_until(event(number));
        gates.0[number].open();
    }
    client.read_until("0\r\n\r\n");
}

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>; rel=preload\r\n\
                     Connection: x-inner\r\nX-Inner: 1\r\n\r\n";

/// 103 reaches an HTTP/1.1 client before the backend has thought of a final response.
#[test]
fn early_hints_reach_an_http1_client() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        turn.send(HINTS);
        turn.send("HTTP/1.1 102 Processing\r\n\r\n");
        held.pass();
        turn.send(HINTS);
        turn.answer(200, "final");
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let hints = client.head();
        assert_eq!((hints.start.as_str(), hints.status()), ("HTTP/1.1 103 Early Hints", 103));
        assert_eq!(hints.all("link"), ["</a.css>; rel=preload", "</b.js>; rel=preload"]);
        assert_eq!((hints.field("connection"), hints.field("x-inner")), (None, None));
        assert_eq!(client.head().status(), 102);
        gate.open();
        assert_eq!(client.head().status(), 103);
        let mut answer = client.head();
        client.body(&mut answer);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "final"));
    }
}

/// An HTTP/1.0 client and an HTTP/2 client get the final response alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn early_hints_are_dropped_for_others() {
    let backend = TestBackend::new(|turn| {
        turn.send(HINTS);
        turn.answer(200, "final");
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let rest = String::from_utf8(client.rest()).unwrap();
    assert!(rest.starts_with("HTTP/1.0 200 ") && rest.ends_with("final") && !rest.contains(" 103 "), "{rest}");
    let got = Client::connect(proxy.address).await.get("/").await;
    assert_eq!((got.status(), got.text().as_str()), (200, "final"));
    assert!(!got.head.headers.contains_key("link"));
    // Nor do they come later to whoever has the connection then.
    assert_eq!(proxy.get("/").status(), 200);
}

/// Twenty informational responses are many; one more is a fault.
#[test]
fn a_flood_of_informational_responses() {
    for (count, expected) in [(20, 200), (21, 502)] {
        let backend = TestBackend::new(move |turn| {
            for _ in 0..count {
                turn.send(HINTS);
            }
            turn.answer(200, "final");
            turn.close();
        });
        let proxy = Setup::new(&[&backend]).pool(|pool| pool.retry.attempts = 1).start();
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.response();
        assert_eq!(answer.status(), expected);
        assert_eq!(backend.count(), 1, "an answer that has begun is not asked for again");
    }
}

/// A client that pipelines and does not read: a hint must not land amid the response before it.
#[test]
fn early_hints_do_not_cut_into_an_earlier_response() {
    const SIZE: usize = 24 << 20;
    let hinted = Gate::new();
    let told = hinted.clone();
    let backend = TestBackend::new(move |turn| {
        if turn.request.target() == "/large" {
            turn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            turn.send(vec![b'x'; SIZE]);
        } else {
            turn.send(HINTS);
            turn.answer(200, "final");
            told.open();
        }
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\nGET /hinted HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut large = client.head();
    client.body(&mut large);
    assert!(large.whole && large.body.len() == SIZE && large.body.iter().all(|byte| *byte == b'x'));
    assert_eq!(client.response().text(), "final");
    hinted.pass();
}
