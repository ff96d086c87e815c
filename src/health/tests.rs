//! Probes and schedules over real sockets, against listeners that answer by script.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::checker::{check_now, run};
use super::probe;
use crate::backend::{Ending, HealthState, Outcome, Peers, ProbeResult};
use crate::config::{Address, BackendPlan, Engine, HealthPlan, PoolPlan, ProbeKind, Protocol, StrategyKind};
use crate::pool::Pool;

/// Far beyond what any step takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BAD: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
const LOADING: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 13\r\n\r\nLoading model";

/// What a scripted listener does with a connection, once it has read a request head.
#[derive(Clone, Copy)]
enum Reply {
    /// Sends these bytes and closes.
    Bytes(&'static [u8]),
    /// Sends these bytes and holds the connection.
    Hold(&'static [u8]),
}

/// A listener that answers as it was last told, and remembers what it was asked.
struct Scripted {
    address: SocketAddr,
    reply: Arc<Mutex<Reply>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripted = Self { address, reply: Arc::new(Mutex::new(reply)), asked: Arc::default() };
        let (reply, asked) = (Arc::clone(&scripted.reply), Arc::clone(&scripted.asked));
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                asked.lock().unwrap().push(String::from_utf8(head).unwrap());
                let reply = *reply.lock().unwrap();
                match reply {
                    Reply::Bytes(bytes) => drop(stream.write_all(bytes).await),
                    Reply::Hold(bytes) => {
                        let _ = stream.write_all(bytes).await;
                        held.push(stream);
                    }
                }
            }
        });
        scripted
    }

    fn answer(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn plan(&self, name: &str) -> BackendPlan {
        BackendPlan::new(name, Address::Ip(self.address))
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A pool that is probed often.
fn plan(backends: Vec<BackendPlan>) -> PoolPlan {
    let health = HealthPlan { interval: Duration::from_millis(10), timeout: PATIENCE, ..HealthPlan::default() };
    PoolPlan { health, ..PoolPlan::new("p", StrategyKind::RoundRobin, backends) }
}

fn pool(plan: PoolPlan) -> Arc<Pool> {
    Pool::new(Arc::new(plan), Instant::now())
}

fn state(pool: &Pool, name: &str) -> HealthState {
    pool.backend(name).unwrap().health_state()
}

#[tokio::test]
async fn what_an_answer_means() {
    let garbage: &[u8] = b"SSH-2.0-OpenSSH_9\r\n";
    let long = b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nbroken off";
    for (reply, engine, expected, detail) in [
        (Reply::Bytes(OK), Engine::Generic, ProbeResult::Passed, "status 200"),
        (Reply::Bytes(b"HTTP/1.0 204 No Content\r\n\r\n"), Engine::Generic, ProbeResult::Passed, "status 204"),
        (Reply::Bytes(long), Engine::Generic, ProbeResult::Passed, "status 200"),
        (Reply::Hold(long), Engine::Generic, ProbeResult::Passed, "status 200"),
        (Reply::Bytes(BAD), Engine::Generic, ProbeResult::Failed, "status 500"),
        (Reply::Bytes(b"HTTP/1.1 302 Found\r\n\r\n"), Engine::Generic, ProbeResult::Failed, "status 302"),
        (Reply::Bytes(LOADING), Engine::Generic, ProbeResult::Failed, "status 503"),
        (Reply::Bytes(LOADING), Engine::Llamacpp, ProbeResult::Loading, "status 503: loading"),
        (Reply::Bytes(b"HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n"), Engine::Sglang, ProbeResult::Loading, "loading"),
        (Reply::Bytes(b"HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n"), Engine::Tgi, ProbeResult::Busy, "status 503"),
        (Reply::Bytes(garbage), Engine::Generic, ProbeResult::Failed, "HTTP"),
        (Reply::Bytes(b""), Engine::Generic, ProbeResult::Failed, "connection closed"),
    ] {
        let server = Scripted::start(reply).await;
        let plan = PoolPlan { engine, ..plan(vec![server.plan("a")]) };
        let pool = pool(plan);
        let report = probe(&pool.backend("a").unwrap(), &pool.plan(), &pool.clients()).await;
        assert_eq!(report.result, expected, "{detail} {report:?}");
        assert!(report.detail.contains(detail), "{detail} {report:?}");
    }
}

#[tokio::test]
async fn what_is_asked() {
    let server = Scripted::start(Reply::Bytes(OK)).await;
    let mut plan = plan(vec![server.plan("a")]);
    plan.health.path = "/ready?full=1".to_owned();
    plan.health.expect_status = vec![(404, 404), (200, 200)];
    let pool = pool(plan);
    let report = probe(&pool.backend("a").unwrap(), &pool.plan(), &pool.clients()).await;
    assert_eq!(report.result, ProbeResult::Passed);
    let asked = server.asked.lock().unwrap()[0].clone();
    let agent = concat!("user-agent: evenkeel/", env!("CARGO_PKG_VERSION"), " health\r\n");
    assert!(asked.starts_with("GET /ready?full=1 HTTP/1.1\r\n"), "{asked}");
    for header in [&format!("host: {}\r\n", server.address), agent, "connection: close\r\n"] {
        assert!(asked.contains(header), "{header} in {asked}");
    }
}

#[tokio::test]
async fn a_silent_backend_is_a_timeout_and_a_closed_port_a_refusal() {
    let silent = Scripted::start(Reply::Hold(b"")).await;
    let closed = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let mut plan = plan(vec![silent.plan("silent"), BackendPlan::new("closed", Address::Ip(closed))]);
    plan.health.timeout = Duration::from_millis(50);
    let pool = pool(plan.clone());
    let report = probe(&pool.backend("silent").unwrap(), &pool.plan(), &pool.clients()).await;
    assert_eq!(report.result, ProbeResult::TimedOut);
    assert!(report.took >= Duration::from_millis(50));
    plan.health.kind = ProbeKind::Tcp;
    assert_eq!(probe(&pool.backend("silent").unwrap(), &plan, &pool.clients()).await.result, ProbeResult::Passed);
    for kind in [ProbeKind::Tcp, ProbeKind::Http] {
        plan.health.kind = kind;
        let report = probe(&pool.backend("closed").unwrap(), &plan, &pool.clients()).await;
        assert_eq!(report.result, ProbeResult::Failed);
        assert!(report.detail.contains("refused"), "{report:?}");
    }
}

#[tokio::test]
async fn a_name_is_looked_up() {
    let server = Scripted::start(Reply::Bytes(OK)).await;
    let address = Address::Name { host: "localhost".to_owned(), port: server.address.port() };
    let pool = pool(plan(vec![BackendPlan::new("a", address)]));
    assert_eq!(probe(&pool.backend("a").unwrap(), &pool.plan(), &pool.clients()).await.result, ProbeResult::Passed);
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(async |request: http::Request<hyper::body::Incoming>| {
            let status = if request.uri().path() == "/health" { 200 } else { 404 };
            Ok::<_, Infallible>(http::Response::builder().status(status).body(Full::new(Bytes::new())).unwrap())
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    });
    let plan = PoolPlan { protocol: Protocol::H2c, ..plan(vec![BackendPlan::new("a", Address::Ip(address))]) };
    let pool = pool(plan);
    let report = probe(&pool.backend("a").unwrap(), &pool.plan(), &pool.clients()).await;
    assert_eq!((report.result, report.detail.as_str()), (ProbeResult::Passed, "status 200"));
}

/// Serves one gRPC call on a socket of its own: asserts the request, answers with this message and status.
async fn grpc_server(message: &'static [u8], status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(
                (request.headers()["content-type"].to_str().unwrap(), request.headers()["te"].to_str().unwrap()),
                ("application/grpc", "trailers")
            );
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(asked[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'i']);
            let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
            let body = Full::new(Bytes::from_static(message)).with_trailers(std::future::ready(Some(Ok(trailers))));
            Ok::<_, Infallible>(
                http::Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
            )
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    });
    address
}

#[tokio::test]
async fn grpc_health() {
    for (message, status, expected, detail) in [
        (&[0, 0, 0, 0, 2, 8, 1][..], "0", ProbeResult::Passed, "serving"),
        (&[0, 0, 0, 0, 2, 8, 2], "0", ProbeResult::Failed, "not serving"),
        (&[0, 0, 0, 0, 0], "0", ProbeResult::Failed, "serving status unknown"),
        (&[], "5", ProbeResult::Failed, "grpc-status 5: the service is not known there"),
        (&[], "14", ProbeResult::Failed, "grpc-status 14"),
        (&[0, 0, 0, 0, 1, 8], "0", ProbeResult::Failed, "not a health response"),
    ] {
        let address = grpc_server(message, status).await;
        let mut plan = plan(vec![BackendPlan::new("a", Address::Ip(address))]);
        plan.health.kind = ProbeKind::Grpc;
        plan.health.path = "ai".to_owned();
        let pool = pool(plan);
        let report = probe(&pool.backend("a").unwrap(), &pool.plan(), &pool.clients()).await;
        assert_eq!((report.result, report.detail.as_str()), (expected, detail));
    }
}

#[tokio::test]
async fn a_backend_comes_up_goes_down_and_comes_back() {
    let server = Scripted::start(Reply::Hold(b"")).await;
    let pool = pool(plan(vec![server.plan("a")]));
    let checker = tokio::spawn(run(Arc::clone(&pool)));
    eventually("asked at once", || server.asked() == 1).await;
    assert_eq!(state(&pool, "a"), HealthState::Unknown);
    assert_eq!(pool.healthy(), 0, "no traffic before the first pass");
    checker.abort();

    server.answer(Reply::Bytes(OK));
    let checker = tokio::spawn(run(Arc::clone(&pool)));
    eventually("up", || pool.healthy() == 1).await;
    server.answer(Reply::Bytes(BAD));
    eventually("down", || state(&pool, "a") == HealthState::Down).await;
    assert_eq!(pool.healthy(), 0);
    let (report, _) = pool.backend("a").unwrap().probes.last().unwrap();
    assert_eq!(report.detail, "status 500");
    server.answer(Reply::Bytes(OK));
    eventually("up again", || pool.healthy() == 1).await;
    let counts: Vec<_> = pool.backend("a").unwrap().probes.counts().collect();
    let count = |wanted| counts.iter().find(|(result, _)| *result == wanted).unwrap().1;
    assert!(count(ProbeResult::Passed) >= 3 && count(ProbeResult::Failed) >= 3, "{counts:?}");
    checker.abort();
}

#[tokio::test]
async fn a_loading_backend_warms_and_needs_one_pass() {
    let server = Scripted::start(Reply::Bytes(LOADING)).await;
    let mut plan = plan(vec![server.plan("a")]);
    plan.engine = Engine::Llamacpp;
    plan.health.rise = 1_000_000; // not what brings a warm one up
    let pool = pool(plan);
    let checker = tokio::spawn(run(Arc::clone(&pool)));
    eventually("warming", || state(&pool, "a") == HealthState::Warming).await;
    assert_eq!(pool.healthy(), 0);
    server.answer(Reply::Bytes(OK));
    eventually("up", || pool.healthy() == 1).await;
    checker.abort();
}

#[tokio::test]
async fn members_come_and_go_without_touching_the_others() {
    let (kept, added) = (Scripted::start(Reply::Bytes(OK)).await, Scripted::start(Reply::Bytes(OK)).await);
    let mut first = plan(vec![kept.plan("kept")]);
    first.health.interval = Duration::from_secs(3600);
    let pool = pool(first.clone());
    let checker = tokio::spawn(run(Arc::clone(&pool)));
    eventually("kept is up", || state(&pool, "kept") == HealthState::Up).await;

    first.backends.push(added.plan("added"));
    pool.apply(Arc::new(first.clone()), Instant::now());
    eventually("added is up", || state(&pool, "added") == HealthState::Up).await;
    assert_eq!((kept.asked(), added.asked()), (1, 1));

    // A shorter interval reaches the sleeping schedules, and only the member that stays is asked on.
    first.backends.pop();
    first.health.interval = Duration::from_millis(5);
    pool.apply(Arc::new(first), Instant::now());
    eventually("kept is asked again", || kept.asked() >= 5).await;
    assert_eq!(added.asked(), 1);
    checker.abort();
}

#[tokio::test]
async fn paused_checks_rest_and_resume() {
    let server = Scripted::start(Reply::Bytes(OK)).await;
    let pool = pool(plan(vec![server.plan("a")]));
    pool.pause_checks(true);
    let checker = tokio::spawn(run(Arc::clone(&pool)));
    // The checker has run when it has let time pass: an ejection that is over proves it.
    let backend = pool.backend("a").unwrap();
    for _ in 0..5 {
        backend.served(
            &Outcome::failed(Ending::Reset, Duration::ZERO),
            past(),
            &Peers { may_eject: true, usual: None },
        );
    }
    assert_eq!(state(&pool, "a"), HealthState::Ejected);
    eventually("the ejection is over", || state(&pool, "a") == HealthState::Unknown).await;
    assert_eq!(server.asked(), 0);
    pool.pause_checks(false);
    eventually("up", || state(&pool, "a") == HealthState::Up).await;
    checker.abort();
}

/// A moment whose ejections are over by now.
fn past() -> Instant {
    Instant::now().checked_sub(Duration::from_secs(60)).unwrap_or_else(Instant::now)
}

#[tokio::test]
async fn no_checks_at_all() {
    let server = Scripted::start(Reply::Bytes(BAD)).await;
    let mut plan = plan(vec![server.plan("a")]);
    plan.health.kind = ProbeKind::None;
    let pool = pool(plan.clone());
    let checker = tokio::spawn(run(Arc::clone(&pool)));
    assert_eq!(pool.healthy(), 1);
    plan.health.kind = ProbeKind::Http;
    pool.apply(Arc::new(plan), Instant::now());
    eventually("checked and down", || state(&pool, "a") == HealthState::Down).await;
    checker.abort();
}

#[tokio::test]
async fn a_check_on_demand_reports_every_backend_in_order() {
    let (good, bad) = (Scripted::start(Reply::Bytes(OK)).await, Scripted::start(Reply::Bytes(BAD)).await);
    let backends = (0..100).map(|i| if i % 3 == 0 { bad.plan(&format!("{i}")) } else { good.plan(&format!("{i}")) });
    let pool = pool(plan(backends.collect()));
    let reports = check_now(&pool).await;
    assert_eq!(reports.len(), 100);
    for (index, (backend, report)) in reports.iter().enumerate() {
        assert_eq!(*backend.name, *index.to_string());
        assert_eq!(report.result == ProbeResult::Failed, index % 3 == 0, "{index} {report:?}");
    }
    assert_eq!(pool.healthy(), 66);
}
