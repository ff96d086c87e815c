//! `ctl` against a scripted server: which requests each verb makes, and what exit each answer leads to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use clap::Parser;
use serde_json::json;

use super::*;
use crate::cli::{Cli, Command};

/// Runs a command line against a server that gives these answers, one a connection; returns how it ended and the
/// requests as `METHOD path body`.
fn drive(line: &str, answers: &[(u16, Value)]) -> (Result<(), Failure>, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers = answers.to_vec();
    let (seen_sender, seen) = mpsc::channel();
    let server = std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            reader.read_line(&mut head).unwrap();
            let mut length = 0;
            let mut authorization = String::new();
            loop {
                let mut field = String::new();
                reader.read_line(&mut field).unwrap();
                if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if let Some(value) = field.strip_prefix("authorization:") {
                    authorization = value.trim_end().to_owned();
                }
                if field == "\r\n" {
                    break;
                }
            }
            let mut request_body = vec![0; length];
            reader.read_exact(&mut request_body).unwrap();
            let head = head.rsplit_once(' ').unwrap().0.to_owned();
            let request_body = String::from_utf8(request_body).unwrap();
            let parts = [head, request_body, authorization.trim().to_owned()];
            seen_sender.send(parts.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")).unwrap();
            let body = body.to_string();
            let length = body.len();
            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
                .unwrap();
        }
    });
    let words = ["evenkeel", "ctl", "--admin", &url].into_iter().chain(line.split(' '));
    let Command::Ctl(args) = Cli::try_parse_from(words).unwrap().command else { panic!("not ctl") };
    let done = args.run();
    server.join().unwrap();
    (done, seen.iter().collect())
}

fn one_pool() -> Value {
    json!([{"name": "ai", "strategy": "rl", "backends": [{"name": "a"}, {"name": "b"}]}])
}

#[test]
fn each_verb_makes_the_contracts_request() {
    let pools = (200, one_pool());
    let ok = (200, json!({}));
    let find = "GET /api/v1/pools";
    for (line, answers, requests) in [
        ("status", vec![ok.clone()], vec!["GET /api/v1/status"]),
        ("backends", vec![pools.clone()], vec![find]),
        ("backends --pool x/y", vec![ok.clone()], vec!["GET /api/v1/pools/x%2Fy"]),
        (
            "add c 127.0.0.1:9 --weight 2",
            vec![pools.clone(), (201, json!({}))],
            vec![find, r#"POST /api/v1/pools/ai/backends {"name":"c","address":"127.0.0.1:9","weight":2}"#],
        ),
        (
            "remove a --drain-timeout 30s",
            vec![pools.clone(), (202, json!({}))],
            vec![find, "DELETE /api/v1/pools/ai/backends/a?drain_timeout=30000ms"],
        ),
        (
            "remove a --pool ai --wait",
            vec![(200, json!({"gone": true}))],
            // The server waits: it knows which one was meant, should another of that name be added meanwhile.
            vec!["DELETE /api/v1/pools/ai/backends/a?wait=true"],
        ),
        (
            "remove a --pool ai --wait --drain-timeout 1s",
            vec![(200, json!({"gone": true}))],
            vec!["DELETE /api/v1/pools/ai/backends/a?drain_timeout=1000ms&wait=true"],
        ),
        (
            "drain b --wait --timeout 1s",
            vec![pools.clone(), ok.clone(), (200, json!({"in_flight": 2})), (200, json!({"in_flight": 0})), ok.clone()],
            vec![
                find,
                "POST /api/v1/pools/ai/backends/b/drain?timeout=1000ms",
                "GET /api/v1/pools/ai/backends/b",
                "GET /api/v1/pools/ai/backends/b",
                "GET /api/v1/pools/ai/backends/b",
            ],
        ),
        ("undrain b --pool ai", vec![ok.clone()], vec!["POST /api/v1/pools/ai/backends/b/undrain"]),
        ("weight b 7 --pool ai", vec![ok.clone()], vec![r#"PATCH /api/v1/pools/ai/backends/b {"weight":7}"#]),
        (
            "strategy random",
            vec![pools.clone(), ok.clone()],
            vec![find, r#"PUT /api/v1/pools/ai/strategy {"strategy":"random"}"#],
        ),
        (
            "resources a --cpu 0.5 --pool ai",
            vec![ok.clone()],
            vec![r#"PUT /api/v1/pools/ai/backends/a/resources {"cpu":0.5}"#],
        ),
        (
            "set a --weight 3 --max-in-flight 0 --state disabled --pool ai",
            vec![ok.clone()],
            vec![r#"PATCH /api/v1/pools/ai/backends/a {"weight":3,"max_in_flight":0,"state":"disabled"}"#],
        ),
        ("checks off --pool ai", vec![ok.clone()], vec![r#"PUT /api/v1/pools/ai/health {"enabled":false}"#]),
        ("check", vec![pools.clone(), ok.clone()], vec![find, "POST /api/v1/pools/ai/check"]),
        ("explain r-1", vec![ok.clone()], vec!["GET /api/v1/explain/r-1"]),
        ("explain --last 3", vec![(200, json!([]))], vec!["GET /api/v1/explain?last=3"]),
        ("rl --pool ai", vec![ok.clone()], vec!["GET /api/v1/pools/ai/rl"]),
        ("rl --export --pool ai", vec![ok.clone()], vec!["GET /api/v1/pools/ai/rl/table"]),
        ("reload", vec![ok.clone()], vec!["POST /api/v1/reload"]),
    ] {
        let (done, seen) = drive(line, &answers);
        assert!(done.is_ok(), "{line}: {done:?}");
        assert_eq!(seen, requests, "{line}");
    }
}

#[test]
fn refusals_are_failures_and_ambiguities_are_usage() {
    let refusal = json!({"error": {"message": "no such strategy; known: rl, random"}});
    let (done, _) = drive("strategy x --pool ai", &[(422, refusal)]);
    let failure = done.unwrap_err();
    assert_eq!((failure.code(), failure.to_string().as_str()), (1, "no such strategy; known: rl, random"));

    let (done, _) = drive("drain nobody", &[(200, one_pool())]);
    assert_eq!(done.unwrap_err().code(), 1);

    let two = json!([{"name": "x", "backends": [{"name": "a"}]}, {"name": "y", "backends": [{"name": "a"}]}]);
    for line in ["drain a", "check"] {
        let failure = drive(line, &[(200, two.clone())]).0.unwrap_err();
        assert_eq!(failure.code(), 2, "{line}");
        assert!(failure.to_string().contains("x, y"), "{line}: {failure}");
    }
}

#[test]
fn nobody_there_is_a_failure_that_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let words = ["evenkeel", "ctl", "status", "--admin", &address];
    let Command::Ctl(args) = Cli::try_parse_from(words).unwrap().command else { panic!("not ctl") };
    let failure = args.run().unwrap_err();
    assert_eq!(failure.code(), 1);
    assert!(failure.to_string().contains(&address), "{failure}");
}

#[test]
fn the_token_is_read_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "s3cret\n").unwrap();
    let (done, seen) = drive(&format!("status --token-file {}", file.display()), &[(200, json!({}))]);
    assert!(done.is_ok());
    assert_eq!(seen, ["GET /api/v1/status Bearer s3cret"]);
}

#[test]
fn an_outline_of_an_answer() {
    let answer = json!({"a": 1, "b": {"c": [1, 2], "d": null}, "e": [{"f": "x", "g": []}]});
    assert_eq!(show::tree(&answer), "a: 1\nb:\n  c: 1, 2\n  d: -\ne:\n  - f: x\n    g: none\n");
}

#[test]
fn the_time_of_a_reload_is_a_date() {
    for (seconds, date) in [
        (0.0, "1970-01-01T00:00:00Z"),
        (951_825_600.0, "2000-02-29T12:00:00Z"),
        (1_763_779_267.9, "2025-11-22T02:41:07Z"),
    ] {
        assert_eq!(show::status(&json!({"last_reload": {"at": seconds}})), format!("last_reload:\n  at: {date}\n"));
    }
    assert_eq!(show::status(&json!({"last_reload": null})), "last_reload: -\n");
}

#[test]
fn who_asked_for_a_pause_is_shown_so() {
    let answer = json!([{"name": "ai", "strategy": "rl", "backends": [
        {"name": "a", "state": "ready", "health": "up", "held_s": 11.2}, {"name": "b", "state": "ready", "health": "up"}]}]);
    let table = show::backends(&answer);
    assert!(table.contains("held 12 s") && table.matches(" up ").count() == 1, "{table}");
}
