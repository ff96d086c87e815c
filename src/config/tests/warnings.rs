//! Every warning with its place and its words, and files that deserve none.

use super::faults::{backend, listener, pool, whole};
use super::*;

/// The warnings of a text, one a line, whether or not it has errors.
fn warnings(text: &str) -> String {
    let source = source::Source::new("test.toml", text);
    let (_, findings, _) = read::examine(&source, Path::new(""));
    let warnings = findings.iter().filter(|finding| finding.severity == Severity::Warning);
    warnings.map(|found| format!("{}:{}: {}: {}\n", found.line, found.column, found.key, found.message)).collect()
}

type Case = (fn(&str) -> String, &'static str, &'static str);

const CASES: &[Case] = &[
    (
        pool,
        "[server]\ndrain_delay = \"5s\"",
        "7:15: server.drain_delay: delays the end for readers of /readyz, but there is no admin server to serve it",
    ),
    (
        pool,
        "[server]\ndrain_timeout = \"0s\"",
        "7:17: server.drain_timeout: 0s cuts every request in flight when the process ends or reloads",
    ),
    (
        listener,
        "max_uri = \"64KiB\"\nmax_header_bytes = \"16KiB\"",
        "6:11: listeners[0].max_uri: cannot act: the request target is part of the head, and max_header_bytes is less",
    ),
    (
        listener,
        "http2 = { stream_window = \"2MiB\" }",
        "6:27: listeners[0].http2.stream_window: cannot act: the window of the whole connection is less",
    ),
    (listener, "limits = {}", "6:10: listeners[0].limits: limits nothing"),
    (listener, "limits = { dry_run = true }", "6:10: listeners[0].limits: limits nothing"),
    (
        listener,
        "tls_handshake_timeout = \"1s\"",
        "6:25: listeners[0].tls_handshake_timeout: cannot act: this listener has no tls",
    ),
    (
        listener,
        "trusted_proxies = [\"0.0.0.0/0\"]",
        "6:20: listeners[0].trusted_proxies[0]: trusts everybody: any client can claim any address",
    ),
    (
        pool,
        "[admin]\npublic_metrics = true",
        "7:18: admin.public_metrics: changes nothing: without a token_file all of the admin server is open",
    ),
    (
        pool,
        "[[routes]]\npool = \"ai\"\n[[routes]]\nhost = \"a.example\"\npool = \"ai\"",
        "8:1: routes[1]: no request can reach this route: routes[0] takes all that match it",
    ),
    (
        pool,
        "[[routes]]\npath_prefix = \"/v1\"\npool = \"ai\"\n[[routes]]\npath_prefix = \"/v1/chat/\"\npool = \"ai\"",
        "9:1: routes[1]: no request can reach this route: routes[0] takes all that match it",
    ),
    (
        pool,
        "[[routes]]\nmax_model_peek = \"1KiB\"\npool = \"ai\"",
        "7:18: routes[0].max_model_peek: cannot act: this route has no `model`",
    ),
    (
        pool,
        "[[routes]]\npool = \"ai\"\n[pools.b]\nbackends = [{ name = \"b\", address = \"b:1\" }]",
        "8:1: pools.b: no route leads to this pool",
    ),
    (
        backend,
        "[[pools.ai.backends]]\nname = \"b\"\naddress = \"127.0.0.1:8001\"",
        "12:11: pools.ai.backends[1].address: 127.0.0.1:8001 is the address of \"instance-1\" too",
    ),
    (
        backend,
        "state = \"disabled\"",
        "10:9: pools.ai.backends[0].state: no backend of this pool is ready: new requests have nowhere to go",
    ),
    (
        backend,
        "weight = 3\n[pools.ai.retry]\nattempts = 5",
        "12:12: pools.ai.retry.attempts: 5 tries, but one backend: the same one gets a request again",
    ),
    (backend, "expand = true", "10:10: pools.ai.backends[0].expand: cannot act: the address is no host name"),
    (
        pool,
        "queue = { size = 10 }",
        "6:9: pools.ai.queue: cannot act: no backend has a max_in_flight, so none is ever full",
    ),
    (
        pool,
        "queue = { size = 0, timeout = \"1s\" }",
        "6:31: pools.ai.queue.timeout: cannot act: size 0 turns the queue off",
    ),
    (pool, "max_in_flight = 10\nqueue = { size = 10 }", ""),
    (
        backend,
        "max_in_flight = 1000000\n[server]\nmax_connections = 10",
        "10:17: pools.ai.backends[0].max_in_flight: 1000000 cannot act: clients can have 1000 requests open in all",
    ),
    (
        pool,
        "max_in_flight = 1000000\n[server]\nmax_connections = 10",
        "6:17: pools.ai.max_in_flight: 1000000 cannot act: clients can have 1000 requests open in all",
    ),
    (
        pool,
        "[pools.ai.health]\ntimeout = \"3s\"",
        "7:11: pools.ai.health.timeout: is longer than the interval: a hanging backend is found later than `fall` × `interval`",
    ),
    (
        pool,
        "[pools.ai.health]\nkind = \"tcp\"\npath = \"/x\"",
        "8:8: pools.ai.health.path: cannot act with this kind of probe",
    ),
    (
        pool,
        "[pools.ai.health]\nkind = \"none\"\nrise = 1\n[pools.ai.outlier]\nconsecutive_failures = 0",
        "7:8: pools.ai.health.kind: nothing notices a failed backend: checks and ejection are both off\n8:8: pools.ai.health.rise: cannot act with this kind of probe",
    ),
    (
        pool,
        "[pools.ai.outlier]\nbase_ejection = \"10m\"",
        "7:17: pools.ai.outlier.base_ejection: is longer than max_ejection, which cuts it",
    ),
    (pool, "[pools.ai.timeouts]\ntotal = \"60s\"", ""),
    (
        pool,
        "[pools.ai.timeouts]\ntotal = \"1s\"\nidle = \"300s\"\nfirst_byte = \"0s\"",
        "8:8: pools.ai.timeouts.idle: 5m cannot act: total ends it after 1s",
    ),
    (
        pool,
        "[pools.ai.timeouts]\ntotal = \"10s\"\nfirst_byte = \"1s\"\n[pools.ai.queue]\ntimeout = \"30s\"",
        "10:11: pools.ai.queue.timeout: 30s cannot act: total ends it after 10s",
    ),
    (pool, "[pools.ai.retry]\non = []", "7:6: pools.ai.retry.on: is empty: nothing is retried"),
    (
        pool,
        "[pools.ai.retry]\nattempts = 1\nbudget = 0.5",
        "8:10: pools.ai.retry.budget: cannot act: attempts = 1 turns retries off",
    ),
    (
        pool,
        "strategy = \"round_robin\"\nslow_start = {}",
        "7:14: pools.ai.slow_start: cannot act: it ramps the weight, which round_robin ignores",
    ),
    (pool, "strategy = \"rl\"\nslow_start = {}", "7:14: pools.ai.slow_start: is not for rl, which ramps by evidence"),
    (
        pool,
        "strategy = \"resource_based\"",
        "6:12: pools.ai.strategy: there is no source of CPU and memory, so only requests in flight count until the API sets them",
    ),
    (
        pool,
        "strategy = \"random\"\nshadow = [\"random\"]",
        "7:10: pools.ai.shadow: random is the strategy itself: it would agree with every decision",
    ),
    (
        pool,
        "[pools.ai.sticky]",
        "6:1: pools.ai.sticky: without a secret_file a key is made at start: sessions end with the process and differ between processes",
    ),
    (
        pool,
        "[pools.ai.sticky]\nsecret_file = \"k\"\nidle = \"9h\"\nsame_site = \"none\"",
        "8:8: pools.ai.sticky.idle: cannot act: a session is over at `life`, which is less\n9:13: pools.ai.sticky.same_site: browsers take SameSite=None over TLS only, and a listener is plain",
    ),
    (
        pool,
        "[pools.ai.sticky]\nmode = \"source_ip\"\nsecret_file = \"k\"",
        "8:15: pools.ai.sticky.secret_file: cannot act: only cookies have it",
    ),
    (pool, "[pools.ai.resources]", "6:1: pools.ai.resources: has no source"),
    (
        pool,
        "[pools.ai.resources]\nscrape = { interval = \"10s\" }",
        "7:23: pools.ai.resources.scrape.interval: is not shorter than expiry: a sample is unknown before the next one comes",
    ),
    (
        pool,
        "[pools.ai.resources]\nprometheus = { url = \"http://p:9090\", cpu = \"up\" }",
        "7:45: pools.ai.resources.prometheus.cpu: asks the same for every backend: none of {instance}, {address}, {host} and {name} is in it",
    ),
    (
        pool,
        "[pools.ai.resources]\nprometheus = { url = \"http://p:9090\", cpu = \"{address}\", memory = \"{name}{host}\" }",
        "",
    ),
    (
        pool,
        "[pools.ai.health]\nkind = \"none\"\nstalled_after = 3",
        "8:17: pools.ai.health.stalled_after: cannot act: kind = \"none\" turns health off",
    ),
    (
        pool,
        "[pools.ai.health]\nstalled_after = 3\n[pools.ai.outlier]\nconsecutive_failures = 0",
        "7:17: pools.ai.health.stalled_after: cannot act: consecutive_failures = 0 turns ejection off",
    ),
    (
        backend,
        "[[pools.ai.backends]]\nname = \"x\"\naddress = \"localhost:9901\"\n[admin]\naddress = \"0.0.0.0:9901\"\ntoken_file = \"t\"",
        "12:11: pools.ai.backends[1].address: localhost:9901 is where we listen ourselves (0.0.0.0:9901): requests go in a circle",
    ),
    (
        pool,
        "[pools.ai.rl]\nmin_epsilon = 0.5",
        "7:15: pools.ai.rl.min_epsilon: is above initial_epsilon: exploration never falls",
    ),
    (
        pool,
        "[pools.ai.rl]\ncache = { decision = \"100ms\" }",
        "7:22: pools.ai.rl.cache.decision: cannot act: the adaptive agent never caches a choice",
    ),
    (
        pool,
        "max_in_flight = 8\n[pools.ai.queue]\nsize = 10\n[pools.ai.health]\ninterval = \"1s\"\n[pools.ai.timeouts]\ntotal = \"10m\"",
        "",
    ),
    (pool, "[pools.ai.health]\ntimeout = \"3s\"\ninterval = \"0s\"", ""),
    (
        whole,
        "[[listeners]]\naddress = \"127.0.0.1:80\"\n[pools.ai]\nstrategy = \"round_robin\"\n[[pools.ai.backends]]\nname = \"a\"\naddress = \"a:1\"\nweight = 2",
        "8:10: pools.ai.backends[0].weight: cannot act: round_robin ignores weights",
    ),
    (
        pool,
        "[pools.ai.timeouts]\ntotal = \"60s\"\nfirst_byte = \"120s\"",
        "8:14: pools.ai.timeouts.first_byte: 2m cannot act: total ends it after 1m",
    ),
];

#[test]
fn every_warning_has_its_place_and_its_words() {
    for (frame, text, expected) in CASES {
        assert_eq!(warnings(&frame(text)).trim_end(), *expected, "{text}");
    }
}

#[test]
fn every_warning_says_what_to_do() {
    let found = CASES.iter().flat_map(|(frame, text, _)| match parse(&frame(text)) {
        Ok((_, warnings)) => warnings,
        Err(errors) => errors.into_vec(),
    });
    let mute: Vec<_> = found.filter(|found| found.severity == Severity::Warning && found.hint.is_empty()).collect();
    assert_eq!(mute, []);
}
