//! The mock over real sockets: shapes, slots, queue, live changes, failures, cancellation.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Mock, MockProfile};

/// Long enough for any machine; only a failing test waits this long.
const DEADLINE: Duration = Duration::from_secs(20);

/// An instance that answers at once and always alike.
fn quick() -> MockProfile {
    MockProfile {
        first_token_ms: 0.0,
        tokens_per_second: 1e6,
        tokens: 8,
        variation: 0.0,
        contention: 0.0,
        ..MockProfile::named("one")
    }
}

/// One whose answers never come within a test: a gate to hold slots with.
fn held() -> MockProfile {
    MockProfile { first_token_ms: 3.6e6, ..quick() }
}

fn start(profile: MockProfile) -> Mock {
    Mock::start(SocketAddr::from(([127, 0, 0, 1], 0)), profile).unwrap()
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: mock\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    stream
}

fn receive(mut stream: TcpStream) -> Reply {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = if head.contains("transfer-encoding: chunked") { dechunk(rest) } else { rest.to_owned() };
    Reply { status, head: head.to_owned(), body }
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
}

fn get(address: SocketAddr, path: &str) -> Reply {
    receive(send(address, "GET", path, ""))
}

fn set(address: SocketAddr, change: &Value) -> Reply {
    receive(send(address, "POST", "/__mock", &change.to_string()))
}

fn chat(more: &Value) -> String {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn send_chat(address: SocketAddr, more: &Value) -> TcpStream {
    send(address, "POST", "/v1/chat/completions", &chat(more))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn number(mock: &Mock, key: &str) -> i64 {
    mock.state()[key].as_i64().unwrap()
}

#[test]
fn a_plain_answer_has_the_openai_shape() {
    let mock = start(quick());
    let reply = receive(send_chat(mock.address(), &json!({})));
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("x-instance: one"), "{}", reply.head);
    let body = reply.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "m");
    assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["completion_tokens"], 8);
    assert!(body["choices"][0]["message"]["content"].as_str().unwrap().starts_with("one says:"));

    let cut = receive(send_chat(mock.address(), &json!({"max_tokens": 3}))).json();
    assert_eq!(cut["usage"]["completion_tokens"], 3);
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    assert_eq!(number(&mock, "answered"), 2);
    assert_eq!(number(&mock, "tokens"), 11);
    assert_eq!(number(&mock, "in_flight"), 0);
}

/// The events of a stream, parsed; the last must be `[DONE]`.
fn events(body: &str) -> Vec<Value> {
    let mut lines: Vec<&str> = body.split("\n\n").filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.pop(), Some("data: [DONE]"));
    lines.iter().map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

#[test]
fn a_streamed_answer_opens_with_the_role_and_ends_with_reason_usage_and_done() {
    let mock = start(MockProfile { tokens_per_second: 400.0, ..quick() });
    let ask = json!({"stream": true, "stream_options": {"include_usage": true}});
    let reply = receive(send_chat(mock.address(), &ask));
    assert!(reply.head.contains("content-type: text/event-stream"), "{}", reply.head);
    let events = events(&reply.body);
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["id"] == events[0]["id"]));
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let (usage, rest) = events.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 8);
    assert!(rest.iter().all(|event| event["usage"].is_null() && event.get("usage").is_some()));
    let (finish, contents) = rest.split_last().unwrap();
    assert_eq!(finish["choices"][0]["delta"], json!({}));
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert!(contents.iter().all(|event| event["choices"][0]["finish_reason"].is_null()));
    let text: String = contents.iter().map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
    let plain = receive(send_chat(mock.address(), &json!({}))).json();
    assert_eq!(plain["choices"][0]["message"]["content"], text);

    let without = receive(send_chat(mock.address(), &json!({"stream": true, "max_tokens": 1})));
    assert!(!without.body.contains("usage"));
    assert!(without.body.contains("\"finish_reason\":\"length\""));
}

#[test]
fn the_first_event_leaves_before_the_answer_is_made() {
    let mock = start(held());
    let stream = send_chat(mock.address(), &json!({"stream": true}));
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"role\":\"assistant\"")));
    assert_eq!(number(&mock, "answered"), 0);
    assert_eq!(number(&mock, "running"), 1);
}

#[test]
fn text_completions_models_and_other_paths_answer() {
    let mock = start(quick());
    let address = mock.address();
    let text = receive(send(address, "POST", "/v1/completions", r#"{"prompt":"hi","max_tokens":2}"#)).json();
    assert_eq!(text["object"], "text_completion");
    assert_eq!(text["choices"][0]["text"], "one says: the");
    let streamed = receive(send(address, "POST", "/v1/completions", r#"{"prompt":"hi","stream":true}"#));
    assert!(events(&streamed.body).iter().all(|event| event["object"] == "text_completion"));
    assert_eq!(get(address, "/v1/models").json()["data"][0]["id"], "mock-model");
    assert_eq!(get(address, "/any/path").json()["instance"], "one");
    assert_eq!(get(address, "/b/100000").body.len(), 100_000);
    assert_eq!(get(address, "/b/x").status, 400);
    assert_eq!(receive(send(address, "POST", "/echo", "back to me")).body, "back to me");
    assert!(get(address, "/headers").body.contains(r#"["host","mock"]"#));
}

#[test]
fn what_it_does_not_understand_is_a_400_in_openai_shape() {
    let mock = start(quick());
    for (path, body) in
        [("/v1/chat/completions", "{"), ("/v1/chat/completions", r#"{"messages":[]}"#), ("/v1/completions", "{}")]
    {
        let reply = receive(send(mock.address(), "POST", path, body));
        assert_eq!(reply.status, 400, "{path} {body}");
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    assert_eq!(get(mock.address(), "/v1/chat/completions").status, 405);
}

#[test]
fn slots_queue_and_refusal_beyond() {
    let mock = start(MockProfile { slots: 2, queue: 1, ..held() });
    let address = mock.address();
    let _running: Vec<_> = (0..2).map(|_| send_chat(address, &json!({}))).collect();
    eventually("two run", || number(&mock, "running") == 2);
    let _waiting = send_chat(address, &json!({}));
    eventually("one waits", || number(&mock, "waiting") == 1);
    let metrics = get(address, "/metrics").body;
    assert!(metrics.contains("vllm:num_requests_running{engine=\"0\",model_name=\"mock-model\"} 2\n"), "{metrics}");
    assert!(metrics.contains("vllm:num_requests_waiting{engine=\"0\",model_name=\"mock-model\"} 1\n"), "{metrics}");

    let refused = receive(send_chat(address, &json!({})));
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);

    // One more slot lets the waiting one run; nobody has to ask again.
    assert_eq!(set(address, &json!({"slots": 3})).status, 200);
    eventually("the third runs", || number(&mock, "running") == 3 && number(&mock, "waiting") == 0);
}

#[test]
fn the_line_is_served_in_order() {
    let mock = start(MockProfile { slots: 1, ..held() });
    let address = mock.address();
    let first = send_chat(address, &json!({}));
    eventually("one runs", || number(&mock, "running") == 1);
    let mut lined_up = Vec::new();
    for place in 1..=3 {
        lined_up.push(send_chat(address, &json!({"max_tokens": place})));
        eventually("one more waits", || number(&mock, "waiting") == place);
    }
    // The running one leaves; the others are quick now, and each waits for the one before it.
    mock.set(&json!({"first_token_ms": 0.0})).unwrap();
    first.shutdown(Shutdown::Both).unwrap();
    for (place, stream) in (2..).zip(lined_up) {
        assert_eq!(receive(stream).json()["id"], format!("chatcmpl-one-{place}"));
    }
    assert_eq!(number(&mock, "cancelled"), 1);
    eventually("all slots are free", || number(&mock, "running") == 0 && number(&mock, "in_flight") == 0);
}

#[test]
fn a_client_that_leaves_frees_its_slot_its_place_and_its_stream() {
    let mock = start(MockProfile { slots: 2, ..held() });
    let address = mock.address();
    let plain = send_chat(address, &json!({}));
    let streamed = send_chat(address, &json!({"stream": true}));
    eventually("two run", || number(&mock, "running") == 2);
    let waiting = send_chat(address, &json!({}));
    eventually("one waits", || number(&mock, "waiting") == 1);
    drop(waiting);
    eventually("the place is free", || number(&mock, "waiting") == 0 && number(&mock, "cancelled") == 1);
    drop(plain);
    drop(streamed);
    eventually("the slots are free", || number(&mock, "running") == 0 && number(&mock, "in_flight") == 0);
    assert_eq!(number(&mock, "cancelled"), 3);
    assert_eq!(number(&mock, "answered"), 0);
    assert_eq!(mock.state()["kv_use"], 0.0);
}

#[test]
fn errors_are_fast_and_counted() {
    let mock = start(MockProfile { error_rate: 1.0, ..held() });
    let reply = receive(send_chat(mock.address(), &json!({})));
    assert_eq!(reply.status, 500);
    assert_eq!(reply.json()["error"]["type"], "server_error");
    assert_eq!(set(mock.address(), &json!({"error_status": 429})).status, 200);
    assert_eq!(get(mock.address(), "/").status, 429);
    assert_eq!(number(&mock, "errors"), 2);
    assert_eq!(get(mock.address(), "/health").status, 200);
}

#[test]
fn a_stall_answers_nothing_while_health_stays_good() {
    let mock = start(MockProfile { stall: true, ..quick() });
    let address = mock.address();
    let stalled = send_chat(address, &json!({"stream": true}));
    eventually("it runs", || number(&mock, "running") == 1);
    assert_eq!(get(address, "/health").status, 200);
    let metrics = get(address, "/metrics").body;
    assert!(metrics.contains("vllm:iteration_tokens_total_count{engine=\"0\",model_name=\"mock-model\"} 0\n"));
    mock.set(&json!({"stall": false})).unwrap();
    assert!(receive(stalled).body.ends_with("data: [DONE]\n\n"));
}

#[test]
fn loading_is_503_everywhere_but_not_for_good() {
    let mock = start(MockProfile { loading: true, ..quick() });
    assert_eq!(get(mock.address(), "/health").status, 503);
    assert_eq!(receive(send_chat(mock.address(), &json!({}))).status, 503);
    set(mock.address(), &json!({"loading": false}));
    assert_eq!(get(mock.address(), "/health").status, 200);
    assert_eq!(receive(send_chat(mock.address(), &json!({}))).status, 200);
}

#[test]
fn a_refusal_cuts_connections_refuses_new_ones_and_ends() {
    let mock = start(held());
    let address = mock.address();
    let mut running = send_chat(address, &json!({}));
    eventually("it runs", || number(&mock, "running") == 1);
    // The order's own answer still arrives.
    let reply = set(address, &json!({"refuse_s": 3600.0}));
    assert_eq!(reply.status, 200);
    eventually("connections are refused", || TcpStream::connect(address).is_err());
    assert_eq!(mock.state()["refusing"], true);
    let mut rest = Vec::new();
    // Closed or reset, but not answered.
    let _ = running.read_to_end(&mut rest);
    assert!(rest.is_empty());
    eventually("the slot is free", || number(&mock, "running") == 0);
    mock.set(&json!({"refuse_s": 0.0})).unwrap();
    eventually("connections are accepted", || TcpStream::connect(address).is_ok());
    assert_eq!(get(address, "/health").status, 200);
}

#[test]
fn a_faulty_change_changes_nothing_and_says_why() {
    let mock = start(quick());
    for (change, word) in [
        (json!({"sped": 2.0}), "sped"),
        (json!({"speed": 0.0}), "speed"),
        (json!({"slots": 0}), "slots"),
        (json!({"error_rate": 2.0, "tokens": 5}), "error_rate"),
        (json!([]), "object"),
    ] {
        let reply = set(mock.address(), &change);
        assert_eq!(reply.status, 400, "{change}");
        assert!(reply.body.contains(word), "{change}: {}", reply.body);
    }
    let profile: MockProfile = serde_json::from_value(mock.state()["profile"].clone()).unwrap();
    assert_eq!(profile, quick());
}

#[test]
fn a_profile_file_is_read_and_checked() {
    let profile = MockProfile::from_toml("name = \"a\"\nspeed = 0.5\nslots = 3\n").unwrap();
    assert_eq!((profile.name.as_str(), profile.speed, profile.slots), ("a", 0.5, 3));
    assert!(MockProfile::from_toml("sped = 1.0").unwrap_err().to_string().contains("sped"));
    assert!(MockProfile::from_toml("speed = -1.0").unwrap_err().to_string().contains("speed"));
}

#[test]
fn a_slower_mock_takes_longer_by_its_own_model() {
    // Virtual time: the durations are the model's, not the machine's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let took = |speed: f64| {
        let profile = MockProfile { first_token_ms: 100.0, tokens_per_second: 100.0, tokens: 11, speed, ..quick() };
        let profile = MockProfile { prefill_tokens_per_second: 0.0, ..profile };
        runtime.block_on(async {
            let engine = std::sync::Arc::new(super::engine::Engine::new(profile));
            let start = tokio::time::Instant::now();
            let slot = engine.slot().await.unwrap();
            engine.job(slot, 1, None).finish().await;
            start.elapsed().as_secs_f64()
        })
    };
    let (fast, slow) = (took(2.0), took(0.5));
    assert!((fast - 0.1).abs() < 0.02, "{fast}");
    assert!((slow - 0.4).abs() < 0.02, "{slow}");
}

#[test]
fn stopping_frees_the_port() {
    let mock = start(held());
    let address = mock.address();
    let _running = send_chat(address, &json!({}));
    eventually("it runs", || number(&mock, "running") == 1);
    mock.stop();
    assert!(TcpStream::connect(address).is_err());
    let again = Mock::start(address, quick()).unwrap();
    assert_eq!(get(again.address(), "/").status, 200);
}
