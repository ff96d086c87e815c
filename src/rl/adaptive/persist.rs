//! What the agent has learned, as plain data: to write down, to hand to a successor, to show.

use serde::{Deserialize, Serialize};

use super::agent::Agent;
use super::drift::Means;
use super::faults;
use super::value::{BINS, Cells};

/// What is known beyond single backends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedAgent {
    /// ε as of now.
    pub epsilon: f64,
    /// Decisions so far.
    pub decisions: u64,
    /// Mean length of streamed answers; 0: none yet.
    pub mean_length: f64,
}

/// What is known of one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedBackend {
    /// L, seconds; 0: never sampled.
    pub level: f64,
    /// Samples of the level.
    pub samples: f64,
    /// ρ
    pub holding: f64,
    /// Decaying count per load bin.
    pub cell_counts: Vec<f64>,
    /// Mean relative latency per load bin.
    pub cell_means: Vec<f64>,
    /// Drift: fast mean, slow mean, completions.
    pub drift: (f64, f64, u32),
    /// Errors: ends, failures, trial interval (s), age of that interval (s).
    pub faults: (f64, f64, f64, f64),
}

impl SavedBackend {
    /// Whether every number is one that an agent can have learned.
    pub fn is_sound(&self) -> bool {
        let (fast, slow, _) = self.drift;
        let (ends, failures, interval, age) = self.faults;
        let numbers = [self.level, self.samples, fast, slow, ends, failures, interval, age];
        let cells = self.cell_counts.iter().chain(&self.cell_means);
        numbers.iter().chain(cells).all(|number| number.is_finite() && *number >= 0.0)
            && self.holding.is_finite()
            && self.holding > 0.0
            && self.cell_counts.len() == BINS
            && self.cell_means.len() == BINS
    }
}

impl Agent {
    /// What is known beyond single backends.
    pub fn save(&self) -> SavedAgent {
        SavedAgent {
            epsilon: self.epsilon.now(),
            decisions: self.written.decisions.load(std::sync::atomic::Ordering::Relaxed),
            mean_length: self.mean_length.get(),
        }
    }

    /// What is known of the backend `id` in `slot`.
    pub fn save_backend(&self, slot: usize, id: u64, now: f64) -> Option<SavedBackend> {
        let record = self.records.of(slot, id)?;
        let cells = record.cells();
        let means = record.drift.means();
        let faults = record.faults.record(now);
        Some(SavedBackend {
            level: record.level.get(),
            samples: record.samples.get(),
            holding: record.holding.get(),
            cell_counts: cells.count.to_vec(),
            cell_means: cells.mean.to_vec(),
            drift: (means.fast, means.slow, means.completions),
            faults: (faults.ends, faults.failures, faults.interval, faults.interval_age),
        })
    }

    /// Goes on from what was saved.
    pub fn resume(&self, saved: &SavedAgent) {
        if saved.epsilon.is_finite() && saved.epsilon >= 0.0 {
            self.epsilon.resume(saved.epsilon.min(1.0));
        }
        self.written.decisions.store(saved.decisions, std::sync::atomic::Ordering::Relaxed);
        self.mean_length.set(if saved.mean_length.is_finite() { saved.mean_length.max(0.0) } else { 0.0 });
        self.next_compile.set(f64::NEG_INFINITY);
    }

    /// Takes over what was known of a backend. `false`: the numbers are not sound, nothing was changed.
    pub fn resume_backend(&self, slot: usize, id: u64, saved: &SavedBackend, now: f64) -> bool {
        let Some(record) = self.records.of(slot, id).filter(|_| saved.is_sound()) else { return false };
        let (Ok(count), Ok(mean)) = (saved.cell_counts.as_slice().try_into(), saved.cell_means.as_slice().try_into())
        else {
            return false;
        };
        record.level.set(saved.level);
        record.samples.set(saved.samples);
        record.holding.set(saved.holding);
        record.set_cells(&Cells { count, mean });
        let (fast, slow, completions) = saved.drift;
        record.drift.reset(now);
        record.drift.resume(Means { fast, slow, completions }, &self.band);
        let (ends, failures, interval, interval_age) = saved.faults;
        record.faults.resume(faults::Record { ends, failures, interval, interval_age }, now);
        record.mark_sampled(now);
        record.changed();
        true
    }
}
