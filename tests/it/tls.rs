//! TLS as clients and backends meet it: versions, ALPN, certificates by name, client certificates, certificates that
//! change while connections come, and TLS towards backends (for which another balancer stands).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use evenkeel::config::{
    BackendPlan, BackendTlsPlan, CertificatePlan, ListenerTlsPlan, Protocol, Secret, WhenUnhealthy,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls::ProtocolVersion;

use crate::support::secure::{Authority, Client, Stream, get, leaf_name, write};
use crate::support::*;

/// A balancer with TLS before one backend that says who it is.
fn secure(authority: &Authority, backend: &TestBackend, change: impl FnOnce(&mut ListenerTlsPlan)) -> TestProxy {
    let mut tls = authority.listener(vec![
        authority.sign("first", &["first.test"], |_| {}),
        authority.sign("wild", &["*.wild.test", "exact.other.test"], |_| {}),
    ]);
    change(&mut tls);
    Setup::new(&[backend]).logged().listener(|listener| listener.tls = Some(tls)).start()
}

#[test]
fn versions_alpn_and_certificates_by_name() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    let proxy = secure(&authority, &backend, |_| {});
    let client = authority.client();
    for (version, known) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let versions: &'static [_] = Box::leak(Box::new([version]));
        let mut stream = Client { versions, ..client.clone() }.connect(proxy.address, "first.test").unwrap();
        assert_eq!(stream.conn.protocol_version(), Some(known));
        let answer = get(&mut stream, "first.test", "/").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer}");
    }
    let group = |stream: &Stream| stream.conn.negotiated_key_exchange_group().unwrap().name();
    let stream = client.connect(proxy.address, "first.test").unwrap();
    assert_eq!(group(&stream), rustls::NamedGroup::X25519MLKEM768);

    for (name, subject) in [("first.test", "first"), ("A.wild.test", "wild"), ("exact.other.test", "wild")] {
        let stream = client.connect(proxy.address, name).unwrap();
        assert_eq!(leaf_name(&stream), format!("CN={subject}"), "{name}");
    }
    // An unknown name is shown the first certificate, which its client then refuses.
    let error = client.connect(proxy.address, "a.b.wild.test").unwrap_err();
    assert!(
        error.to_string().contains("NotValidForName") || error.to_string().contains("not valid for name"),
        "{error}"
    );

    let alpn = |alpn: &'static [&'static str]| {
        let stream = Client { alpn, ..client.clone() }.connect(proxy.address, "first.test");
        stream.map(|stream| stream.conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(alpn(&["h2", "http/1.1"]).unwrap().as_deref(), Some(&b"h2"[..]));
    assert_eq!(alpn(&["http/1.1"]).unwrap().as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(alpn(&[]).unwrap(), None);
    let error = alpn(&["spdy/3"]).unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");

    let sent = backend.requests();
    assert!(sent.iter().all(|request| request.field("x-forwarded-proto") == Some("https")), "{sent:?}");
    assert!(proxy.metric("evenkeel_tls_handshakes_total", &[("result", "ok")]) >= 8.0);
    assert!(proxy.metric("evenkeel_tls_handshakes_total", &[("result", "failed")]) >= 1.0);
    let expiry = proxy.metric("evenkeel_tls_certificate_expiry_timestamp_seconds", &[]);
    assert!(expiry > 2.0 * 1.8e9, "two files, each with the date of its end: {expiry}");
}

#[test]
fn sessions_are_resumed_and_silent_clients_are_cut() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    let certificate = authority.sign("first", &["first.test"], |_| {});
    let tls = authority.listener(vec![certificate]);
    let proxy = Setup::new(&[&backend])
        .listener(|listener| {
            listener.tls = Some(tls);
            listener.tls_handshake_timeout = std::time::Duration::from_secs(1);
        })
        .start();
    let client = authority.client();
    let config = Arc::new(client.config());
    let kinds: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = client.connect_with(&config, proxy.address, "first.test").unwrap();
            get(&mut stream, "first.test", "/").unwrap();
            stream.conn.handshake_kind().unwrap()
        })
        .collect();
    assert_eq!(kinds[1..], [rustls::HandshakeKind::Resumed, rustls::HandshakeKind::Resumed], "{kinds:?}");

    let mut silent = Raw::connect(proxy.address);
    let mut slow = Raw::connect(proxy.address);
    slow.send([0x16, 0x03, 0x01]);
    silent.assert_closed();
    slow.assert_closed();
    // Counted by the worker that let go of the socket, a moment after.
    until("both are counted", || proxy.metric("evenkeel_tls_handshakes_total", &[("result", "timeout")]) == 2.0);
}

#[test]
fn client_certificates() {
    let (authority, backend, stranger) = (Authority::new(), TestBackend::saying("hello"), Authority::new());
    let ca = authority.path("ca.pem");
    let guarded = |plan: &mut evenkeel::config::ListenerPlan| plan.guarded_headers = vec!["x-client-subject".into()];
    let mut tls = authority.listener(vec![authority.sign("first", &["first.test"], |_| {})]);
    tls.client_ca = Some(ca);
    tls.subject_header = Some("x-client-subject".to_owned());
    let proxy = Setup::new(&[&backend])
        .logged()
        .listener(|listener| {
            listener.tls = Some(tls);
            guarded(listener);
        })
        .start();
    let alice =
        authority.sign("alice", &[], |params| params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc"));
    let known = Client { certificate: Some(alice), ..authority.client() };
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13][..]] {
        let versions: &'static [_] = Box::leak(versions.to_vec().into_boxed_slice());
        let mut stream = Client { versions, ..known.clone() }.connect(proxy.address, "first.test").unwrap();
        assert!(get(&mut stream, "first.test", "/").unwrap().ends_with("hello"));
    }
    let requests = backend.requests();
    for request in &requests {
        let subjects: Vec<_> = request
            .fields
            .iter()
            .filter(|(name, _)| name.to_lowercase().replace('_', "-") == "x-client-subject")
            .collect();
        assert_eq!(subjects.len(), 1, "{request:?}");
        assert_eq!(subjects[0].1, "O=Acme\\, Inc,CN=alice");
    }
    assert!(proxy.log(2).iter().all(|line| line["subject"] == "O=Acme\\, Inc,CN=alice"), "{:?}", proxy.log(2));

    let mallory = Client { certificate: Some(stranger.sign("mallory", &[], |_| {})), ..authority.client() };
    let expired = authority.sign("late", &[], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let late = Client { certificate: Some(expired), ..authority.client() };
    for (who, client) in [("without", authority.client()), ("of another CA", mallory), ("expired", late)] {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13][..]] {
            let versions: &'static [_] = Box::leak(versions.to_vec().into_boxed_slice());
            let tried = Client { versions, ..client.clone() }.connect(proxy.address, "first.test");
            let answered = tried.and_then(|mut stream| get(&mut stream, "first.test", "/"));
            assert!(answered.is_err(), "{who}: {answered:?}");
        }
    }
    assert_eq!(backend.count(), 2);
}

/// A balancer with TLS in front of `backend`, for another balancer to speak to.
fn far(authority: &Authority, backend: &TestBackend, http2: bool, client_ca: Option<PathBuf>) -> TestProxy {
    let mut tls = authority.listener(vec![authority.sign("far", &["far.test"], |_| {})]);
    tls.client_ca = client_ca;
    let setup = Setup::new(&[backend]).logged();
    setup.listener(|listener| (listener.tls, listener.http2.enabled) = (Some(tls), http2)).start()
}

fn near(far: SocketAddr, protocol: Protocol, tls: Option<BackendTlsPlan>) -> TestProxy {
    let mut backend = BackendPlan::new("far", evenkeel::config::Address::Ip(far));
    backend.tls = tls;
    Setup::at(&[far])
        .pool(|pool| {
            (pool.protocol, pool.backends) = (protocol, vec![backend]);
            pool.retry.attempts = 1;
            pool.when_unhealthy = WhenUnhealthy::FailOpen;
        })
        .start()
}

fn trusting(authority: &Authority) -> BackendTlsPlan {
    BackendTlsPlan {
        server_name: Some("far.test".to_owned()),
        ca: Some(authority.path("ca.pem")),
        ..BackendTlsPlan::default()
    }
}

#[test]
fn tls_to_backends_in_every_protocol() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    for (protocol, http2, spoken) in [
        (Protocol::Https, true, "HTTP/1.1"),
        (Protocol::H2, true, "HTTP/2.0"),
        (Protocol::Auto, true, "HTTP/2.0"),
        (Protocol::Auto, false, "HTTP/1.1"),
    ] {
        let far = far(&authority, &backend, http2, None);
        let near = near(far.address, protocol, Some(trusting(&authority)));
        for _ in 0..3 {
            let answer = near.get("/x");
            assert_eq!((answer.status(), answer.text().as_str()), (200, "hello"), "{protocol:?}");
        }
        assert_eq!(near.client().post("/x", "body").status(), 200, "{protocol:?}");
        let report = near.change("POST /api/v1/pools/ai/check", "");
        assert!(report.text().contains("\"passed\"") || report.text().contains("not checked"), "{}", report.text());
        assert!(far.log(4).iter().all(|line| line["protocol"] == spoken), "{protocol:?}: {:?}", far.log(4));
        // Connections are used again.
        far.comes_to("evenkeel_tls_handshakes_total", &[("result", "ok")], 1.0);
    }
}

#[test]
fn a_backend_that_cannot_be_verified_is_a_502() {
    let (authority, stranger, backend) = (Authority::new(), Authority::new(), TestBackend::saying("hello"));
    let far = far(&authority, &backend, true, None);
    let other_name = BackendTlsPlan { server_name: Some("other.test".to_owned()), ..trusting(&authority) };
    let own = |tls: &BackendTlsPlan| near(far.address, Protocol::Https, Some(tls.clone())).get("/").status();
    assert_eq!(own(&trusting(&authority)), 200);
    assert_eq!(own(&other_name), 502);
    assert_eq!(own(&trusting(&stranger)), 502);
    assert_eq!(own(&BackendTlsPlan { ca: None, ..trusting(&authority) }), 502);
    assert_eq!(own(&BackendTlsPlan { verify: false, ..trusting(&stranger) }), 200);
}

/// What `openssl req -x509` makes: its own authority, and a server's certificate.
#[test]
fn a_self_signed_certificate_is_its_own_authority() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    let mut params = CertificateParams::new(vec!["far.test".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let (cert_file, key_file) = (authority.path("self.pem"), authority.path("self.key"));
    write(&cert_file, &params.self_signed(&key).unwrap().pem());
    write(&key_file, &key.serialize_pem());
    let tls = authority.listener(vec![CertificatePlan { cert: cert_file.clone(), key: Secret::File(key_file) }]);
    let far = Setup::new(&[&backend]).listener(|listener| listener.tls = Some(tls)).start();
    let asked = |name: &str, ca: PathBuf| {
        let tls = BackendTlsPlan { server_name: Some(name.to_owned()), ca: Some(ca), ..BackendTlsPlan::default() };
        near(far.address, Protocol::Https, Some(tls)).get("/").status()
    };
    assert_eq!(asked("far.test", cert_file.clone()), 200);
    assert_eq!(asked("other.test", cert_file), 502);
    assert_eq!(asked("far.test", authority.path("ca.pem")), 502);
}

#[test]
fn backends_may_ask_for_our_certificate() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    let far = far(&authority, &backend, true, Some(authority.path("ca.pem")));
    for protocol in [Protocol::Https, Protocol::H2] {
        let client = authority.sign("balancer", &[], |_| {});
        let tls = BackendTlsPlan { client: Some(client), ..trusting(&authority) };
        assert_eq!(near(far.address, protocol, Some(tls)).get("/").status(), 200);
        assert_eq!(near(far.address, protocol, Some(trusting(&authority))).get("/").status(), 502);
    }
    assert!(far.log(2).iter().all(|line| line["subject"] == "CN=balancer"));
}

/// A hundred certificates, one after the other, while clients come without a pause; then bad ones, which change nothing.
#[test]
fn certificates_change_under_load() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    authority.sign("site", &["site.test"], |_| {});
    let site = authority.path("site").display().to_string();
    let config = Config::new(&[&backend]).text().replace(
        "[admin]",
        &format!("tls = {{ certificates = [{{ cert = \"{site}.pem\", key = \"{site}.key\" }}] }}\n[admin]"),
    );
    let binary = Binary::run(&config);
    let address = binary.secure_address();
    let (done, handshakes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (client, done, count) = (authority.client(), Arc::clone(&done), Arc::clone(&handshakes));
            std::thread::spawn(move || {
                while !done.load(SeqCst) {
                    let mut stream = client.connect(address, "site.test").expect("a handshake");
                    assert!(get(&mut stream, "site.test", "/").expect("an answer").ends_with("hello"));
                    count.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let reloads = || binary.metric("evenkeel_config_reloads_total", &[("result", "success")]);
    for round in 1..=100 {
        authority.sign("site", &["site.test"], |params| {
            params.distinguished_name.push(DnType::OrganizationName, format!("{round}"))
        });
        binary.signal("HUP");
        until("the reload", || reloads() >= f64::from(round));
    }
    let shown = || leaf_name(&authority.client().connect(address, "site.test").unwrap());
    assert_eq!(shown(), "O=100,CN=site");

    // By the change of the files alone.
    authority.sign("site", &["site.test"], |params| params.distinguished_name.push(DnType::OrganizationName, "seen"));
    until("the new certificate", || shown() == "O=seen,CN=site");
    // A key of another certificate: refused, told, and the old one goes on, by file and by signal.
    let key = std::fs::read(authority.path("site.key")).unwrap();
    // (Half of an earlier change may have been seen and refused too, should this machine have been slow enough.)
    let refusals = || binary.metric("evenkeel_tls_certificate_reloads_total", &[("result", "failure")]);
    let before = refusals();
    std::fs::write(authority.path("site.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    until("the refusal", || refusals() > before);
    binary.signal("HUP");
    until("the refusal", || binary.metric("evenkeel_config_reloads_total", &[("result", "failure")]) == 1.0);
    assert_eq!(shown(), "O=seen,CN=site");
    std::fs::write(authority.path("site.key"), key).unwrap();
    until("more handshakes", || handshakes.load(SeqCst) > 100);
    done.store(true, SeqCst);
    for client in clients {
        client.join().expect("no client failed");
    }
    let log = binary.log();
    assert!(log.contains("is not the key of"), "{log}");
}

/// What openssl and curl make of it, in every combination that people use.
#[test]
fn openssl_and_curl() {
    let (authority, backend) = (Authority::new(), TestBackend::saying("hello"));
    let open = secure(&authority, &backend, |_| {});
    let ca = authority.path("ca.pem").display().to_string();
    let closed = secure(&authority, &backend, |tls| {
        tls.client_ca = Some(authority.path("ca.pem"));
        tls.subject_header = Some("x-client-subject".to_owned());
    });
    let stranger = Authority::new();
    let (alice, mallory) = (authority.sign("alice", &[], |_| {}), stranger.sign("mallory", &[], |_| {}));
    let shown = |plan: &CertificatePlan| {
        let Secret::File(key) = &plan.key else { panic!("a file") };
        [plan.cert.display().to_string(), key.display().to_string()]
    };

    let curl = |address: SocketAddr, name: &str, arguments: &[&str]| {
        let (resolve, url) =
            (format!("{name}:{}:127.0.0.1", address.port()), format!("https://{name}:{}/", address.port()));
        let mut command = std::process::Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--noproxy",
            "*",
            "--cacert",
            &ca,
            "--resolve",
            &resolve,
        ]);
        command.args(["--write-out", " %{http_version} %{ssl_verify_result}"]).args(arguments).arg(&url);
        crate::tools::tool(&mut command, "").map(|output| {
            (
                output.status.success(),
                String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
            )
        })
    };
    for version in ["--tlsv1.2 --tls-max 1.2", "--tlsv1.3"] {
        for (http, spoken) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let arguments: Vec<_> = version.split(' ').chain([http]).collect();
            for name in ["first.test", "a.wild.test", "exact.other.test"] {
                let Some(done) = curl(open.address, name, &arguments) else { return };
                assert_eq!(done, (true, format!("hello {spoken} 0")), "{arguments:?} {name}");
            }
            let [cert, key] = shown(&alice);
            let with = |extra: &[&str]| curl(closed.address, "first.test", &[&arguments[..], extra].concat()).unwrap();
            assert_eq!(with(&["--cert", &cert, "--key", &key]), (true, format!("hello {spoken} 0")), "{arguments:?}");
            assert_eq!(backend.requests().pop().unwrap().field("x-client-subject"), Some("CN=alice"), "{arguments:?}");
            let [cert, key] = shown(&mallory);
            assert!(!with(&["--cert", &cert, "--key", &key]).0, "{arguments:?}");
            assert!(!with(&[]).0, "{arguments:?}");
        }
    }
    assert!(!curl(open.address, "b.a.wild.test", &[]).unwrap().0, "no certificate is for this name");

    let openssl = |address: SocketAddr, arguments: &[&str]| {
        let mut command = std::process::Command::new("openssl");
        command.args(["s_client", "-connect", &address.to_string(), "-CAfile", &ca, "-brief"]).args(arguments);
        crate::tools::tool(&mut command, "").map(|output| String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let Some(modern) = openssl(open.address, &["-servername", "x.wild.test", "-verify_hostname", "x.wild.test"]) else {
        return;
    };
    assert!(modern.contains("Protocol version: TLSv1.3") && modern.contains("Verification: OK"), "{modern}");
    let older = openssl(open.address, &["-tls1_2", "-servername", "first.test", "-alpn", "h2,http/1.1"]).unwrap();
    assert!(older.contains("Protocol version: TLSv1.2") && older.contains("ECDHE"), "{older}");
    for refused in [&["-tls1_1"][..], &["-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384"], &["-alpn", "spdy/3"]] {
        let said = openssl(open.address, refused).unwrap();
        assert!(!said.contains("CONNECTION ESTABLISHED"), "{refused:?}: {said}");
    }
}
