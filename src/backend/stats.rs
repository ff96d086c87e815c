//! Counters, averages and fixed-bucket histograms of one backend: atomics only, so that every worker records without a
//! lock and nothing grows between scrapes.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Upper bounds of latency buckets, seconds: 1 ms to 10 min, fine enough for p99 of small answers and of long streams.
pub const HISTOGRAM_BUCKETS: [f64; 22] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    120.0, 300.0, 600.0,
];

/// A histogram with fixed buckets.
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
        self.buckets[index].fetch_add(1, Relaxed);
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

/// What is counted of one backend.
#[derive(Debug, Default)]
pub struct Stats {
    /// Attempts ended.
    pub attempts: AtomicU64,
    /// Of them, those that blame the backend.
    pub failures: AtomicU64,
    /// Times it was ejected.
    pub ejections: AtomicU64,
    /// Time to the first byte.
    pub first_byte: Histogram,
    /// Time to the last byte.
    pub total: Histogram,
}

/// The class of a response status, as metrics count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the contract's labels")]
pub enum CodeClass {
    C2xx,
    C3xx,
    C4xx,
    C5xx,
    /// The client left before a status.
    None,
}

impl CodeClass {
    /// Of a status; 1xx (a 101 that became a tunnel) counts as 2xx.
    pub fn of(status: u16) -> Self {
        match status {
            0 => Self::None,
            1..=299 => Self::C2xx,
            300..=399 => Self::C3xx,
            400..=499 => Self::C4xx,
            _ => Self::C5xx,
        }
    }

    /// The contract's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::C2xx => "2xx",
            Self::C3xx => "3xx",
            Self::C4xx => "4xx",
            Self::C5xx => "5xx",
            Self::None => "none",
        }
    }
}

impl Stats {
    /// An attempt at this backend ended.
    pub fn attempt_ended(&self, outcome: &super::Outcome, _now: std::time::Instant) {
        self.attempts.fetch_add(1, Relaxed);
        if outcome.ending.blames_backend() {
            self.failures.fetch_add(1, Relaxed);
        }
        if let Some(first) = outcome.first_byte {
            self.first_byte.record(first);
        }
    }

    /// A client's request, whose last attempt was here, ended.
    pub fn request_ended(&self, _class: CodeClass, total: Duration) {
        self.total.record(total);
    }
}
