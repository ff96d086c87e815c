//! A balancer from a plan: [`App::bind`] takes sockets and builds everything, [`App::run`] runs it to its end.
//!
//! The binary's `run`, `quick` and `demo` and every test go through here.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::admin::AdminState;
use crate::clock;
use crate::config::Plan;
use crate::control::{self, Board, Control, Order, Parts, Summary};
use crate::listener;
use crate::pool::Pool;
use crate::proxy::access_log::AccessLog;
use crate::proxy::{Routing, Shared};
use crate::telemetry::logging::Logging;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Clients, Server, TlsError};

/// How long threads that read or write files may take to end with the process.
const BLOCKED_PATIENCE: Duration = Duration::from_secs(1);

/// Why a balancer cannot start.
#[derive(Debug)]
pub enum BindError {
    /// A listener's address cannot be bound.
    Listen(SocketAddr, io::Error),
    /// The access log cannot be opened.
    AccessLog(io::Error),
    /// The admin token cannot be read.
    Token(String),
    /// Certificates, keys or CAs cannot be used.
    Tls(TlsError),
    /// The metrics recorder cannot be made.
    Metrics(String),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::AccessLog(error) => write!(f, "access_log cannot be opened: {error}"),
            Self::Token(error) => f.write_str(error),
            Self::Tls(error) => error.fmt(f),
            Self::Metrics(error) => write!(f, "metrics cannot be recorded: {error}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen(_, error) | Self::AccessLog(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::Token(_) | Self::Metrics(_) => None,
        }
    }
}

/// A balancer, bound and built.
pub struct App {
    parts: Parts,
    listeners: Vec<(&'static str, SocketAddr)>,
    admin: Option<SocketAddr>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("listeners", &self.listeners).field("admin", &self.admin).finish_non_exhaustive()
    }
}

/// Steers a running balancer from another thread.
#[derive(Debug, Clone)]
pub struct AppHandle {
    board: Arc<Board>,
}

impl AppHandle {
    /// Like SIGHUP.
    pub fn reload(&self) {
        self.board.order(Order::Reload(None));
    }

    /// Like SIGTERM: drains; a second time ends at once.
    pub fn shutdown(&self) {
        self.board.order(Order::Shutdown);
    }

    /// Ends at once.
    pub fn abort(&self) {
        self.board.order(Order::Abort);
    }
}

impl App {
    /// Binds every socket of `plan` and builds pools and workers' shared state. `source`: the file to read again on a
    /// reload.
    ///
    /// # Errors
    /// [`BindError`] names the address or file.
    pub fn bind(plan: Plan, source: Option<PathBuf>) -> Result<Self, BindError> {
        let workers = match plan.server.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut sockets = Vec::new();
        let mut listeners = Vec::new();
        for listener in &plan.listeners {
            let cannot = |error| BindError::Listen(listener.address, error);
            let bound = listener::bind(listener.address, workers).map_err(cannot)?;
            let address = bound.first().map_or(Ok(listener.address), TcpListener::local_addr).map_err(cannot)?;
            listeners.push((if listener.tls.is_some() { "https" } else { "http" }, address));
            let tls = listener.tls.as_ref().map(|tls| Server::build(tls, listener.http2.enabled, None));
            sockets.push((bound, tls.transpose().map_err(BindError::Tls)?));
        }
        let now = clock::now();
        let mut pools = Vec::with_capacity(plan.pools.len());
        for planned in &plan.pools {
            let pool = Pool::new(Arc::clone(planned), now);
            pool.set_clients(&Clients::build(planned).map_err(BindError::Tls)?);
            pools.push(pool);
        }
        let access_log = AccessLog::open(&plan.access_log).map_err(BindError::AccessLog)?;
        let shared = Shared::new(Routing::new(1, &plan, pools), access_log);
        let (sender, orders) = mpsc::unbounded_channel();
        let board = Board::new(Arc::clone(&shared), sender);
        let metrics = Arc::new(Metrics::new().map_err(|error| BindError::Metrics(error.to_string()))?);
        let mut admin = None;
        if let Some(wanted) = &plan.admin {
            let cannot = |error| BindError::Listen(wanted.address, error);
            let socket = TcpListener::bind(wanted.address).map_err(cannot)?;
            socket.set_nonblocking(true).map_err(cannot)?;
            let address = socket.local_addr().map_err(cannot)?;
            let token = control::token(wanted).map_err(BindError::Token)?;
            let room: Arc<dyn crate::admin::ControlRoom> = board.clone();
            let state = AdminState::new(room, Arc::clone(&metrics), token, wanted.public_metrics);
            admin = Some((address, socket, state));
        }
        let admin_address = admin.as_ref().map(|(address, _, _)| *address);
        let admin = admin.map(|(_, socket, state)| (socket, state));
        let parts = Parts {
            plan,
            source,
            shared,
            board,
            orders,
            sockets,
            admin,
            metrics,
            logging: None,
            workers,
            signals: false,
            ready: None,
        };
        Ok(Self { parts, listeners, admin: admin_address })
    }

    /// Lets a reload change the level of this log.
    #[must_use]
    pub fn with_logging(mut self, logging: Logging) -> Self {
        self.parts.logging = Some(logging);
        self
    }

    /// Takes SIGHUP, SIGTERM and SIGINT as orders.
    #[must_use]
    pub fn with_signals(mut self) -> Self {
        self.parts.signals = true;
        self
    }

    /// Calls `ready` once, from the thread that runs, when connections are served and signals received: only then may
    /// anybody be told that the balancer is there.
    #[must_use]
    pub fn with_ready(mut self, ready: impl FnOnce() + Send + 'static) -> Self {
        self.parts.ready = Some(Box::new(ready));
        self
    }

    /// Scheme and address of every listener, with the ports that the kernel chose.
    pub fn listeners(&self) -> Vec<(&'static str, SocketAddr)> {
        self.listeners.clone()
    }

    /// The admin server's address.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Steers it once it runs.
    pub fn handle(&self) -> AppHandle {
        AppHandle { board: Arc::clone(&self.parts.board) }
    }

    /// Runs to the end, on this thread and those it starts.
    ///
    /// # Errors
    /// Threads or runtimes cannot be made.
    pub fn run(self) -> io::Result<Summary> {
        crate::telemetry::panics::watch();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let summary = runtime.block_on(Control::run(self.parts));
        // A thread that waits for a disk that hangs must not hold up the end.
        runtime.shutdown_timeout(BLOCKED_PATIENCE);
        summary
    }
}
