//! What runs, and the loop that obeys orders.

use std::collections::HashMap;
use std::fmt;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::certificates::Certificates;
use super::effective::{Resolved, effective};
use super::listeners::ActiveListener;
use super::notify::Notifier;
use super::overrides::Overrides;
use super::{Board, Order, Summary, leave, names, signals, state};
use crate::admin::{self, AdminState, Phase};
use crate::clock;
use crate::config::{Plan, PoolPlan};
use crate::health::checker;
use crate::listener::{Census, ListenerId, Worker};
use crate::pool::Pool;
use crate::proxy::Shared;
use crate::resources;
use crate::telemetry::logging::Logging;
use crate::telemetry::metrics::Metrics;
use crate::tls;

/// How long host names may hold up the start.
const FIRST_LOOKUP: Duration = Duration::from_secs(2);
/// How long the access log may take to write its last lines.
const LOG_PATIENCE: Duration = Duration::from_secs(2);

/// What a balancer is made of, bound and built but not running.
pub struct Parts {
    /// The plan in force.
    pub plan: Plan,
    /// The file it came from, for reloads.
    pub source: Option<PathBuf>,
    /// What workers share.
    pub shared: Arc<Shared>,
    /// What is shown.
    pub board: Arc<Board>,
    /// Orders given to the board.
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// Sockets per listener of the plan, one for each worker, and its TLS.
    pub sockets: Vec<(Vec<TcpListener>, Option<tls::Server>)>,
    /// The admin server's socket and state.
    pub admin: Option<(TcpListener, Arc<AdminState>)>,
    /// Process-wide metrics.
    pub metrics: Arc<Metrics>,
    /// The log, for its level.
    pub logging: Option<Logging>,
    /// How many workers.
    pub workers: usize,
    /// Signals are ours to receive.
    pub signals: bool,
    /// Called once when connections are served and signals received.
    pub ready: Option<Box<dyn FnOnce() + Send>>,
}

/// The control plane of a running balancer.
pub struct Control {
    pub(super) plan: Plan,
    pub(super) source: Option<PathBuf>,
    pub(super) shared: Arc<Shared>,
    pub(super) board: Arc<Board>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) workers: Vec<Worker>,
    pub(super) census: Arc<Census>,
    pub(super) listeners: Vec<ActiveListener>,
    pub(super) next_listener: ListenerId,
    pub(super) metrics: Arc<Metrics>,
    pub(super) admin: Option<Arc<AdminState>>,
    pub(super) logging: Option<Logging>,
    pub(super) generation: u64,
    /// What host names resolved to.
    pub(super) resolved: Resolved,
    /// Changes made through the API; `plan` is the file's.
    pub(super) overrides: Overrides,
    /// The tasks that look after each pool, by its name.
    pub(super) keepers: HashMap<Arc<str>, Vec<JoinHandle<()>>>,
    /// What systemd is told.
    pub(super) notifier: Notifier,
    /// What was seen of certificate files.
    pub(super) certificates: Certificates,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Control {
    /// Runs a balancer until it is told to end. Must be called on a tokio runtime, which it has to itself.
    ///
    /// # Errors
    /// Workers or sockets cannot be started.
    pub async fn run(parts: Parts) -> std::io::Result<Summary> {
        let most = super::connection_limit(parts.plan.server.max_connections);
        let census = Census::new(parts.workers, most);
        let workers = Worker::start(parts.workers, &parts.shared, &census)?;
        parts.board.set_census(&census);
        let mut control = Self {
            plan: parts.plan,
            source: parts.source,
            shared: parts.shared,
            board: parts.board,
            orders: parts.orders,
            workers,
            census,
            listeners: Vec::new(),
            next_listener: 0,
            metrics: parts.metrics,
            admin: parts.admin.as_ref().map(|(_, state)| Arc::clone(state)),
            logging: parts.logging,
            generation: 1,
            resolved: HashMap::new(),
            overrides: Overrides::default(),
            keepers: HashMap::new(),
            notifier: if parts.signals { Notifier::from_environment() } else { Notifier::default() },
            certificates: Certificates::default(),
        };
        let pools = control.shared.routing.load().pools.clone();
        // Names that take longer are found by the next lookup.
        if let Ok(found) = tokio::time::timeout(FIRST_LOOKUP, names::look_up(&control.plan)).await {
            control.take_names(found);
        }
        for pool in &pools {
            state::load(pool);
            control.keep(pool);
            leave::follow(pool, Vec::new(), None, control.plan.server.drain_timeout);
        }
        for (plan, (sockets, tls)) in control.plan.listeners.clone().into_iter().zip(parts.sockets) {
            control.open(plan, sockets, tls)?;
        }
        control.show_listeners();
        control.show_certificates();
        let (ended, admin_ended) = tokio::sync::oneshot::channel::<()>();
        let admin = match parts.admin {
            Some((socket, state)) => {
                let socket = tokio::net::TcpListener::from_std(socket)?;
                Some(tokio::spawn(async move {
                    let ended = async { drop(admin_ended.await) };
                    admin::serve(socket, state, ended).await;
                }))
            }
            None => None,
        };
        if parts.signals {
            signals::follow(Arc::clone(&control.board));
        }
        control.board.set_phase(Phase::Running);
        if let Some(ready) = parts.ready {
            ready();
        }
        control.notifier.ready();
        let summary = control.obey().await;
        tracing::info!(cut = summary.cut, "{summary}");
        drop(ended);
        if let Some(admin) = admin {
            admin.abort();
        }
        control.finish().await;
        Ok(summary)
    }

    async fn obey(&mut self) -> Summary {
        let mut housekeeping = tokio::time::interval(Duration::from_secs(1));
        let mut watchdog = tokio::time::interval(self.notifier.look());
        let mut looked_up = clock::now();
        loop {
            tokio::select! {
                _ = watchdog.tick() => self.notifier.live(&self.census.beats(), clock::now()),
                order = self.orders.recv() => match order {
                    Some(Order::Resolved(found)) => self.take_names(found),
                    Some(Order::Looked(looks)) => self.take_certificates(looks),
                    Some(Order::Reload(answer)) => self.reload(answer).await,
                    Some(Order::Preview(text, answer)) => drop(answer.send(self.preview(text.as_deref()))),
                    Some(Order::Change(change, answer)) => drop(answer.send(self.change(change))),
                    Some(Order::Shutdown) | None => return self.drain().await,
                    Some(Order::Abort) => return self.end(true),
                },
                _ = housekeeping.tick() => {
                    self.metrics.panics.absolute(crate::telemetry::panics::count());
                    self.look_at_certificates();
                    let due = |pause| clock::now().saturating_duration_since(looked_up) >= pause;
                    if names::pause(&self.plan_of_names()).is_some_and(due) {
                        looked_up = clock::now();
                        self.look_names_up();
                    }
                }
            }
        }
    }

    /// The plan in force for a pool of the file: names expanded, then what was changed through the API.
    pub(super) fn in_force(&self, written: &PoolPlan) -> PoolPlan {
        self.overrides.effective(effective(written, &self.resolved))
    }

    /// `plan` with names expanded: what changes through the API are made to.
    pub(super) fn expanded(&self, plan: &Plan) -> Plan {
        let pools = plan.pools.iter().map(|pool| Arc::new(effective(pool, &self.resolved)));
        Plan { pools: pools.collect(), ..plan.clone() }
    }

    /// Looks names up in a task of its own, so that a slow resolver delays no order; the answer comes as an order.
    pub(super) fn look_names_up(&self) {
        let (plan, board) = (self.plan_of_names(), Arc::clone(&self.board));
        tokio::spawn(async move { board.order(Order::Resolved(names::look_up(&plan).await)) });
    }

    /// Saves, stops what looks after pools, and waits for workers and the access log.
    async fn finish(mut self) {
        for (_, tasks) in self.keepers.drain() {
            tasks.iter().for_each(JoinHandle::abort);
        }
        for pool in &self.shared.routing.load().pools {
            state::save(pool, &mut false);
        }
        let (workers, log) = (std::mem::take(&mut self.workers), self.shared.access_log.load_full());
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                worker.join();
            }
            log.close(LOG_PATIENCE)
        });
        if !joined.await.unwrap_or(false) {
            tracing::warn!("the access log did not take its last lines in time");
        }
    }

    /// Starts the tasks that look after `pool`.
    pub(super) fn keep(&mut self, pool: &Arc<Pool>) {
        let tasks = vec![
            tokio::spawn(checker::run(Arc::clone(pool))),
            tokio::spawn(resources::run(Arc::clone(pool))),
            tokio::spawn(state::follow(Arc::clone(pool))),
        ];
        self.keepers.insert(Arc::clone(&pool.name), tasks);
    }
}
