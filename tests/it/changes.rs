//! Changes of a running balancer through the admin server: no request is lost, every count is right afterwards, and a
//! reload keeps what the file does not contradict.

use crate::support::*;

/// A backend whose streams wait at the gate between two events.
fn streaming(gate: &Gate) -> TestBackend {
    let held = gate.clone();
    TestBackend::new(move |turn| {
        turn.read_body();
        turn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        turn.send(chunked("data: one\n\n"));
        held.pass();
        turn.send(chunked("data: two\n\n"));
        turn.send("0\r\n\r\n");
    })
}

/// A client amid a stream, with its head.
#[track_caller]
fn amid_a_stream(proxy: &TestProxy) -> (Raw, Message) {
    let mut client = proxy.client();
    client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    client.read_until("data: one\n\n\r\n");
    (client, head)
}

/// Which backends answer `count` requests, each saying its name.
#[track_caller]
fn answers(proxy: &TestProxy, count: usize) -> Vec<String> {
    let mut names: Vec<_> = (0..count).map(|_| proxy.get("/").text()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn a_stream_survives_the_removal_of_its_backend() {
    let gate = Gate::new();
    let (leaver, other) = (streaming(&gate), TestBackend::saying("other"));
    let proxy = Setup::new(&[&leaver]).start();
    let (mut client, mut head) = amid_a_stream(&proxy);
    let added =
        proxy.change("POST /api/v1/pools/ai/backends", &format!(r#"{{"name":"c","address":"{}"}}"#, other.address()));
    assert_eq!((added.status(), added.json()["name"].as_str()), (201, Some("c")), "{}", added.text());
    let removed = proxy.change("DELETE /api/v1/pools/ai/backends/b0", "");
    assert_eq!(removed.status(), 202, "{}", removed.text());
    assert_eq!(answers(&proxy, 6), ["other"], "no new request goes to who leaves");
    let shown = proxy.admin("/api/v1/pools/ai/backends/b0").json();
    assert_eq!((&shown["state"], &shown["in_flight"]), (&"draining".into(), &1.into()));
    assert!(shown["drain"]["remaining_s"].as_f64().is_some_and(|seconds| seconds > 30.0), "{shown}");
    gate.open();
    client.body(&mut head);
    assert_eq!((head.text().as_str(), head.whole), ("data: two\n\n", true), "not a byte is lost");
    until("it is gone", || proxy.admin("/api/v1/pools/ai/backends/b0").status() == 404);
    proxy.comes_to("evenkeel_in_flight", &[], 0.0);
    assert!(!proxy.metrics().text.contains("backend=\"b0\""), "what is gone is in no metric");
}

#[test]
fn at_the_deadline_a_removed_backend_is_cut_off() {
    let gate = Gate::new();
    let leaver = streaming(&gate);
    let proxy = Setup::new(&[&leaver]).pool(|pool| pool.retry.attempts = 1).start();
    let (mut client, mut head) = amid_a_stream(&proxy);
    let removed = proxy.change("DELETE /api/v1/pools/ai/backends/b0?drain_timeout=100ms&wait=true", "");
    assert_eq!((removed.status(), &removed.json()["gone"]), (200, &true.into()), "{}", removed.text());
    client.body(&mut head);
    assert!(!head.whole, "a response that breaks ends broken");
    proxy.comes_to("evenkeel_in_flight", &[], 0.0);
    // We cut it: the backend is blamed for nothing; and its name is known although it is gone.
    let decisions = proxy.admin("/api/v1/explain?last=1").json();
    assert_eq!(
        (&decisions[0]["selected"], &decisions[0]["outcome"]["end"]),
        (&"b0".into(), &"client_gone".into()),
        "{decisions}"
    );
    assert_eq!(proxy.get("/").status(), 503);
    gate.open();
}

#[test]
fn at_the_deadline_a_request_without_an_answer_moves_on() {
    let gate = Gate::new();
    let held = gate.clone();
    let (silent, other) = (
        TestBackend::new(move |turn| {
            held.pass();
            turn.close();
        }),
        TestBackend::saying("other"),
    );
    let proxy = Setup::new(&[&silent]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    silent.wait_for(1);
    proxy.change("POST /api/v1/pools/ai/backends", &format!(r#"{{"name":"c","address":"{}"}}"#, other.address()));
    proxy.change("DELETE /api/v1/pools/ai/backends/b0?drain_timeout=0s", "");
    let answer = client.response();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "other"));
    gate.open();
}

#[test]
fn drain_and_undrain() {
    let (a, b) = (TestBackend::saying("a"), TestBackend::saying("b"));
    let proxy = Setup::new(&[&a, &b]).start();
    assert_eq!(answers(&proxy, 6), ["a", "b"]);
    let drained = proxy.change("POST /api/v1/pools/ai/backends/b0/drain?timeout=5m", "");
    assert_eq!((drained.status(), &drained.json()["state"]), (200, &"draining".into()), "{}", drained.text());
    assert_eq!(answers(&proxy, 6), ["b"]);
    let overrides = proxy.admin("/api/v1/status").json()["overrides"].clone();
    assert_eq!(overrides[0]["key"], "pools.ai.backends.b0.state");
    let back = proxy.change("POST /api/v1/pools/ai/backends/b0/undrain", "");
    assert_eq!((&back.json()["state"], &back.json()["drain"]), (&"ready".into(), &serde_json::Value::Null));
    assert_eq!(answers(&proxy, 6), ["a", "b"]);
    assert_eq!(proxy.admin("/api/v1/status").json()["overrides"], serde_json::json!([]));
}

#[test]
fn a_switch_of_strategy_under_load_loses_nothing() {
    let backends = [TestBackend::saying("a"), TestBackend::saying("b"), TestBackend::saying("c")];
    let proxy = Setup::new(&backends.each_ref()).start();
    let load = Load::start(proxy.address, 8, "POST");
    for name in ["random", "least_connections", "power_of_two", "peak_ewma", "weighted_round_robin", "round_robin"] {
        let before: usize = backends.iter().map(TestBackend::count).sum();
        let switched = proxy.change("PUT /api/v1/pools/ai/strategy", &format!(r#"{{"strategy":"{name}"}}"#));
        assert_eq!((switched.status(), &switched.json()["strategy"]), (200, &name.into()), "{}", switched.text());
        until("requests by the new strategy", || backends.iter().map(TestBackend::count).sum::<usize>() > before + 50);
    }
    let done = load.stop();
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    assert!(done.requests > 300);
    until("nothing in flight", || proxy.in_flight() == 0.0);
}

#[test]
fn weights_and_limits_change_live() {
    let (a, b) = (TestBackend::saying("a"), TestBackend::saying("b"));
    let proxy = Setup::new(&[&a, &b]).start();
    proxy.change("PUT /api/v1/pools/ai/strategy", r#"{"strategy":"weighted_round_robin"}"#);
    let patched = proxy.change("PATCH /api/v1/pools/ai/backends/b0", r#"{"weight":9,"max_in_flight":50}"#).json();
    assert_eq!((&patched["weight"], &patched["max_in_flight"]), (&9.into(), &50.into()));
    for _ in 0..50 {
        proxy.get("/");
    }
    assert_eq!((a.count(), b.count()), (45, 5));
    proxy.change("PATCH /api/v1/pools/ai/backends/b0", r#"{"state":"disabled"}"#);
    assert_eq!(answers(&proxy, 4), ["b"]);
}

#[test]
fn a_check_on_demand_and_paused_checks() {
    let backend = TestBackend::saying("a");
    let proxy = Setup::new(&[&backend])
        .pool(|pool| {
            pool.health.kind = evenkeel::config::ProbeKind::Http;
            pool.health.interval = std::time::Duration::from_millis(10);
            pool.health.fall = 1;
        })
        .start();
    proxy.wait_health("b0", "up");
    assert_eq!(proxy.change("PUT /api/v1/pools/ai/health", r#"{"enabled":false}"#).status(), 200);
    backend.set_health(500);
    let results = proxy.change("POST /api/v1/pools/ai/check", "").json();
    let result = &results["results"][0];
    assert_eq!((&result["passed"], &result["detail"]), (&false.into(), &"status 500".into()), "{results}");
    assert_eq!(result["health"], "down");
    backend.set_health(200);
    proxy.change("PUT /api/v1/pools/ai/health", r#"{"enabled":true}"#);
    proxy.wait_health("b0", "up");
}

/// A configuration of pool `ai` with these lines for its backends.
fn file(strategy: &str, backends: &[(&str, u32, std::net::SocketAddr)]) -> String {
    let mut text = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[access_log]\nformat = \"off\"\n\
         [server]\nthreads = 1\n[pools.ai]\nstrategy = \"{strategy}\"\nhealth = {{ kind = \"none\" }}\n"
    );
    for (name, weight, address) in backends {
        text += &format!("[[pools.ai.backends]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = {weight}\n");
    }
    text
}

#[test]
fn overrides_live_until_the_file_says_something_new_there() {
    let backends = [TestBackend::saying("a"), TestBackend::saying("b"), TestBackend::saying("c")];
    let [a, b, c] = backends.each_ref().map(TestBackend::address);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evenkeel.toml");
    std::fs::write(&path, file("weighted_round_robin", &[("a", 1, a), ("b", 2, b)])).unwrap();
    let proxy = Setup::file(&path).start();
    for (line, body) in [
        ("PUT /api/v1/pools/ai/strategy", r#"{"strategy":"random"}"#),
        ("PATCH /api/v1/pools/ai/backends/a", r#"{"weight":7}"#),
        ("DELETE /api/v1/pools/ai/backends/b", ""),
        ("POST /api/v1/pools/ai/backends", &format!(r#"{{"name":"c","address":"{c}"}}"#)),
    ] {
        let answer = proxy.change(line, body);
        assert!((200..300).contains(&answer.status()), "{line}: {}", answer.text());
    }
    let now = || {
        let pool = proxy.admin("/api/v1/pools/ai").json();
        let backend = |b: &serde_json::Value| format!("{}:{}", b["name"].as_str().unwrap(), b["weight"]);
        let staying = pool["backends"].as_array().unwrap().iter().filter(|backend| backend["leaving"] == false);
        format!("{} {}", pool["strategy"].as_str().unwrap(), staying.map(backend).collect::<Vec<_>>().join(" "))
    };
    let reload = |text: String| {
        std::fs::write(&path, text).unwrap();
        let answer = proxy.change("POST /api/v1/reload", "");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.json()["overrides_dropped"].clone()
    };
    assert_eq!(now(), "random a:7 c:1");
    assert_eq!(answers(&proxy, 60), ["a", "c"]);
    // An unrelated change, then one line after the other that an override stands on.
    assert_eq!(reload(file("weighted_round_robin", &[("a", 1, a), ("b", 3, b)])), serde_json::json!([]));
    assert_eq!(now(), "random a:7 c:1");
    let dropped = reload(file("weighted_round_robin", &[("a", 5, a), ("b", 3, b)]));
    assert_eq!((dropped, now().as_str()), (serde_json::json!(["pools.ai.backends.a.weight"]), "random a:5 c:1"));
    reload(file("least_connections", &[("a", 5, a), ("b", 3, b)]));
    assert_eq!(now(), "least_connections a:5 c:1");
    reload(file("least_connections", &[("a", 5, a)]));
    reload(file("least_connections", &[("a", 5, a), ("b", 3, b)]));
    assert_eq!(now(), "least_connections a:5 b:3 c:1");
    // A faulty file changes nothing, and says why.
    std::fs::write(&path, file("best", &[("a", 5, a)])).unwrap();
    let refused = proxy.change("POST /api/v1/reload", "");
    assert_eq!(refused.status(), 422);
    assert!(
        refused.json()["errors"][0]["message"].as_str().is_some_and(|text| text.contains("best")),
        "{}",
        refused.text()
    );
    assert_eq!(now(), "least_connections a:5 b:3 c:1");
    let status = proxy.admin("/api/v1/status").json();
    assert_eq!(status["last_reload"]["result"], "failure");
    assert_eq!(
        status["overrides"],
        serde_json::json!([{ "key": "pools.ai.backends.c", "value": format!("added at {c}") }])
    );
}

#[test]
fn a_reload_that_removes_a_backend_lets_its_streams_finish() {
    let gate = Gate::new();
    let (leaver, other) = (streaming(&gate), TestBackend::saying("other"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evenkeel.toml");
    std::fs::write(&path, file("round_robin", &[("a", 1, leaver.address())])).unwrap();
    let proxy = Setup::file(&path).start();
    let (mut client, mut head) = amid_a_stream(&proxy);
    std::fs::write(&path, file("round_robin", &[("b", 1, other.address())])).unwrap();
    assert_eq!(proxy.change("POST /api/v1/reload", "").status(), 200);
    assert_eq!(answers(&proxy, 3), ["other"]);
    let shown = proxy.admin("/api/v1/pools/ai/backends/a").json();
    assert!(shown["drain"]["remaining_s"].as_f64().is_some_and(|seconds| seconds > 30.0), "{shown}");
    gate.open();
    client.body(&mut head);
    assert_eq!((head.text().as_str(), head.whole), ("data: two\n\n", true));
    until("it is gone", || proxy.admin("/api/v1/pools/ai/backends/a").status() == 404);
}
