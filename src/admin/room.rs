//! The door to the control room: what the admin server needs to know beside pools and backends, and may ask for.
//!
//! A trait, because the router is tested without a running balancer.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::backend::BackendId;
use crate::pool::Pool;

/// The answer to something asked, on its way.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What control offers.
pub trait ControlRoom: fmt::Debug + Send + Sync + 'static {
    /// The state of the moment. Called for every request and scrape, so it must be cheap.
    fn snapshot(&self) -> Snapshot;

    /// Until when a draining backend's requests may run; `None`: it does not drain, or without a deadline.
    fn drain_deadline(&self, backend: BackendId) -> Option<Instant>;

    /// Connections open to a backend, over all workers; `None`: not counted.
    fn upstream_connections(&self, backend: BackendId) -> Option<u64>;

    /// Reads the configuration file again and applies it, like SIGHUP.
    fn reload(&self) -> Reply<'_, Result<ReloadDone, Refused>>;
}

/// The state of the moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where the process is in its life.
    pub phase: Phase,
    /// Since the start.
    pub uptime: Duration,
    /// Generation of the configuration; 1 at start.
    pub config_generation: u64,
    /// Every pool, by name.
    pub pools: Vec<Arc<Pool>>,
    /// Every listener, in the order of the configuration.
    pub listeners: Vec<Listening>,
    /// Changes made through the API that are in force.
    pub overrides: Vec<Value>,
    /// The last reload; `None` before the first.
    pub last_reload: Option<LastReload>,
    /// Certificate files and when they expire.
    pub certificates: Vec<(PathBuf, SystemTime)>,
    /// Access log lines lost so far.
    pub access_log_lost: u64,
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not listening yet.
    Starting,
    /// Serving.
    Running,
    /// Told to stop.
    Draining,
}

impl Phase {
    /// The word shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
        }
    }
}

/// One listener.
#[derive(Debug, Clone)]
pub struct Listening {
    /// Where it listens, with the port the kernel chose.
    pub address: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Open client connections.
    pub connections: u64,
}

/// A past reload.
#[derive(Debug, Clone)]
pub struct LastReload {
    /// When.
    pub at: SystemTime,
    /// Whether it was applied.
    pub applied: bool,
    /// One line a fault, when it was not.
    pub errors: Vec<String>,
}

/// A reload that was applied.
#[derive(Debug, Clone, Default)]
pub struct ReloadDone {
    /// What changed, as JSON.
    pub diff: Value,
}

/// A change that was refused; nothing has changed.
#[derive(Debug, Clone, Default)]
pub struct Refused {
    /// What is wrong, for people, in a sentence.
    pub message: String,
    /// Every fault: for a configuration file as `evenkeel check --format json` shows them.
    pub errors: Vec<Value>,
}
