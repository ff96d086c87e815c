//! What the control plane shows: the admin server reads it without asking anybody.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::Order;
use crate::admin::{
    Change, ChangeError, ControlRoom, LastReload, Listening, Phase, Refused, ReloadDone, Reply, Snapshot,
};
use crate::backend::{Backend, BackendId, ProbeReport};
use crate::clock;
use crate::health::checker::check_now;
use crate::listener::{Census, ListenerShared};
use crate::pool::Pool;
use crate::proxy::{Cut, Shared};
use crate::upstream::count_open;

/// The state of the balancer as outsiders see it.
pub struct Board {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
    started: Instant,
    /// Once there are workers.
    census: OnceLock<Arc<Census>>,
    state: Mutex<State>,
}

/// Guarded together, because they change together at a reload.
struct State {
    phase: Phase,
    generation: u64,
    listeners: Vec<(SocketAddr, Arc<ListenerShared>)>,
    overrides: Vec<Value>,
    certificates: Vec<(PathBuf, SystemTime)>,
    last_reload: Option<LastReload>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    /// A board for a balancer that is starting.
    pub fn new(shared: Arc<Shared>, orders: mpsc::UnboundedSender<Order>) -> Arc<Self> {
        let state = State {
            phase: Phase::Starting,
            generation: 1,
            listeners: Vec::new(),
            overrides: Vec::new(),
            certificates: Vec::new(),
            last_reload: None,
        };
        let started = clock::now();
        Arc::new(Self { shared, orders, started, census: OnceLock::new(), state: Mutex::new(state) })
    }

    /// Gives an order.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    pub(super) fn set_generation(&self, generation: u64) {
        self.lock().generation = generation;
    }

    pub(super) fn set_census(&self, census: &Arc<Census>) {
        // Set once: there is one set of workers.
        let _ = self.census.set(Arc::clone(census));
    }

    pub(super) fn set_listeners(&self, listeners: Vec<(SocketAddr, Arc<ListenerShared>)>) {
        self.lock().listeners = listeners;
    }

    pub(super) fn set_overrides(&self, overrides: Vec<Value>) {
        self.lock().overrides = overrides;
    }

    pub(super) fn set_certificates(&self, certificates: Vec<(PathBuf, SystemTime)>) {
        self.lock().certificates = certificates;
    }

    pub(super) fn set_last_reload(&self, last: LastReload) {
        self.lock().last_reload = Some(last);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopping() -> Refused {
    Refused { message: "the balancer is stopping".into(), ..Refused::default() }
}

impl ControlRoom for Board {
    fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let listening = |(address, shared): &(SocketAddr, Arc<ListenerShared>)| {
            let secure = shared.settings().tls.is_some();
            let tls = &shared.handshakes;
            Listening {
                address: *address,
                scheme: if secure { "https" } else { "http" },
                connections: shared.connections.load(Relaxed) as u64,
                limited: shared.clients.counts(),
                handshakes: secure.then(|| [&tls.done, &tls.failed, &tls.timed_out].map(|count| count.load(Relaxed))),
            }
        };
        let per_worker = self.census.get().map(|census| census.per_worker()).unwrap_or_default();
        Snapshot {
            workers: per_worker.into_iter().map(|connections| connections as u64).collect(),
            phase: state.phase,
            uptime: clock::now().saturating_duration_since(self.started),
            config_generation: state.generation,
            pools: self.shared.routing.load().pools.clone(),
            listeners: state.listeners.iter().map(listening).collect(),
            overrides: state.overrides.clone(),
            last_reload: state.last_reload.clone(),
            certificates: state.certificates.clone(),
            access_log_lost: self.shared.access_log.load().lost(),
            refused: self.shared.refused.each_ref().map(|count| count.load(Relaxed)),
            cut: Cut::ALL.iter().zip(&self.shared.cut).map(|(why, count)| (why.name(), count.load(Relaxed))).collect(),
        }
    }

    fn drain_deadline(&self, backend: BackendId) -> Option<Instant> {
        let routing = self.shared.routing.load();
        routing.pools.iter().find_map(|pool| {
            let (set, leaving) = (pool.set(), pool.leaving());
            let found = set.members.iter().chain(&leaving).find(|known| known.id == backend)?;
            found.drain_deadline()
        })
    }

    fn upstream_connections(&self, backend: BackendId) -> Option<u64> {
        let routing = self.shared.routing.load();
        routing.pools.iter().find_map(|pool| {
            pool.set().members.iter().find(|member| member.id == backend).map(|member| count_open(&member.connections))
        })
    }

    fn reload(&self) -> Reply<'_, Result<ReloadDone, Refused>> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Reload(Some(answer)));
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(stopping())) })
    }

    fn preview(&self, text: Option<String>) -> Reply<'_, Result<ReloadDone, Refused>> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Preview(text, answer));
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(stopping())) })
    }

    fn change(&self, change: Change) -> Reply<'_, Result<(), ChangeError>> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Change(change, answer));
        Box::pin(async move { answered.await.unwrap_or(Err(ChangeError::Unavailable("the balancer is stopping"))) })
    }

    fn check(&self, pool: Arc<Pool>) -> Reply<'_, Vec<(Arc<Backend>, ProbeReport)>> {
        Box::pin(async move { check_now(&pool).await })
    }
}
