//! What an operator does to a running balancer while long streams run through it, over HTTP/1.1, HTTP/2 and a WebSocket:
//! not a byte is lost, and where a deadline says so they end. And what an operator is told.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::*;

/// Events of a stream, and between two of them: three seconds in all.
const EVENTS: usize = 30;
const PAUSE: Duration = Duration::from_millis(100);

const UPGRADE: &str = "GET /stream HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn event(number: usize) -> String {
    format!("data: event {number}\n\n")
}

fn all_events() -> String {
    (0..EVENTS).map(event).collect()
}

/// Streams its events, `before` which it does this; says `ok` to everything else.
fn streaming(before: impl Fn(usize) + Send + Sync + 'static) -> TestBackend {
    TestBackend::new(move |turn| {
        if turn.request.target() != "/stream" {
            return turn.answer(200, "ok");
        }
        let raw = turn.request.field("upgrade").is_some();
        turn.send(match raw {
            true => SWITCHED,
            false => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        });
        for number in 0..EVENTS {
            before(number);
            let event = event(number);
            let sent = if raw { turn.send(event) } else { turn.send(chunked(event)) };
            if !sent {
                return turn.close();
            }
        }
        if raw {
            turn.close();
        } else {
            turn.send("0\r\n\r\n");
        }
    })
}

/// A stream of three seconds at least; its last event waits at the gate, so that it still runs when all was done to it.
fn paced(gate: &Gate) -> TestBackend {
    let gate = gate.clone();
    streaming(move |number| {
        std::thread::sleep(PAUSE);
        if number == EVENTS - 1 {
            gate.pass();
        }
    })
}

/// A stream whose second event waits at the gate.
fn held(gate: &Gate) -> TestBackend {
    let gate = gate.clone();
    streaming(move |number| {
        if number == 1 {
            gate.pass();
        }
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Over {
    Http1,
    Http2,
    WebSocket,
}

const ALL: [Over; 3] = [Over::Http1, Over::Http2, Over::WebSocket];

/// A client amid a stream.
struct Watcher {
    over: Over,
    /// What arrived, and whether it ended as it should.
    thread: JoinHandle<(String, bool)>,
}

impl Watcher {
    /// Begins a stream; returns when its first bytes are there.
    fn begin(address: SocketAddr, over: Over) -> Self {
        let (begun, has_begun) = mpsc::channel();
        let thread = std::thread::spawn(move || match over {
            Over::WebSocket => websocket(address, &begun),
            Over::Http1 | Over::Http2 => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::timeout(PATIENCE, stream(address, over, begun)).await.unwrap() })
            }
        });
        has_begun.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{over:?}: no stream: {error}"));
        Self { over, thread }
    }

    /// Waits for its end.
    fn end(self) -> (Over, String, bool) {
        let (text, whole) = self.thread.join().expect("a client of a stream");
        (self.over, text, whole)
    }

    fn assert_nothing_lost(self) {
        let (over, text, whole) = self.end();
        assert_eq!((text.as_str(), whole), (all_events().as_str(), true), "{over:?}");
    }

    fn assert_cut(self) {
        let (over, text, whole) = self.end();
        assert_eq!((text.as_str(), whole), (event(0).as_str(), false), "{over:?}");
    }
}

/// One stream of each protocol.
fn one_of_each(address: SocketAddr) -> Vec<Watcher> {
    ALL.map(|over| Watcher::begin(address, over)).into()
}

async fn stream(address: SocketAddr, over: Over, begun: mpsc::Sender<()>) -> (String, bool) {
    let io = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let request = match over {
        Over::Http2 => http::Request::get(format!("http://{address}/stream")),
        Over::Http1 | Over::WebSocket => http::Request::get("/stream").header("host", "a"),
    };
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = if over == Over::Http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("a handshake");
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("a handshake");
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let mut body = response.expect("a response").into_body();
    let mut text = String::new();
    loop {
        match body.frame().await {
            None => return (text, true),
            Some(Err(_)) => return (text, false),
            Some(Ok(frame)) => {
                text += &frame.data_ref().map(|data| String::from_utf8_lossy(data).into_owned()).unwrap_or_default();
                let _ = begun.send(());
            }
        }
    }
}

/// Whole when the last event has come: the protocol inside the tunnel is not ours.
fn websocket(address: SocketAddr, begun: &mpsc::Sender<()>) -> (String, bool) {
    let mut client = Raw::connect(address);
    client.send(UPGRADE);
    assert_eq!(client.head().status(), 101);
    let mut bytes = client.read_until(event(0));
    begun.send(()).unwrap();
    bytes.extend(client.rest());
    let text = String::from_utf8(bytes).unwrap();
    let whole = text.ends_with(&event(EVENTS - 1));
    (text, whole)
}

/// `METHOD PATH` and a JSON body to the admin server, with further header lines.
#[track_caller]
fn order(binary: &Binary, line: &str, fields: &str, body: &str) -> Message {
    let mut admin = binary.admin();
    let length = body.len();
    admin.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {length}\r\n\r\n{body}"));
    admin.response()
}

#[track_caller]
fn done(binary: &Binary, line: &str, body: &str) -> Message {
    let answer = order(binary, line, "", body);
    assert!((200..300).contains(&answer.status()), "{line}: {} {}", answer.status(), answer.text());
    answer
}

/// A switch of strategy, the removal of one backend through the API and of the other by a reload: all amid six streams.
#[test]
fn streams_survive_what_an_operator_does() {
    let gate = Gate::new();
    let (a, b, c) = (paced(&gate), paced(&gate), TestBackend::saying("new"));
    let all = Config::new(&[&a, &b, &c]);
    let of = |range: std::ops::Range<usize>| Config { backends: all.backends[range].to_vec(), ..all.clone() }.text();
    let binary = Binary::run(&of(0..2));
    // In turn: each backend has streams, and both have been asked.
    let mut watchers = one_of_each(binary.address());
    watchers.extend(one_of_each(binary.address()));
    assert!(a.count() > 0 && b.count() > 0);
    done(&binary, "PUT /api/v1/pools/ai/strategy", r#"{"strategy":"least_connections"}"#);
    let backend = format!(r#"{{"name":"c","address":"{}"}}"#, c.address());
    done(&binary, "POST /api/v1/pools/ai/backends", &backend);
    done(&binary, "DELETE /api/v1/pools/ai/backends/a", "");
    assert!(binary.reload(&of(2..3)), "{}", binary.log());
    assert_eq!(binary.get("/").text(), "new");
    binary.comes_to("evenkeel_in_flight", &[], 6.0);
    gate.open();
    watchers.into_iter().for_each(Watcher::assert_nothing_lost);
    until("nothing in flight", || binary.metric("evenkeel_in_flight", &[]) == 0.0);
    until("both are gone", || {
        ["a", "b"].iter().all(|name| binary.admin().get(&format!("/api/v1/pools/ai/backends/{name}")).status() == 404)
    });
    let log = binary.end();
    assert!(log.contains("drained, no connection cut"), "{log}");
}

#[test]
fn streams_survive_sigterm() {
    let gate = Gate::new();
    let backend = paced(&gate);
    let mut binary = Binary::run(&Config::new(&[&backend]).text());
    let watchers = one_of_each(binary.address());
    binary.signal("TERM");
    until("it drains", || binary.admin().get("/readyz").status() == 503);
    gate.open();
    watchers.into_iter().for_each(Watcher::assert_nothing_lost);
    assert_eq!(binary.wait().code(), Some(0), "{}", binary.log());
    assert!(binary.log().contains("drained, no connection cut"), "{}", binary.log());
}

/// The deadline of a removal ends what is left, whatever it speaks; that of the process too.
#[test]
fn deadlines_end_streams_of_every_protocol() {
    let gate = Gate::new();
    let backend = held(&gate);
    let config = Config {
        server: "threads = 2\ndrain_timeout = \"300ms\"",
        pool: "retry = { attempts = 1 }".to_owned(),
        ..Config::new(&[&backend])
    };
    let binary = Binary::run(&config.text());
    let watchers = one_of_each(binary.address());
    let gone = done(&binary, "DELETE /api/v1/pools/ai/backends/a?drain_timeout=200ms&wait=true", "").json();
    assert_eq!(gone["gone"], true, "{gone}");
    watchers.into_iter().for_each(Watcher::assert_cut);
    until("nothing in flight", || binary.metric("evenkeel_in_flight", &[]) == 0.0);
    assert!(binary.log().contains("drain timeout: requests are cut off"), "{}", binary.log());

    let mut binary = Binary::run(&config.text());
    let watchers = one_of_each(binary.address());
    binary.signal("TERM");
    watchers.into_iter().for_each(Watcher::assert_cut);
    assert_eq!(binary.wait().code(), Some(0), "{}", binary.log());
    assert!(binary.log().contains("drained until the deadline, 3 connections cut"), "{}", binary.log());
    gate.open();
}

/// A pool that a reload drops: its streams may finish, but not for ever.
#[test]
fn the_streams_of_a_dropped_pool_have_a_deadline() {
    let gate = Gate::new();
    let (stays, goes) = (TestBackend::saying("stays"), held(&gate));
    let base = Config { server: "threads = 1\ndrain_timeout = \"300ms\"", ..Config::new(&[&stays]) }.text();
    let both = format!(
        "{base}[pools.old]\nstrategy = \"random\"\n[[pools.old.backends]]\nname = \"o\"\naddress = \"{}\"\n\
         [pools.old.health]\nkind = \"none\"\n[[routes]]\npath_prefix = \"/stream\"\npool = \"old\"\n\
         [[routes]]\npool = \"ai\"\n",
        goes.address()
    );
    let binary = Binary::run(&both);
    let watcher = Watcher::begin(binary.address(), Over::Http1);
    assert!(binary.reload(&base), "{}", binary.log());
    assert_eq!(binary.get("/stream").text(), "stays");
    watcher.assert_cut();
    assert!(binary.log().contains("backend leaves with its pool"), "{}", binary.log());
    gate.open();
}

/// Each change leaves one line that says who did what; a refused one leaves none; and no secret is in anything we say.
#[test]
fn changes_are_told_and_secrets_are_not() {
    let backend = TestBackend::saying("ok");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (token, key) = (file("admin.token", "t0ps3cret-t0ps3cret\n"), file("sticky.key", "k33pquiet-k33pquiet\n"));
    let config = Config::new(&[&backend]).text();
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
    let config = config.replace(admin, &format!("{admin}token_file = \"{token}\"\n"))
        + &format!("[pools.ai.sticky]\nmode = \"cookie\"\nsecret_file = \"{key}\"\n");
    let binary = Binary::run(&config);
    let bearer = "Authorization: Bearer t0ps3cret-t0ps3cret\r\n";
    let mut said = String::new();
    let added = format!(r#"{{"name":"x","address":"{}"}}"#, backend.address());
    let changes = [
        ("POST /api/v1/pools/ai/backends", added.as_str(), "add"),
        ("PATCH /api/v1/pools/ai/backends/x", r#"{"weight":3}"#, "patch"),
        ("POST /api/v1/pools/ai/backends/x/drain?timeout=1m", "", "drain"),
        ("POST /api/v1/pools/ai/backends/x/undrain", "", "undrain"),
        ("PUT /api/v1/pools/ai/strategy", r#"{"strategy":"random"}"#, "strategy"),
        ("PUT /api/v1/pools/ai/health", r#"{"enabled":false}"#, "pause_checks"),
        ("DELETE /api/v1/pools/ai/backends/x", "", "remove"),
        ("POST /api/v1/reload", "", "reload"),
    ];
    let lines = |action: &str| {
        let log = binary.log();
        let of = |line: &&str| line.contains("changed by the admin API") && line.contains(&format!("\"{action}\""));
        log.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
    };
    for (line, body, action) in changes {
        for (fields, status) in [("", 401), ("Authorization: Bearer t0ps3cret-t0ps3cres\r\n", 401), (bearer, 200)] {
            let answer = order(&binary, line, fields, body);
            assert_eq!(answer.status().min(401) / 100, status / 100, "{line}: {}", answer.text());
            said += &answer.text();
        }
        until("the audit line", || !lines(action).is_empty());
        let told = lines(action);
        assert!(told.len() == 1 && told[0].contains("127.0.0.1:"), "{told:?}");
    }
    order(&binary, "PATCH /api/v1/pools/ai/backends/x", bearer, r#"{"weight":0}"#);
    assert_eq!(lines("patch").len(), 1, "a refused change is none");
    for path in ["status", "pools", "pools/ai", "pools/ai/backends/a"] {
        said += &order(&binary, &format!("GET /api/v1/{path}"), bearer, "").text();
    }
    said += &order(&binary, "GET /metrics", bearer, "").text();
    said += &order(&binary, "POST /api/v1/reload/preview", bearer, &config.replace("weight = 1", "weight = 0")).text();
    said += &binary.log();
    assert!(!said.contains("t0ps3cret-t0ps3cret") && !said.contains("k33pquiet-k33pquiet"), "{said}");
}

/// What a reload would do is told before, by the API and by `check --diff`, and nothing is touched.
#[test]
fn a_reload_is_previewed() {
    let (a, b) = (TestBackend::saying("a"), TestBackend::saying("b"));
    let both = Config::new(&[&a, &b]);
    let binary = Binary::run(&both.text());
    done(&binary, "PATCH /api/v1/pools/ai/backends/a", r#"{"weight":5}"#);
    done(&binary, "PATCH /api/v1/pools/ai/backends/b", r#"{"weight":6}"#);
    let mut next = Config { strategy: "random", server: "threads = 3", ..both.clone() };
    next.backends[1].2 = 2;
    let expected = serde_json::json!({
        "changes": ["pools.ai.strategy: round_robin -> random", "pools.ai.backends.b: weight"],
        "restart_required": ["server.threads"],
        "overrides_kept": ["pools.ai.backends.a.weight"],
        "overrides_dropped": ["pools.ai.backends.b.weight"],
    });
    let shown = done(&binary, "POST /api/v1/reload/preview", &next.text()).json();
    assert_eq!(shown["restart_required"], expected["restart_required"], "{shown}");
    assert_eq!(shown["overrides_kept"], expected["overrides_kept"], "{shown}");
    assert_eq!(shown["overrides_dropped"], expected["overrides_dropped"], "{shown}");
    assert_eq!(shown["changes"][0], expected["changes"][0], "{shown}");
    let nothing = done(&binary, "POST /api/v1/reload/preview", "").json();
    assert_eq!(nothing["changes"], serde_json::json!([]), "{nothing}");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), next.text()).unwrap();
    let admin = binary.admin_address().to_string();
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        let output = command.args(["check", "--diff", &admin, "-c"]).arg(file.path()).args(more).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = check(&[]);
    assert_eq!(code, Some(0), "{text}");
    for line in ["  pools.ai.strategy: round_robin -> random\n", "  pools.ai.backends.a.weight\n", "  server.threads"] {
        assert!(text.contains(line), "{text}");
    }
    let (code, text) = check(&["--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["diff"]), (Some(0), &shown));
    let status = binary.admin().get("/api/v1/status").json();
    assert_eq!((&status["config_generation"], &status["pools"][0]["strategy"]), (&1.into(), &"round_robin".into()));
    // What a reload then does is what was shown.
    binary.write(&next.text());
    assert_eq!(done(&binary, "POST /api/v1/reload", "").json(), shown);
    drop(binary);
    assert_eq!(check(&[]).0, Some(1), "nobody there");
}

/// A reload that moves the admin server to a loopback address without a token does not open the one that still listens.
#[test]
fn a_reload_never_opens_an_admin_server_to_others() {
    let backend = TestBackend::saying("ok");
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "t0ps3cret-t0ps3cret").unwrap();
    let inside = Config::new(&[&backend]).text();
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
    let outside = inside
        .replace(admin, &format!("[admin]\naddress = \"0.0.0.0:0\"\ntoken_file = \"{}\"\n", token.path().display()));
    let binary = Binary::run(&outside);
    let bearer = "Authorization: Bearer t0ps3cret-t0ps3cret\r\n";
    binary.write(&inside);
    let answer = order(&binary, "POST /api/v1/reload", bearer, "");
    assert_eq!(answer.json()["restart_required"], serde_json::json!(["admin.address"]), "{}", answer.text());
    assert_eq!(order(&binary, "GET /api/v1/status", "", "").status(), 401);
    assert_eq!(order(&binary, "GET /api/v1/status", bearer, "").status(), 200);
}
