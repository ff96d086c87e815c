//! Which backends take traffic: by active checks, by what live traffic shows, and when none of them is healthy.

use std::time::Duration;

use evenkeel::config::{PoolPlan, ProbeKind, WhenUnhealthy};

use crate::support::*;

const QUICK: Duration = Duration::from_millis(20);

fn checked(pool: &mut PoolPlan) {
    pool.health.kind = ProbeKind::Http;
    pool.health.interval = QUICK;
    pool.outlier.consecutive_failures = 0;
}

/// No traffic before the first pass; down after `fall` failures; up again after `rise` passes; traffic follows.
#[test]
fn active_checks_decide_who_takes_traffic() {
    let (good, other) = (TestBackend::saying("good"), TestBackend::saying("other"));
    // It accepts its checks and does not answer them.
    other.set_health(0);
    let proxy = Setup::new(&[&good, &other]).pool(checked).start();
    proxy.wait_health("b0", "up");
    proxy.comes_to("evenkeel_backend_state", &[("backend", "b1"), ("state", "unknown")], 1.0);
    let answers = |count: usize| {
        let mut texts: Vec<_> = (0..count).map(|_| proxy.get("/").text()).collect();
        texts.sort();
        texts.dedup();
        texts
    };
    assert_eq!(answers(6), ["good"], "no traffic before the first pass");

    other.set_health(200);
    proxy.wait_health("b1", "up");
    assert_eq!(answers(6), ["good", "other"]);

    other.set_health(500);
    proxy.wait_health("b1", "down");
    assert_eq!(answers(6), ["good"]);
    assert_eq!(proxy.metric("evenkeel_backend_up", &[("backend", "b1")]), 0.0);
    let failed = proxy.metric("evenkeel_health_checks_total", &[("backend", "b1"), ("result", "failed")]);
    assert!(failed >= 3.0, "down takes three failures: {failed}");

    other.set_health(204);
    proxy.wait_health("b1", "up");
    assert_eq!(answers(6), ["good", "other"]);
    assert!(good.probes() > 5);
}

/// A TCP check asks for a connection and no more.
#[test]
fn a_tcp_check_asks_for_a_connection() {
    let mut backend = TestBackend::mortal(|turn| turn.answer(200, "alive"));
    let proxy = Setup::new(&[&backend])
        .pool(|pool| {
            checked(pool);
            pool.health.kind = ProbeKind::Tcp;
            pool.when_unhealthy = WhenUnhealthy::Reject;
        })
        .start();
    proxy.wait_health("b0", "up");
    assert_eq!((proxy.get("/").text().as_str(), backend.probes()), ("alive", 0));
    backend.kill();
    proxy.wait_health("b0", "down");
    assert_eq!(proxy.get("/").status(), 503);
    backend.revive();
    proxy.wait_health("b0", "up");
    assert_eq!(proxy.get("/").text(), "alive");
}

/// Five failures in a row eject; nobody asks the backend for a while; then it is tried, and kept when it answers.
#[test]
fn a_backend_that_fails_is_ejected_and_returns() {
    let broken = Gate::new();
    let mended = broken.clone();
    let flaky = TestBackend::new(move |turn| {
        let status = if mended.is_open() { 200 } else { 500 };
        turn.answer(status, "flaky");
    });
    let good = TestBackend::saying("good");
    let proxy = Setup::new(&[&flaky, &good])
        .pool(|pool| {
            pool.outlier.base_ejection = Duration::from_millis(500);
            pool.outlier.max_ejection = Duration::from_millis(500);
        })
        .start();
    let mut client = proxy.client();
    until("five failures", || {
        client.get("/");
        flaky.count() == 5
    });
    proxy.wait_health("b0", "ejected");
    let ejections = || proxy.metric("evenkeel_ejections_total", &[("backend", "b0")]);
    assert!(ejections() >= 1.0);
    // While it fails, each return ends with the first request.
    until("the trial fails", || {
        client.get("/");
        ejections() >= 2.0
    });
    assert!(flaky.count() < 10, "a backend on trial gets one request, not five: {}", flaky.count());
    broken.open();
    proxy.wait_health("b0", "up");
    let before = flaky.count();
    until("traffic returns", || {
        assert_eq!(client.get("/").status(), 200);
        flaky.count() > before + 5
    });
    proxy.wait_health("b0", "up");
}

/// However badly they fail, at most half of the backends are ejected: a request that kills backends must not empty the
/// pool.
#[test]
fn ejection_is_capped() {
    let broken: Vec<_> = (0..3).map(|_| TestBackend::new(|turn| turn.reset())).collect();
    let good = TestBackend::saying("ok");
    let proxy = Setup::new(&[&good, &broken[0], &broken[1], &broken[2]]).start();
    for _ in 0..80 {
        let _ = proxy.get("/").status();
    }
    proxy.comes_to("evenkeel_backend_state", &[("state", "ejected")], 2.0);
    proxy.comes_to("evenkeel_backend_state", &[("backend", "b0"), ("state", "up")], 1.0);
}

/// When all fail alike it is nobody's fault: ejecting would only crowd the rest.
#[test]
fn when_all_fail_nobody_is_ejected() {
    let backends: Vec<_> = (0..4).map(|_| TestBackend::new(|turn| turn.reset())).collect();
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>()).start();
    for _ in 0..60 {
        assert_eq!(proxy.get("/").status(), 502);
    }
    assert_eq!(proxy.metric("evenkeel_backend_state", &[("state", "ejected")]), 0.0);
}

/// A backend that fails every other request never fails five times in a row, and is ejected all the same.
#[test]
fn a_backend_that_fails_half_of_its_requests_is_ejected() {
    let flaky = TestBackend::new(|turn| turn.answer(if turn.number % 2 == 0 { 500 } else { 200 }, "flaky"));
    let good = TestBackend::saying("good");
    let proxy = Setup::new(&[&flaky, &good]).start();
    let mut client = proxy.client();
    until("ejected", || {
        for _ in 0..20 {
            client.get("/");
        }
        proxy.metric("evenkeel_ejections_total", &[("backend", "b0"), ("reason", "failure_rate")]) == 1.0
    });
    proxy.wait_health("b0", "ejected");
    assert_eq!(proxy.metric("evenkeel_ejections_total", &[("backend", "b1")]), 0.0);
}

/// When no backend is healthy: all of them are used, or none, as the operator wants; and readiness says so.
#[test]
fn when_no_backend_is_healthy() {
    for (policy, status) in [(WhenUnhealthy::FailOpen, 200), (WhenUnhealthy::Reject, 503)] {
        let backend = TestBackend::saying("served anyway");
        backend.set_health(500);
        let proxy = Setup::new(&[&backend])
            .pool(|pool| {
                checked(pool);
                pool.when_unhealthy = policy;
            })
            .start();
        proxy.wait_health("b0", "down");
        assert_eq!(proxy.get("/").status(), status, "{policy:?}");
        assert_eq!((proxy.admin("/readyz").status(), proxy.admin("/healthz").status()), (503, 200), "{policy:?}");
        let fail_open = proxy.metric("evenkeel_fail_open_picks_total", &[]);
        assert_eq!(fail_open, f64::from(u8::from(status == 200)), "{policy:?}");
        backend.set_health(200);
        proxy.wait_health("b0", "up");
        assert_eq!((proxy.get("/").status(), proxy.admin("/readyz").status()), (200, 200), "{policy:?}");
    }
}

/// A backend that dies and comes back under `GET` load costs no client an error.
#[test]
fn a_backend_killed_under_load_costs_no_get() {
    let mut mortal = TestBackend::mortal(|turn| turn.answer(200, "ok"));
    let others = [TestBackend::saying("ok"), TestBackend::saying("ok")];
    let proxy = Setup::new(&[&mortal, &others[0], &others[1]])
        .plan(|plan| plan.server.threads = 2)
        .pool(|pool| {
            checked(pool);
            pool.outlier.consecutive_failures = 5;
            pool.outlier.base_ejection = Duration::from_millis(100);
        })
        .start();
    proxy.wait_health("b0", "up");
    let load = Load::start(proxy.address, 16, "GET");
    for _ in 0..3 {
        let asked = mortal.count();
        until("load at the mortal one", || mortal.count() > asked + 50);
        mortal.kill();
        let served = others[0].count();
        until("load at the others", || others[0].count() > served + 200);
        mortal.revive();
        proxy.wait_health("b0", "up");
    }
    let done = load.stop();
    assert!(done.failures.is_empty(), "{} of {} failed: {:#?}", done.failures.len(), done.requests, done.failures);
    assert!(done.requests > 500);
}
