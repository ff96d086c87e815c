//! Every strategy once over real sockets, and a change of strategy amid traffic. What the shares are exactly, and in every
//! state, is tested in virtual time beside the strategies.

use std::time::Duration;

use evenkeel::config::{Cidr, PoolPlan, StrategyKind};

use crate::support::*;

const BACKENDS: usize = 4;
const REQUESTS: usize = 400;

fn backends(status: impl Fn(usize) -> u16) -> Vec<TestBackend> {
    (0..BACKENDS)
        .map(|number| {
            let status = status(number);
            TestBackend::new(move |turn| turn.answer(status, &number.to_string()))
        })
        .collect()
}

fn setup(kind: StrategyKind, backends: &[TestBackend]) -> Setup {
    Setup::new(&backends.iter().collect::<Vec<_>>()).pool(|pool| {
        pool.strategy.kind = kind;
        pool.outlier.consecutive_failures = 0;
        pool.retry.attempts = 1;
    })
}

/// One request after the other; how many each backend got.
fn counts(proxy: &TestProxy, backends: &[TestBackend]) -> [usize; BACKENDS] {
    let mut client = proxy.client();
    for _ in 0..REQUESTS {
        client.get("/");
    }
    let counts: Vec<usize> = backends.iter().map(TestBackend::count).collect();
    assert_eq!(counts.iter().sum::<usize>(), REQUESTS, "{counts:?}");
    counts.try_into().unwrap()
}

fn put(proxy: &TestProxy, path: &str, body: &str) {
    let mut admin = Raw::connect(proxy.admin);
    admin.send(format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let answer = admin.response();
    assert_eq!(answer.status(), 200, "{path} {body}: {}", answer.text());
}

#[test]
fn in_turn() {
    let backends = backends(|_| 200);
    let proxy = setup(StrategyKind::RoundRobin, &backends).start();
    assert_eq!(counts(&proxy, &backends), [100; 4]);
}

#[test]
fn in_turn_by_weight() {
    let backends = backends(|_| 200);
    let weigh = |setup: Setup| {
        setup.pool(|pool| {
            for (backend, weight) in pool.backends.iter_mut().zip([4, 3, 2, 1]) {
                backend.weight = weight;
            }
        })
    };
    let proxy = weigh(setup(StrategyKind::WeightedRoundRobin, &backends)).start();
    assert_eq!(counts(&proxy, &backends), [160, 120, 80, 40]);
}

/// Four equal backends and one request at a time: a binomial count of 400 in 4 has a standard deviation of 8.7, and six of
/// them are one in half a billion.
#[test]
fn by_lot() {
    for kind in
        [StrategyKind::Random, StrategyKind::LeastConnections, StrategyKind::PowerOfTwo, StrategyKind::ResourceBased]
    {
        let backends = backends(|_| 200);
        let proxy = setup(kind, &backends).start();
        let counts = counts(&proxy, &backends);
        assert!(counts.iter().all(|count| (48..=152).contains(count)), "{kind:?}: {counts:?}");
    }
}

/// One answers 500 at once. Those that go by response times must not take it for the fastest.
#[test]
fn failing_fast_is_not_fast() {
    for kind in [StrategyKind::LeastResponseTime, StrategyKind::PeakEwma, StrategyKind::Rl] {
        let backends = backends(|number| if number == 1 { 500 } else { 200 });
        let proxy = setup(kind, &backends).start();
        let counts = counts(&proxy, &backends);
        assert!(counts[1] <= 20, "{kind:?}: {counts:?}");
    }
}

#[test]
fn the_same_client_to_the_same_backend() {
    let backends = backends(|_| 200);
    let proxy = setup(StrategyKind::IpHash, &backends)
        .listener(|listener| {
            listener.trusted_proxies = vec![Cidr { network: [127, 0, 0, 0].into(), prefix: 8 }];
        })
        .start();
    let mut client = proxy.client();
    let mut home = |address: usize| {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.{}.{}\r\n\r\n",
            address / 200,
            address % 200
        ));
        client.response().text().to_owned()
    };
    let first: Vec<String> = (0..REQUESTS).map(&mut home).collect();
    let second: Vec<String> = (0..REQUESTS).map(&mut home).collect();
    assert_eq!(first, second);
    for number in 0..BACKENDS {
        let clients = first.iter().filter(|name| **name == number.to_string()).count();
        assert!((48..=152).contains(&clients), "{clients} clients at {number}");
    }
}

#[test]
fn by_what_is_free() {
    let backends = backends(|_| 200);
    // However slow this machine is, what is pushed below must hold for the whole test.
    let lasting = |pool: &mut PoolPlan| pool.strategy.resource_based.expiry = Duration::from_secs(600);
    let proxy = setup(StrategyKind::ResourceBased, &backends).pool(lasting).start();
    for number in 0..BACKENDS {
        let part = if number == 2 { 0.95 } else { 0.1 };
        let path = format!("/api/v1/pools/ai/backends/b{number}/resources");
        put(&proxy, &path, &format!(r#"{{"cpu":{part},"memory":{part}}}"#));
    }
    let counts = counts(&proxy, &backends);
    assert!(counts[2] <= 20, "{counts:?}");
}

/// Through all strategies and back while requests are under way: nobody notices, and what is known of a backend stays.
#[test]
fn a_change_of_strategy_amid_traffic() {
    let backends = backends(|_| 200);
    let proxy = setup(StrategyKind::RoundRobin, &backends).start();
    let load = Load::start(proxy.address, 4, "GET");
    for round in 0..3 {
        for kind in StrategyKind::ALL {
            let before: usize = backends.iter().map(TestBackend::count).sum();
            put(&proxy, "/api/v1/pools/ai/strategy", &format!(r#"{{"strategy":"{}"}}"#, kind.name()));
            until("traffic", || backends.iter().map(TestBackend::count).sum::<usize>() > before + 20);
            let known = proxy.admin("/api/v1/pools/ai/backends/b0");
            let view: serde_json::Value = serde_json::from_str(&known.text()).unwrap();
            if round > 0 {
                assert!(view["avg_response_time_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{kind:?}: {view}");
            }
        }
    }
    let done = load.stop();
    assert!(done.failures.is_empty(), "{:#?}", done.failures);
    until("nothing in flight", || proxy.in_flight() == 0.0);
    proxy.comes_to("evenkeel_requests_total", &[("code_class", "2xx")], done.requests as f64);
    proxy.comes_to("evenkeel_upstream_attempts_total", &[("result", "ok")], done.requests as f64);
}
