//! HTTP/2 with clients, by prior knowledge, and with backends (`h2c`): what passes in every mix with HTTP/1.1, and how
//! each side hears that the other is gone.

pub(crate) mod support;

mod bodies;
mod ends;
mod floods;
mod frames;
mod hostile;
mod sharing;
mod tools;

use bytes::Bytes;
use evenkeel::config::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue};

use self::support::*;
use crate::support::*;

/// Fields that belong to one HTTP/1.1 connection and never reach anybody over HTTP/2.
const CONNECTION_FIELDS: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// The protocol on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    One,
    Two,
}

const MIXES: [(Side, Side); 4] =
    [(Side::One, Side::One), (Side::One, Side::Two), (Side::Two, Side::One), (Side::Two, Side::Two)];

/// In front of `h2c` backends.
pub(crate) fn h2c(setup: Setup) -> Setup {
    setup.pool(|pool| pool.protocol = Protocol::H2c)
}

/// A request as its backend saw it, whatever the protocol.
#[derive(Debug, Default)]
struct Asked {
    method: String,
    target: String,
    authority: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    whole: bool,
}

impl Asked {
    fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// A response as its client saw it, whatever the protocol.
#[derive(Debug)]
struct Answered {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answered {
    fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

enum AnyBackend {
    One(TestBackend),
    Two(H2Backend),
}

impl AnyBackend {
    /// A backend that does what the request's path says, the same over both protocols.
    fn new(side: Side) -> Self {
        match side {
            Side::One => Self::One(TestBackend::new(|turn| {
                turn.read_body();
                let (path, body) = (turn.request.target().to_owned(), turn.request.body.clone());
                let (status, fields, answer) = answer_to(&path, body);
                let head = turn.request.method() == "HEAD";
                let mut text = format!("HTTP/1.1 {status} Said\r\nKeep-Alive: timeout=5\r\n");
                for (name, value) in &fields {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                if status != 204 && status != 304 {
                    text.push_str(&format!("content-length: {}\r\n", answer.len()));
                }
                turn.send(format!("{text}\r\n"));
                if !head {
                    turn.send(&answer);
                }
            })),
            Side::Two => Self::Two(H2Backend::new(|mut turn| async move {
                turn.read_body().await;
                let (path, body) = (turn.seen.uri.path().to_owned(), std::mem::take(&mut turn.seen.body));
                let (status, mut fields, answer) = answer_to(&path, body);
                let length = answer.len().to_string();
                if status != 204 && status != 304 {
                    fields.push(("content-length", &length));
                }
                let empty = answer.is_empty() || turn.seen.method == http::Method::HEAD;
                if let Some(mut stream) = turn.head(status, &fields, empty)
                    && !empty
                {
                    send_all(&mut stream, answer.into(), true).await;
                }
            })),
        }
    }

    fn setup(&self) -> Setup {
        match self {
            Self::One(backend) => Setup::new(&[backend]),
            Self::Two(backend) => h2c(Setup::at(&[backend.address()])),
        }
    }

    fn last_asked(&self) -> Asked {
        match self {
            Self::One(backend) => {
                let seen = backend.requests().pop().expect("a request");
                Asked {
                    method: seen.method().to_owned(),
                    target: seen.target().to_owned(),
                    authority: seen.all("host").join("|"),
                    fields: seen.fields.clone(),
                    whole: seen.whole,
                    body: seen.body,
                }
            }
            Self::Two(backend) => {
                let seen = backend.seen().pop().expect("a request");
                Asked {
                    method: seen.method.to_string(),
                    target: seen.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                    authority: seen.uri.authority().map(ToString::to_string).unwrap_or_default(),
                    fields: pairs(&seen.headers),
                    body: seen.body,
                    whole: seen.whole,
                }
            }
        }
    }
}

fn answer_to(path: &str, asked: Vec<u8>) -> (u16, Vec<(&'static str, &'static str)>, Vec<u8>) {
    let cookies = vec![("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2")];
    match path {
        "/none" => (204, Vec::new(), Vec::new()),
        "/known" => (304, vec![("etag", "\"e\"")], Vec::new()),
        "/echo" => (200, Vec::new(), asked),
        "/fault" => (500, Vec::new(), b"broken".to_vec()),
        _ => (200, cookies, b"hello".to_vec()),
    }
}

/// Asks over the client side's protocol, on a connection of its own.
async fn ask(
    proxy: &TestProxy,
    side: Side,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Answered {
    match side {
        Side::One => {
            let mut client = proxy.client();
            let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
            for (name, value) in fields {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            if !body.is_empty() {
                head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            }
            client.send(head + "\r\n");
            client.send(body);
            let answer = client.response_to(method);
            assert!(answer.whole, "{answer:?}");
            Answered { status: answer.status(), fields: answer.fields.clone(), body: answer.body }
        }
        Side::Two => {
            let client = Client::connect(proxy.address).await;
            let length = body.len().to_string();
            let mut fields = fields.to_vec();
            if !body.is_empty() {
                fields.push(("content-length", &length));
            }
            let (answer, mut upload) = client.begin(request(method, path, &fields), body.is_empty()).await.unwrap();
            if !body.is_empty() {
                assert!(send_all(&mut upload, Bytes::copy_from_slice(body), true).await);
            }
            let (head, body) = soon("a response", answer).await.expect("a response").into_parts();
            let got = Begun { head, body, _upload: upload }.finish().await.expect("a whole response");
            Answered { status: got.status(), fields: pairs(&got.head.headers), body: got.body }
        }
    }
}

/// Methods, statuses, targets and fields, in all four mixes.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_and_responses_pass_in_every_mix() {
    /// Method, path, body; status and body of the answer.
    type Case = (&'static str, &'static str, &'static [u8], u16, &'static [u8]);
    let cases: [Case; 10] = [
        ("GET", "/hello?q=%zz&x='a'", b"", 200, b"hello"),
        ("HEAD", "/hello", b"", 200, b""),
        ("POST", "/echo", b"some body", 200, b"some body"),
        ("POST", "/echo", b"", 200, b""),
        ("PUT", "/echo", b"x", 200, b"x"),
        ("DELETE", "/none", b"", 204, b""),
        ("GET", "/none", b"", 204, b""),
        ("GET", "/known", b"", 304, b""),
        ("OPTIONS", "/hello", b"", 200, b"hello"),
        ("PROPFIND", "/fault", b"odd method", 500, b"broken"),
    ];
    for (down, up) in MIXES {
        let backend = AnyBackend::new(up);
        let proxy = backend.setup().start();
        for (method, path, body, status, expected) in cases {
            let case = format!("{method} {path} {down:?} -> {up:?}");
            let answer = ask(&proxy, down, method, path, &[("x-custom", "1"), ("x-custom", "2")], body).await;
            assert_eq!((answer.status, answer.body.as_slice()), (status, expected), "{case}");
            let asked = backend.last_asked();
            assert_eq!((asked.method.as_str(), asked.target.as_str()), (method, path), "{case}");
            assert_eq!(asked.authority, "test", "{case}");
            assert!(asked.whole && asked.body == body, "{case} {asked:?}");
            assert_eq!(asked.all("x-custom"), ["1", "2"], "{case}");
            assert_eq!(asked.all("x-forwarded-for"), ["127.0.0.1"], "{case}");
            assert_eq!((asked.all("x-forwarded-proto"), asked.all("x-forwarded-host")), (vec!["http"], vec!["test"]));
            let via = if down == Side::One { "1.1 evenkeel" } else { "2.0 evenkeel" };
            assert_eq!(asked.all("via"), [via], "{case}");
            assert_eq!(asked.all("x-request-id"), answer.all("x-request-id"), "{case}");
            assert_eq!(answer.all("date").len(), 1, "{case}");
            let cookies = answer.all("set-cookie");
            assert!(cookies.is_empty() || cookies == ["a=1; Path=/", "b=2"], "{case} {cookies:?}");
            if path.starts_with("/hello") {
                assert_eq!(answer.all("content-length"), ["5"], "{case}");
                assert_eq!(cookies.len(), 2, "{case}");
            }
            let expected: &[&str] = if body.is_empty() && method != "POST" { &[] } else { &[&body.len().to_string()] };
            // Over HTTP/2 the end of an empty request stands in its head.
            if up == Side::One || !body.is_empty() {
                assert_eq!(asked.all("content-length"), expected, "{case}");
            }
        }
        until("nothing in flight", || proxy.in_flight() == 0.0);
    }
}

/// A response to HEAD without a length gets none, and its stream ends with the head.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_head_without_a_length_gets_none() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    });
    let proxy = Setup::new(&[&backend]).start();
    let answer = ask(&proxy, Side::Two, "HEAD", "/", &[], b"").await;
    assert_eq!((answer.status, answer.all("content-length").len(), answer.body.len()), (200, 0, 0));
}

/// An answer of ours to HEAD says how long it would be, and has no body.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_head_that_is_refused_has_no_body() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let client = Client::connect(proxy.address).await;
    let refused = client.ask(request("HEAD", "/", &[("host", "another")]), None).await;
    assert_eq!((refused.status(), refused.body.len()), (400, 0));
    assert!(refused.field("content-length").is_some_and(|length| length.parse::<u32>().unwrap() > 0));
    assert_eq!(client.get("/").await.text(), "ok");
}

/// Bodies far beyond every window and buffer, both ways at once, byte for byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_bodies_pass_in_every_mix() {
    let body: Vec<u8> = (0..6_000_000u32).map(|n| (n % 251) as u8).collect();
    for (down, up) in MIXES {
        let backend = AnyBackend::new(up);
        let proxy = backend.setup().start();
        let answer = ask(&proxy, down, "POST", "/echo", &[], &body).await;
        assert!(answer.status == 200 && answer.body == body, "{down:?} -> {up:?}: {} bytes", answer.body.len());
    }
}

/// Nothing that belongs to one HTTP/1.1 connection crosses over to HTTP/2, in either direction.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn connection_fields_do_not_reach_http2() {
    // To an HTTP/2 client.
    let backend = TestBackend::new(|turn| {
        turn.send(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Inner\r\nKeep-Alive: timeout=5\r\nX-Inner: secret\r\n\
             Proxy-Connection: x\r\nUpgrade: h2c\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        );
    });
    let proxy = Setup::new(&[&backend]).start();
    let answer = ask(&proxy, Side::Two, "GET", "/", &[], b"").await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"ok".as_slice()));
    for gone in CONNECTION_FIELDS.into_iter().chain(["x-inner", "te"]) {
        assert!(answer.all(gone).is_empty(), "{gone}: {answer:?}");
    }
    // To an HTTP/2 backend.
    let backend = H2Backend::saying("ok");
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let mut client = proxy.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, X-Secret, Upgrade\r\nKeep-Alive: timeout=5\r\n\
         X-Secret: 1\r\nProxy-Connection: keep-alive\r\nUpgrade: websocket\r\nTE: deflate, trailers\r\n\r\n",
    );
    assert_eq!(client.response().text(), "ok");
    let seen = backend.only_request();
    for gone in CONNECTION_FIELDS.into_iter().chain(["x-secret", "host"]) {
        assert!(!seen.headers.contains_key(gone), "{gone}: {seen:?}");
    }
    assert_eq!(seen.headers["te"], "trailers");
    // An answer of our own that closes over HTTP/1.1 does not say so over HTTP/2.
    let answer = ask(&proxy, Side::Two, "TRACE", "/", &[], b"").await;
    assert_eq!((answer.status, answer.all("connection").len()), (405, 0));
}

/// Cookie crumbs of HTTP/2 are one field for an HTTP/1.1 backend, in their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn cookie_crumbs_are_joined_for_http1() {
    for up in [Side::One, Side::Two] {
        let backend = AnyBackend::new(up);
        let proxy = backend.setup().start();
        ask(&proxy, Side::Two, "GET", "/", &[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")], b"").await;
        let asked = backend.last_asked();
        assert_eq!(asked.all("cookie").join("; "), "a=1; b=2; c=3; d=4", "{up:?}");
        if up == Side::One {
            assert_eq!(asked.all("cookie").len(), 1);
        }
    }
}

/// Trailers pass over HTTP/2 both ways, without what may not stand there.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn trailers_pass_over_http2() {
    let backend = H2Backend::new(|mut turn| async move {
        assert!(turn.read_body().await);
        let Some(mut stream) = turn.head(200, &[("content-type", "application/grpc")], false) else { return };
        send_all(&mut stream, "data".into(), false).await;
        let trailers = [("grpc-status", "0"), ("grpc-message", "fine"), ("content-length", "9")];
        stream.send_trailers(map(&trailers)).unwrap();
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let client = Client::connect(proxy.address).await;
    let (answer, mut upload) =
        client.begin(request("POST", "/x.Y/Z", &[("te", "trailers")]), false).await.expect("a stream");
    send_all(&mut upload, "asked".into(), false).await;
    upload.send_trailers(map(&[("x-sum", "7"), ("host", "evil")])).unwrap();
    let (head, body) = soon("a response", answer).await.unwrap().into_parts();
    let got = Begun { head, body, _upload: upload }.finish().await.unwrap();
    assert_eq!((got.status(), got.text().as_str()), (200, "data"));
    assert_eq!(pairs(&got.trailers.unwrap()), pairs(&map(&[("grpc-status", "0"), ("grpc-message", "fine")])));
    let seen = backend.only_request();
    assert_eq!((seen.body.as_slice(), seen.headers["te"].as_bytes()), (b"asked".as_slice(), b"trailers".as_slice()));
    assert_eq!(pairs(&seen.trailers.unwrap()), pairs(&map(&[("x-sum", "7")])));
}

/// Trailers alone: a gRPC error is a head that ends its stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_response_may_be_its_head_alone() {
    let backend = H2Backend::new(|mut turn| async move {
        turn.head(200, &[("content-type", "application/grpc"), ("grpc-status", "12")], true);
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let got = Client::connect(proxy.address).await.get("/").await;
    assert_eq!((got.status(), got.field("grpc-status"), got.body.len()), (200, Some("12"), 0));
    assert!(got.trailers.is_none());
}

/// Between HTTP/1.1 and HTTP/2: a request's always pass; a response's when the client takes them and they are announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn trailers_pass_between_the_protocols() {
    let backend = H2Backend::new(|mut turn| async move {
        turn.read_body().await;
        let Some(mut stream) = turn.head(200, &[("trailer", "x-sum")], false) else { return };
        send_all(&mut stream, "ok".into(), false).await;
        stream.send_trailers(map(&[("x-sum", "7")])).unwrap();
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-In\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nhi\r\n0\r\nX-In: 5\r\n\r\n",
    );
    let answer = client.response();
    assert_eq!((answer.text().as_str(), answer.trailers.as_slice()), ("ok", [("x-sum".into(), "7".into())].as_slice()));
    let seen = backend.only_request();
    assert_eq!(
        (seen.body.as_slice(), pairs(&seen.trailers.unwrap())),
        (b"hi".as_slice(), pairs(&map(&[("x-in", "5")])))
    );
    // A client that takes none gets none, and a whole response.
    let answer = proxy.get("/");
    assert!(answer.whole && answer.text() == "ok" && answer.trailers.is_empty(), "{answer:?}");

    let backend = TestBackend::new(|turn| {
        turn.read_body();
        turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n");
    });
    let proxy = Setup::new(&[&backend]).start();
    let client = Client::connect(proxy.address).await;
    let (answer, mut upload) = client.begin(request("POST", "/", &[]), false).await.unwrap();
    send_all(&mut upload, "hi".into(), false).await;
    upload.send_trailers(map(&[("x-in", "5")])).unwrap();
    let (head, body) = soon("a response", answer).await.unwrap().into_parts();
    let got = Begun { head, body, _upload: upload }.finish().await.unwrap();
    assert_eq!((got.text().as_str(), pairs(&got.trailers.unwrap())), ("ok", pairs(&map(&[("x-sum", "7")]))));
    let seen = backend.only_request();
    assert_eq!((seen.text().as_str(), seen.trailers), ("hi", vec![("x-in".to_owned(), "5".to_owned())]));
}

/// A listener may have HTTP/2 switched off.
#[test]
fn http2_may_be_switched_off() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).listener(|listener| listener.http2.enabled = false).start();
    let mut client = proxy.client();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let rest = client.rest();
    assert!(!rest.starts_with(&[0, 0]), "an HTTP/2 frame: {}", rest.escape_ascii());
    assert_eq!((backend.count(), proxy.get("/").status()), (0, 200));
}

/// A header map of these fields.
pub(crate) fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let field =
        |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) { (name.parse().unwrap(), value.parse().unwrap()) };
    fields.iter().map(field).collect()
}
