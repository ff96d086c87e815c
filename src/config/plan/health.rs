//! How a pool learns how its backends are: probes, ejection by traffic, resources.

use std::time::Duration;

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
