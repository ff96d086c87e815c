//! A histogram with fixed buckets, as metrics scrape it: recording is two additions, nothing grows between scrapes.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Upper bounds of latency buckets, seconds: half a millisecond to ten minutes, fine enough for small answers and for
/// long streams.
pub const HISTOGRAM_BUCKETS: [f64; 22] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0,
];

/// Counts by bucket since the process began.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; HISTOGRAM_BUCKETS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Adds one value.
    #[inline]
    pub fn record(&self, value: Duration) {
        let seconds = value.as_secs_f64();
        let index = HISTOGRAM_BUCKETS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_nanos.fetch_add(value.as_nanos() as u64, Relaxed);
    }

    /// Counts per bucket (the last is above every bound) and the sum in seconds.
    pub fn snapshot(&self) -> ([u64; HISTOGRAM_BUCKETS.len() + 1], f64) {
        let mut counts = [0; HISTOGRAM_BUCKETS.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Relaxed);
        }
        (counts, self.sum_nanos.load(Relaxed) as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for millis in [1, 2, 1000, 700_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let (counts, sum) = histogram.snapshot();
        assert_eq!(counts[1], 1, "1 ms is le=0.001");
        assert_eq!(counts[2], 1, "2 ms is le=0.0025");
        assert_eq!(counts[12], 1, "1 s is le=1");
        assert_eq!(counts[HISTOGRAM_BUCKETS.len()], 1, "700 s is above every bound");
        assert!((sum - 701.003).abs() < 1e-9);
    }
}
