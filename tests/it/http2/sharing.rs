//! Requests share upstream connections, within what the backend allows, and none of them stops the others.

use bytes::Bytes;

use super::h2c;
use super::support::*;
use crate::support::*;

/// A backend that holds every response at `gate`.
fn held(builder: h2::server::Builder, gate: &Gate) -> H2Backend {
    let gate = gate.clone();
    H2Backend::with(builder, move |mut turn| {
        let gate = gate.clone();
        async move {
            while !gate.is_open() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            turn.answer(200, "held").await;
        }
    })
}

/// 64 requests at once use one connection where the backend allows that, and as many as it takes where it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn concurrent_requests_share_connections_within_the_backends_limit() {
    for (limit, expected) in [(None, 1), (Some(10), 7), (Some(1), 64)] {
        let gate = Gate::new();
        let mut builder = h2::server::Builder::new();
        if let Some(limit) = limit {
            builder.max_concurrent_streams(limit);
        }
        let backend = held(builder, &gate);
        let proxy = h2c(Setup::at(&[backend.address()])).start();
        let client = Client::connect(proxy.address).await;
        let mut answers = Vec::new();
        for _ in 0..64 {
            answers.push(client.begin(get("/"), true).await.unwrap().0);
        }
        // All are at the backend at once: none waits behind another.
        backend.wait_for(64);
        assert_eq!(backend.connections(), expected, "{limit:?}");
        proxy.comes_to("evenkeel_upstream_connections", &[], expected as f64);
        gate.open();
        for answer in answers {
            assert_eq!(soon("an answer", answer).await.unwrap().status(), 200);
        }
        // Later ones use what is open.
        assert_eq!(client.get("/").await.text(), "held");
        assert_eq!(backend.connections(), expected, "{limit:?}");
    }
}

/// Clients of HTTP/1.1 share them too.
#[test]
fn http1_clients_share_one_http2_connection() {
    let gate = Gate::new();
    let backend = held(h2::server::Builder::new(), &gate);
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let mut clients: Vec<Raw> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    backend.wait_for(20);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().text(), "held");
    }
    assert_eq!(backend.connections(), 1);
}

/// Slow readers hold their own streams only: a shared upstream connection never stops because some of its streams do.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn slow_readers_do_not_stop_the_others() {
    let large = Bytes::from(vec![b'x'; 2 << 20]);
    let backend = H2Backend::new(move |mut turn| {
        let large = large.clone();
        async move {
            let mut stream = turn.head(200, &[], false).unwrap();
            send_all(&mut stream, large, true).await;
        }
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    // Stalled by the windows of its streams, not of its connection.
    let slow = Client::with(proxy.address, h2::client::Builder::new().initial_connection_window_size(64 << 20)).await;
    let mut stalled = Vec::new();
    for _ in 0..30 {
        stalled.push(slow.open(get("/"), None).await.unwrap());
    }
    let fast = Client::connect(proxy.address).await;
    for _ in 0..3 {
        assert_eq!(fast.get("/").await.body.len(), 2 << 20);
    }
    assert_eq!(backend.connections(), 1);
    // And the slow ones get everything once they read.
    for stream in stalled {
        assert_eq!(stream.finish().await.unwrap().body.len(), 2 << 20);
    }
}

/// A backend that says GOAWAY: what runs there goes on, what comes next goes to a new connection, and nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_backends_goaway_costs_no_request() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = H2Backend::new(move |mut turn| {
        let held = held.clone();
        async move {
            turn.read_body().await;
            while turn.seen.uri.path() == "/held" && !held.is_open() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            turn.answer(200, "ok").await;
        }
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let client = Client::connect(proxy.address).await;
    let running = client.begin(get("/held"), true).await.unwrap().0;
    backend.wait_for(1);
    backend.say_goodbye(0);
    until("a second connection", || {
        let answer = Raw::connect(proxy.address).post("/", "body");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
        backend.connections() == 2
    });
    gate.open();
    assert_eq!(soon("the held answer", running).await.unwrap().status(), 200);
    until("the first connection is closed", || backend.open() == 1);
}

/// A kept connection that its backend has closed meanwhile is replaced without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_closed_while_idle_is_replaced() {
    let backend = H2Backend::saying("ok");
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let client = Client::connect(proxy.address).await;
    for round in 0..5 {
        assert_eq!(client.get("/").await.status(), 200);
        assert_eq!(client.ask(request("POST", "/", &[]), Some("x".into())).await.status(), 200);
        assert_eq!(backend.connections(), round + 1);
        backend.say_goodbye(round);
        until("the connection is closed", || backend.open() == 0);
    }
}

/// A removed backend's streams are cut at the drain timeout, whatever protocol it speaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_removed_backend_is_cut_at_the_drain_timeout() {
    let gate = Gate::new();
    let removed = held(h2::server::Builder::new(), &gate);
    let other = H2Backend::saying("other");
    let proxy = h2c(Setup::at(&[removed.address(), other.address()])).start();
    let client = Client::connect(proxy.address).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(client.begin(request("POST", "/", &[]), true).await.unwrap().0);
    }
    removed.wait_for(2);
    let mut admin = Raw::connect(proxy.admin);
    admin.send("DELETE /api/v1/pools/ai/backends/b0?drain_timeout=200ms HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert_eq!(admin.response().status(), 202);
    let mut statuses = Vec::new();
    for answer in answers {
        statuses.push(soon("an answer", answer).await.unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 502, 502]);
    until("its connection is closed", || removed.open() == 0);
    gate.open();
}

/// Few long-lived connections are spread evenly over the workers, whichever of them accepts.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn long_lived_connections_are_spread_over_workers() {
    let backend = TestBackend::saying("ok");
    let counts = |proxy: &TestProxy| -> [u64; 2] {
        let status = proxy.admin("/api/v1/status").json();
        [0, 1].map(|worker: usize| status["workers"][worker]["connections"].as_u64().unwrap())
    };
    for _ in 0..5 {
        let proxy = Setup::new(&[&backend]).plan(|plan| plan.server.threads = 2).start();
        let mut clients = Vec::new();
        for _ in 0..8 {
            let client = Client::connect(proxy.address).await;
            assert_eq!(client.get("/").await.status(), 200);
            clients.push(client);
        }
        let [a, b] = counts(&proxy);
        assert!(a + b == 8 && a.abs_diff(b) <= 2, "{a} to {b}");
        // All at once, before any worker has looked.
        let many = (0..16).map(|_| Client::connect(proxy.address));
        clients.extend(futures_util::future::join_all(many).await);
        until("24 connections", || counts(&proxy).iter().sum::<u64>() == 24);
        let [a, b] = counts(&proxy);
        assert!(a.abs_diff(b) <= 6, "{a} to {b}");
        drop(clients);
    }
}
