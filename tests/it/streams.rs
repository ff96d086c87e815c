//! Streams as telemetry: what is counted of them, how one that breaks ends, and how a backend that hangs is told from one
//! that is busy.

use std::time::Duration;

use evenkeel::config::{Engine, ProbeKind, ScrapePlan};
use evenkeel::mock::{Mock, MockProfile};

use crate::support::*;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";

/// Events, bytes, gaps and the first content, apart from the role frame; an answer that is no stream counts in none.
#[test]
fn a_stream_is_counted_piece_by_piece() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        if turn.request.target() == "/plain" {
            return turn.answer(200, "data: none\n\n");
        }
        turn.send(HEAD);
        turn.send(chunked(ROLE));
        held.pass();
        turn.send(chunked(WORD));
        turn.send(chunked("data: [DONE]\n\n"));
        turn.send("0\r\n\r\n");
    });
    let proxy = Setup::new(&[&backend]).start();
    assert_eq!(proxy.get("/plain").status(), 200);
    let count = |name: &str| proxy.metric(name, &[("backend", "b0")]);
    assert_eq!(count("evenkeel_stream_events_total"), 0.0);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answer = client.head();
    client.read_until("\"content\":\"\"");
    until("the role frame is counted", || count("evenkeel_stream_events_total") == 1.0);
    assert_eq!(count("evenkeel_streams_open"), 1.0);
    assert_eq!(count("evenkeel_first_byte_seconds_count"), 1.0, "of the plain answer: attempts count at their end");
    assert_eq!(count("evenkeel_first_token_seconds_count"), 0.0, "a role frame is no token");
    gate.open();
    client.read_until("\n\n\r\n");
    client.body(&mut answer);
    assert!(answer.whole);
    until("the stream is over", || count("evenkeel_streams_open") == 0.0);
    let all = (ROLE.len() + WORD.len() + "data: [DONE]\n\n".len()) as f64;
    assert_eq!(count("evenkeel_first_token_seconds_count"), 1.0);
    assert_eq!((count("evenkeel_stream_events_total"), count("evenkeel_stream_bytes_total")), (3.0, all));
    assert!(count("evenkeel_stream_gap_seconds_count") >= 1.0);
}

/// A stream that dies midway is its backend's failure; with `stream_error_event` the client is told first, but never amid
/// an event.
#[test]
fn a_stream_that_dies_midway_may_say_so() {
    for (enabled, last, told) in [(true, WORD, true), (true, "data: {\"cho", false), (false, WORD, false)] {
        let backend = TestBackend::new(move |turn| {
            turn.send(HEAD);
            turn.send(chunked(last));
            turn.reset();
        });
        let proxy = Setup::new(&[&backend])
            .pool(|pool| {
                pool.stream_error_event = enabled;
                pool.outlier.consecutive_failures = 0;
            })
            .start();
        let answer = proxy.get("/");
        let text = answer.text();
        assert!(!answer.whole && text.starts_with(last), "{enabled} {last}: {text}");
        let event = text.strip_prefix(last).unwrap();
        assert_eq!(event.starts_with("event: error\ndata: {\"error\":{\"message\":"), told, "{text}");
        assert_eq!(event.ends_with("}}\n\n"), told, "{text}");
        proxy.comes_to("evenkeel_upstream_attempts_total", &[("result", "reset")], 1.0);
    }
}

/// An instance freezes: `/health` and `/metrics` go on as if nothing were, but its streams hang. It is ejected as stalled,
/// and traffic goes to the other; when it moves again, it is back.
#[test]
fn a_frozen_instance_is_out_though_its_health_is_green() {
    let mocks = ["one", "two"].map(|name| {
        let profile = MockProfile { tokens: 100_000, first_token_ms: 1.0, ..MockProfile::named(name) };
        Mock::start(std::net::SocketAddr::from(([127, 0, 0, 1], 0)), profile).unwrap()
    });
    let proxy = Setup::at(&mocks.each_ref().map(Mock::address))
        .pool(|pool| {
            pool.engine = Engine::Vllm;
            pool.health.kind = ProbeKind::Http;
            pool.health.interval = Duration::from_millis(400);
            pool.health.stalled_after = Engine::Vllm.profile().stalled_after;
            pool.resources = Some(evenkeel::config::ResourcesPlan {
                scrape: Some(ScrapePlan { interval: Duration::from_millis(100), ..ScrapePlan::default() }),
                ..evenkeel::config::ResourcesPlan::default()
            });
        })
        .start();
    proxy.wait_health("b0", "up");
    proxy.wait_health("b1", "up");
    let body = r#"{"model":"mock-model","stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
    let ask = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let stream = || {
        let mut client = proxy.client();
        client.send(&ask);
        let head = client.head();
        client.read_until("\"content\":\"");
        (client, head.field("x-instance").unwrap().to_owned())
    };
    let streams = [stream(), stream()];
    assert_ne!(streams[0].1, streams[1].1, "round robin: one each");
    mocks[0].set(&serde_json::json!({ "stall": true })).unwrap();
    proxy.wait_health("b0", "ejected");
    let ejections = |reason| proxy.metric("evenkeel_ejections_total", &[("backend", "b0"), ("reason", reason)]);
    assert_eq!((ejections("stalled"), ejections("consecutive_failures")), (1.0, 0.0));
    proxy.comes_to("evenkeel_backend_state", &[("backend", "b1"), ("state", "up")], 1.0);
    let more = [stream(), stream()];
    assert!(more.iter().all(|(_, instance)| instance == "two"));
    mocks[0].set(&serde_json::json!({ "stall": false })).unwrap();
    proxy.wait_health("b0", "up");
    until("it takes traffic again", || stream().1 == "one");
}

/// A backend at full load answers no probe in time; as long as bytes flow, that alone does not take it out.
#[test]
fn a_busy_instance_that_probes_late_stays_in() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        turn.send(HEAD);
        while !held.is_open() {
            turn.send(chunked(WORD));
            std::thread::sleep(Duration::from_millis(5));
        }
        turn.send("0\r\n\r\n");
    });
    let proxy = Setup::new(&[&backend])
        .pool(|pool| {
            pool.engine = Engine::Vllm;
            pool.health.kind = ProbeKind::Http;
            pool.health.interval = Duration::from_millis(200);
            pool.health.timeout = Duration::from_millis(150);
            pool.health.stalled_after = 3;
        })
        .start();
    proxy.wait_health("b0", "up");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answer = client.head();
    backend.set_health(0);
    let late = || proxy.metric("evenkeel_health_checks_total", &[("backend", "b0"), ("result", "timeout")]);
    std::thread::scope(|scope| {
        // The client reads all along.
        scope.spawn(|| client.body(&mut answer));
        until("many probes are late", || late() >= 8.0);
        proxy.comes_to("evenkeel_backend_up", &[("backend", "b0")], 1.0);
        assert_eq!(proxy.metric("evenkeel_ejections_total", &[]), 0.0);
        gate.open();
    });
    assert!(answer.whole);
    // Nothing flows any more: now a late probe counts.
    proxy.wait_health("b0", "down");
}
