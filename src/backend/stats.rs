//! Everything that is counted of one backend, as the admin view, the metrics and the strategies need it: atomics only, no
//! lock, nothing that grows.
//!
//! The lease calls [`Stats::attempt_ended`] once per attempt; the proxy calls [`Stats::request_ended`] once per client
//! request, on the backend of its last attempt.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::averages::{Averages, FAILURE_SECONDS, FAILURE_SECONDS_MAX, Sample};
use super::histogram::Histogram;
use super::window::{WINDOW, Window};
use super::{Ending, Moment, Outcome, Reason};

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
    /// Every class, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::C2xx, Self::C3xx, Self::C4xx, Self::C5xx, Self::None];

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

/// How an attempt ended, as metrics count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// A whole response that blames nobody.
    Ok,
    /// A whole response that blames the backend: 5xx or 429.
    ErrorStatus,
    /// No connection or TLS session.
    ConnectFailed,
    /// No descriptor or memory of ours for a connection.
    Starved,
    /// Out of time.
    Timeout,
    /// The connection broke before the response was whole.
    Reset,
    /// The client left.
    ClientGone,
}

impl AttemptResult {
    /// Every result, in the order of the counters.
    pub const ALL: [Self; 7] =
        [Self::Ok, Self::ErrorStatus, Self::ConnectFailed, Self::Starved, Self::Timeout, Self::Reset, Self::ClientGone];

    /// Of an ending.
    #[inline]
    pub fn of(ending: Ending) -> Self {
        match ending {
            Ending::Served(_) if ending.blames_backend() => Self::ErrorStatus,
            Ending::Served(_) => Self::Ok,
            Ending::ConnectFailed => Self::ConnectFailed,
            Ending::Starved => Self::Starved,
            Ending::TimedOut => Self::Timeout,
            Ending::Reset => Self::Reset,
            Ending::ClientGone => Self::ClientGone,
        }
    }

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ErrorStatus => "error_status",
            Self::ConnectFailed => "connect_failed",
            Self::Starved => "starved",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::ClientGone => "client_gone",
        }
    }
}

/// What is counted of one backend. Lives in its record: a reload or a change of strategy leaves it alone.
///
/// One cache line, which picks read of every candidate; the kilobytes that no pick reads are elsewhere, so that the lines
/// of hundreds of backends lie close together.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Stats {
    averages: Averages,
    counted: Box<Counted>,
}

/// What people and metrics see, and no pick.
#[derive(Debug, Default)]
struct Counted {
    requests: [AtomicU64; CodeClass::ALL.len()],
    attempts: [AtomicU64; AttemptResult::ALL.len()],
    ejections: [AtomicU64; Reason::EJECTING.len()],
    first_byte: Histogram,
    total: Histogram,
    window: Window,
}

/// The numbers that the admin view shows; times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatsView {
    /// Client requests ended here.
    pub requests: u64,
    /// Attempts that blame the backend.
    pub failures: u64,
    /// Share of the window's attempts that do not; `None` without attempts.
    pub success_rate: Option<f64>,
    /// Decayed mean of good answers, last byte; `None` before the first.
    pub avg_response_time_ms: Option<f64>,
    /// Median of the window's good answers.
    pub p50_ms: Option<f64>,
    /// 95th percentile.
    pub p95_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Length of the window, seconds; up to a quarter of it more is in it.
    pub window_s: u64,
}

impl Stats {
    /// Bytes of what is elsewhere.
    #[cfg(test)]
    pub(super) const LARGE: usize = size_of::<Counted>();

    /// An attempt at this backend ended `now`.
    #[inline]
    pub fn attempt_ended(&self, outcome: &Outcome, now: Instant) {
        let result = AttemptResult::of(outcome.ending);
        let counted = &*self.counted;
        counted.attempts[result as usize].fetch_add(1, Relaxed);
        if let Some(first_byte) = outcome.first_byte {
            counted.first_byte.record(first_byte);
        }
        let at = Moment::of(now).nanos();
        match result {
            AttemptResult::Ok => {
                counted.window.answered(outcome.total, at);
                let total = outcome.total.as_secs_f64();
                let sample = match outcome.ending {
                    // The client's fault, and no work: a backend that knows no path at all is not a fast one.
                    Ending::Served(400..=499) => Sample::Refusal { total },
                    _ => Sample::Answer { total, comparable: self.comparable(outcome, total) },
                };
                self.averages.record(sample, at);
            }
            AttemptResult::ClientGone => {
                if outcome.first_byte.is_none() {
                    self.averages.record(Sample::AtLeast { seconds: outcome.total.as_secs_f64() }, at);
                }
            }
            // Nobody was asked, nothing was learned.
            AttemptResult::Starved => {}
            AttemptResult::ErrorStatus
            | AttemptResult::ConnectFailed
            | AttemptResult::Timeout
            | AttemptResult::Reset => {
                counted.window.failed(at);
                self.averages.record(Sample::Failure { price: failure_price(outcome) }, at);
            }
        }
    }

    /// A client's request, whose last attempt was here, ended.
    #[inline]
    pub fn request_ended(&self, class: CodeClass, total: Duration) {
        self.counted.requests[class as usize].fetch_add(1, Relaxed);
        self.counted.total.record(total);
    }

    /// Client requests ended here, of one class.
    pub fn requests(&self, class: CodeClass) -> u64 {
        self.counted.requests[class as usize].load(Relaxed)
    }

    /// Attempts ended here with one result.
    pub fn attempts(&self, result: AttemptResult) -> u64 {
        self.counted.attempts[result as usize].load(Relaxed)
    }

    /// Times it was ejected, by [`Reason::EJECTING`]; counted by the pool.
    pub fn ejections(&self) -> &[AtomicU64; Reason::EJECTING.len()] {
        &self.counted.ejections
    }

    /// From the pick to the first byte of the response head, per attempt.
    pub fn first_byte(&self) -> &Histogram {
        &self.counted.first_byte
    }

    /// Whole client requests, from arrival to the last byte.
    pub fn total(&self) -> &Histogram {
        &self.counted.total
    }

    /// Attempts that blame this backend.
    pub fn failures(&self) -> u64 {
        use AttemptResult::{ConnectFailed, ErrorStatus, Reset, Timeout};
        [ErrorStatus, ConnectFailed, Timeout, Reset].into_iter().map(|result| self.attempts(result)).sum()
    }

    /// What the admin view shows.
    pub fn view(&self, now: Instant) -> StatsView {
        let counts = self.counted.window.counts(Moment::of(now).nanos());
        let ended = counts.answered + counts.failed;
        let millis = |q| counts.quantile(q).map(|seconds| seconds * 1e3);
        StatsView {
            requests: CodeClass::ALL.into_iter().map(|class| self.requests(class)).sum(),
            failures: self.failures(),
            success_rate: (ended > 0).then(|| counts.answered as f64 / ended as f64),
            avg_response_time_ms: self.average_response().map(|seconds| seconds * 1e3),
            p50_ms: millis(0.5),
            p95_ms: millis(0.95),
            p99_ms: millis(0.99),
            window_s: WINDOW.as_secs(),
        }
    }

    /// Decayed mean of good answers, seconds to the last byte; `None` before the first.
    pub fn average_response(&self) -> Option<f64> {
        self.averages.response()
    }

    /// Decayed mean in seconds with failures at their price; `None`: nothing known. While the backend is `idle` an
    /// ageing value loses its force.
    #[inline]
    pub fn average_cost(&self, now: Moment, idle: bool) -> Option<f64> {
        self.averages.cost(now.nanos(), idle)
    }

    /// The same in two parts, mean and age, which [`faded`](super::faded) puts together.
    #[inline]
    pub fn unfaded_cost(&self, now: Moment, idle: bool) -> Option<(f64, f64)> {
        self.averages.unfaded_cost(now.nanos(), idle)
    }

    /// Peak-EWMA in seconds with failures at their price; `None`: nothing known. While the backend is `idle` it decays.
    #[inline]
    pub fn average_peak(&self, now: Moment, idle: bool) -> Option<f64> {
        self.averages.peak(now.nanos(), idle)
    }

    /// Time since the last answer or failure.
    pub fn average_age(&self, now: Instant) -> Option<Duration> {
        self.averages.age_nanos(Moment::of(now).nanos()).map(Duration::from_nanos)
    }

    /// The time by which answers compare. A stream's length is the client's wish and not the backend's doing, so its
    /// body time is scaled to the usual length.
    #[inline]
    fn comparable(&self, outcome: &Outcome, total: f64) -> f64 {
        match outcome.first_byte {
            Some(first_byte) if outcome.streamed => {
                let first_byte = first_byte.as_secs_f64();
                first_byte + self.averages.scaled_body((total - first_byte).max(0.0), outcome.body_bytes)
            }
            Some(_) | None => total,
        }
    }
}

/// What a failure counts as, seconds: at least five, at least what `Retry-After` asks, at most five minutes.
fn failure_price(outcome: &Outcome) -> f64 {
    let asked = outcome.retry_after.map_or(0.0, |pause| pause.as_secs_f64());
    outcome.total.as_secs_f64().max(asked).clamp(FAILURE_SECONDS, FAILURE_SECONDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_attempt_counts_once_under_its_result_and_a_client_that_left_blames_nobody() {
        let start = Instant::now();
        let stats = Stats::default();
        let endings = [
            (Ending::Served(200), AttemptResult::Ok),
            (Ending::Served(404), AttemptResult::Ok),
            (Ending::Served(429), AttemptResult::ErrorStatus),
            (Ending::Served(503), AttemptResult::ErrorStatus),
            (Ending::ConnectFailed, AttemptResult::ConnectFailed),
            (Ending::Starved, AttemptResult::Starved),
            (Ending::TimedOut, AttemptResult::Timeout),
            (Ending::Reset, AttemptResult::Reset),
            (Ending::ClientGone, AttemptResult::ClientGone),
        ];
        for (ending, result) in endings {
            let before = stats.attempts(result);
            stats.attempt_ended(&Outcome::failed(ending, millis(10)), start + millis(10));
            assert_eq!(stats.attempts(result), before + 1, "{ending:?}");
        }
        assert_eq!(stats.failures(), 5);
        let view = stats.view(start + millis(20));
        assert_eq!(view.success_rate, Some(2.0 / 7.0), "the client that left is in neither part");
        assert_eq!(view.requests, 0, "attempts are not requests");
    }

    #[test]
    fn requests_count_by_class_once_at_their_end() {
        let stats = Stats::default();
        for status in [200, 101, 304, 404, 429, 500, 599, 0] {
            stats.request_ended(CodeClass::of(status), millis(5));
        }
        let counts = CodeClass::ALL.map(|class| (class.name(), stats.requests(class)));
        assert_eq!(counts, [("2xx", 2), ("3xx", 1), ("4xx", 2), ("5xx", 2), ("none", 1)]);
        assert_eq!(stats.total().snapshot().0.iter().sum::<u64>(), 8);
    }

    #[test]
    fn the_view_of_a_backend_without_traffic_knows_nothing() {
        let start = Instant::now();
        let view = Stats::default().view(start);
        assert_eq!((view.success_rate, view.avg_response_time_ms, view.p99_ms), (None, None, None));
        assert_eq!((view.requests, view.failures, view.window_s), (0, 0, 60));
    }

    #[test]
    fn a_fast_failure_costs_five_seconds_and_retry_after_up_to_three_hundred() {
        let start = Instant::now();
        let cost = |retry_after: Option<u64>, total: u64| {
            let stats = Stats::default();
            let mut outcome = Outcome::served(429, millis(total));
            outcome.retry_after = retry_after.map(Duration::from_secs);
            stats.attempt_ended(&outcome, start + millis(total));
            stats.average_cost(Moment::of(start + millis(total)), false).unwrap().round()
        };
        assert_eq!(cost(None, 1), 5.0);
        assert_eq!(cost(Some(2), 1), 5.0);
        assert_eq!(cost(Some(60), 1), 60.0);
        assert_eq!(cost(Some(9000), 1), 300.0);
        assert_eq!(cost(None, 20_000), 20.0);
    }

    #[test]
    fn a_backend_that_answers_404_to_everything_is_not_a_fast_one() {
        let start = Instant::now();
        let stats = Stats::default();
        stats.attempt_ended(&Outcome::served(404, millis(1)), start);
        assert_eq!(stats.average_cost(Moment::of(start), false), None);
        assert_eq!(stats.average_peak(Moment::of(start), false), None);
        assert_eq!(stats.view(start).avg_response_time_ms.map(f64::round), Some(1.0));
    }

    #[test]
    fn a_longer_stream_of_the_same_speed_is_not_a_slower_backend() {
        let start = Instant::now();
        let stats = Stats::default();
        let stream = |tokens: u64| Outcome {
            first_byte: Some(millis(100)),
            total: millis(100 + 10 * tokens),
            body_bytes: 100 * tokens,
            streamed: true,
            ..Outcome::served(200, Duration::ZERO)
        };
        let mut now = start;
        for i in 0..400u64 {
            let tokens = 50 + (i * 37) % 200;
            now += millis(50);
            stats.attempt_ended(&stream(tokens), now);
        }
        let before = stats.average_peak(Moment::of(now), false).unwrap();
        stats.attempt_ended(&stream(1500), now);
        let after = stats.average_peak(Moment::of(now), false).unwrap();
        assert!(after < before * 1.3, "15 s for ten times the tokens: {before} -> {after}");
    }
}
