//! What the agent tells of itself: why a backend costs what it costs, and the guide's statistics.

use std::sync::atomic::Ordering::Relaxed;

use super::super::statistics::{LearningStats, PerformanceStats};
use super::super::{Candidate, Cost};
use super::agent::{Agent, Scratch};
use super::record::{OWN_LOAD, unknown_level};
use super::state::State;
use super::value::BINS;

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

impl Agent {
    /// What every candidate of the last decision weighed, relative to their mean weight, and what it cost.
    pub fn weighed(&self, scratch: &Scratch) -> impl Iterator<Item = (f64, Cost)> {
        let (pool, mean_weight, now) = (self.pool(), scratch.mean_weight(), scratch.decided);
        scratch.candidates.iter().zip(&scratch.looks.cost).map(move |(candidate, cost)| {
            let record = self.records.of(candidate.slot, candidate.id);
            let (level, drift) = record.map_or((unknown_level(pool.median), 1.0), |record| {
                record.terms(candidate.in_flight, candidate.weight, &pool, now)
            });
            let error_price = record.map_or(0.0, |record| pool.error_unit * record.faults.excess());
            (f64::from(candidate.weight) / mean_weight, Cost { total: cost * mean_weight, level, drift, error_price })
        })
    }

    /// Why a backend costs what it costs. `weight`: its weight ÷ the mean weight; `resources`: CPU and memory as
    /// fractions, for the state.
    pub fn explain(
        &self,
        candidate: &Candidate,
        weight: f64,
        (cpu, memory): (Option<f64>, Option<f64>),
        now: f64,
    ) -> Terms {
        let median = self.median.get();
        let n = candidate.in_flight;
        let own_load = OWN_LOAD * f64::from(n);
        let Some(record) = self.records.of(candidate.slot, candidate.id) else {
            let state = State::encode(n, 1.0, 0, cpu, memory);
            let (level, value) = (unknown_level(median), 1.0);
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
            weight,
            cost: (level * drift * (value + own_load) + error_price) / weight,
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
