//! Sticky sessions over real sockets: pins hold, move only when their backend leaves, and are nobody else's business.

use std::collections::HashMap;

use evenkeel::config::{PoolPlan, SameSite, StickyMode, StickyPlan, StrategyKind};

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
