//! A request and its response, byte for byte: what passes, what is added, what is removed, how both are framed.

use crate::support::*;

/// Connections of both sides are used again and again.
#[test]
fn connections_are_kept_alive_on_both_sides() {
    let backend = TestBackend::saying("hello");
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    for number in 0..20 {
        let answer = if number % 2 == 0 { client.get("/") } else { client.post("/", "body") };
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"));
    }
    // Another client uses the same upstream connection.
    assert_eq!(proxy.get("/").status(), 200);
    assert_eq!((backend.count(), backend.connections()), (21, 1));
}

/// The whole head that a backend sees: hop-by-hop fields and what `Connection` names are gone, forwarded fields are
/// ours, everything else is as it was.
#[test]
fn a_request_head_reaches_the_backend_exactly() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(
        "POST /a%2f../b//c?q=%zz&x='%22 HTTP/1.1\r\n\
         Host: Example.test:8080\r\n\
         Accept: */*\r\n\
         Connection: keep-alive, X-Secret, x-forwarded-for, Host, Content-Length\r\n\
         Keep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\n\
         TE: trailers, deflate\r\n\
         Upgrade: h2c\r\n\
         X-Secret: 1\r\n\
         X-Custom: one\r\n\
         X-Custom:  two words \r\n\
         X-Forwarded-For: 6.6.6.6\r\n\
         X-Forwarded-For: 7.7.7.7\r\n\
         X-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\n\
         X-Real-IP: 6.6.6.6\r\n\
         Forwarded: for=6.6.6.6\r\n\
         X_Forwarded_For: 6.6.6.6\r\n\
         X-Request-Id: mine\r\n\
         Via: 1.0 first\r\n\
         Content-Length: 4\r\n\r\nbody",
    );
    let answer = client.response();
    let id = answer.field("x-request-id").expect("X-Request-Id").to_owned();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let seen = backend.only_request();
    let expected = format!(
        "POST /a%2f../b//c?q=%zz&x='%22 HTTP/1.1\r\n\
         host: Example.test:8080\r\n\
         accept: */*\r\n\
         x-custom: one\r\n\
         x-custom: two words\r\n\
         via: 1.0 first\r\n\
         x-forwarded-for: 127.0.0.1\r\n\
         x-forwarded-proto: http\r\n\
         x-forwarded-host: Example.test:8080\r\n\
         x-request-id: {id}\r\n\
         via: 1.1 evenkeel\r\n\
         content-length: 4\r\n\r\n"
    );
    assert_eq!(String::from_utf8(seen.raw.clone()).unwrap(), expected);
    assert_eq!(seen.text(), "body");
}

/// A trusted proxy before us is believed and added to.
#[test]
fn a_trusted_proxy_keeps_its_forwarded_fields() {
    let backend = TestBackend::saying("ok");
    let trust = |listener: &mut evenkeel::config::ListenerPlan| {
        listener.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let proxy = Setup::new(&[&backend]).listener(trust).start();
    let mut client = proxy.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: outer\r\nX-Request-Id: theirs-1\r\n\r\n",
    );
    assert_eq!(client.response().field("x-request-id"), Some("theirs-1"));
    let seen = backend.only_request();
    assert_eq!(seen.all("x-forwarded-for").join(", "), "1.2.3.4, 127.0.0.1");
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-forwarded-host"), ["outer"]);
    assert_eq!(seen.all("x-request-id"), ["theirs-1"]);
}

/// What a stranger says of where he comes from reaches no backend: not under another spelling, not behind the body.
#[test]
fn a_stranger_cannot_say_where_he_comes_from() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded_For: 6.6.6.6\r\nX_Real-IP: 6.6.6.6\r\nX-Forwarded-Port: 1\r\n\
         X-Forwarded-Ssl: on\r\nForwarded: for=6.6.6.6\r\nX_Request-Id: mine\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-forwarded-for\r\n\r\n2\r\nhi\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nCookie: a=6.6.6.6\r\n\
         X-Kept: yes\r\nX-Request-Id: mine\r\n\r\n",
    );
    assert_eq!(client.response().status(), 200);
    let seen = backend.only_request();
    let told = |words: &str| {
        seen.fields.iter().chain(&seen.trailers).any(|(name, value)| format!("{name}: {value}").contains(words))
    };
    for words in ["6.6.6.6", "mine", "-port", "-ssl"] {
        assert!(!told(words), "{words}: {seen:?}");
    }
    assert_eq!(seen.trailers, [("x-kept".to_owned(), "yes".to_owned())]);
    assert_eq!((seen.all("x-forwarded-for"), seen.all("x-forwarded-proto")), (vec!["127.0.0.1"], vec!["http"]));
}

/// A response's fields: order within a name, no merging, hop-by-hop fields gone, ours added.
#[test]
fn a_response_head_reaches_the_client() {
    let backend = TestBackend::new(|turn| {
        turn.send(
            "HTTP/1.1 203 Whatever\r\nServer: theirs\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2, c\r\n\
             Connection: keep-alive, X-Inner\r\nKeep-Alive: timeout=5\r\nX-Inner: secret\r\nProxy-Connection: x\r\n\
             X-Odd: \u{80}\u{81}\r\nX-Request-Id: theirs\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
             Content-Length: 2\r\n\r\nok"
                .chars()
                .map(|c| c as u8)
                .collect::<Vec<u8>>(),
        );
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    let answer = client.get("/");
    assert_eq!((answer.status(), answer.text().as_str()), (203, "ok"));
    assert_eq!(answer.all("set-cookie"), ["a=1; Path=/", "b=2, c"]);
    assert_eq!(answer.all("server"), ["theirs"]);
    assert_eq!(answer.all("date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
    assert_eq!(answer.all("x-request-id").len(), 1);
    assert_ne!(answer.field("x-request-id"), Some("theirs"));
    assert!(answer.raw.windows(4).any(|bytes| bytes == [b' ', 0x80, 0x81, b'\r']), "{answer:?}");
    for gone in ["connection", "keep-alive", "x-inner", "proxy-connection", "transfer-encoding"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    // The backend spoke of its own connection only.
    assert_eq!(client.get("/").status(), 203);
    assert_eq!(backend.connections(), 1);
}

/// How a request's body is framed for the client and for the backend.
#[test]
fn request_bodies_keep_their_bytes() {
    /// Request line and framing fields, body on the wire; at the backend: content-length, transfer-encoding, body.
    type Case = (&'static str, &'static str, Option<&'static str>, Option<&'static str>, &'static str);
    let cases: [Case; 9] = [
        ("GET / HTTP/1.1\r\n", "", None, None, ""),
        ("DELETE / HTTP/1.1\r\n", "", None, None, ""),
        ("POST / HTTP/1.1\r\n", "", Some("0"), None, ""),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n", "", Some("0"), None, ""),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\n", "hello", Some("5"), None, "hello"),
        ("GET / HTTP/1.1\r\nContent-Length: 5\r\n", "hello", Some("5"), None, "hello"),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n",
            "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            None,
            Some("chunked"),
            "hello",
        ),
        ("PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n", "0\r\n\r\n", None, Some("chunked"), ""),
        ("POST / HTTP/1.0\r\nContent-Length: 5\r\n", "hello", Some("5"), None, "hello"),
    ];
    for (head, body, length, coding, expected) in cases {
        let backend = TestBackend::saying("ok");
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send(format!("{head}Host: a\r\n\r\n{body}"));
        assert_eq!(client.response().status(), 200, "{head}");
        let seen = backend.only_request();
        let framing = (seen.field("content-length"), seen.field("transfer-encoding"));
        assert_eq!(framing, (length, coding), "{head}");
        assert_eq!((seen.text().as_str(), seen.whole), (expected, true), "{head}");
        if head.contains("1.1") {
            assert_eq!(client.get("/again").status(), 200, "the connection goes on after {head}");
            assert_eq!(backend.connections(), 1, "{head}");
        }
    }
}

/// How a response's body is framed by the backend and for the client, and whether connections live on.
#[test]
fn response_bodies_keep_their_bytes() {
    struct Case {
        request: &'static str,
        response: &'static str,
        body: &'static str,
        length: Option<&'static str>,
        chunked: bool,
        /// Upstream connections after a second request, client connection open after the first.
        connections: usize,
        stays: bool,
    }
    let case = |request, response, body, length, chunked, connections, stays| Case {
        request,
        response,
        body,
        length,
        chunked,
        connections,
        stays,
    };
    let cases = [
        case("GET / HTTP/1.1", "200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", Some("5"), false, 1, true),
        case("GET / HTTP/1.1", "200 OK\r\nContent-Length: 0\r\n\r\n", "", Some("0"), false, 1, true),
        case(
            "GET / HTTP/1.1",
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;e\r\nllo\r\n0\r\n\r\n",
            "hello",
            None,
            true,
            1,
            true,
        ),
        case("GET / HTTP/1.1", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", None, true, 1, true),
        case("GET / HTTP/1.1", "200 OK\r\n\r\nhello", "hello", None, true, 2, true),
        case(
            "GET / HTTP/1.1",
            "200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
            Some("5"),
            false,
            2,
            true,
        ),
        case("GET / HTTP/1.1", "204 No Content\r\n\r\n", "", None, false, 1, true),
        case(
            "GET / HTTP/1.1",
            "304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n",
            "",
            // What a 200 would have (RFC 9110 section 8.6).
            Some("9"),
            false,
            1,
            true,
        ),
        case("HEAD / HTTP/1.1", "200 OK\r\nContent-Length: 12345\r\n\r\n", "", Some("12345"), false, 1, true),
        case("HEAD / HTTP/1.1", "404 No\r\nContent-Length: 3\r\n\r\n", "", Some("3"), false, 1, true),
        case("GET / HTTP/1.0", "200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", Some("5"), false, 1, false),
        case(
            "GET / HTTP/1.0\r\nConnection: keep-alive",
            "200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
            Some("5"),
            false,
            1,
            true,
        ),
        case(
            "GET / HTTP/1.0",
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "hello",
            None,
            false,
            1,
            false,
        ),
        case(
            "GET / HTTP/1.1\r\nConnection: close",
            "200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
            Some("5"),
            false,
            1,
            false,
        ),
    ];
    for Case { request, response, body, length, chunked, connections, stays } in cases {
        let what = format!("{request} -> {response:?}");
        let backend = TestBackend::new(move |turn| {
            turn.send(format!("HTTP/1.1 {response}"));
            // Without framing, and after `close`, the end of the connection is the end of the body.
            if !response.contains("-Length") && !response.contains("chunked") && !response.starts_with("204")
                || response.contains("close")
            {
                turn.close();
            }
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send(format!("{request}\r\nHost: a\r\n\r\n"));
        let answer = client.response_to(request.split(' ').next().unwrap());
        assert_eq!((answer.text().as_str(), answer.whole), (body, true), "{what}");
        assert_eq!(answer.field("content-length"), length, "{what}");
        assert_eq!(answer.field("transfer-encoding"), chunked.then_some("chunked"), "{what}");
        if stays {
            assert!(client.is_quiet(), "{what}");
            client.send(format!("{request}\r\nHost: a\r\n\r\n"));
            assert_eq!(client.response_to(request.split(' ').next().unwrap()).text(), body, "{what}");
        } else {
            client.assert_closed();
            proxy.get("/");
        }
        assert_eq!((backend.count(), backend.connections()), (2, connections), "{what}");
    }
}

/// Trailers pass both ways; to a client only when it said that it takes them.
#[test]
fn trailers_pass() {
    let backend = TestBackend::new(|turn| {
        turn.read_body();
        turn.send(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        );
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-In\r\nTransfer-Encoding: chunked\r\n\r\n\
         1\r\na\r\n0\r\nX-In: 5\r\n\r\n",
    );
    let answer = client.response();
    assert!(answer.whole && answer.text() == "ok", "{answer:?}");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    let seen = backend.only_request();
    assert_eq!((seen.text().as_str(), seen.whole), ("a", true));
    assert_eq!(seen.trailers, [("x-in".to_owned(), "5".to_owned())]);
    let answer = client.get("/");
    assert!(answer.whole && answer.text() == "ok" && answer.trailers.is_empty(), "{answer:?}");
}

/// `Expect: 100-continue`: the backend's word decides when the body is asked for.
#[test]
fn expect_continue_waits_for_the_backends_word() {
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

    // The backend asks for the body.
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        assert_eq!(turn.request.field("expect"), Some("100-continue"));
        held.pass();
        assert!(turn.nothing_more_arrived(), "the body came before it was asked for");
        turn.send("HTTP/1.1 100 Continue\r\n\r\n");
        turn.answer(200, "thanks");
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(post);
    until("the request waits", || gate.arrivals() == 1);
    assert!(client.is_quiet(), "100 before the backend said so");
    gate.open();
    assert_eq!(client.head().status(), 100);
    client.send("body");
    let answer = client.response();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "thanks"));
    assert_eq!(backend.only_request().text(), "body");

    // The backend refuses: the body is never asked for.
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno");
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(post);
    let answer = client.head();
    assert_eq!(answer.status(), 417);
    assert_eq!(client.rest(), b"no", "the body was never sent, so nothing after it can be understood");

    // The backend knows nothing of it: after a while the body is asked for anyway.
    let backend = TestBackend::new(|turn| turn.answer(200, "ok"));
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(post);
    assert_eq!(client.head().status(), 100);
    client.send("body");
    assert_eq!(client.response().status(), 200);
    assert_eq!(backend.only_request().text(), "body");

    // A client that does not wait is served as well, and at once: no backend is asked whether it may send.
    let mut client = proxy.client();
    client.send(format!("{post}body"));
    assert_eq!(client.response().status(), 200);
    let seen = backend.requests().pop().unwrap();
    assert_eq!((seen.field("expect"), seen.text().as_str()), (None, "body"));
}

/// Backends by name: `localhost` leads to whatever address of it answers.
#[test]
fn backends_may_be_named() {
    let backend = TestBackend::saying("by name");
    let name = format!("localhost:{}", backend.address().port());
    let proxy = Setup::new(&[&backend]).pool(|pool| pool.backends[0].address = name.parse().unwrap()).start();
    assert_eq!(proxy.get("/").text(), "by name");
}
