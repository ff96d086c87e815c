//! How the attempts at a backend ended lately: what ejection by failure rate compares between the backends of a pool.
//!
//! Requests only count in the totals of [`Stats`](super::Stats), as they do anyway; a look a few times a second
//! remembers those totals, and the present ones less the remembered ones are the last half minute.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// A rate is taken over this long: a backend of a few requests a second shows some fifty, and one that was mended is
/// judged anew soon.
const WINDOW_NANOS: u64 = 30_000_000_000;
/// How often the totals are remembered; the window is so much longer at most.
const SLICE_NANOS: u64 = 3_000_000_000;

/// Attempts counted by how they ended; clients that left are in neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Answers.
    pub good: u64,
    /// Failures that blame the backend.
    pub bad: u64,
}

impl Tally {
    /// All of them.
    pub fn attempts(self) -> u64 {
        self.good + self.bad
    }

    /// The share that failed; few attempts are drawn towards none, since a first failure is no rate.
    pub fn share(self) -> f64 {
        self.bad as f64 / (self.attempts() + 2) as f64
    }

    /// The least share that would explain what was seen, `deviations` standard deviations down: Wilson's interval,
    /// honest for few attempts and for shares near 0 and 1. 0 without attempts.
    pub fn share_at_least(self, deviations: f64) -> f64 {
        let (middle, reach) = self.interval(deviations);
        (middle - reach).max(0.0)
    }

    /// The largest share that would explain what was seen; 1 without attempts.
    pub fn share_at_most(self, deviations: f64) -> f64 {
        let (middle, reach) = self.interval(deviations);
        (middle + reach).min(1.0)
    }

    fn interval(self, z: f64) -> (f64, f64) {
        let n = self.attempts() as f64;
        if n == 0.0 {
            return (0.5, 0.5);
        }
        let (p, square) = (self.bad as f64 / n, z * z);
        let scale = 1.0 + square / n;
        let middle = (p + square / (2.0 * n)) / scale;
        (middle, z / scale * (p * (1.0 - p) / n + square / (4.0 * n * n)).sqrt())
    }

    fn since(self, before: Self) -> Self {
        Self { good: self.good.saturating_sub(before.good), bad: self.bad.saturating_sub(before.bad) }
    }
}

/// The beginning of the window, movable without disturbing who reads it.
#[derive(Debug, Default)]
pub(super) struct Recent {
    good_before: AtomicU64,
    bad_before: AtomicU64,
    /// Totals at moments of the window, oldest first; nanoseconds after the backend's birth.
    slices: Mutex<VecDeque<(u64, Tally)>>,
}

impl Recent {
    /// What of `totals` fell into the window.
    pub(super) fn tally(&self, totals: Tally) -> Tally {
        totals.since(Tally { good: self.good_before.load(Relaxed), bad: self.bad_before.load(Relaxed) })
    }

    /// Time passed: remembers the totals, and lets the window begin later.
    pub(super) fn look(&self, totals: Tally, at: u64) {
        let mut slices = self.lock();
        if slices.back().is_none_or(|(last, _)| at.saturating_sub(*last) >= SLICE_NANOS) {
            slices.push_back((at, totals));
        }
        // The newest moment that is a window ago; before there is one, the window began at the start.
        while slices.get(1).is_some_and(|(next, _)| at.saturating_sub(*next) >= WINDOW_NANOS) {
            slices.pop_front();
        }
        if let Some((_, before)) = slices.front().filter(|(first, _)| at.saturating_sub(*first) >= WINDOW_NANOS) {
            self.begin(*before);
        }
    }

    /// What was before counts no more.
    pub(super) fn restart(&self, totals: Tally) {
        self.lock().clear();
        self.begin(totals);
    }

    /// A failure that belongs to the time before the window began is taken out of it.
    pub(super) fn excuse(&self) {
        self.bad_before.fetch_add(1, Relaxed);
        for (_, before) in self.lock().iter_mut() {
            before.bad += 1;
        }
    }

    fn begin(&self, before: Tally) {
        self.good_before.store(before.good, Relaxed);
        self.bad_before.store(before.bad, Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(u64, Tally)>> {
        self.slices.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(good: u64, bad: u64) -> Tally {
        Tally { good, bad }
    }

    #[test]
    fn few_attempts_prove_little() {
        let least = |good, bad| (tally(good, bad).share_at_least(3.0) * 100.0).round();
        assert_eq!(
            [least(0, 0), least(9, 1), least(10, 10), least(100, 100), least(1000, 1000)],
            [0.0, 1.0, 22.0, 40.0, 47.0]
        );
        let most = |good, bad| (tally(good, bad).share_at_most(2.0) * 100.0).round();
        assert_eq!([most(0, 0), most(3, 0), most(20, 0), most(1000, 0)], [100.0, 57.0, 17.0, 0.0]);
        for (good, bad) in [(0, 0), (0, 1), (1, 0), (7, 3), (1 << 40, 1 << 39)] {
            let it = tally(good, bad);
            assert!(it.share_at_least(3.0) <= it.share() + 1e-9 || bad == 0, "{it:?}");
            assert!((0.0..=1.0).contains(&it.share_at_least(3.0)) && (0.0..=1.0).contains(&it.share_at_most(3.0)));
        }
    }

    #[test]
    fn the_window_moves_and_begins_anew() {
        let second = 1_000_000_000;
        let recent = Recent::default();
        let mut total = Tally::default();
        for at in 0..100 {
            total.good += 1;
            recent.look(total, at * second);
            let seen = recent.tally(total).attempts();
            assert!(seen >= (at + 1).min(30) && seen <= (at + 1).min(34), "{at} s: {seen}");
        }
        recent.restart(total);
        total.bad += 5;
        recent.look(total, 100 * second);
        recent.excuse();
        assert_eq!(recent.tally(total), tally(0, 4), "one of the five was of an earlier time");
        recent.look(total, 200 * second);
        recent.look(total, 240 * second);
        assert_eq!(recent.tally(total).attempts(), 0, "all of it is old");
    }
}
