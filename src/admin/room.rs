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

use crate::backend::{Backend, BackendId, CodeClass, ProbeReport};
use crate::config::{AdminState, StrategyKind};
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

    /// What a reload would change, without doing it: of the file as it is now, or of this text in its place.
    fn preview(&self, text: Option<String>) -> Reply<'_, Result<ReloadDone, Refused>> {
        let _ = text;
        Box::pin(async { Err(Refused { message: "this balancer takes no changes".into(), ..Refused::default() }) })
    }

    /// Makes a change. When it has answered, the change is in force.
    fn change(&self, change: Change) -> Reply<'_, Result<(), ChangeError>> {
        let _ = change;
        Box::pin(async { Err(ChangeError::Unavailable("this balancer takes no changes")) })
    }

    /// Probes every backend of the pool now, and reports in the pool's order.
    fn check(&self, pool: Arc<Pool>) -> Reply<'_, Vec<(Arc<Backend>, ProbeReport)>>;
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
    /// Open client connections of each worker.
    pub workers: Vec<u64>,
    /// Changes made through the API that are in force.
    pub overrides: Vec<Value>,
    /// The last reload; `None` before the first.
    pub last_reload: Option<LastReload>,
    /// Certificate files and when they expire.
    pub certificates: Vec<(PathBuf, SystemTime)>,
    /// Access log lines lost so far.
    pub access_log_lost: u64,
    /// Requests that met no pool (malformed, no route, answered or left before), by class.
    pub refused: [u64; CodeClass::ALL.len()],
    /// Client connections ended because of what the client did, by reason.
    pub cut: Vec<(&'static str, u64)>,
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
    /// TLS handshakes: done, failed, out of time; `None`: plain.
    pub handshakes: Option<[u64; 3]>,
    /// Connections and requests beyond a client's limit: refused, and only counted.
    pub limited: [[u64; 2]; 2],
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
    /// The faults that stop it, a line each, for the log.
    pub lines: Vec<String>,
}

/// A change of a running pool.
pub struct Change {
    /// The pool's name.
    pub pool: String,
    /// What to change.
    pub what: Alteration,
    /// Must hold of the pool when the change is made; else [`ChangeError::TagMismatch`]. `If-Match` in other words.
    pub only_if: Option<Precondition>,
}

/// See [`Change::only_if`].
pub type Precondition = Box<dyn Fn(&Pool) -> bool + Send>;

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, what, only_if } = self;
        f.debug_struct("Change").field("pool", pool).field("what", what).field("only_if", &only_if.is_some()).finish()
    }
}

/// What can be changed while we run.
#[derive(Debug, Clone, PartialEq)]
pub enum Alteration {
    /// Adds a backend, described by the keys of its TOML table.
    Add(serde_json::Map<String, Value>),
    /// Changes what an operator may set; `None` stays as it is.
    Patch {
        /// The backend's name.
        backend: String,
        /// 1..=1000
        weight: Option<u32>,
        /// 0: no limit.
        max_in_flight: Option<u32>,
        /// What is wanted of it.
        state: Option<AdminState>,
    },
    /// Removes a backend gracefully: no new requests, those in flight have `drain_timeout`.
    Remove {
        /// The backend's name.
        backend: String,
        /// `None`: the server's `drain_timeout`.
        drain_timeout: Option<Duration>,
    },
    /// Sends a backend no new sessions; pinned ones move after `timeout`.
    Drain {
        /// The backend's name.
        backend: String,
        /// `None`: the server's `drain_timeout`.
        timeout: Option<Duration>,
    },
    /// Takes a drained backend back.
    Undrain {
        /// The backend's name.
        backend: String,
    },
    /// Balances by another strategy.
    Strategy(StrategyKind),
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeError {
    /// No such pool.
    NoPool,
    /// No such backend.
    NoBackend,
    /// The name is taken.
    NameTaken,
    /// [`Change::only_if`] does not hold.
    TagMismatch,
    /// It makes no sense, in a sentence, with every fault as JSON.
    Invalid(String, Vec<Value>),
    /// Nobody can change anything now.
    Unavailable(&'static str),
}
