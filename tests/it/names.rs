//! Backends by name, over the system's resolver.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use evenkeel::config::Address;

use crate::support::*;

/// A backend called `localhost` is found, whatever addresses the system gives it.
#[test]
fn a_name_is_looked_up() {
    let backend = TestBackend::saying("by name");
    let port = backend.address().port();
    let name: Address = format!("localhost:{port}").parse().unwrap();
    let proxy = Setup::new(&[&backend]).pool(|pool| pool.backends[0].address = name).start();
    // Nobody listens on ::1: where the system offers it first, the next address is tried.
    for _ in 0..3 {
        assert_eq!(proxy.get("/").status(), 200);
    }
    assert_eq!(proxy.metric("evenkeel_upstream_attempts_total", &[("result", "connect_failed")]), 0.0);
}

/// `expand`: one backend for each address of the name, called after it.
#[test]
fn a_name_is_expanded() {
    let backend = TestBackend::saying("expanded");
    let port = backend.address().port();
    let name: Address = format!("localhost:{port}").parse().unwrap();
    let proxy = Setup::new(&[&backend])
        .pool(|pool| {
            pool.backends[0].address = name;
            pool.backends[0].expand = true;
        })
        .start();
    let addresses: BTreeSet<IpAddr> =
        ("localhost", port).to_socket_addrs().unwrap().map(|address: SocketAddr| address.ip()).collect();
    let expected: Vec<String> = addresses.iter().map(|address| format!("b0-{address}")).collect();
    let pool = proxy.admin("/api/v1/pools/ai").json();
    let mut names: Vec<&str> = pool["backends"].as_array().unwrap().iter().filter_map(|b| b["name"].as_str()).collect();
    names.sort_unstable();
    let mut wanted: Vec<&str> = expected.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    // Tries go on to the address where somebody listens.
    assert_eq!(proxy.get("/").text(), "expanded");
}

/// A name without an address: 502 for its requests, and the others serve.
#[test]
fn a_name_without_an_address() {
    let backend = TestBackend::saying("other");
    let name: Address = "no-such-name.invalid:80".parse().unwrap();
    let alone = Setup::new(&[&backend]).pool(|pool| pool.backends[0].address = name.clone()).start();
    assert_eq!(alone.get("/").status(), 502);
    let proxy = Setup::new(&[&backend, &backend]).pool(|pool| pool.backends[0].address = name).start();
    for _ in 0..4 {
        assert_eq!(proxy.get("/").text(), "other");
    }
}
