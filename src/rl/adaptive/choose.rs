//! Choosing: the hot path. One look at every candidate, no lock, no allocation once the scratch has grown.

use std::sync::atomic::Ordering::Relaxed;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::super::{Candidate, Decision, Kind};
use super::agent::{Agent, Dispatch, Scratch};
use super::record::{OWN_LOAD, Pool, Trial, unknown_level};

/// Exploration may cost at most this share more than the best.
const SAFE_SHARE: f64 = 0.25;
/// Decisions between two looks at diversity and confidence.
const SAMPLE: u64 = 64;
/// Smoothing of the confidence, over those looks.
const CONFIDENCE_STEP: f64 = 0.05;
/// Absolute slack of comparisons with the best cost, seconds.
const SLACK: f64 = 1e-12;
/// Above this ε the chance of a pick is worked out exactly; below, exploring the same pick by chance is neglected.
const EXACT_CHANCE: f64 = 0.02;

/// What the candidates cost.
struct Scan {
    best: usize,
    error_trial: Option<usize>,
    slow_trial: Option<usize>,
}

impl Agent {
    /// Chooses among `scratch.candidates` and notes the dispatch; `None` only when there are none. `whole`: the
    /// candidates are all that are ready, not a subset. `now`: seconds since an origin of the caller's.
    pub fn decide(&self, scratch: &mut Scratch, whole: bool, now: f64, rng: &mut SmallRng) -> Option<Decision> {
        if scratch.candidates.is_empty() {
            return None;
        }
        self.compile_when_due(scratch, whole, now);
        let scan = self.scan(scratch, now);
        let candidates = &*scratch.candidates;
        let decisions = self.written.decisions.fetch_add(1, Relaxed) + 1;
        if decisions.is_multiple_of(SAMPLE) {
            self.watch_diversity(candidates.len());
            self.confidence.approach(confidence(&scratch.looks.cost), CONFIDENCE_STEP);
        }
        let epsilon = (self.epsilon.step() + self.boost.get()).min(1.0);
        let (index, kind, propensity) = match self.trial(&scan, candidates, now) {
            Some(index) => (index, Kind::Probe, 1.0),
            None => self.choose(scratch, scan.best, epsilon, decisions as f64, rng),
        };
        let chosen = candidates.get(index)?;
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
            record.changed();
        }
        Dispatch::new(in_flight, now).pack()
    }

    /// Fills in every cost; finds the best and the trials that are due.
    #[inline]
    fn scan(&self, scratch: &mut Scratch, now: f64) -> Scan {
        scratch.decided = now;
        let candidates = &*scratch.candidates;
        scratch.looks.resize(candidates.len());
        let pool = self.pool();
        let mut records = self.records.cursor();
        let (mut error_trial, mut slow_trial) = (None, None);
        let looks = scratch.looks.cost.iter_mut().zip(&mut scratch.looks.used);
        for (index, (candidate, (cost, used))) in candidates.iter().zip(looks).enumerate() {
            let (n, weight) = (candidate.in_flight, candidate.weight);
            (*cost, *used) = match records.of(candidate.slot, candidate.id) {
                Some(record) => {
                    let cost = record.cost(n, weight, &pool, now);
                    if n == 0 {
                        match record.trial(now) {
                            None => {}
                            Some(Trial::Error) => error_trial = Some(index),
                            Some(Trial::Slow) => slow_trial = Some(index),
                        }
                    }
                    (cost, record.used.get())
                }
                None => (unknown_cost(&pool, n, weight), -1.0),
            };
        }
        Scan { best: scratch.looks.best(), error_trial, slow_trial }
    }

    /// The trial to send, error trials first; another worker may have been faster.
    #[inline]
    fn trial(&self, scan: &Scan, candidates: &[Candidate], now: f64) -> Option<usize> {
        let begun = scan.error_trial.filter(|index| {
            let candidate = &candidates[*index];
            let record = self.records.of(candidate.slot, candidate.id);
            record.is_some_and(|record| record.faults.begin_trial(Dispatch::new(0, now).at()))
        });
        begun.or(scan.slow_trial)
    }

    /// ε-greedy: (index, kind, chance).
    #[inline]
    fn choose(
        &self,
        scratch: &Scratch,
        best: usize,
        epsilon: f64,
        decisions: f64,
        rng: &mut SmallRng,
    ) -> (usize, Kind, f64) {
        let explores = epsilon > 0.0 && rng.random::<f64>() < epsilon;
        let (exploited, rotated, share) = self.exploit(scratch, best, rng);
        let greedy = if rotated { Kind::Rotated } else { Kind::Exploit };
        if !explores && epsilon <= EXACT_CHANCE {
            return (exploited, greedy, (1.0 - epsilon) * share);
        }
        let explored = self.explore(scratch, best, decisions);
        let index = if explores { explored } else { exploited };
        let by_exploring = if index == explored { epsilon } else { 0.0 };
        let by_exploiting = if index == exploited { (1.0 - epsilon) * share } else { 0.0 };
        (index, if explores { Kind::Explore } else { greedy }, by_exploring + by_exploiting)
    }

    /// The most promising of those that cost at most a quarter more than the best: UCB turned round, since costs are
    /// to be low.
    fn explore(&self, scratch: &Scratch, best: usize, decisions: f64) -> usize {
        let lowest = scratch.looks.cost[best];
        let width = self.settings.ucb_c * lowest;
        let log = (decisions + 1.0).ln();
        let mut found = (best, f64::INFINITY);
        for (index, cost) in within(&scratch.looks.cost, lowest * (1.0 + SAFE_SHARE) + SLACK) {
            let candidate = &scratch.candidates[index];
            let record = self.records.of(candidate.slot, candidate.id);
            let visits = record.map_or(0.0, |record| record.visits(candidate.in_flight));
            let bound = cost - width * (log / (visits + 1.0)).sqrt();
            if bound < found.1 {
                found = (index, bound);
            }
        }
        found.0
    }

    /// Among those as good as the best the least recently used (or any), unless that was taken too often in a row:
    /// (index, rotated, chance among ties).
    #[inline]
    fn exploit(&self, scratch: &Scratch, best: usize, rng: &mut SmallRng) -> (usize, bool, f64) {
        let (candidates, looks) = (&scratch.candidates, &scratch.looks);
        let limit = looks.cost[best] * (1.0 + self.settings.tolerance) + SLACK;
        let (found, share) = if self.settings.random_ties {
            any_within(&looks.cost, limit, best, rng)
        } else {
            (looks.least_recent(limit).unwrap_or(best), 1.0)
        };
        let allowed = u64::from(self.settings.rotation_after);
        if allowed > 0 && self.written.rotation.run(candidates[found].slot) >= allowed {
            let others = within(&looks.cost, limit).filter(|(index, _)| *index != found);
            if let Some((other, _)) = others.min_by(|(_, a), (_, b)| a.total_cmp(b)) {
                return (other, true, share);
            }
        }
        (found, false, share)
    }
}

/// C ÷ weight of a backend whose record a younger one has taken over.
#[cold]
fn unknown_cost(pool: &Pool<'_>, n: u32, weight: u32) -> f64 {
    unknown_level(pool.median) * (1.0 + OWN_LOAD * f64::from(n)) / f64::from(weight)
}

/// Index and cost of those that cost at most `limit`.
#[inline]
fn within(costs: &[f64], limit: f64) -> impl Iterator<Item = (usize, f64)> {
    costs.iter().copied().enumerate().filter(move |(_, cost)| *cost <= limit)
}

/// Any of those that cost at most `limit`, and the chance that each had.
fn any_within(costs: &[f64], limit: f64, best: usize, rng: &mut SmallRng) -> (usize, f64) {
    let mut found = (best, f64::INFINITY);
    let mut ties = 0.0;
    for (index, _) in within(costs, limit) {
        ties += 1.0;
        let rank = rng.random::<f64>();
        if rank < found.1 {
            found = (index, rank);
        }
    }
    (found.0, 1.0 / ties)
}

/// 1 − lowest ÷ second lowest cost, 0-1; 1 for one candidate.
fn confidence(costs: &[f64]) -> f64 {
    let (mut first, mut second) = (f64::INFINITY, f64::INFINITY);
    for cost in costs.iter().copied() {
        if cost < first {
            second = first;
            first = cost;
        } else if cost < second {
            second = cost;
        }
    }
    if second > 0.0 { (1.0 - first / second).clamp(0.0, 1.0) } else { 0.0 }
}
