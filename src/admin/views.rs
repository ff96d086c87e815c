//! The JSON that the API shows: the field names of the contract, filled from pools and backends.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::room::{ControlRoom, LastReload, Snapshot};
use crate::backend::{Backend, CodeClass, HealthState, Moment, ProbeReport, ProbeResult};
use crate::config::{AdminState as Wanted, PoolPlan, WhenUnhealthy};
use crate::pool::Pool;

/// `GET /api/v1/status`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Status)]
pub(super) struct StatusView {
    version: &'static str,
    state: &'static str,
    uptime_s: f64,
    config_generation: u64,
    listeners: Vec<ListenerView>,
    workers: Vec<WorkerView>,
    pools: Vec<PoolSummary>,
    overrides: Vec<Value>,
    last_reload: Option<ReloadView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Listener)]
struct ListenerView {
    address: String,
    scheme: &'static str,
    connections: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct WorkerView {
    connections: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PoolSummary)]
struct PoolSummary {
    name: String,
    strategy: &'static str,
    backends: usize,
    healthy_backends: usize,
    in_flight: u64,
    total_requests: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastReload)]
struct ReloadView {
    at: f64,
    result: &'static str,
    errors: Vec<String>,
}

impl StatusView {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let listeners = snapshot.listeners.iter().map(|listening| ListenerView {
            address: listening.address.to_string(),
            scheme: listening.scheme,
            connections: listening.connections,
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            state: snapshot.phase.name(),
            uptime_s: rounded(snapshot.uptime.as_secs_f64()),
            config_generation: snapshot.config_generation,
            listeners: listeners.collect(),
            workers: snapshot.workers.iter().map(|connections| WorkerView { connections: *connections }).collect(),
            pools: snapshot.pools.iter().map(|pool| PoolSummary::new(pool)).collect(),
            overrides: snapshot.overrides,
            last_reload: snapshot.last_reload.map(ReloadView::new),
        }
    }
}

impl ReloadView {
    fn new(reload: LastReload) -> Self {
        let at = reload.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let result = if reload.applied { "success" } else { "failure" };
        Self { at: rounded(at.as_secs_f64()), result, errors: reload.errors }
    }
}

impl PoolSummary {
    fn new(pool: &Pool) -> Self {
        let set = pool.set();
        Self {
            name: pool.name.to_string(),
            strategy: pool.strategy_kind().name(),
            backends: set.members.len(),
            healthy_backends: pool.healthy(),
            in_flight: set.members.iter().map(|backend| u64::from(backend.in_flight())).sum(),
            total_requests: total_requests(pool),
        }
    }
}

/// `GET /api/v1/pools/{pool}`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pool)]
pub(super) struct PoolView {
    name: String,
    strategy: &'static str,
    when_unhealthy: &'static str,
    health_checks: &'static str,
    metrics: PoolMetrics,
    queue: QueueNow,
    backends: Vec<BackendView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PoolMetrics)]
struct PoolMetrics {
    total_requests: u64,
    healthy_backends: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Queue)]
struct QueueNow {
    length: usize,
    size: usize,
}

impl PoolView {
    pub(super) fn new(pool: &Pool, room: &dyn ControlRoom, now: Instant) -> Self {
        let (plan, queue) = (pool.plan(), pool.queue_view());
        Self {
            name: pool.name.to_string(),
            strategy: plan.strategy.kind.name(),
            when_unhealthy: match plan.when_unhealthy {
                WhenUnhealthy::FailOpen => "fail_open",
                WhenUnhealthy::Reject => "reject",
            },
            health_checks: if pool.checks_paused() { "paused" } else { "running" },
            metrics: PoolMetrics { total_requests: total_requests(pool), healthy_backends: pool.healthy() },
            queue: QueueNow { length: queue.length, size: queue.size },
            backends: BackendView::all(pool, room, now),
        }
    }
}

/// `GET /api/v1/pools/{pool}/backends/{name}`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Backend)]
pub(super) struct BackendView {
    name: String,
    address: String,
    state: &'static str,
    health: &'static str,
    in_flight: u32,
    requests: u64,
    failures: u64,
    success_rate: Option<f64>,
    avg_response_time_ms: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    window_s: u64,
    weight: u32,
    max_in_flight: u32,
    resources: ResourcesView,
    streams: StreamsView,
    drain: Option<DrainView>,
    /// It has left the pool and goes when nothing is in flight any more.
    leaving: bool,
    ejections: u64,
    /// How long it still asked to be left alone (`Retry-After`); null: it takes requests.
    held_s: Option<f64>,
    last_check: Option<CheckView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Resources)]
struct ResourcesView {
    /// Shares in use, 0-1; null: nobody said so of late.
    cpu: Option<f64>,
    memory: Option<f64>,
    /// Age of the last word on either; null while both are unknown.
    age_s: Option<f64>,
    /// Requests that the backend itself says it works on, and in its queue, of all clients.
    running: Option<f64>,
    waiting: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Streams)]
struct StreamsView {
    open: u32,
    bytes_per_s: f64,
    events_per_s: f64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Drain)]
struct DrainView {
    remaining_s: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastCheck)]
struct CheckView {
    result: &'static str,
    detail: String,
    took_ms: f64,
    age_s: f64,
}

/// One result of `POST /api/v1/pools/{pool}/check`
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckResult)]
pub(super) struct CheckedView {
    name: String,
    passed: bool,
    result: &'static str,
    detail: String,
    took_ms: f64,
    /// Its health after this check.
    health: &'static str,
}

impl CheckedView {
    pub(super) fn new(backend: &Backend, report: &ProbeReport) -> Self {
        Self {
            name: backend.name.to_string(),
            passed: report.result == ProbeResult::Passed,
            result: report.result.name(),
            detail: report.detail.clone(),
            took_ms: rounded(report.took.as_secs_f64() * 1e3),
            health: backend.health_state().name(),
        }
    }
}

impl BackendView {
    /// The members of `pool`, then those that are leaving it.
    pub(super) fn all(pool: &Pool, room: &dyn ControlRoom, now: Instant) -> Vec<Self> {
        let (members, leaving) = (pool.set(), pool.leaving());
        let expiry = expiry(pool);
        let staying = members.members.iter().map(|backend| Self::new(backend, false, expiry, room, now));
        staying.chain(leaving.iter().map(|backend| Self::new(backend, true, expiry, room, now))).collect()
    }

    /// The member of that name, else the one that is leaving.
    pub(super) fn find(pool: &Pool, name: &str, room: &dyn ControlRoom, now: Instant) -> Option<Self> {
        let leaving = || pool.leaving().into_iter().rev().find(|backend| *backend.name == *name);
        let member = pool.backend(name).map(|backend| (backend, false));
        let (backend, leaves) = member.or_else(|| leaving().map(|backend| (backend, true)))?;
        Some(Self::new(&backend, leaves, expiry(pool), room, now))
    }

    fn new(backend: &Backend, leaving: bool, expiry: Duration, room: &dyn ControlRoom, now: Instant) -> Self {
        let stats = backend.stats.view(now);
        let (cpu, memory, _) =
            backend.resources_since(Moment::of(now).before(expiry)).unwrap_or((f64::NAN, f64::NAN, 0));
        let known = |share: f64| (!share.is_nan()).then(|| rounded(share));
        let signals = backend.signals_within(expiry, now).unwrap_or_default();
        let streams = backend.streams.view();
        let age = |at: Instant| rounded(now.saturating_duration_since(at).as_secs_f64());
        let state = if leaving { "draining" } else { wanted_name(backend.admin_state()) };
        let remaining = room.drain_deadline(backend.id).map(|at| at.saturating_duration_since(now).as_secs_f64());
        Self {
            name: backend.name.to_string(),
            address: backend.address.to_string(),
            state,
            health: backend.health_state().name(),
            in_flight: backend.in_flight(),
            requests: stats.requests,
            failures: stats.failures,
            success_rate: stats.success_rate.map(rounded),
            avg_response_time_ms: stats.avg_response_time_ms.map(rounded),
            p50_ms: stats.p50_ms.map(rounded),
            p95_ms: stats.p95_ms.map(rounded),
            p99_ms: stats.p99_ms.map(rounded),
            window_s: stats.window_s,
            weight: backend.configured_weight(),
            max_in_flight: backend.max_in_flight(),
            resources: ResourcesView {
                cpu: known(cpu),
                memory: known(memory),
                age_s: backend.resources().sampled.filter(|_| !(cpu.is_nan() && memory.is_nan())).map(age),
                running: signals.running,
                waiting: signals.waiting,
            },
            streams: StreamsView {
                open: streams.open,
                bytes_per_s: rounded(streams.bytes_per_s),
                events_per_s: rounded(streams.events_per_s),
            },
            drain: (state == "draining").then(|| DrainView { remaining_s: remaining.map(rounded) }),
            leaving,
            ejections: backend.stats.ejections().iter().map(|count| count.load(Relaxed)).sum(),
            held_s: backend.held_for(now).map(|left| rounded(left.as_secs_f64())),
            last_check: backend.probes.last().map(|(report, at)| CheckView {
                result: report.result.name(),
                detail: report.detail,
                took_ms: rounded(report.took.as_secs_f64() * 1e3),
                age_s: age(at),
            }),
        }
    }
}

/// How long a sample counts in a pool without sources: what the API is told still expires.
const DEFAULT_EXPIRY: Duration = Duration::from_secs(10);

/// How old a sample of `pool`'s backends may be.
pub(super) fn expiry(pool: &Pool) -> Duration {
    pool.plan().resources.as_ref().map_or(DEFAULT_EXPIRY, |plan| plan.expiry)
}

/// The contract's name of what an operator wants of a backend.
pub(super) fn wanted_name(state: Wanted) -> &'static str {
    match state {
        Wanted::Ready => "ready",
        Wanted::Drain => "draining",
        Wanted::Disabled => "disabled",
    }
}

/// 1 for a backend that may take traffic as far as health goes.
pub(super) fn is_up(backend: &Backend) -> bool {
    backend.health_state() == HealthState::Up
}

/// Client requests that ended, with or without a backend.
fn total_requests(pool: &Pool) -> u64 {
    let (set, leaving) = (pool.set(), pool.leaving());
    let of =
        |backend: &Arc<Backend>| CodeClass::ALL.into_iter().map(|class| backend.stats.requests(class)).sum::<u64>();
    let routed: u64 = set.members.iter().chain(&leaving).map(of).sum();
    routed + pool.stats.unrouted.iter().map(|count| count.load(Relaxed)).sum::<u64>()
}

/// Three decimals: more is noise to a reader.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The entity tag of a backend: of what an operator can change, not of counters, so that it moves only when somebody
/// else has changed something.
pub(super) fn backend_etag(backend: &Backend) -> String {
    let mut hasher = DefaultHasher::new();
    hash_backend(backend, &mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// The entity tag of a pool: of its plan and of each of its backends.
pub(super) fn pool_etag(pool: &Pool) -> String {
    let mut hasher = DefaultHasher::new();
    let plan: Arc<PoolPlan> = pool.plan();
    plan.strategy.kind.name().hash(&mut hasher);
    pool.checks_paused().hash(&mut hasher);
    for backend in &pool.set().members {
        hash_backend(backend, &mut hasher);
    }
    format!("\"{:016x}\"", hasher.finish())
}

/// The entity tag of everything: the file in force, and what was changed since.
pub(super) fn config_etag(snapshot: &Snapshot) -> String {
    let mut hasher = DefaultHasher::new();
    snapshot.config_generation.hash(&mut hasher);
    for pool in &snapshot.pools {
        pool_etag(pool).hash(&mut hasher);
    }
    for change in &snapshot.overrides {
        change.to_string().hash(&mut hasher);
    }
    format!("\"{:016x}\"", hasher.finish())
}

fn hash_backend(backend: &Backend, hasher: &mut DefaultHasher) {
    backend.id.hash(hasher);
    backend.configured_weight().hash(hasher);
    backend.max_in_flight().hash(hasher);
    wanted_name(backend.admin_state()).hash(hasher);
}
