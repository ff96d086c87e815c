//! Keys of a pool and its backends.

use super::Kind::{Choice, Flag, Integer, List, Number, Size, Table, Tables, Text};
use super::*;

/// Names of the strategies as the contract has them; a test holds them equal to `StrategyKind`.
pub(in crate::config) const STRATEGIES: &[&str] = &[
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "least_response_time",
    "ip_hash",
    "random",
    "resource_based",
    "rl",
    "power_of_two",
    "peak_ewma",
];

pub(in crate::config) static POOL: Section = Section {
    path: "pools.NAME",
    about: "A group of backends and the choice among them.",
    keys: &[
        key("strategy", Choice(STRATEGIES), "\"peak_ewma\"", "How a backend is chosen for each request."),
        key(
            "protocol",
            Choice(&["http1", "h2c", "https", "h2", "auto"]),
            "\"http1\"",
            "http1, h2c: plain; https: HTTP/1.1 over TLS; h2: HTTP/2 over TLS; auto: TLS, the version by ALPN.",
        ),
        key(
            "when_unhealthy",
            Choice(&["fail_open", "reject"]),
            "\"fail_open\"",
            "When no backend is healthy: use all of them anyway, or answer 503.",
        ),
        key("max_in_flight", Integer(0, 1_000_000), "0", "Default limit of requests in flight per backend; 0: none."),
        key(
            "engine",
            Choice(&["vllm", "sglang", "tgi", "ollama", "llamacpp", "triton", "generic"]),
            "\"generic\"",
            "Which model server this is: decides the health path and the names of its signals.",
        ),
        key("shadow", List("strategies"), "[]", "Strategies that are scored on every decision and never followed."),
        key(
            "resolve",
            Kind::Duration(SECOND, DAY),
            "\"10s\"",
            "Host names are looked up again this often; a failure keeps the last addresses.",
        ),
        key(
            "priority_header",
            Text("header name"),
            "\"\"",
            "Header whose value (high, normal, low) orders the queue; empty: none.",
        ),
        key(
            "stream_error_event",
            Flag,
            "false",
            "Before an SSE stream that broke midway ends, send the client an `error` event.",
        ),
        required("backends", Tables, "[{ name = \"instance-1\", address = \"127.0.0.1:8001\" }]", "The backends."),
        example("health", Table, "{}", "Active checks."),
        example("outlier", Table, "{}", "Ejection by live traffic."),
        example("slow_start", Table, "{}", "Ramp of new and recovered backends."),
        example("timeouts", Table, "{}", "Deadlines."),
        example("retry", Table, "{}", "Second tries."),
        example("queue", Table, "{}", "Waiting when every backend is at its limit."),
        example("sticky", Table, "{}", "Session affinity."),
        example("resources", Table, "{}", "Where CPU and memory of a backend come from."),
        example("ip_hash", Table, "{}", "Settings of `ip_hash`."),
        example("resource_based", Table, "{}", "Settings of `resource_based`."),
        example("rl", Table, "{}", "Settings of `rl`."),
    ],
};

pub(in crate::config) static BACKEND: Section = Section {
    path: "pools.NAME.backends[]",
    about: "One backend: `[[pools.NAME.backends]]`.",
    keys: &[
        required("name", Text("name"), "\"instance-1\"", "Unique in its pool; in metrics, log and API."),
        required(
            "address",
            Text("HOST:PORT"),
            "\"127.0.0.1:8001\"",
            "A host name stands for one of its addresses, or with `expand` for one backend per address.",
        ),
        key("weight", Integer(1, 1000), "1", "Its share, for every strategy but `round_robin` and `random`."),
        example(
            "max_in_flight",
            Integer(0, 1_000_000),
            "8",
            "Requests it takes at once; 0: no limit; unwritten: the pool's.",
        ),
        key(
            "state",
            Choice(&["ready", "drain", "disabled"]),
            "\"ready\"",
            "drain: no new sessions, pinned ones go on for a while; disabled: nothing.",
        ),
        key("expand", Flag, "false", "One backend for each address of the host name."),
        example(
            "tls",
            Table,
            "{ server_name = \"x\", ca = \"ca.pem\" }",
            "TLS towards this backend; an error with a plain protocol.",
        ),
    ],
};

pub(in crate::config) static BACKEND_TLS: Section = Section {
    path: "pools.NAME.backends[].tls",
    about: "TLS towards a backend, for the protocols https, h2 and auto.",
    keys: &[
        example("server_name", Text("host"), "\"x\"", "Name to send and to verify; unwritten: the address' host."),
        example("ca", Text("path"), "\"ca.pem\"", "CA to verify with; unwritten: the system's."),
        key("verify", Flag, "true", "Whether the certificate is verified."),
        example("client_cert", Text("path"), "\"c.pem\"", "Certificate to show."),
        example("client_key", Text("path or env:NAME"), "\"c.key\"", "Its key."),
    ],
};

pub(in crate::config) static HEALTH: Section = Section {
    path: "pools.NAME.health",
    about: "Active checks. On by default; `kind = \"none\"` turns them off.",
    keys: &[
        key("kind", Choice(&["http", "tcp", "grpc", "none"]), "\"http\"", "How to ask."),
        key(
            "path",
            Text("path"),
            "\"/health\"",
            "Path of an HTTP probe; the default is the engine's. With grpc: the service name.",
        ),
        key("interval", lasting(HOUR), "\"2s\"", "Between two probes of a backend."),
        key("timeout", lasting(HOUR), "\"1s\"", "Of one probe."),
        key("rise", Integer(1, 1000), "2", "Passes in a row that bring a backend up."),
        key("fall", Integer(1, 1000), "3", "Failures in a row that take it down."),
        key("jitter", Number(0.0, 1.0), "0.1", "Share of the interval drawn at random, so that probes spread."),
        key("expect_status", List("statuses and ranges"), "[\"200-299\"]", "Answers that pass."),
        key(
            "stalled_after",
            Integer(0, 1000),
            "0",
            "Intervals without progress, requests in flight, after which a backend is ejected as stalled; 0: never, as \
             with `kind = \"none\"` and without ejection. The default is the engine's: 3 for vllm, sglang, tgi and llamacpp.",
        ),
    ],
};

pub(in crate::config) static OUTLIER: Section = Section {
    path: "pools.NAME.outlier",
    about: "Ejection of backends by live traffic. On by default; `consecutive_failures = 0` turns it off.",
    keys: &[
        key(
            "consecutive_failures",
            Integer(0, 1_000_000),
            "5",
            "Failures in a row that eject (more when the others fail too); 0: no ejection at all, of stalled ones neither.",
        ),
        key(
            "failure_rate",
            Number(0.0, 1.0),
            "0.2",
            "Share of failures over 30 s that ejects, when it is far above the others'; `0`: off.",
        ),
        key("base_ejection", lasting(DAY), "\"10s\"", "First ejection, times the number of ejections in a row."),
        key("max_ejection", lasting(DAY), "\"300s\"", "Longest ejection."),
        key(
            "max_ejected",
            Number(0.0, 1.0),
            "0.5",
            "Share of the pool that may be ejected, rounded down, but at least 1 of 2 or more.",
        ),
    ],
};

pub(in crate::config) static SLOW_START: Section = Section {
    path: "pools.NAME.slow_start",
    about: "Ramp of new and recovered backends. Off unless written. Not for `rl`, which ramps by evidence.",
    keys: &[
        key("window", lasting(DAY), "\"30s\"", "Length of the ramp."),
        key("min_weight", Number(0.001, 1.0), "0.1", "Share of its weight that a backend starts with."),
    ],
};

pub(in crate::config) static TIMEOUTS: Section = Section {
    path: "pools.NAME.timeouts",
    about: "Deadlines. `0s` turns one off, except `connect`.",
    keys: &[
        key("connect", lasting(HOUR), "\"3s\"", "TCP (and TLS) connection to a backend."),
        key("first_byte", lasting_or_off(DAY), "\"120s\"", "From the request sent to the first byte of the response."),
        key("idle", lasting_or_off(DAY), "\"300s\"", "Between two pieces of a response."),
        key("total", lasting_or_off(DAY), "\"0s\"", "The whole request; a total deadline cuts long generations."),
        key("upstream_idle", lasting_or_off(DAY), "\"4s\"", "A pooled connection unused for this long is closed."),
        key("tunnel_idle", lasting_or_off(MAX_TUNNEL_IDLE), "\"1h\"", "A WebSocket without a byte either way."),
    ],
};

/// Cookies that live longer than a month are not sessions any more.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// A tunnel may sleep for a week, longer than any other wait.
const MAX_TUNNEL_IDLE: Duration = Duration::from_secs(7 * 24 * 3600);

pub(in crate::config) static RETRY: Section = Section {
    path: "pools.NAME.retry",
    about: "Second tries, each on another backend while there is one, never once a byte of the response was forwarded. On \
            by default; `attempts = 1` turns them off.",
    keys: &[
        key("attempts", Integer(1, 10), "2", "Tries in all."),
        key(
            "on",
            List("conditions"),
            "[\"connect_failure\", \"reset_before_response\"]",
            "What is worth another try; also \"502\", \"503\", \"504\", \"429\" and \"timeout\".",
        ),
        key(
            "non_idempotent",
            Flag,
            "false",
            "Also retry POST and other non-idempotent requests of which a byte may have been sent.",
        ),
        key("budget", Number(0.0, 10.0), "0.2", "Retries per request over 10 s; at least 3 a second are allowed."),
        key("max_replay", Size(0, 64 * MIB), "\"64KiB\"", "Body kept for another try; a longer one is not retried."),
    ],
};

pub(in crate::config) static QUEUE: Section = Section {
    path: "pools.NAME.queue",
    about: "Waiting when every backend is at its `max_in_flight`; acts only where one is set. On by default; `size = 0` \
            turns it off.",
    keys: &[
        key("size", Integer(0, 1_000_000), "128", "Requests that may wait."),
        key("timeout", lasting(HOUR), "\"30s\"", "Then 503 with `Retry-After`."),
    ],
};

pub(in crate::config) static STICKY: Section = Section {
    path: "pools.NAME.sticky",
    about: "Session affinity. Off unless written.",
    keys: &[
        key("mode", Choice(&["cookie", "header", "source_ip"]), "\"cookie\"", "What identifies a session."),
        key("name", Text("name"), "\"evenkeel\"", "Of the cookie or header; required for a header."),
        example(
            "secret_file",
            Text("path or env:NAME"),
            "\"sticky.key\"",
            "HMAC key of the cookie; unwritten: made at start, so sessions end with the process.",
        ),
        key("idle", Kind::Duration(SECOND, MONTH), "\"30m\"", "A session ends after a pause this long."),
        key("life", Kind::Duration(SECOND, MONTH), "\"8h\"", "A session ends at this age."),
        key("same_site", Choice(&["lax", "strict", "none"]), "\"lax\"", "SameSite attribute of the cookie."),
        key(
            "spill",
            Integer(0, 1_000_000),
            "0",
            "Leave a pinned backend that has this many more in flight than the least busy; 0: never.",
        ),
    ],
};

pub(in crate::config) static RESOURCES: Section = Section {
    path: "pools.NAME.resources",
    about: "Where CPU and memory of a backend come from; sources may be combined. Off unless written.",
    keys: &[
        example("scrape", Table, "{ path = \"/metrics\", interval = \"1s\" }", "Scrape each backend."),
        example(
            "prometheus",
            Table,
            "{ url = \"http://127.0.0.1:9090\", cpu = \"PromQL with {instance}\" }",
            "Ask a Prometheus server.",
        ),
        key("orca", Flag, "false", "Read `endpoint-load-metrics` response headers."),
        key("expiry", lasting(HOUR), "\"10s\"", "An older sample counts as unknown, not as zero."),
    ],
};

pub(in crate::config) static SCRAPE: Section = Section {
    path: "pools.NAME.resources.scrape",
    about: "Scraping each backend.",
    keys: &[
        key("path", Text("path"), "\"/metrics\"", "Where its metrics are."),
        key(
            "metrics_port",
            Integer(0, 65_535),
            "0",
            "Where its metrics are; 0: the engine's (triton 8002, else the backend's own).",
        ),
        key("interval", lasting(HOUR), "\"1s\"", "How often."),
        example("names", Table, "{ memory = \"…\" }", "Metric names other than the engine's."),
    ],
};

/// Signals that a scrape can name.
pub(in crate::config) static SCRAPE_NAMES: Section = Section {
    path: "pools.NAME.resources.scrape.names",
    about: "Metrics that replace the engine's.",
    keys: &[
        example(
            "cpu",
            Text("metric name"),
            "\"process_cpu_seconds_total\"",
            "CPU in use, 0-1, or seconds as a counter.",
        ),
        example("memory", Text("metric name"), "\"vllm:kv_cache_usage_perc\"", "Memory or KV cache in use, 0-1."),
        example("running", Text("metric name"), "\"vllm:num_requests_running\"", "Requests being worked on."),
        example("waiting", Text("metric name"), "\"vllm:num_requests_waiting\"", "Requests in its queue."),
        example("heartbeat", Text("metric name"), "\"vllm:iteration_tokens_total_count\"", "Grows while it works."),
    ],
};

pub(in crate::config) static PROMETHEUS: Section = Section {
    path: "pools.NAME.resources.prometheus",
    about: "Asking a Prometheus server.",
    keys: &[
        required("url", Text("URL"), "\"http://127.0.0.1:9090\"", "The server."),
        example("cpu", Text("PromQL"), "\"PromQL with {instance}\"", "Query for CPU in use, 0-1."),
        example("memory", Text("PromQL"), "\"…\"", "Query for memory in use, 0-1."),
        key("interval", lasting(HOUR), "\"1s\"", "How often."),
    ],
};

pub(in crate::config) static IP_HASH: Section = Section {
    path: "pools.NAME.ip_hash",
    about: "Settings of the strategy `ip_hash`.",
    keys: &[key(
        "bounded_load",
        Number(0.0, 100.0),
        "0.0",
        "A backend takes at most this many times the mean load per weight before its clients overflow to the next; 1.0 or \
         more, 1.25 is usual; 0: unbounded.",
    )],
};

pub(in crate::config) static RESOURCE_BASED: Section = Section {
    path: "pools.NAME.resource_based",
    about: "Settings of the strategy `resource_based`: the shares of its cost.",
    keys: &[
        key("cpu", Number(0.0, 1000.0), "0.4", "Share of CPU use."),
        key("memory", Number(0.0, 1000.0), "0.3", "Share of memory use."),
        key("in_flight", Number(0.0, 1000.0), "0.3", "Share of requests in flight."),
    ],
};
