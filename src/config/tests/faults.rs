//! Every kind of fault with its place, key, words and hint: one table, exact.

use super::*;

/// Text that stands alone.
pub(super) fn whole(text: &str) -> String {
    text.to_owned()
}

/// Sound but for what follows the last listener, from line 6 on.
pub(super) fn listener(text: &str) -> String {
    let sound = "[pools.ai]\nbackends = [{ name = \"a\", address = \"127.0.0.1:1\" }]\n\n[[listeners]]\naddress = \"127.0.0.1:8080\"\n";
    format!("{sound}{text}")
}

/// Sound but for what follows the pool's keys, from line 6 on.
pub(super) fn pool(text: &str) -> String {
    let sound = "[[listeners]]\naddress = \"127.0.0.1:8080\"\n\n[pools.ai]\nbackends = [{ name = \"a\", address = \"127.0.0.1:1\" }]\n";
    format!("{sound}{text}")
}

/// Sound but for what follows the backend, from line 10 on.
pub(super) fn backend(text: &str) -> String {
    format!("{MINIMAL}{text}")
}

/// The errors of a text, one a line: place, key, words, and the hint in brackets. What is not built yet is left out: it
/// changes daily, and `features` has its own test.
fn faults(text: &str) -> String {
    let line = |error: &ConfigError| {
        let ConfigError { line, column, key, message, hint, .. } = error;
        format!("{line}:{column}: {key}: {message} ({hint})\n")
    };
    match parse(text) {
        Ok(_) => String::new(),
        Err(errors) => errors.errors().filter(|error| !is_gate(error)).map(line).collect(),
    }
}

type Case = (fn(&str) -> String, &'static str, &'static str);

const CASES: &[Case] = &[
    (
        whole,
        "",
        "1:1: listeners: is missing (a table for each: `[[listeners]]`)\n1:1: pools: is missing (a table for each: `[pools.NAME]`)",
    ),
    (
        whole,
        "a = 1",
        "1:1: a: unknown key `a` (known here: server, log, listeners, admin, routes, pools, access_log)\n1:1: listeners: is missing (a table for each: `[[listeners]]`)\n1:1: pools: is missing (a table for each: `[pools.NAME]`)",
    ),
    (
        whole,
        "[[listeners]]\naddress = \"127.0.0.1:80\"\n[pools.a]\nbackends = []",
        "4:12: pools.a.backends: is empty (a pool needs at least one backend)",
    ),
    (
        whole,
        "listeners = []\npools = {}",
        "1:13: listeners: is empty (at least one listener is needed)\n2:9: pools: is empty (at least one pool is needed: `[pools.NAME]`)",
    ),
    (
        whole,
        "listeners = 1\npools = 2",
        "1:13: listeners: a list is expected, not the number 1 ()\n2:9: pools: a table is expected, not the number 2 ()",
    ),
    (
        whole,
        "[listeners]\naddress = \"127.0.0.1:80\"\n[pools.ai]\nbackends = [{ name = \"a\", address = \"a:1\" }]",
        "1:1: listeners: a list is expected, not a table (each entry has a header of its own: `[[listeners]]`)",
    ),
    (pool, "[servers]\nthreads = 1", "6:2: servers: unknown key `servers` (did you mean `server`?)"),
    (pool, "[server]\nthreads = -1", "7:11: server.threads: -1 is out of range (0 to 1024)"),
    (
        pool,
        "[server]\nthreads = 1.5",
        "7:11: server.threads: a whole number is expected, not the number 1.5 (0 to 1024)",
    ),
    (
        pool,
        "[server]\nthreads = 99999999999999999999999999999999999999999999",
        "7:11: server.threads: 99999999999999999999999999999999999999999999 is out of range (0 to 1024)",
    ),
    (pool, "[server]\nmax_connections = 0", "7:19: server.max_connections: 0 is out of range (1 to 10000000)"),
    (
        pool,
        "[server]\ndrain_timeout = 60",
        "7:17: server.drain_timeout: a duration is expected, not the number 60 (\"60s\" for seconds, \"60ms\" for milliseconds)",
    ),
    (
        pool,
        "[server]\ndrain_timeout = \"60\"",
        "7:17: server.drain_timeout: `60` has no unit (\"60s\" for seconds, \"60ms\" for milliseconds)",
    ),
    (pool, "[server]\ndrain_delay = \"2h\"", "7:15: server.drain_delay: 2h is out of range (0s to 1h)"),
    (pool, "[server]\ndrain_delay = \"-1s\"", "7:15: server.drain_delay: `-1s` is negative (durations are 0 or more)"),
    (pool, "[log]\nlevel = \"infos\"", "7:9: log.level: `infos` is not a level (did you mean \"info\"?)"),
    (
        pool,
        "[log]\nlevel = \"debug=debug=x\"",
        "7:9: log.level: is not a filter: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5 (such as \"info,evenkeel::health=debug\")",
    ),
    (pool, "[log]\nformat = \"jsonl\"", "7:10: log.format: unknown value \"jsonl\" (did you mean \"json\"?)"),
    (pool, "[access_log]\nformat = true", "7:10: access_log.format: a text in quotes is expected, not true ()"),
    (pool, "[access_log]\npath = \"\"", "7:8: access_log.path: is empty (a path, or \"-\" for stdout)"),
    (
        pool,
        "[admin]\naddress = \"0.0.0.0:9901\"",
        "7:11: admin.address: 0.0.0.0 is not loopback, and there is no token_file (set `token_file`, or listen on 127.0.0.1)",
    ),
    (
        pool,
        "[admin]\naddress = \"127.0.0.1:8080\"",
        "7:11: admin.address: 127.0.0.1:8080 is the address of listeners[0] already (the admin server needs a port of its own)",
    ),
    (
        pool,
        "[admin]\ntoken_file = \"env:\"",
        "7:14: admin.token_file: `` is not the name of an environment variable (such as \"env:EVENKEEL_ADMIN_TOKEN\")",
    ),
    (pool, "[admin]\ntoken_file = \"\"", "7:14: admin.token_file: is empty; a path or env:NAME is expected ()"),
    (listener, "address = \"127.0.0.1:8081\"", "6:1: listeners.address: duplicate key ()"),
    (
        listener,
        "proxy_protocol = \"yes\"",
        "6:18: listeners[0].proxy_protocol: true or false is expected, not a text ()",
    ),
    (
        listener,
        "trusted_proxies = [\"10.0.0.1/8\"]",
        "6:20: listeners[0].trusted_proxies[0]: bits after the prefix are set; `10.0.0.0/8` is the range (such as \"10.0.0.0/8\" or \"192.0.2.7\")",
    ),
    (
        listener,
        "trusted_proxies = [\"10.0.0.0/8\", \"proxy.example\"]",
        "6:34: listeners[0].trusted_proxies[1]: `proxy.example` is not an IP address (such as \"10.0.0.0/8\" or \"192.0.2.7\")",
    ),
    (
        listener,
        "max_body = \"10MB\"",
        "6:12: listeners[0].max_body: `MB` is not a unit of size (did you mean \"10MiB\"?)",
    ),
    (
        listener,
        "max_body = 0",
        "6:12: listeners[0].max_body: a size is expected, not the number 0 (sizes are texts: \"64KiB\", \"1MiB\", \"0\")",
    ),
    (
        listener,
        "max_header_bytes = \"1KiB\"",
        "6:20: listeners[0].max_header_bytes: 1KiB is out of range (8KiB to 1MiB)",
    ),
    (listener, "max_uri = \"1MiB\"", "6:11: listeners[0].max_uri: 1MiB is out of range (256 to 64KiB)"),
    (listener, "header_timeout = \"0s\"", "6:18: listeners[0].header_timeout: 0s is out of range (1ms to 1h)"),
    (
        listener,
        "http2 = { max_stream = 1 }",
        "6:11: listeners[0].http2.max_stream: unknown key `max_stream` (did you mean `max_streams`?)",
    ),
    (
        listener,
        "http2 = { stream_window = \"4GiB\" }",
        "6:27: listeners[0].http2.stream_window: 4GiB is out of range (1KiB to 2147483647)",
    ),
    (listener, "http2 = true", "6:9: listeners[0].http2: a table is expected, not true ()"),
    (
        listener,
        "limits = { per_client_rps = -1.0 }",
        "6:29: listeners[0].limits.per_client_rps: -1 is out of range (0 to 1000000000)",
    ),
    (
        listener,
        "limits = { per_client_rps = inf }",
        "6:29: listeners[0].limits.per_client_rps: inf is out of range (0 to 1000000000)",
    ),
    (
        listener,
        "[listeners.tls]\nmin_version = \"1.1\"",
        "6:1: listeners[0].tls.certificates: is missing (a table for each: `[[listeners[0].tls.certificates]]`)\n7:15: listeners[0].tls.min_version: unknown value \"1.1\" (did you mean \"1.2\"?)",
    ),
    (
        listener,
        "[listeners.tls]\ncertificates = []",
        "7:16: listeners[0].tls.certificates: is empty (TLS needs at least one certificate)",
    ),
    (
        listener,
        "[listeners.tls]\ncertificates = [{ cert = \"a.pem\" }]",
        "7:17: listeners[0].tls.certificates[0].key: is missing (such as `key = \"a.key\"`)",
    ),
    (
        listener,
        "[[listeners]]\naddress = \"127.0.0.1:8080\"",
        "7:11: listeners[1].address: 127.0.0.1:8080 is the address of listeners[0] already ()",
    ),
    (
        listener,
        "[[listeners]]\naddress = \"localhost:80\"",
        "7:11: listeners[1].address: `localhost:80` is not an address to listen on (write \"127.0.0.1:80\")",
    ),
    (
        listener,
        "[[listeners]]\naddress = \":80\"",
        "7:11: listeners[1].address: `:80` is not an address to listen on (write \"0.0.0.0:80\" for every IPv4 address)",
    ),
    (
        listener,
        "[[listeners]]\nmax_headers = 0",
        "6:1: listeners[1].address: is missing (such as `address = \"0.0.0.0:8443\"`)\n7:15: listeners[1].max_headers: 0 is out of range (1 to 10000)",
    ),
    (
        pool,
        "strategy = \"leastconnections\"",
        "6:12: pools.ai.strategy: unknown value \"leastconnections\" (did you mean \"least_connections\"?)",
    ),
    (
        pool,
        "strategy = \"best\"",
        "6:12: pools.ai.strategy: unknown value \"best\" (one of round_robin, weighted_round_robin, least_connections, least_response_time, ip_hash, random, resource_based, rl, power_of_two, peak_ewma)",
    ),
    (pool, "strategy = 3", "6:12: pools.ai.strategy: a text in quotes is expected, not the number 3 ()"),
    (pool, "protocol = \"http2\"", "6:12: pools.ai.protocol: unknown value \"http2\" (did you mean \"http1\"?)"),
    (
        pool,
        "interval = \"2s\"",
        "6:1: pools.ai.interval: unknown key `interval` (`interval` is a key of [pools.NAME.health])",
    ),
    (
        pool,
        "max_body = \"1MiB\"",
        "6:1: pools.ai.max_body: unknown key `max_body` (`max_body` is a key of [[listeners]])",
    ),
    (
        pool,
        "shadow = [\"least_conections\"]",
        "6:11: pools.ai.shadow[0]: unknown value \"least_conections\" (did you mean \"least_connections\"?)",
    ),
    (pool, "shadow = [\"random\", \"random\"]", "6:21: pools.ai.shadow[1]: random is listed twice ()"),
    (
        pool,
        "priority_header = \"x priority\"",
        "6:19: pools.ai.priority_header: `x priority` is not a header name (letters, digits and - only, such as `x-session`)",
    ),
    (pool, "[pools.ai.health]\njitter = 1.5", "7:10: pools.ai.health.jitter: 1.5 is out of range (0 to 1)"),
    (pool, "[pools.ai.health]\njitter = nan", "7:10: pools.ai.health.jitter: nan is out of range (0 to 1)"),
    (
        pool,
        "[pools.ai.health]\npath = \"health\"",
        "7:8: pools.ai.health.path: `health` is not a path (a path starts with `/`: \"/health\")",
    ),
    (
        pool,
        "[pools.ai.health]\nexpect_status = []",
        "7:17: pools.ai.health.expect_status: is empty: no answer could pass (such as [\"200-299\"])",
    ),
    (
        pool,
        "[pools.ai.health]\nexpect_status = [\"2xx\", \"299-200\", 600]",
        "7:18: pools.ai.health.expect_status[0]: `2xx` is not a status (a status or a range, 100 to 599: \"204\", \"200-299\")\n7:25: pools.ai.health.expect_status[1]: `299-200` runs backwards (the lower status stands first)\n7:36: pools.ai.health.expect_status[2]: `600` is not a status (a status or a range, 100 to 599: \"204\", \"200-299\")",
    ),
    (
        pool,
        "[pools.ai.health]\nkind = \"grcp\"",
        "7:8: pools.ai.health.kind: unknown value \"grcp\" (did you mean \"grpc\"?)",
    ),
    (pool, "[pools.ai.outlier]\nmax_ejected = 50", "7:15: pools.ai.outlier.max_ejected: 50 is out of range (0 to 1)"),
    (
        pool,
        "[pools.ai.outlier]\nconsecutive_failures = -1",
        "7:24: pools.ai.outlier.consecutive_failures: -1 is out of range (0 to 1000000)",
    ),
    (
        pool,
        "[pools.ai.slow_start]\nmin_weight = 0.0",
        "7:14: pools.ai.slow_start.min_weight: 0 is out of range (0.001 to 1)",
    ),
    (pool, "[pools.ai.timeouts]\nconnect = \"0s\"", "7:11: pools.ai.timeouts.connect: 0s is out of range (1ms to 1h)"),
    (
        pool,
        "[pools.ai.timeouts]\nfirst-byte = \"1s\"",
        "7:1: pools.ai.timeouts.first-byte: unknown key `first-byte` (did you mean `first_byte`?)",
    ),
    (pool, "[pools.ai.retry]\nattempts = 0", "7:12: pools.ai.retry.attempts: 0 is out of range (1 to 10)"),
    (
        pool,
        "[pools.ai.retry]\non = [\"connect_failed\", 500]",
        "7:7: pools.ai.retry.on[0]: unknown condition \"connect_failed\" (did you mean \"connect_failure\"?)\n7:25: pools.ai.retry.on[1]: unknown condition \"500\" (one of connect_failure, reset_before_response, 502, 503, 504, 429, timeout)",
    ),
    (pool, "[pools.ai.retry]\non = \"timeout\"", "7:6: pools.ai.retry.on: a list is expected, not a text ()"),
    (pool, "[pools.ai.retry]\nbudget = -0.1", "7:10: pools.ai.retry.budget: -0.1 is out of range (0 to 10)"),
    (
        pool,
        "[pools.ai.queue]\nsize = \"128\"",
        "7:8: pools.ai.queue.size: a whole number is expected, not a text (0 to 1000000)",
    ),
    (
        pool,
        "[pools.ai.ip_hash]\nbounded_load = 0.5",
        "7:16: pools.ai.ip_hash.bounded_load: 0.5 is below the mean, which some backend must exceed (0 for no bound, or 1.0 and more; 1.25 is usual)",
    ),
    (
        pool,
        "[pools.ai.resource_based]\ncpu = 0\nmemory = 0\nin_flight = 0",
        "7:7: pools.ai.resource_based.cpu: all shares are 0: every backend would cost the same (at least one must be above 0)",
    ),
    (
        pool,
        "[pools.ai.rl]\npreset = \"production\"",
        "7:10: pools.ai.rl.preset: presets are the tabular agent's (add `agent = \"tabular\"`, or leave the preset out)",
    ),
    (pool, "[pools.ai.rl]\ndiscount_factor = 1.0", "7:19: pools.ai.rl.discount_factor: 1 is out of range (0 to 0.999)"),
    (
        pool,
        "[pools.ai.rl]\nsla = 500",
        "7:7: pools.ai.rl.sla: a duration is expected, not the number 500 (\"500s\" for seconds, \"500ms\" for milliseconds, or \"auto\")",
    ),
    (pool, "[pools.ai.rl]\nsla = \"0s\"", "7:7: pools.ai.rl.sla: 0s is out of range (1ns to 24h, or \"auto\")"),
    (
        pool,
        "[pools.ai.rl]\nreward = { latency = 0.0 }",
        "7:22: pools.ai.rl.reward.latency: 0 leaves errors without a price: it is measured in latency (above 0, such as 0.4)",
    ),
    (
        pool,
        "[pools.ai.rl]\nguardrail = { baseline = \"rl\" }",
        "7:26: pools.ai.rl.guardrail.baseline: the agent cannot guard itself (a plain strategy, such as \"power_of_two\")",
    ),
    (
        pool,
        "[pools.b]\nbackends = [{ name = \"b\", address = \"b:1\" }]",
        "6:1: routes: 2 pools (ai, b) and no route to tell which request goes where (add a `[[routes]]` table with `pool = \"ai\"` and its conditions)",
    ),
    (
        pool,
        "[pools.\"a b\"]\nbackends = [{ name = \"b\", address = \"b:1\" }]\n[[routes]]\npool = \"ai\"",
        "6:8: pools.\"a b\": `a b` cannot be a name (1 to 128 letters, digits, and _ - . : (it stands in URLs and metrics))",
    ),
    (pool, "[[routes]]\npool = \"ia\"", "7:8: routes[0].pool: there is no pool \"ia\" (did you mean \"ai\"?)"),
    (pool, "[[routes]]\npool = \"other\"", "7:8: routes[0].pool: there is no pool \"other\" (the pools are: ai)"),
    (
        pool,
        "[[routes]]\nhost = \"api.example.com:443\"\npool = \"ai\"",
        "7:8: routes[0].host: a host condition has no port (write \"api.example.com\"; it holds for every port)",
    ),
    (
        pool,
        "[[routes]]\nhost = \"*\"\npool = \"ai\"",
        "7:8: routes[0].host: `*` stands for whole labels at the front only (such as \"*.example.com\")",
    ),
    (
        pool,
        "[[routes]]\npath_prefix = \"v1\"\npool = \"ai\"",
        "7:15: routes[0].path_prefix: `v1` is not a path (a path starts with `/`: \"/v1\")",
    ),
    (
        pool,
        "[[routes]]\nheaders = { \"x tier\" = \"gold\", x-a = \"é\", x-b = 1 }\npool = \"ai\"",
        "7:13: routes[0].headers.\"x tier\": `x tier` is not a header name (letters, digits and - only, such as `x-session`)\n7:38: routes[0].headers.x-a: `é` cannot be the value of a header (visible ASCII characters, without spaces at the ends)\n7:49: routes[0].headers.x-b: a text in quotes is expected, not the number 1 ()",
    ),
    (pool, "[[routes]]\npath_prefix = \"/v1\"", "6:1: routes[0].pool: is missing (such as `pool = \"ai\"`)"),
    (backend, "weight = 0", "10:10: pools.ai.backends[0].weight: 0 is out of range (1 to 1000)"),
    (backend, "weight = 1001", "10:10: pools.ai.backends[0].weight: 1001 is out of range (1 to 1000)"),
    (
        backend,
        "weight = \"5\"",
        "10:10: pools.ai.backends[0].weight: a whole number is expected, not a text (1 to 1000)",
    ),
    (backend, "max_in_flight = -8", "10:17: pools.ai.backends[0].max_in_flight: -8 is out of range (0 to 1000000)"),
    (
        backend,
        "state = \"draining\"",
        "10:9: pools.ai.backends[0].state: unknown value \"draining\" (one of ready, drain, disabled)",
    ),
    (
        backend,
        "port = 8001",
        "10:1: pools.ai.backends[0].port: unknown key `port` (known here: name, address, weight, max_in_flight, state, expand, tls)",
    ),
    (
        backend,
        "tls = { verify = false }",
        "10:7: pools.ai.backends[0].tls: the pool's protocol is plain (set the pool's `protocol` to \"https\", \"h2\" or \"auto\", or leave `tls` out)",
    ),
    (
        backend,
        "[[pools.ai.backends]]\nname = \"instance-1\"\naddress = \"127.0.0.1:8002\"",
        "11:8: pools.ai.backends[1].name: \"instance-1\" is the name of pools.ai.backends[0] already (names are unique in a pool)",
    ),
    (
        backend,
        "[[pools.ai.backends]]\naddress = \"127.0.0.1:8002\"",
        "10:1: pools.ai.backends[1].name: is missing (such as `name = \"instance-1\"`)",
    ),
    (
        backend,
        "[[pools.ai.backends]]\nname = \"a/b\"\naddress = \"http://127.0.0.1:8002\"",
        "11:8: pools.ai.backends[1].name: `a/b` cannot be a name (1 to 128 letters, digits, and _ - . : (it stands in URLs and metrics))\n12:11: pools.ai.backends[1].address: an address is HOST:PORT without a scheme, such as `127.0.0.1:8002` (host:port, such as \"127.0.0.1:8001\" or \"gpu-1.example:8000\")",
    ),
    (
        backend,
        "[[pools.ai.backends]]\nname = \"b\"\naddress = \"127.0.0.1\"",
        "12:11: pools.ai.backends[1].address: the port is missing (host:port, such as \"127.0.0.1:8001\" or \"gpu-1.example:8000\")",
    ),
    (
        backend,
        "[[pools.ai.backends]]\nname = \"b\"\naddress = \"[::1]:0\"",
        "12:11: pools.ai.backends[1].address: port 0 cannot be connected to (host:port, such as \"127.0.0.1:8001\" or \"gpu-1.example:8000\")",
    ),
    (
        backend,
        "[[pools.ai.backends]]\nname = \"\"\naddress = \"10.0.0.256:80\"",
        "11:8: pools.ai.backends[1].name: is empty; a name is expected ()\n12:11: pools.ai.backends[1].address: `10.0.0.256` is not an IPv4 address (host:port, such as \"127.0.0.1:8001\" or \"gpu-1.example:8000\")",
    ),
    (
        pool,
        "[pools.ai.sticky]\nname = \"a b\"",
        "7:8: pools.ai.sticky.name: `a b` is not a cookie name (letters, digits, - and _, such as `evenkeel`)",
    ),
    (
        pool,
        "[pools.ai.sticky]\nmode = \"header\"",
        "6:1: pools.ai.sticky.name: is missing: which header? (such as `name = \"x-session-id\"`)",
    ),
    (
        pool,
        "[pools.ai.resources]\nprometheus = { url = \"localhost\" }",
        "7:14: pools.ai.resources.prometheus.cpu: is missing, and so is `memory` (write at least one query)\n7:22: pools.ai.resources.prometheus.url: `localhost` is not the URL of a server (such as \"http://127.0.0.1:9090\")",
    ),
    (
        pool,
        "[pools.ai.resources]\nprometheus = { url = \"https://p\", cpu = \"{name}\" }",
        "7:22: pools.ai.resources.prometheus.url: Prometheus is asked over http:// only in this version (its plain address, or a local proxy)",
    ),
    (
        pool,
        "[pools.ai.rl\npreset = \"x\"\nstrategy = 1\n[log]\nlevel = \"loud\"",
        "6:13: pools.ai.rl: unclosed table (expected `]`)\n10:9: log.level: `loud` is not a level (off, error, warn, info, debug, trace, or a filter like \"info,evenkeel::health=debug\")",
    ),
    (
        pool,
        "shadow = [\"rl\"\n[log]\nlevel = \"info\"\n[server]\nthreads = 1",
        "7:1: log: missing comma between array elements (expected `,`)",
    ),
    (
        pool,
        "[pools.ai.resources.scrape]\nnames = { gpu = \"x\" }",
        "7:11: pools.ai.resources.scrape.names.gpu: unknown key `gpu` (did you mean `cpu`?)",
    ),
    (pool, "[server]\nthreads = 1\nthreads = 2", "8:1: server.threads: duplicate key ()"),
    (
        pool,
        "[server]\nthreads = \ndrain_delay = \"x\"",
        "7:11: server.threads: the value is missing ()\n8:15: server.drain_delay: `x` is not a duration (a number with ms, s, m or h: \"250ms\", \"2s\", \"5m\", \"1h\")",
    ),
    (
        pool,
        "[server\nthreads = 1\n[log]\nlevel = \"loud\"",
        "6:8: server: unclosed table (expected `]`)\n9:9: log.level: `loud` is not a level (off, error, warn, info, debug, trace, or a filter like \"info,evenkeel::health=debug\")",
    ),
    (pool, "\tmax_in_flight = -1", "6:18: pools.ai.max_in_flight: -1 is out of range (0 to 1000000)"),
    (
        pool,
        "engine = \"模型\"",
        "6:10: pools.ai.engine: unknown value \"模型\" (one of vllm, sglang, tgi, ollama, llamacpp, triton, generic)",
    ),
];

#[test]
fn every_fault_has_its_place_and_its_words() {
    assert!(CASES.len() >= 100);
    for (frame, text, expected) in CASES {
        assert_eq!(faults(&frame(text)).trim_end(), *expected, "{text}");
    }
}
