//! What a `[[pool]]` and its backends mean, and which requests a `[[route]]` gives it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{CertificatePlan, HealthPlan, OutlierPlan, ProbeKind, ResourcesPlan, StrategyKind, StrategyPlan};
use crate::config::engine::Engine;
use crate::config::secret::Secret;

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
    /// Index into [`Plan::pools`](super::Plan::pools).
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

impl PoolPlan {
    /// How long a backend may be silent while requests wait for it before it is ejected; zero: for ever, which is so
    /// where health (`kind = "none"`) or ejection (`consecutive_failures = 0`) is off.
    pub fn patience(&self) -> Duration {
        let is_on = self.health.kind != ProbeKind::None && self.outlier.consecutive_failures != 0;
        if is_on { self.health.patience() } else { Duration::ZERO }
    }
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
