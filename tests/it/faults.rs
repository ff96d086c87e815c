//! Faults of backends and of the machine: what dies, freezes, vanishes from the network or comes and goes, and a disk
//! without room. Clients notice as little as can be, and nothing is done twice that must not be.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use evenkeel::config::{
    AccessLogFormat, PoolPlan, ProbeKind, Protocol, RetryOn, RoutePlan, TimeoutsPlan, WhenUnhealthy,
};
use socket2::{Domain, Socket, Type};

use crate::support::*;

/// An address that takes no connection and says nothing: the backlog of a socket that nobody accepts from is full, so
/// the kernel drops what asks for more, as a firewall would.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        // The queue holds one or two; the first that is not taken says that it is full.
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(stream);
            assert!(waiting.len() < 64, "the backlog never fills");
        }
        Self { address, _listener: listener, _waiting: waiting }
    }
}

/// A blackholed backend costs the connect timeout and no client anything: nothing was sent, so even a POST moves on.
#[test]
fn a_blackholed_backend_costs_time_and_no_request() {
    let (hole, good) = (BlackHole::new(), TestBackend::saying("served"));
    let proxy = Setup::at(&[hole.address, good.address()])
        .pool(|pool| {
            pool.timeouts.connect = Duration::from_millis(300);
            pool.outlier.consecutive_failures = 2;
        })
        .start();
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "served");
        assert_eq!(client.post("/", "body").text(), "served");
    }
    assert_eq!(good.count(), 8, "each once");
    proxy.comes_to("evenkeel_backend_state", &[("backend", "b0"), ("state", "ejected")], 1.0);
    let reasons = [("backend", "b0"), ("reason", "consecutive_failures")];
    proxy.comes_to("evenkeel_ejections_total", &reasons, 1.0);
}

/// All of them blackholed: an answer after the connect timeout times the attempts, not after the client's patience.
#[test]
fn when_all_are_blackholed_the_answer_comes_in_bounded_time() {
    let holes = [BlackHole::new(), BlackHole::new()];
    let proxy = Setup::at(&[holes[0].address, holes[1].address])
        .pool(|pool| pool.timeouts.connect = Duration::from_millis(200))
        .start();
    let begun = Instant::now();
    let answer = proxy.get("/");
    assert!(matches!(answer.status(), 502..=504), "{}", answer.status());
    // Two attempts of 200 ms, each up to two sweeps late; far below the default of 3 s each.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

/// `total` bounds all of a request: connecting, waiting in the queue, and looking into the body for its route. The other
/// limits are far beyond the patience of a test.
#[test]
fn total_bounds_every_part_of_a_request() {
    const LONG: Duration = Duration::from_secs(600);
    let limits = |pool: &mut PoolPlan| {
        pool.timeouts =
            TimeoutsPlan { total: Duration::from_millis(300), connect: LONG, first_byte: LONG, ..pool.timeouts };
        pool.queue.timeout = LONG;
        pool.max_in_flight = 1;
    };
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let holes = [BlackHole::new(), BlackHole::new()];
        let proxy =
            Setup::at(&[holes[0].address, holes[1].address]).pool(limits).pool(|pool| pool.protocol = protocol).start();
        let answer = proxy.get("/");
        assert_eq!((answer.status(), answer.error_code().as_str()), (504, "backend_timeout"), "{protocol:?}");
    }
    // A tunnel holds the only place: it is bounded by other limits.
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        turn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        held.pass();
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).pool(limits).start();
    let mut tunnel = proxy.client();
    tunnel.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(tunnel.head().status(), 101);
    let answer = proxy.get("/");
    assert_eq!((answer.status(), answer.error_code().as_str()), (504, "backend_timeout"), "in the queue");
    assert_eq!(backend.count(), 1);
    gate.open();
    tunnel.assert_closed();
    // The client's own delay is its own fault.
    let proxy = Setup::new(&[&backend])
        .pool(limits)
        .listener(|listener| listener.body_idle_timeout = LONG)
        .plan(|plan| plan.routes = vec![RoutePlan { model: Some("m".to_owned()), ..RoutePlan::to(0) }])
        .start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{\"mod");
    assert_eq!(client.response().status(), 408, "while the model is looked for");
    assert_eq!(backend.count(), 1);
}

/// A client that stalls its upload is to blame for it, not the backend that waits for it, whichever limit passes first.
#[test]
fn a_stalled_upload_blames_its_client() {
    let backend = TestBackend::new(|turn| drop(turn.until_gone()));
    let proxy = Setup::new(&[&backend])
        .pool(|pool| {
            pool.timeouts.total = Duration::from_millis(300);
            pool.timeouts.first_byte = Duration::from_millis(600);
        })
        .logged()
        .start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    let answer = client.response();
    assert_eq!((answer.status(), answer.error_code().as_str()), (408, "request_timeout"));
    assert_eq!(proxy.log(1)[0]["end"], "rejected");
    let attempts = |result| proxy.metric("evenkeel_upstream_attempts_total", &[("result", result)]);
    assert_eq!((attempts("timeout"), attempts("reset")), (0.0, 0.0));
}

/// A frozen backend (SIGSTOP: the kernel still accepts, nobody answers) fails its probes and gets no more requests; those
/// it has already are answered elsewhere when the operator said that they may.
#[test]
fn a_frozen_backend_is_left_alone() {
    let gate = Gate::new();
    let held = gate.clone();
    let frozen = TestBackend::new(move |turn| {
        held.pass();
        turn.answer(200, "thawed");
    });
    let good = TestBackend::saying("served");
    let proxy = Setup::new(&[&frozen, &good])
        .pool(|pool| {
            pool.health.kind = ProbeKind::Http;
            pool.health.interval = Duration::from_millis(50);
            pool.health.timeout = Duration::from_millis(100);
            pool.timeouts.first_byte = Duration::from_millis(300);
            pool.retry.on.push(RetryOn::Timeout);
        })
        .start();
    proxy.wait_health("b0", "up");
    proxy.wait_health("b1", "up");
    frozen.set_health(0);
    for _ in 0..4 {
        assert_eq!(proxy.get("/").text(), "served");
    }
    proxy.wait_health("b0", "down");
    let asked = frozen.count();
    for _ in 0..10 {
        assert_eq!(proxy.client().post("/", "body").text(), "served");
    }
    assert_eq!(frozen.count(), asked, "no request while it is down");
    gate.open();
    frozen.set_health(200);
    proxy.wait_health("b0", "up");
    until("it serves again", || proxy.get("/").text() == "thawed");
}

/// Every backend is dead: a prompt refusal, and service again as soon as one is found alive.
#[test]
fn all_dead_and_back() {
    for policy in [WhenUnhealthy::FailOpen, WhenUnhealthy::Reject] {
        let mut backends = [(); 3].map(|()| TestBackend::mortal(|turn| turn.answer(200, "alive")));
        let proxy = Setup::new(&backends.iter().collect::<Vec<_>>())
            .pool(|pool| {
                pool.health.kind = ProbeKind::Http;
                pool.health.interval = Duration::from_millis(100);
                pool.when_unhealthy = policy;
            })
            .start();
        for name in ["b0", "b1", "b2"] {
            proxy.wait_health(name, "up");
        }
        assert_eq!(proxy.metric("evenkeel_pool_none_healthy", &[]), 0.0);
        backends.iter_mut().for_each(TestBackend::kill);
        let begun = Instant::now();
        for _ in 0..20 {
            assert!(matches!(proxy.get("/").status(), 502 | 503));
        }
        assert!(begun.elapsed() < PATIENCE, "refused connections are no reason to wait");
        until("the loss is noted", || proxy.metric("evenkeel_pool_none_healthy", &[]) == 1.0);
        backends[1].revive();
        until("service", || proxy.get("/").status() == 200);
        until("the alarm ends", || proxy.metric("evenkeel_pool_none_healthy", &[]) == 0.0);
    }
}

/// One of six dies and comes back again and again under `POST` load: nothing is done twice, and a client that was
/// answered had its request done exactly once.
#[test]
fn a_post_is_done_at_most_once_whatever_dies() {
    let script = |turn: &mut Turn<'_>| {
        if turn.read_body() {
            turn.answer(200, "done");
        } else {
            turn.close();
        }
    };
    let mut backends: Vec<_> = (0..6).map(|_| TestBackend::mortal(script)).collect();
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>())
        .plan(|plan| plan.server.threads = 2)
        .pool(|pool| pool.outlier.base_ejection = Duration::from_millis(100))
        .start();
    let (address, next, stop) = (proxy.address, AtomicUsize::new(0), AtomicUsize::new(0));
    let answered: Vec<(String, u16)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = Vec::new();
                    let mut client = Raw::connect(address);
                    while stop.load(SeqCst) == 0 {
                        let body = format!("order-{}", next.fetch_add(1, SeqCst));
                        let answer = client.post("/", &body);
                        if answer.field("connection").is_some_and(|value| value == "close") {
                            client = Raw::connect(address);
                        }
                        answered.push((body, answer.status()));
                    }
                    answered
                })
            })
            .collect();
        for round in 0..12 {
            let (so_far, victim) = (next.load(SeqCst), round % 6);
            until("load", || next.load(SeqCst) > so_far + 50);
            backends[victim].kill();
            until("load without it", || next.load(SeqCst) > so_far + 150);
            backends[victim].revive();
        }
        stop.store(1, SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let mut done: HashMap<String, usize> = HashMap::new();
    for request in backends.iter().flat_map(TestBackend::requests).filter(|request| request.whole) {
        *done.entry(request.text()).or_default() += 1;
    }
    let twice: Vec<_> = done.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "done more than once: {twice:?}");
    let mut failed = 0;
    for (order, status) in &answered {
        match status {
            200 => assert_eq!(done.get(order), Some(&1), "{order} was answered and not done"),
            502 => failed += 1,
            other => panic!("{order}: {other}"),
        }
    }
    // Only what was under way at the moment of a death. That moment is two here, when the port closes on connections that
    // nobody has accepted and when the connections are reset: at most one request for each client, kill and moment.
    assert!(failed <= 2 * 8 * 12, "{failed} of {} failed", answered.len());
    assert!(answered.len() > 1000);
}

/// Few descriptors: as many clients are taken on as they carry, the others wait in the kernel's queue, the admin server
/// and the backends still get theirs, and whoever waited is served when others leave.
#[test]
fn few_descriptors_make_clients_wait_and_nothing_fail() {
    let backend = TestBackend::saying("served");
    // 80 % of 200, two for each client.
    const CARRIED: usize = 80;
    let binary = Binary::run_after("ulimit -n 200", &Config::new(&[&backend]).text());
    until("the warning", || binary.log().contains("server.max_connections is lowered"));
    let mut clients: Vec<Raw> = (0..CARRIED + 20).map(|_| binary.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let is_answered = |client: &mut Raw| !client.is_quiet();
    until("as many as there is room for are answered", || {
        clients.iter_mut().filter_map(|c| is_answered(c).then_some(())).count() >= CARRIED
    });
    assert_eq!(binary.admin().get("/healthz").status(), 200);
    let (mut served, mut waiting): (Vec<Raw>, Vec<Raw>) = (Vec::new(), Vec::new());
    for mut client in clients {
        if is_answered(&mut client) { served.push(client) } else { waiting.push(client) }
    }
    // Two workers may each take one more than the cap at the same moment.
    assert!((CARRIED..=CARRIED + 2).contains(&served.len()), "{} were taken on", served.len());
    assert!(served.iter_mut().all(|client| client.response().status() == 200), "and none was refused");
    drop(served);
    assert!(waiting.iter_mut().all(|client| client.response().status() == 200), "then the others");
}

/// No descriptor is left when a backend must be connected to: that is our trouble and no backend's. The request is
/// answered with 503, no backend is ejected or found down, it is told once, and all is well as soon as there are some.
/// Who connects meanwhile waits.
#[test]
fn without_descriptors_no_backend_is_blamed() {
    let (backend, other) = (TestBackend::saying("served"), TestBackend::saying("served"));
    let mut config = Config::new(&[&backend, &other]).text();
    config = config.replace(
        "kind = \"none\"\n",
        "kind = \"http\"\npath = \"/health\"\ninterval = \"50ms\"\n[pools.ai.outlier]\nconsecutive_failures = 1\n",
    );
    let binary = Binary::run(&config);
    let up = |samples: &Samples| samples.sum("evenkeel_backend_up", &[]) == 2.0;
    until("probes that pass", || up(&Samples::parse(binary.admin().get("/metrics").text())));
    let mut admin = binary.admin();
    let mut look = || Samples::parse(admin.get("/metrics").text());
    // Those that are to be answered have come before, and wait.
    let mut clients: Vec<Raw> = (0..8).map(|_| binary.client()).collect();
    until("clients", || look().sum("evenkeel_connections", &[]) >= 8.0);
    // Less than it has: whatever wants a new one is refused.
    let before = look().sum("process_max_fds", &[]);
    if !binary.limit("nofile", "8") {
        println!("skipped: there is no prlimit");
        return;
    }
    let starved = |samples: &Samples, family| samples.sum(family, &[("result", "starved")]);
    until("probes that could not ask", || starved(&look(), "evenkeel_health_checks_total") >= 8.0);
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = if number % 2 == 0 { client.get("/") } else { client.post("/", "body") };
        assert_eq!((answer.status(), answer.error_code().as_str()), (503, "overloaded"));
        assert_eq!(answer.field("retry-after").unwrap(), "1");
    }
    let samples = look();
    assert!(up(&samples), "nobody is down or ejected");
    // Up to two attempts each, as far as the budget allows.
    assert!((8.0..=16.0).contains(&starved(&samples, "evenkeel_upstream_attempts_total")));
    assert_eq!(samples.sum("evenkeel_upstream_attempts_total", &[("result", "connect_failed")]), 0.0);
    assert_eq!(samples.sum("evenkeel_ejections_total", &[]), 0.0);
    assert_eq!((backend.count(), other.count()), (0, 0));
    let mut late = binary.client();
    late.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the accept loop pauses", || binary.log().contains("cannot accept connections, trying again"));
    assert!(late.is_quiet());
    assert!(binary.limit("nofile", &before.to_string()));
    assert_eq!(late.response().text(), "served");
    for client in &mut clients {
        assert_eq!(client.get("/").text(), "served", "on the same connection");
    }
    let log = binary.end();
    assert_eq!(log.matches("out of resources").count(), 1, "{log}");
    assert!(!log.contains("request failed"), "{log}");
}

/// A disk without room loses lines of the access log, which are counted; it delays and loses no request.
#[test]
fn a_full_disk_costs_log_lines_and_nothing_else() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full");
        return;
    }
    let backend = TestBackend::saying("served");
    let proxy = Setup::new(&[&backend])
        .plan(|plan| {
            plan.access_log.format = AccessLogFormat::Json;
            plan.access_log.path = Some("/dev/full".into());
        })
        .start();
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.get("/").text(), "served");
    }
    until("lost lines are counted", || proxy.metric("evenkeel_access_log_lost_lines_total", &[]) >= 50.0);
    assert_eq!(client.get("/").text(), "served");
}

/// A disk that takes nothing, or a directory that is none, costs a save of what was learned: told once, what was saved
/// before stays as it is, requests go on, and the next save that can be made is made.
#[test]
fn a_state_that_cannot_be_saved_costs_a_save_and_nothing_else() {
    let backend = TestBackend::saying("served");
    let folder = tempfile::tempdir().unwrap();
    let (directory, aside) = (folder.path().join("state"), folder.path().join("aside"));
    let path = directory.join("ai.rl");
    let config = Config { strategy: "rl", ..Config::new(&[&backend]) }.text();
    let store = format!("[pools.ai.rl.store]\npath = \"{}\"\ninterval = \"1s\"\n", path.display());
    // What a limit of file sizes does to a process is the signal's; ignored, writing fails as on a full disk.
    let binary = Binary::run_after("trap '' XFSZ", &format!("{config}{store}"));
    let mut client = binary.client();
    let mut ask = || (0..20).for_each(|_| assert_eq!(client.get("/").text(), "served"));
    let saved = || std::fs::read(&path).unwrap_or_default();
    let logged = |what: &str| binary.log().matches(what).count();
    ask();
    until("the first save", || !saved().is_empty());
    if !binary.limit("fsize", "0") {
        println!("skipped: there is no prlimit");
        return;
    }
    until("the failure is told", || logged("learned state cannot be written") == 1);
    let kept = saved();
    ask();
    until("no half a file stays", || std::fs::read_dir(&directory).unwrap().count() == 1);
    assert!(binary.log().contains(&path.display().to_string()) && binary.log().contains("cure="), "{}", binary.log());
    assert!(saved() == kept && kept.starts_with(b"evenkeel-rl "), "what was saved before stays");
    assert!(binary.limit("fsize", "unlimited"));
    until("the next save", || saved() != kept);
    until("it is told", || logged("learned state is written again") == 1);
    assert_eq!(logged("learned state cannot be written"), 1, "once");
    std::fs::rename(&directory, &aside).unwrap();
    std::fs::write(&directory, "no directory").unwrap();
    until("the failure is told", || logged("learned state cannot be written") == 2);
    ask();
    std::fs::remove_file(&directory).unwrap();
    std::fs::rename(&aside, &directory).unwrap();
    until("the next save", || logged("learned state is written again") == 2);
    binary.end();
}
