//! Asks every backend of a pool on its own schedule, and follows the pool as it changes.
//!
//! One small task a backend: the first probe at once, then one every `interval`, counted from start to start and varied
//! by `jitter`. Backends come and go without touching the schedules of the others; changed settings reach a sleeping
//! task at once. The same loop lets the pool's time pass ([`Pool::tick`]): ejections end, removed backends are let go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::probe;
use crate::backend::{Backend, BackendId, ProbeReport};
use crate::clock;
use crate::config::{HealthPlan, ProbeKind};
use crate::pool::Pool;

/// How often a pool's time passes: ejections are over at most this much late.
const TICK: Duration = Duration::from_millis(250);

/// The longest pause between two probes, whatever the configuration says.
const LONGEST_PAUSE: Duration = Duration::from_secs(365 * 24 * 3600);

/// Probes that one [`check_now`] has under way at once: far below any limit of descriptors.
const AT_ONCE: usize = 64;

/// Checks the backends of `pool` until it is dropped (which ends its probes).
pub async fn run(pool: Arc<Pool>) {
    let mut checks = Checks::new(pool);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        checks.follow();
        tokio::select! {
            () = checks.pool.published() => {}
            _ = ticks.tick() => checks.pool.tick(clock::now()),
        }
    }
}

/// Probes every backend of `pool` now, whatever the schedule, and reports in the pool's order.
pub async fn check_now(pool: &Arc<Pool>) -> Vec<(Arc<Backend>, ProbeReport)> {
    let plan = pool.plan();
    let members = pool.set().members.clone();
    let mut reports = Vec::with_capacity(members.len());
    for group in members.chunks(AT_ONCE) {
        let mut probes = JoinSet::new();
        for (index, backend) in group.iter().cloned().enumerate() {
            let (pool, plan) = (Arc::clone(pool), Arc::clone(&plan));
            probes.spawn(async move {
                let report = probe(&backend, &plan, &pool.clients()).await;
                pool.probed(&backend, &report, clock::now());
                (index, backend, report)
            });
        }
        let mut done = Vec::with_capacity(group.len());
        while let Some(ended) = probes.join_next().await {
            done.extend(ended.ok());
        }
        done.sort_unstable_by_key(|(index, ..)| *index);
        reports.extend(done.into_iter().map(|(_, backend, report)| (backend, report)));
    }
    reports
}

/// What a sleeping schedule must hear of.
#[derive(Debug, Clone, PartialEq)]
struct Settings {
    health: HealthPlan,
    paused: bool,
}

/// The running schedules of a pool.
struct Checks {
    pool: Arc<Pool>,
    settings: watch::Sender<Settings>,
    tasks: JoinSet<()>,
    running: HashMap<BackendId, AbortHandle>,
}

impl Checks {
    fn new(pool: Arc<Pool>) -> Self {
        let (settings, _) = watch::channel(settings(&pool));
        Self { pool, settings, tasks: JoinSet::new(), running: HashMap::new() }
    }

    /// Makes the running schedules those of the present members and settings.
    fn follow(&mut self) {
        let wanted = settings(&self.pool);
        self.settings.send_if_modified(|present| {
            let differs = *present != wanted;
            present.clone_from(&wanted);
            differs
        });
        while self.tasks.try_join_next().is_some() {}
        let set = self.pool.set();
        self.running.retain(|id, task| {
            let stays = wanted.health.kind != ProbeKind::None && set.members.iter().any(|member| member.id == *id);
            if !stays {
                task.abort();
            }
            // A schedule ends by itself only when a probe panicked; it is begun again below.
            stays && !task.is_finished()
        });
        if wanted.health.kind == ProbeKind::None {
            return;
        }
        for backend in &set.members {
            if !self.running.contains_key(&backend.id) {
                let schedule = schedule(Arc::clone(&self.pool), Arc::clone(backend), self.settings.subscribe());
                self.running.insert(backend.id, self.tasks.spawn(schedule));
            }
        }
    }
}

fn settings(pool: &Pool) -> Settings {
    Settings { health: pool.plan().health.clone(), paused: pool.checks_paused() }
}

/// The life of one backend's checks.
async fn schedule(pool: Arc<Pool>, backend: Arc<Backend>, mut settings: watch::Receiver<Settings>) {
    loop {
        if settings.wait_for(|settings| !settings.paused).await.is_err() {
            return;
        }
        let start = clock::now();
        let report = probe(&backend, &pool.plan(), &pool.clients()).await;
        tracing::debug!(pool = %pool.name, backend = %backend.name, result = report.result.name(), detail = report.detail,
            took_ms = report.took.as_secs_f64() * 1e3, "health check");
        pool.probed(&backend, &report, clock::now());
        if !pause(start, &mut settings).await {
            return;
        }
    }
}

/// Sleeps until the next probe is due, by the settings of the moment; false when the checker is gone.
async fn pause(start: Instant, settings: &mut watch::Receiver<Settings>) -> bool {
    // Drawn once, so that a change of settings does not draw again and again.
    let draw = rand::random_range(-1.0..=1.0);
    loop {
        let due = start + varied(&settings.borrow_and_update().health, draw);
        tokio::select! {
            () = sleep_until(due.into()) => return true,
            changed = settings.changed() => if changed.is_err() { return false },
        }
    }
}

/// The interval varied by its jitter; `draw` is -1..=1. Bounded, so that no configured value can overflow the clock.
fn varied(health: &HealthPlan, draw: f64) -> Duration {
    let seconds = health.interval.as_secs_f64() * (1.0 + health.jitter * draw).max(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE)
}
