//! `[[listeners]]`.

use super::http_names::own_header_name;
use super::server::read_secret;
use crate::config::plan::*;
use crate::config::reference as keys;
use crate::config::walk::Table;

pub(super) fn read_listeners(root: &Table<'_>) -> Vec<ListenerPlan> {
    if !root.require("listeners") {
        return Vec::new();
    }
    let tables = root.tables("listeners", &keys::LISTENER);
    if tables.is_empty() && !root.walk.at_fault("listeners") && !root.walk.at_fault("listeners[0]") {
        root.wrong("listeners", ("is empty", "at least one listener is needed"));
    }
    let mut listeners: Vec<ListenerPlan> = Vec::with_capacity(tables.len());
    for table in &tables {
        let plan = read_listener(table);
        let same = |other: &ListenerPlan| other.address == plan.address && plan.address.port() != 0;
        if !table.walk.at_fault(&table.at("address"))
            && let Some(first) = listeners.iter().position(same)
        {
            table.wrong("address", format!("{} is the address of listeners[{first}] already", plan.address));
        }
        listeners.push(plan);
    }
    // A client of one listener must not pose as one that another has verified.
    let subjects = listeners.iter().filter_map(|plan| plan.tls.as_ref()?.subject_header.clone());
    let guarded: Vec<String> = subjects.collect();
    for plan in &mut listeners {
        plan.guarded_headers.clone_from(&guarded);
    }
    listeners
}

fn read_listener(table: &Table<'_>) -> ListenerPlan {
    table.require("address");
    let unknown = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
    let default = ListenerPlan::new(table.socket("address").unwrap_or(unknown));
    let plan = ListenerPlan {
        address: default.address,
        proxy_protocol: table.flag("proxy_protocol", default.proxy_protocol),
        trusted_proxies: read_ranges(table),
        max_header_bytes: table.size("max_header_bytes", default.max_header_bytes),
        max_headers: table.integer("max_headers", default.max_headers),
        max_uri: table.size("max_uri", default.max_uri),
        max_body: table.size("max_body", default.max_body),
        header_timeout: table.duration("header_timeout", default.header_timeout),
        idle_timeout: table.duration("idle_timeout", default.idle_timeout),
        body_idle_timeout: table.duration("body_idle_timeout", default.body_idle_timeout),
        write_idle_timeout: table.duration("write_idle_timeout", default.write_idle_timeout),
        tls_handshake_timeout: table.duration("tls_handshake_timeout", default.tls_handshake_timeout),
        http2: read_http2(table),
        limits: read_limits(table),
        tls: read_tls(table),
        guarded_headers: Vec::new(),
    };
    let nobody = plan.trusted_proxies.is_empty() && table.items("trusted_proxies").is_empty();
    if plan.proxy_protocol && nobody && !table.walk.at_fault(&table.at("trusted_proxies")) {
        table.wrong(
            "proxy_protocol",
            (
                "needs trusted_proxies: the header is taken from those only",
                "such as `trusted_proxies = [\"10.0.0.0/8\"]`",
            ),
        );
    }
    plan
}

fn read_ranges(table: &Table<'_>) -> Vec<Cidr> {
    let items = table.items("trusted_proxies");
    let range = |text: &str| {
        text.parse::<Cidr>().map_err(|error| (error.to_string(), "such as \"10.0.0.0/8\" or \"192.0.2.7\"").into())
    };
    items.iter().filter_map(|item| item.parsed(range)).collect()
}

fn read_http2(listener: &Table<'_>) -> Http2Plan {
    let default = Http2Plan::default();
    let Some(table) = listener.table("http2", &keys::HTTP2) else { return default };
    Http2Plan {
        enabled: table.flag("enabled", default.enabled),
        max_streams: table.integer("max_streams", default.max_streams),
        stream_window: table.size("stream_window", default.stream_window),
        connection_window: table.size("connection_window", default.connection_window),
        ping: table.duration("ping", default.ping),
    }
}

fn read_limits(listener: &Table<'_>) -> Option<ClientLimitsPlan> {
    let default = ClientLimitsPlan::default();
    let table = listener.table("limits", &keys::LIMITS)?;
    Some(ClientLimitsPlan {
        per_client_connections: table.integer("per_client_connections", default.per_client_connections),
        per_client_rps: table.number("per_client_rps", default.per_client_rps),
        dry_run: table.flag("dry_run", default.dry_run),
    })
}

fn read_tls(listener: &Table<'_>) -> Option<ListenerTlsPlan> {
    let table = listener.table("tls", &keys::LISTENER_TLS)?;
    let written = table.require("certificates");
    let certificates = table.tables("certificates", &keys::CERTIFICATE);
    if written && certificates.is_empty() && !table.walk.at_fault(&table.at("certificates")) {
        table.wrong("certificates", ("is empty", "TLS needs at least one certificate"));
    }
    Some(ListenerTlsPlan {
        certificates: certificates.iter().filter_map(|entry| read_certificate(entry, "cert", "key")).collect(),
        client_ca: table.path("client_ca"),
        subject_header: table.parsed("subject_header", own_header_name),
        min_version: table.choice("min_version", TlsVersion::V12, |word| match word {
            "1.2" => Some(TlsVersion::V12),
            "1.3" => Some(TlsVersion::V13),
            _ => None,
        }),
    })
}

/// A certificate and its key, of which neither may be missing.
pub(super) fn read_certificate(table: &Table<'_>, cert: &str, key: &str) -> Option<CertificatePlan> {
    let both = table.require(cert) & table.require(key);
    let (cert, key) = (table.path(cert), read_secret(table, key));
    if both { Some(CertificatePlan { cert: cert?, key: key? }) } else { None }
}
