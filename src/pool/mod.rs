//! Many backends and the choice among them.
//!
//! A [`Pool`] publishes one immutable snapshot ([`Live`]): its plan, its [`BackendSet`] and its strategy. The request
//! path loads it once per attempt and takes a [`Lease`]; the lease counts the request in flight and, when it is dropped,
//! reports how the request ended to statistics, strategy and health. Only [`Pool`] itself publishes a new snapshot.

mod budget;
mod lease;
mod ledger;
mod members;
mod outliers;
mod queue;
mod set;
mod sticky;

pub use budget::RetryBudget;
pub use lease::{Ask, Lease, Unavailable};
pub use ledger::{Candidate, Decided, Ledger, LeftOut};
pub use queue::{Priority, QueueView, Waiting};
pub use set::BackendSet;
pub use sticky::{Pin, Session, Settled, Sticky};

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::backend::{Backend, BackendId, CodeClass, HealthChange, Histogram, ProbeReport, Progress};
use crate::balance::{self, Strategy};
use crate::config::{PoolPlan, StrategyKind, StrategyPlan};
use crate::tls::Clients;
use queue::Queue;

/// What one attempt sees from start to end.
#[derive(Debug, Clone)]
pub struct Live {
    /// The plan in force, overrides included.
    pub plan: Arc<PoolPlan>,
    /// The backends.
    pub set: Arc<BackendSet>,
    /// The strategy.
    pub strategy: Arc<dyn Strategy>,
    /// Session affinity; `None`: off.
    pub sticky: Option<Arc<Sticky>>,
    /// Grows whenever it has changed who is taken for a backend, or what a backend takes us for. A connection serves
    /// those only who found it with the trust that it was made with.
    pub trust: u64,
}

/// Counters of a pool that belong to no single backend.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Client requests ended without any backend, by [`CodeClass`].
    pub unrouted: [AtomicU64; CodeClass::ALL.len()],
    /// Second tries by [`RetryReason`].
    pub retries: [AtomicU64; RetryReason::ALL.len()],
    /// Clients that left before the end.
    pub client_disconnects: AtomicU64,
    /// Picks while no backend was healthy.
    pub fail_open: AtomicU64,
    /// Time spent waiting for a slot.
    pub queue_wait: Histogram,
    /// Time of one pick, nanosecond buckets.
    pub decision: DecisionHistogram,
}

impl PoolStats {
    /// A second try began.
    pub fn retried(&self, reason: RetryReason) {
        self.retries[reason as usize].fetch_add(1, Relaxed);
    }
}

/// Why a request was tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// No connection could be made.
    ConnectFailure,
    /// The connection ended before the response.
    Reset,
    /// A pooled connection had been closed by the backend.
    Stale,
    /// A status that the configuration names.
    Status,
    /// No first byte in time.
    Timeout,
}

impl RetryReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::ConnectFailure, Self::Reset, Self::Stale, Self::Status, Self::Timeout];

    /// The label in metrics and log.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectFailure => "connect_failure",
            Self::Reset => "reset_before_response",
            Self::Stale => "stale_connection",
            Self::Status => "status",
            Self::Timeout => "timeout",
        }
    }
}

/// Buckets of decision time, nanoseconds: the contract asks for them from 50 ns.
pub const DECISION_BUCKETS: [u64; 10] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 100_000, 1_000_000];

/// A histogram of decision times.
#[derive(Debug, Default)]
pub struct DecisionHistogram {
    /// Counts per bucket; the last is above every bound.
    pub buckets: [AtomicU64; DECISION_BUCKETS.len() + 1],
    /// Sum of all, nanoseconds.
    pub sum_nanos: AtomicU64,
}

impl DecisionHistogram {
    /// The time, nanoseconds, that this share of the decisions did not exceed, interpolated within its bucket; `None`: none
    /// was measured.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let counts = self.buckets.each_ref().map(|count| count.load(Relaxed) as f64);
        let wanted = counts.iter().sum::<f64>() * share;
        let mut below = 0.0;
        let mut from = 0.0;
        for (count, bound) in counts.iter().zip(DECISION_BUCKETS) {
            let bound = bound as f64;
            if *count > 0.0 && below + count >= wanted {
                return Some(from + (bound - from) * ((wanted - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            from = bound;
        }
        // Above every bound there is only the last bound to tell.
        counts.iter().any(|count| *count > 0.0).then_some(from)
    }

    #[inline]
    fn record(&self, nanos: u64) {
        let index = DECISION_BUCKETS.partition_point(|bound| *bound < nanos);
        self.buckets[index].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
    }
}

/// What may change together with a plan.
#[derive(Debug, Default)]
pub struct Changes {
    /// The strategy, should the plan want one that the pool does not [know](Pool::knows); it may have learned something
    /// elsewhere.
    pub fresh: Option<Arc<dyn Strategy>>,
    /// TLS towards the backends.
    pub clients: Option<Clients>,
}

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// Counters.
    pub stats: PoolStats,
    /// The last decisions, to be read back.
    pub ledger: Ledger,
    live: ArcSwap<Live>,
    /// The generation of `live`'s set: tells a lease cheaply whether its snapshot is still the present one.
    generation: AtomicU64,
    /// TLS towards the backends, replaced on reload and when its files change.
    clients: ArcSwap<Clients>,
    queue: Queue,
    writer: Mutex<Writer>,
    /// Told of every publication and pause, for the one task that follows them (the checker).
    publications: Notify,
    /// What may be spent on second tries.
    pub budget: RetryBudget,
    /// The origin of `held_until`.
    born: Instant,
    /// No backend is healthy, and that was said.
    alarmed: AtomicBool,
    /// Nanoseconds after `born` until which some backend may be held by `Retry-After`; lets a pick skip the check.
    held_until: AtomicU64,
}

/// What only the writer of snapshots needs. The lock guards publication: transitions come from several threads.
#[derive(Debug)]
struct Writer {
    next_generation: u64,
    free_slots: Vec<usize>,
    next_slot: usize,
    /// Strategies that were in force before, so that switching back finds what they learned.
    parked: HashMap<StrategyKind, (StrategyPlan, Arc<dyn Strategy>)>,
    /// Backends that left the pool and still have requests in flight.
    leaving: Vec<Arc<Backend>>,
    /// Names of backends that left, the last of them at the end: decisions are read back for longer than these stay.
    departed: VecDeque<(BackendId, Arc<str>)>,
    /// Whether active checks are paused.
    checks_paused: bool,
}

/// Names of departed backends that are kept.
const MOST_DEPARTED: usize = 1024;

impl Pool {
    /// A pool as planned, with every backend in its first state of health.
    pub fn new(plan: Arc<PoolPlan>, now: Instant) -> Arc<Self> {
        let mut writer = Writer {
            next_generation: 1,
            free_slots: Vec::new(),
            next_slot: 0,
            parked: HashMap::new(),
            leaving: Vec::new(),
            departed: VecDeque::new(),
            checks_paused: false,
        };
        let members = members::build(&plan, &[], &mut writer, now);
        let strategy: Arc<dyn Strategy> = balance::build(&plan.strategy).into();
        let set = Arc::new(BackendSet::publish(writer.take_generation(), members.members, &plan));
        Arc::new(Self {
            name: plan.name.as_str().into(),
            stats: PoolStats::default(),
            ledger: Ledger::default(),
            queue: Queue::default(),
            publications: Notify::new(),
            budget: RetryBudget::new(now),
            born: now,
            alarmed: AtomicBool::new(false),
            held_until: AtomicU64::new(0),
            generation: AtomicU64::new(set.generation),
            clients: ArcSwap::default(),
            live: ArcSwap::from_pointee(Live { sticky: affinity(&plan, None), plan, set, strategy, trust: 0 }),
            writer: Mutex::new(writer),
        })
    }

    /// The present snapshot.
    #[inline]
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Whether a strategy that learns in `live` still does: nearly always, told without loading the snapshot.
    #[inline]
    fn is_present(&self, live: &Live) -> bool {
        self.generation.load(Acquire) == live.set.generation || Arc::ptr_eq(&self.live.load().strategy, &live.strategy)
    }

    /// TLS towards the backends.
    pub fn clients(&self) -> Arc<Clients> {
        self.clients.load_full()
    }

    /// Replaces TLS towards the backends. Requests that are under way go on; should files say something else than before,
    /// no other will follow on their connections.
    pub fn set_clients(&self, clients: &Clients) {
        let writer = self.lock();
        if self.take_clients(clients) {
            return;
        }
        let live = self.live.load_full();
        self.republish_as(writer, Live { trust: live.trust + 1, ..(*live).clone() });
    }

    /// Stores TLS towards the backends; whether its files say what they said before. The caller holds the writer's lock.
    fn take_clients(&self, clients: &Clients) -> bool {
        let before = self.clients.load();
        let agrees = clients.agrees_with(&before);
        self.clients.store(Arc::new(clients.clone().after(&before)));
        agrees
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<PoolPlan> {
        Arc::clone(&self.live.load().plan)
    }

    /// The backends.
    pub fn set(&self) -> Arc<BackendSet> {
        Arc::clone(&self.live.load().set)
    }

    /// The strategy in force.
    pub fn strategy(&self) -> Arc<dyn Strategy> {
        Arc::clone(&self.live.load().strategy)
    }

    /// Its name.
    pub fn strategy_kind(&self) -> StrategyKind {
        self.live.load().plan.strategy.kind
    }

    /// The member of that name.
    pub fn backend(&self, name: &str) -> Option<Arc<Backend>> {
        self.live.load().set.members.iter().find(|backend| &*backend.name == name).cloned()
    }

    /// Backends that left and still have requests in flight.
    pub fn leaving(&self) -> Vec<Arc<Backend>> {
        self.lock().leaving.clone()
    }

    /// Names of backends that left, at most the last 1024.
    pub fn departed(&self) -> HashMap<BackendId, Arc<str>> {
        self.lock().departed.iter().cloned().collect()
    }

    /// Members that are up.
    pub fn healthy(&self) -> usize {
        let set = self.set();
        if set.fail_open { 0 } else { set.ready.len() }
    }

    /// Puts another plan in force. Backends whose name and address stand in both keep their record: connections, counts,
    /// averages and health. Returns those that left.
    pub fn apply(&self, plan: Arc<PoolPlan>, now: Instant) -> Vec<Arc<Backend>> {
        self.apply_with(plan, Changes::default(), now)
    }

    /// Whether the strategy of that plan is in force, or was and is kept with what it learned.
    pub fn knows(&self, plan: &StrategyPlan) -> bool {
        let writer = self.lock();
        self.live.load().plan.strategy == *plan
            || writer.parked.get(&plan.kind).is_some_and(|(settings, _)| settings == plan)
    }

    /// Like [`apply`](Self::apply), together with what else changes.
    pub fn apply_with(&self, plan: Arc<PoolPlan>, changes: Changes, now: Instant) -> Vec<Arc<Backend>> {
        let mut writer = self.lock();
        let live = self.live.load_full();
        let Changes { fresh, clients } = changes;
        // First, so that whoever sees the new plan finds what it names.
        let agrees = clients.is_none_or(|clients| self.take_clients(&clients));
        let trust = live.trust + u64::from(!agrees || !members::trusts_alike(&live.plan, &plan));
        let built = members::build(&plan, &live.set.members, &mut writer, now);
        let strategy = if live.plan.strategy == plan.strategy {
            Arc::clone(&live.strategy)
        } else {
            writer.switch_strategy(&live, &plan.strategy, fresh)
        };
        writer.leaving.extend(built.left.iter().cloned());
        writer.departed.extend(built.left.iter().map(|backend| (backend.id, Arc::clone(&backend.name))));
        let surplus = writer.departed.len().saturating_sub(MOST_DEPARTED);
        writer.departed.drain(..surplus);
        let set = Arc::new(BackendSet::publish(writer.take_generation(), built.members, &plan));
        let sticky = affinity(&plan, live.sticky.as_ref());
        self.publish(Live { plan, set, strategy, sticky, trust });
        drop(writer);
        self.publications.notify_one();
        self.queue.wake_all();
        self.alarm();
        built.left
    }

    /// A probe of `backend` ended.
    pub fn probed(&self, backend: &Arc<Backend>, report: &ProbeReport, now: Instant) -> Option<HealthChange> {
        backend.probes.ended(report, now);
        let change = backend.probe_ended(report.result, now)?;
        self.changed(backend, change, Some(&report.detail), now);
        Some(change)
    }

    /// Time passed: a backend may hang, ejections may be over, and backends that left may be empty. Call it a few times a
    /// second.
    pub fn tick(&self, now: Instant) {
        self.budget.roll(now);
        let (set, patience) = (self.set(), self.plan().patience());
        for backend in &set.members {
            let change = match backend.watch(patience, now) {
                Progress::Stalled => backend.stalled(now, self.peers(backend).may_eject),
                Progress::Moving => backend.progressed(now).or_else(|| backend.tick(now)),
                Progress::Unknown => backend.tick(now),
            };
            if let Some(change) = change {
                self.changed(backend, change, None, now);
            }
        }
        self.judge(&set, now);
        let mut writer = self.lock();
        let (gone, leaving) = std::mem::take(&mut writer.leaving).into_iter().partition(|b| b.in_flight() == 0);
        writer.leaving = leaving;
        let gone: Vec<Arc<Backend>> = gone;
        for backend in gone {
            writer.free_slots.push(backend.slot);
            tracing::info!(pool = %self.name, backend = %backend.name, "backend is gone: nothing in flight any more");
        }
    }

    /// Whether active checks are paused.
    pub fn checks_paused(&self) -> bool {
        self.lock().checks_paused
    }

    /// Pauses or resumes active checks.
    pub fn pause_checks(&self, paused: bool) {
        self.lock().checks_paused = paused;
        self.publications.notify_one();
    }

    /// Ends at the next publication, or at once when there was one since the last call. For one task only.
    pub async fn published(&self) {
        self.publications.notified().await;
    }

    /// Recomputes and publishes which members are ready, after a change of health, weight or state.
    pub fn republish(&self) {
        let writer = self.lock();
        let live = self.live.load_full();
        self.republish_as(writer, (*live).clone());
    }

    fn republish_as(&self, mut writer: std::sync::MutexGuard<'_, Writer>, live: Live) {
        let set = BackendSet::publish(writer.take_generation(), live.set.members.clone(), &live.plan);
        self.publish(Live { set: Arc::new(set), ..live });
        drop(writer);
        self.publications.notify_one();
        self.queue.wake_all();
        self.alarm();
    }

    /// Puts a snapshot in force; the caller holds the writer's lock.
    fn publish(&self, live: Live) {
        let generation = live.set.generation;
        self.live.store(Arc::new(live));
        self.generation.store(generation, Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The affinity that `plan` asks for: the present one, with its secret and its table, when nothing of it changed.
fn affinity(plan: &PoolPlan, present: Option<&Arc<Sticky>>) -> Option<Arc<Sticky>> {
    let wanted = plan.sticky.as_ref()?;
    Some(match present {
        Some(sticky) if sticky.plan() == wanted => Arc::clone(sticky),
        Some(sticky) => Arc::new(Sticky::succeeding(sticky, &plan.name, wanted)),
        None => Arc::new(Sticky::new(&plan.name, wanted)),
    })
}

impl Writer {
    fn take_generation(&mut self) -> u64 {
        let generation = self.next_generation;
        self.next_generation += 1;
        generation
    }

    fn take_slot(&mut self) -> usize {
        self.free_slots.pop().unwrap_or_else(|| {
            self.next_slot += 1;
            self.next_slot - 1
        })
    }

    /// Parks the strategy in force and takes the one planned: from the parked ones when its settings are the same, else
    /// `fresh` or a new one.
    fn switch_strategy(
        &mut self,
        live: &Live,
        plan: &StrategyPlan,
        fresh: Option<Arc<dyn Strategy>>,
    ) -> Arc<dyn Strategy> {
        let old = live.plan.strategy.clone();
        self.parked.insert(old.kind, (old, Arc::clone(&live.strategy)));
        match self.parked.remove(&plan.kind) {
            Some((settings, strategy)) if settings == *plan => strategy,
            Some(_) | None => fresh.unwrap_or_else(|| balance::build(plan).into()),
        }
    }
}
