//! What active probes of a backend found: counters by result, and the last report, for metrics and the admin API.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How one active probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// As expected.
    Passed,
    /// Refused, broken, or a status that was not expected.
    Failed,
    /// No answer in time.
    TimedOut,
    /// The backend said that it is still loading.
    Loading,
    /// The backend said that it takes no more at present: full, or broken.
    Busy,
    /// We had no descriptor or memory to ask it.
    Starved,
}

impl ProbeResult {
    /// Every result, in the order of the counters.
    pub const ALL: [Self; 6] = [Self::Passed, Self::Failed, Self::TimedOut, Self::Loading, Self::Busy, Self::Starved];

    /// The label in metrics and the admin API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
            Self::Loading => "loading",
            Self::Busy => "busy",
            Self::Starved => "starved",
        }
    }
}

/// What an active probe found.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReport {
    /// How it ended.
    pub result: ProbeResult,
    /// What was seen, for people: `status 200`, `connection refused`.
    pub detail: String,
    /// How long it took.
    pub took: Duration,
}

/// Active probes of one backend: how many ended how, and the last one.
#[derive(Debug, Default)]
pub struct Probes {
    counts: [AtomicU64; ProbeResult::ALL.len()],
    /// Written once per probe, read by who shows it.
    last: Mutex<Option<(ProbeReport, Instant)>>,
}

impl Probes {
    /// Stores a report that came in `now`.
    pub fn ended(&self, report: &ProbeReport, now: Instant) {
        for (result, count) in ProbeResult::ALL.into_iter().zip(&self.counts) {
            if result == report.result {
                count.fetch_add(1, Relaxed);
            }
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((report.clone(), now));
    }

    /// Probes so far, by result.
    pub fn counts(&self) -> impl Iterator<Item = (ProbeResult, u64)> {
        ProbeResult::ALL.into_iter().zip(self.counts.iter().map(|count| count.load(Relaxed)))
    }

    /// The last probe and when it ended.
    pub fn last(&self) -> Option<(ProbeReport, Instant)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
