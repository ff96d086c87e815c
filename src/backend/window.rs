//! Percentiles and success rate of the last minute: a ring of log-scale histograms, each of a slice of time.
//!
//! Recording adds to two counters of the present slice; whoever is first in a new slice empties the oldest one. Values
//! recorded by other workers during those microseconds may be lost: a percentile does not notice.

use std::fmt;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// Length of the window that [`Window::counts`] covers at least; at most one slice more.
pub const WINDOW: Duration = Duration::from_secs(60);

const SLICE_NANOS: u64 = 15_000_000_000;
/// The present slice and four whole ones before it.
const SLICES: usize = 5;
/// 2^13 ns = 8.2 µs is the unit; eight sub-buckets an octave make a bucket at most an eighth of its value wide.
const UNIT_BITS: u32 = 13;
const SUB_BITS: u32 = 3;
/// The last bucket ends at 2^28 units, 37 minutes; longer values count there.
const BUCKETS: usize = 208;

/// A slice that is being emptied.
const EMPTYING: u64 = u64::MAX;

struct Slice {
    /// Which slice of time this holds, from 1; 0: none yet.
    epoch: AtomicU64,
    failures: AtomicU32,
    answers: [AtomicU32; BUCKETS],
}

/// The outcomes of about the last minute.
pub(super) struct Window {
    slices: [Slice; SLICES],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            slices: std::array::from_fn(|_| Slice {
                epoch: AtomicU64::new(0),
                failures: AtomicU32::new(0),
                answers: [const { AtomicU32::new(0) }; BUCKETS],
            }),
        }
    }
}

impl Window {
    /// An answer took so long.
    #[inline]
    pub(super) fn answered(&self, took: Duration, at_nanos: u64) {
        if let Some(count) = self.slice(at_nanos).answers.get(bucket_of(took)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// The backend failed.
    #[inline]
    pub(super) fn failed(&self, at_nanos: u64) {
        self.slice(at_nanos).failures.fetch_add(1, Relaxed);
    }

    #[inline]
    fn slice(&self, at_nanos: u64) -> &Slice {
        let epoch = at_nanos / SLICE_NANOS + 1;
        let slice = &self.slices[(epoch % SLICES as u64) as usize];
        let held = slice.epoch.load(Acquire);
        // A worker whose clock reading is a little older than the slice must not turn it back.
        if held < epoch && slice.epoch.compare_exchange(held, EMPTYING, AcqRel, Relaxed).is_ok() {
            slice.failures.store(0, Relaxed);
            for count in &slice.answers {
                count.store(0, Relaxed);
            }
            slice.epoch.store(epoch, Release);
        }
        slice
    }

    /// What the window holds.
    pub(super) fn counts(&self, at_nanos: u64) -> Counts {
        let epoch = at_nanos / SLICE_NANOS + 1;
        let mut counts = Counts { answers: [0; BUCKETS], answered: 0, failed: 0 };
        for slice in &self.slices {
            let held = slice.epoch.load(Acquire);
            if held == 0 || held == EMPTYING || held + SLICES as u64 <= epoch {
                continue;
            }
            counts.failed += u64::from(slice.failures.load(Relaxed));
            for (sum, count) in counts.answers.iter_mut().zip(&slice.answers) {
                *sum += u64::from(count.load(Relaxed));
            }
        }
        counts.answered = counts.answers.iter().sum();
        counts
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").finish_non_exhaustive()
    }
}

/// A copy of the window's counters.
pub(super) struct Counts {
    answers: [u64; BUCKETS],
    pub(super) answered: u64,
    pub(super) failed: u64,
}

impl Counts {
    /// The time, in seconds, that a share `q` of the answers did not exceed; `None` without answers.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        if self.answered == 0 {
            return None;
        }
        let rank = q * self.answered as f64;
        let mut below = 0.0;
        for (index, count) in self.answers.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                let (from, to) = (start_of(index), start_of(index + 1));
                return Some(from + (to - from) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
        }
        None
    }
}

#[inline]
fn bucket_of(took: Duration) -> usize {
    let units = (took.as_nanos() as u64) >> UNIT_BITS;
    if units < 1 << SUB_BITS {
        return units as usize;
    }
    let top = 63 - units.leading_zeros();
    let sub = (units >> (top - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    ((((top - SUB_BITS + 1) as usize) << SUB_BITS) + sub).min(BUCKETS - 1)
}

/// Where a bucket begins, in seconds.
fn start_of(index: usize) -> f64 {
    let unit = (1u64 << UNIT_BITS) as f64 / 1e9;
    let (octave, sub) = (index >> SUB_BITS, index & ((1 << SUB_BITS) - 1));
    if octave == 0 {
        return sub as f64 * unit;
    }
    ((1 << SUB_BITS) + sub) as f64 * 2f64.powi(octave as i32 - 1) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: u64) -> u64 {
        s * 1_000_000_000
    }

    #[test]
    fn each_value_lies_in_its_bucket_and_no_bucket_is_wider_than_an_eighth() {
        let mut nanos = 1u64;
        while nanos < seconds(2000) {
            let index = bucket_of(Duration::from_nanos(nanos));
            let (from, to) = (start_of(index) * 1e9, start_of(index + 1) * 1e9);
            assert!(from <= nanos as f64 && (nanos as f64) < to, "{nanos} ns in bucket {index}: {from}..{to}");
            assert!(index < 8 || (to - from) / from <= 0.125 + 1e-9, "bucket {index} is too wide");
            nanos = nanos * 11 / 10 + 1;
        }
        assert_eq!(bucket_of(Duration::from_secs(1_000_000)), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let window = Window::default();
        for millis in 1..=1000 {
            window.answered(Duration::from_millis(millis), seconds(1));
        }
        let counts = window.counts(seconds(2));
        for (q, truth) in [(0.5, 0.5), (0.95, 0.95), (0.99, 0.99)] {
            let found = counts.quantile(q).unwrap();
            assert!((found / truth - 1.0).abs() < 0.03, "q{q}: {found}");
        }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten_and_what_is_younger_is_not() {
        let window = Window::default();
        window.answered(Duration::from_millis(10), seconds(14));
        window.failed(seconds(14));
        assert_eq!(window.counts(seconds(73)).answered, 1, "59 s old");
        assert_eq!(window.counts(seconds(90)).answered, 0, "76 s old");
        // The ring comes round to the same slice and must have been emptied.
        window.answered(Duration::from_millis(20), seconds(80));
        let counts = window.counts(seconds(80));
        assert_eq!((counts.answered, counts.failed), (1, 0));
        // A straggler with an older clock does not empty the new slice.
        window.answered(Duration::from_millis(20), seconds(14));
        assert_eq!(window.counts(seconds(80)).answered, 2);
    }

    #[test]
    fn an_empty_window_has_no_quantiles() {
        assert_eq!(Window::default().counts(seconds(5)).quantile(0.5), None);
    }
}
