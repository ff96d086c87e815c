//! Upgrades: no byte is tunnelled before the backend's 101, and either end's leaving ends the other.

use crate::support::*;

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
const YES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// After the 101 bytes pass both ways, also those that came early.
#[test]
fn a_tunnel_carries_bytes_both_ways() {
    let backend = TestBackend::new(|turn| {
        assert_eq!(turn.request.field("upgrade"), Some("websocket"));
        assert!(turn.nothing_more_arrived(), "bytes were tunnelled before the 101");
        turn.send(format!("{YES}welcome"));
        assert_eq!(turn.read_until("early"), b"early");
        turn.send("and you");
        assert_eq!(turn.read_until("bye"), b"bye");
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).logged().start();
    let mut client = proxy.client();
    client.send(format!("{ASK}early"));
    let answer = client.head();
    assert_eq!((answer.status(), answer.field("upgrade")), (101, Some("websocket")));
    client.read_until("welcome");
    client.read_until("and you");
    assert_eq!(proxy.in_flight(), 1.0, "a tunnel counts");
    client.send("bye");
    client.assert_closed();
    let line = &proxy.log(1)[0];
    assert_eq!((&line["status"], &line["bytes_in"]), (&101.into(), &8.into()), "{line}");
}

/// A backend that refuses the upgrade: what follows is HTTP, as ever.
#[test]
fn without_a_101_it_stays_http() {
    let backend = TestBackend::new(|turn| turn.answer(if turn.number == 0 { 426 } else { 200 }, "no"));
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(ASK);
    assert_eq!(client.response().status(), 426);
    let sent = client.try_send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    if sent.is_ok()
        && let Ok(Some(mut next)) = client.try_head()
    {
        client.body(&mut next);
        assert_eq!((next.status(), next.text().as_str()), (200, "no"));
    }
    assert!(backend.requests().iter().all(|seen| seen.whole));
}

/// Upgrades that are not for us are not asked for: no `h2c`, none with a body, none over HTTP/1.0.
#[test]
fn other_upgrades_are_not_passed_on() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
    ] {
        let backend = TestBackend::saying("plain");
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send(request);
        assert_eq!(client.response().text(), "plain", "{request}");
        let seen = backend.only_request();
        for gone in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(seen.field(gone), None, "{request}");
        }
    }
}

/// Either side gone closes the other.
#[test]
fn either_end_of_a_tunnel_ends_the_other() {
    for client_leaves in [true, false] {
        let gate = Gate::new();
        let held = gate.clone();
        let backend = TestBackend::new(move |turn| {
            turn.send(format!("{YES}hello"));
            if client_leaves {
                turn.until_gone();
            } else {
                held.pass();
                turn.reset();
            }
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send(ASK);
        assert_eq!(client.head().status(), 101);
        client.read_until("hello");
        if client_leaves {
            drop(client);
            until("the backend's end closes", || backend.open() == 0);
        } else {
            gate.open();
            client.assert_closed();
        }
        until("nothing in flight", || proxy.in_flight() == 0.0);
    }
}

/// A 101 is taken only to what was asked for.
#[test]
fn a_101_to_something_else_is_refused() {
    for (field, status) in [
        ("", 502),
        ("Upgrade: h2c\r\n", 502),
        ("Upgrade: websocket, h2c\r\n", 502),
        ("Upgrade: websocketx\r\n", 502),
        ("Upgrade: WebSocket\r\n", 101),
    ] {
        let backend = TestBackend::new(move |turn| {
            turn.send(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{field}\r\nEVIL"));
            turn.until_gone();
        });
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send(ASK);
        let mut answer = client.head();
        assert_eq!(answer.status(), status, "{field:?}");
        if status == 502 {
            client.body(&mut answer);
            assert!(!answer.text().contains("EVIL"), "{field:?}");
        }
        assert_eq!(backend.count(), 1, "{field:?}");
    }
}
