//! Ten times a second one worker turns what was learned into what picks read: pool statistics, curves with their Bellman
//! values, error prices, staleness, diversity. This is what the guide's decision cache of 100 ms holds here; a *choice*
//! is never cached (measured: 4.5 × the cost over the fixed suite).

use super::super::exploration;
use super::agent::{Agent, Scratch};
use super::value::{self, BINS, Cells};

/// Seconds between compilations: the guide's cache time.
pub(super) const PERIOD: f64 = 0.1;
/// Half-life of cells and of the shares of dispatches, seconds of traffic (an idle pool does not forget).
const HALF_LIFE: f64 = 60.0;
/// Below this error rate a pool is not distinguishable from clean.
pub(super) const ERROR_FLOOR: f64 = 0.003;
/// A backend that was no candidate for this long, seconds, is no part of the pool's statistics.
const ABSENT: f64 = 10.0;

impl Agent {
    /// Compiles if it is time and no other worker does. `whole`: the candidates are all that are ready, not a subset.
    #[inline]
    pub(super) fn compile_when_due(&self, scratch: &mut Scratch, whole: bool, now: f64) {
        let due = self.next_compile.get();
        if now >= due && self.next_compile.replace(due, now + PERIOD) {
            self.written.compilations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.compile(scratch, whole, now);
        }
    }

    /// Forms everything anew.
    #[cold]
    fn compile(&self, scratch: &mut Scratch, whole: bool, now: f64) {
        for candidate in &scratch.candidates {
            if let Some(record) = self.records.of(candidate.slot, candidate.id) {
                record.offered.set(now);
            }
        }
        let since = if whole { now } else { now - ABSENT };
        let members = || self.records.owned().filter(|record| record.offered.get() >= since);

        let sorted = &mut scratch.sorted;
        sorted.clear();
        sorted.extend(members().map(|record| record.level.get()).filter(|level| *level > 0.0));
        sorted.sort_unstable_by(f64::total_cmp);
        self.median.set(sorted.get(sorted.len() / 2).copied().unwrap_or(0.0));
        sorted.clear();
        sorted.extend(members().map(|record| record.faults.rate()));
        sorted.sort_unstable_by(f64::total_cmp);
        let lower = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
        self.pool_error.set(lower.max(ERROR_FLOOR));

        let pool = self.pool_cells();
        let decay = 0.5_f64.powf(PERIOD / HALF_LIFE);
        for record in self.records.owned() {
            record.decay(decay);
            let cells = record.cells();
            record.curve.publish(&value::compile(&cells, &pool, &self.loads, self.settings.discount_factor));
            record.faults.weigh(self.pool_error.get(), now);
            record.refresh(now);
            record.changed();
        }
    }

    /// The count-weighted mean of all backends' cells.
    fn pool_cells(&self) -> Cells {
        let mut pool = Cells { count: [0.0; BINS], mean: [0.0; BINS] };
        for record in self.records.owned() {
            let cells = record.cells();
            let sums = pool.count.iter_mut().zip(&mut pool.mean);
            for ((count, sum), (own_count, own_mean)) in sums.zip(cells.count.iter().zip(&cells.mean)) {
                *count += own_count;
                *sum += own_count * own_mean;
            }
        }
        for (count, sum) in pool.count.iter().zip(&mut pool.mean) {
            *sum = if *count > 0.0 { *sum / count } else { 1.0 };
        }
        pool
    }

    /// Forms the boost of ε anew.
    pub(super) fn watch_diversity(&self, candidates: usize) {
        let counts = self.records.owned().map(|record| record.dispatches.get());
        let diversity = exploration::diversity(counts, candidates);
        self.diversity.set(diversity);
        let settings = &self.settings;
        let boost = exploration::diversity_boost(diversity, settings.diversity_threshold, settings.diversity_boost);
        self.boost.set(boost);
    }
}
