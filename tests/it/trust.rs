//! Who is let in and who is believed, when that changes while we run: listeners keep their own settings, connections that
//! were made under rules of old do not outlive them, and files that cannot be read hold nothing up.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ProtocolVersion, StreamOwned};

use crate::support::secure::{Authority, get, leaf_name, write};
use crate::support::*;

fn secured(config: &str, authority: &Authority, file: &str) -> String {
    let at = authority.path(file).display().to_string();
    let tls = format!("tls = {{ certificates = [{{ cert = \"{at}.pem\", key = \"{at}.key\" }}] }}\n[admin]");
    config.replacen("[admin]", &tls, 1)
}

/// Two entries that leave their port to the kernel: each stays what it is.
#[test]
fn listeners_on_ports_of_the_kernels_choice_are_not_mixed_up() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    for name in ["one", "two"] {
        authority.sign(name, &[&format!("{name}.test")], |_| {});
    }
    let another = |config: &str, before: &str| {
        config.replacen(before, &format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{before}"), 1)
    };
    // Two with TLS, and one without behind them.
    let config = secured(&Config::new(&[&backend]).text(), &authority, "one");
    let config = secured(&another(&config, "[admin]"), &authority, "two");
    let config = another(&config, "[admin]");
    let binary = Binary::run(&config);
    let check = |binary: &Binary| {
        for (index, name) in ["one", "two"].into_iter().enumerate() {
            let mut stream =
                authority.client().connect(binary.secure_addresses()[index], &format!("{name}.test")).unwrap();
            assert_eq!(leaf_name(&stream), format!("CN={name}"));
            assert!(get(&mut stream, "x", "/").unwrap().ends_with("hello"));
        }
        assert_eq!(binary.get("/").text(), "hello");
    };
    check(&binary);
    assert!(binary.reload(&config));
    check(&binary);
    assert!(binary.reload(&config.replacen("[access_log]", "[log]\nlevel = \"debug\"\n[access_log]", 1)));
    check(&binary);
    let log = binary.end();
    assert!(!log.contains("listeners 127.0.0.1:0"), "nothing of them has changed: {log}");
}

/// What a listener believes is one thing with what it shows, and a connection of old is asked to end.
#[test]
fn connections_do_not_outlive_the_rules_that_let_them_in() {
    let backend = TestBackend::saying("hello");
    let trusting = |ranges: &str| {
        let listener = format!("address = \"127.0.0.1:0\"\ntrusted_proxies = [{ranges}]\nproxy_protocol = true\n");
        Config::new(&[&backend]).text().replacen("address = \"127.0.0.1:0\"\n", &listener, 1)
    };
    let binary = Binary::run(&trusting("\"127.0.0.0/8\", \"10.0.0.0/8\""));
    let request = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    let forwarded = || backend.requests().pop().unwrap().field("x-forwarded-for").unwrap().to_owned();
    let mut kept = binary.client();
    kept.send(format!("PROXY TCP4 10.1.1.1 127.0.0.1 1 2\r\n{request}"));
    assert_eq!((kept.response().status(), forwarded().as_str()), (200, "6.6.6.6, 10.1.1.1"));
    let mut halfway = binary.client();
    halfway.send("PROXY TCP4 10.1.1.1 ");
    // A change of something else leaves connections alone.
    let longer = trusting("\"127.0.0.0/8\", \"10.0.0.0/8\"").replacen("[admin]", "max_uri = \"4KiB\"\n[admin]", 1);
    assert!(binary.reload(&longer));
    kept.send(request);
    assert_eq!(kept.response().status(), 200);

    assert!(binary.reload(&trusting("\"127.0.0.0/8\"")));
    kept.assert_closed();
    halfway.send(format!("127.0.0.1 1 2\r\n{request}"));
    assert_eq!((halfway.response().status(), forwarded().as_str()), (200, "10.1.1.1"));
}

/// An upstream connection that nobody verified serves nobody who asks for a verified one.
#[test]
fn upstream_connections_do_not_outlive_the_rules_they_were_made_by() {
    let (authority, stranger, backend) = (Authority::new(), Authority::new(), TestBackend::saying("hello"));
    let listener = authority.listener(vec![authority.sign("far", &["far.test"], |_| {})]);
    let far = Setup::new(&[&backend]).listener(|plan| plan.tls = Some(listener)).start();
    let own = authority.path("own.pem");
    std::fs::copy(authority.path("ca.pem"), &own).unwrap();
    for protocol in ["https", "h2", "auto"] {
        let with = |tls: &str| {
            let config = Config { pool: format!("protocol = \"{protocol}\""), ..Config::new(&[&backend]) };
            let tls = format!("weight = 1\ntls = {{ {tls} }}\n");
            config
                .text()
                .replace(&backend.address().to_string(), &far.address.to_string())
                .replace("weight = 1\n", &tls)
        };
        let by = |ca: &Path, name: &str| with(&format!("ca = \"{}\", server_name = \"{name}\"", ca.display()));
        let anybody = with("verify = false");
        let binary = Binary::run(&anybody);
        let mut client = binary.client();
        let mut asked = |config: &str| {
            assert!(binary.reload(config));
            client.get("/").status()
        };
        let handshakes = || far.metric("evenkeel_tls_handshakes_total", &[("result", "ok")]);
        assert_eq!(asked(&anybody), 200);
        let before = handshakes();
        assert_eq!(asked(&anybody), 200);
        assert_eq!(handshakes(), before, "{protocol}: nothing has changed, and the connection serves on");
        assert_eq!(asked(&by(&stranger.path("ca.pem"), "far.test")), 502, "{protocol}");
        assert_eq!(asked(&by(&own, "far.test")), 200, "{protocol}");
        assert_eq!(asked(&by(&own, "other.test")), 502, "{protocol}");
        assert_eq!(asked(&by(&own, "far.test")), 200, "{protocol}");
        let said = "TLS handshake: invalid peer certificate";
        until("the reason in the log", || binary.log().contains(said));
        // The file says something else now; nobody has to be told.
        write(&own, &std::fs::read_to_string(stranger.path("ca.pem")).unwrap());
        until("the other CA", || client.get("/").status() == 502);
        write(&own, &std::fs::read_to_string(authority.path("ca.pem")).unwrap());
        until("the first CA again", || client.get("/").status() == 200);
    }
}

/// A pipe in the place of a certificate: to open it is to wait for ever, which nothing else may have to.
#[test]
fn files_that_do_not_answer_hold_nothing_up() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    authority.sign("site", &["site.test"], |_| {});
    let binary = Binary::run(&secured(&Config::new(&[&backend]).text(), &authority, "site"));
    let pipe = authority.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(&pipe, authority.path("site.key")).unwrap();
    until("the refusal", || binary.metric("evenkeel_tls_certificate_reloads_total", &[("result", "failure")]) > 0.0);
    let mut stream = authority.client().connect(binary.secure_address(), "site.test").unwrap();
    assert!(get(&mut stream, "site.test", "/").unwrap().ends_with("hello"));
    let log = binary.end();
    assert_eq!(log.matches("it is not a regular file").count(), 1, "told once: {log}");
}

/// A PROXY header, and TLS of nothing older than 1.3 right behind it, in one segment.
#[test]
fn tls_follows_a_proxy_header() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    let mut tls = authority.listener(vec![authority.sign("site", &["site.test"], |_| {})]);
    tls.min_version = evenkeel::config::TlsVersion::V13;
    let proxy = Setup::new(&[&backend]).listener(|plan| {
        (plan.proxy_protocol, plan.trusted_proxies) = (true, vec!["127.0.0.0/8".parse().unwrap()]);
        plan.tls = Some(tls);
    });
    let proxy = proxy.start();
    let shake = |versions: &'static [&'static rustls::SupportedProtocolVersion]| {
        let client = crate::support::secure::Client { versions, ..authority.client() };
        let name = ServerName::try_from("site.test").unwrap();
        let mut connection = ClientConnection::new(Arc::new(client.config()), name).unwrap();
        let mut socket = std::net::TcpStream::connect(proxy.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut first = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n".to_vec();
        connection.write_tls(&mut first).unwrap();
        socket.write_all(&first).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok::<_, std::io::Error>(StreamOwned::new(connection, socket))
    };
    let mut stream = shake(rustls::ALL_VERSIONS).unwrap();
    assert_eq!(stream.conn.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert!(get(&mut stream, "site.test", "/").unwrap().ends_with("hello"));
    let sent = backend.requests().pop().unwrap();
    assert_eq!((sent.field("x-forwarded-for"), sent.field("x-forwarded-proto")), (Some("192.0.2.7"), Some("https")));
    let older: &'static [_] = Box::leak(Box::new([&rustls::version::TLS12]));
    let error = shake(older).unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

/// A proxy in front tells who connects; nobody else is believed.
#[test]
fn proxy_headers() {
    let backend = TestBackend::saying("hello");
    let trusting = |ranges: &[&str]| {
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let setup = Setup::new(&[&backend]).logged();
        setup.listener(|listener| (listener.proxy_protocol, listener.trusted_proxies) = (true, ranges)).start()
    };
    let proxy = trusting(&["127.0.0.0/8", "10.0.0.0/8"]);
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n".to_vec();
    let first = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n".to_vec();
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x2b".to_vec();
    second.extend("2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    second.extend([0; 16 + 4]);
    second.extend([4, 0, 4, 1, 2, 3, 4]); // an extension
    let behind = b"PROXY TCP4 10.1.1.1 127.0.0.1 4711 80\r\n".to_vec();
    // Where the proxy does not say for whom it speaks, it may be passing on what anybody says of himself.
    let (own, local) = (b"PROXY UNKNOWN\r\n".to_vec(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec());
    let unspecified = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0".to_vec();
    let mut seen = 0;
    for (header, client, passed_on) in [
        (first.clone(), "192.0.2.7", "192.0.2.7"),
        (second, "2001:db8::7", "2001:db8::7"),
        (behind, "6.6.6.6", "6.6.6.6, 10.1.1.1"),
        (own, "127.0.0.1", "127.0.0.1"),
        (local, "127.0.0.1", "127.0.0.1"),
        (unspecified, "127.0.0.1", "127.0.0.1"),
    ] {
        // As one piece, and byte by byte.
        let mut whole = proxy.client();
        whole.send([&header[..], &request].concat());
        assert_eq!(whole.response().status(), 200);
        let mut slow = proxy.client();
        header.iter().for_each(|byte| slow.send([*byte]));
        slow.send(&request);
        assert_eq!(slow.response().status(), 200);
        seen += 2;
        let log = proxy.log(seen);
        assert!(log.iter().rev().take(2).all(|line| line["client"] == client), "{client}: {log:?}");
        let sent = backend.requests().pop().unwrap();
        assert_eq!(sent.field("x-forwarded-for"), Some(passed_on), "{header:?}");
    }
    let before = backend.count();
    for bad in [request.clone(), b"PROXY TCP4 x y 1 2\r\n".to_vec(), b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec()] {
        let mut client = proxy.client();
        let _ = client.try_send(&bad);
        client.assert_closed();
    }
    let distrustful = trusting(&["10.0.0.0/8"]);
    let mut client = distrustful.client();
    let _ = client.try_send([&first[..], &request].concat());
    client.assert_closed();
    assert_eq!(backend.count(), before);
}

#[test]
fn one_client_may_take_only_so_much() {
    let backend = TestBackend::saying("hello");
    let limited = |connections, rps, dry_run| {
        let limits =
            evenkeel::config::ClientLimitsPlan { per_client_connections: connections, per_client_rps: rps, dry_run };
        Setup::new(&[&backend]).listener(|listener| listener.limits = Some(limits)).start()
    };
    let refused = |proxy: &TestProxy, limit: &str, action: &str| {
        proxy.metric("evenkeel_client_limited_total", &[("limit", limit), ("action", action)])
    };
    let proxy = limited(2, 0.0, false);
    let mut held = [proxy.client(), proxy.client()];
    assert!(held.iter_mut().all(|client| client.get("/").status() == 200));
    let mut third = proxy.client();
    third.assert_closed();
    assert_eq!(refused(&proxy, "connections", "refused"), 1.0);
    drop(held);
    until("room for another", || {
        let mut client = proxy.client();
        client.try_send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_ok() && matches!(client.try_head(), Ok(Some(_)))
    });

    let proxy = limited(0, 0.01, false);
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    let answer = client.get("/");
    assert_eq!((answer.status(), answer.field("retry-after")), (429, Some("100")));
    assert_eq!(client.get("/").status(), 429, "the connection goes on");
    assert_eq!(refused(&proxy, "requests", "refused"), 2.0);

    let proxy = limited(1, 0.01, true);
    let mut held = [proxy.client(), proxy.client()];
    assert!(held.iter_mut().all(|client| client.get("/").status() == 200));
    assert_eq!((refused(&proxy, "connections", "dry_run"), refused(&proxy, "requests", "dry_run")), (1.0, 1.0));
}
