//! Request lines and hosts (reliability.md section 3), and the fields that the proxy owns (section 4).

use crate::support::*;

/// Sends `request` and returns the status (0: closed without a word) and the request that the backend saw.
fn exchange(request: &[u8]) -> (u16, Option<Message>) {
    let backend = TestBackend::saying("served");
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    let _ = client.try_send(request);
    let method = String::from_utf8_lossy(request.split(|byte| *byte == b' ').next().unwrap()).into_owned();
    let status = match client.try_head() {
        Ok(head) => head.map_or(0, |mut head| {
            if method != "HEAD" {
                client.body(&mut head);
            }
            head.status()
        }),
        // Bytes that are no HTTP at all may be answered in kind.
        Err(error) => panic!("{}: {error}", request.escape_ascii()),
    };
    let mut seen = backend.requests();
    assert!(seen.len() <= 1, "{}: {seen:#?}", request.escape_ascii());
    (status, seen.pop())
}

/// Targets as they arrive at the backend; `None`: refused with 400 (or 405).
#[test]
fn targets() {
    let cases: [(&str, Option<(&str, &str)>); 33] = [
        ("GET / HTTP/1.1\r\nHost: a", Some(("/", "a"))),
        (
            "GET /a/../b//c/./%2e%2E/%00?x=%zz&&=;a[]|' HTTP/1.1\r\nHost: a",
            Some(("/a/../b//c/./%2e%2E/%00?x=%zz&&=;a[]|'", "a")),
        ),
        ("GET /? HTTP/1.1\r\nHost: a", Some(("/?", "a"))),
        ("GET //double HTTP/1.1\r\nHost: a", Some(("//double", "a"))),
        ("GET http://other:81/x?y HTTP/1.1\r\nHost: a", Some(("/x?y", "other:81"))),
        ("GET HTTP://Other/ HTTP/1.1\r\nHost: a", Some(("/", "Other"))),
        ("GET http://other HTTP/1.1\r\nHost: a", Some(("/", "other"))),
        ("GET http://other?q HTTP/1.1\r\nHost: a", Some(("/?q", "other"))),
        ("OPTIONS * HTTP/1.1\r\nHost: a", Some(("*", "a"))),
        ("get / HTTP/1.1\r\nHost: a", Some(("/", "a"))),
        ("BREW /pot HTTP/1.1\r\nHost: a", Some(("/pot", "a"))),
        ("OPTIONS http://other/path?q HTTP/1.1\r\nHost: a", Some(("/path?q", "other"))),
        ("OPTIONS http://other:81/ HTTP/1.1\r\nHost: a", Some(("/", "other:81"))),
        ("OPTIONS /path HTTP/1.1\r\nHost: a", Some(("/path", "a"))),
        ("OPTIONS http://u@other/ HTTP/1.1\r\nHost: a", None),
        // Who names no host: the backend is told its own address.
        ("GET / HTTP/1.0", Some(("/", "backend"))),
        ("GET / HTTP/1.1\r\nHost:", Some(("/", "backend"))),
        ("GET http://user@other/ HTTP/1.1\r\nHost: other", None),
        ("GET http://user:pass@other/ HTTP/1.1\r\nHost: other", None),
        ("GET * HTTP/1.1\r\nHost: a", None),
        ("GET a:80 HTTP/1.1\r\nHost: a", None),
        ("GET a HTTP/1.1\r\nHost: a", None),
        ("GET http://other:99999/ HTTP/1.1\r\nHost: a", None),
        ("GET http://other,b/ HTTP/1.1\r\nHost: a", None),
        ("GET ftp://other/ HTTP/1.1\r\nHost: a", None),
        ("GET gopher://other/ HTTP/1.1\r\nHost: a", None),
        ("GET http:///x HTTP/1.1\r\nHost: a", None),
        ("GET  / HTTP/1.1\r\nHost: a", None),
        ("GET / x HTTP/1.1\r\nHost: a", None),
        ("GET /\tx HTTP/1.1\r\nHost: a", None),
        ("GET /\u{1} HTTP/1.1\r\nHost: a", None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443", None),
        ("TRACE / HTTP/1.1\r\nHost: a", None),
    ];
    for (request, expected) in cases {
        let (status, seen) = exchange(format!("{request}\r\n\r\n").as_bytes());
        match expected {
            Some((target, host)) => {
                let seen = seen.unwrap_or_else(|| panic!("{request}: {status}, and nothing at the backend"));
                let hosts = seen.all("host");
                let is_backend = host == "backend" && hosts.len() == 1 && hosts[0].starts_with("127.0.0.1:");
                assert_eq!(seen.target(), target, "{request}");
                assert!(is_backend || hosts == [host], "{request}: {hosts:?}");
                assert_eq!(seen.method(), request.split(' ').next().unwrap());
                assert_eq!(status, 200, "{request}");
            }
            None => {
                assert!(seen.is_none(), "{request}: {seen:?}");
                assert!(matches!(status, 400 | 405 | 501), "{request}: {status}");
            }
        }
    }
    // A fragment is no part of a request; it never goes further.
    let (_, seen) = exchange(b"GET /path#fragment HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(seen.is_none_or(|seen| seen.target() == "/path"));
    // RFC 9112 section 3: at least 8,000 bytes of request line.
    let long = "x".repeat(8000);
    let (status, seen) = exchange(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    assert_eq!((status, seen.unwrap().target().len()), (200, 8001));
}

/// RFC 9112 section 3.2: one valid `Host`.
#[test]
fn hosts() {
    for (hosts, good) in [
        (&["a"][..], true),
        (&["a.b-c.example:8080"], true),
        (&["[::1]:80"], true),
        (&["127.0.0.1"], true),
        (&[""], true),
        (&[], false),
        (&["a", "a"], false),
        (&["a", "b"], false),
        (&["a b"], false),
        (&["a/b"], false),
        (&["u@a"], false),
        (&["a,b"], false),
        (&["a:x"], false),
        (&[":80"], false),
        (&["a:99999"], false),
        (&["a:80:80"], false),
        (&["[::1"], false),
        (&["a\\b"], false),
        (&["a?b"], false),
        (&["a#b"], false),
        (&["\u{e9}"], false),
    ] {
        let lines: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        let (status, seen) = exchange(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes());
        assert_eq!((status, seen.is_some()), if good { (200, true) } else { (400, false) }, "{hosts:?}");
    }
}

/// Versions, and bytes that are no HTTP: a prompt answer or a close, and nothing at the backend.
#[test]
fn versions_and_junk() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x20";
    let cases: [&[u8]; 13] = [
        b"GET /\r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET / HTTP/11\r\nHost: a\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"\r\n\r\n\r\n\r\nquit\r\n\r\n",
        hello,
    ];
    for bytes in cases {
        let (status, seen) = exchange(bytes);
        assert!(seen.is_none(), "{}: {seen:?}", bytes.escape_ascii());
        assert!(matches!(status, 0 | 400 | 505), "{}: {status}", bytes.escape_ascii());
    }
}

/// `Connection` is read as bytes and names only what may be removed.
#[test]
fn connection_removes_what_it_may() {
    for line in [
        "close, Host, Content-Length, Transfer-Encoding, X-Forwarded-For, X-Request-Id, Via, X-Gone",
        "X-Gone,,, ,",
        "x-gone, \u{80}\u{ff}, keep-alive",
        "X-Gone\r\nConnection: Host",
    ] {
        let request: Vec<u8> = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: {line}\r\nX-Gone: 1\r\nX-Kept: 1\r\nContent-Length: 4\r\n\r\nbody"
        )
        .chars()
        .map(|c| c as u8)
        .collect();
        let (status, seen) = exchange(&request);
        let seen = seen.unwrap_or_else(|| panic!("{line}: {status}"));
        assert_eq!(status, 200, "{line}");
        assert_eq!(
            (seen.field("x-gone"), seen.field("x-kept"), seen.field("connection")),
            (None, Some("1"), None),
            "{line}"
        );
        assert_eq!((seen.all("host"), seen.text().as_str()), (vec!["a"], "body"), "{line}");
        assert_eq!((seen.all("x-forwarded-for"), seen.all("x-request-id").len()), (vec!["127.0.0.1"], 1), "{line}");
    }
}

/// RFC 9110 section 7.6.2: an `OPTIONS` that may go no further is answered here; any other goes one step less far.
#[test]
fn max_forwards() {
    let options =
        |value: &str| exchange(format!("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {value}\r\n\r\n").as_bytes());
    let (status, seen) = options("0");
    assert!(seen.is_none() && (200..300).contains(&status), "{status} {seen:?}");
    let (status, seen) = options("7");
    assert_eq!((status, seen.unwrap().all("max-forwards")), (200, vec!["6"]));
    // It counts as what it is.
    let backend = TestBackend::saying("not asked");
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
    assert_eq!(client.head().status(), 204);
    let counted = |class| proxy.metric("evenkeel_requests_total", &[("code_class", class)]);
    until("it is counted", || counted("2xx") == 1.0);
    assert_eq!((counted("4xx"), backend.count()), (0.0, 0));
    // For other methods it means nothing.
    let (_, seen) = exchange(b"GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
    assert_eq!(seen.unwrap().all("max-forwards"), ["0"]);
}
