//! What the agent itself measures of a backend: windows of a second of latencies and failures.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::super::atomic::Number;
use super::super::reward::Window;
use super::state::Signals;

/// The highest error rate fades by this factor per window.
const HIGHEST_FADES: f64 = 0.9;
/// Up to so many requests a window's error rate counts half: one failure of one request is not 100 %.
const FEW: u64 = 3;

/// A window under way, and what the last ones said.
#[derive(Debug, Default)]
pub(super) struct Meter {
    count: AtomicU64,
    failures: AtomicU64,
    /// Sum of latencies, seconds.
    sum: Number,
    longest: Number,
    highest_error_rate: Number,
    began: Number,
    /// Good answers a second in the last window, and the change against the one before.
    throughput: Number,
    throughput_change: Number,
}

impl Meter {
    pub(super) fn reset(&self) {
        self.count.store(0, Relaxed);
        self.failures.store(0, Relaxed);
        for number in
            [&self.sum, &self.longest, &self.highest_error_rate, &self.began, &self.throughput, &self.throughput_change]
        {
            number.set(0.0);
        }
    }

    /// A request ended.
    pub(super) fn ended(&self, latency: f64, ok: bool) {
        let count = self.count.fetch_add(1, Relaxed) + 1;
        let failures = self.failures.fetch_add(u64::from(!ok), Relaxed) + u64::from(!ok);
        self.sum.add(latency);
        self.longest.set(self.longest.get().max(latency));
        let rate = failures as f64 / count as f64 * if count > FEW { 1.0 } else { 0.5 };
        self.highest_error_rate.set(self.highest_error_rate.get().max(rate.min(1.0)));
    }

    /// The window so far.
    pub(super) fn window(&self, cpu_spread: f64, consistency: f64) -> Window {
        let count = self.count.load(Relaxed).max(1) as f64;
        Window {
            average_latency: self.sum.get() / count,
            longest_latency: self.longest.get(),
            error_rate: (self.failures.load(Relaxed) as f64 / count).min(1.0),
            highest_error_rate: self.highest_error_rate.get(),
            throughput_change: self.throughput_change.get(),
            cpu_spread,
            consistency,
        }
    }

    /// Ends the window and says what it showed. `cpu` and `memory` are fractions.
    pub(super) fn roll(&self, cpu: Option<f64>, memory: Option<f64>, now: f64) -> Signals {
        let count = self.count.swap(0, Relaxed);
        let failures = self.failures.swap(0, Relaxed);
        let sum = self.sum.get();
        let lasted = (now - self.began.get()).max(1e-3);
        self.sum.set(0.0);
        self.longest.set(0.0);
        self.began.set(now);
        self.highest_error_rate.set(self.highest_error_rate.get() * HIGHEST_FADES);
        let throughput = count.saturating_sub(failures) as f64 / lasted;
        self.throughput_change.set(throughput - self.throughput.get());
        self.throughput.set(throughput);
        let per_request = |sum: f64| (count > 0).then(|| sum / count as f64);
        Signals {
            cpu: cpu.map(|fraction| fraction * 100.0),
            memory: memory.map(|fraction| fraction * 100.0),
            response_time: per_request(sum * 1000.0),
            error_rate: per_request(failures as f64 * 100.0),
            request_rate: Some(count as f64 / lasted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_tells_means_and_then_begins_anew() {
        let meter = Meter::default();
        for latency in [0.1, 0.2, 0.3, 0.4] {
            meter.ended(latency, latency < 0.35);
        }
        let window = meter.window(0.0, 0.5);
        assert!((window.average_latency - 0.25).abs() < 1e-12 && window.longest_latency == 0.4);
        assert!((window.error_rate - 0.25).abs() < 1e-12 && (window.highest_error_rate - 0.25).abs() < 1e-12);
        let signals = meter.roll(Some(0.5), None, 2.0);
        assert_eq!((signals.cpu, signals.memory), (Some(50.0), None));
        assert!((signals.response_time.unwrap() - 250.0).abs() < 1e-9);
        assert_eq!((signals.error_rate, signals.request_rate), (Some(25.0), Some(2.0)));
        let idle = meter.roll(None, None, 3.0);
        assert_eq!((idle.response_time, idle.error_rate, idle.request_rate), (None, None, Some(0.0)));
    }
}
