//! The API without a socket: shapes, errors, guards; then once over a real one.

mod room;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use self::room::*;
use super::*;
use crate::backend::{CodeClass, InFlight, ProbeReport, ProbeResult};
use crate::config::{AdminState as Wanted, StrategyKind};
use crate::telemetry::metrics::lint;

async fn get(path: &str) -> Answer {
    ask(&router(admin_with(None, false).0), Request::get(path)).await
}

#[tokio::test]
async fn a_backend_shows_the_contracts_fields() {
    let mut view = get("/api/v1/pools/p/backends/a").await.json();
    assert!(view["resources"]["age_s"].as_f64().unwrap() >= 0.0);
    assert!(view["last_check"]["age_s"].as_f64().unwrap() >= 0.0);
    for quantile in ["p50_ms", "p95_ms", "p99_ms"] {
        let value = view[quantile].as_f64().unwrap();
        assert!((80.0..125.0).contains(&value), "{quantile} {value}");
        view[quantile] = json!(100.0);
    }
    view["resources"]["age_s"] = json!(0.0);
    view["last_check"]["age_s"] = json!(0.0);
    let expected = json!({
        "name": "a", "address": "127.0.0.1:1", "state": "ready", "health": "up", "in_flight": 0, "requests": 2,
        "failures": 1, "success_rate": 0.5, "avg_response_time_ms": 100.0, "p50_ms": 100.0, "p95_ms": 100.0,
        "p99_ms": 100.0, "window_s": 60, "weight": 1, "max_in_flight": 0,
        "resources": { "cpu": 0.25, "memory": null, "age_s": 0.0, "running": null, "waiting": null },
        "streams": { "open": 0, "bytes_per_s": 0.0, "events_per_s": 0.0 }, "drain": null, "leaving": false, "ejections": 0,
        "held_s": null, "last_check": { "result": "passed", "detail": "status 200", "took_ms": 1.5, "age_s": 0.0 },
    });
    assert_eq!(view, expected);
    let drained = get("/api/v1/pools/p/backends/b").await.json();
    assert_eq!((&drained["state"], &drained["health"]), (&json!("draining"), &json!("unknown")));
    assert!(drained["drain"]["remaining_s"].as_f64().unwrap() > 0.0);
    assert_eq!(drained["success_rate"], Value::Null);
}

#[tokio::test]
async fn pools_and_status() {
    let pools = get("/api/v1/pools").await.json();
    let pool = get("/api/v1/pools/p").await.json();
    assert_eq!(pools[0]["name"], pool["name"]);
    assert_eq!(pool["strategy"], "least_connections");
    assert_eq!(pool["metrics"], json!({ "total_requests": 2, "healthy_backends": 1 }));
    assert_eq!(pool["queue"], json!({ "length": 0, "size": 128 }));
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|backend| backend["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&pool["backends"]), ["a", "b"]);
    assert_eq!(names(&get("/api/v1/pools/p/backends").await.json()), ["a", "b"]);

    let status = get("/api/v1/status").await.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["uptime_s"], 12.5);
    assert_eq!(status["config_generation"], 3);
    assert_eq!(status["listeners"], json!([{ "address": "127.0.0.1:80", "scheme": "http", "connections": 4 }]));
    assert_eq!(status["workers"], json!([{ "connections": 3 }, { "connections": 1 }]));
    assert_eq!(status["pools"][0]["name"], "p");
    assert_eq!(status["pools"][0]["healthy_backends"], 1);
    assert_eq!(status["overrides"], json!([{ "key": "pools.p.strategy" }]));
    let last = json!({ "at": 1.5, "result": "failure", "errors": ["conf/x.toml:1:2: wrong"] });
    assert_eq!(status["last_reload"], last);
}

#[tokio::test]
async fn a_backend_that_left_is_shown_until_it_is_empty() {
    let (admin, room) = admin_with(None, false);
    let (router, pool) = (router(admin), Arc::clone(&room.pools[0]));
    let held = InFlight::enter(&pool.backend("a").unwrap()).unwrap();
    let mut plan = (*pool.plan()).clone();
    plan.backends.remove(0);
    pool.apply(Arc::new(plan), Instant::now());
    let path = "/api/v1/pools/p/backends/a";
    let view = ask(&router, Request::get(path)).await.json();
    assert_eq!((&view["state"], &view["leaving"], &view["in_flight"]), (&json!("draining"), &json!(true), &json!(1)));
    assert!(ask(&router, Request::get("/metrics")).await.text.contains("in_flight{pool=\"p\",backend=\"a\"} 1"));
    drop(held);
    pool.tick(Instant::now());
    assert_eq!(ask(&router, Request::get(path)).await.status, StatusCode::NOT_FOUND);
    let text = ask(&router, Request::get("/metrics")).await.text;
    assert!(!text.contains("backend=\"a\"") && text.contains("backend=\"b\""), "a removed backend vanishes");
}

#[tokio::test]
async fn metrics_are_sound() {
    let answer = get("/metrics").await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let samples = lint::check(&answer.text).unwrap_or_else(|fault| panic!("{fault}\n{}", answer.text));
    for (series, value) in [
        ("evenkeel_requests_total{pool=\"p\",backend=\"a\",code_class=\"2xx\"}", 1.0),
        ("evenkeel_requests_total{pool=\"p\",backend=\"a\",code_class=\"5xx\"}", 1.0),
        ("evenkeel_requests_total{pool=\"p\",backend=\"\",code_class=\"none\"}", 0.0),
        ("evenkeel_upstream_attempts_total{pool=\"p\",backend=\"a\",result=\"ok\"}", 1.0),
        ("evenkeel_request_duration_seconds_bucket{pool=\"p\",backend=\"a\",le=\"0.1\"}", 2.0),
        ("evenkeel_request_duration_seconds_bucket{pool=\"p\",backend=\"a\",le=\"0.075\"}", 0.0),
        ("evenkeel_first_byte_seconds_count{pool=\"p\",backend=\"a\"}", 2.0),
        ("evenkeel_decision_seconds_bucket{pool=\"p\",strategy=\"least_connections\",le=\"0.00000005\"}", 0.0),
        ("evenkeel_queue_wait_seconds_count{pool=\"p\"}", 0.0),
        ("evenkeel_in_flight{pool=\"p\",backend=\"b\"}", 0.0),
        ("evenkeel_backend_up{pool=\"p\",backend=\"a\"}", 1.0),
        ("evenkeel_backend_up{pool=\"p\",backend=\"b\"}", 0.0),
        ("evenkeel_backend_state{pool=\"p\",backend=\"b\",state=\"draining\"}", 1.0),
        ("evenkeel_backend_state{pool=\"p\",backend=\"b\",state=\"ready\"}", 0.0),
        ("evenkeel_backend_state{pool=\"p\",backend=\"a\",state=\"up\"}", 1.0),
        ("evenkeel_connections{listener=\"127.0.0.1:80\"}", 4.0),
        ("evenkeel_upstream_connections{pool=\"p\",backend=\"a\"}", 2.0),
        ("evenkeel_tls_certificate_expiry_timestamp_seconds{file=\"a\\\"b.pem\"}", 2_000_000_000.0),
        ("evenkeel_health_checks_total{pool=\"p\",backend=\"a\",result=\"passed\"}", 1.0),
        ("evenkeel_ejections_total{pool=\"p\",backend=\"a\",reason=\"consecutive_failures\"}", 0.0),
        ("evenkeel_ejections_total{pool=\"p\",backend=\"a\",reason=\"failure_rate\"}", 0.0),
        ("evenkeel_pool_none_healthy{pool=\"p\"}", 0.0),
        ("evenkeel_retries_total{pool=\"p\",reason=\"connect_failure\"}", 0.0),
        ("evenkeel_client_disconnects_total{pool=\"p\"}", 0.0),
        ("evenkeel_access_log_lost_lines_total", 7.0),
        ("evenkeel_connections_cut_total{reason=\"slow_head\"}", 5.0),
        ("evenkeel_config_generation", 1.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
}

#[tokio::test]
async fn every_error_has_the_openai_shape() {
    let router = router(admin_with(None, true).0);
    let local = |builder: axum::http::request::Builder| builder.header("host", "127.0.0.1:9901");
    for (request, status, code) in [
        (Request::get("/nothing"), StatusCode::NOT_FOUND, "not_found"),
        (Request::get("/api/v1/pools/x"), StatusCode::NOT_FOUND, "not_found"),
        (Request::get("/api/v1/pools/p/backends/x"), StatusCode::NOT_FOUND, "not_found"),
        (local(Request::delete("/metrics")), StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        (Request::get("/api/v1/reload"), StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        (local(Request::post("/api/v1/reload")), StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration"),
    ] {
        let answer = ask(&router, request).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        let error = answer.json()["error"].clone();
        assert_eq!((&error["code"], &error["type"]), (&json!(code), &json!("invalid_request_error")));
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_eq!(error["request_id"].as_str().unwrap(), answer.headers["x-request-id"]);
        assert_eq!(answer.headers["content-type"], "application/json");
        if status == StatusCode::METHOD_NOT_ALLOWED {
            assert!(answer.headers.contains_key("allow"));
        }
        if status == StatusCode::UNPROCESSABLE_ENTITY {
            assert_eq!(answer.json()["errors"], json!([{ "line": 3 }]));
        }
    }
}

/// Whatever the description says answers 412 does; the tag of the state, of a pool and of a backend hold where they are for.
#[tokio::test]
async fn every_change_heeds_its_condition() {
    let router = router(admin_with(None, false).0);
    for (tagged, line, body) in [
        ("/api/v1/status", "POST /api/v1/reload", ""),
        ("/api/v1/pools", "POST /api/v1/reload", ""),
        ("/api/v1/pools/p/backends", "POST /api/v1/pools/p/check", ""),
        ("/api/v1/pools/p", "PUT /api/v1/pools/p/health", r#"{"enabled":true}"#),
        ("/api/v1/pools/p/backends/a", "PUT /api/v1/pools/p/backends/a/resources", r#"{"cpu":0.5}"#),
    ] {
        let tag = ask(&router, Request::get(tagged)).await.headers["etag"].to_str().unwrap().to_owned();
        let (method, path) = line.split_once(' ').unwrap();
        let send = |tag: &str| {
            let request =
                Request::builder().method(method).uri(path).header("host", "localhost").header("if-match", tag);
            router.clone().oneshot(request.body(Body::from(body)).unwrap())
        };
        assert_eq!(send("\"0\"").await.unwrap().status(), StatusCode::PRECONDITION_FAILED, "{line}");
        assert_eq!(send(&tag).await.unwrap().status(), StatusCode::OK, "{line}");
        assert_eq!(send("*").await.unwrap().status(), StatusCode::OK, "{line}");
    }
}

#[tokio::test]
async fn a_name_that_is_no_text_is_refused_in_our_shape() {
    for path in ["/api/v1/pools/%ff", "/api/v1/pools/p/backends/%ff", "/api/v1/explain/%ff"] {
        let answer = get(path).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("bad_request")));
    }
    let described = get("/openapi.json").await.json();
    assert!(described["paths"]["/api/v1/pools/{pool}"]["get"]["responses"]["400"].is_object());
}

#[tokio::test]
async fn a_reload_answers_with_its_diff() {
    let router = router(admin_with(None, false).0);
    let answer = ask(&router, Request::post("/api/v1/reload").header("host", "localhost")).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "added": ["pools.p.b"] })));
}

#[tokio::test]
async fn head_is_a_get_without_a_body() {
    for path in ["/", "/metrics", "/healthz", "/api/v1/status"] {
        let answer = ask(&router(admin_with(None, false).0), Request::head(path)).await;
        assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, ""), "{path}");
    }
}

#[tokio::test]
async fn alive_and_ready() {
    let (admin, room) = admin_with(None, false);
    let router = router(admin);
    let ready = async || ask(&router, Request::get("/readyz")).await.status;
    assert_eq!(ready().await, StatusCode::OK);
    for phase in [Phase::Starting, Phase::Draining] {
        *room.phase.lock().unwrap() = phase;
        assert_eq!(ready().await, StatusCode::SERVICE_UNAVAILABLE, "{phase:?}");
        assert_eq!(ask(&router, Request::get("/healthz")).await.status, StatusCode::OK);
    }
    *room.phase.lock().unwrap() = Phase::Running;
    let report = ProbeReport { result: ProbeResult::Loading, detail: String::new(), took: Duration::ZERO };
    room.pools[0].probed(&room.pools[0].backend("a").unwrap(), &report, Instant::now());
    assert_eq!(ready().await, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_token_guards_all_but_the_probes() {
    let (admin, _) = admin_with(Some("s3cret"), false);
    let router = router(Arc::clone(&admin));
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/pools/p", "/nothing"] {
        let answer = ask(&router, Request::get(path)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert!(!answer.text.contains("s3cret"));
        let wrong = ask(&router, Request::get(path).header("authorization", "Bearer wrong!")).await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED, "{path}");
        let right = ask(&router, Request::get(path).header("authorization", "Bearer s3cret")).await;
        assert_ne!(right.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&router, Request::get(path)).await.status, StatusCode::OK, "{path}");
    }
    // With a token neither host nor origin matter: a foreign page does not have the token.
    let write = Request::post("/api/v1/reload").header("host", "balancer.example").header("origin", "http://x");
    assert_eq!(ask(&router, write.header("authorization", "Bearer s3cret")).await.status, StatusCode::OK);
    let write = Request::post("/api/v1/reload").header("host", "127.0.0.1");
    assert_eq!(ask(&router, write).await.status, StatusCode::UNAUTHORIZED);

    admin.set_token(Some("new".to_owned()));
    let old = Request::get("/metrics").header("authorization", "Bearer s3cret");
    assert_eq!(ask(&router, old).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn public_metrics_need_no_token() {
    let room = Arc::new(Room {
        pools: vec![pool()],
        phase: Mutex::new(Phase::Running),
        refuses: false,
        changes: Mutex::default(),
    });
    let admin = AdminState::new(room, Arc::new(Metrics::new().unwrap()), Some("t".to_owned()), true);
    let router = router(admin);
    assert_eq!(ask(&router, Request::get("/metrics")).await.status, StatusCode::OK);
    assert_eq!(ask(&router, Request::get("/api/v1/pools")).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn without_a_token_a_write_must_be_local_and_of_no_other_origin() {
    let router = router(admin_with(None, false).0);
    let status = async |headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(Method::POST).uri("/api/v1/reload");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        ask(&router, request).await.status
    };
    let own = ("host", "127.0.0.1:9901");
    assert_eq!(status(&[own]).await, StatusCode::OK);
    assert_eq!(status(&[own, ("origin", "http://127.0.0.1:9901")]).await, StatusCode::OK);
    for refused in [
        &[][..],
        &[("host", "rebound.example")],
        &[("host", "rebound.example"), ("origin", "http://rebound.example")],
        &[own, ("origin", "http://evil.example")],
        &[own, ("origin", "http://127.0.0.1:8080")],
        &[own, ("origin", "null")],
        &[own, ("sec-fetch-site", "cross-site")],
    ] {
        assert_eq!(status(refused).await, StatusCode::FORBIDDEN, "{refused:?}");
    }
}

#[tokio::test]
async fn entity_tags_move_with_what_an_operator_changes_only() {
    let (admin, room) = admin_with(None, false);
    let (router, pool) = (router(admin), &room.pools[0]);
    let tags = async || {
        let backend = ask(&router, Request::get("/api/v1/pools/p/backends/a")).await;
        let whole = ask(&router, Request::get("/api/v1/pools/p")).await;
        (backend.headers["etag"].clone(), whole.headers["etag"].clone())
    };
    let before = tags().await;
    pool.backend("a").unwrap().stats.request_ended(CodeClass::C2xx, Duration::ZERO);
    assert_eq!(tags().await, before);
    pool.backend("a").unwrap().set_weight(7);
    let after = tags().await;
    assert!(after.0 != before.0 && after.1 != before.1);
}

#[tokio::test]
async fn changes_are_made_and_shown() {
    let (admin, room) = admin_with(None, false);
    let router = router(admin);
    let made = write(&router, "POST /api/v1/pools/p/backends", r#"{"name":"c","address":"127.0.0.1:3"}"#).await;
    assert_eq!((made.status, &made.json()["name"]), (StatusCode::CREATED, &json!("c")));
    assert!(made.headers.contains_key("etag"));
    let patched = write(&router, "PATCH /api/v1/pools/p/backends/c", r#"{"weight":7,"state":"drain"}"#).await;
    assert_eq!((patched.status, &patched.json()["weight"]), (StatusCode::OK, &json!(7)));
    for verb in ["drain?timeout=90s", "undrain"] {
        let answer = write(&router, &format!("POST /api/v1/pools/p/backends/c/{verb}"), "").await;
        assert_eq!((answer.status, &answer.json()["name"]), (StatusCode::OK, &json!("c")), "{verb}");
    }
    let switched = write(&router, "PUT /api/v1/pools/p/strategy", r#"{"strategy":"random"}"#).await;
    assert_eq!(switched.json(), json!({ "strategy": "random", "previous": "least_connections" }));
    let removed = write(&router, "DELETE /api/v1/pools/p/backends/c?drain_timeout=30s", "").await;
    assert_eq!((removed.status, &removed.json()["name"]), (StatusCode::ACCEPTED, &json!("c")));
    let expected = [
        Alteration::Add(json!({ "name": "c", "address": "127.0.0.1:3" }).as_object().unwrap().clone()),
        Alteration::Patch { backend: "c".into(), weight: Some(7), max_in_flight: None, state: Some(Wanted::Drain) },
        Alteration::Drain { backend: "c".into(), timeout: Some(Duration::from_secs(90)) },
        Alteration::Undrain { backend: "c".into() },
        Alteration::Strategy(StrategyKind::Random),
        Alteration::Remove { backend: "c".into(), drain_timeout: Some(Duration::from_secs(30)) },
    ];
    assert_eq!(*room.changes.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_removal_that_waits_answers_when_the_backend_is_gone() {
    let (admin, room) = admin_with(None, false);
    let (router, pool) = (router(admin), Arc::clone(&room.pools[0]));
    let held = InFlight::enter(&pool.backend("a").unwrap()).unwrap();
    let waiting = {
        let router = router.clone();
        tokio::spawn(async move { write(&router, "DELETE /api/v1/pools/p/backends/a?wait=true", "").await })
    };
    while pool.backend("a").is_some() {
        tokio::task::yield_now().await;
    }
    pool.tick(Instant::now());
    assert!(!waiting.is_finished() && pool.leaving().len() == 1);
    drop(held);
    pool.tick(Instant::now());
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, &answer.json()["gone"]), (StatusCode::OK, &json!(true)));
}

#[tokio::test]
async fn changes_that_are_refused() {
    let (admin, room) = admin_with(None, false);
    let router = router(admin);
    let backends = "POST /api/v1/pools/p/backends";
    let a = "/api/v1/pools/p/backends/a";
    for (line, body, status, code) in [
        (backends, r#"{"name":"a","address":"x:1"}"#, 409, "name_taken"),
        (backends, r#"{"name":"c"}"#, 422, "invalid"),
        (backends, r#"{"address":"x:1"}"#, 422, "invalid"),
        (backends, r#"{"name":7}"#, 422, "invalid"),
        (backends, "[]", 422, "invalid"),
        (backends, "{", 400, "bad_request"),
        (backends, "", 400, "bad_request"),
        ("POST /api/v1/pools/x/backends", r#"{"name":"c"}"#, 404, "not_found"),
        (&format!("PATCH {a}"), r#"{"weight":0}"#, 422, "invalid"),
        (&format!("PATCH {a}"), r#"{"weight":1001}"#, 422, "invalid"),
        (&format!("PATCH {a}"), r#"{"weight":-1}"#, 422, "invalid"),
        (&format!("PATCH {a}"), r#"{"weihgt":1}"#, 422, "invalid"),
        (&format!("PATCH {a}"), r#"{"state":"asleep"}"#, 422, "invalid"),
        ("PATCH /api/v1/pools/p/backends/x", r#"{"weight":1}"#, 404, "not_found"),
        ("DELETE /api/v1/pools/p/backends/x", "", 404, "not_found"),
        (&format!("DELETE {a}?drain_timeout=soon"), "", 422, "invalid"),
        (&format!("DELETE {a}?drian_timeout=1s"), "", 422, "invalid"),
        (&format!("POST {a}/drain?timeout=-1s"), "", 422, "invalid"),
        ("POST /api/v1/pools/p/backends/x/undrain", "", 404, "not_found"),
        (&format!("PUT {a}/resources"), r#"{"cpu":1.5}"#, 422, "invalid"),
        (&format!("PUT {a}/resources"), "{}", 422, "invalid"),
        ("PUT /api/v1/pools/x/strategy", r#"{"strategy":"random"}"#, 404, "not_found"),
        ("PUT /api/v1/pools/p/health", r#"{"enabled":"no"}"#, 422, "invalid"),
        ("POST /api/v1/pools/x/check", "", 404, "not_found"),
    ] {
        let answer = write(&router, line, body).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status.as_u16(), &error["code"]), (status, &json!(code)), "{line} {body}: {error}");
    }
    let unknown = write(&router, "PUT /api/v1/pools/p/strategy", r#"{"strategy":"best"}"#).await;
    assert_eq!(unknown.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(unknown.json()["known"].as_array().unwrap().len(), StrategyKind::ALL.len());
    assert!(room.changes.lock().unwrap().is_empty());
}

#[tokio::test]
async fn if_match_guards_against_lost_updates() {
    let (admin, _) = admin_with(None, false);
    let router = router(admin);
    let path = "/api/v1/pools/p/backends/a";
    let tag = ask(&router, Request::get(path)).await.headers["etag"].to_str().unwrap().to_owned();
    let line = format!("PATCH {path}");
    let status = async |weight: u32, tag: &str| {
        write_if(&router, &line, &format!(r#"{{"weight":{weight}}}"#), Some(tag)).await.status
    };
    assert_eq!(status(5, &format!("\"other\", {tag}")).await, StatusCode::OK);
    assert_eq!(status(6, &tag).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(ask(&router, Request::get(path)).await.json()["weight"], 5);
    assert_eq!(status(7, "*").await, StatusCode::OK);
    let pool = ask(&router, Request::get("/api/v1/pools/p")).await.headers["etag"].to_str().unwrap().to_owned();
    let strategy = async |tag: &str| {
        write_if(&router, "PUT /api/v1/pools/p/strategy", r#"{"strategy":"random"}"#, Some(tag)).await.status
    };
    assert_eq!(strategy(&pool).await, StatusCode::OK);
    assert_eq!(strategy(&pool).await, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn resources_are_noted_with_their_age() {
    let (admin, room) = admin_with(None, false);
    let router = router(admin);
    let path = "PUT /api/v1/pools/p/backends/b/resources";
    let answer = write(&router, path, r#"{"cpu":0.6,"memory":0.7}"#).await;
    assert_eq!((&answer.json()["resources"]["cpu"], &answer.json()["resources"]["memory"]), (&json!(0.6), &json!(0.7)));
    let again = write(&router, path, r#"{"cpu":1}"#).await.json();
    assert_eq!((&again["resources"]["cpu"], &again["resources"]["memory"]), (&json!(1.0), &json!(0.7)));
    assert!(room.pools[0].backend("b").unwrap().resources().sampled.is_some());
}

#[tokio::test]
async fn checks_on_demand_and_paused() {
    let (admin, room) = admin_with(None, false);
    let router = router(admin);
    let checked = write(&router, "POST /api/v1/pools/p/check", "").await.json();
    let first = json!({ "name": "a", "passed": false, "result": "failed", "detail": "status 500", "took_ms": 2.0,
                        "health": "up" });
    assert_eq!(checked["results"][0], first);
    let path = "PUT /api/v1/pools/p/health";
    assert_eq!(write(&router, path, r#"{"enabled":false}"#).await.json(), json!({ "enabled": false }));
    assert!(room.pools[0].checks_paused());
    assert_eq!(ask(&router, Request::get("/api/v1/pools/p")).await.json()["health_checks"], "paused");
    assert_eq!(write(&router, path, r#"{"enabled":true}"#).await.json(), json!({ "enabled": true }));
    assert!(!room.pools[0].checks_paused());
}

#[tokio::test]
async fn the_description_names_every_route_and_nothing_else() {
    let description = get("/openapi.json").await.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3."));
    let mut found = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            found.push(format!("{} {path}", method.to_uppercase()));
            assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{method} {path}");
            assert!(operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')));
        }
    }
    found.sort_unstable();
    let backend = "/api/v1/pools/{pool}/backends/{name}";
    let mut expected = vec![
        "GET /".to_owned(),
        "GET /metrics".to_owned(),
        "GET /healthz".to_owned(),
        "GET /readyz".to_owned(),
        "GET /api/v1/status".to_owned(),
        "GET /api/v1/pools".to_owned(),
        "GET /api/v1/pools/{pool}".to_owned(),
        "GET /api/v1/pools/{pool}/backends".to_owned(),
        "POST /api/v1/pools/{pool}/backends".to_owned(),
        format!("GET {backend}"),
        format!("PATCH {backend}"),
        format!("DELETE {backend}"),
        format!("POST {backend}/drain"),
        format!("POST {backend}/undrain"),
        format!("PUT {backend}/resources"),
        "POST /api/v1/pools/{pool}/check".to_owned(),
        "PUT /api/v1/pools/{pool}/health".to_owned(),
        "PUT /api/v1/pools/{pool}/strategy".to_owned(),
        "POST /api/v1/reload".to_owned(),
        "POST /api/v1/reload/preview".to_owned(),
        "POST /decide".to_owned(),
        "POST /feedback".to_owned(),
        "GET /api/v1/pools/{pool}/rl".to_owned(),
        "GET /api/v1/pools/{pool}/rl/table".to_owned(),
        "PUT /api/v1/pools/{pool}/rl/table".to_owned(),
        "GET /api/v1/explain".to_owned(),
        "GET /api/v1/explain/{request_id}".to_owned(),
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
    let fields = description["components"]["schemas"]["Backend"]["properties"].as_object().unwrap();
    let shown = get("/api/v1/pools/p/backends/a").await.json();
    let names = |object: &serde_json::Map<String, Value>| {
        let mut names: Vec<_> = object.keys().cloned().collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(fields), names(shown.as_object().unwrap()));
    assert_eq!(description["security"], json!([{ "token": [] }, {}]));
}

#[tokio::test]
async fn over_a_socket_and_until_the_word() {
    let (admin, _) = admin_with(None, false);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, admin, async { drop(stopped.await) }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"}") {
        assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0);
    }
    assert!(text.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&text));
    stop.send(()).unwrap();
    // The idle connection is closed and the server ends.
    assert_eq!(stream.read_buf(&mut text).await.unwrap(), 0);
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
