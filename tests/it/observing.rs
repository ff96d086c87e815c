//! What an operator sees: every metric and log field of the contract, and counts that add up.

use crate::support::*;

/// Names and labels of contract section 5.
const METRICS: [(&str, &[&str]); 33] = [
    ("evenkeel_requests_total", &["pool", "backend", "code_class"]),
    ("evenkeel_upstream_attempts_total", &["pool", "backend", "result"]),
    ("evenkeel_request_duration_seconds_bucket", &["pool", "backend", "le"]),
    ("evenkeel_request_duration_seconds_sum", &["pool", "backend"]),
    ("evenkeel_request_duration_seconds_count", &["pool", "backend"]),
    ("evenkeel_first_byte_seconds_bucket", &["pool", "backend", "le"]),
    ("evenkeel_first_byte_seconds_count", &["pool", "backend"]),
    ("evenkeel_queue_wait_seconds_bucket", &["pool", "le"]),
    ("evenkeel_queue_wait_seconds_count", &["pool"]),
    ("evenkeel_decision_seconds_bucket", &["pool", "strategy", "le"]),
    ("evenkeel_decision_seconds_count", &["pool", "strategy"]),
    ("evenkeel_in_flight", &["pool", "backend"]),
    ("evenkeel_queue_length", &["pool"]),
    ("evenkeel_backend_up", &["pool", "backend"]),
    ("evenkeel_backend_state", &["pool", "backend", "state"]),
    ("evenkeel_connections", &["listener"]),
    ("evenkeel_upstream_connections", &["pool", "backend"]),
    ("evenkeel_config_generation", &[]),
    ("evenkeel_config_last_reload_success", &[]),
    ("evenkeel_health_checks_total", &["pool", "backend", "result"]),
    ("evenkeel_ejections_total", &["pool", "backend", "reason"]),
    ("evenkeel_retries_total", &["pool", "reason"]),
    ("evenkeel_client_disconnects_total", &["pool"]),
    ("evenkeel_config_reloads_total", &["result"]),
    ("evenkeel_panics_total", &[]),
    ("evenkeel_admin_request_seconds_count", &[]),
    ("process_cpu_seconds_total", &[]),
    ("process_open_fds", &[]),
    ("process_max_fds", &[]),
    ("process_resident_memory_bytes", &[]),
    ("process_virtual_memory_bytes", &[]),
    ("process_start_time_seconds", &[]),
    ("process_threads", &[]),
];

/// Every metric is there from the start, with its labels and with a type and a help line; none names a path or a client.
#[test]
fn every_metric_of_the_contract_is_there() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    proxy.metrics();
    let samples = proxy.metrics();
    for (name, labels) in METRICS {
        assert!(samples.has(name, labels), "{name} with {labels:?} is missing from\n{}", samples.text);
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        for line in [format!("# HELP {family} "), format!("# TYPE {family} ")] {
            assert!(samples.text.contains(&line), "{line}");
        }
    }
    let kind = proxy.admin("/metrics").field("content-type").unwrap_or_default().to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
}

/// Each request is counted once, at its end, where it ended; attempts apart from it; histograms agree with counters.
#[test]
fn counts_add_up() {
    let backend = TestBackend::new(|turn| match turn.request.target() {
        "/reset" => turn.reset(),
        path => {
            let status = path.trim_start_matches('/').parse().unwrap();
            turn.answer(status, "");
        }
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    for status in [200, 201, 301, 404, 429, 500, 503] {
        assert_eq!(client.get(&format!("/{status}")).status(), status);
    }
    assert_eq!(client.post("/reset", "x").status(), 502);
    client.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    // A reset is made when the socket is closed, which the backend counts a moment later.
    until("both ends count the same connections", || {
        proxy.metric("evenkeel_upstream_connections", &[]) == backend.open() as f64
    });
    proxy.comes_to("evenkeel_requests_total", &[], 9.0);
    let samples = proxy.metrics();
    let classes = ["2xx", "3xx", "4xx", "5xx", "none"]
        .map(|class| samples.sum("evenkeel_requests_total", &[("backend", "b0"), ("code_class", class)]));
    assert_eq!(classes, [2.0, 1.0, 2.0, 3.0, 0.0]);
    // The malformed one met no pool.
    assert_eq!(samples.sum("evenkeel_requests_total", &[("pool", ""), ("code_class", "4xx")]), 1.0);
    assert_eq!(samples.sum("evenkeel_upstream_attempts_total", &[]), 8.0);
    assert_eq!(samples.sum("evenkeel_request_duration_seconds_count", &[]), 8.0);
    assert_eq!(samples.sum("evenkeel_request_duration_seconds_bucket", &[("le", "+Inf")]), 8.0);
    assert_eq!(samples.sum("evenkeel_first_byte_seconds_count", &[]), 7.0);
    assert_eq!(samples.sum("evenkeel_in_flight", &[]), 0.0);
    until("the malformed request ends its connection", || proxy.metric("evenkeel_connections", &[]) == 0.0);
}

/// Every field of contract section 6, in every line, with its type; values that can be known are right.
#[test]
fn every_field_of_the_access_log_is_there() {
    let backend = TestBackend::saying("hello");
    let proxy = Setup::new(&[&backend]).logged().start();
    let mut client = proxy.client();
    let answer = client.post("/v1/chat?x='1'", "four");
    client.get("/again");
    let log = proxy.log(2);
    let line = &log[0];
    let fields = [
        "ts",
        "request_id",
        "client",
        "method",
        "host",
        "path",
        "protocol",
        "status",
        "bytes_in",
        "bytes_out",
        "pool",
        "backend",
        "strategy",
        "propensity",
        "kind",
        "candidates",
        "attempts",
        "queue_ms",
        "connect_ms",
        "first_byte_ms",
        "total_ms",
        "end",
        "retry",
        "sticky",
    ];
    for line in &log {
        for field in fields {
            assert!(line.get(field).is_some(), "{field} is missing in {line}");
        }
        for number in
            ["status", "bytes_in", "bytes_out", "propensity", "candidates", "attempts", "queue_ms", "total_ms"]
        {
            assert!(line[number].is_number(), "{number} in {line}");
        }
    }
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    assert_eq!(Some(text("request_id").as_str()), answer.field("x-request-id"));
    assert_eq!((text("client"), text("method"), text("host")), ("127.0.0.1".into(), "POST".into(), "test".into()));
    assert_eq!((text("path"), text("protocol")), ("/v1/chat?x='1'".into(), "HTTP/1.1".into()));
    assert_eq!((&line["status"], &line["bytes_in"], &line["bytes_out"]), (&200.into(), &4.into(), &5.into()));
    assert_eq!((text("pool"), text("backend"), text("strategy")), ("ai".into(), "b0".into(), "round_robin".into()));
    assert_eq!((&line["propensity"], &line["candidates"], &line["attempts"]), (&1.0.into(), &1.into(), &1.into()));
    assert_eq!((text("end"), text("sticky")), ("ok".into(), "none".into()));
    assert!(line["retry"].is_null());
    assert!(line["connect_ms"].is_number(), "a fresh connection: {line}");
    assert!(log[1]["connect_ms"].is_null(), "a pooled one: {}", log[1]);
    let (first, total) = (line["first_byte_ms"].as_f64().unwrap(), line["total_ms"].as_f64().unwrap());
    assert!(first > 0.0 && first <= total, "{line}");
    let ts = text("ts");
    assert!(ts.len() == "2026-11-21T18:00:00.123456Z".len() && ts.ends_with('Z') && &ts[10..11] == "T", "{ts}");
}

/// The read side of the API says what the metrics say.
#[test]
fn the_api_shows_pools_and_backends() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    for _ in 0..4 {
        proxy.get("/");
    }
    let status = proxy.admin("/api/v1/status").json();
    for key in ["version", "uptime_s", "config_generation", "listeners", "pools", "overrides", "last_reload"] {
        assert!(status.get(key).is_some(), "{key} in {status}");
    }
    let pool = proxy.admin("/api/v1/pools/ai").json();
    assert_eq!((&pool["name"], &pool["strategy"]), (&"ai".into(), &"round_robin".into()), "{pool}");
    assert_eq!((&pool["metrics"]["total_requests"], &pool["metrics"]["healthy_backends"]), (&4.into(), &1.into()));
    let seen = proxy.admin("/api/v1/pools/ai/backends/b0").json();
    assert_eq!((&seen["requests"], &seen["failures"], &seen["in_flight"]), (&4.into(), &0.into(), &0.into()), "{seen}");
    assert_eq!((&seen["state"], &seen["health"], &seen["success_rate"]), (&"ready".into(), &"up".into(), &1.0.into()));
    assert_eq!(seen["address"], backend.address().to_string());
    assert_eq!(proxy.admin("/api/v1/pools/none").status(), 404);
}
