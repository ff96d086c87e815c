//! Choosing and learning. `decide` is the hot path: one scan over the candidates, no lock, no allocation once the
//! scratch has grown; `learn` is called once per ended request.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::super::atomic::Number;
use super::super::exploration::{Epsilon, Rotation};
use super::super::records::Records;
use super::super::reward::{Reward, RewardCalculator};
use super::super::statistics::{LearningStats, PerformanceStats};
use super::super::{Candidate, Cost, Decision, Feedback, Kind, Lesson};
use super::Settings;
use super::compile::ERROR_FLOOR;
use super::drift::Band;
use super::record::{Record, SLOW_INTERVAL};
use super::state::State;
use super::value::{self, BINS};

/// Seconds charged per request in flight, in levels: every request there slows, or waits for, the new one and the
/// others. It keeps the cost rising where the curve is flat (batching, processor sharing).
pub const OWN_LOAD: f64 = 0.5;
/// Exploration may cost at most this share more than the best.
const SAFE_SHARE: f64 = 0.25;
/// Without a configured SLA an error is measured in this many median levels.
const AUTOMATIC_SLA: f64 = 10.0;
/// A failure teaches a latency only if it took this many predicted latencies.
const SLOW_FAILURE: f64 = 3.0;
/// Step of the mean length of streamed answers.
const LENGTH_STEP: f64 = 0.01;
/// Decisions between two looks at diversity and confidence.
const SAMPLE: u64 = 64;
/// Absolute slack of comparisons with the best cost, seconds.
const SLACK: f64 = 1e-12;
/// Above this ε the chance of a pick is worked out exactly; below, exploring the same pick by chance is neglected.
const EXACT_CHANCE: f64 = 0.02;

/// Buffers of one worker, reused from pick to pick.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The caller fills this in before each decision.
    pub candidates: Vec<Candidate>,
    pub(super) sorted: Vec<f64>,
}

impl Scratch {
    /// Empty buffers.
    pub const fn new() -> Self {
        Self { candidates: Vec::new(), sorted: Vec::new() }
    }
}

/// The terms of a cost, to explain it. Seconds, unless said.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Terms {
    /// L as it counts now.
    pub level: f64,
    /// m as it counts now, a factor.
    pub drift: f64,
    /// V(n) in levels.
    pub value: f64,
    /// ½ n in levels.
    pub own_load: f64,
    /// E
    pub error_price: f64,
    /// Weight ÷ mean weight, by which the cost is divided.
    pub weight: f64,
    /// C: the whole cost.
    pub cost: f64,
    /// The binned state.
    pub state: State,
}

/// The adaptive agent of one pool, shared by all workers.
#[derive(Debug)]
pub struct Agent {
    pub(super) settings: Settings,
    pub(super) band: Band,
    pub(super) reward: RewardCalculator,
    pub(super) records: Records<Record>,
    pub(super) epsilon: Epsilon,
    /// Added to ε while few backends get all the work.
    pub(super) boost: Number,
    pub(super) diversity: Number,
    pub(super) written: Written,
    /// Median level of the pool, seconds; 0: nothing known.
    pub(super) median: Number,
    /// e₀: median error rate of the pool.
    pub(super) pool_error: Number,
    /// Mean length of streamed answers, in their unit; 0: none yet.
    pub(super) mean_length: Number,
    confidence: Number,
    pub(super) next_compile: Number,
    pub(super) loads: [f64; BINS],
}

/// What every decision writes, on cache lines of its own, so that it does not push out what every decision reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Written {
    pub(super) decisions: AtomicU64,
    /// Of them, those that found the curves too old and compiled them anew.
    pub(super) compilations: AtomicU64,
    rotation: Rotation,
}

/// What a decision must remember until its outcome: requests in flight before it, and when it was taken.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Dispatch {
    in_flight: u32,
    at: f64,
}

/// Bits of a ticket that hold the moment in microseconds: 8.9 years.
const MOMENT_BITS: u32 = 48;

impl Dispatch {
    /// Moments are compared with the beginning of a trial, so both are cut to the microsecond in the same way.
    #[inline]
    fn new(in_flight: u32, now: f64) -> Self {
        // Cut, not rounded: a conversion, where `floor` is a call.
        let micros = (now * 1e6) as u64;
        Self { in_flight: in_flight.min(u32::from(u16::MAX)), at: micros as f64 / 1e6 }
    }

    #[inline]
    fn pack(self) -> u64 {
        let micros = (self.at * 1e6 + 0.5) as u64;
        u64::from(self.in_flight) << MOMENT_BITS | (micros & ((1 << MOMENT_BITS) - 1))
    }

    #[inline]
    fn unpack(ticket: u64) -> Self {
        Self { in_flight: (ticket >> MOMENT_BITS) as u32, at: (ticket & ((1 << MOMENT_BITS) - 1)) as f64 / 1e6 }
    }
}

impl Agent {
    /// An agent that knows nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            band: Band::new(settings.learning_rate),
            reward: RewardCalculator { weights: settings.weights },
            records: Records::new(),
            epsilon: Epsilon::new(settings.initial_epsilon, settings.epsilon_decay, settings.min_epsilon),
            boost: Number::default(),
            diversity: Number::new(1.0),
            written: Written::default(),
            median: Number::default(),
            pool_error: Number::new(ERROR_FLOOR),
            mean_length: Number::default(),
            confidence: Number::default(),
            next_compile: Number::new(f64::NEG_INFINITY),
            loads: value::representatives(),
            settings,
        }
    }

    /// Chooses among `scratch.candidates` and notes the dispatch; `None` only when there are none. `whole`: the
    /// candidates are all that are ready, not a subset. `now`: seconds since an origin of the caller's.
    pub fn decide(&self, scratch: &mut Scratch, whole: bool, now: f64, rng: &mut SmallRng) -> Option<Decision> {
        if scratch.candidates.is_empty() {
            return None;
        }
        self.compile_when_due(scratch, whole, now);
        let scan = self.scan(&mut scratch.candidates, now);
        let decisions = self.written.decisions.fetch_add(1, Relaxed) + 1;
        if decisions.is_multiple_of(SAMPLE) {
            self.watch_diversity(scratch.candidates.len());
            self.confidence.approach(confidence(&scratch.candidates), 0.05);
        }
        let epsilon = (self.epsilon.step() + self.boost.get()).min(1.0);
        let candidates = &scratch.candidates;
        let (index, kind, propensity) = match self.trial(&scan, candidates, now) {
            Some(index) => (index, Kind::Probe, 1.0),
            None => self.choose(candidates, scan.best, epsilon, decisions as f64, rng),
        };
        let chosen = &candidates[index];
        self.written.rotation.picked(chosen.slot);
        let ticket = self.dispatched(chosen.slot, chosen.id, chosen.in_flight, now);
        Some(Decision { index, kind, propensity: propensity as f32, ticket })
    }

    /// A request goes to a backend by somebody else's choice. The ticket comes back with its outcome.
    pub fn dispatched(&self, slot: usize, id: u64, in_flight: u32, now: f64) -> u64 {
        if let Some(record) = self.records.of(slot, id) {
            record.drift.advance(in_flight, record.gap(in_flight), now);
            if in_flight == 0 {
                record.drift.woken();
            }
            record.used.set(now);
            record.dispatches.add(1.0);
        }
        Dispatch::new(in_flight, now).pack()
    }

    /// Fills in every cost; finds the best and the trials that are due.
    #[inline]
    fn scan(&self, candidates: &mut [Candidate], now: f64) -> Scan {
        let median = self.median.get();
        let unit = self.error_unit(median);
        let first_interval = slow_interval(median);
        let mut scan = Scan { best: 0, error_trial: None, slow_trial: None };
        let mut lowest = f64::INFINITY;
        for (index, candidate) in candidates.iter_mut().enumerate() {
            let n = candidate.in_flight;
            candidate.cost = match self.records.of(candidate.slot, candidate.id) {
                Some(record) => {
                    if n == 0 {
                        if record.faults.suspected() {
                            if record.faults.trial_due(now) {
                                scan.error_trial = Some(index);
                            }
                        } else if !record.known() || record.slow_trial_due(first_interval, now) {
                            // One that never answered is looked at once, or little traffic may never get to it.
                            scan.slow_trial = Some(index);
                        }
                    }
                    let (level, drift) = record.present(n, median, &self.band, now);
                    let load = record.curve.value(n) + OWN_LOAD * f64::from(n);
                    let error_price = unit * record.faults.excess();
                    let total = (level * drift * load + error_price) / candidate.weight;
                    Cost { total, level, drift, error_price }
                }
                None => {
                    let level = median.max(1e-3);
                    let total = level * (1.0 + OWN_LOAD * f64::from(n)) / candidate.weight;
                    Cost { total, level, drift: 1.0, error_price: 0.0 }
                }
            };
            if candidate.cost.total < lowest {
                lowest = candidate.cost.total;
                scan.best = index;
            }
        }
        scan
    }

    /// The trial to send, error trials first; another worker may have been faster.
    #[inline]
    fn trial(&self, scan: &Scan, candidates: &[Candidate], now: f64) -> Option<usize> {
        let begun = scan.error_trial.filter(|index| {
            let candidate = &candidates[*index];
            let record = self.records.of(candidate.slot, candidate.id);
            record.is_some_and(|record| record.faults.begin_trial(Dispatch::new(0, now).at))
        });
        begun.or(scan.slow_trial)
    }

    /// ε-greedy: (index, kind, chance).
    #[inline]
    fn choose(
        &self,
        candidates: &[Candidate],
        best: usize,
        epsilon: f64,
        decisions: f64,
        rng: &mut SmallRng,
    ) -> (usize, Kind, f64) {
        let explores = epsilon > 0.0 && rng.random::<f64>() < epsilon;
        let (exploited, rotated, share) = self.exploit(candidates, best, rng);
        let greedy = if rotated { Kind::Rotated } else { Kind::Exploit };
        if !explores && epsilon <= EXACT_CHANCE {
            return (exploited, greedy, (1.0 - epsilon) * share);
        }
        let explored = self.explore(candidates, best, decisions);
        let index = if explores { explored } else { exploited };
        let by_exploring = if index == explored { epsilon } else { 0.0 };
        let by_exploiting = if index == exploited { (1.0 - epsilon) * share } else { 0.0 };
        (index, if explores { Kind::Explore } else { greedy }, by_exploring + by_exploiting)
    }

    /// The most promising of those that cost at most a quarter more than the best: UCB turned round, since costs are
    /// to be low.
    fn explore(&self, candidates: &[Candidate], best: usize, decisions: f64) -> usize {
        let lowest = candidates[best].cost.total;
        let limit = lowest * (1.0 + SAFE_SHARE) + SLACK;
        let width = self.settings.ucb_c * lowest;
        let log = (decisions + 1.0).ln();
        let mut found = (best, f64::INFINITY);
        for (index, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.cost.total <= limit) {
            let record = self.records.of(candidate.slot, candidate.id);
            let visits = record.map_or(0.0, |record| record.visits(candidate.in_flight));
            let bound = candidate.cost.total - width * (log / (visits + 1.0)).sqrt();
            if bound < found.1 {
                found = (index, bound);
            }
        }
        found.0
    }

    /// Among those as good as the best the least recently used (or any), unless that was taken too often in a row:
    /// (index, rotated, chance among ties).
    #[inline]
    fn exploit(&self, candidates: &[Candidate], best: usize, rng: &mut SmallRng) -> (usize, bool, f64) {
        let limit = candidates[best].cost.total * (1.0 + self.settings.tolerance) + SLACK;
        let as_good = || candidates.iter().enumerate().filter(|(_, candidate)| candidate.cost.total <= limit);
        let mut found = (best, f64::INFINITY);
        let mut ties = 0.0;
        for (index, candidate) in as_good() {
            ties += 1.0;
            let rank = if self.settings.random_ties {
                rng.random::<f64>()
            } else {
                self.records.of(candidate.slot, candidate.id).map_or(-1.0, |record| record.used.get())
            };
            if rank < found.1 {
                found = (index, rank);
            }
        }
        let share = if self.settings.random_ties { 1.0 / ties } else { 1.0 };
        let allowed = u64::from(self.settings.rotation_after);
        if allowed > 0 && self.written.rotation.run(candidates[found.0].slot) >= allowed {
            let others = as_good().filter(|(index, _)| *index != found.0);
            if let Some((other, _)) = others.min_by(|(_, a), (_, b)| a.cost.total.total_cmp(&b.cost.total)) {
                return (other, true, share);
            }
        }
        (found.0, false, share)
    }

    /// A request ended. `in_flight`: requests at the backend now, this one no longer counted. `ticket`: of its
    /// decision or dispatch; `None`: it was placed before this agent watched.
    pub fn learn(
        &self,
        (slot, id, in_flight): (usize, u64, u32),
        ticket: Option<u64>,
        seen: &Feedback,
        now: f64,
    ) -> Lesson {
        let Some(record) = self.records.of(slot, id) else { return Lesson::default() };
        let unknown = Dispatch { in_flight, at: now - seen.total };
        let dispatch = ticket.map_or(unknown, Dispatch::unpack);
        let n = dispatch.in_flight;
        let before = in_flight.saturating_add(1);
        record.drift.advance(before, record.gap(before), now);
        let known = record.known();
        if seen.ok && known {
            record.drift.completed(&self.band);
        }
        record.faults.ended(seen.ok, dispatch.at, self.pool_error.get(), now);
        let median = self.median.get();
        if seen.ok && known && n == 0 {
            record.slow_trial_ended(seen.total, slow_interval(median));
        }
        let latency = self.latency_of(record, n, seen);
        let td_error = if self.teaches(record, seen.ok, latency, median) {
            let error = record.learn(n, latency, now);
            if median == 0.0 {
                self.median.set(record.level.get());
            }
            error
        } else {
            0.0
        };
        if seen.ok {
            record.drift.conclude(&self.band);
        }
        self.lesson(record, n, seen, td_error, now)
    }

    /// A client left: the request ended and blames nobody.
    pub fn left(&self, (slot, id, in_flight): (usize, u64, u32), now: f64) {
        if let Some(record) = self.records.of(slot, id) {
            let before = in_flight.saturating_add(1);
            record.drift.advance(before, record.gap(before), now);
        }
    }

    /// The latency that an outcome teaches. A stream is judged by its first byte, which carries the queueing, and a
    /// little by its body, freed of its length: unknown lengths are the largest noise there is.
    fn latency_of(&self, record: &Record, n: u32, seen: &Feedback) -> f64 {
        if !seen.ok || seen.length <= 0.0 {
            return seen.total;
        }
        let mean = self.mean_length.get();
        self.mean_length.approach(seen.length, if mean == 0.0 { 1.0 } else { LENGTH_STEP });
        record.learn_holding(n, seen.total);
        let body = (seen.total - seen.first_byte) / seen.length * self.mean_length.get();
        seen.first_byte + self.settings.stream_weight * body
    }

    /// Whether an outcome says something of the backend's speed: an answer always, a failure only if it was slow.
    fn teaches(&self, record: &Record, ok: bool, latency: f64, median: f64) -> bool {
        let usual = if record.known() { record.level.get() * record.holding.get() } else { median };
        ok || (usual > 0.0 && latency > SLOW_FAILURE * usual)
    }

    fn lesson(&self, record: &Record, n: u32, seen: &Feedback, td_error: f64, now: f64) -> Lesson {
        let median = self.median.get();
        let sla = self.sla(median);
        let (level, drift) = record.present(n, median, &self.band, now);
        let cost = level * drift * (record.curve.value(n) + OWN_LOAD * f64::from(n))
            + self.error_unit(median) * record.faults.excess();
        let own_load = level * drift * OWN_LOAD * f64::from(n);
        let balance = if cost > 0.0 { own_load / cost } else { 0.0 };
        let reward = if sla > 0.0 { self.reward.request(seen.total, seen.ok, balance, sla) } else { Reward::default() };
        record.tally.learned(td_error, reward.total);
        Lesson { reward, q_value: -cost, td_error }
    }

    /// T: the SLA as configured, or ten median levels; 0 while nothing is known.
    fn sla(&self, median: f64) -> f64 {
        self.settings.sla.unwrap_or(AUTOMATIC_SLA * median)
    }

    /// Seconds that an error costs.
    #[inline]
    fn error_unit(&self, median: f64) -> f64 {
        self.reward.error_price() * self.sla(median)
    }

    /// Why a backend costs what it costs. `cpu`, `memory`: fractions, for the state.
    pub fn explain(&self, candidate: &Candidate, cpu: Option<f64>, memory: Option<f64>, now: f64) -> Terms {
        let median = self.median.get();
        let n = candidate.in_flight;
        let own_load = OWN_LOAD * f64::from(n);
        let Some(record) = self.records.of(candidate.slot, candidate.id) else {
            let state = State::encode(n, 1.0, 0, cpu, memory);
            let (level, value, weight) = (median.max(1e-3), 1.0, candidate.weight);
            let cost = level * (value + own_load) / weight;
            return Terms { level, drift: 1.0, value, own_load, error_price: 0.0, weight, cost, state };
        };
        let (level, drift) = record.present(n, median, &self.band, now);
        let value = record.curve.value(n);
        let error_price = self.error_unit(median) * record.faults.excess();
        let errors = u8::from(record.faults.suspected()) + u8::from(record.faults.on_trial());
        Terms {
            level,
            drift,
            value,
            own_load,
            error_price,
            weight: candidate.weight,
            cost: (level * drift * (value + own_load) + error_price) / candidate.weight,
            state: State::encode(n, drift, errors, cpu, memory),
        }
    }

    /// The guide's learning statistics.
    pub fn learning_stats(&self) -> LearningStats {
        let mut stats = LearningStats {
            exploration_rate: (self.epsilon.now() + self.boost.get()).min(1.0),
            decision_confidence: self.confidence.get(),
            ..LearningStats::default()
        };
        let mut possible = 0;
        for record in self.records.owned() {
            possible += BINS;
            stats.q_table_size += record.cells().count.iter().filter(|count| **count >= 0.5).count();
            let updates = record.tally.updates();
            stats.q_updates += updates;
            stats.avg_td_error += record.tally.td_error() * updates as f64;
        }
        stats.state_coverage = stats.q_table_size as f64 / possible.max(1) as f64;
        stats.avg_td_error /= stats.q_updates.max(1) as f64;
        stats
    }

    /// The guide's performance statistics, as far as the agent knows them.
    pub fn performance_stats(&self) -> PerformanceStats {
        let trends = self.records.owned().map(|record| (record.tally.reward_trend(), record.tally.updates() as f64));
        let (sum, updates) = trends.fold((0.0, 0.0), |sum, (trend, count)| (sum.0 + trend * count, sum.1 + count));
        let decisions = self.written.decisions.load(Relaxed) as f64;
        let compilations = self.written.compilations.load(Relaxed) as f64;
        PerformanceStats {
            reward_trend: if updates > 0.0 { sum / updates } else { 0.0 },
            cache_hit_rate: if decisions > 0.0 { (1.0 - compilations / decisions).max(0.0) } else { 0.0 },
            ..Default::default()
        }
    }

    /// Mean reward of late, over all backends.
    pub fn reward(&self) -> f64 {
        let rewards = self.records.owned().map(|record| (record.tally.reward(), record.tally.updates() as f64));
        let (sum, updates) = rewards.fold((0.0, 0.0), |sum, (reward, count)| (sum.0 + reward * count, sum.1 + count));
        if updates > 0.0 { sum / updates } else { 0.0 }
    }

    /// Entropy of the shares, 0-1, as of the last look.
    pub fn diversity(&self) -> f64 {
        self.diversity.get()
    }

    /// Halves ε: after a guardrail's fall-back the agent comes back more cautious.
    pub fn halve_epsilon(&self) {
        self.epsilon.halve();
    }
}

/// What a scan found.
struct Scan {
    best: usize,
    error_trial: Option<usize>,
    slow_trial: Option<usize>,
}

/// First interval of slow trials.
#[inline]
fn slow_interval(median: f64) -> f64 {
    SLOW_INTERVAL.0.max(SLOW_INTERVAL.1 * median)
}

/// 1 − lowest ÷ second lowest cost, 0-1; 1 for one candidate.
fn confidence(candidates: &[Candidate]) -> f64 {
    let (mut first, mut second) = (f64::INFINITY, f64::INFINITY);
    for candidate in candidates {
        let cost = candidate.cost.total;
        if cost < first {
            second = first;
            first = cost;
        } else if cost < second {
            second = cost;
        }
    }
    if second > 0.0 { (1.0 - first / second).clamp(0.0, 1.0) } else { 0.0 }
}
