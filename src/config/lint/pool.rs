//! What the tables of one pool say of each other.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::too_long;
use crate::config::plan::*;
use crate::config::walk::Walk;
use crate::config::words::join;

pub(super) fn check(walk: &Walk<'_>, plan: &Plan, pool: &PoolPlan) {
    let path = join("pools", &pool.name);
    backends(walk, &path, pool);
    own_sockets(walk, &path, plan, pool);
    concurrency(walk, &path, plan, pool);
    health(walk, &path, pool);
    timeouts(walk, &path, pool);
    retries(walk, &path, pool);
    strategy(walk, &path, pool);
    sticky(walk, &path, plan, pool);
    resources(walk, &path, pool);
    agent(walk, &path, &pool.strategy.rl);
}

fn backends(walk: &Walk<'_>, path: &str, pool: &PoolPlan) {
    let at = |index: usize, key: &str| format!("{path}.backends[{index}].{key}");
    let mut first_at: HashMap<&Address, usize> = HashMap::new();
    for (index, backend) in pool.backends.iter().enumerate() {
        let address = at(index, "address");
        if let Some(&first) = first_at.get(&backend.address) {
            let what = format!("{} is the address of \"{}\" too", backend.address, name_of(pool, first));
            walk.warn(&[&address, &at(first, "address")], (what, "one server counted twice gets twice its share"));
        } else if !walk.at_fault(&address) {
            first_at.insert(&backend.address, index);
        }
        if backend.expand && matches!(backend.address, Address::Ip(_)) {
            walk.warn(
                &[&at(index, "expand"), &address],
                ("cannot act: the address is no host name", "leave it out, or write a name that has several addresses"),
            );
        }
        if backend.tls.as_ref().is_some_and(|tls| !tls.verify) {
            let hint = match backend.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
                Some(_) => "leave `verify` out: as it is, `ca` verifies nothing",
                None => "set `ca` to the CA that signed its certificate",
            };
            walk.warn(
                &[&at(index, "tls.verify"), &at(index, "tls")],
                ("anybody in between can pose as this backend", hint),
            );
        }
    }
    if !pool.backends.is_empty() && pool.backends.iter().all(|backend| backend.state != AdminState::Ready) {
        walk.warn(
            &[&at(0, "state")],
            ("no backend of this pool is ready: new requests have nowhere to go", "set one to \"ready\""),
        );
    }
}

/// Backends at an address where we listen ourselves: each request would come back to us.
fn own_sockets(walk: &Walk<'_>, path: &str, plan: &Plan, pool: &PoolPlan) {
    let listeners = plan.listeners.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| (format!("listeners[{index}].address"), listener.address));
    let admin = plan.admin.iter().map(|admin| ("admin.address".to_owned(), admin.address));
    let own: Vec<_> = listeners.chain(admin).filter(|(key, _)| !walk.at_fault(key)).collect();
    for (index, backend) in pool.backends.iter().enumerate() {
        let key = format!("{path}.backends[{index}].address");
        let leads_here = |socket: SocketAddr| match &backend.address {
            Address::Ip(address) => reaches(address.ip(), address.port(), socket),
            Address::Name { host, port } => {
                let local = host.eq_ignore_ascii_case("localhost");
                local
                    && [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
                        .into_iter()
                        .any(|ip| reaches(ip, *port, socket))
            }
        };
        if let Some((own, socket)) = own.iter().find(|(_, socket)| leads_here(*socket)).filter(|_| !walk.at_fault(&key))
        {
            let what = format!("{} is where we listen ourselves ({socket}): requests go in a circle", backend.address);
            walk.warn(&[&key, own], (what, "the address of the server behind us"));
        }
    }
}

/// Whether a connection to `ip:port` arrives at a socket bound to `socket`, as far as that can be told from here: of the
/// machine's addresses only the loopback ones are known.
fn reaches(ip: IpAddr, port: u16, socket: SocketAddr) -> bool {
    let (ip, bound) = (ip.to_canonical(), socket.ip().to_canonical());
    // Connecting to the unspecified address is connecting to this machine.
    let ours = ip.is_loopback() || ip.is_unspecified();
    let any = bound.is_unspecified() && (bound.is_ipv6() || ip.is_ipv4());
    port != 0 && port == socket.port() && (ip == bound || (any && ours) || (ip.is_unspecified() && bound.is_loopback()))
}

fn name_of(pool: &PoolPlan, index: usize) -> &str {
    pool.backends.get(index).map_or("", |backend| backend.name.as_str())
}

/// `max_in_flight`, and the queue that acts only with it.
fn concurrency(walk: &Walk<'_>, path: &str, plan: &Plan, pool: &PoolPlan) {
    let limit_of = |backend: &BackendPlan| backend.max_in_flight.unwrap_or(pool.max_in_flight);
    let queue = format!("{path}.queue");
    // Written at its default it is a reminder, not a wish.
    if pool.queue != QueuePlan::default()
        && pool.queue.size > 0
        && pool.backends.iter().all(|backend| limit_of(backend) == 0)
    {
        walk.warn(
            &[&queue, &format!("{path}.max_in_flight")],
            (
                "cannot act: no backend has a max_in_flight, so none is ever full",
                "set `max_in_flight` to a backend's slots",
            ),
        );
    }
    if walk.written(&queue) && pool.queue.size == 0 && walk.written(&format!("{queue}.timeout")) {
        walk.warn(
            &[&format!("{queue}.timeout"), &format!("{queue}.size")],
            ("cannot act: size 0 turns the queue off", "leave it out, or raise `size`"),
        );
    }
    // One HTTP/2 connection carries max_streams requests, one of HTTP/1.1 a single one.
    let streams = plan.listeners.iter().map(|l| if l.http2.enabled { l.http2.max_streams as usize } else { 1 });
    let most = plan.server.max_connections.saturating_mul(streams.max().unwrap_or(1));
    let keys = (0..pool.backends.len()).map(|index| format!("{path}.backends[{index}].max_in_flight"));
    let written = keys.zip(pool.backends.iter().map(limit_of)).filter(|(key, _)| walk.written(key));
    for (key, limit) in written.chain([(format!("{path}.max_in_flight"), pool.max_in_flight)]) {
        if limit as usize > most {
            walk.warn(
                &[&key, "server.max_connections"],
                (
                    format!("{limit} cannot act: clients can have {most} requests open in all"),
                    "a backend's slots: 8, 16",
                ),
            );
        }
    }
}

fn health(walk: &Walk<'_>, path: &str, pool: &PoolPlan) {
    let at = |key: &str| format!("{path}.health.{key}");
    let health = &pool.health;
    if health.kind != ProbeKind::None && health.timeout > health.interval {
        walk.warn(
            &[&at("timeout"), &at("interval")],
            (
                "is longer than the interval: a hanging backend is found later than `fall` × `interval`",
                "a timeout below the interval",
            ),
        );
    }
    let unused: &[&str] = match health.kind {
        ProbeKind::Http => &[],
        ProbeKind::Tcp => &["path", "expect_status"],
        ProbeKind::Grpc => &["expect_status"],
        ProbeKind::None => &["path", "expect_status", "interval", "timeout", "rise", "fall", "jitter"],
    };
    for key in unused.iter().map(|key| at(key)).filter(|key| walk.written(key)) {
        walk.warn(
            &[&key, &at("kind")],
            ("cannot act with this kind of probe", "leave it out, or set `kind = \"http\"`"),
        );
    }
    let stalls = at("stalled_after");
    if health.stalled_after > 0 && walk.written(&stalls) {
        let off = match (health.kind, pool.outlier.consecutive_failures) {
            (ProbeKind::None, _) => Some((at("kind"), "kind = \"none\" turns health off")),
            (_, 0) => {
                Some((format!("{path}.outlier.consecutive_failures"), "consecutive_failures = 0 turns ejection off"))
            }
            _ => None,
        };
        if let Some((other, why)) = off {
            walk.warn(&[&stalls, &other], (format!("cannot act: {why}"), "leave it out"));
        }
    }
    if health.kind == ProbeKind::None && pool.outlier.consecutive_failures == 0 {
        walk.warn(
            &[&at("kind"), &format!("{path}.outlier.consecutive_failures")],
            ("nothing notices a failed backend: checks and ejection are both off", "keep one of them on"),
        );
    }
    let outlier = |key: &str| format!("{path}.outlier.{key}");
    if pool.outlier.base_ejection > pool.outlier.max_ejection {
        walk.warn(
            &[&outlier("base_ejection"), &outlier("max_ejection")],
            ("is longer than max_ejection, which cuts it", "raise `max_ejection`"),
        );
    }
}

fn timeouts(walk: &Walk<'_>, path: &str, pool: &PoolPlan) {
    let at = |key: &str| format!("{path}.timeouts.{key}");
    let times = &pool.timeouts;
    let total = (at("total"), times.total);
    let total = (total.0.as_str(), total.1);
    let hint = "raise `total`, or lower this one";
    let waits = [
        (at("connect"), times.connect),
        (at("first_byte"), times.first_byte),
        (at("idle"), times.idle),
        (format!("{path}.queue.timeout"), pool.queue.timeout),
    ];
    // The defaults are long on purpose; only what was written can be a slip.
    for (key, wait) in waits.iter().filter(|(key, _)| walk.written(key)) {
        too_long(walk, (key, *wait), total, hint);
    }
}

fn retries(walk: &Walk<'_>, path: &str, pool: &PoolPlan) {
    let at = |key: &str| format!("{path}.retry.{key}");
    let retry = &pool.retry;
    if retry.attempts > 1 && retry.on.is_empty() {
        walk.warn(&[&at("on"), &at("attempts")], ("is empty: nothing is retried", "set `attempts = 1` to say so"));
    }
    if retry.attempts == 1 {
        for key in ["on", "budget", "non_idempotent", "max_replay"].map(at).iter().filter(|key| walk.written(key)) {
            walk.warn(&[key, &at("attempts")], ("cannot act: attempts = 1 turns retries off", "raise `attempts`"));
        }
    }
    let backends = pool.backends.len();
    if retry.attempts as usize > backends.max(2) && pool.backends.iter().all(|backend| !backend.expand) {
        let number = if backends == 1 { "one backend".to_owned() } else { format!("{backends} backends") };
        let what = format!("{} tries, but {number}: the same one gets a request again", retry.attempts);
        walk.warn(&[&at("attempts")], (what, "as many tries as there are backends at most"));
    }
}

fn strategy(walk: &Walk<'_>, path: &str, pool: &PoolPlan) {
    let kind = pool.strategy.kind;
    let weightless = matches!(kind, StrategyKind::RoundRobin | StrategyKind::Random);
    let key = format!("{path}.strategy");
    let weighted = pool.backends.iter().position(|backend| backend.weight != 1).filter(|_| weightless);
    if let Some(index) = weighted {
        let instead = if kind == StrategyKind::Random { "power_of_two" } else { "weighted_round_robin" };
        let hint = format!("set `strategy = \"{instead}\"`, or leave the weights out");
        let what = format!("cannot act: {} ignores weights", kind.name());
        walk.warn(&[&format!("{path}.backends[{index}].weight"), &key], (what, hint));
    }
    let ramp = format!("{path}.slow_start");
    if pool.slow_start.is_some() && kind == StrategyKind::Rl {
        walk.warn(&[&ramp, &key], ("is not for rl, which ramps by evidence", "leave it out"));
    } else if pool.slow_start.is_some() && weightless {
        let what = format!("cannot act: it ramps the weight, which {} ignores", kind.name());
        walk.warn(&[&ramp, &key], (what, "choose a strategy with weights"));
    }
    if kind == StrategyKind::ResourceBased && pool.resources.is_none() {
        walk.warn(
            &[&key, &format!("{path}.resources")],
            (
                "there is no source of CPU and memory, so only requests in flight count until the API sets them",
                "add `[pools.NAME.resources]`, or choose \"least_connections\"",
            ),
        );
    }
    if pool.shadow.contains(&kind) {
        let what = format!("{} is the strategy itself: it would agree with every decision", kind.name());
        walk.warn(&[&format!("{path}.shadow"), &key], (what, "leave it out"));
    }
}

fn sticky(walk: &Walk<'_>, path: &str, plan: &Plan, pool: &PoolPlan) {
    let Some(sticky) = &pool.sticky else { return };
    let at = |key: &str| format!("{path}.sticky.{key}");
    if sticky.idle > sticky.life {
        walk.warn(
            &[&at("idle"), &at("life")],
            ("cannot act: a session is over at `life`, which is less", "raise `life`"),
        );
    }
    match sticky.mode {
        StickyMode::Cookie => {
            if sticky.secret.is_none() {
                walk.warn(
                    &[&format!("{path}.sticky"), &at("secret_file")],
                    (
                        "without a secret_file a key is made at start: sessions end with the process and differ between processes",
                        "set `secret_file`",
                    ),
                );
            }
            if sticky.same_site == SameSite::None && plan.listeners.iter().any(|listener| listener.tls.is_none()) {
                walk.warn(
                    &[&at("same_site")],
                    (
                        "browsers take SameSite=None over TLS only, and a listener is plain",
                        "\"lax\", unless TLS ends before us",
                    ),
                );
            }
        }
        StickyMode::Header | StickyMode::SourceIp => {
            for key in ["secret_file", "same_site"].map(at).iter().filter(|key| walk.written(key)) {
                walk.warn(&[key, &at("mode")], ("cannot act: only cookies have it", "leave it out"));
            }
        }
    }
}

/// What stands for the backend in a query.
const PLACES: [&str; 4] = ["{instance}", "{address}", "{host}", "{name}"];

fn resources(walk: &Walk<'_>, path: &str, pool: &PoolPlan) {
    let Some(resources) = &pool.resources else { return };
    let at = |key: &str| format!("{path}.resources{key}");
    if resources.scrape.is_none() && resources.prometheus.is_none() && !resources.orca {
        walk.warn(&[&at(""), &at(".orca")], ("has no source", "add `scrape`, `prometheus` or `orca = true`"));
    }
    let periods = [
        (".scrape.interval", resources.scrape.as_ref().map(|source| source.interval)),
        (".prometheus.interval", resources.prometheus.as_ref().map(|source| source.interval)),
    ];
    for (key, period) in periods {
        if period.is_some_and(|period| period >= resources.expiry) {
            let what = "is not shorter than expiry: a sample is unknown before the next one comes";
            walk.warn(&[&at(key), &at(".expiry")], (what, "an interval well below `expiry`"));
        }
    }
    if let Some(source) = &resources.prometheus {
        for (key, query) in [(".prometheus.cpu", &source.cpu), (".prometheus.memory", &source.memory)] {
            let tells_apart = |query: &String| PLACES.iter().any(|place| query.contains(place));
            if query.as_ref().is_some_and(|query| !tells_apart(query)) {
                let what = "asks the same for every backend: none of {instance}, {address}, {host} and {name} is in it";
                walk.warn(&[&at(key)], (what, "write {instance} where the backend's address belongs"));
            }
        }
    }
}

fn agent(walk: &Walk<'_>, path: &str, rl: &RlPlan) {
    let at = |key: &str| format!("{path}.rl.{key}");
    if rl.min_epsilon > rl.initial_epsilon {
        walk.warn(
            &[&at("min_epsilon"), &at("initial_epsilon")],
            ("is above initial_epsilon: exploration never falls", "a floor below the start"),
        );
    }
    if rl.agent == RlAgent::Adaptive && !rl.cache.decision.is_zero() {
        walk.warn(
            &[&at("cache.decision"), &at("agent")],
            ("cannot act: the adaptive agent never caches a choice", "leave it out, or set `agent = \"tabular\"`"),
        );
    }
}
