//! Second tries: for what may be sent twice, never for what may not, and never once a client has seen a byte.

use evenkeel::config::RetryOn;

use crate::support::*;

/// Connecting is refused: every request, of any method, goes to another backend.
#[test]
fn a_refused_connection_goes_to_another_backend() {
    let backend = TestBackend::saying("served");
    let proxy = Setup::at(&[refusing_address(), backend.address()])
        .pool(|pool| pool.outlier.consecutive_failures = 0)
        .logged()
        .start();
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "served");
        assert_eq!(client.post("/", "the body").text(), "served");
    }
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nthe body\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "served");
    let posts: Vec<_> = backend.requests().into_iter().filter(|request| request.method() == "POST").collect();
    assert_eq!(posts.len(), 5);
    assert!(posts.iter().all(|post| post.whole && post.text() == "the body"), "{posts:#?}");
    let retries = proxy.metric("evenkeel_retries_total", &[("reason", "connect_failure")]);
    assert!(retries >= 4.0, "{retries}");
    let log = proxy.log(9);
    assert!(log.iter().any(|line| line["attempts"] == 2 && line["retry"] == "connect_failure" && line["end"] == "ok"));
    assert!(log.iter().all(|line| line["backend"] == "b1"));
}

/// A backend that resets after it has read the request: idempotent methods are tried elsewhere, others are not.
#[test]
fn a_reset_is_repeated_only_for_idempotent_methods() {
    for (method, body, repeated) in [
        ("GET", "", true),
        ("HEAD", "", true),
        ("OPTIONS", "", true),
        ("DELETE", "", true),
        ("PUT", "the body", true),
        ("POST", "the body", false),
        ("PATCH", "the body", false),
        ("UNKNOWN", "", false),
    ] {
        let bad = TestBackend::new(|turn| {
            assert!(turn.read_body());
            turn.reset();
        });
        let good = TestBackend::saying("served");
        let proxy = Setup::new(&[&bad, &good]).start();
        let mut client = proxy.client();
        let (mut sent, mut served) = (0, 0);
        while bad.count() == 0 {
            let length = body.len();
            client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
            let answer = client.response_to(method);
            sent += 1;
            served += usize::from(answer.status() == 200);
        }
        assert_eq!((served, bad.count()), (if repeated { sent } else { sent - 1 }, 1), "{method}");
        assert_eq!(good.count(), served, "{method}");
        assert!(good.requests().iter().all(|request| request.whole && request.text() == body), "{method}");
        let retries = proxy.metric("evenkeel_retries_total", &[("reason", "reset_before_response")]);
        assert_eq!(retries, f64::from(u8::from(repeated)), "{method}");
    }
}

/// With one backend, attempts repeat it; and when attempts are used up, it is over.
#[test]
fn attempts_are_bounded_and_may_repeat_the_only_backend() {
    let backend = TestBackend::new(|turn| match (turn.request.target(), turn.number) {
        ("/recovers", 3) => turn.answer(200, "second try"),
        _ => turn.reset(),
    });
    let proxy = Setup::new(&[&backend]).start();
    assert_eq!(proxy.get("/never").status(), 502);
    assert_eq!(backend.count(), 2);
    assert_eq!(proxy.get("/recovers").text(), "second try");
    assert_eq!((backend.count(), backend.connections()), (4, 4));
}

/// A body that was kept for a second try arrives there whole; one too long to be kept is not tried again.
#[test]
fn a_body_is_replayed_when_it_was_kept() {
    for (length, repeated) in [(60 << 10, true), (100 << 10, false)] {
        let bad = TestBackend::new(|turn| {
            assert!(turn.read_body());
            turn.reset();
        });
        let good = TestBackend::saying("served");
        let proxy = Setup::new(&[&bad, &good]).start();
        let body: String = (0..length).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
        let mut client = proxy.client();
        let (mut sent, mut served) = (0, 0);
        while bad.count() == 0 {
            client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
            sent += 1;
            served += usize::from(client.response().status() == 200);
        }
        assert_eq!((served, bad.count()), (if repeated { sent } else { sent - 1 }, 1), "{length}");
        assert_eq!(good.count(), served, "{length}");
        assert!(good.requests().iter().all(|request| request.body == body.as_bytes()), "{length}");
    }
}

/// A pooled connection that the backend has closed meanwhile is replaced without anybody noticing.
#[test]
fn a_stale_connection_never_surfaces() {
    let backend = TestBackend::new(|turn| {
        turn.answer(200, "ok");
        // Keep-alive was promised, and yet.
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).logged().start();
    let mut client = proxy.client();
    for number in 0..40 {
        let answer = if number % 2 == 0 { client.get("/") } else { client.post("/", "body") };
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "request {number}");
        until("the backend has closed", || backend.open() == 0);
    }
    assert_eq!((backend.count(), backend.connections()), (40, 40));
    assert!(proxy.log(40).iter().all(|line| line["attempts"] == 1 && line["end"] == "ok"));
}

/// The race of staleness: the backend takes the second request of a connection and closes without a word. A GET goes
/// again over a fresh connection; a POST may have been acted upon, so it fails and is not repeated.
#[test]
fn a_connection_lost_to_a_request_is_replaced_for_idempotent_ones_only() {
    let backend = TestBackend::new(|turn| match turn.number {
        0 | 2 | 3 => turn.answer(200, "ok"),
        1 | 4 => {
            turn.read_body();
            turn.close();
        }
        _ => panic!("a POST was repeated"),
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/0").status(), 200);
    assert_eq!(client.get("/1-again-as-2").text(), "ok");
    assert_eq!(client.get("/3").text(), "ok");
    assert_eq!(client.post("/4", "body").status(), 502);
    assert_eq!((backend.count(), backend.connections()), (5, 2));
    proxy.comes_to("evenkeel_retries_total", &[("reason", "stale_connection")], 1.0);
}

/// A backend that asks to be left alone for a while (429 or 503 with `Retry-After`) is, as long as there are others.
#[test]
fn a_backend_that_asks_for_a_pause_gets_it() {
    for status in ["503 Busy", "429 Too Many Requests"] {
        let busy = TestBackend::new(move |turn| {
            turn.read_body();
            turn.send(format!("HTTP/1.1 {status}\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n"));
        });
        let good = TestBackend::saying("served");
        let proxy = Setup::new(&[&busy, &good]).start();
        let mut client = proxy.client();
        while busy.count() == 0 {
            client.get("/");
        }
        for _ in 0..10 {
            assert_eq!(client.post("/", "body").text(), "served", "{status}");
        }
        assert_eq!(busy.count(), 1, "{status}");
        // Alone it is asked all the same: somebody must be.
        let proxy = Setup::new(&[&busy]).start();
        proxy.get("/");
        proxy.get("/");
        assert_eq!(busy.count(), 3, "{status}");
    }
}

/// Statuses are answers, unless the configuration says that they are worth another try.
#[test]
fn a_status_is_tried_again_only_when_configured() {
    for configured in [false, true] {
        let bad = TestBackend::new(|turn| turn.answer(503, "overloaded"));
        let good = TestBackend::saying("served");
        let proxy = Setup::new(&[&bad, &good])
            .pool(|pool| {
                if configured {
                    pool.retry.on.push(RetryOn::Status(503));
                }
            })
            .start();
        let statuses: Vec<_> = (0..2).map(|_| proxy.get("/").status()).collect();
        let post = (0..2).map(|_| proxy.client().post("/", "x").status()).filter(|status| *status == 503).count();
        assert_eq!(statuses.contains(&503), !configured);
        assert_eq!(post, 1, "a POST is never repeated for a status");
    }
}
