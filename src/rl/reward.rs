//! The reward of the guide: five terms, weighted. The adaptive agent prices latency and errors by the same weights,
//! request by request; the tabular agent uses all five on windows of a second.

/// Weights of the terms. The guide's sum to 1.5 and stay as they are: only their ratios matter.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "the guide's five terms")]
pub struct Weights {
    pub latency: f64,
    pub errors: f64,
    pub throughput: f64,
    pub balance: f64,
    pub stability: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { latency: 0.4, errors: 0.4, throughput: 0.1, balance: 0.1, stability: 0.5 }
    }
}

/// What a window of traffic looked like.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Window {
    /// Mean latency, seconds.
    pub average_latency: f64,
    /// Longest latency, seconds.
    pub longest_latency: f64,
    /// Share of failures, 0-1.
    pub error_rate: f64,
    /// Highest share of failures of late, 0-1.
    pub highest_error_rate: f64,
    /// Change of completed requests per second against the window before.
    pub throughput_change: f64,
    /// Standard deviation of CPU over the backends, percentage points.
    pub cpu_spread: f64,
    /// Share of the recent decisions that went where this one did, 0-1.
    pub consistency: f64,
}

/// The five terms and their weighted sum.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[allow(missing_docs, reason = "the guide's five terms")]
pub struct Reward {
    pub latency: f64,
    pub errors: f64,
    pub throughput: f64,
    pub balance: f64,
    pub stability: f64,
    pub total: f64,
}

/// Turns outcomes into rewards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RewardCalculator {
    /// Weights of the terms.
    pub weights: Weights,
}

/// Penalty of the mean latency, per SLA.
const MEAN_LATENCY: f64 = 1.0;
/// Penalty of the longest latency, per SLA.
const LONGEST_LATENCY: f64 = 0.5;
/// Penalty of the error rate.
const MEAN_ERRORS: f64 = 10.0;
/// Penalty of the highest error rate.
const HIGHEST_ERRORS: f64 = 20.0;
/// Reward of one more request a second.
const THROUGHPUT: f64 = 0.1;
/// Penalty of a percentage point of spread.
const SPREAD: f64 = 0.01;
/// Reward of full consistency.
const CONSISTENCY: f64 = 0.5;

impl RewardCalculator {
    /// The reward of a window, latencies measured against `sla` seconds.
    pub fn window(&self, seen: &Window, sla: f64) -> Reward {
        self.weighted(Reward {
            latency: -(MEAN_LATENCY * seen.average_latency + LONGEST_LATENCY * seen.longest_latency) / sla,
            errors: -MEAN_ERRORS * seen.error_rate - HIGHEST_ERRORS * seen.highest_error_rate,
            throughput: THROUGHPUT * seen.throughput_change,
            balance: -SPREAD * seen.cpu_spread,
            stability: CONSISTENCY * seen.consistency,
            total: 0.0,
        })
    }

    /// The reward of one request by its own outcome: a window of one. `balance` is the own-load price it paid as a
    /// share of its cost.
    pub fn request(&self, latency: f64, ok: bool, balance: f64, sla: f64) -> Reward {
        let rate = if ok { 0.0 } else { 1.0 };
        let mut reward = self.window(
            &Window {
                average_latency: latency,
                longest_latency: latency,
                error_rate: rate,
                highest_error_rate: rate,
                ..Window::default()
            },
            sla,
        );
        reward.balance = -balance;
        self.weighted(reward)
    }

    /// What one failed request costs, in SLAs of latency: 20 with the guide's weights.
    pub fn error_price(&self) -> f64 {
        let latency = self.weights.latency * (MEAN_LATENCY + LONGEST_LATENCY);
        if latency > 0.0 { self.weights.errors * (MEAN_ERRORS + HIGHEST_ERRORS) / latency } else { 0.0 }
    }

    fn weighted(&self, terms: Reward) -> Reward {
        let w = &self.weights;
        let total = w.latency * terms.latency
            + w.errors * terms.errors
            + w.throughput * terms.throughput
            + w.balance * terms.balance
            + w.stability * terms.stability;
        Reward { total, ..terms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: RewardCalculator = RewardCalculator {
        weights: Weights { latency: 0.4, errors: 0.4, throughput: 0.1, balance: 0.1, stability: 0.5 },
    };
    const SLA: f64 = 0.5;

    fn check(seen: Window, term: fn(&Reward) -> f64, printed: f64) {
        let value = term(&GUIDE.window(&seen, SLA));
        assert!((value - printed).abs() < 0.0006, "{value} is printed as {printed}");
    }

    #[test]
    fn the_guides_latency_rewards() {
        let window = |mean, longest| Window { average_latency: mean, longest_latency: longest, ..Window::default() };
        check(window(0.065, 0.095), |r| r.latency, -0.225);
        check(window(0.420, 0.780), |r| r.latency, -1.62);
        check(window(0.045, 0.067), |r| r.latency, -0.157);
        check(window(0.125, 0.156), |r| r.latency, -0.406);
    }

    #[test]
    fn the_guides_error_rewards() {
        let window = |mean, highest| Window { error_rate: mean, highest_error_rate: highest, ..Window::default() };
        check(window(0.0, 0.0), |r| r.errors, 0.0);
        check(window(0.02, 0.05), |r| r.errors, -1.2);
        check(window(0.08, 0.15), |r| r.errors, -3.8);
    }

    #[test]
    fn the_guides_two_pods() {
        let a = Window {
            average_latency: 0.045,
            longest_latency: 0.067,
            error_rate: 0.032,
            highest_error_rate: 0.081,
            throughput_change: 1.8,
            cpu_spread: 12.4,
            consistency: 0.73,
        };
        let b = Window {
            average_latency: 0.125,
            longest_latency: 0.156,
            error_rate: 0.001,
            highest_error_rate: 0.008,
            throughput_change: 0.9,
            cpu_spread: 8.1,
            consistency: 0.91,
        };
        let (a, b) = (GUIDE.window(&a, SLA), GUIDE.window(&b, SLA));
        assert!((a.total - -0.65).abs() < 0.001);
        assert!((a.throughput - 0.18).abs() < 1e-9 && (a.balance - -0.124).abs() < 1e-9);
        assert!((a.stability - 0.365).abs() < 1e-9 && (b.stability - 0.455).abs() < 1e-9);
        // Printed as -0.001; its terms sum to -0.002.
        assert!((b.total - -0.002).abs() < 0.001);
        assert!(b.total > a.total, "reliability before speed");
    }

    #[test]
    fn an_error_is_worth_twenty_slas() {
        assert!((GUIDE.error_price() - 20.0).abs() < 1e-12);
        let failed = GUIDE.request(0.0, false, 0.0, SLA).total;
        let slow = GUIDE.request(20.0 * SLA, true, 0.0, SLA).total;
        assert!((failed - slow).abs() < 1e-9);
    }
}
