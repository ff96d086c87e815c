//! The record of one backend: identity, limits, state, counters and averages, all readable without a lock by every
//! worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use super::Outcome;
use super::health::{Health, HealthChange, HealthRules, HealthState, Peers};
use super::identity::stable_hash;
use super::moment::nanos_of;
use super::probes::{ProbeResult, Probes};
use super::recent::{Recent, Tally};
use super::resources::Samples;
use super::stats::{AttemptResult, Stats};
use super::streams::Streams;
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
    /// What active probes found.
    pub probes: Box<Probes>,
    /// Its streamed answers.
    pub streams: Box<Streams>,
    /// Open connections to it, busy and idle, over all workers; each connection holds a share.
    pub connections: Arc<AtomicU64>,
    hot: Hot,
    pub(super) samples: Samples,
    rare: Box<Rare>,
}

/// What no pick reads.
#[derive(Debug)]
struct Rare {
    /// Health. Locked for a transition only, never on the request path unless an outcome may change it.
    health: Mutex<Health>,
    /// How its attempts ended lately.
    recent: Recent,
    /// Length of a slow start, nanoseconds; 0: none is configured.
    ramp_window: AtomicU64,
    /// The share of its weight that it begins with, f64 bits.
    ramp_least: AtomicU64,
    /// Nanoseconds after `born` until which it may drain; `u64::MAX`: it does not, or for ever.
    drain_until: AtomicU64,
    /// What a host name resolved to, the address in use first; read only when a connection is made.
    resolved: Mutex<Arc<[SocketAddr]>>,
}

/// What every pick reads of every candidate, together in one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Hot {
    in_flight: AtomicU32,
    max_in_flight: AtomicU32,
    weight: AtomicU32,
    admin: AtomicU8,
    /// The next success must be told to the health record too.
    watched: AtomicBool,
    /// Nanoseconds after `born` until which `Retry-After` keeps traffic away; 0: free.
    held_until: AtomicU64,
    /// Nanoseconds after `born` at which the present slow start began; `u64::MAX`: none.
    ramp_from: AtomicU64,
    name_hash: u64,
    /// The same as the backend's own, here as well for those that keep a record per backend.
    slot: usize,
    id: BackendId,
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
        let backend = Self {
            id,
            slot,
            name: spec.name.as_str().into(),
            address: spec.address.clone(),
            born: now,
            stats: Stats::default(),
            probes: Box::default(),
            streams: Box::default(),
            connections: Arc::default(),
            hot: Hot {
                in_flight: AtomicU32::new(0),
                max_in_flight: AtomicU32::new(spec.max_in_flight),
                weight: AtomicU32::new(spec.weight),
                admin: AtomicU8::new(encode(spec.state)),
                watched: AtomicBool::new(health.awaits_success()),
                held_until: AtomicU64::new(0),
                ramp_from: AtomicU64::new(u64::MAX),
                name_hash: stable_hash(spec.name.as_bytes()),
                slot,
                id,
            },
            samples: Samples::default(),
            rare: Box::new(Rare {
                health: Mutex::new(health),
                recent: Recent::default(),
                ramp_window: AtomicU64::new(0),
                ramp_least: AtomicU64::new(0),
                drain_until: AtomicU64::new(u64::MAX),
                resolved: Mutex::default(),
            }),
        };
        backend.set_slow_start(slow_start.as_ref());
        backend
    }

    /// `slot` and `id`, from the cache line that a pick reads anyway.
    #[inline]
    pub fn key(&self) -> (usize, BackendId) {
        (self.hot.slot, self.hot.id)
    }

    /// [`stable_hash`] of the name: the same in every process and version.
    #[inline]
    pub fn name_hash(&self) -> u64 {
        self.hot.name_hash
    }

    /// Requests in flight, from the pick to the last byte.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.hot.in_flight.load(Relaxed)
    }

    /// The limit of requests in flight; 0: none.
    #[inline]
    pub fn max_in_flight(&self) -> u32 {
        self.hot.max_in_flight.load(Relaxed)
    }

    /// Sets the limit of requests in flight; 0: none.
    pub fn set_max_in_flight(&self, limit: u32) {
        self.hot.max_in_flight.store(limit, Relaxed);
    }

    /// Whether one more request would exceed the limit.
    #[inline]
    pub fn is_full(&self) -> bool {
        let limit = self.max_in_flight();
        limit != 0 && self.in_flight() >= limit
    }

    /// The weight as configured, 1..=1000.
    #[inline]
    pub fn configured_weight(&self) -> u32 {
        self.hot.weight.load(Relaxed)
    }

    /// Sets the configured weight.
    pub fn set_weight(&self, weight: u32) {
        self.hot.weight.store(weight, Relaxed);
    }

    /// The weight that strategies use now, where it is the configured one; `None`: a slow start changes it.
    #[inline]
    pub fn steady_weight(&self) -> Option<u32> {
        (self.hot.ramp_from.load(Relaxed) == u64::MAX).then(|| self.configured_weight().max(1))
    }

    /// The weight that strategies use now: as configured, ramped by slow start. Always above 0.
    #[inline]
    pub fn weight(&self, now: Instant) -> f64 {
        let weight = f64::from(self.hot.weight.load(Relaxed).max(1));
        let from = self.hot.ramp_from.load(Relaxed);
        if from == u64::MAX {
            return weight;
        }
        weight * self.ramp(from, now)
    }

    /// The share of its weight that slow start allows now, `min_weight`..=1.
    #[cold]
    fn ramp(&self, from: u64, now: Instant) -> f64 {
        let window = self.rare.ramp_window.load(Relaxed);
        let age = self.nanos(now).saturating_sub(from);
        if age >= window {
            // Only this ramp: another may have begun meanwhile.
            let _ = self.hot.ramp_from.compare_exchange(from, u64::MAX, Relaxed, Relaxed);
            return 1.0;
        }
        (age as f64 / window as f64).max(f64::from_bits(self.rare.ramp_least.load(Relaxed))).min(1.0)
    }

    /// Puts another rule of slow start in force; `None`: no more slow start, a present one ends.
    pub fn set_slow_start(&self, rule: Option<&SlowStartPlan>) {
        // At least a thousandth, so that a weight is never 0.
        let least = rule.map_or(1.0, |rule| rule.min_weight.clamp(1e-3, 1.0));
        self.rare.ramp_least.store(least.to_bits(), Relaxed);
        self.rare.ramp_window.store(rule.map_or(0, |rule| rule.window.as_nanos() as u64), Relaxed);
    }

    /// Begins a slow start, if one is configured.
    pub fn begin_ramp(&self, now: Instant) {
        if self.rare.ramp_window.load(Relaxed) != 0 {
            self.hot.ramp_from.store(self.nanos(now), Relaxed);
        }
    }

    /// What the operator wants of it.
    pub fn admin_state(&self) -> AdminState {
        match self.hot.admin.load(Relaxed) {
            0 => AdminState::Ready,
            1 => AdminState::Drain,
            _ => AdminState::Disabled,
        }
    }

    /// Sets what the operator wants of it.
    pub fn set_admin_state(&self, state: AdminState) {
        self.hot.admin.store(encode(state), Relaxed);
    }

    /// Until when it may drain: pinned sessions go on until then, and if it was removed its requests too. `None`: it
    /// does not drain.
    pub fn drain_deadline(&self) -> Option<Instant> {
        let nanos = self.rare.drain_until.load(Relaxed);
        (nanos != u64::MAX).then(|| self.born + Duration::from_nanos(nanos))
    }

    /// Sets until when it may drain.
    pub fn set_drain_deadline(&self, deadline: Option<Instant>) {
        self.rare.drain_until.store(deadline.map_or(u64::MAX, |at| self.nanos(at)), Relaxed);
    }

    /// The state of health, without its history.
    pub fn health_state(&self) -> HealthState {
        self.lock_health().state()
    }

    /// An active probe ended.
    pub fn probe_ended(&self, result: ProbeResult, now: Instant) -> Option<HealthChange> {
        let signs = self.signs_of_life();
        self.with_health(|health| health.probe_ended(result, signs, now))
    }

    /// An attempt ended; call it when [`concerns_health`](Self::concerns_health) says so.
    pub fn served(&self, outcome: &Outcome, now: Instant, peers: &Peers) -> Option<HealthChange> {
        self.with_health(|health| {
            if outcome.ending.blames_backend() && health.predates(outcome, now) {
                self.rare.recent.excuse();
            }
            health.served(outcome, now, peers)
        })
    }

    /// Time passed: an ejection may be over, and the window of [`recent`](Self::recent) moves on.
    pub fn tick(&self, now: Instant) -> Option<HealthChange> {
        self.rare.recent.look(self.totals(), self.nanos(now));
        let change = self.with_health(|health| health.tick(now));
        if change.is_some() {
            self.rare.recent.restart(self.totals());
        }
        change
    }

    /// How its attempts ended in the last half minute, or since its last ejection ended.
    pub fn recent(&self) -> Tally {
        self.rare.recent.tally(self.totals())
    }

    fn totals(&self) -> Tally {
        Tally { good: self.stats.attempts(AttemptResult::Ok), bad: self.stats.failures() }
    }

    /// A look at how its attempts ended lately, beside those of the others.
    pub fn judged(&self, peers: &Peers, now: Instant) -> Option<HealthChange> {
        let own = self.recent();
        self.with_health(|health| health.judged(own, peers, now))
    }

    /// It hangs: ejects it, or keeps it out longer. `may_eject`: whether the pool's cap allows one more ejection.
    pub fn stalled(&self, now: Instant, may_eject: bool) -> Option<HealthChange> {
        self.with_health(|health| health.stalled(now, may_eject))
    }

    /// It works again: ends an ejection for a stall.
    pub fn progressed(&self, now: Instant) -> Option<HealthChange> {
        let change = self.with_health(|health| health.progressed(now));
        if change.is_some() {
            self.rare.recent.restart(self.totals());
        }
        change
    }

    /// Ends an ejection by hand.
    pub fn release(&self, now: Instant) -> Option<HealthChange> {
        let change = self.with_health(|health| health.release(now));
        if change.is_some() {
            self.rare.recent.restart(self.totals());
        }
        change
    }

    /// Puts other rules of health in force.
    pub fn set_health_rules(&self, rules: HealthRules, now: Instant) -> Option<HealthChange> {
        self.with_health(|health| health.set_rules(rules, now))
    }

    /// Whether an attempt that ended, `failed` or not, matters to the health record: every failure, and the success that
    /// ends a run of failures or a trial. Spares the lock on all other requests.
    #[inline]
    pub fn concerns_health(&self, failed: bool) -> bool {
        failed || self.hot.watched.load(Relaxed)
    }

    fn with_health(&self, change: impl FnOnce(&mut Health) -> Option<HealthChange>) -> Option<HealthChange> {
        let mut health = self.lock_health();
        let changed = change(&mut health);
        // Inside the lock, so that the flag is that of the latest state.
        self.hot.watched.store(health.awaits_success(), Relaxed);
        changed
    }

    /// The health record. A poisoned lock is taken over: the record is plain numbers and stays usable.
    fn lock_health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.rare.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Keeps traffic away for `pause` from `now` (a backend's `Retry-After`), or for as long as it said before.
    pub fn hold(&self, pause: Duration, now: Instant) {
        self.hot.held_until.fetch_max(self.nanos(now).saturating_add(nanos_of(pause)), Relaxed);
    }

    /// Whether a `Retry-After` still keeps traffic away.
    #[inline]
    pub fn is_held(&self, now: Instant) -> bool {
        let until = self.hot.held_until.load(Relaxed);
        until != 0 && self.nanos(now) < until
    }

    /// How long a `Retry-After` still keeps traffic away; `None`: it does not.
    pub fn held_for(&self, now: Instant) -> Option<Duration> {
        let left = self.hot.held_until.load(Relaxed).saturating_sub(self.nanos(now));
        (left != 0).then(|| Duration::from_nanos(left))
    }

    /// Where to connect: the literal address, or the one in use of those its name resolved to; `None`: not resolved yet.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Ip(address) => Some(address),
            Address::Name { .. } => self.endpoints().first().copied(),
        }
    }

    /// All that its name resolved to, the address in use first; none for a literal address.
    pub fn endpoints(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.lock_resolved())
    }

    /// Stores what the name resolved to. The address in use stays the first when it is still offered: the order of
    /// answers rotates and means nothing. Returns the address in use when it is another than before.
    pub fn set_endpoints(&self, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        let mut resolved = self.lock_resolved();
        let before = resolved.first().copied();
        let mut addresses = addresses.to_vec();
        if let Some(at) = addresses.iter().position(|address| Some(*address) == before) {
            addresses.swap(0, at);
        }
        let now = addresses.first().copied();
        *resolved = addresses.into();
        now.filter(|_| now != before)
    }

    /// Puts an address of its name first: the one that answers, where the one before it does not.
    pub fn prefer_endpoint(&self, address: SocketAddr) {
        let mut resolved = self.lock_resolved();
        if let Some(at) = resolved.iter().position(|known| *known == address).filter(|at| *at > 0) {
            let mut addresses = resolved.to_vec();
            addresses.swap(0, at);
            *resolved = addresses.into();
        }
    }

    /// A poisoned lock is taken over: a list of addresses stays usable.
    fn lock_resolved(&self) -> std::sync::MutexGuard<'_, Arc<[SocketAddr]>> {
        self.rare.resolved.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// `at` as nanoseconds after this record was made; 0 for earlier moments.
    #[inline]
    pub fn nanos(&self, at: Instant) -> u64 {
        nanos_of(at.saturating_duration_since(self.born))
    }

    /// Adds one in flight unless the limit forbids it.
    #[inline]
    pub(super) fn try_enter(&self) -> bool {
        let limit = self.max_in_flight();
        let before = self.hot.in_flight.fetch_add(1, SeqCst);
        if limit != 0 && before >= limit {
            self.hot.in_flight.fetch_sub(1, SeqCst);
            return false;
        }
        true
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.hot.in_flight.fetch_sub(1, SeqCst);
    }
}

fn encode(state: AdminState) -> u8 {
    match state {
        AdminState::Ready => 0,
        AdminState::Drain => 1,
        AdminState::Disabled => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HealthPlan, OutlierPlan};

    fn backend(slow_start: Option<SlowStartPlan>, now: Instant) -> Backend {
        let spec = BackendSpec {
            name: "a".to_owned(),
            address: Address::Name { host: "a".to_owned(), port: 80 },
            weight: 10,
            max_in_flight: 0,
            state: AdminState::Ready,
        };
        let health = Health::new(HealthRules::new(&HealthPlan::default(), &OutlierPlan::default()));
        Backend::new(BackendId(1), 0, &spec, slow_start, health, now)
    }

    #[test]
    fn a_slow_start_ramps_from_its_least_weight_to_the_whole() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let rule = SlowStartPlan { window: Duration::from_secs(20), min_weight: 0.1 };
        let backend = backend(Some(rule), start);
        assert_eq!(backend.weight(start), 10.0, "none has begun");
        backend.begin_ramp(at(100));
        let weights = [100, 101, 105, 110, 119, 120, 1000].map(|second| backend.weight(at(second)));
        assert_eq!(weights, [1.0, 1.0, 2.5, 5.0, 9.5, 10.0, 10.0]);
        backend.begin_ramp(at(2000));
        backend.set_slow_start(None);
        assert_eq!(backend.weight(at(2001)), 10.0, "the rule is gone, and the ramp with it");
    }

    #[test]
    fn the_longest_pause_that_a_backend_asked_for_holds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let backend = backend(None, start);
        backend.hold(Duration::from_secs(10), at(5));
        backend.hold(Duration::from_secs(1), at(6));
        assert!(backend.is_held(at(14)) && !backend.is_held(at(15)));
    }

    #[test]
    fn a_record_is_a_few_kilobytes_and_does_not_grow() {
        // What picks read is close together, see `Stats`.
        assert!(size_of::<Backend>() <= 5 * 64, "{} bytes", size_of::<Backend>());
        let all = size_of::<Backend>() + size_of::<Rare>() + size_of::<Streams>() + size_of::<Probes>();
        assert!(all + Stats::LARGE < 8 * 1024, "{all} and {} bytes", Stats::LARGE);
    }
}
