//! The record of one backend: identity, limits, state, counters and averages, all readable without a lock by every
//! worker.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use super::health::{Health, HealthState};
use super::probes::Probes;
use super::stats::Stats;
use crate::config::{Address, AdminState, SlowStartPlan};

/// Names one [`Backend`] for the life of the process; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u64);

/// What a backend is made from.
#[derive(Debug, Clone)]
pub struct BackendSpec {
    /// Unique in its pool.
    pub name: String,
    /// Where it is, as written.
    pub address: Address,
    /// 1..=1000
    pub weight: u32,
    /// Requests it takes at once; 0: no limit.
    pub max_in_flight: u32,
    /// What the operator wants of it.
    pub state: AdminState,
}

/// Sampled resource use, each a fraction 0-1; `None`: unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Resources {
    /// CPU in use.
    pub cpu: Option<f64>,
    /// Memory (or KV cache) in use.
    pub memory: Option<f64>,
    /// When the sample was taken.
    pub sampled: Option<Instant>,
    /// Requests of ours that were in flight when it was taken.
    pub in_flight: u32,
}

/// One backend, shared by all workers. Counts and averages survive reloads and changes of strategy.
#[derive(Debug)]
pub struct Backend {
    /// Never reused in this process.
    pub id: BackendId,
    /// Its dense index in its pool: unique among the pool's living backends, small, reused after it is gone
    /// (compare `id` to notice). Strategies that keep a record per backend index by it.
    pub slot: usize,
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Where it is, as written.
    pub address: Address,
    /// When this record was made; the origin of all stored times.
    pub born: Instant,
    /// Counters, averages and histograms.
    pub stats: Stats,
    /// Health. Locked for a transition only, never on the request path unless an outcome may change it.
    pub health: Mutex<Health>,
    /// What active probes found.
    pub probes: Probes,
    weight: AtomicU32,
    max_in_flight: AtomicU32,
    in_flight: AtomicU32,
    admin: AtomicU8,
    /// Nanoseconds after `born` until which `Retry-After` keeps traffic away; 0: free.
    held_until: AtomicU64,
    /// Nanoseconds after `born` at which the present slow start began; `u64::MAX`: none.
    ramp_from: AtomicU64,
    slow_start: Option<SlowStartPlan>,
    /// Live traffic failed lately, so the next success must be told to the health record too.
    watched: AtomicBool,
    resources: Mutex<Resources>,
}

impl Backend {
    /// A backend as `spec` says, in the health state `health`, born `now`.
    pub fn new(
        id: BackendId,
        slot: usize,
        spec: &BackendSpec,
        slow_start: Option<SlowStartPlan>,
        health: Health,
        now: Instant,
    ) -> Self {
        Self {
            id,
            slot,
            name: spec.name.as_str().into(),
            address: spec.address.clone(),
            born: now,
            stats: Stats::default(),
            health: Mutex::new(health),
            probes: Probes::default(),
            weight: AtomicU32::new(spec.weight),
            max_in_flight: AtomicU32::new(spec.max_in_flight),
            in_flight: AtomicU32::new(0),
            admin: AtomicU8::new(encode(spec.state)),
            held_until: AtomicU64::new(0),
            ramp_from: AtomicU64::new(u64::MAX),
            slow_start,
            watched: AtomicBool::new(false),
            resources: Mutex::new(Resources::default()),
        }
    }

    /// Requests in flight, from the pick to the last byte.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The limit of requests in flight; 0: none.
    #[inline]
    pub fn max_in_flight(&self) -> u32 {
        self.max_in_flight.load(Relaxed)
    }

    /// Sets the limit of requests in flight; 0: none.
    pub fn set_max_in_flight(&self, limit: u32) {
        self.max_in_flight.store(limit, Relaxed);
    }

    /// Whether one more request would exceed the limit.
    #[inline]
    pub fn is_full(&self) -> bool {
        let limit = self.max_in_flight();
        limit != 0 && self.in_flight() >= limit
    }

    /// The weight as configured, 1..=1000.
    pub fn configured_weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// Sets the configured weight.
    pub fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// The weight that strategies use now: as configured, ramped by slow start. Always above 0.
    #[inline]
    pub fn weight(&self, now: Instant) -> f64 {
        let weight = f64::from(self.weight.load(Relaxed));
        let from = self.ramp_from.load(Relaxed);
        if from == u64::MAX {
            return weight;
        }
        weight * self.ramp(from, now)
    }

    /// The share of its weight that slow start allows now, `min_weight`..=1.
    fn ramp(&self, from: u64, now: Instant) -> f64 {
        let Some(rule) = &self.slow_start else { return 1.0 };
        let age = self.nanos(now).saturating_sub(from) as f64 / 1e9;
        let window = rule.window.as_secs_f64();
        if age >= window {
            self.ramp_from.store(u64::MAX, Relaxed);
            return 1.0;
        }
        (age / window).max(rule.min_weight).min(1.0)
    }

    /// Begins a slow start, if one is configured.
    pub fn begin_ramp(&self, now: Instant) {
        if self.slow_start.is_some() {
            self.ramp_from.store(self.nanos(now), Relaxed);
        }
    }

    /// What the operator wants of it.
    pub fn admin_state(&self) -> AdminState {
        match self.admin.load(Relaxed) {
            0 => AdminState::Ready,
            1 => AdminState::Drain,
            _ => AdminState::Disabled,
        }
    }

    /// Sets what the operator wants of it.
    pub fn set_admin_state(&self, state: AdminState) {
        self.admin.store(encode(state), Relaxed);
    }

    /// The state of health, without its history.
    pub fn health_state(&self) -> HealthState {
        self.lock_health().state()
    }

    /// The health record. A poisoned lock is taken over: the record is plain numbers and stays usable.
    pub fn lock_health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether an outcome matters to the health record: every failure, and the first success after one. Spares the
    /// lock on all other requests.
    #[inline]
    pub fn concerns_health(&self, failed: bool) -> bool {
        if failed {
            self.watched.store(true, Relaxed);
            return true;
        }
        self.watched.load(Relaxed) && self.watched.swap(false, Relaxed)
    }

    /// Keeps traffic away for `pause` from `now` (a backend's `Retry-After`).
    pub fn hold(&self, pause: Duration, now: Instant) {
        self.held_until.store(self.nanos(now).saturating_add(pause.as_nanos() as u64), Relaxed);
    }

    /// Whether a `Retry-After` still keeps traffic away.
    #[inline]
    pub fn is_held(&self, now: Instant) -> bool {
        let until = self.held_until.load(Relaxed);
        until != 0 && self.nanos(now) < until
    }

    /// The last resource sample; the reader judges its age.
    pub fn resources(&self) -> Resources {
        *self.resources.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Stores a resource sample.
    pub fn set_resources(&self, sample: Resources) {
        *self.resources.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = sample;
    }

    /// `at` as nanoseconds after this record was made; 0 for earlier moments.
    #[inline]
    pub fn nanos(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.born).as_nanos() as u64
    }

    /// Adds one in flight unless the limit forbids it.
    #[inline]
    pub(super) fn try_enter(&self) -> bool {
        let limit = self.max_in_flight();
        let before = self.in_flight.fetch_add(1, SeqCst);
        if limit != 0 && before >= limit {
            self.in_flight.fetch_sub(1, SeqCst);
            return false;
        }
        true
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, SeqCst);
    }
}

fn encode(state: AdminState) -> u8 {
    match state {
        AdminState::Ready => 0,
        AdminState::Drain => 1,
        AdminState::Disabled => 2,
    }
}
