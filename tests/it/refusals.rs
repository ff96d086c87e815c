//! The answers that the balancer makes itself: status, shape, headers, and what becomes of the connection.

use std::time::Duration;

use evenkeel::config::{AdminState, HostMatch, RoutePlan, WhenUnhealthy};

use crate::support::*;

/// What a client gets, by what it (or its backend) did.
#[test]
fn every_refusal_has_its_status_shape_and_place_in_the_log() {
    struct Case {
        what: &'static str,
        setup: fn(Setup) -> Setup,
        request: String,
        status: u16,
        code: &'static str,
        end: &'static str,
    }
    fn plain(setup: Setup) -> Setup {
        setup
    }
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let case = |what, setup, request, status, code, end| Case { what, setup, request, status, code, end };
    let cases = [
        case(
            "no route",
            |setup| {
                setup.plan(|plan| {
                    let host = Some(HostMatch::Exact("known".to_owned()));
                    plan.routes = vec![RoutePlan { host, ..RoutePlan::to(0) }];
                })
            },
            get("/"),
            404,
            "no_route",
            "rejected",
        ),
        case("no Host", plain, "GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "malformed_request", "rejected"),
        case("TRACE", plain, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405, "method_not_allowed", "rejected"),
        case(
            "CONNECT",
            plain,
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned(),
            405,
            "method_not_allowed",
            "rejected",
        ),
        case(
            "a long body, said so",
            |setup| setup.listener(|listener| listener.max_body = 10),
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world".to_owned(),
            413,
            "body_too_large",
            "rejected",
        ),
        case(
            "a long body, in chunks",
            |setup| setup.listener(|listener| listener.max_body = 10),
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n".to_owned(),
            413,
            "body_too_large",
            "rejected",
        ),
        case("a long target", plain, get(&format!("/{}", "a".repeat(17 << 10))), 414, "uri_too_long", "rejected"),
        case(
            "a long field",
            plain,
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(65 << 10)),
            431,
            "headers_too_large",
            "rejected",
        ),
        case("a backend that resets", plain, get("/reset"), 502, "backend_failed", "backend_reset"),
        case("a backend that talks nonsense", plain, get("/nonsense"), 502, "backend_failed", "backend_reset"),
        case(
            "a silent backend",
            |setup| setup.pool(|pool| pool.timeouts.first_byte = Duration::from_millis(100)),
            get("/silent"),
            504,
            "backend_timeout",
            "backend_timeout",
        ),
        case(
            "a silent backend, by the total",
            |setup| setup.pool(|pool| pool.timeouts.total = Duration::from_millis(100)),
            get("/silent"),
            504,
            "backend_timeout",
            "backend_timeout",
        ),
        case(
            "all drained",
            |setup| setup.pool(|pool| pool.backends[0].state = AdminState::Drain),
            get("/"),
            503,
            "no_backend",
            "no_backend",
        ),
        case(
            "none healthy",
            |setup| {
                setup.pool(|pool| {
                    pool.when_unhealthy = WhenUnhealthy::Reject;
                    pool.health.kind = evenkeel::config::ProbeKind::Http;
                    pool.health.interval = Duration::from_secs(3600);
                })
            },
            get("/"),
            503,
            "no_backend",
            "no_backend",
        ),
        case(
            "a slow body",
            |setup| setup.listener(|listener| listener.body_idle_timeout = Duration::from_millis(100)),
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello".to_owned(),
            408,
            "request_timeout",
            "rejected",
        ),
    ];
    for Case { what, setup, request, status, code, end } in cases {
        let backend = TestBackend::new(|turn| match turn.request.target() {
            "/reset" => turn.reset(),
            "/nonsense" => {
                turn.send("SMTP ready\r\n\r\n");
                turn.close();
            }
            // Answers only what is whole, and not when the client said that it waits for nothing.
            "/silent" => drop(turn.until_gone()),
            _ => {
                if turn.read_body() {
                    turn.answer(200, "served");
                }
            }
        });
        backend.set_health(500);
        let proxy = setup(Setup::new(&[&backend])).logged().start();
        let mut client = proxy.client();
        client.send(&request);
        let answer = client.response();
        assert_eq!((answer.status(), answer.error_code().as_str()), (status, code), "{what}: {answer:?}");
        assert_eq!(answer.all("x-request-id").len(), 1, "{what}");
        let retry_after = answer.field("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        assert_eq!(retry_after.is_some_and(|seconds| seconds >= 1), status == 503, "{what}: {answer:?}");
        assert_eq!(answer.field("allow").is_some(), status == 405, "{what}");
        // Of these something may be left that must not be read as the next request.
        if [400, 405, 408, 413, 414, 431, 501].contains(&status) {
            assert_eq!(answer.field("connection"), Some("close"), "{what}");
            client.assert_closed();
        }
        let line = &proxy.log(1)[0];
        assert_eq!((&line["status"], &line["end"]), (&status.into(), &end.into()), "{what}: {line}");
        assert_eq!(line["request_id"].as_str(), answer.field("x-request-id"), "{what}");
        until(what, || proxy.in_flight() == 0.0);
    }
}

/// A head that does not come to its end in time gets a 408 and the door; so does a client that says nothing at all, but
/// without a word.
#[test]
fn a_slow_head_is_cut() {
    let backend = TestBackend::saying("ok");
    let proxy =
        Setup::new(&[&backend]).listener(|listener| listener.header_timeout = Duration::from_millis(200)).start();
    let mut silent = proxy.client();
    silent.assert_closed();
    let mut slow = proxy.client();
    slow.send("GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ");
    assert_eq!(slow.response().status(), 408);
    slow.assert_closed();
    // The second head of a connection as well.
    let mut slow = proxy.client();
    assert_eq!(slow.get("/").status(), 200);
    slow.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(slow.response().status(), 408);
    slow.assert_closed();
    assert_eq!(backend.count(), 1);
    proxy.comes_to("evenkeel_connections_cut_total", &[("reason", "slow_head")], 2.0);
}

/// A head with more fields than allowed is refused by the parser itself: its answer has no body, and nothing is routed.
#[test]
fn too_many_fields_are_refused() {
    let backend = TestBackend::saying("ok");
    for (limit, fields, status) in [(100, 99, 200), (100, 100, 431), (10, 9, 200), (10, 10, 431)] {
        let proxy = Setup::new(&[&backend]).listener(|listener| listener.max_headers = limit).start();
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(fields)));
        assert_eq!(client.response().status(), status, "{fields} beside Host, of {limit}");
        if status == 431 {
            client.assert_closed();
            proxy.comes_to("evenkeel_connections_cut_total", &[("reason", "malformed")], 1.0);
        }
    }
    assert_eq!(backend.count(), 2);
}

/// A connection that rests between requests is kept for `idle_timeout`, no longer.
#[test]
fn an_idle_connection_is_closed_in_time() {
    let backend = TestBackend::saying("ok");
    for timeout in [Duration::from_millis(200), Duration::from_millis(1500)] {
        let proxy = Setup::new(&[&backend]).listener(|listener| listener.idle_timeout = timeout).start();
        let mut client = proxy.client();
        assert_eq!(client.get("/").status(), 200);
        client.assert_closed();
    }
}

/// An empty line behind a body is none (RFC 9112 section 2.2): neither the head of a request that never comes, nor what keeps
/// a connection from resting.
#[test]
fn an_empty_line_behind_a_body_is_nothing() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend])
        .listener(|listener| {
            listener.header_timeout = Duration::from_millis(200);
            listener.idle_timeout = Duration::from_millis(1500);
        })
        .start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n");
    assert_eq!(client.response().status(), 200);
    client.assert_closed();
    proxy.comes_to("evenkeel_connections_cut_total", &[("reason", "slow_head")], 0.0);
    let mut client = proxy.client();
    client.send(
        "\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!((client.response().status(), client.response().status()), (200, 200));
}

/// A connection that has rested for long (and was taken out of its buffers) serves on.
#[test]
fn a_rested_connection_serves_on() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").status(), 200);
        // Upstream connections that nobody uses are closed after a while, which is longer than a client is held in buffers.
        until("the idle upstream connection closes", || backend.open() == 0);
    }
    assert_eq!(client.get("/").status(), 200);
}

/// A client that takes nothing of its response for `write_idle_timeout` is cut, and its backend is freed.
#[test]
fn a_client_that_takes_nothing_is_cut() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        let piece = vec![b'x'; 64 << 10];
        while turn.send(&piece) {}
        turn.close();
    });
    let proxy =
        Setup::new(&[&backend]).listener(|listener| listener.write_idle_timeout = Duration::from_millis(300)).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_for(1);
    until("the backend is freed", || backend.open() == 0);
    assert!(client.rest().len() < 1_000_000_000);
    proxy.comes_to("evenkeel_connections_cut_total", &[("reason", "slow_reader")], 1.0);
}

/// A response that stalls for `timeouts.idle` ends broken.
#[test]
fn a_response_that_stalls_is_broken_off() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        turn.until_gone();
    });
    let proxy = Setup::new(&[&backend]).pool(|pool| pool.timeouts.idle = Duration::from_millis(200)).logged().start();
    let mut client = proxy.client();
    let answer = client.get("/");
    assert_eq!((answer.status(), answer.text().as_str(), answer.whole), (200, "hello", false));
    client.assert_closed();
    assert_eq!(proxy.log(1)[0]["end"], "backend_timeout");
}

/// A client that sends all it has before it reads gets an early answer whole, whoever gave it: a close with bytes unread
/// would reset the connection, and the answer might be lost with it.
#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    const BODY: usize = 2 << 20;
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        turn.until_gone();
    });
    let proxy = Setup::new(&[&backend]).listener(|listener| listener.max_body = 1 << 20).start();
    let length = |length: usize| format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    let pieces = chunked("x".repeat(1000)).repeat(BODY / 1000);
    let chunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = vec![b'x'; BODY];
    let cases = [
        ("too long by its length", length(BODY), body.as_slice(), 413),
        ("too long by its chunks", chunks.to_owned(), &pieces, 403),
        ("not wanted by its backend", length(1 << 20), &body[..1 << 20], 403),
        ("malformed", "POST / HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), &body, 400),
        ("without a host", length(1 << 20).replace("Host: a\r\n", ""), &body[..1 << 20], 400),
    ];
    for (what, head, body, status) in cases {
        let mut client = proxy.client();
        // Else the kernel takes it all, and nothing shows whether anybody reads.
        client.hold_at_most(64 << 10);
        client.send(head);
        client.try_send(body).unwrap_or_else(|error| panic!("{what}: {error}"));
        let answer = client.response();
        // The backend may answer before the body was found too long.
        assert!(answer.status() == status || (what.contains("chunks") && answer.status() == 413), "{what}: {answer:?}");
        // A body that was all on its way when its backend answered leaves the connection as good as new.
        if answer.status() != 403 || answer.field("connection") == Some("close") {
            client.assert_closed();
        }
    }
}
