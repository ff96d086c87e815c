//! The learning agent from outside: as a service to another balancer, its statistics and metrics, its table, its file, and
//! every decision read back.

use evenkeel::config::{RlStorePlan, StrategyKind};
use serde_json::{Value, json};

use crate::support::*;

fn setup(backends: &[&TestBackend], kind: StrategyKind) -> Setup {
    Setup::new(backends).pool(move |pool| {
        pool.strategy.kind = kind;
        pool.outlier.consecutive_failures = 0;
        pool.retry.attempts = 1;
    })
}

fn decide(proxy: &TestProxy) -> Value {
    let answer = proxy.change("POST /decide", r#"{"service":"ai","client":"one"}"#);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.json()
}

fn feedback(proxy: &TestProxy, body: &Value) -> (u16, Value) {
    let answer = proxy.change("POST /feedback", &body.to_string());
    (answer.status(), answer.json())
}

/// Another balancer asks and tells; one instance fails whatever it gets, and soon gets next to nothing.
#[test]
fn as_a_service_it_learns_from_feedback() {
    let backends = [TestBackend::saying("a"), TestBackend::saying("b"), TestBackend::saying("c")];
    let proxy = setup(&backends.each_ref(), StrategyKind::Rl).start();
    let mut picks = Vec::new();
    for _ in 0..200 {
        let decision = decide(&proxy);
        assert_eq!(decision["algorithm"], "rl-agent");
        assert!((0.0..=1.0).contains(&decision["confidence"].as_f64().unwrap()), "{decision}");
        assert!(decision["state"]["load"].is_number() && decision["explored"].is_boolean(), "{decision}");
        let name = decision["selected_instance"].as_str().unwrap().to_owned();
        let told = json!({ "decision_id": decision["decision_id"], "response_time_ms": 40.0, "error": name == "b1" });
        let (status, lesson) = feedback(&proxy, &told);
        assert_eq!(status, 200, "{lesson}");
        assert!(lesson["q_value"].is_number() && lesson["td_error"].is_number(), "{lesson}");
        let errors = lesson["terms"]["errors"].as_f64().unwrap();
        assert_eq!(errors < 0.0, name == "b1", "{lesson}");
        picks.push(name);
    }
    let late = picks[100..].iter().filter(|name| *name == "b1").count();
    assert!(late <= 5, "{late} of the second hundred went to the one that fails");
    proxy.comes_to("evenkeel_in_flight", &[], 0.0);

    let open = decide(&proxy);
    proxy.comes_to("evenkeel_in_flight", &[], 1.0);
    let mut told = json!({ "decision_id": open["decision_id"], "response_time_ms": 12, "status": 503 });
    assert_eq!(feedback(&proxy, &told).0, 200);
    proxy.comes_to("evenkeel_in_flight", &[], 0.0);
    let (status, again) = feedback(&proxy, &told);
    assert_eq!((status, &again["error"]["code"]), (409, &json!("already_answered")));
    told["decision_id"] = json!("00112233445566778899aabbccddeeff");
    assert_eq!(feedback(&proxy, &told).0, 404);
    for wrong in [
        json!({ "decision_id": "x", "response_time_ms": 1 }),
        json!({ "decision_id": "x", "response_time_ms": -1, "error": false }),
        json!({ "decision_id": "x", "response_time_ms": 1, "error": false, "status": 200 }),
        json!({ "decision_id": "x", "response_time_ms": 1, "status": 99 }),
    ] {
        assert_eq!(feedback(&proxy, &wrong).0, 422, "{wrong}");
    }
    assert_eq!(proxy.change("POST /decide", r#"{"service":"nobody"}"#).status(), 404);
}

/// Every request can be read back by its identifier, with what was weighed and how it ended; statistics and metrics move.
#[test]
fn it_tells_what_it_did_and_how_it_does() {
    let (a, b) = (TestBackend::saying("a"), TestBackend::new(|turn| turn.answer(500, "no")));
    let proxy = setup(&[&a, &b], StrategyKind::Rl).start();
    let mut client = proxy.client();
    let ids: Vec<String> =
        (0..100).map(|_| client.get("/").field("x-request-id").unwrap_or_default().to_owned()).collect();
    let explained = eventually("the last decision, ended", || {
        let shown = proxy.admin(&format!("/api/v1/explain/{}", ids[99])).json();
        (!shown[0]["outcome"].is_null()).then_some(shown)
    });
    let decision = &explained[0];
    assert_eq!((explained.as_array().unwrap().len(), &decision["strategy"]), (1, &json!("rl")));
    let candidates = decision["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 2);
    let failing = candidates.iter().find(|candidate| candidate["name"] == "b1").unwrap();
    assert!(failing["terms"]["error_price"].as_f64().unwrap() > 0.0, "its errors are priced: {failing}");
    assert_eq!(failing["terms"]["state"]["errors"], 1);
    let good = candidates.iter().find(|candidate| candidate["name"] == "b0").unwrap();
    assert!(good["cost"].as_f64().unwrap() < failing["cost"].as_f64().unwrap());
    let terms = &good["terms"];
    let number = |key: &str| terms[key].as_f64().unwrap();
    let cost = number("level") * number("drift") * (number("value") + number("own_load")) + number("error_price");
    assert!((cost / number("cost") - 1.0).abs() < 1e-3, "the terms make up the cost: {terms}");
    assert!(decision["propensity"].as_f64().unwrap() > 0.0 && decision["outcome"]["total_ms"].as_f64().unwrap() > 0.0);
    let last = proxy.admin("/api/v1/explain?last=5").json();
    assert_eq!((last.as_array().unwrap().len(), &last[0]["request_id"]), (5, &json!(ids[99])));
    assert_eq!(proxy.admin("/api/v1/explain/nothing").status(), 404);

    let drained = proxy.change("POST /api/v1/pools/ai/backends/b1/drain", "");
    assert_eq!(drained.status(), 200, "{}", drained.text());
    let id = client.get("/").field("x-request-id").unwrap_or_default().to_owned();
    let shown = proxy.admin(&format!("/api/v1/explain/{id}")).json();
    assert_eq!(shown[0]["filtered"], json!([{ "name": "b1", "why": "draining" }]));

    let view = proxy.admin("/api/v1/pools/ai/rl").json();
    let (learning, performance) = (&view["learning_stats"], &view["performance_stats"]);
    assert!(learning["q_updates"].as_u64().unwrap() >= 100, "{view}");
    assert!(learning["q_table_size"].as_u64().unwrap() > 0 && learning["exploration_rate"].as_f64().unwrap() > 0.0);
    assert!(performance["cache_hit_rate"].as_f64().unwrap() > 0.0, "{view}");
    let samples = proxy.metrics();
    let pool = [("pool", "ai")];
    assert!(samples.sum("evenkeel_rl_updates_total", &pool) >= 100.0);
    assert_eq!(samples.sum("evenkeel_rl_decisions_total", &pool), 101.0);
    for name in [
        "epsilon",
        "q_states",
        "state_coverage",
        "td_error",
        "reward",
        "diversity",
        "guardrail_active",
        "decision_confidence",
        "cache_hit_rate",
        "fallback_rate",
        "reward_trend",
    ] {
        assert!(samples.has(&format!("evenkeel_rl_{name}"), &["pool"]), "{name}");
    }
    assert!(samples.sum("evenkeel_rl_reward", &pool) < 0.0);
}

/// What one proxy learned serves another: through the API, and through the file when the strategy is switched to.
#[test]
fn what_was_learned_can_be_carried_and_a_switch_takes_the_file_over() {
    let (a, b) = (TestBackend::saying("a"), TestBackend::saying("b"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ai.rl");
    let store = RlStorePlan { path: path.clone(), interval: std::time::Duration::from_secs(3600) };
    let with_store = |kind| {
        let store = store.clone();
        setup(&[&a, &b], kind).pool(move |pool| pool.strategy.rl.store = Some(store))
    };
    let proxy = with_store(StrategyKind::Rl).start();
    let mut client = proxy.client();
    for _ in 0..100 {
        client.get("/");
    }
    let samples = |table: &Value| -> f64 {
        table["backends"].as_array().unwrap().iter().map(|row| row["learned"]["samples"].as_f64().unwrap()).sum()
    };
    let table = eventually("a hundred lessons", || {
        let table = proxy.admin("/api/v1/pools/ai/rl/table").json();
        (samples(&table) >= 100.0).then_some(table)
    });
    assert_eq!((&table["version"], &table["agent"]), (&json!(1), &json!("adaptive")));

    let other = setup(&[&a, &b], StrategyKind::Rl).start();
    let taken = other.change("PUT /api/v1/pools/ai/rl/table", &table.to_string());
    assert_eq!(taken.status(), 200, "{}", taken.text());
    assert!(samples(&other.admin("/api/v1/pools/ai/rl/table").json()) >= 100.0);
    let mut foreign = table.clone();
    foreign["version"] = json!(99);
    assert_eq!(other.change("PUT /api/v1/pools/ai/rl/table", &foreign.to_string()).status(), 422);

    let switch = |proxy: &TestProxy, name: &str| {
        let answer = proxy.change("PUT /api/v1/pools/ai/strategy", &json!({ "strategy": name }).to_string());
        assert_eq!(answer.status(), 200, "{}", answer.text());
    };
    switch(&proxy, "random");
    assert!(path.exists(), "what goes out of force is written down");
    assert_eq!(proxy.admin("/api/v1/pools/ai/rl").status(), 404);
    let third = with_store(StrategyKind::Random).start();
    switch(&third, "rl");
    assert!(samples(&third.admin("/api/v1/pools/ai/rl/table").json()) >= 100.0, "the file was taken over");
    switch(&third, "random");
    switch(&third, "rl");
    assert!(
        samples(&third.admin("/api/v1/pools/ai/rl/table").json()) >= 100.0,
        "and kept over a switch back and forth"
    );
}

/// However little traffic there is: nobody who may answer is left out for good.
#[test]
fn one_request_at_a_time_reaches_every_backend() {
    let backends = [TestBackend::saying("a"), TestBackend::saying("b"), TestBackend::saying("c")];
    let proxy = setup(&backends.each_ref(), StrategyKind::Rl).start();
    let mut client = proxy.client();
    for _ in 0..20 {
        client.get("/");
    }
    let counts: Vec<_> = backends.iter().map(TestBackend::count).collect();
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}
