//! Broken streams and ends: each side hears at once that the other is gone, and only the broken stream suffers.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::support::*;
use super::{AnyBackend, Side, h2c};
use crate::support::*;

/// What reliability.md promises for a client's departure: the upstream side is closed within a second. On a busy machine
/// the test allows more; it tells a close from a timeout, not a second from two.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A backend that says a head and one piece, and never more; it tells `gone` when the balancer has given up.
fn endless(side: Side, asked: &Gate, gone: &Gate, speaks: bool) -> AnyBackend {
    let (asked, gone) = (asked.clone(), gone.clone());
    match side {
        Side::One => AnyBackend::One(TestBackend::new(move |turn| {
            turn.read_body();
            if speaks {
                turn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npiece");
            }
            asked.open();
            turn.until_gone();
            gone.open();
        })),
        Side::Two => AnyBackend::Two(H2Backend::new(move |mut turn| {
            let (asked, gone) = (asked.clone(), gone.clone());
            async move {
                turn.read_body().await;
                let mut stream = None;
                if speaks {
                    stream = turn.head(200, &[], false);
                    send_all(stream.as_mut().unwrap(), "piece".into(), false).await;
                }
                asked.open();
                match &mut stream {
                    Some(stream) => {
                        let _ = soon("a reset", std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
                    }
                    None => drop(turn.until_reset().await),
                }
                gone.open();
            }
        })),
    }
}

/// A client that resets a stream, before the response or amid it, cancels the work of the backend; other streams of its
/// connection go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reset_stream_is_cancelled_upstream() {
    for side in [Side::One, Side::Two] {
        for speaks in [false, true] {
            for body in [None, Some(Bytes::from_static(b"asked"))] {
                let (asked, gone) = (Gate::new(), Gate::new());
                let backend = endless(side, &asked, &gone, speaks);
                let proxy = backend.setup().logged().start();
                let client = Client::connect(proxy.address).await;
                let method = if body.is_some() { "POST" } else { "GET" };
                let (answer, mut upload) = client.begin(request(method, "/", &[]), body.is_none()).await.unwrap();
                if let Some(body) = body {
                    upload.send_data(body, true).unwrap();
                }
                asked.pass();
                let mut begun = None;
                let mut answer = Some(answer);
                if speaks {
                    let (head, body) = soon("a head", answer.take().unwrap()).await.unwrap().into_parts();
                    begun = Some((head, body));
                }
                proxy.comes_to("evenkeel_in_flight", &[], 1.0);
                let left = Instant::now();
                upload.send_reset(h2::Reason::CANCEL);
                gone.pass();
                assert!(left.elapsed() < AT_ONCE, "{side:?}, speaks: {speaks}: {:?}", left.elapsed());
                until("nothing in flight", || proxy.in_flight() == 0.0);
                drop((begun, answer));
                let line = &proxy.log(1)[0];
                assert_eq!((line["end"].as_str(), line["protocol"].as_str()), (Some("client_gone"), Some("HTTP/2.0")));
                // The connection is none the worse.
                assert_eq!(client.ask(request("TRACE", "/", &[]), None).await.status(), 405);
            }
        }
    }
}

/// A client whose connection is lost cancels all its streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_connection_cancels_all_its_streams() {
    for side in [Side::One, Side::Two] {
        let (asked, gone) = (Gate::new(), Gate::new());
        let backend = endless(side, &asked, &gone, true);
        let proxy = backend.setup().start();
        let client = Client::connect(proxy.address).await;
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(client.open(get("/"), None).await.unwrap());
        }
        proxy.comes_to("evenkeel_in_flight", &[], 5.0);
        client.connection.abort();
        drop((client, streams));
        until("nothing in flight", || proxy.in_flight() == 0.0);
        match &backend {
            AnyBackend::One(backend) => until("upstream connections closed", || backend.open() == 0),
            AnyBackend::Two(backend) => until("upstream streams ended", || backend.streams() == 0),
        }
    }
}

/// A client that leaves amid its upload: the backend never sees a whole request.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cut_upload_never_looks_whole() {
    // NO_ERROR may be taken for an end; from a client amid its upload it is none.
    let reasons = [h2::Reason::CANCEL, h2::Reason::NO_ERROR];
    for (side, reason) in [Side::One, Side::Two].into_iter().flat_map(|side| reasons.map(|reason| (side, reason))) {
        let ended = Gate::new();
        let told = ended.clone();
        let backend = match side {
            Side::One => AnyBackend::One(TestBackend::new(move |turn| {
                assert!(!turn.read_body(), "a cut body that looks whole");
                turn.close();
                told.open();
            })),
            Side::Two => AnyBackend::Two(H2Backend::new(move |mut turn| {
                let told = told.clone();
                async move {
                    assert!(!turn.read_body().await, "a cut body that looks whole");
                    told.open();
                }
            })),
        };
        let proxy = backend.setup().logged().start();
        let client = Client::connect(proxy.address).await;
        let (answer, mut upload) = client.begin(request("POST", "/", &[]), false).await.unwrap();
        send_all(&mut upload, "half".into(), false).await;
        match &backend {
            AnyBackend::One(backend) => backend.wait_for(1),
            AnyBackend::Two(backend) => backend.wait_for(1),
        }
        upload.send_reset(reason);
        ended.pass();
        drop(answer);
        assert_eq!(proxy.log(1)[0]["end"], "client_gone", "{side:?} {reason:?}");
        assert_eq!(proxy.metric("evenkeel_upstream_attempts_total", &[("result", "reset")]), 0.0, "{side:?}");
    }
}

/// A backend that answers before it has read the request, to an HTTP/1.1 client: when the answer has ended nothing more of the
/// request goes up, and the client's connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_early_answer_ends_the_upload() {
    let given_up = Gate::new();
    let told = given_up.clone();
    let backend = H2Backend::new(move |mut turn| {
        let told = told.clone();
        async move {
            turn.head(200, &[], true);
            assert!(!turn.read_body().await, "a cut body that looks whole");
            assert!(turn.seen.body.len() <= 10, "{} bytes", turn.seen.body.len());
            told.open();
        }
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n0123456789");
    let answer = client.response();
    assert_eq!((answer.status(), answer.field("connection")), (200, Some("close")));
    client.assert_closed();
    let _ = client.try_send([b'x'; 100_000]);
    tokio::task::spawn_blocking(move || given_up.pass()).await.unwrap();
}

/// A backend that breaks off amid its response: the client's stream is reset, never ended, and other streams go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broken_response_is_reset() {
    let one = |text: &'static str| {
        AnyBackend::One(TestBackend::new(move |turn| {
            turn.send(text);
            turn.close();
        }))
    };
    // A reset of the `h2` crate overtakes what is queued before it: it waits until the client has that.
    let arrived = Gate::new();
    let two = |reason: Option<h2::Reason>| {
        let arrived = arrived.clone();
        AnyBackend::Two(H2Backend::new(move |mut turn| {
            let arrived = arrived.clone();
            async move {
                let mut stream = turn.head(200, &[], false).unwrap();
                send_all(&mut stream, "piece".into(), false).await;
                tokio::task::spawn_blocking(move || arrived.pass()).await.unwrap();
                if let Some(reason) = reason {
                    stream.send_reset(reason);
                }
            }
        }))
    };
    let backends = [
        one("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npiece"),
        one("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\npiece\r\n"),
        one("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\npiece\r\nzz\r\n"),
        two(None),
        two(Some(h2::Reason::INTERNAL_ERROR)),
        two(Some(h2::Reason::NO_ERROR)),
    ];
    for (number, backend) in backends.iter().enumerate() {
        arrived.shut();
        let proxy = backend.setup().logged().start();
        let client = Client::connect(proxy.address).await;
        let mut begun = client.open(get("/"), None).await.expect("a head");
        assert_eq!(begun.head.status, 200);
        let mut body = Vec::new();
        let error = loop {
            match begun.piece().await {
                Ok(Some(piece)) => {
                    body.extend_from_slice(&piece);
                    arrived.open();
                }
                Ok(None) => panic!("{number}: a broken response that looks whole: {}", body.escape_ascii()),
                Err(error) => break error,
            }
        };
        assert!(error.is_reset() && error.is_remote(), "{number}: {error:?}");
        assert_eq!(body, b"piece", "{number}");
        until("nothing in flight", || proxy.in_flight() == 0.0);
        assert_eq!(proxy.log(1)[0]["end"], "backend_reset", "{number}");
        assert_eq!(client.ask(request("TRACE", "/", &[]), None).await.status(), 405);
    }
    // The same over HTTP/1.1 from an HTTP/2 backend: no last chunk.
    let proxy = backends[4].setup().start();
    arrived.shut();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_until("piece");
    arrived.open();
    assert_eq!(client.rest(), b"\r\n");
}

/// An HTTP/2 backend that breaks before its response head: 502, and once more for what may be repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_that_an_http2_backend_resets() {
    let backend = H2Backend::new(|mut turn| async move {
        turn.read_body().await;
        turn.respond.send_reset(h2::Reason::INTERNAL_ERROR);
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let client = Client::connect(proxy.address).await;
    assert_eq!(client.get("/").await.status(), 502);
    assert_eq!(backend.seen().len(), 2, "GET is tried twice");
    assert_eq!(client.ask(request("POST", "/", &[]), Some("x".into())).await.status(), 502);
    assert_eq!(backend.seen().len(), 3, "POST is not");
    // Refused: the backend says that it has done nothing.
    let backend = H2Backend::new(|mut turn| async move {
        if turn.number == 0 {
            turn.respond.send_reset(h2::Reason::REFUSED_STREAM);
        } else {
            turn.read_body().await;
            turn.answer(200, "second").await;
        }
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let got = Client::connect(proxy.address).await.ask(request("POST", "/", &[]), Some("x".into())).await;
    assert_eq!((got.status(), got.text().as_str()), (200, "second"));
}

/// While the client is to send the next piece of its body, the backend is not waited for: its time counts from the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_upload_is_not_the_backends_delay() {
    let backend = H2Backend::new(|mut turn| async move {
        if turn.seen.uri.path() == "/silent" {
            turn.until_reset().await;
        } else {
            turn.read_body().await;
            turn.answer(200, "read").await;
        }
    });
    let proxy =
        h2c(Setup::at(&[backend.address()])).pool(|pool| pool.timeouts.first_byte = Duration::from_millis(200)).start();
    for (number, path) in ["/", "/silent"].into_iter().enumerate() {
        let mut client = proxy.client();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc"));
        backend.wait_for(number + 1);
        // The client's pause, longer than the backend's time and the sweep's delay together.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        client.send("def");
        let answer = client.response();
        assert_eq!(answer.status(), if path == "/" { 200 } else { 504 }, "{path}: {answer:?}");
    }
}

/// A backend that refuses every stream is not asked for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backend_that_refuses_every_stream() {
    let backend = H2Backend::new(|mut turn| async move { turn.respond.send_reset(h2::Reason::REFUSED_STREAM) });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let client = Client::connect(proxy.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status(), 502);
    }
    assert!(backend.seen().len() <= 9, "{} tries", backend.seen().len());
}

/// Connect failures are retried elsewhere, whatever the method: nothing was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn refused_connections_are_retried_elsewhere() {
    let backend = H2Backend::new(|mut turn| async move {
        turn.read_body().await;
        let body = std::mem::take(&mut turn.seen.body);
        turn.answer(200, body).await;
    });
    let proxy = h2c(Setup::at(&[refusing_address(), backend.address()])).start();
    let client = Client::connect(proxy.address).await;
    for _ in 0..4 {
        assert_eq!(client.ask(request("POST", "/", &[]), Some("body".into())).await.text(), "body");
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert!(proxy.metric("evenkeel_retries_total", &[("reason", "connect_failure")]) >= 1.0);
}

/// A backend that speaks HTTP/1.1 only: 502, and it was sent no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backend_that_speaks_no_http2() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        turn.close();
    });
    let proxy = h2c(Setup::new(&[&backend])).start();
    let got = Client::connect(proxy.address).await.ask(request("POST", "/", &[]), Some("x".into())).await;
    assert_eq!((got.status(), got.field("content-type")), (502, Some("application/json")));
    assert!(backend.requests().iter().all(|request| request.start.starts_with("PRI ")), "{:?}", backend.requests());
}

/// Drained: the client is told by GOAWAY, running streams finish, new connections are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drain_says_goaway_and_lets_streams_finish() {
    for side in [Side::One, Side::Two] {
        let gate = Gate::new();
        let held = gate.clone();
        let backend = match side {
            Side::One => AnyBackend::One(TestBackend::new(move |turn| {
                turn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
                held.pass();
                turn.send("later");
            })),
            Side::Two => AnyBackend::Two(H2Backend::new(move |mut turn| {
                let held = held.clone();
                async move {
                    let mut stream = turn.head(200, &[], false).unwrap();
                    send_all(&mut stream, "first".into(), false).await;
                    tokio::task::spawn_blocking(move || held.pass()).await.unwrap();
                    send_all(&mut stream, "later".into(), true).await;
                }
            })),
        };
        let proxy = backend.setup().start();
        let address = proxy.address;
        let (busy, idle) = (Client::connect(address).await, Client::connect(address).await);
        let running = busy.open(get("/"), None).await.unwrap();
        assert_eq!(idle.ask(request("TRACE", "/", &[]), None).await.status(), 405);
        let ended = std::thread::spawn(move || proxy.end());
        // An idle connection is told and closed; so is the busy one once its stream has ended.
        soon("the idle connection's end", idle.connection).await.unwrap().unwrap();
        // GOAWAY has come when no stream can be opened any more.
        let refused = async {
            while let Ok((answer, _)) = busy.begin(get("/"), true).await {
                drop(answer);
                // Each is a reset, and a client that resets without end is cut off.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        soon("GOAWAY", refused).await;
        until("the listener is closed", || std::net::TcpStream::connect(address).is_err());
        gate.open();
        let got = running.finish().await.expect("a stream that was running");
        assert_eq!(got.text(), "firstlater");
        soon("the connection's end", busy.connection).await.unwrap().unwrap();
        let summary = ended.join().unwrap();
        assert!(summary.clean, "{side:?}: {summary}");
    }
}

/// A client that opens no window and takes nothing is given up, like one whose socket takes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_whose_client_takes_nothing_is_reset() {
    for side in [Side::One, Side::Two] {
        let gone = Gate::new();
        let told = gone.clone();
        let offered = Bytes::from(vec![b'x'; 16 << 20]);
        let backend = match side {
            Side::One => AnyBackend::One(TestBackend::new(move |turn| {
                turn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", offered.len()));
                assert!(!turn.send(&offered), "all was taken");
                turn.close();
                told.open();
            })),
            Side::Two => AnyBackend::Two(H2Backend::new(move |mut turn| {
                let (offered, told) = (offered.clone(), told.clone());
                async move {
                    let mut stream = turn.head(200, &[], false).unwrap();
                    assert!(!send_all(&mut stream, offered, true).await, "all was taken");
                    told.open();
                }
            })),
        };
        let soon_cut = |listener: &mut evenkeel::config::ListenerPlan| {
            listener.write_idle_timeout = Duration::from_millis(300);
        };
        let proxy = backend.setup().listener(soon_cut).start();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1000);
        let client = Client::with(proxy.address, &builder).await;
        let mut begun = client.open(get("/"), None).await.unwrap();
        gone.pass();
        let mut body = 0;
        let error = loop {
            match soon("a piece", begun.body.data()).await {
                Some(Ok(piece)) => body += piece.len(),
                Some(Err(error)) => break error,
                None => panic!("{side:?}: the whole of it after {body} bytes"),
            }
        };
        assert!(error.is_reset() && body <= 1000, "{side:?}: {error:?} after {body} bytes");
        until("nothing in flight", || proxy.in_flight() == 0.0);
        assert_eq!(client.ask(request("TRACE", "/", &[]), None).await.status(), 405);
    }
}

/// A client that stalls amid its upload: 408, and the backend is neither blamed nor shown an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stalled_upload_is_the_clients_fault() {
    for sent in ["", "half"] {
        for side in [Side::One, Side::Two] {
            let backend = match side {
                Side::One => AnyBackend::One(TestBackend::new(|turn| {
                    assert!(!turn.read_body(), "a cut body that looks whole");
                    turn.close();
                })),
                Side::Two => AnyBackend::Two(H2Backend::new(|mut turn| async move {
                    assert!(!turn.read_body().await, "a cut body that looks whole");
                })),
            };
            let impatient = |listener: &mut evenkeel::config::ListenerPlan| {
                listener.body_idle_timeout = Duration::from_millis(300);
            };
            let proxy = backend.setup().listener(impatient).start();
            let client = Client::connect(proxy.address).await;
            let (answer, mut upload) = client.begin(request("POST", "/", &[]), false).await.unwrap();
            if !sent.is_empty() {
                send_all(&mut upload, sent.into(), false).await;
            }
            let status = soon("an answer", answer).await.expect("an answer").status();
            assert_eq!(status, 408, "{side:?} {sent:?}");
            for blame in ["reset", "timeout"] {
                assert_eq!(proxy.metric("evenkeel_upstream_attempts_total", &[("result", blame)]), 0.0, "{side:?}");
            }
        }
    }
}

/// A request that takes too long in all because its client does not send the rest: 408, and the backend sees no end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_total_timeout_amid_an_upload() {
    let backend = H2Backend::new(|mut turn| async move {
        assert!(!turn.read_body().await, "a cut body that looks whole");
    });
    let limit = |pool: &mut evenkeel::config::PoolPlan| pool.timeouts.total = Duration::from_millis(300);
    let proxy = h2c(Setup::at(&[backend.address()])).pool(limit).start();
    let client = Client::connect(proxy.address).await;
    let (answer, mut upload) = client.begin(request("POST", "/", &[]), false).await.unwrap();
    send_all(&mut upload, "half".into(), false).await;
    assert_eq!(soon("an answer", answer).await.expect("an answer").status(), 408);
    until("the upstream stream ended", || backend.streams() == 0);
    drop(upload);
}
