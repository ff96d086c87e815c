//! What the tables `[server]`, `[log]`, `[access_log]` and `[admin]` mean.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::secret::Secret;

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
