//! Framing of requests: one message in must be one message out, or none.

use std::time::Duration;

use crate::support::*;

/// What may come of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum May {
    /// Refused: one of these statuses (0: closed without a word), then closed. No backend saw a byte of it.
    Refuse(&'static [u16]),
    /// Passed on as one request, and the client's connection goes on.
    Pass,
    /// Refused, or passed on as one request after which the connection closes: what follows is never a request.
    RefuseOrClose,
    /// Refused, or passed on in clean form.
    RefuseOrPass,
}
use May::{Pass, Refuse, RefuseOrClose, RefuseOrPass};

const BAD: May = Refuse(&[400]);
const BAD_OR_UNKNOWN: May = Refuse(&[400, 501]);

/// A second request behind the first, which must be seen as such exactly when the first one's end is beyond doubt.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends `bytes` and checks what comes of it, at both ends.
fn check(what: &str, bytes: &[u8], may: May) {
    println!("{may:?}: {what}");
    let backend = TestBackend::new(|turn| {
        assert!(!turn.request.raw.windows(2).any(|two| two[1] == b'\n' && two[0] != b'\r'), "a bare LF was passed on");
        // A body that was cut on its way must not look whole.
        if turn.read_body() { turn.answer(200, "served") } else { turn.close() }
    });
    let setup = Setup::new(&[&backend]);
    // What never ends its head is cut at the deadline.
    let never_ends = matches!(may, Refuse(statuses) if statuses.contains(&408));
    let setup = if never_ends { setup.listener(|it| it.header_timeout = Duration::from_millis(300)) } else { setup };
    let proxy = setup.start();
    let mut client = proxy.client();
    // The balancer may refuse and close before it has read all.
    let _ = client.try_send(bytes);
    let answer = client.try_head().unwrap_or_else(|error| panic!("{what}: {error}"));
    let status = answer.as_ref().map_or(0, Message::status);
    let refused = status == 0 || status >= 400;
    match may {
        Refuse(statuses) => {
            assert!(statuses.contains(&status), "{what}: {status} is none of {statuses:?}");
            client.rest();
            assert_eq!(whole_requests(&backend), 0, "{what}: {:#?}", backend.requests());
        }
        Pass => {
            assert_eq!(status, 200, "{what}");
            client.body(&mut answer.unwrap());
            assert_eq!(client.get("/next").status(), 200, "{what}: the connection goes on");
            assert_eq!(whole_requests(&backend), 2, "{what}: {:#?}", backend.requests());
        }
        RefuseOrClose => {
            assert!(refused || status == 200, "{what}: {status}");
            client.rest();
            assert!(whole_requests(&backend) <= 1, "{what}: {:#?}", backend.requests());
        }
        RefuseOrPass => {
            assert!(refused || status == 200, "{what}: {status}");
            assert!(whole_requests(&backend) <= 1, "{what}: {:#?}", backend.requests());
        }
    }
    for seen in backend.requests() {
        assert_ne!(seen.target(), "/smuggled", "{what}");
        assert!(seen.all("content-length").len() + seen.all("transfer-encoding").len() <= 1, "{what}: {seen:?}");
        assert_eq!(seen.all("host").len(), 1, "{what}: {seen:?}");
    }
}

/// Requests that reached the backend with a body that looked whole.
fn whole_requests(backend: &TestBackend) -> usize {
    backend.requests().iter().filter(|request| request.whole).count()
}

/// reliability.md section 2, items 1 to 4: lengths and codings.
#[test]
fn lengths_and_codings() {
    let chunks = "5\r\nhello\r\n0\r\n\r\n";
    let coded = |coding: &str, version: &str| {
        format!("POST / HTTP/{version}\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n{chunks}{SMUGGLED}")
    };
    let long = |length: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\nhello");
    let cases: Vec<(String, May)> = vec![
        // Both at once, in either order, with either being the shorter.
        (
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            RefuseOrClose,
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 100\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            RefuseOrClose,
        ),
        (
            format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n{chunks}{SMUGGLED}"
            ),
            RefuseOrClose,
        ),
        // One exact `chunked`, in any case.
        (format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"), Pass),
        (format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ChUnKeD\r\n\r\n{chunks}"), Pass),
        (format!("POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:chunked\r\n\r\n{chunks}"), Pass),
        (coded("identity, chunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunked, identity", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunked, chunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunked\r\nTransfer-Encoding: chunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("identity\r\nTransfer-Encoding: chunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunked\r\nTransfer-Encoding: identity", "1.1"), BAD_OR_UNKNOWN),
        (coded("gzip, chunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("gzip", "1.1"), BAD_OR_UNKNOWN),
        (coded("xchunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunkedx", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunk", "1.1"), BAD_OR_UNKNOWN),
        (coded("\"chunked\"", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunked;q=1", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunked,", "1.1"), BAD_OR_UNKNOWN),
        (coded(",chunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("", "1.1"), BAD_OR_UNKNOWN),
        (coded("\u{b}chunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("cow", "1.1"), BAD_OR_UNKNOWN),
        (coded("\r\n chunked", "1.1"), BAD_OR_UNKNOWN),
        (coded("chunked", "1.0"), RefuseOrClose),
        // A name that only looks like it.
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\nhello".to_owned(),
            RefuseOrPass,
        ),
        (format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n{chunks}{SMUGGLED}"), BAD),
        // Lengths.
        (long("Content-Length: 5"), Pass),
        (long("Content-Length: 0000005"), RefuseOrPass),
        (long("Content-Length: +5"), BAD),
        (long("Content-Length: -5"), BAD),
        (long("Content-Length: 5 5"), BAD),
        (long("Content-Length: 5, 6"), BAD),
        (long("Content-Length: 5, 5"), RefuseOrPass),
        (long("Content-Length: 5\r\nContent-Length: 5"), RefuseOrPass),
        (long("Content-Length: 5\r\nContent-Length: 6"), BAD),
        (long("Content-Length: 6\r\nContent-Length: 5"), BAD),
        (long("Content-Length:"), BAD),
        (long("Content-Length: 0x5"), BAD),
        (long("Content-Length: 5.0"), BAD),
        (long("Content-Length: 5e0"), BAD),
        (long("Content-Length: 5;"), BAD),
        (long("Content-Length: \"5\""), BAD),
        (long("Content-Length: five"), BAD),
        (long("Content-Length: 18446744073709551616"), BAD),
        (long("Content-Length: 18446744073709551615"), BAD),
        (long("Content-Length: 18446744073709551614"), BAD),
        (long("Content-Length: 0018446744073709551615"), BAD),
        (long("X: 18446744073709551615\r\nContent-Length: 5"), Pass),
        (long("Content-Length: 18446744073709551613"), BAD),
        (long("Content-Length: 99999999999999999999999999"), BAD),
        (long("Content-Length: \u{665}"), BAD),
        (long("Content-Length : 5"), BAD),
        (long("Content-Length: 5\r\n ,6"), BAD),
    ];
    for (bytes, may) in cases {
        check(&bytes, bytes.as_bytes(), may);
    }
}

/// reliability.md section 2, item 5: the grammar of heads.
#[test]
fn grammar_of_heads() {
    let get = |field: &[u8]| [b"GET / HTTP/1.1\r\nHost: a\r\n".as_slice(), field, b"\r\n\r\n"].concat();
    let cases: Vec<(Vec<u8>, May)> = vec![
        (get(b"X: y"), Pass),
        (get(b"X:y"), Pass),
        (get(b"X:\t y \t"), Pass),
        (get(b"X:"), Pass),
        (get(b"X: \xff\x80"), Pass),
        (get(b"!#$%&'*+-.^_`|~0: y"), Pass),
        (get(b"X : y"), BAD),
        (get(b"X\t: y"), BAD),
        (get(b" X: y"), BAD),
        (get(b"X: y\r\n z"), BAD),
        (get(b"X: y\r\n\tz"), BAD),
        (get(b"X: a\0b"), BAD),
        (get(b"X: a\rb"), BAD),
        (get(b"X: a\x01b"), BAD),
        (get(b"X: a\x7fb"), BAD),
        (get(b"X\0: y"), BAD),
        (get(b"X\x01: y"), BAD),
        (get(b"X\xff: y"), BAD),
        (get(b"X y: z"), BAD),
        (get(b"X(y): z"), BAD),
        (get(b": y"), BAD),
        (get(b"no colon"), BAD),
        (b"GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n".to_vec(), BAD),
        (b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n".to_vec(), BAD),
        // Bare LF: refused, or passed on with CRLF (the backend checks).
        (b"GET / HTTP/1.1\nHost: a\n\n".to_vec(), RefuseOrPass),
        (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".to_vec(), RefuseOrPass),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n".to_vec(), RefuseOrPass),
        // Bare CR.
        (b"GET / HTTP/1.1\rHost: a\r\r".to_vec(), Refuse(&[400, 408])),
        (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n".to_vec(), BAD),
        // Empty lines before a request are for robustness (RFC 9112 section 2.2).
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), RefuseOrPass),
    ];
    for (bytes, may) in cases {
        check(&bytes.escape_ascii().to_string(), &bytes, may);
    }
}

/// reliability.md section 2, items 6 and 7: chunks, and bodies that are cut.
#[test]
fn chunks_of_requests() {
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(17 << 10));
    let many_extensions = format!("{}0\r\n\r\n", "1;xxxxxxxxxxxxxxxx\r\na\r\n".repeat(1100));
    let long_trailer = format!("0\r\nX: {}\r\n\r\n", "y".repeat(17 << 10));
    let bare_end = format!("5\r\nhello\r\n0\r\n\n{SMUGGLED}");
    let many_trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(101));
    let cases: Vec<(&str, May)> = vec![
        ("5\r\nhello\r\n0\r\n\r\n", Pass),
        ("5;a=b\r\nhello\r\n0;c\r\n\r\n", Pass),
        ("00000005\r\nhello\r\n0\r\n\r\n", Pass),
        ("A\r\n0123456789\r\n000\r\n\r\n", Pass),
        ("5\r\nhello\r\n0\r\nX: y\r\n\r\n", Pass),
        ("0x5\r\nhello\r\n0\r\n\r\n", RefuseOrClose),
        ("+5\r\nhello\r\n0\r\n\r\n", RefuseOrClose),
        ("-5\r\nhello\r\n0\r\n\r\n", RefuseOrClose),
        ("5_0\r\nhello\r\n0\r\n\r\n", RefuseOrClose),
        ("\r\nhello\r\n0\r\n\r\n", RefuseOrClose),
        ("g\r\nhello\r\n0\r\n\r\n", RefuseOrClose),
        ("5\nhello\n0\n\n", RefuseOrClose),
        ("5\r\nhello\n0\r\n\r\n", RefuseOrClose),
        ("5\rhello\r0\r\r", RefuseOrClose),
        ("5\r\nhelloXX0\r\n\r\n", RefuseOrClose),
        ("5\r\nhello0\r\n\r\n", RefuseOrClose),
        ("5;a\nhello\r\n0\r\n\r\n", RefuseOrClose),
        ("5\r\nhello\r\n0\r\nno colon\r\n\r\n", RefuseOrClose),
        ("5\r\nhello\r\n0\r\n X: y\r\n\r\n", RefuseOrClose),
        // hyper would take what follows the bare LF for trailers up to the next empty line.
        (&bare_end, BAD),
        // Seventeen digits, of which hyper forgives the zeros: the size is not in doubt, and written anew for the backend.
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", RefuseOrPass),
        ("10000000000000005\r\nhello\r\n0\r\n\r\n", RefuseOrClose),
        ("fffffffffffffffff\r\nhello\r\n0\r\n\r\n", RefuseOrClose),
        (&long_extension, RefuseOrClose),
        (&many_extensions, RefuseOrClose),
        (&long_trailer, RefuseOrClose),
        (&many_trailers, RefuseOrClose),
    ];
    for (body, may) in cases {
        let what = body[..body.len().min(60)].escape_debug().to_string();
        let mut bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        if may == RefuseOrClose {
            bytes.push_str(SMUGGLED);
        }
        check(&what, bytes.as_bytes(), may);
    }
}

/// What must be refused as a chunk is not passed on as a whole body, whatever comes of the client's connection.
#[test]
fn a_bad_chunk_never_looks_whole() {
    let bad = [
        "0x5\r\nhello\r\n",
        "+5\r\nhello\r\n",
        "5\r\nhelloXX",
        "5\r\nhello\r\nxyz\r\n",
        "5;a\nb\r\nhello\r\n",
        "5\nhello\n",
    ];
    for bad in bad {
        let backend = TestBackend::new(|turn| {
            if turn.request.target() == "/next" {
                return turn.answer(200, "next");
            }
            assert!(!turn.read_body(), "a broken body looked whole: {:?}", turn.request.text());
            turn.close();
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n{bad}0\r\n\r\n"));
        let status = client.try_head().unwrap().map_or(0, |answer| answer.status());
        assert!(status == 0 || status == 400, "{bad:?}: {status}");
        client.rest();
        assert_eq!(proxy.get("/next").text(), "next", "{bad:?}");
    }
}

/// reliability.md section 2, item 8: a response before the request's body was read. The rest of the body is never read
/// as a request.
#[test]
fn the_rest_of_a_body_is_never_a_request() {
    for (what, head) in [("length", "Content-Length: 100000"), ("chunks", "Transfer-Encoding: chunked")] {
        let backend = TestBackend::new(|turn| {
            turn.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
            turn.close();
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n"));
        let answer = client.response();
        assert_eq!((answer.status(), answer.text().as_str()), (413, "no"), "{what}");
        assert_eq!(answer.field("connection"), Some("close"), "{what}: it closes and says so");
        for _ in 0..20 {
            let _ = client.try_send(SMUGGLED);
        }
        client.rest();
        assert!(backend.requests().iter().all(|seen| seen.target() == "/"), "{what}: {:#?}", backend.requests());
    }
    // The same for our own refusals.
    let backend = TestBackend::saying("served");
    let proxy = Setup::new(&[&backend]).listener(|listener| listener.max_body = 10).start();
    let mut client = proxy.client();
    let _ = client.try_send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n{SMUGGLED}{SMUGGLED}"));
    assert_eq!(client.response().status(), 413);
    client.rest();
    assert_eq!(backend.count(), 0);
}

/// A head may come byte by byte, and several requests in one packet: answers come in order.
#[test]
fn pieces_and_pipelines() {
    let backend = TestBackend::new(|turn| {
        let target = turn.request.target().to_owned();
        turn.answer(200, &target);
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    for byte in b"POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.response().text(), "/slow");
    client.send(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
         HEAD /3 HTTP/1.1\r\nHost: a\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.response().text(), "/2");
    assert_eq!(client.response_to("HEAD").status(), 200);
    assert_eq!(client.response().text(), "/4");
    assert_eq!(backend.requests()[2].text(), "abc");
}
