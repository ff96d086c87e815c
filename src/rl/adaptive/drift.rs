//! Is the backend as fast as learned, now?
//!
//! Completions are watched, not latencies. `x` is the number of completions that should have happened since the last one,
//! `∫ n / (ρ P(n − 1)) dt`; its mean is 1 while the model is right. It counts requests that have *not* come back, so a
//! stall shows before any response does. The multiplier `m` follows the ratio of a fast to a slow mean of `x`, outside a
//! deadband of three standard errors.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use super::super::atomic::{Number, step};

/// One gap counts at most as this many expected completions.
const GAP_CAP: f64 = 8.0;
/// Step of the slow mean: five hundred completions.
const SLOW_STEP: f64 = 0.002;
/// No opinion before this many completions.
const MINIMUM: u32 = 30;
/// Width of the deadband in standard errors: false alarms cost more than a late 1.5 ×.
const DEADBAND: f64 = 3.0;
/// A gap this many times its mean is believed while it still lasts.
const STALL: f64 = 2.0;
/// Least ratio that is believed: keeps the logarithm finite.
const LEAST_RATIO: f64 = 1e-3;
/// Least time between completions in seconds: keeps divisions finite.
const LEAST_GAP: f64 = 1e-9;

/// What the learning rate α means for the drift, worked out once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    alpha: f64,
    /// A ratio of fast to slow mean between 1 ÷ this and this is chance: e to the power of the deadband.
    chance: f64,
    deadband: f64,
}

impl Band {
    /// The standard error of the ratio by chance is √(α / (2 − α)): gaps are exponential.
    pub(super) fn new(alpha: f64) -> Self {
        let chance = 1.0 + DEADBAND * (alpha / (2.0 - alpha)).sqrt();
        Self { alpha, chance, deadband: chance.ln() }
    }
}

/// Exposure and multiplier of one backend. A cost needs the first four.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Drift {
    /// x: completions expected since the last one.
    exposure: Number,
    /// Until when `exposure` is up to date, seconds.
    since: Number,
    /// x̄: slow mean of x.
    slow: Number,
    /// m as of the last completion.
    multiplier: Number,
    /// f: fast mean of x.
    fast: Number,
    /// j: completions seen.
    completions: AtomicU32,
}

/// The part that is saved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Means {
    pub(super) fast: f64,
    pub(super) slow: f64,
    pub(super) completions: u32,
}

impl Default for Drift {
    fn default() -> Self {
        let drift = Self {
            exposure: Number::default(),
            since: Number::default(),
            fast: Number::default(),
            slow: Number::default(),
            completions: AtomicU32::new(0),
            multiplier: Number::default(),
        };
        drift.reset(0.0);
        drift
    }
}

impl Drift {
    /// Forgets everything.
    pub(super) fn reset(&self, now: f64) {
        self.since.set(now);
        self.resume(Means { fast: 1.0, slow: 1.0, completions: 0 }, &Band::new(0.0));
    }

    /// Goes on from means that were saved.
    pub(super) fn resume(&self, means: Means, band: &Band) {
        self.exposure.set(0.0);
        self.fast.set(means.fast);
        self.slow.set(means.slow);
        self.completions.store(means.completions, Relaxed);
        self.multiplier.set(if band.alpha > 0.0 { self.judge(means.fast, band) } else { 1.0 });
    }

    /// What is worth saving.
    pub(super) fn means(&self) -> Means {
        Means { fast: self.fast.get(), slow: self.slow.get(), completions: self.completions.load(Relaxed) }
    }

    /// m as of the last completion.
    #[inline]
    pub(super) fn multiplier(&self) -> f64 {
        self.multiplier.get()
    }

    /// `gap` times what x has grown by since it was brought up to date, with `n` in flight.
    #[inline]
    fn waited(&self, n: u32, now: f64) -> f64 {
        f64::from(n) * (now - self.since.get()).max(0.0)
    }

    /// x as of now, with `n` in flight of which one should end every `gap ÷ n` seconds.
    #[inline]
    fn exposure_now(&self, n: u32, gap: f64, now: f64) -> f64 {
        self.exposure.get() + self.waited(n, now) / gap.max(LEAST_GAP)
    }

    /// m as of now: as of the last completion, unless the present gap is already long.
    #[inline]
    pub(super) fn multiplier_now(&self, n: u32, gap: f64, now: f64, band: &Band) -> f64 {
        // x > 2 x̄, without the division that every candidate of every pick would pay.
        let until_stall = STALL * self.slow.get() - self.exposure.get();
        if self.waited(n, now) > until_stall * gap.max(LEAST_GAP) {
            self.stalled(n, gap, now, band)
        } else {
            self.multiplier.get()
        }
    }

    /// When the present gap begins to be long enough for that, if nothing comes or goes.
    pub(super) fn stall_at(&self, n: u32, gap: f64) -> f64 {
        let until_stall = STALL * self.slow.get() - self.exposure.get();
        self.since.get() + until_stall * gap.max(LEAST_GAP) / f64::from(n)
    }

    /// m while the present gap is long: as if it ended now.
    #[inline(never)]
    fn stalled(&self, n: u32, gap: f64, now: f64, band: &Band) -> f64 {
        let x = self.exposure_now(n, gap, now);
        self.judge(self.fast.get() + band.alpha * (x - self.slow.get()), band)
    }

    /// The count in flight is about to change from `n`: brings x up to date. `gap` is ρ P(n − 1) in seconds; `None`
    /// while nothing is known of the backend.
    #[inline]
    pub(super) fn advance(&self, n: u32, gap: Option<f64>, now: f64) {
        if n > 0
            && let Some(gap) = gap
        {
            self.exposure.set(self.exposure_now(n, gap, now));
        }
        self.since.set(now.max(self.since.get()));
    }

    /// The backend was idle and gets a request: there was nothing to complete.
    #[inline]
    pub(super) fn woken(&self) {
        self.exposure.set(0.0);
    }

    /// A request completed well.
    #[inline]
    pub(super) fn completed(&self, band: &Band) {
        let x = self.exposure.get().min(GAP_CAP);
        self.fast.approach(x, band.alpha);
        let seen = self.completions.load(Relaxed);
        self.slow.approach(x, step(SLOW_STEP, f64::from(seen) + 2.0));
        self.completions.store(seen.saturating_add(1), Relaxed);
        self.exposure.set(0.0);
    }

    /// Forms m anew from the means.
    #[inline]
    pub(super) fn conclude(&self, band: &Band) {
        self.multiplier.set(self.judge(self.fast.get(), band));
    }

    /// The multiplier that the fast mean `fast` means: `exp(± clamp(2 (|a| − deadband), 0, |a|))`, `a = ln(f / x̄)`.
    #[inline]
    fn judge(&self, fast: f64, band: &Band) -> f64 {
        let slow = self.slow.get().max(LEAST_GAP);
        let by_chance = fast <= slow * band.chance && fast * band.chance >= slow;
        if by_chance || self.completions.load(Relaxed) < MINIMUM {
            return 1.0;
        }
        believed(fast / slow, band.deadband)
    }
}

/// The part of a ratio that is beyond the deadband, twice, but not more than the ratio.
#[inline(never)]
fn believed(ratio: f64, deadband: f64) -> f64 {
    let a = ratio.max(LEAST_RATIO).ln();
    let believed = (2.0 * (a.abs() - deadband)).clamp(0.0, a.abs());
    (believed * a.signum()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALPHA: f64 = 0.1;

    fn band() -> Band {
        Band::new(ALPHA)
    }

    /// Requests one after the other, each lasting `latency`, where `gap` was expected.
    fn serve(drift: &Drift, now: &mut f64, count: usize, latency: f64, gap: f64) {
        for _ in 0..count {
            drift.advance(0, Some(gap), *now);
            drift.woken();
            *now += latency;
            drift.advance(1, Some(gap), *now);
            drift.completed(&band());
            drift.conclude(&band());
        }
    }

    #[test]
    fn as_learned_is_one_and_a_slowdown_is_believed_once_it_is_clear() {
        let (drift, mut now) = (Drift::default(), 0.0);
        serve(&drift, &mut now, 200, 0.1, 0.1);
        assert_eq!(drift.multiplier(), 1.0);
        serve(&drift, &mut now, 60, 0.14, 0.1);
        assert_eq!(drift.multiplier(), 1.0, "1.4 is within chance");
        serve(&drift, &mut now, 40, 0.5, 0.1);
        assert!(drift.multiplier() > 2.5, "{}", drift.multiplier());
    }

    #[test]
    fn a_stall_shows_before_any_answer() {
        let (drift, mut now) = (Drift::default(), 0.0);
        serve(&drift, &mut now, 200, 0.1, 0.1);
        drift.advance(0, Some(0.1), now);
        drift.woken();
        assert_eq!(drift.multiplier_now(4, 0.1, now + 0.02, &band()), 1.0);
        assert!(drift.multiplier_now(4, 0.1, now + 1.0, &band()) > 3.0);
        assert_eq!(drift.multiplier(), 1.0, "nothing is stored by looking");
    }

    #[test]
    fn no_opinion_before_thirty_completions() {
        let (drift, mut now) = (Drift::default(), 0.0);
        serve(&drift, &mut now, 10, 0.1, 0.1);
        serve(&drift, &mut now, 19, 5.0, 0.1);
        assert_eq!(drift.multiplier(), 1.0);
    }
}
