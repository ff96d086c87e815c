//! What the agent knows of one backend: level, cells, curve, drift, errors, the slow trial, and the cost that follows
//! from them. All atomics; a record begins on a cache line of its own, so workers that watch different backends do not
//! disturb each other.

use std::sync::atomic::AtomicU64;

use super::super::atomic::{Number, step};
use super::super::records;
use super::super::statistics::Tally;
use super::drift::{Band, Drift};
use super::faults::Faults;
use super::quote::{Quote, Quoted};
use super::value::{BINS, Cells, Curve, bin};

/// Seconds charged per request in flight, in levels: every request there slows, or waits for, the new one and the
/// others. It keeps the cost rising where the curve is flat (batching, processor sharing).
pub const OWN_LOAD: f64 = 0.5;
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
const SLOW_INTERVAL: (f64, f64) = (1.0, 10.0);
/// Longest interval of slow trials, in first intervals.
const SLOW_LONGEST: f64 = 8.0;
/// The trial was fast: the next one as soon as the backend is idle.
const AT_ONCE: f64 = -1.0;

/// What a cost needs to know of the pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pool<'a> {
    /// Median level, seconds; 0: nothing known.
    pub(super) median: f64,
    /// Seconds that an error costs.
    pub(super) error_unit: f64,
    pub(super) band: &'a Band,
}

/// Why an idle backend gets a request whatever its price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// It failed: is it better?
    Error,
    /// It became slow, or never answered: how fast is it?
    Slow,
}

/// One backend. In this order: the first cache line is all that a pick reads of a backend whose cost still holds, the
/// next three are what a cost is made of and what every outcome changes, besides one line of the curve and two of cells.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Record {
    owner: AtomicU64,
    quote: Quote,
    /// When a request was last sent here; negative: never.
    pub(super) used: Number,
    /// L: typical latency, seconds; 0: never sampled.
    pub(super) level: Number,
    /// How much of what is above the median is still believed, 1 to 0.
    fade: Number,
    /// p: interval of slow trials; 0: the first, negative: at once.
    slow_interval: Number,
    /// ρ: total time of streams per predicted latency.
    pub(super) holding: Number,
    pub(super) drift: Drift,
    pub(super) faults: Faults,
    /// k: samples of the level.
    pub(super) samples: Number,
    /// When the last sample came.
    sampled: Number,
    /// When it was last a candidate, as of a compilation.
    pub(super) offered: Number,
    /// Requests sent here, decaying: for diversity.
    pub(super) dispatches: Number,
    pub(super) tally: Tally,
    pub(super) curve: Curve,
    count: [Number; BINS],
    mean: [Number; BINS],
}

impl Default for Record {
    fn default() -> Self {
        let record = Self {
            owner: AtomicU64::new(0),
            quote: Quote::default(),
            used: Number::default(),
            level: Number::default(),
            fade: Number::default(),
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
        self.changed();
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
            return (unknown_level(median), 1.0);
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

    /// When an idle backend is due for a trial; infinite: it needs none.
    fn trial_at(&self, median: f64) -> f64 {
        if self.faults.suspected() {
            return self.faults.next_trial();
        }
        if !self.known() {
            // One that never answered is looked at once, or little traffic may never get to it.
            return f64::NEG_INFINITY;
        }
        if self.drift.multiplier() <= SLOW_DRIFT {
            return f64::INFINITY;
        }
        let interval = self.slow_interval.get();
        self.used.get() + if interval < 0.0 { 0.0 } else { interval.max(slow_interval(median)) }
    }

    /// C ÷ `weight` at `n` in flight: what was worked out before, if it still holds.
    #[inline]
    pub(super) fn cost(&self, n: u32, weight: u32, pool: &Pool<'_>, now: f64) -> f64 {
        if !self.quote.holds(n, weight, now) {
            self.requote(n, weight, pool, now);
        }
        self.quote.cost()
    }

    /// The trial that an idle backend is due for, after [`cost`](Self::cost) at none in flight.
    #[inline]
    pub(super) fn trial(&self, now: f64) -> Option<Trial> {
        let kind = || if self.quote.suspected() { Trial::Error } else { Trial::Slow };
        self.quote.trial_due(now).then(kind)
    }

    /// L and m in the cost at `n` in flight.
    pub(super) fn terms(&self, n: u32, weight: u32, pool: &Pool<'_>, now: f64) -> (f64, f64) {
        if self.quote.holds(n, weight, now) { self.quote.terms() } else { self.present(n, pool.median, pool.band, now) }
    }

    /// Works out C = L m [V(n) + ½ n] + E, and until when it holds.
    #[inline(never)]
    fn requote(&self, n: u32, weight: u32, pool: &Pool<'_>, now: f64) {
        let (level, drift) = self.present(n, pool.median, pool.band, now);
        let load = self.curve.value(n) + OWN_LOAD * f64::from(n);
        let cost = level * drift * load + pool.error_unit * self.faults.excess();
        let until = match self.gap(n) {
            _ if n == 0 => self.trial_at(pool.median),
            Some(gap) => self.drift.stall_at(n, gap),
            None => f64::INFINITY,
        };
        let suspected = self.faults.suspected();
        self.quote.keep(n, weight, &Quoted { cost: cost / f64::from(weight), until, level, drift, suspected });
    }

    /// What its cost is made of changed, or will by the request that goes there now.
    #[inline]
    pub(super) fn changed(&self) {
        self.quote.void();
    }

    /// An answer to a request that found the backend idle and slow: was it fast again?
    #[inline]
    pub(super) fn slow_trial_ended(&self, latency: f64, median: f64) {
        let drift = self.drift.multiplier();
        if drift <= SLOW_DRIFT {
            return;
        }
        let first_interval = slow_interval(median);
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
        let level = old * (1.0 + step(LEVEL_STEP, samples + 1.0) * error);
        self.level.set(level.max(LEAST_LATENCY));
        self.samples.set(samples + 1.0);
        let count = self.count[index].get() + 1.0;
        self.count[index].set(count);
        // A cell holds the shape of the curve. What makes the backend slow at this moment is the drift's to tell: put into
        // the cells it would outlast the slowness by minutes, since an idle backend refreshes no cell but that of its trials.
        let slowness = self.drift.multiplier().max(1.0);
        let relative = (latency / (level * slowness)).min(CELL_CLIP * predicted);
        self.mean[index].approach(relative, step(CELL_STEP, count.max(1.0)));
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
        self.holding.approach(held, step(HOLDING_STEP, self.samples.get() + 1.0));
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

/// First interval of slow trials.
fn slow_interval(median: f64) -> f64 {
    SLOW_INTERVAL.0.max(SLOW_INTERVAL.1 * median)
}

/// The level of a backend that never was sampled: the pool's, or any.
#[inline]
pub(super) fn unknown_level(median: f64) -> f64 {
    if median > 0.0 { median } else { 1e-3 }
}
