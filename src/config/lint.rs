//! What tables say of each other. Two servers on one socket are an error; the rest are warnings: a file that can be used
//! may still hold a slip, and the operator should hear of it before production does.

mod pool;
mod route;

use super::plan::*;
use super::units::show_duration;
use super::walk::Walk;

/// Notes what contradicts, cannot act, or is probably not meant.
pub(super) fn check(walk: &Walk<'_>, plan: &Plan) {
    server(walk, plan);
    for (index, listener) in plan.listeners.iter().enumerate() {
        listener_limits(walk, &format!("listeners[{index}]"), listener);
    }
    if let Some(admin) = &plan.admin {
        check_admin(walk, plan, admin);
    }
    route::check(walk, plan);
    for pool in &plan.pools {
        pool::check(walk, plan, pool);
    }
}

fn server(walk: &Walk<'_>, plan: &Plan) {
    if !plan.server.drain_delay.is_zero() && plan.admin.is_none() {
        walk.warn(
            &["server.drain_delay", "admin"],
            (
                "delays the end for readers of /readyz, but there is no admin server to serve it",
                "add an `[admin]` table, or leave `drain_delay` out",
            ),
        );
    }
    if plan.server.drain_timeout.is_zero() {
        walk.warn(
            &["server.drain_timeout"],
            ("0s cuts every request in flight when the process ends or reloads", "such as \"60s\""),
        );
    }
}

fn listener_limits(walk: &Walk<'_>, path: &str, listener: &ListenerPlan) {
    let at = |key: &str| format!("{path}.{key}");
    if listener.max_uri > listener.max_header_bytes {
        walk.warn(
            &[&at("max_uri"), &at("max_header_bytes")],
            (
                "cannot act: the request target is part of the head, and max_header_bytes is less",
                "raise `max_header_bytes`",
            ),
        );
    }
    let http2 = &listener.http2;
    if http2.enabled && http2.stream_window > http2.connection_window {
        walk.warn(
            &[&at("http2.stream_window"), &at("http2.connection_window")],
            ("cannot act: the window of the whole connection is less", "raise `connection_window`"),
        );
    }
    if listener.limits.as_ref().is_some_and(|limits| limits.per_client_connections == 0 && limits.per_client_rps == 0.0)
    {
        walk.warn(
            &[&at("limits"), &at("limits.per_client_connections"), &at("limits.per_client_rps")],
            ("limits nothing", "set `per_client_connections` or `per_client_rps`, or leave `limits` out"),
        );
    }
    let untouched = ListenerPlan::new(listener.address).tls_handshake_timeout;
    if listener.tls_handshake_timeout != untouched && listener.tls.is_none() {
        walk.warn(&[&at("tls_handshake_timeout")], ("cannot act: this listener has no tls", "leave it out"));
    }
    if listener.tls.as_ref().is_some_and(|tls| tls.subject_header.is_some() && tls.client_ca.is_none()) {
        walk.warn(
            &[&at("tls.subject_header")],
            ("cannot act: clients are not asked for a certificate", "set `client_ca`, or leave it out"),
        );
    }
    for (index, range) in listener.trusted_proxies.iter().enumerate() {
        if range.prefix == 0 {
            walk.warn(
                &[&at(&format!("trusted_proxies[{index}]"))],
                ("trusts everybody: any client can claim any address", "name the proxies' own ranges"),
            );
        }
    }
}

fn check_admin(walk: &Walk<'_>, plan: &Plan, admin: &AdminPlan) {
    let taken = plan.listeners.iter().position(|other| other.address == admin.address && admin.address.port() != 0);
    if let Some(index) = taken
        && !walk.at_fault("admin.address")
        && !walk.at_fault(&format!("listeners[{index}].address"))
    {
        let what = format!("{} is the address of listeners[{index}] already", admin.address);
        walk.error("admin.address", (what, "the admin server needs a port of its own"));
    }
    if admin.public_metrics && admin.token.is_none() {
        walk.warn(
            &["admin.public_metrics", "admin.token_file"],
            (
                "changes nothing: without a token_file all of the admin server is open",
                "set `token_file`, or leave it out",
            ),
        );
    }
}

/// Warns that `shorter` is longer than `longer`, of which both are on.
fn too_long(walk: &Walk<'_>, shorter: (&str, std::time::Duration), longer: (&str, std::time::Duration), hint: &str) {
    let name = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    if !longer.1.is_zero() && shorter.1 > longer.1 {
        let (own, other) = (show_duration(shorter.1), show_duration(longer.1));
        let what = format!("{own} cannot act: {} ends it after {other}", name(longer.0));
        walk.warn(&[shorter.0, longer.0], (what, hint));
    }
}
