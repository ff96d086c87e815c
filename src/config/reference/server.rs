//! Keys of the process and its edges: `[server]`, `[log]`, `[[listeners]]`, `[admin]`, `[[routes]]`, `[access_log]`.

use super::Kind::{Choice, Flag, Integer, List, Map, Number, Size, Table, Tables, Text};
use super::*;

pub(in crate::config) static ROOT: Section = Section {
    path: "",
    about: "The tables of the file.",
    keys: &[
        example("server", Table, "{}", "The process."),
        example("log", Table, "{}", "Log lines on stderr."),
        required("listeners", Tables, "[{ address = \"127.0.0.1:8080\" }]", "Where clients connect."),
        example("admin", Table, "{}", "The admin server."),
        example("routes", Tables, "[]", "Which request goes to which pool."),
        required("pools", Map("pool name to pool"), "{}", "Groups of backends."),
        example("access_log", Table, "{}", "One line for each request."),
    ],
};

pub(in crate::config) static SERVER: Section = Section {
    path: "server",
    about: "The process.",
    keys: &[
        key("threads", Integer(0, 1024), "0", "Worker threads; 0: one per core. A change needs a restart."),
        key(
            "drain_delay",
            lasting_or_off(HOUR),
            "\"0s\"",
            "After SIGTERM `/readyz` is 503 while listeners still accept for this long.",
        ),
        key("drain_timeout", lasting_or_off(DAY), "\"60s\"", "Then requests and streams in flight get this long."),
        key(
            "max_connections",
            Integer(1, 10_000_000),
            "50000",
            "Client connections in all; lowered to what RLIMIT_NOFILE carries, with a warning.",
        ),
    ],
};

pub(in crate::config) static LOG: Section = Section {
    path: "log",
    about: "Log lines, on stderr.",
    keys: &[
        key(
            "level",
            Text("level or filter"),
            "\"info\"",
            "off, error, warn, info, debug or trace (in a release: as debug); or a filter by room, such as `info,evenkeel::health=debug`.",
        ),
        key("format", Choice(&["text", "json"]), "\"text\"", "How lines look."),
    ],
};

pub(in crate::config) static LISTENER: Section = Section {
    path: "listeners[]",
    about: "Where clients connect, one table for each address: `[[listeners]]`.",
    keys: &[
        required("address", Text("IP:PORT"), "\"0.0.0.0:8443\"", "Where to listen; port 0 takes a free one."),
        key(
            "proxy_protocol",
            Flag,
            "false",
            "A PROXY protocol header (v1 or v2) is required, and taken from `trusted_proxies` only.",
        ),
        key(
            "trusted_proxies",
            List("ranges of addresses"),
            "[]",
            "Peers whose `X-Forwarded-*` or PROXY header is believed.",
        ),
        key("max_header_bytes", Size(8 * KIB, MIB), "\"64KiB\"", "Longest request head; 431 beyond."),
        key("max_headers", Integer(1, 10_000), "100", "Most header fields; 431 beyond."),
        key("max_uri", Size(256, 64 * KIB), "\"16KiB\"", "Longest request target; 414 beyond."),
        key("max_body", Size(0, u64::MAX), "\"0\"", "Longest request body, 413 beyond; 0: unlimited."),
        key("header_timeout", lasting(HOUR), "\"10s\"", "From the first byte of a request head to its end."),
        key("idle_timeout", lasting(DAY), "\"75s\"", "Keep-alive between two requests."),
        key("body_idle_timeout", lasting(DAY), "\"60s\"", "Between two pieces of a request body (a slow upload)."),
        key("write_idle_timeout", lasting(DAY), "\"60s\"", "A client that reads nothing for this long is cut."),
        key("tls_handshake_timeout", lasting(HOUR), "\"5s\"", "From accept to the end of the TLS handshake."),
        example("http2", Table, "{}", "HTTP/2 settings."),
        example(
            "limits",
            Table,
            "{ per_client_connections = 100, per_client_rps = 50.0, dry_run = true }",
            "What one client may take.",
        ),
        example("tls", Table, "{ certificates = [{ cert = \"a.pem\", key = \"a.key\" }] }", "TLS termination."),
    ],
};

pub(in crate::config) static HTTP2: Section = Section {
    path: "listeners[].http2",
    about: "HTTP/2 towards clients.",
    keys: &[
        key("enabled", Flag, "true", "Whether HTTP/2 is spoken at all."),
        key("max_streams", Integer(1, 100_000), "100", "Requests a client may have open on one connection."),
        key("stream_window", Size(KIB, (2 << 30) - 1), "\"64KiB\"", "Flow-control window of a stream."),
        key("connection_window", Size(64 * KIB, (2 << 30) - 1), "\"1MiB\"", "Flow-control window of a connection."),
        key("ping", lasting_or_off(HOUR), "\"20s\"", "A silent client is asked whether it lives; 0s: never."),
    ],
};

pub(in crate::config) static LIMITS: Section = Section {
    path: "listeners[].limits",
    about: "What one client (address) may take. Off unless written.",
    keys: &[
        key("per_client_connections", Integer(0, 1_000_000), "0", "Connections of one client; 0: no limit."),
        key("per_client_rps", Number(0.0, 1e9), "0.0", "Requests a second of one client; 0: no limit."),
        key("dry_run", Flag, "false", "Only count what would have been refused."),
    ],
};

pub(in crate::config) static LISTENER_TLS: Section = Section {
    path: "listeners[].tls",
    about: "TLS termination. Off unless written.",
    keys: &[
        required(
            "certificates",
            Tables,
            "[{ cert = \"a.pem\", key = \"a.key\" }]",
            "Certificates with keys, picked by SNI; the first is the default.",
        ),
        example("client_ca", Text("path"), "\"ca.pem\"", "Client certificates are then required, signed by this CA."),
        example(
            "subject_header",
            Text("header name"),
            "\"x-client-subject\"",
            "Header that tells backends the subject of the client's certificate; dropped from what clients send.",
        ),
        key("min_version", Choice(&["1.2", "1.3"]), "\"1.2\"", "Least TLS version."),
    ],
};

pub(in crate::config) static CERTIFICATE: Section = Section {
    path: "listeners[].tls.certificates[]",
    about: "One certificate.",
    keys: &[
        required("cert", Text("path"), "\"a.pem\"", "PEM chain, leaf first."),
        required("key", Text("path or env:NAME"), "\"a.key\"", "PEM private key."),
    ],
};

pub(in crate::config) static ADMIN: Section = Section {
    path: "admin",
    about: "The admin server: API, `/metrics`, dashboard. Off unless written.",
    keys: &[
        key("address", Text("IP:PORT"), "\"127.0.0.1:9901\"", "Where it listens. A change needs a restart."),
        example(
            "token_file",
            Text("path or env:NAME"),
            "\"admin.token\"",
            "Holds the bearer token; required unless the address is loopback.",
        ),
        key("public_metrics", Flag, "false", "`/metrics` needs no token."),
    ],
};

pub(in crate::config) static ROUTE: Section = Section {
    path: "routes[]",
    about: "Which request goes to which pool: `[[routes]]`. The first whose conditions all hold is taken, in file order. \
            One pool needs no route, several do.",
    keys: &[
        example(
            "host",
            Text("host"),
            "\"api.example.com\"",
            "Host without port, in any case; `*.example.com` is one or more labels before it.",
        ),
        example("path_prefix", Text("path"), "\"/v1\"", "Matches `/v1` and `/v1/…`, not `/v10`."),
        example("headers", Map("name to value"), "{ \"x-tier\" = \"gold\" }", "Headers that must have this value."),
        example("model", Text("text"), "\"llama-3-8b\"", "The JSON body's `model`; the body is forwarded as it came."),
        key("max_model_peek", Size(1, 16 * MIB), "\"64KiB\"", "How much of a body is looked at for `model`."),
        required("pool", Text("pool name"), "\"ai\"", "Where the request goes."),
    ],
};

pub(in crate::config) static ACCESS_LOG: Section = Section {
    path: "access_log",
    about: "One line for each request, at its end.",
    keys: &[
        key("format", Choice(&["json", "combined", "off"]), "\"json\"", "How lines look."),
        key("path", Text("path"), "\"-\"", "Where they go; `-`: stdout."),
    ],
};
