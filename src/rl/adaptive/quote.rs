//! What one more request costs at a backend, kept until something changes.
//!
//! A cost depends on what was learned there and on the requests in flight, and both change when a request comes or goes,
//! which at most picks is so for two backends of the pool. The others' costs still hold, so a pick compares numbers that
//! were worked out before. Only one thing changes by the clock alone: a backend that is silent for long counts as slow,
//! and one that is idle may be due for a trial. When that will be is known beforehand, and kept beside the cost.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::super::atomic::Number;

/// Bit of the key above the requests in flight: the backend is suspected.
const SUSPECTED: u64 = 1 << 32;

/// The weight is above that.
const WEIGHT_SHIFT: u32 = 33;

/// No key of a cost: weights are at most 1,000.
const NONE: u64 = u64::MAX;

/// What a kept cost is for.
#[inline]
fn key(n: u32, weight: u32) -> u64 {
    u64::from(weight) << WEIGHT_SHIFT | u64::from(n)
}

/// The kept cost of one backend. Workers may write it at the same moment, and a mixture then holds until the backend's
/// next request or the next compilation, a tenth of a second away at most.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Quote {
    /// The requests in flight and the weight that it is for, and whether the backend is suspected.
    key: AtomicU64,
    /// C ÷ weight, seconds.
    cost: Number,
    /// Busy: when the present silence is long enough to count, so that the cost must be worked out anew. Idle: when a
    /// trial is due.
    until: Number,
    /// The level and the drift in the cost, as two f32.
    terms: AtomicU64,
}

/// What a quote says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quoted {
    pub(super) cost: f64,
    pub(super) until: f64,
    pub(super) level: f64,
    pub(super) drift: f64,
    pub(super) suspected: bool,
}

impl Default for Quote {
    fn default() -> Self {
        Self { key: AtomicU64::new(NONE), cost: Number::default(), until: Number::default(), terms: AtomicU64::new(0) }
    }
}

impl Quote {
    /// Something changed.
    #[inline]
    pub(super) fn void(&self) {
        self.key.store(NONE, Relaxed);
    }

    /// Keeps the cost at `n` in flight.
    #[inline]
    pub(super) fn keep(&self, n: u32, weight: u32, quoted: &Quoted) {
        self.cost.set(quoted.cost);
        self.until.set(quoted.until);
        let [level, drift] = [quoted.level, quoted.drift].map(|term| u64::from((term as f32).to_bits()));
        self.terms.store(level << 32 | drift, Relaxed);
        self.key.store(key(n, weight) | if quoted.suspected { SUSPECTED } else { 0 }, Release);
    }

    /// Whether the kept cost is that at `n` in flight, now.
    #[inline]
    pub(super) fn holds(&self, n: u32, weight: u32, now: f64) -> bool {
        self.key.load(Acquire) & !SUSPECTED == key(n, weight) && (n == 0 || now < self.until.get())
    }

    /// C ÷ weight.
    #[inline]
    pub(super) fn cost(&self) -> f64 {
        self.cost.get()
    }

    /// Whether a trial is due; of an idle backend only.
    #[inline]
    pub(super) fn trial_due(&self, now: f64) -> bool {
        now >= self.until.get()
    }

    /// Whether that trial is one of a suspected backend.
    #[inline]
    pub(super) fn suspected(&self) -> bool {
        self.key.load(Relaxed) & SUSPECTED != 0
    }

    /// The level and the drift in the cost.
    pub(super) fn terms(&self) -> (f64, f64) {
        let terms = self.terms.load(Relaxed);
        let number = |bits: u64| f64::from(f32::from_bits(bits as u32));
        (number(terms >> 32), number(terms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_holds_for_its_load_until_its_moment() {
        let quote = Quote::default();
        let quoted = Quoted { cost: 0.25, until: 10.0, level: 0.5, drift: 2.0, suspected: true };
        assert!(!quote.holds(0, 1, 0.0), "nothing is kept yet");
        quote.keep(3, 1, &quoted);
        assert!(
            quote.holds(3, 1, 9.9) && !quote.holds(2, 1, 9.9) && !quote.holds(3, 2, 9.9) && !quote.holds(3, 1, 10.0)
        );
        assert_eq!((quote.cost(), quote.terms(), quote.suspected()), (0.25, (0.5, 2.0), true));
        quote.keep(0, 1, &Quoted { suspected: false, ..quoted });
        assert!(quote.holds(0, 1, 99.0), "an idle backend's cost does not change by the clock");
        assert!(!quote.trial_due(9.9) && quote.trial_due(10.0) && !quote.suspected());
        quote.void();
        assert!(!quote.holds(0, 1, 0.0));
    }
}
