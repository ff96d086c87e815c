//! Sticky sessions over real sockets: pins hold, move only when their backend leaves, and are nobody else's business.

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use evenkeel::config::{PoolPlan, SameSite, Secret, StickyMode, StickyPlan, StrategyKind};

use crate::support::*;

fn sticky(mode: StickyMode) -> impl FnOnce(&mut PoolPlan) {
    move |pool| {
        let name = if mode == StickyMode::Header { "x-session" } else { "evenkeel" };
        pool.strategy.kind = StrategyKind::Random;
        pool.sticky = Some(StickyPlan {
            mode,
            name: name.into(),
            secret: None,
            idle: std::time::Duration::from_secs(1800),
            life: std::time::Duration::from_secs(28_800),
            same_site: SameSite::Lax,
            spill: 0,
        });
    }
}

fn six() -> Vec<TestBackend> {
    (0..6).map(|number| TestBackend::saying(&format!("b{number}"))).collect()
}

/// One request with these header lines.
#[track_caller]
fn ask(proxy: &TestProxy, fields: &str) -> Message {
    let mut client = proxy.client();
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.response()
}

/// The cookie that a response sets, without its attributes.
fn cookie(response: &Message) -> Option<String> {
    response.field("set-cookie").map(|cookie| cookie.split(';').next().unwrap_or_default().to_owned())
}

#[test]
fn a_cookie_pins_a_session_and_is_kept_from_backends() {
    let backends = six();
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>()).pool(sticky(StickyMode::Cookie)).start();
    let first = ask(&proxy, "");
    let set = first.field("set-cookie").unwrap().to_owned();
    assert!(set.ends_with("; Path=/; Max-Age=1800; HttpOnly; SameSite=Lax"), "{set}");
    assert_eq!(first.field("cache-control"), Some("private"));
    let (pin, home) = (cookie(&first).unwrap(), first.text());
    for _ in 0..20 {
        let again = ask(&proxy, &format!("Cookie: a=1; {pin}; b=2\r\n"));
        assert_eq!((again.text(), again.field("set-cookie")), (home.clone(), None));
    }
    let number: usize = home[1..].parse().unwrap();
    let seen = backends[number].requests();
    assert_eq!(seen.last().unwrap().field("cookie"), Some("a=1; b=2"), "our cookie is not the backend's business");
    let forged = format!("{}{}", &pin[..pin.len() - 1], if pin.ends_with('0') { '1' } else { '0' });
    let answer = ask(&proxy, &format!("Cookie: {forged}\r\n"));
    assert!(cookie(&answer).is_some_and(|fresh| fresh != forged), "a forged cookie is replaced");
}

#[test]
fn a_session_moves_only_when_its_own_backend_leaves_and_once() {
    let backends = six();
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>()).pool(sticky(StickyMode::Cookie)).start();
    let mut sessions: Vec<(String, String)> = (0..40)
        .map(|_| {
            let answer = ask(&proxy, "");
            (cookie(&answer).unwrap(), answer.text())
        })
        .collect();
    assert!(sessions.iter().any(|(_, home)| home == "b2"), "chance left b2 without a session");
    let mut moves: HashMap<usize, usize> = HashMap::new();
    // A drain lets pinned sessions stay; a removal moves them at their next request.
    for (line, may_move) in
        [("POST /api/v1/pools/ai/backends/b2/drain", false), ("DELETE /api/v1/pools/ai/backends/b2", true)]
    {
        let done = proxy.change(line, "");
        assert!(done.status() < 300, "{line}: {}", done.text());
        for _ in 0..2 {
            for (number, (pin, home)) in sessions.iter_mut().enumerate() {
                let answer = ask(&proxy, &format!("Cookie: {pin}\r\n"));
                assert_eq!(answer.status(), 200);
                if answer.text() != *home {
                    assert!(may_move && home == "b2", "{home} moved to {} after {line}", answer.text());
                    *moves.entry(number).or_default() += 1;
                    *home = answer.text();
                }
                if let Some(fresh) = cookie(&answer) {
                    *pin = fresh;
                }
            }
        }
    }
    assert!(!moves.is_empty() && moves.values().all(|times| *times == 1), "{moves:?}");
}

#[test]
fn a_session_whose_backend_died_fails_over_and_stays_there() {
    let mut backends = six();
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>()).pool(sticky(StickyMode::Cookie)).logged().start();
    let first = ask(&proxy, "");
    let (pin, home) = (cookie(&first).unwrap(), first.text());
    backends[home[1..].parse::<usize>().unwrap()].kill();
    let moved = ask(&proxy, &format!("Cookie: {pin}\r\n"));
    assert_eq!(moved.status(), 200);
    let (new_pin, new_home) = (cookie(&moved).expect("it is pinned anew"), moved.text());
    assert_ne!(new_home, home);
    for _ in 0..10 {
        assert_eq!(ask(&proxy, &format!("Cookie: {new_pin}\r\n")).text(), new_home);
    }
    let told: Vec<String> = proxy.log(3).iter().map(|line| line["sticky"].as_str().unwrap().to_owned()).collect();
    assert_eq!(&told[..3], ["new", "failover", "hit"]);
}

/// A browser sends every cookie of the name, such as one that a parent domain has set: ours counts wherever it stands.
#[test]
fn our_cookie_is_found_among_others_of_its_name() {
    let backends = six();
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>()).pool(sticky(StickyMode::Cookie)).start();
    let first = ask(&proxy, "");
    let (pin, home) = (cookie(&first).unwrap(), first.text());
    let (name, value) = pin.split_once('=').unwrap();
    let forged = format!("{}f", &value[..value.len() - 1]);
    let other = if forged == value { "0".repeat(value.len()) } else { forged };
    for cookies in [format!("{name}=x; {pin}"), format!("{name}={other}; a=b; {pin}")] {
        for _ in 0..6 {
            let again = ask(&proxy, &format!("Cookie: {cookies}\r\n"));
            assert_eq!((again.text(), again.field("set-cookie")), (home.clone(), None), "{cookies}");
        }
    }
}

#[test]
fn a_header_or_an_address_pins_too() {
    let backends = six();
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>()).pool(sticky(StickyMode::Header)).start();
    let mut homes = std::collections::HashSet::new();
    for session in 0..30 {
        let home = ask(&proxy, &format!("X-Session: s{session}\r\n")).text();
        for _ in 0..3 {
            let again = ask(&proxy, &format!("X-Session: s{session}\r\n"));
            assert_eq!((again.text(), again.field("set-cookie")), (home.clone(), None));
        }
        homes.insert(home);
    }
    assert!(homes.len() > 2, "new sessions follow the base strategy");
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>()).pool(sticky(StickyMode::SourceIp)).start();
    let home = ask(&proxy, "").text();
    assert!((0..20).all(|_| ask(&proxy, "").text() == home));
}

/// A session's requests on one connection, until `stop`: how often it moved. It may move from `b0` to `b5` when that
/// backend's turn to leave has come, and from no other.
fn go_on(address: std::net::SocketAddr, left: &AtomicUsize, stop: &AtomicBool, served: &AtomicUsize) -> Vec<String> {
    let mut client = Raw::connect(address);
    let (mut pin, mut home, mut moves) = (String::new(), String::new(), Vec::new());
    while !stop.load(SeqCst) {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nCookie: {pin}\r\nContent-Length: 4\r\n\r\nbody"));
        let answer = client.response();
        assert_eq!((answer.status(), answer.whole), (200, true), "{answer:?}");
        served.fetch_add(1, SeqCst);
        if let Some(fresh) = cookie(&answer) {
            pin = fresh;
        }
        let now = answer.text();
        if !home.is_empty() && now != home {
            let number = home.strip_prefix('b').and_then(|number| number.parse::<usize>().ok());
            assert!(number.is_some_and(|number| number < left.load(SeqCst)), "from {home} to {now} for no reason");
            moves.push(home);
        }
        home = now;
    }
    assert!(home.starts_with('n'), "at the end all are at new backends, one is at {home}");
    moves
}

/// All six backends are replaced one by one, under 64 connections with a session each.
#[test]
fn a_rolling_replacement_fails_nothing_and_moves_only_who_must() {
    let (old, new) = (six(), (0..6).map(|number| TestBackend::saying(&format!("n{number}"))).collect::<Vec<_>>());
    let proxy = Setup::new(&old.iter().collect::<Vec<_>>())
        .pool(sticky(StickyMode::Cookie))
        .plan(|plan| plan.server.threads = 2)
        .start();
    let (left, stop, served) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    let moves: Vec<Vec<String>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..64).map(|_| scope.spawn(|| go_on(proxy.address, &left, &stop, &served))).collect();
        let some_more = |what: &str| {
            let before = served.load(SeqCst);
            // A client that failed has ended; the others may have too little to do to reach the count.
            until(what, || served.load(SeqCst) > before + 500 || clients.iter().any(|client| client.is_finished()));
        };
        some_more("load");
        for (number, fresh) in new.iter().enumerate() {
            let body = format!(r#"{{"name":"n{number}","address":"{}"}}"#, fresh.address());
            assert_eq!(proxy.change("POST /api/v1/pools/ai/backends", &body).status(), 201);
            some_more("load on seven");
            left.store(number + 1, SeqCst);
            // Sessions move when the drain is over, or when the backend goes before.
            let (timeout, over) = if number % 2 == 0 { ("50ms", true) } else { ("1h", false) };
            let backend = format!("/api/v1/pools/ai/backends/b{number}");
            assert_eq!(proxy.change(&format!("POST {backend}/drain?timeout={timeout}"), "").status(), 200);
            some_more("load on six and one that drains");
            if over {
                until("it is drained", || proxy.admin(&backend).json()["drain"]["remaining_s"] == 0.0);
            }
            let gone = proxy.change(&format!("DELETE {backend}?wait=true"), "");
            assert_eq!((gone.status(), &gone.json()["gone"]), (200, &true.into()), "{}", gone.text());
            let asked = old[number].count();
            some_more("load on six");
            assert_eq!(old[number].count(), asked, "who is gone is asked no more");
        }
        stop.store(true, SeqCst);
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    assert!(moves.iter().any(|moves| !moves.is_empty()));
    for mut moves in moves {
        let all = moves.len();
        moves.sort_unstable();
        moves.dedup();
        assert_eq!(moves.len(), all, "one move for each backend that leaves");
    }
    assert_eq!(proxy.metric("evenkeel_requests_total", &[("code_class", "5xx")]), 0.0);
}

/// With a `secret_file` a session outlives the process; without one a reload of other settings does not end it either.
#[test]
fn sessions_outlive_a_restart_and_a_reload() {
    let backends = six();
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "a secret of some length").unwrap();
    let start = || {
        let with_key = |pool: &mut PoolPlan| {
            sticky(StickyMode::Cookie)(pool);
            pool.sticky.as_mut().unwrap().secret = Some(Secret::File(key.path().to_owned()));
        };
        Setup::new(&backends.iter().collect::<Vec<_>>()).pool(with_key).start()
    };
    let first = start();
    let sessions: Vec<_> = (0..20).map(|_| ask(&first, "")).collect();
    first.end();
    let second = start();
    for session in &sessions {
        let again = ask(&second, &format!("Cookie: {}\r\n", cookie(session).unwrap()));
        assert_eq!((again.text(), cookie(&again)), (session.text(), None));
    }

    let named: Vec<_> = backends.iter().take(6).collect();
    let file = |mode: &str, idle: &str| {
        let mut config = Config::new(&named);
        config.strategy = "random";
        let name = if mode == "cookie" { "evenkeel" } else { "x-session" };
        config.pool = format!("sticky = {{ mode = \"{mode}\", name = \"{name}\", idle = \"{idle}\" }}\n");
        config.text()
    };
    for mode in ["cookie", "header"] {
        let binary = Binary::run(&file(mode, "30m"));
        let ask = |line: &str| {
            let mut client = binary.client();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
            client.response()
        };
        let begun: Vec<(String, String)> = (0..20)
            .map(|number| {
                let mut line = format!("X-Session: s{number}\r\n");
                let answer = ask(&line);
                if mode == "cookie" {
                    line = format!("Cookie: {}\r\n", cookie(&answer).unwrap());
                }
                (line, answer.text())
            })
            .collect();
        assert!(binary.reload(&file(mode, "20m")), "{}", binary.log());
        for (line, home) in &begun {
            assert_eq!(ask(line).text(), *home, "{mode}");
        }
    }
}

/// `spill`: a session leaves a backend that is that much busier than the least busy one, and not before.
#[test]
fn a_session_leaves_a_hot_backend() {
    let gate = Gate::new();
    let backends: Vec<_> = (0..2)
        .map(|number| {
            let gate = gate.clone();
            TestBackend::new(move |turn| {
                if turn.request.target() == "/hold" {
                    gate.pass();
                }
                turn.answer(200, &format!("b{number}"));
            })
        })
        .collect();
    let spilling = |pool: &mut PoolPlan| {
        sticky(StickyMode::Cookie)(pool);
        pool.sticky.as_mut().unwrap().spill = 2;
    };
    let proxy = Setup::new(&backends.iter().collect::<Vec<_>>()).pool(spilling).start();
    let first = ask(&proxy, "");
    let (pin, home) = (cookie(&first).unwrap(), first.text());
    let mut holding = Vec::new();
    for in_flight in 1..=2 {
        let mut client = proxy.client();
        client.send(format!("GET /hold HTTP/1.1\r\nHost: a\r\nCookie: {pin}\r\n\r\n"));
        holding.push(client);
        until("it is held", || gate.arrivals() == in_flight);
        if in_flight == 1 {
            assert_eq!(ask(&proxy, &format!("Cookie: {pin}\r\n")).text(), home, "one more is not hot");
        }
    }
    // Random may choose the hot one again; the pin does not.
    let away = (0..100).any(|_| {
        let answer = ask(&proxy, &format!("Cookie: {pin}\r\n"));
        answer.text() != home && cookie(&answer).is_some()
    });
    assert!(away, "the session stays at a hot backend");
    gate.open();
    assert!(holding.iter_mut().all(|client| client.response().text() == home));
}

/// A shared cache must not keep a response with somebody's cookie; other responses stay as cacheable as they were.
#[test]
fn a_response_with_a_cookie_is_private() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\nContent-Length: 2\r\n\r\nok");
    });
    let proxy = Setup::new(&[&backend]).pool(sticky(StickyMode::Cookie)).start();
    let first = ask(&proxy, "");
    assert_eq!(first.all("cache-control"), ["private, max-age=60"]);
    let again = ask(&proxy, &format!("Cookie: {}\r\n", cookie(&first).unwrap()));
    assert_eq!((again.all("cache-control"), cookie(&again)), (vec!["public, max-age=60"], None));
}
