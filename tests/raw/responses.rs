//! Responses of hostile backends (reliability.md section 5): what a client may see of them.

use crate::support::*;

/// Before one backend that says `bytes` to its first request and then closes (or stays), and that serves the next well.
/// What the client sees, and the proxy's next answer.
fn hostile(bytes: Vec<u8>, stays: bool, request: &str) -> (Option<Message>, Vec<u8>) {
    let what = bytes[..bytes.len().min(80)].escape_ascii().to_string();
    let backend = TestBackend::new(move |turn| {
        if turn.request.target() == "/next" {
            return turn.answer(200, "clean");
        }
        turn.send(&bytes);
        if stays { drop(turn.until_gone()) } else { turn.close() }
    });
    let proxy = Setup::new(&[&backend]).pool(|pool| pool.outlier.consecutive_failures = 0).start();
    let mut client = proxy.client();
    client.send(request);
    let final_head = |client: &mut Raw| loop {
        let head = client.try_head().unwrap_or_else(|error| panic!("{what}: {error}"));
        if head.as_ref().is_none_or(|head| head.status() >= 200) {
            return head;
        }
    };
    let mut answer = final_head(&mut client);
    if let Some(answer) = &mut answer {
        client.body(answer);
    }
    // Whoever comes next gets what is meant for him, on this connection (if it lives) and on any other.
    for _ in 0..2 {
        assert_eq!(proxy.get("/next").text(), "clean", "{what}");
    }
    let rest = if answer.as_ref().is_some_and(|answer| answer.whole) && !request.contains("close") {
        if client.try_send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").is_ok()
            && let Ok(Some(mut next)) = client.try_head()
        {
            client.body(&mut next);
            assert_eq!(next.text(), "clean", "{what}");
        }
        Vec::new()
    } else {
        client.rest()
    };
    let seen = backend.requests().iter().filter(|seen| seen.target() == "/").count();
    assert_eq!(seen, 1, "{what}: asked again");
    (answer, rest)
}

/// A POST, so that nothing is asked again.
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

/// Heads that are no HTTP, or whose framing cannot be trusted, are a 502.
#[test]
fn heads_that_are_refused() {
    let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello").into_bytes();
    let flood = "HTTP/1.1 102 Processing\r\n\r\n".repeat(21) + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let cases: Vec<Vec<u8>> = vec![
        b"garbage\r\n\r\n".to_vec(),
        b"\r\n\r\n".to_vec(),
        b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 -20 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
        b"\x15\x03\x03\x00\x02\x02\x28".to_vec(),
        ok("Content-Length: 5\r\nContent-Length: 6"),
        ok("Content-Length: 5, 6"),
        ok("Content-Length: +5"),
        ok("Content-Length: -5"),
        ok("Content-Length: 5 5"),
        ok("Content-Length: 0x5"),
        ok("Content-Length:"),
        ok("Content-Length: 18446744073709551616"),
        ok("Content-Length: 5\r\nX : y"),
        ok("Content-Length: 5\r\n X: y"),
        ok("Content-Length: 5\r\nX: y\r\n z"),
        ok("Content-Length: 5\r\nX: a\0b"),
        ok("Content-Length: 5\r\nX: a\rb"),
        ok("Content-Length: 5\r\nX: a\x01b"),
        ok("Content-Length: 5\r\nno colon"),
        ok("Content-Length: 5\r\n: y"),
        ok("Transfer-Encoding: gzip"),
        ok("Transfer-Encoding: gzip, chunked"),
        ok("Transfer-Encoding: chunked, chunked"),
        ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ok("Transfer-Encoding: xchunked"),
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(),
        ok(&format!("Content-Length: 5\r\nX: {}", "y".repeat(64 << 10))),
        ok(&"X: y\r\n".repeat(201)),
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello".to_vec(),
        flood.into_bytes(),
    ];
    for bytes in cases {
        for stays in [false, true] {
            // What is not the end of a head, and no more comes: that is a timeout, not a refusal.
            let endless = bytes == b"\r\n\r\n" || !bytes.windows(4).any(|end| end == b"\r\n\r\n");
            if stays && endless {
                continue;
            }
            let what = bytes[..bytes.len().min(80)].escape_ascii().to_string();
            let (answer, _) = hostile(bytes.clone(), stays, POST);
            let answer = answer.unwrap_or_else(|| panic!("{what}: closed without an answer"));
            assert_eq!((answer.status(), answer.error_code().as_str()), (502, "backend_failed"), "{what}");
        }
    }
}

/// Odd but clear: the client sees one well-framed message.
#[test]
fn responses_that_are_made_clean() {
    let cases: Vec<(String, u16, &str)> = vec![
        // Both framings: the coding rules, and never both go out.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".into(),
            200,
            "hello",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello".into(), 200, "hello"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello".into(), 200, "hello"),
        ("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello".into(), 200, "hello"),
        ("HTTP/1.0 200 OK\r\n\r\nhello".into(), 200, "hello"),
        ("HTTP/1.1 299 Odd\r\nContent-Length: 5\r\n\r\nhello".into(), 299, "hello"),
        ("HTTP/1.1 599 Odd\r\nContent-Length: 5\r\n\r\nhello".into(), 599, "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00005;a=b\r\nhello\r\n000\r\n\r\n".into(), 200, "hello"),
        // Informational responses before the final one.
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".into(), 200, "hello"),
        (
            "HTTP/1.1 102 Processing\r\n\r\n".repeat(20) + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            200,
            "hello",
        ),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n".into(), 204, ""),
        ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 204, ""),
    ];
    for (bytes, status, body) in cases {
        let backend = TestBackend::new(move |turn| {
            if turn.request.target() == "/next" {
                return turn.answer(200, "clean");
            }
            turn.read_body();
            turn.send(&bytes);
            turn.close();
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send(POST);
        let mut answer = client.head();
        while answer.status() < 200 {
            answer = client.head();
        }
        client.body(&mut answer);
        assert_eq!((answer.status(), answer.text().as_str(), answer.whole), (status, body, true), "{answer:?}");
        let framing = answer.all("content-length").len() + answer.all("transfer-encoding").len();
        assert_eq!(framing, usize::from(status != 204), "{answer:?}");
        assert_eq!(client.get("/next").text(), "clean", "{answer:?}");
    }
}

/// Informational responses pass to HTTP/1.1 clients, never to HTTP/1.0; the final response stays right.
#[test]
fn early_hints_pass() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n");
        turn.send("HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n");
        turn.answer(200, "page");
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let hints = client.head();
        assert_eq!((hints.status(), hints.all("link")), (103, vec!["</a.css>; rel=preload"]));
        assert!(hints.field("x-hop").is_none() && hints.field("connection").is_none(), "{hints:?}");
        assert_eq!((client.head().status(), client.response().text()), (103, "page".to_owned()));
    }
    let mut old = proxy.client();
    old.send("GET / HTTP/1.0\r\n\r\n");
    let answer = old.head();
    assert_eq!(answer.status(), 200);
    assert_eq!(old.rest(), b"page");
}

/// A chunked response reaches an HTTP/1.0 client without the coding, ended by the close; one that breaks is cut.
#[test]
fn an_old_client_gets_no_chunks() {
    let backend = TestBackend::new(|turn| {
        turn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.head();
    assert!(answer.field("transfer-encoding").is_none(), "{answer:?}");
    assert_eq!(client.rest(), b"hello");
}

/// Split into the smallest pieces, a response is the same.
#[test]
fn responses_in_pieces() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let backend = TestBackend::new(move |turn| {
            for byte in bytes.bytes() {
                turn.send([byte]);
            }
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        for _ in 0..3 {
            let answer = client.get("/");
            assert_eq!((answer.status(), answer.text().as_str(), answer.whole), (200, "hello", true), "{bytes:?}");
        }
        assert_eq!(backend.connections(), 1, "{bytes:?}");
    }
}
