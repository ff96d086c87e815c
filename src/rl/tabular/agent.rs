//! The agent of the guide: discover, measure, encode, select; then reward and update.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

use super::super::atomic::Number;
use super::super::reward::RewardCalculator;
use super::super::statistics::{LearningStats, PerformanceStats};
use super::super::{Candidate, Decision, Feedback, Kind, Lesson};
use super::Settings;
use super::action::{ActionSelector, Selection};
use super::cache::{Cache, CacheStats};
use super::state::{STATES, Signals, State, StateEncoder};
use super::table::{Action, QTable};

/// Decisions that "consistency" looks back on.
const RECENT: usize = 20;
/// Smoothing of the mean Q of the chosen.
const CONFIDENCE_STEP: f64 = 0.01;
/// A backend that was no candidate for this long, seconds, is no action any more.
const ABSENT: f64 = 10.0;
/// Bits of a ticket that hold the moment in microseconds.
const MOMENT_BITS: u32 = 48;

/// CPU and memory of the candidate at an index, as fractions.
pub(crate) type Resources<'a> = &'a dyn Fn(usize) -> (Option<f64>, Option<f64>);

/// Why a backend was or was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Terms {
    /// The state of the service.
    pub state: State,
    /// Which of its five metrics are unknown, hence in bin 0.
    pub unknown: [bool; 5],
    /// Q(s, a)
    pub q_value: f64,
    /// How often that was updated.
    pub visits: u32,
}

/// The tabular agent of one pool.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    encoder: StateEncoder,
    pub(super) table: QTable,
    pub(super) selector: ActionSelector,
    reward: RewardCalculator,
    decisions: Cache<(u64, State), Action>,
    metrics: Cache<u64, Signals>,
    services: Cache<u64, (u64, Arc<[Action]>)>,
    states: Cache<[i64; 5], State>,
    /// The last [`RECENT`] picks, as id + 1, and where the next goes.
    recent: [AtomicU64; RECENT],
    next_recent: AtomicU64,
    /// The state as of the last decision, by its place.
    present: AtomicU64,
    /// Which metrics were unknown then, as bits.
    unknown: AtomicU64,
    cpu_spread: Number,
    confidence: Number,
}

impl Agent {
    /// An agent that knows nothing.
    pub fn new(settings: Settings) -> Self {
        let limit = settings.max_entries;
        Self {
            encoder: StateEncoder,
            table: QTable::default(),
            selector: ActionSelector::new(&settings),
            reward: RewardCalculator { weights: settings.weights },
            decisions: Cache::new(settings.decision_ttl, limit),
            metrics: Cache::new(settings.metrics_ttl, limit),
            services: Cache::new(settings.service_ttl, limit),
            states: Cache::new(settings.state_ttl, limit),
            recent: [const { AtomicU64::new(0) }; RECENT],
            next_recent: AtomicU64::new(0),
            present: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            cpu_spread: Number::default(),
            confidence: Number::default(),
            settings,
        }
    }

    /// Chooses among `candidates`; `None` only when there are none. `generation` changes with the membership of the
    /// pool; 0: a subset.
    pub(crate) fn decide(
        &self,
        candidates: &[Candidate],
        generation: u64,
        resources: Resources<'_>,
        now: f64,
        rng: &mut SmallRng,
    ) -> Option<Decision> {
        if candidates.is_empty() {
            return None;
        }
        let (service, actions) = self.discover(candidates, generation, now);
        let state = self.observe_state(&actions, resources, now);
        let key = (service, state);
        let cached = self.decisions.get(&key, now).and_then(|action| actions.iter().position(|a| *a == action));
        let selection = match cached {
            Some(index) => {
                let kept = Selection { index, kind: Kind::Cached, propensity: 1.0 };
                self.selector.rotate(&self.table, state, &actions, kept)
            }
            None => {
                let selection = self.selector.select(&self.table, state, &actions, rng);
                if let Some(action) = actions.get(selection.index) {
                    self.decisions.put(key, *action, now);
                }
                selection
            }
        };
        let action = *actions.get(selection.index)?;
        self.confidence.approach(self.table.value(state, action), CONFIDENCE_STEP);
        let ticket = self.dispatched(action.slot, action.id, now);
        let propensity = selection.propensity as f32;
        Some(Decision { index: selection.index, kind: selection.kind, propensity, ticket })
    }

    /// A request goes to a backend by somebody else's choice, in the state as of the last decision.
    pub fn dispatched(&self, slot: usize, id: u64, now: f64) -> u64 {
        if let Some(row) = self.table.row(Action { slot, id }) {
            row.used.set(now);
            row.offered.set(now);
            row.picks.add(1.0);
        }
        let place = self.next_recent.fetch_add(1, Relaxed) as usize % RECENT;
        if let Some(recent) = self.recent.get(place) {
            recent.store(id.wrapping_add(1), Relaxed);
        }
        self.present.load(Relaxed) << MOMENT_BITS | (now * 1e6) as u64
    }

    /// The list of backends and a hash of it (service cache).
    fn discover(&self, candidates: &[Candidate], generation: u64, now: f64) -> (u64, Arc<[Action]>) {
        if generation != 0
            && let Some(found) = self.services.get(&generation, now)
            && found.1.len() == candidates.len()
        {
            return found;
        }
        let actions: Arc<[Action]> =
            candidates.iter().map(|candidate| Action { slot: candidate.slot, id: candidate.id }).collect();
        let hash = actions.iter().fold(generation, |hash, action| {
            (hash ^ action.id.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
        });
        for row in actions.iter().filter_map(|action| self.table.row(*action)) {
            row.offered.set(now);
        }
        if generation != 0 {
            self.services.put(generation, (hash, Arc::clone(&actions)), now);
        }
        (hash, actions)
    }

    /// The state of the service now (metrics and state caches).
    fn observe_state(&self, actions: &[Action], resources: Resources<'_>, now: f64) -> State {
        let mut measured = Vec::with_capacity(actions.len());
        let mut fresh = false;
        for (index, action) in actions.iter().enumerate() {
            let signals = self.metrics.get(&action.id, now).unwrap_or_else(|| {
                let (cpu, memory) = resources(index);
                let signals = self.table.row(*action).map(|row| row.meter.roll(cpu, memory, now)).unwrap_or_default();
                self.metrics.put(action.id, signals, now);
                fresh = true;
                signals
            });
            measured.push(signals);
        }
        if fresh {
            self.cpu_spread.set(spread(measured.iter().filter_map(|signals| signals.cpu)));
        }
        let service = average(&measured);
        let key = service.key();
        let state = self.states.get(&key, now).unwrap_or_else(|| {
            let state = self.encoder.encode(&service);
            self.states.put(key, state, now);
            state
        });
        self.present.store(state.index() as u64, Relaxed);
        let unknown = service.unknown().iter().fold(0, |bits, unknown| bits << 1 | u64::from(*unknown));
        self.unknown.store(unknown, Relaxed);
        state
    }

    /// A request ended: reward, target, update.
    pub(crate) fn learn(&self, slot: usize, id: u64, ticket: Option<u64>, seen: &Feedback, now: f64) -> Lesson {
        let action = Action { slot, id };
        let Some(row) = self.table.row(action) else { return Lesson::default() };
        row.meter.ended(seen.total, seen.ok);
        let present = State::from_index(self.present.load(Relaxed) as usize);
        let state = ticket.map_or(present, |ticket| State::from_index((ticket >> MOMENT_BITS) as usize));
        let window = row.meter.window(self.cpu_spread.get(), self.consistency(id));
        let reward = self.reward.window(&window, self.settings.sla);
        let target = reward.total + self.settings.discount_factor * self.best_present(present, now);
        let td_error = self.table.nudge(state, action, target, self.settings.learning_rate);
        row.tally.learned(td_error, reward.total);
        Lesson { reward, q_value: self.table.value(state, action), td_error }
    }

    /// max Q(s', a') over the backends that were candidates of late.
    fn best_present(&self, state: State, now: f64) -> f64 {
        let alive = self.table.rows().filter(|row| row.offered.get().max(row.used.get()) >= now - ABSENT);
        let best = alive.map(|row| row.value(state)).fold(f64::NEG_INFINITY, f64::max);
        if best.is_finite() { best } else { 0.0 }
    }

    /// Share of the recent picks that went to this backend.
    fn consistency(&self, id: u64) -> f64 {
        let picks = (self.next_recent.load(Relaxed) as usize).min(RECENT);
        let same = self.recent.iter().filter(|recent| recent.load(Relaxed) == id.wrapping_add(1)).count();
        same as f64 / picks.max(1) as f64
    }

    /// What speaks for and against a backend.
    pub fn explain(&self, candidate: &Candidate) -> Terms {
        let state = State::from_index(self.present.load(Relaxed) as usize);
        let action = Action { slot: candidate.slot, id: candidate.id };
        let bits = self.unknown.load(Relaxed);
        Terms {
            state,
            unknown: std::array::from_fn(|index| bits >> (4 - index) & 1 == 1),
            q_value: self.table.value(state, action),
            visits: self.table.visits(state, action),
        }
    }

    /// How the four caches did: decision, metrics, service, state.
    pub fn cache_stats(&self) -> [CacheStats; 4] {
        [self.decisions.stats(), self.metrics.stats(), self.services.stats(), self.states.stats()]
    }

    /// The guide's learning statistics.
    pub fn learning_stats(&self) -> LearningStats {
        let mut stats = LearningStats {
            q_table_size: self.table.states(),
            state_coverage: self.table.states() as f64 / STATES as f64,
            exploration_rate: self.selector.exploration_rate(&self.table),
            decision_confidence: self.confidence.get(),
            ..LearningStats::default()
        };
        for row in self.table.rows() {
            let updates = row.tally.updates();
            stats.q_updates += updates;
            stats.avg_td_error += row.tally.td_error() * updates as f64;
        }
        stats.avg_td_error /= stats.q_updates.max(1) as f64;
        stats
    }

    /// The guide's performance statistics, as far as the agent knows them.
    pub fn performance_stats(&self) -> PerformanceStats {
        let caches = self.cache_stats();
        let hits: u64 = caches.iter().map(|cache| cache.hits).sum();
        let lookups: u64 = caches.iter().map(|cache| cache.hits + cache.misses + cache.expired).sum();
        PerformanceStats {
            cache_hit_rate: hits as f64 / lookups.max(1) as f64,
            reward_trend: self.weighted(|row| row.tally.reward_trend()),
            ..PerformanceStats::default()
        }
    }

    /// Mean reward of late, over all backends.
    pub fn reward(&self) -> f64 {
        self.weighted(|row| row.tally.reward())
    }

    fn weighted(&self, number: impl Fn(&super::table::Row) -> f64) -> f64 {
        let rows = self.table.rows().map(|row| (number(row), row.tally.updates() as f64));
        let (sum, updates) = rows.fold((0.0, 0.0), |sum, (number, count)| (sum.0 + number * count, sum.1 + count));
        if updates > 0.0 { sum / updates } else { 0.0 }
    }

    /// Entropy of the shares, 0-1.
    pub fn diversity(&self) -> f64 {
        self.selector.diversity(&self.table)
    }

    /// Halves ε.
    pub fn halve_epsilon(&self) {
        self.selector.epsilon.halve();
    }

    /// What is known beyond single backends.
    pub fn save(&self) -> SavedAgent {
        SavedAgent { epsilon: self.selector.epsilon.now(), decisions: self.selector.decisions.load(Relaxed) }
    }

    /// The table's column of a backend; states never visited are left out.
    pub fn save_backend(&self, slot: usize, id: u64) -> Option<SavedBackend> {
        let action = Action { slot, id };
        self.table.row(action)?;
        let states = (0..STATES).map(State::from_index);
        let visited = states.filter_map(|state| {
            let visits = self.table.visits(state, action);
            (visits > 0).then(|| (state.index() as u16, self.table.value(state, action), visits))
        });
        Some(SavedBackend { cells: visited.collect() })
    }

    /// Goes on from what was saved.
    pub fn resume(&self, saved: &SavedAgent) {
        if saved.epsilon.is_finite() && saved.epsilon >= 0.0 {
            self.selector.epsilon.resume(saved.epsilon.min(1.0));
        }
        self.selector.decisions.store(saved.decisions, Relaxed);
    }

    /// Takes over what was known of a backend.
    pub fn resume_backend(&self, slot: usize, id: u64, saved: &SavedBackend) {
        for (index, value, visits) in &saved.cells {
            self.table.restore(State::from_index(usize::from(*index)), Action { slot, id }, (*value, *visits));
        }
    }
}

/// What is known beyond single backends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedAgent {
    /// ε as of now.
    pub epsilon: f64,
    /// Decisions so far.
    pub decisions: u64,
}

/// What is known of one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedBackend {
    /// Place of the state, value, visits.
    pub cells: Vec<(u16, f64, u32)>,
}

impl SavedBackend {
    /// Whether every number is one that an agent can have learned.
    pub fn is_sound(&self) -> bool {
        self.cells.iter().all(|(index, value, _)| usize::from(*index) < STATES && value.is_finite())
    }
}

/// The service's metrics: means over its backends, response times and errors by request.
fn average(measured: &[Signals]) -> Signals {
    let mean = |values: &mut dyn Iterator<Item = (f64, f64)>| {
        let (sum, weight) = values.fold((0.0, 0.0), |sum, (value, weight)| (sum.0 + value * weight, sum.1 + weight));
        (weight > 0.0).then(|| sum / weight)
    };
    let requests = |signals: &Signals| signals.request_rate.unwrap_or(0.0);
    let each = || measured.iter();
    Signals {
        cpu: mean(&mut each().filter_map(|s| Some((s.cpu?, 1.0)))),
        memory: mean(&mut each().filter_map(|s| Some((s.memory?, 1.0)))),
        response_time: mean(&mut each().filter_map(|s| Some((s.response_time?, requests(s))))),
        error_rate: mean(&mut each().filter_map(|s| Some((s.error_rate?, requests(s))))),
        request_rate: mean(&mut each().filter_map(|s| Some((s.request_rate?, 1.0)))),
    }
}

/// Standard deviation.
fn spread(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count() as f64;
    if count == 0.0 {
        return 0.0;
    }
    let mean = values.clone().sum::<f64>() / count;
    (values.map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn candidates(ids: std::ops::Range<u64>) -> Vec<Candidate> {
        ids.map(|id| Candidate { id, slot: id as usize, in_flight: 0, weight: 1 }).collect()
    }

    fn agent(max_entries: usize) -> Agent {
        Agent::new(Settings { max_entries, min_epsilon: 0.0, initial_epsilon: 0.0, ..Settings::default() })
    }

    fn decide(agent: &Agent, ids: std::ops::Range<u64>, generation: u64, now: f64) -> Decision {
        let mut rng = SmallRng::seed_from_u64(1);
        agent.decide(&candidates(ids), generation, &|_| (Some(0.5), None), now, &mut rng).unwrap()
    }

    fn answer(total: f64, ok: bool) -> Feedback {
        Feedback { ok, total, first_byte: total, length: 0.0 }
    }

    #[test]
    fn the_decision_cache_hits_expires_and_evicts() {
        let agent = agent(1);
        assert_eq!(decide(&agent, 0..3, 1, 0.0).kind, Kind::Exploit);
        assert_eq!(decide(&agent, 0..3, 1, 0.05).kind, Kind::Cached);
        assert_ne!(decide(&agent, 0..3, 1, 0.15).kind, Kind::Cached);
        assert_ne!(decide(&agent, 0..4, 2, 0.16).kind, Kind::Cached, "other pods, and room for one");
        let [decisions, ..] = agent.cache_stats();
        assert_eq!((decisions.hits, decisions.expired, decisions.evicted), (1, 1, 1));
    }

    #[test]
    fn the_metrics_cache_hits_expires_and_evicts() {
        let agent = agent(2);
        decide(&agent, 0..2, 1, 0.0);
        decide(&agent, 0..2, 1, 0.5);
        decide(&agent, 0..2, 1, 1.1);
        decide(&agent, 0..3, 2, 1.2);
        let [_, metrics, ..] = agent.cache_stats();
        assert_eq!((metrics.hits, metrics.expired, metrics.evicted), (4, 2, 1));
    }

    #[test]
    fn the_service_cache_hits_expires_and_evicts() {
        let agent = agent(1);
        decide(&agent, 0..2, 1, 0.0);
        decide(&agent, 0..2, 1, 4.9);
        decide(&agent, 0..2, 1, 5.1);
        decide(&agent, 0..3, 2, 5.2);
        let [_, _, services, _] = agent.cache_stats();
        assert_eq!((services.hits, services.expired, services.evicted), (1, 1, 1));
    }

    #[test]
    fn the_state_cache_hits_expires_and_evicts() {
        let agent = agent(1);
        let loaded = |cpu: f64, now: f64| {
            let mut rng = SmallRng::seed_from_u64(1);
            agent.decide(&candidates(0..1), 1, &|_| (Some(cpu), None), now, &mut rng)
        };
        loaded(0.5, 0.0);
        loaded(0.5, 0.5);
        loaded(0.5, 6.0);
        loaded(0.9, 8.0);
        let [.., states] = agent.cache_stats();
        assert_eq!((states.hits, states.expired, states.evicted), (1, 1, 1));
    }

    #[test]
    fn unknown_metrics_are_bin_zero_and_flagged() {
        let agent = agent(10);
        decide(&agent, 0..2, 1, 0.0);
        let terms = agent.explain(&candidates(0..1)[0]);
        assert_eq!(terms.state, State([2, 0, 0, 0, 0]));
        assert_eq!(terms.unknown, [false, true, true, true, false]);
    }

    #[test]
    fn it_learns_to_avoid_a_backend_that_fails() {
        let agent = Agent::new(Settings { decision_ttl: 0.0, ..Settings::default() });
        let mut rng = SmallRng::seed_from_u64(3);
        let mut late = [0; 3];
        for step in 0..6000 {
            let now = f64::from(step) * 0.01;
            let decision = agent.decide(&candidates(0..3), 1, &|_| (None, None), now, &mut rng).unwrap();
            let seen = answer(0.05, decision.index != 1);
            agent.learn(decision.index, decision.index as u64, Some(decision.ticket), &seen, now + 0.005);
            if step >= 5000 {
                late[decision.index] += 1;
            }
        }
        assert!(late[1] * 4 < late[0].min(late[2]), "{late:?}");
        let stats = agent.learning_stats();
        assert!(stats.q_table_size >= 1 && stats.q_updates == 6000 && stats.avg_td_error > 0.0);
        assert!(agent.performance_stats().cache_hit_rate > 0.5);
    }

    #[test]
    fn what_is_saved_comes_back() {
        let agent = agent(10);
        let decision = decide(&agent, 0..2, 1, 0.0);
        agent.learn(decision.index, decision.index as u64, Some(decision.ticket), &answer(0.2, true), 0.2);
        let saved = agent.save_backend(decision.index, decision.index as u64).unwrap();
        assert!(saved.is_sound() && saved.cells.len() == 1);
        let other = Agent::new(Settings::default());
        other.resume(&agent.save());
        other.resume_backend(5, 77, &saved);
        assert_eq!(other.save_backend(5, 77), Some(saved));
    }
}
