//! Limits of requests in flight and the queue before them: order, bounds, deadlines.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use evenkeel::config::StrategyKind;

use crate::support::*;

/// A proxy before one backend of which one request is held at the gate.
fn busy(setup: impl FnOnce(Setup) -> Setup) -> (TestBackend, TestProxy, Gate, Raw) {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        if turn.request.target() == "/held" {
            held.pass();
        }
        turn.answer(200, "served");
    });
    let proxy = setup(Setup::new(&[&backend]).pool(|pool| pool.max_in_flight = 1)).logged().start();
    let mut first = proxy.client();
    first.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_for(1);
    (backend, proxy, gate, first)
}

fn wait_queue(proxy: &TestProxy, length: f64) {
    until("the queue", || proxy.metric("evenkeel_queue_length", &[]) == length);
}

/// First come, first served; and never more in flight than allowed.
#[test]
fn the_queue_is_served_in_order() {
    let (backend, proxy, gate, mut first) = busy(|setup| setup);
    let mut waiting = Vec::new();
    for number in 0..5 {
        let mut client = proxy.client();
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        wait_queue(&proxy, f64::from(number + 1));
        waiting.push(client);
    }
    assert_eq!((backend.count(), proxy.in_flight()), (1, 1.0));
    gate.open();
    assert_eq!(first.response().status(), 200);
    for client in &mut waiting {
        assert_eq!(client.response().status(), 200);
    }
    let targets: Vec<_> = backend.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, ["/held", "/0", "/1", "/2", "/3", "/4"]);
    assert_eq!(backend.connections(), 1, "never two at once");
    wait_queue(&proxy, 0.0);
    let log = proxy.log(6);
    let waited = log.iter().filter(|line| line["queue_ms"].as_f64().unwrap() > 0.0).count();
    assert_eq!(waited, 5, "{log:#?}");
    proxy.comes_to("evenkeel_queue_wait_seconds_count", &[], 5.0);
}

/// Classes: high before normal before low.
#[test]
fn the_queue_knows_three_classes() {
    let (backend, proxy, gate, mut first) = busy(|setup| setup.pool(|pool| pool.priority_header = "x-priority".into()));
    let mut waiting = Vec::new();
    for (number, class) in ["low", "normal", "HIGH", "", "high"].into_iter().enumerate() {
        let mut client = proxy.client();
        client.send(format!("GET /{number}{class} HTTP/1.1\r\nHost: a\r\nX-Priority: {class}\r\n\r\n"));
        wait_queue(&proxy, number as f64 + 1.0);
        waiting.push(client);
    }
    gate.open();
    assert_eq!(first.response().status(), 200);
    for client in &mut waiting {
        assert_eq!(client.response().status(), 200);
    }
    let targets: Vec<_> = backend.requests().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, ["/held", "/2HIGH", "/4high", "/1normal", "/3", "/0low"]);
}

/// A full queue, one that is off, and one whose time is up: 503 with `Retry-After`.
#[test]
fn the_queue_has_an_end_and_a_deadline() {
    let cases: [(&str, usize, Duration, &str, &str); 3] = [
        ("full", 1, Duration::from_secs(30), "queue_full", "no_backend"),
        ("off", 0, Duration::from_secs(30), "queue_full", "no_backend"),
        ("late", 8, Duration::from_millis(100), "queue_timeout", "queue_timeout"),
    ];
    for (what, size, timeout, code, end) in cases {
        let (_backend, proxy, gate, mut first) = busy(|setup| {
            setup.pool(|pool| {
                pool.queue.size = size;
                pool.queue.timeout = timeout;
            })
        });
        let mut waiting = proxy.client();
        if size == 1 {
            waiting.send("GET /waiting HTTP/1.1\r\nHost: a\r\n\r\n");
            wait_queue(&proxy, 1.0);
        }
        let mut late = proxy.client();
        let answer = late.get("/late");
        assert_eq!((answer.status(), answer.error_code().as_str()), (503, code), "{what}");
        assert!(answer.field("retry-after").unwrap().parse::<u64>().unwrap() >= 1, "{what}");
        let line = &proxy.log(1)[0];
        assert_eq!(line["end"], end, "{what}: {line}");
        gate.open();
        assert_eq!(first.response().status(), 200, "{what}");
        if size == 1 {
            assert_eq!(waiting.response().status(), 200, "{what}");
        }
        assert_eq!(late.get("/again").status(), 200, "{what}: the connection goes on");
    }
}

/// A free place at one backend serves whoever waits, whichever backend freed it; limits are per backend.
#[test]
fn limits_are_per_backend() {
    let gate = Gate::new();
    let script = |gate: Gate| {
        move |turn: &mut Turn<'_>| {
            gate.pass();
            turn.answer(200, "served");
        }
    };
    let backends = [TestBackend::new(script(gate.clone())), TestBackend::new(script(gate.clone()))];
    let proxy = Setup::new(&[&backends[0], &backends[1]])
        .pool(|pool| {
            pool.max_in_flight = 1;
            pool.backends[1].max_in_flight = Some(3);
        })
        .start();
    let mut clients: Vec<_> = (0..6).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    wait_queue(&proxy, 2.0);
    until("1 and 3 in flight", || (backends[0].count(), backends[1].count()) == (1, 3));
    proxy.comes_to("evenkeel_in_flight", &[], 4.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
}

/// A request that failed at one backend waits for another that is full, and does not go back to the one it failed at; and
/// while it waits at the head of the queue, those behind it take the places that are none for it.
#[test]
fn a_retry_waits_for_a_backend_that_it_has_not_tried() {
    let gate = Gate::new();
    let held = gate.clone();
    let failing = TestBackend::new(|turn| match turn.request.target() {
        "/fail" => turn.reset(),
        // One request a connection: a lost one that was used before would be replaced by a fresh one.
        _ => {
            turn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nA");
            turn.close();
        }
    });
    let busy = TestBackend::new(move |turn| {
        held.pass();
        turn.answer(200, "B");
    });
    let proxy = Setup::new(&[&failing, &busy])
        .pool(|pool| {
            pool.max_in_flight = 1;
            pool.outlier.consecutive_failures = 0;
        })
        .start();
    let mut first = loop {
        let (mut client, answered) = (proxy.client(), failing.count());
        client.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
        until("somebody has it", || busy.count() == 1 || failing.count() > answered);
        if busy.count() == 1 {
            break client;
        }
        client.response();
    };
    let mut retried = proxy.client();
    retried.send("GET /fail HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_queue(&proxy, 1.0);
    for _ in 0..3 {
        assert_eq!(proxy.get("/").text(), "A", "the place that is free serves those behind");
    }
    wait_queue(&proxy, 1.0);
    gate.open();
    assert_eq!((first.response().text(), retried.response().text()), ("B".to_owned(), "B".to_owned()));
    let failures = failing.requests().iter().filter(|request| request.target() == "/fail").count();
    assert_eq!(failures, 1, "it was sent where it had failed");
}

/// When no other backend becomes free in time, the one that failed is asked again: better than no answer.
#[test]
fn a_retry_that_waited_in_vain_goes_where_it_has_failed() {
    for size in [0, 8] {
        let gate = Gate::new();
        let held = gate.clone();
        let failures = AtomicUsize::new(0);
        let failing = TestBackend::new(move |turn| match turn.request.target() {
            "/held" => turn.reset(),
            _ if failures.fetch_add(1, SeqCst) == 0 => turn.reset(),
            _ => turn.answer(200, "A"),
        });
        let busy = TestBackend::new(move |turn| {
            held.pass();
            turn.answer(200, "B");
        });
        let proxy = Setup::new(&[&busy, &failing])
            .pool(|pool| {
                pool.backends[0].max_in_flight = Some(1);
                pool.queue.size = size;
                pool.queue.timeout = Duration::from_millis(100);
                pool.strategy.kind = StrategyKind::LeastConnections;
            })
            .start();
        let mut client = proxy.client();
        client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
        busy.wait_for(1);
        assert_eq!(proxy.get("/").text(), "A", "queue of {size}");
        let asked = failing.requests().iter().filter(|request| request.target() == "/").count();
        assert_eq!(asked, 2, "queue of {size}");
        gate.open();
        assert_eq!(client.response().text(), "B");
    }
}

/// Backends at their limits, one of which is killed under load: its share waits for the others, and no client sees it.
#[test]
fn a_backend_killed_beside_full_ones_costs_no_get() {
    let mut backends = [(); 3].map(|()| TestBackend::mortal(|turn| turn.answer(200, "alive")));
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>())
        .pool(|pool| {
            pool.max_in_flight = 4;
            pool.strategy.kind = StrategyKind::LeastConnections;
        })
        .start();
    let load = Load::start(proxy.address, 12, "GET");
    until("load", || backends.iter().all(|backend| backend.count() > 100));
    backends[0].kill();
    let served = || backends[1].count() + backends[2].count();
    let so_far = served();
    until("load without it", || served() > so_far + 500);
    let done = load.stop();
    assert!(done.failures.is_empty(), "{} of {} failed: {:#?}", done.failures.len(), done.requests, done.failures);
}
