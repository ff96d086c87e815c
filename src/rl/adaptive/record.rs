//! What the agent knows of one backend: level, cells, curve, drift, errors and the slow trial. All atomics; a record
//! begins on a cache line of its own, so workers that watch different backends do not disturb each other.

use std::sync::atomic::AtomicU64;

use super::super::atomic::Number;
use super::super::records;
use super::super::statistics::Tally;
use super::drift::{Band, Drift};
use super::faults::Faults;
use super::value::{BINS, Cells, Curve, bin};

/// Least latency that is learned, seconds: keeps divisions finite.
const LEAST_LATENCY: f64 = 1e-6;
/// Least step of the level: a mean over about three hundred requests; a change is the drift multiplier's job.
const LEVEL_STEP: f64 = 0.003;
/// Least step of a cell: a mean over about two hundred requests at that load.
const CELL_STEP: f64 = 0.005;
/// Clip of the relative latency: one long request cannot move the level more than 1 %.
const CLIP: f64 = 4.0;
/// Clip of a cell, in multiples of its curve.
const CELL_CLIP: f64 = 20.0;
/// Step of the holding time of streams.
const HOLDING_STEP: f64 = 0.02;
/// Clip of one holding time, in multiples of the mean.
const HOLDING_CLIP: f64 = 10.0;
/// A level without a sample for this long is doubted, seconds …
const STALE: f64 = 2.0;
/// … and fades to the pool's median with this time constant, seconds.
const FADE: f64 = 10.0;
/// A slow trial is for backends whose drift is above this.
const SLOW_DRIFT: f64 = 2.0;
/// First interval of slow trials, seconds; or ten median levels if that is longer.
pub(super) const SLOW_INTERVAL: (f64, f64) = (1.0, 10.0);
/// Longest interval of slow trials, in first intervals.
const SLOW_LONGEST: f64 = 8.0;
/// The trial was fast: the next one as soon as the backend is idle.
const AT_ONCE: f64 = -1.0;

/// One backend. In this order: what a pick reads of every candidate is in the first two cache lines, and in the one of
/// the curve that its load is in.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Record {
    owner: AtomicU64,
    /// L: typical latency, seconds; 0: never sampled.
    pub(super) level: Number,
    /// How much of what is above the median is still believed, 1 to 0.
    fade: Number,
    /// When a request was last sent here; negative: never.
    pub(super) used: Number,
    /// p: interval of slow trials; 0: the first, negative: at once.
    slow_interval: Number,
    /// ρ: total time of streams per predicted latency.
    pub(super) holding: Number,
    pub(super) drift: Drift,
    pub(super) faults: Faults,
    pub(super) curve: Curve,
    /// k: samples of the level.
    pub(super) samples: Number,
    /// When the last sample came.
    sampled: Number,
    /// When it was last a candidate, as of a compilation.
    pub(super) offered: Number,
    /// Requests sent here, decaying: for diversity.
    pub(super) dispatches: Number,
    count: [Number; BINS],
    mean: [Number; BINS],
    pub(super) tally: Tally,
}

impl Default for Record {
    fn default() -> Self {
        let record = Self {
            owner: AtomicU64::new(0),
            level: Number::default(),
            fade: Number::default(),
            used: Number::default(),
            slow_interval: Number::default(),
            holding: Number::default(),
            drift: Drift::default(),
            faults: Faults::default(),
            curve: Curve::flat(),
            samples: Number::default(),
            sampled: Number::default(),
            offered: Number::default(),
            dispatches: Number::default(),
            count: [const { Number::ZERO }; BINS],
            mean: [const { Number::ZERO }; BINS],
            tally: Tally::default(),
        };
        records::Record::reset(&record);
        record
    }
}

impl records::Record for Record {
    fn owner(&self) -> &AtomicU64 {
        &self.owner
    }

    fn reset(&self) {
        self.level.set(0.0);
        self.fade.set(1.0);
        self.used.set(-1.0);
        self.slow_interval.set(0.0);
        self.holding.set(1.0);
        self.drift.reset(0.0);
        self.faults.reset(0.0);
        self.curve.publish(&[(1.0, 1.0); BINS]);
        self.samples.set(0.0);
        self.sampled.set(0.0);
        self.offered.set(f64::NEG_INFINITY);
        self.dispatches.set(0.0);
        self.set_cells(&Cells { count: [0.0; BINS], mean: [1.0; BINS] });
        self.tally.reset();
    }
}

impl Record {
    /// Whether a latency was ever learned.
    #[inline]
    pub(super) fn known(&self) -> bool {
        self.level.get() > 0.0
    }

    /// ρ P(n − 1): seconds between completions times n, at `n` in flight; `None` while nothing is known.
    #[inline]
    pub(super) fn gap(&self, n: u32) -> Option<f64> {
        let level = self.level.get();
        (level > 0.0).then(|| self.holding.get() * level * self.curve.q(n.saturating_sub(1)))
    }

    /// L and m as they count now: an old excess fades, in the cost only.
    #[inline]
    pub(super) fn present(&self, n: u32, median: f64, band: &Band, now: f64) -> (f64, f64) {
        let level = self.level.get();
        if level <= 0.0 {
            return (if median > 0.0 { median } else { 1e-3 }, 1.0);
        }
        let fade = self.fade.get();
        let faded = if level > median { median + (level - median) * fade } else { level };
        let drift = if n == 0 {
            1.0 + (self.drift.multiplier() - 1.0) * fade
        } else {
            let gap = self.holding.get() * level * self.curve.q(n - 1);
            self.drift.multiplier_now(n, gap, now, band)
        };
        (faded, drift)
    }

    /// Forms anew how much of an old level is believed.
    pub(super) fn refresh(&self, now: f64) {
        let age = now - self.sampled.get();
        self.fade.set(if age > STALE { (-(age - STALE) / FADE).exp() } else { 1.0 });
    }

    /// Whether an idle backend that became slow is due for a trial.
    #[inline]
    pub(super) fn slow_trial_due(&self, first_interval: f64, now: f64) -> bool {
        if !self.known() || self.drift.multiplier() <= SLOW_DRIFT {
            return false;
        }
        let interval = self.slow_interval.get();
        let pause = if interval < 0.0 { 0.0 } else { interval.max(first_interval) };
        now >= self.used.get() + pause
    }

    /// An answer to a request that found the backend idle and slow: was it fast again?
    pub(super) fn slow_trial_ended(&self, latency: f64, first_interval: f64) {
        let drift = self.drift.multiplier();
        if drift <= SLOW_DRIFT {
            return;
        }
        let relative = latency / (self.level.get() * self.curve.q(0) * self.holding.get());
        let next = if relative < 0.5 * drift + 0.5 {
            AT_ONCE
        } else {
            (2.0 * self.slow_interval.get()).clamp(first_interval, SLOW_LONGEST * first_interval)
        };
        self.slow_interval.set(next);
    }

    /// The relative TD update of level and cell by a latency seen at `n` in flight. Returns the relative TD error.
    pub(super) fn learn(&self, n: u32, latency: f64, now: f64) -> f64 {
        let latency = latency.max(LEAST_LATENCY);
        let index = bin(n);
        let predicted = self.curve.q_at(index);
        let samples = self.samples.get();
        let old = if self.known() { self.level.get() } else { latency };
        let error = (latency / (old * predicted)).min(CLIP) - 1.0;
        let level = old * (1.0 + LEVEL_STEP.max(1.0 / (samples + 1.0)) * error);
        self.level.set(level.max(LEAST_LATENCY));
        self.samples.set(samples + 1.0);
        let count = self.count[index].get() + 1.0;
        self.count[index].set(count);
        // A cell holds the shape of the curve. What makes the backend slow at this moment is the drift's to tell: put into
        // the cells it would outlast the slowness by minutes, since an idle backend refreshes no cell but that of its trials.
        let slowness = self.drift.multiplier().max(1.0);
        let relative = (latency / (level * slowness)).min(CELL_CLIP * predicted);
        self.mean[index].approach(relative, CELL_STEP.max(1.0 / count.max(1.0)));
        self.mark_sampled(now);
        error
    }

    /// Learns how long a stream of `total` seconds held its place, per predicted latency.
    pub(super) fn learn_holding(&self, n: u32, total: f64) {
        let level = self.level.get();
        if level <= 0.0 {
            return;
        }
        let old = self.holding.get();
        let held = (total / (level * self.curve.q(n))).min(HOLDING_CLIP * old);
        self.holding.approach(held, HOLDING_STEP.max(1.0 / (self.samples.get() + 1.0)));
        self.holding.set(self.holding.get().max(LEAST_LATENCY));
    }

    /// What is known counts as fresh.
    pub(super) fn mark_sampled(&self, now: f64) {
        self.sampled.set(now);
        self.fade.set(1.0);
    }

    /// Visits of the cell at `n` in flight.
    #[inline]
    pub(super) fn visits(&self, n: u32) -> f64 {
        self.count[bin(n)].get()
    }

    /// A copy of the cells.
    pub(super) fn cells(&self) -> Cells {
        Cells { count: std::array::from_fn(|i| self.count[i].get()), mean: std::array::from_fn(|i| self.mean[i].get()) }
    }

    /// Multiplies all counts: the past fades.
    pub(super) fn decay(&self, factor: f64) {
        for count in &self.count {
            count.set(count.get() * factor);
        }
        self.dispatches.set(self.dispatches.get() * factor);
    }

    /// Replaces the cells.
    pub(super) fn set_cells(&self, cells: &Cells) {
        for (cell, value) in self.count.iter().zip(&cells.count).chain(self.mean.iter().zip(&cells.mean)) {
            cell.set(*value);
        }
    }
}
