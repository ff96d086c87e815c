//! When to try something else than the best, and whom: ε-greedy with decay, upper confidence bounds, ties within a
//! tolerance, rotation, and a boost when too few backends get all the work. Shared by both agents.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::atomic::Number;

/// ε: starts high, is multiplied by `decay` at each step, never below `floor`.
#[derive(Debug)]
pub struct Epsilon {
    now: Number,
    decay: f64,
    floor: f64,
}

impl Epsilon {
    /// A schedule from `initial`.
    pub fn new(initial: f64, decay: f64, floor: f64) -> Self {
        Self { now: Number::new(initial.max(floor)), decay, floor }
    }

    /// The present value.
    #[inline]
    pub fn now(&self) -> f64 {
        self.now.get()
    }

    /// The value for this decision; the next one is a step further. At the floor nothing is written.
    #[inline]
    pub fn step(&self) -> f64 {
        let value = self.now.get();
        if value > self.floor {
            self.now.set((value * self.decay).max(self.floor));
        }
        value
    }

    /// Goes on from a value that was saved.
    pub fn resume(&self, value: f64) {
        self.now.set(value.max(self.floor));
    }

    /// Halves the present value, not below the floor.
    pub fn halve(&self) {
        self.now.set((self.now.get() / 2.0).max(self.floor));
    }
}

/// Upper confidence bound of a value seen `visits` times in `total` decisions: `q + c √(ln N / n)`.
#[inline]
pub fn upper_confidence(q: f64, c: f64, total: f64, visits: f64) -> f64 {
    q + c * (total.ln() / visits).sqrt()
}

/// Counts picks in a row of the same backend. One atomic word: the slot above, the run below.
#[derive(Debug)]
pub struct Rotation(AtomicU64);

/// Bits of the run length.
const RUN_BITS: u32 = 32;

impl Default for Rotation {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX << RUN_BITS))
    }
}

impl Rotation {
    /// How many times in a row `slot` was picked, up to now.
    #[inline]
    pub fn run(&self, slot: usize) -> u64 {
        let word = self.0.load(Relaxed);
        if word >> RUN_BITS == slot as u64 { word & u64::from(u32::MAX) } else { 0 }
    }

    /// `slot` was picked.
    #[inline]
    pub fn picked(&self, slot: usize) {
        let run = (self.run(slot) + 1).min(u64::from(u32::MAX));
        self.0.store((slot as u64) << RUN_BITS | run, Relaxed);
    }
}

/// Shannon entropy of how often each backend was picked, divided by that of an even share: 1 even, 0 all to one.
/// `kinds` is the number of backends there are; with fewer than two, or no picks, the share is even.
pub fn diversity(counts: impl Iterator<Item = f64>, kinds: usize) -> f64 {
    // H = −Σ p log p with p = c / T is log T − Σ c log c / T: one pass.
    let (total, sum) = counts
        .filter(|count| *count > 0.0)
        .fold((0.0, 0.0), |(total, sum), count| (total + count, sum + count * count.log2()));
    if kinds < 2 || total <= 0.0 {
        return 1.0;
    }
    (total.log2() - sum / total) / (kinds as f64).log2()
}

/// What is added to ε when diversity is below `threshold`: at most `threshold · boost`.
pub fn diversity_boost(diversity: f64, threshold: f64, boost: f64) -> f64 {
    (threshold - diversity).max(0.0) * boost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epsilon_decays_to_its_floor() {
        let epsilon = Epsilon::new(0.3, 0.998, 0.01);
        for step in 0..500 {
            assert!((epsilon.step() - 0.3 * 0.998_f64.powi(step)).abs() < 1e-12);
        }
        for _ in 0..5000 {
            epsilon.step();
        }
        assert_eq!(epsilon.now(), 0.01);
        epsilon.halve();
        assert_eq!(epsilon.now(), 0.01);
    }

    #[test]
    fn the_guides_schedule_after_fifty_episodes() {
        // The guide prints 0.61 for 0.8 · 0.995^50; the formula gives 0.6226. The formula is what both follow.
        let epsilon = Epsilon::new(0.8, 0.995, 0.1);
        for _ in 0..50 {
            epsilon.step();
        }
        assert!((epsilon.now() - 0.6226).abs() < 1e-4);
    }

    #[test]
    fn the_guides_upper_confidence_bounds() {
        for (q, visits, printed) in [(0.75, 45.0, 1.40), (0.82, 67.0, 1.36), (0.45, 12.0, 1.72)] {
            assert!((upper_confidence(q, 2.0, 124.0, visits) - printed).abs() < 0.006, "{printed}");
        }
    }

    #[test]
    fn runs_are_counted_per_slot() {
        let rotation = Rotation::default();
        assert_eq!(rotation.run(0), 0);
        for run in 1..5 {
            rotation.picked(2);
            assert_eq!(rotation.run(2), run);
        }
        rotation.picked(1);
        assert_eq!((rotation.run(2), rotation.run(1)), (0, 1));
    }

    #[test]
    fn diversity_is_one_when_even_and_boosts_when_concentrated() {
        assert!((diversity([5.0; 4].into_iter(), 4) - 1.0).abs() < 1e-12);
        assert_eq!(diversity([9.0, 0.0].into_iter(), 2), 0.0);
        assert_eq!(diversity([0.0, 0.0].into_iter(), 2), 1.0);
        assert!((diversity_boost(0.0, 0.6, 0.3) - 0.18).abs() < 1e-12, "the guide: up to 18 %");
        assert_eq!(diversity_boost(0.7, 0.6, 0.3), 0.0);
    }
}
