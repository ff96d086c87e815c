//! `[pools.NAME]` and its backends.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use super::http_names::{header_name, resource_name};
use super::listener::read_certificate;
use super::{parts, rl, sessions};
use crate::config::Engine;
use crate::config::address::check_host_name;
use crate::config::plan::*;
use crate::config::reference as keys;
use crate::config::source::Finding;
use crate::config::walk::Table;
use crate::config::words::unknown_word;

/// The pools, sorted by name.
pub(super) fn read_pools(root: &Table<'_>) -> Vec<PoolPlan> {
    if !root.require("pools") {
        return Vec::new();
    }
    let entries = root.free_table("pools");
    if entries.is_empty() && !root.walk.at_fault("pools") {
        root.wrong("pools", ("is empty", "at least one pool is needed: `[pools.NAME]`"));
    }
    let mut pools = Vec::with_capacity(entries.len());
    for (name, place, item) in entries {
        if let Err(what) = resource_name(name) {
            root.walk.error_at(&place, &item.path, what);
        }
        if let Some(table) = item.table(&keys::POOL) {
            pools.push(read_pool(name, &table));
        }
    }
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    pools
}

fn read_pool(name: &str, table: &Table<'_>) -> PoolPlan {
    let kind = table.choice("strategy", StrategyKind::PeakEwma, StrategyKind::from_name);
    let default = PoolPlan::new(name, kind, Vec::new());
    let engine = table.choice("engine", default.engine, Engine::named);
    let protocol = table.choice("protocol", default.protocol, protocol);
    let certainly_plain = protocol.is_plain() && !table.walk.at_fault(&table.at("protocol"));
    let resources = sessions::read_resources(table);
    let mut strategy = rl::read_strategy(kind, name, table);
    // One key for both: the strategy knows nothing of where samples come from.
    strategy.resource_based.expiry = resources.clone().unwrap_or_default().expiry;
    PoolPlan {
        strategy,
        protocol,
        when_unhealthy: table.choice("when_unhealthy", default.when_unhealthy, |word| match word {
            "fail_open" => Some(WhenUnhealthy::FailOpen),
            "reject" => Some(WhenUnhealthy::Reject),
            _ => None,
        }),
        max_in_flight: table.integer("max_in_flight", default.max_in_flight),
        engine,
        shadow: read_shadow(table),
        resolve: table.duration("resolve", default.resolve),
        priority_header: table
            .parsed("priority_header", |text| if text.is_empty() { Ok(String::new()) } else { header_name(text) })
            .unwrap_or(default.priority_header),
        backends: read_backends(table, certainly_plain),
        health: parts::read_health(table, engine),
        outlier: parts::read_outlier(table),
        slow_start: parts::read_slow_start(table),
        timeouts: parts::read_timeouts(table),
        retry: parts::read_retry(table),
        queue: parts::read_queue(table),
        sticky: sessions::read_sticky(table),
        resources,
        stream_error_event: table.flag("stream_error_event", default.stream_error_event),
        name: default.name,
    }
}

fn protocol(word: &str) -> Option<Protocol> {
    Some(match word {
        "http1" => Protocol::Http1,
        "h2c" => Protocol::H2c,
        "https" => Protocol::Https,
        "h2" => Protocol::H2,
        "auto" => Protocol::Auto,
        _ => return None,
    })
}

fn read_shadow(table: &Table<'_>) -> Vec<StrategyKind> {
    let mut shadow = Vec::new();
    for item in table.items("shadow") {
        let kind =
            item.parsed(|word| StrategyKind::from_name(word).ok_or_else(|| unknown_word(word, keys::STRATEGIES)));
        match kind {
            Some(kind) if shadow.contains(&kind) => item.wrong(format!("{} is listed twice", kind.name())),
            Some(kind) => shadow.push(kind),
            None => {}
        }
    }
    shadow
}

fn read_backends(pool: &Table<'_>, plain: bool) -> Vec<BackendPlan> {
    let written = pool.require("backends");
    let tables = pool.tables("backends", &keys::BACKEND);
    if written && tables.is_empty() && !pool.walk.at_fault(&pool.at("backends")) {
        pool.wrong("backends", ("is empty", "a pool needs at least one backend"));
    }
    let mut first_of: HashMap<String, String> = HashMap::new();
    let mut backends = Vec::with_capacity(tables.len());
    for table in &tables {
        let backend = read_backend(table, plain);
        if !backend.name.is_empty()
            && let Some(first) = first_of.get(&backend.name)
        {
            let what = (format!("\"{}\" is the name of {first} already", backend.name), "names are unique in a pool");
            table.wrong("name", what);
        } else {
            first_of.insert(backend.name.clone(), table.path.clone());
        }
        backends.push(backend);
    }
    backends
}

fn read_backend(table: &Table<'_>, plain: bool) -> BackendPlan {
    table.require("name");
    table.require("address");
    let nowhere = Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let address = table.parsed("address", |text| {
        text.parse().map_err(|error: crate::config::AddressError| {
            (error.to_string(), "host:port, such as \"127.0.0.1:8001\" or \"gpu-1.example:8000\"").into()
        })
    });
    let name = table.parsed("name", resource_name).unwrap_or_default();
    let default = BackendPlan::new(name, address.unwrap_or(nowhere));
    BackendPlan {
        weight: table.integer("weight", default.weight),
        max_in_flight: table.has("max_in_flight").then(|| table.integer("max_in_flight", 0)),
        state: table.choice("state", default.state, |word| match word {
            "ready" => Some(AdminState::Ready),
            "drain" => Some(AdminState::Drain),
            "disabled" => Some(AdminState::Disabled),
            _ => None,
        }),
        expand: table.flag("expand", default.expand),
        tls: read_backend_tls(table, plain),
        name: default.name,
        address: default.address,
    }
}

fn read_backend_tls(backend: &Table<'_>, plain: bool) -> Option<BackendTlsPlan> {
    let table = backend.table("tls", &keys::BACKEND_TLS)?;
    if plain {
        let hint = "set the pool's `protocol` to \"https\", \"h2\" or \"auto\", or leave `tls` out";
        backend.wrong("tls", ("the pool's protocol is plain", hint));
    }
    let default = BackendTlsPlan::default();
    let client = table.has("client_cert") || table.has("client_key");
    Some(BackendTlsPlan {
        server_name: table.parsed("server_name", |text| match text.parse::<std::net::IpAddr>() {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => check_host_name(text).map(|()| text.to_ascii_lowercase()).map_err(Finding::from),
        }),
        ca: table.path("ca"),
        verify: table.flag("verify", default.verify),
        client: client.then(|| read_certificate(&table, "client_cert", "client_key")).flatten(),
    })
}
