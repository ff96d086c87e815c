//! What is told of an agent: the guide's learning and performance statistics, under the guide's names.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::atomic::{Number, step};

/// How well the agent learns.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct LearningStats {
    /// States in use: (tabular) states of the table, (adaptive) load cells of all backends.
    pub q_table_size: usize,
    /// Share of the possible states that is in use, 0-1.
    pub state_coverage: f64,
    /// Mean size of the temporal-difference error (adaptive: relative to the expected latency).
    pub avg_td_error: f64,
    /// ε, with the diversity boost.
    pub exploration_rate: f64,
    /// Mean of 1 − cost of the chosen ÷ cost of the next, 0-1 (tabular: the guide's mean Q of the chosen).
    pub decision_confidence: f64,
    /// Updates of a value, in all.
    pub q_updates: u64,
}

/// How well it serves.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct PerformanceStats {
    /// 95th percentile of the time a decision takes, microseconds; told by the caller, who has a clock.
    pub decision_latency_p95_us: f64,
    /// Hits ÷ look-ups of the caches, 0-1; 0 without look-ups.
    pub cache_hit_rate: f64,
    /// Share of requests that the guardrail gave to its baseline, 0-1; told by the guardrail.
    pub fallback_rate: f64,
    /// Mean reward of the last hundred requests less that of the last thousand: above 0 it improves.
    pub reward_trend: f64,
}

/// Rewards and errors, as both agents count them.
#[derive(Debug, Default)]
pub struct Tally {
    /// Mean size of the temporal-difference error.
    td_error: Number,
    reward_fast: Number,
    reward_slow: Number,
    updates: AtomicU64,
}

/// The guide's smoothing of the TD error.
const TD_STEP: f64 = 0.01;
/// About the last hundred requests.
const FAST_STEP: f64 = 0.01;
/// About the last thousand.
const SLOW_STEP: f64 = 0.001;

impl Tally {
    /// A value was updated by an error of `td_error` after `reward`.
    #[inline]
    pub fn learned(&self, td_error: f64, reward: f64) {
        let seen = self.updates.fetch_add(1, Relaxed);
        // From the first sample on the averages are means, not averages with an invented zero.
        let count = seen as f64 + 1.0;
        self.td_error.approach(td_error.abs(), step(TD_STEP, count));
        self.reward_fast.approach(reward, step(FAST_STEP, count));
        self.reward_slow.approach(reward, step(SLOW_STEP, count));
    }

    /// Forgets everything.
    pub fn reset(&self) {
        for number in [&self.td_error, &self.reward_fast, &self.reward_slow] {
            number.set(0.0);
        }
        self.updates.store(0, Relaxed);
    }

    /// Updates so far.
    pub fn updates(&self) -> u64 {
        self.updates.load(Relaxed)
    }

    /// Mean size of the TD error.
    pub fn td_error(&self) -> f64 {
        self.td_error.get()
    }

    /// Mean reward of about the last hundred requests.
    pub fn reward(&self) -> f64 {
        self.reward_fast.get()
    }

    /// The fast mean of the reward less the slow one.
    pub fn reward_trend(&self) -> f64 {
        self.reward_fast.get() - self.reward_slow.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_begin_as_means_and_the_trend_has_a_sign() {
        let tally = Tally::default();
        tally.learned(-0.5, -1.0);
        assert_eq!((tally.td_error(), tally.reward(), tally.reward_trend(), tally.updates()), (0.5, -1.0, 0.0, 1));
        for _ in 0..2000 {
            tally.learned(0.1, -1.0);
        }
        for _ in 0..50 {
            tally.learned(0.1, 0.0);
        }
        assert!(tally.reward_trend() > 0.2, "it improves");
        assert!((tally.td_error() - 0.1).abs() < 0.01);
        tally.reset();
        assert_eq!(tally.updates(), 0);
    }
}
