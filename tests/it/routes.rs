//! Routes: which pool a request goes to, by host, path, header and model; bodies that were looked into arrive untouched.

use std::sync::Arc;

use evenkeel::config::{HostMatch, PoolPlan, RoutePlan};

use crate::http2::support::{Client, request};
use crate::support::*;

/// A pool of its own for each backend, named `p0`, `p1`, …; `routes` name them by number.
fn routed(backends: &[&TestBackend], routes: Vec<RoutePlan>) -> Setup {
    Setup::new(&backends[..1]).plan(|plan| {
        let pool = |(number, backend): (usize, &&TestBackend)| {
            let mut pool = PoolPlan::clone(&plan.pools[0]);
            pool.name = format!("p{number}");
            pool.backends[0].address = evenkeel::config::Address::Ip(backend.address());
            Arc::new(pool)
        };
        plan.pools = backends.iter().enumerate().map(pool).collect();
        plan.routes = routes;
    })
}

fn named(text: &str) -> TestBackend {
    TestBackend::saying(text)
}

fn to(pool: usize) -> RoutePlan {
    RoutePlan::to(pool)
}

fn for_model(model: &str, pool: usize) -> RoutePlan {
    RoutePlan { model: Some(model.to_owned()), ..to(pool) }
}

/// The first route of which all conditions hold, in file order; none: 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_first_matching_route_decides() {
    let (host, wild, path, header, rest) =
        (named("host"), named("wild"), named("path"), named("header"), named("several"));
    let routes = vec![
        RoutePlan {
            host: Some(HostMatch::Exact("api.example.com".into())),
            path_prefix: Some("/both".into()),
            ..to(4)
        },
        RoutePlan { host: Some(HostMatch::Exact("api.example.com".into())), ..to(0) },
        RoutePlan { host: Some(HostMatch::Suffix(".example.com".into())), ..to(1) },
        RoutePlan { path_prefix: Some("/v1".into()), ..to(2) },
        RoutePlan { headers: vec![("x-tier".into(), "gold".into())], ..to(3) },
    ];
    let proxy = routed(&[&host, &wild, &path, &header, &rest], routes).start();
    let cases = [
        ("api.example.com", "/", "", "host"),
        ("API.Example.COM:8443", "/v1", "", "host"),
        ("api.example.com", "/both/x", "", "several"),
        ("api.example.com", "/bothx", "", "host"),
        ("a.example.com", "/v1", "", "wild"),
        ("a.b.example.com", "/", "", "wild"),
        ("example.com", "/v1", "", "path"),
        ("other", "/v1", "", "path"),
        ("other", "/v1/chat?x", "", "path"),
        ("other", "/v1?x", "", "path"),
        ("other", "/v10", "", "404"),
        ("other", "/V1", "", "404"),
        ("other", "/", "X-Tier: gold\r\n", "header"),
        ("other", "/", "X-Tier: iron\r\nX-Tier: gold\r\n", "header"),
        ("other", "/", "X-Tier: Gold\r\n", "404"),
        ("xexample.com", "/", "", "404"),
    ];
    let mut client = proxy.client();
    for (host, path, fields, expected) in cases {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
        let answer = client.response();
        let got = if answer.status() == 404 { "404".to_owned() } else { answer.text() };
        assert_eq!(got, expected, "{host} {path} {fields}");
        if answer.status() == 404 {
            assert_eq!(answer.error_code(), "no_route");
        }
    }
    // Over HTTP/2 the host is `:authority`.
    let client = Client::connect(proxy.address).await;
    for (authority, expected) in [("api.example.com:1", "host"), ("x.example.com", "wild")] {
        let mut asked = request("GET", "/", &[]);
        *asked.uri_mut() = format!("http://{authority}/").parse().unwrap();
        assert_eq!(client.ask(asked, None).await.text(), expected);
    }
    proxy.comes_to("evenkeel_requests_total", &[("pool", "p2")], 4.0);
}

/// An absolute target's host is the one that counts.
#[test]
fn an_absolute_target_names_the_host() {
    let (a, b) = (named("a"), named("b"));
    let host = |name: &str, pool| RoutePlan { host: Some(HostMatch::Exact(name.into())), ..to(pool) };
    let proxy = routed(&[&a, &b], vec![host("a", 0), host("b", 1)]).start();
    let mut client = proxy.client();
    client.send("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().text(), "b");
}

const BODY: &str = "\u{feff} {\"stream\" : true,\n \"messages\":[{\"model\":\"no\",\"content\":\"\\\"model\\\": }{\"}],\
                    \"model\"\t:\t\"large\" , \"tail\": [1, 2.50, 3e0]} ";

/// The model decides, wherever it stands in the body, and the body arrives as it was: with its length, chunked in small
/// pieces, and behind a 100.
#[test]
fn the_model_decides_and_the_body_is_untouched() {
    let (small, large, rest) = (named("small"), named("large"), named("rest"));
    let routes = vec![for_model("small", 0), for_model("large", 1), to(2)];
    let proxy = routed(&[&small, &large, &rest], routes).start();
    let send = |body: &str, framing: &str| {
        let mut client = proxy.client();
        match framing {
            "length" => {
                client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            }
            "chunks" => {
                client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in body.as_bytes().chunks(3) {
                    client.send(chunked(piece));
                }
                client.send("0\r\n\r\n");
            }
            _ => {
                let length = body.len();
                client.send(format!(
                    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
                ));
                assert_eq!(client.head().status(), 100);
                client.send(body);
            }
        }
        client.response().text()
    };
    for framing in ["length", "chunks", "continue"] {
        assert_eq!(send(BODY, framing), "large", "{framing}");
        let seen = large.requests().pop().unwrap();
        assert!(seen.whole && seen.body == BODY.as_bytes(), "{framing}: {}", seen.text());
        assert_eq!(seen.field("content-length").is_some(), framing != "chunks", "{framing}");
        for (body, expected) in [
            ("{\"model\":\"small\"}", "small"),
            ("{\"model\":\"other\"}", "rest"),
            ("{\"model\":7}", "rest"),
            ("{\"messages\":[]}", "rest"),
            ("model=small", "rest"),
            ("{\"a\":{\"model\":\"small\"}}", "rest"),
            ("{\"model\":\"sm", "rest"),
        ] {
            assert_eq!(send(body, framing), expected, "{framing} {body}");
            let backend = match expected {
                "small" => &small,
                _ => &rest,
            };
            assert_eq!(backend.requests().pop().unwrap().text(), body, "{framing}");
        }
    }
    // No body at all.
    assert_eq!(proxy.get("/").text(), "rest");
    assert_eq!(proxy.client().post("/", "").text(), "rest");
}

/// Without a later route, a request whose model no route names has none.
#[test]
fn an_unknown_model_has_no_route() {
    let backend = named("small");
    let proxy = routed(&[&backend], vec![for_model("small", 0)]).start();
    for body in ["{\"model\":\"other\"}", "{}", "[", ""] {
        let mut client = proxy.client();
        let answer = client.post("/", body);
        assert_eq!((answer.status(), answer.error_code().as_str()), (404, "no_route"), "{body}");
        // What was not read of it is never taken for the next request.
        assert_eq!(client.post("/", "{\"model\":\"small\"}").status(), 200, "{body}");
    }
}

/// Only `max_model_peek` bytes are looked into; a model that stands later is not seen, and the body still passes whole.
#[test]
fn a_body_longer_than_the_peek() {
    let (late, rest) = (named("late"), named("rest"));
    let peek = RoutePlan { max_model_peek: 4096, ..for_model("late", 0) };
    let proxy = routed(&[&late, &rest], vec![peek, to(1)]).start();
    for (before, expected) in [(1000, "late"), (100_000, "rest"), (3_000_000, "rest")] {
        let body = format!(
            "{{\"prompt\":\"{}\",\"model\":\"late\",\"rest\":\"{}\"}}",
            "x".repeat(before),
            "y".repeat(100_000)
        );
        assert_eq!(proxy.client().post("/", &body).text(), expected, "{before}");
        let seen = if expected == "late" { &late } else { &rest };
        assert!(seen.requests().pop().unwrap().body == body.as_bytes(), "{before}");
    }
}

/// What was peeked is there for another try too.
#[test]
fn a_peeked_body_can_be_sent_again() {
    let good = named("good");
    let refused = refusing_address();
    let setup = routed(&[&good], vec![for_model("m", 0)]).plan(|plan| {
        let pool = Arc::make_mut(&mut plan.pools[0]);
        let mut dead = pool.backends[0].clone();
        dead.name = "dead".to_owned();
        dead.address = evenkeel::config::Address::Ip(refused);
        pool.backends.insert(0, dead);
    });
    let proxy = setup.start();
    for _ in 0..4 {
        let body = "{\"model\":\"m\",\"x\":1}";
        assert_eq!(proxy.client().post("/", body).text(), "good");
        assert_eq!(good.requests().pop().unwrap().text(), body);
    }
}

/// A client that stalls before its model is known: 408, and no backend heard of it.
#[test]
fn a_client_that_stalls_before_its_model() {
    let backend = named("m");
    let impatient = |listener: &mut evenkeel::config::ListenerPlan| {
        listener.body_idle_timeout = std::time::Duration::from_millis(300);
    };
    let proxy = routed(&[&backend], vec![for_model("m", 0)]).listener(impatient).start();
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{\"mod");
    assert_eq!(client.response().status(), 408);
    assert_eq!(backend.count(), 0);
}
