//! What the operator meant: the validated configuration that every other room reads.
//!
//! A [`Plan`] is made once, by [`Plan::load`] from a file, or in code by tests and by
//! `quick` and `demo`. Past this point no default is missing and nothing is checked twice. `PartialEq` on every type is
//! what `control::diff` stands on.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use super::secret::Secret;

/// Everything one configuration file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// `[server]`
    pub server: ServerPlan,
    /// `[log]`
    pub log: LogPlan,
    /// `[[listeners]]`, in file order; never empty.
    pub listeners: Vec<ListenerPlan>,
    /// `[admin]`; `None`: no admin server.
    pub admin: Option<AdminPlan>,
    /// `[[routes]]` in file order. Empty: everything goes to the only pool.
    pub routes: Vec<RoutePlan>,
    /// `[pools.NAME]`, sorted by name; never empty.
    pub pools: Vec<Arc<PoolPlan>>,
    /// `[access_log]`
    pub access_log: AccessLogPlan,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq)]
pub struct ServerPlan {
    /// Worker threads; 0: one per core.
    pub threads: usize,
    /// How long listeners still accept after SIGTERM while `/readyz` says 503.
    pub drain_delay: Duration,
    /// How long in-flight requests and streams then get.
    pub drain_timeout: Duration,
    /// Downstream connections in all; lowered at start to what RLIMIT_NOFILE carries.
    pub max_connections: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct LogPlan {
    /// error, warn, info, debug, trace, or a `tracing` filter such as `evenkeel::health=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines on stderr look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// One `[[listeners]]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPlan {
    /// Where to listen; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// A PROXY v1/v2 header is required, from `trusted_proxies` only.
    pub proxy_protocol: bool,
    /// Peers whose `X-Forwarded-*` or PROXY header is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Bytes of request head, 431 beyond.
    pub max_header_bytes: usize,
    /// Header fields of a request, 431 beyond.
    pub max_headers: usize,
    /// Bytes of request target, 414 beyond.
    pub max_uri: usize,
    /// Bytes of request body, 413 beyond; 0: unlimited.
    pub max_body: u64,
    /// From the first byte of a head (or the accept) to its end, 408 beyond.
    pub header_timeout: Duration,
    /// Keep-alive between requests.
    pub idle_timeout: Duration,
    /// Between two pieces of a request body, 408 beyond.
    pub body_idle_timeout: Duration,
    /// A client that takes no response bytes for this long is cut.
    pub write_idle_timeout: Duration,
    /// From accept to the end of the TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// HTTP/2 settings.
    pub http2: Http2Plan,
    /// Per-client limits; `None`: off.
    pub limits: Option<ClientLimitsPlan>,
    /// TLS termination; `None`: plain.
    pub tls: Option<ListenerTlsPlan>,
    /// The `subject_header` of every listener: no client may send one, on whichever listener.
    pub guarded_headers: Vec<String>,
}

/// `http2 = { … }` of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Plan {
    /// Whether HTTP/2 is spoken at all.
    pub enabled: bool,
    /// Concurrent streams a client may open.
    pub max_streams: u32,
    /// Initial stream window, bytes.
    pub stream_window: u32,
    /// Connection window, bytes.
    pub connection_window: u32,
    /// Keep-alive ping interval; zero: off.
    pub ping: Duration,
}

/// `limits = { … }` of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientLimitsPlan {
    /// Connections one client may hold; 0: no limit.
    pub per_client_connections: usize,
    /// Requests a second one client may send; 0: no limit.
    pub per_client_rps: f64,
    /// Only count what would have been refused.
    pub dry_run: bool,
}

/// `[listeners.tls]`
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTlsPlan {
    /// Certificate chains with keys; the first is the default.
    pub certificates: Vec<CertificatePlan>,
    /// CA file for client certificates, which are then required.
    pub client_ca: Option<PathBuf>,
    /// Header in which backends are told the subject of the client's certificate, in lower case; `None`: they are not.
    pub subject_header: Option<String>,
    /// Least TLS version.
    pub min_version: TlsVersion,
}

/// One certificate chain and its key, as PEM files.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificatePlan {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key: a file, or the text itself in an environment variable.
    pub key: Secret,
}

/// TLS versions we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct AdminPlan {
    /// Where the admin server listens.
    pub address: SocketAddr,
    /// File that holds the bearer token, or the token itself by `env:NAME`.
    pub token: Option<Secret>,
    /// `/metrics` needs no token.
    pub public_metrics: bool,
}

/// One `[[routes]]` table: all conditions must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutePlan {
    /// Host condition.
    pub host: Option<HostMatch>,
    /// Path prefix, on segment boundaries; starts with `/`, no trailing slash (`/` itself is `None`).
    pub path_prefix: Option<String>,
    /// Headers that must be present with exactly this value (names in lower case).
    pub headers: Vec<(String, String)>,
    /// The JSON body's `model`.
    pub model: Option<String>,
    /// How many bytes of body may be peeked for `model`.
    pub max_model_peek: usize,
    /// Index into [`Plan::pools`].
    pub pool: usize,
}

/// A host condition, in lower case and without port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatch {
    /// This host.
    Exact(String),
    /// One or more labels before this suffix, which starts with a dot.
    Suffix(String),
}

/// One `[pools.NAME]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolPlan {
    /// NAME
    pub name: String,
    /// How a backend is chosen.
    pub strategy: StrategyPlan,
    /// How backends are spoken to.
    pub protocol: Protocol,
    /// What to do when no backend is healthy.
    pub when_unhealthy: WhenUnhealthy,
    /// Default limit per backend; 0: none.
    pub max_in_flight: u32,
    /// Which model server this is.
    pub engine: Engine,
    /// Strategies that are scored and never followed.
    pub shadow: Vec<StrategyKind>,
    /// How often host names are looked up again.
    pub resolve: Duration,
    /// Header that carries the queue class; empty: none.
    pub priority_header: String,
    /// `[[pools.NAME.backends]]`; never empty.
    pub backends: Vec<BackendPlan>,
    /// Active checks.
    pub health: HealthPlan,
    /// Passive ejection.
    pub outlier: OutlierPlan,
    /// Ramp of new and recovered backends; `None`: off.
    pub slow_start: Option<SlowStartPlan>,
    /// Deadlines.
    pub timeouts: TimeoutsPlan,
    /// Second tries.
    pub retry: RetryPlan,
    /// Bounded waiting when all backends are at their limit.
    pub queue: QueuePlan,
    /// Session affinity; `None`: off.
    pub sticky: Option<StickyPlan>,
    /// Where CPU and memory come from; `None`: nowhere.
    pub resources: Option<ResourcesPlan>,
    /// Send an SSE `error` event before a stream that broke midway ends.
    pub stream_error_event: bool,
}

/// The names of the strategies; the same in TOML, API, metrics and simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the contract's name, described in docs/strategies.md")]
pub enum StrategyKind {
    RoundRobin,
    WeightedRoundRobin,
    LeastConnections,
    LeastResponseTime,
    IpHash,
    Random,
    ResourceBased,
    Rl,
    PowerOfTwo,
    PeakEwma,
}

impl StrategyKind {
    /// Every strategy, in the order of the documentation.
    pub const ALL: [Self; 10] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
        Self::LeastResponseTime,
        Self::IpHash,
        Self::Random,
        Self::ResourceBased,
        Self::Rl,
        Self::PowerOfTwo,
        Self::PeakEwma,
    ];

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastConnections => "least_connections",
            Self::LeastResponseTime => "least_response_time",
            Self::IpHash => "ip_hash",
            Self::Random => "random",
            Self::ResourceBased => "resource_based",
            Self::Rl => "rl",
            Self::PowerOfTwo => "power_of_two",
            Self::PeakEwma => "peak_ewma",
        }
    }

    /// The strategy of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A strategy with the settings it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct StrategyPlan {
    /// Which one.
    pub kind: StrategyKind,
    /// Settings of `ip_hash`.
    pub ip_hash: IpHashPlan,
    /// Settings of `resource_based`.
    pub resource_based: ResourceBasedPlan,
    /// Settings of `rl`.
    pub rl: RlPlan,
}

/// `[pools.NAME.ip_hash]`
#[derive(Debug, Clone, PartialEq)]
pub struct IpHashPlan {
    /// A backend takes at most this many times the mean in-flight per weight before its clients overflow to
    /// the next on the ring (consistent hashing with bounded loads); 0: unbounded.
    pub bounded_load: f64,
}

/// `[pools.NAME.resource_based]`: shares of the cost; they need not sum to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceBasedPlan {
    /// Weight of CPU use.
    pub cpu: f64,
    /// Weight of memory use.
    pub memory: f64,
    /// Weight of requests in flight.
    pub in_flight: f64,
    /// An older sample is unknown: the pool's [`ResourcesPlan::expiry`], repeated here for the strategy.
    pub expiry: Duration,
}

/// `[pools.NAME.rl]`: every key of the learning agent, resolved (file > preset > default of the agent).
#[derive(Debug, Clone, PartialEq)]
pub struct RlPlan {
    /// Which agent.
    pub agent: RlAgent,
    /// α
    pub learning_rate: f64,
    /// γ
    pub discount_factor: f64,
    /// ε at the start.
    pub initial_epsilon: f64,
    /// Factor of ε, per decision (adaptive) or per episode of 100 decisions (tabular).
    pub epsilon_decay: f64,
    /// Floor of ε.
    pub min_epsilon: f64,
    /// c of UCB.
    pub ucb_c: f64,
    /// Relative to the best cost (adaptive), absolute (tabular).
    pub tolerance: f64,
    /// Picks in a row before another within the tolerance is taken.
    pub rotation_after: u32,
    /// Normalised entropy below which exploration is boosted.
    pub diversity_threshold: f64,
    /// How much.
    pub diversity_boost: f64,
    /// The latency that an error is measured in; `None`: automatic.
    pub sla: Option<Duration>,
    /// How ties within the tolerance are broken.
    pub tie: RlTie,
    /// Weights of the reward's terms.
    pub reward: RewardPlan,
    /// The four caches.
    pub cache: RlCachePlan,
    /// Where the learned state lives; `None`: nowhere.
    pub store: Option<RlStorePlan>,
    /// Latency that streamed answers feed: weight of the normalised body time (rl-agent, section 9).
    pub stream_weight: f64,
    /// The guardrail; `None`: off.
    pub guardrail: Option<GuardrailPlan>,
}

/// Which learning agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RlAgent {
    /// Ours, the default.
    Adaptive,
    /// The guide's, to the letter.
    Tabular,
}

/// How the agent breaks ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RlTie {
    /// Least recently used.
    Lru,
    /// At random: better when several proxies serve the pool.
    Random,
}

/// `reward = { … }`
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the guide's five terms")]
pub struct RewardPlan {
    pub latency: f64,
    pub errors: f64,
    pub throughput: f64,
    pub balance: f64,
    pub stability: f64,
}

/// `cache = { … }`: times to live.
#[derive(Debug, Clone, PartialEq)]
pub struct RlCachePlan {
    /// Choices (tabular only).
    pub decision: Duration,
    /// CPU, memory and the other metrics.
    pub metrics: Duration,
    /// Backend list and weights.
    pub service: Duration,
    /// Encoded states.
    pub state: Duration,
    /// Entries that each may hold.
    pub max_entries: usize,
}

/// `store = { … }`
#[derive(Debug, Clone, PartialEq)]
pub struct RlStorePlan {
    /// The state file.
    pub path: PathBuf,
    /// How often it is written.
    pub interval: Duration,
}

/// `guardrail = { … }`
#[derive(Debug, Clone, PartialEq)]
pub struct GuardrailPlan {
    /// Share of requests routed by the baseline.
    pub control: f64,
    /// The baseline.
    pub baseline: StrategyKind,
    /// Length of a comparison window.
    pub window: Duration,
    /// Windows in a row that must be lost.
    pub windows: u32,
    /// How long the baseline then rules.
    pub hold: Duration,
}

/// How backends are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, plain.
    Http1,
    /// HTTP/2 with prior knowledge, plain.
    H2c,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 over TLS.
    H2,
    /// TLS, the version by ALPN.
    Auto,
}

impl Protocol {
    /// Whether backends are spoken to without TLS.
    pub fn is_plain(self) -> bool {
        match self {
            Self::Http1 | Self::H2c => true,
            Self::Https | Self::H2 | Self::Auto => false,
        }
    }
}

/// What to do when no backend is healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnhealthy {
    /// Use all of them anyway.
    FailOpen,
    /// Answer 503.
    Reject,
}

/// One `[[pools.NAME.backends]]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendPlan {
    /// Unique in its pool.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// 1..=1000
    pub weight: u32,
    /// Requests it takes at once; `None`: the pool's default. `Some(0)`: no limit.
    pub max_in_flight: Option<u32>,
    /// What the operator wants of it.
    pub state: AdminState,
    /// One backend per address of the name.
    pub expand: bool,
    /// TLS settings; `None`: the defaults (verify, name from the address).
    pub tls: Option<BackendTlsPlan>,
}

/// `host:port`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A literal address.
    Ip(SocketAddr),
    /// A name to look up.
    Name {
        /// Host name, in lower case.
        host: String,
        /// Port.
        port: u16,
    },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// `tls = { … }` of a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendTlsPlan {
    /// Name to verify and to send as SNI; `None`: the address' host.
    pub server_name: Option<String>,
    /// CA file; `None`: the system's roots.
    pub ca: Option<PathBuf>,
    /// Whether the certificate is verified.
    pub verify: bool,
    /// Client certificate.
    pub client: Option<CertificatePlan>,
}

/// What the operator wants of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// Takes traffic.
    Ready,
    /// Takes no new sessions.
    Drain,
    /// Takes nothing.
    Disabled,
}

/// `[pools.NAME.health]`
#[derive(Debug, Clone, PartialEq)]
pub struct HealthPlan {
    /// How to ask.
    pub kind: ProbeKind,
    /// Path of an HTTP probe, or service name of a gRPC probe.
    pub path: String,
    /// Between two probes of one backend.
    pub interval: Duration,
    /// Of one probe.
    pub timeout: Duration,
    /// Passes in a row to come up.
    pub rise: u32,
    /// Failures in a row to go down.
    pub fall: u32,
    /// Share of the interval drawn at random.
    pub jitter: f64,
    /// Status ranges (inclusive) that pass.
    pub expect_status: Vec<(u16, u16)>,
    /// Intervals without any progress, requests in flight, after which a backend is ejected as stalled; 0: never.
    pub stalled_after: u32,
}

impl HealthPlan {
    /// How long a backend may be silent while requests wait for it; zero: for ever. An eighth less than configured, so
    /// that with a look four times a second a backend that hangs is out within `stalled_after` intervals.
    pub fn patience(&self) -> Duration {
        self.interval.saturating_mul(self.stalled_after) / 8 * 7
    }
}

impl PoolPlan {
    /// How long a backend may be silent while requests wait for it before it is ejected; zero: for ever, which is so
    /// where health (`kind = "none"`) or ejection (`consecutive_failures = 0`) is off.
    pub fn patience(&self) -> Duration {
        let is_on = self.health.kind != ProbeKind::None && self.outlier.consecutive_failures != 0;
        if is_on { self.health.patience() } else { Duration::ZERO }
    }
}

/// Kinds of active probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// `GET path`
    Http,
    /// A connection.
    Tcp,
    /// grpc.health.v1
    Grpc,
    /// No probes: backends count as up.
    None,
}

/// `[pools.NAME.outlier]`
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierPlan {
    /// Failures in a row that eject; 0: no ejection at all.
    pub consecutive_failures: u32,
    /// Share of failures above which a backend far worse than the others is ejected; 0: off.
    pub failure_rate: f64,
    /// First ejection; multiplied by the number of ejections in a row.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// Share of the pool that may be ejected, floor, but at least 1 of 2 or more.
    pub max_ejected: f64,
}

/// `[pools.NAME.slow_start]`
#[derive(Debug, Clone, PartialEq)]
pub struct SlowStartPlan {
    /// Length of the ramp.
    pub window: Duration,
    /// Share of its weight that a backend starts with.
    pub min_weight: f64,
}

/// `[pools.NAME.timeouts]`; zero: off, except `connect`.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeoutsPlan {
    /// TCP (and TLS) connection.
    pub connect: Duration,
    /// From the request sent to the first response byte.
    pub first_byte: Duration,
    /// Between two pieces of a response.
    pub idle: Duration,
    /// The whole request.
    pub total: Duration,
    /// A pooled connection unused.
    pub upstream_idle: Duration,
    /// A tunnel without a byte.
    pub tunnel_idle: Duration,
}

/// `[pools.NAME.retry]`
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPlan {
    /// Tries in all.
    pub attempts: u32,
    /// What is worth another try.
    pub on: Vec<RetryOn>,
    /// Also for methods that are not idempotent, when a byte may have been sent.
    pub non_idempotent: bool,
    /// Retries per request over 10 s.
    pub budget: f64,
    /// Body bytes kept for another try.
    pub max_replay: usize,
}

/// Conditions of a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection.
    ConnectFailure,
    /// The connection ended before the response.
    ResetBeforeResponse,
    /// This status: 502, 503, 504 or 429.
    Status(u16),
    /// No first byte in time.
    Timeout,
}

/// `[pools.NAME.queue]`
#[derive(Debug, Clone, PartialEq)]
pub struct QueuePlan {
    /// Requests that may wait; 0: off.
    pub size: usize,
    /// Longest wait.
    pub timeout: Duration,
}

/// `[pools.NAME.sticky]`
#[derive(Debug, Clone, PartialEq)]
pub struct StickyPlan {
    /// What identifies a session.
    pub mode: StickyMode,
    /// Of the cookie or header.
    pub name: String,
    /// HMAC key; `None`: made at start.
    pub secret: Option<Secret>,
    /// Longest pause of a session.
    pub idle: Duration,
    /// Longest session.
    pub life: Duration,
    /// SameSite attribute.
    pub same_site: SameSite,
    /// Leave a pinned backend that has this many more in flight than the least busy; 0: never.
    pub spill: u32,
}

/// What identifies a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StickyMode {
    /// A cookie of ours.
    Cookie,
    /// A header of the client's.
    Header,
    /// The client's address.
    SourceIp,
}

/// SameSite attribute of the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the attribute's own values")]
pub enum SameSite {
    Lax,
    Strict,
    None,
}

/// `[pools.NAME.resources]`
#[derive(Debug, Clone, PartialEq)]
pub struct ResourcesPlan {
    /// Scraping each backend.
    pub scrape: Option<ScrapePlan>,
    /// Asking a Prometheus server.
    pub prometheus: Option<PrometheusPlan>,
    /// ORCA response headers.
    pub orca: bool,
    /// An older sample is unknown.
    pub expiry: Duration,
}

/// `scrape = { … }`
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapePlan {
    /// Path on each backend.
    pub path: String,
    /// Port on each backend; 0: the engine's, as a rule that of its API.
    pub port: u16,
    /// Period.
    pub interval: Duration,
    /// Overrides of the engine's metric names: (signal, metric).
    pub names: Vec<(String, String)>,
}

/// `prometheus = { … }`
#[derive(Debug, Clone, PartialEq)]
pub struct PrometheusPlan {
    /// Base URL of the server.
    pub url: String,
    /// PromQL with `{instance}` and `{address}`; `None`: not asked.
    pub cpu: Option<String>,
    /// The same for memory.
    pub memory: Option<String>,
    /// Period.
    pub interval: Duration,
}

/// `[access_log]`
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogPlan {
    /// How lines look.
    pub format: AccessLogFormat,
    /// Where they go; `None`: stdout.
    pub path: Option<PathBuf>,
}

/// How access log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// The contract's JSON.
    Json,
    /// The combined log format of Apache and nginx.
    Combined,
    /// No access log.
    Off,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// First address; host bits are zero.
    pub network: std::net::IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

impl Cidr {
    /// Whether `address` lies in the range. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.network, address.to_canonical()) {
            (V4(net), V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(ip) & mask == u32::from(net) & mask
            }
            (V6(net), V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(ip) & mask == u128::from(net) & mask
            }
            (V4(_), V6(_)) | (V6(_), V4(_)) => false,
        }
    }
}
