//! SIGHUP to the real binary: what changed takes effect, what did not lives on, and a faulty file changes nothing.

use std::collections::BTreeMap;

use evenkeel::config::StrategyKind;

use crate::support::*;

/// How many of `count` requests each backend got.
fn shares(client: &mut Raw, count: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200);
        *shares.entry(answer.text()).or_default() += 1;
    }
    shares
}

fn split(parts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    parts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// Strategy, weights, backends: each takes effect for the next request, on connections that were open all the time.
#[test]
fn what_changed_takes_effect_and_the_rest_lives_on() {
    let backends: Vec<_> = ["a", "b", "c"].map(TestBackend::saying).into();
    let all = Config::new(&backends.iter().collect::<Vec<_>>());
    let mut config = Config { backends: all.backends[..2].to_vec(), ..all.clone() };
    let binary = Binary::run(&config.text());
    let mut client = binary.client();
    assert_eq!(shares(&mut client, 40), split(&[("a", 20), ("b", 20)]));

    config.strategy = "weighted_round_robin";
    config.backends[0].2 = 3;
    assert!(binary.reload(&config.text()));
    assert_eq!(shares(&mut client, 40), split(&[("a", 30), ("b", 10)]));

    config.backends[0].2 = 1;
    config.backends[1].2 = 4;
    assert!(binary.reload(&config.text()));
    assert_eq!(shares(&mut client, 40), split(&[("a", 8), ("b", 32)]));

    config.strategy = "round_robin";
    config.backends = all.backends[1..].to_vec();
    assert!(binary.reload(&config.text()));
    assert_eq!(shares(&mut client, 40), split(&[("b", 20), ("c", 20)]));

    let requests = |backend| binary.metric("evenkeel_requests_total", &[("backend", backend)]);
    until("the counts", || (requests("b"), requests("c")) == (20.0 + 10.0 + 32.0 + 20.0, 20.0));
    assert_eq!(backends[1].connections(), 1, "upstream connections of what stays live on");
    binary.comes_to("evenkeel_config_generation", &[], 4.0);
    binary.comes_to("evenkeel_config_reloads_total", &[("result", "success")], 3.0);
    let log = binary.end();
    assert!(log.contains("pools.ai.strategy: round_robin -> weighted_round_robin"), "{log}");
    assert!(log.contains("- pools.ai.backends.a"), "{log}");
}

/// A stream from a backend that leaves the configuration goes on to its end.
#[test]
fn a_stream_outlives_its_backend_in_the_configuration() {
    let gate = Gate::new();
    let held = gate.clone();
    let leaving = TestBackend::new(move |turn| {
        turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        turn.send(chunked("first"));
        held.pass();
        turn.send(chunked("last"));
        turn.send("0\r\n\r\n");
    });
    let staying = TestBackend::saying("stays");
    let both = Config::new(&[&leaving, &staying]);
    let only = |index: usize| Config { backends: vec![both.backends[index].clone()], ..both.clone() }.text();
    let binary = Binary::run(&only(0));
    let mut client = binary.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut answer = client.head();
    client.read_until("first\r\n");
    assert!(binary.reload(&only(1)));
    assert_eq!(binary.get("/").text(), "stays");
    binary.comes_to("evenkeel_in_flight", &[("backend", "a")], 1.0);
    gate.open();
    client.body(&mut answer);
    assert_eq!((answer.text().as_str(), answer.whole), ("last", true));
    assert_eq!(client.get("/").text(), "stays");
    until("the backend is gone", || binary.metric("evenkeel_in_flight", &[("backend", "a")]) == 0.0);
}

/// Every fault of a file is told, with its place; nothing changes; and the next good file is taken.
#[test]
fn a_faulty_file_changes_nothing() {
    let backend = TestBackend::saying("served");
    let good = Config::new(&[&backend]).text();
    let binary = Binary::run(&good);
    let mut client = binary.client();
    let faulty = good.replace("round_robin", "round_robbin").replace("weight = 1", "weight = 0\nwieght = 2");
    assert!(!binary.reload(&faulty));
    assert_eq!(client.get("/").text(), "served");
    binary.comes_to("evenkeel_config_generation", &[], 1.0);
    binary.comes_to("evenkeel_config_reloads_total", &[("result", "failure")], 1.0);
    let place = |needle: &str| {
        let (line, text) = faulty.lines().enumerate().find(|(_, text)| text.contains(needle)).unwrap();
        // The column of the value, or of an unknown key itself.
        let column = text.find(needle).unwrap() + 1;
        format!("{}:{}:{column}: ", binary.file().display(), line + 1)
    };
    let expected = [place("\"round_robbin\""), place("wieght"), place("0\n".trim_end())];
    until("the faults in the log", || expected[..2].iter().all(|place| binary.log().contains(place)));
    assert!(binary.log().contains("did you mean"), "{}", binary.log());
    let status = binary.admin().get("/api/v1/status").json();
    assert!(!status["last_reload"].is_null() && status["config_generation"] == 1, "{status}");
    let entries = status["last_reload"]["errors"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "one entry a fault: {status}");
    until("the end of the report", || binary.log().contains("configuration not reloaded"));
    let log = binary.log();
    for place in &expected[..2] {
        assert!(entries.iter().any(|entry| entry.as_str().unwrap().starts_with(place)), "{place}: {status}");
    }
    for entry in entries {
        let entry = entry.as_str().unwrap();
        // The log quotes what it is told; up to the first quote it is the same text.
        let told = entry.split('"').next().unwrap();
        assert_eq!(
            log.lines().filter(|line| line.contains(told) && line.contains("ERROR")).count(),
            1,
            "{told}\n{log}"
        );
    }

    // The same through the API; and a broken syntax; and a file that is gone.
    let reload = |binary: &Binary| {
        let mut admin = binary.admin();
        admin.send("POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        admin.response()
    };
    let answer = reload(&binary);
    assert_eq!(answer.status(), 422, "{}", answer.text());
    binary.write("[[");
    assert_eq!(reload(&binary).status(), 422);
    std::fs::remove_file(binary.file()).unwrap();
    assert_eq!(reload(&binary).status(), 422);
    assert_eq!(client.get("/").text(), "served");
    binary.write(&good);
    assert_eq!(reload(&binary).status(), 200);
    binary.comes_to("evenkeel_config_last_reload_success", &[], 1.0);
    assert_eq!(client.get("/").text(), "served");
}

/// What can only be changed by a restart is taken, told, and left as it is.
#[test]
fn what_needs_a_restart_is_told() {
    let backend = TestBackend::saying("served");
    let mut config = Config::new(&[&backend]);
    let binary = Binary::run(&config.text());
    config.server = "threads = 3";
    assert!(binary.reload(&config.text()));
    until("the log", || {
        let log = binary.log();
        log.contains("server.threads") && log.contains("restart_required")
    });
    assert_eq!(binary.get("/").text(), "served");
}

/// Two hundred reloads, strategies, weights and backends changing, under 64 keep-alive connections: no request fails,
/// and no connection is lost.
#[test]
fn two_hundred_reloads_under_load_cost_no_request() {
    let backends: Vec<_> = (0..4).map(|_| TestBackend::saying("ok")).collect();
    let all = Config::new(&backends.iter().collect::<Vec<_>>());
    let binary = Binary::run(&all.text());
    let load = Load::start(binary.address(), 64, "POST");
    until("load", || backends.iter().all(|backend| backend.count() > 50));
    for number in 0..200 {
        let mut config = all.clone();
        config.strategy = StrategyKind::ALL[number % StrategyKind::ALL.len()].name();
        if number % 3 == 0 {
            config.backends.remove(number % 4);
        }
        for backend in &mut config.backends {
            backend.2 = 1 + (number as u32 % 5);
        }
        config.pool = format!("max_in_flight = {}", if number % 7 == 0 { 200 } else { 0 });
        assert!(binary.reload(&config.text()), "reload {number}: {}", binary.log());
    }
    until("more load", || backends.iter().map(TestBackend::count).sum::<usize>() > 1000);
    let done = load.stop();
    assert!(done.failures.is_empty(), "{} of {} failed: {:#?}", done.failures.len(), done.requests, done.failures);
    assert_eq!(done.connections, 64, "a client connection was lost");
    binary.comes_to("evenkeel_config_generation", &[], 201.0);
    assert_eq!(binary.metric("evenkeel_panics_total", &[]), 0.0);
    until("nothing in flight", || binary.metric("evenkeel_in_flight", &[]) == 0.0);
    binary.end();
}
