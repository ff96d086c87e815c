//! What the load generator saw: latencies as quantiles, errors by kind, answers by instance.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// The recent view covers this long.
pub(super) const RECENT: Duration = Duration::from_secs(10);
/// Buckets grow by this factor, so a quantile is at most 2 % off.
const GROWTH: f64 = 1.04;
/// Upper bound of the first bucket, milliseconds.
const FIRST_MS: f64 = 0.1;
/// Enough buckets for 0.1 ms to an hour.
const BUCKETS: usize = 450;

/// How one request ended, for the client.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) took: Duration,
    /// Who answered, or what went wrong.
    pub(super) result: Result<String, String>,
}

/// The sums over a run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) by_instance: BTreeMap<String, u64>,
    all: Histogram,
    recent: VecDeque<(Instant, f64)>,
}

impl Tally {
    pub(super) fn ended(&mut self, ended: Ended, now: Instant) {
        match ended.result {
            Ok(instance) => {
                let ms = ended.took.as_secs_f64() * 1000.0;
                self.answered += 1;
                *self.by_instance.entry(instance).or_default() += 1;
                self.all.add(ms);
                self.recent.push_back((now, ms));
                self.forget(now);
            }
            Err(kind) => *self.errors.entry(kind).or_default() += 1,
        }
    }

    pub(super) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Errors by kind, the most frequent first.
    pub(super) fn error_kinds(&self) -> String {
        let mut kinds: Vec<_> = self.errors.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
    }

    /// Quantile of the answers of the last [`RECENT`], milliseconds.
    pub(super) fn recent(&mut self, quantile: f64, now: Instant) -> Option<f64> {
        self.forget(now);
        let mut sorted: Vec<f64> = self.recent.iter().map(|(_, ms)| *ms).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = (quantile * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    /// Quantile of all answers, milliseconds.
    pub(super) fn overall(&self, quantile: f64) -> Option<f64> {
        self.all.quantile(quantile)
    }

    fn forget(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > RECENT) {
            self.recent.pop_front();
        }
    }
}

/// Counts in buckets of growing width: bounded memory for a demo that runs all day.
#[derive(Debug)]
struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0 }
    }
}

impl Histogram {
    fn add(&mut self, ms: f64) {
        let index = ((ms / FIRST_MS).max(1.0).ln() / GROWTH.ln()).ceil() as usize;
        if let Some(bucket) = self.buckets.get_mut(index.min(BUCKETS - 1)) {
            *bucket += 1;
        }
        self.count += 1;
    }

    fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = (quantile * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let index = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        // The middle of the bucket, in the sense of ratios.
        Some(FIRST_MS * GROWTH.powf(index as f64 - 0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(ms: u64) -> Ended {
        Ended { took: Duration::from_millis(ms), result: Ok("a".into()) }
    }

    #[test]
    fn quantiles_are_within_two_percent() {
        let mut tally = Tally::default();
        let now = Instant::now();
        assert_eq!((tally.overall(0.5), tally.recent(0.5, now)), (None, None));
        for ms in 1..=10_000 {
            tally.ended(answer(ms), now);
        }
        for quantile in [0.01, 0.5, 0.99, 1.0] {
            let (exact, rough) = (tally.recent(quantile, now).unwrap(), tally.overall(quantile).unwrap());
            assert_eq!(exact, 10_000.0 * quantile);
            assert!((rough / exact - 1.0).abs() < 0.021, "{quantile}: {rough} for {exact}");
        }
    }

    #[test]
    fn what_is_not_recent_counts_only_overall_and_errors_have_no_latency() {
        let mut tally = Tally::default();
        let start = Instant::now();
        tally.ended(answer(5000), start);
        tally.ended(Ended { took: Duration::ZERO, result: Err("status 500".into()) }, start);
        let later = start + RECENT + Duration::from_secs(1);
        tally.ended(answer(10), later);
        assert_eq!(tally.recent(0.99, later), Some(10.0));
        assert!(tally.overall(0.99).unwrap() > 4000.0);
        assert_eq!((tally.failed(), tally.error_kinds().as_str()), (1, "1 status 500"));
        assert_eq!(tally.by_instance["a"], 2);
    }
}
