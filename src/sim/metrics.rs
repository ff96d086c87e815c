//! What is measured of a run.

use super::scenario::Scenario;

/// A failure costs as much as this many SLAs of latency, in J.
const FAILURE_COST: f64 = 10.0;
/// Seconds after a disturbance that are looked at apart.
const AFTERMATH: usize = 15;

/// The result of one strategy in one scenario with one seed. Times in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    /// Requests counted (after the warm-up).
    pub requests: u64,
    /// Mean over all requests of latency, plus 10 SLA for a failure: one number that cannot be won by failing fast.
    pub j: f64,
    /// 99th percentile over all requests, failures at the timeout.
    pub p99_all: f64,
    /// Mean latency of good answers.
    pub mean: f64,
    /// Percentiles of good answers.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Failures, percent.
    pub error_percent: f64,
    /// Good answers within the SLA, percent of all.
    pub good_percent: f64,
    /// Jain's index of the servers' utilisation.
    pub jain: f64,
    /// J of the warm-up.
    pub cold_j: f64,
    /// Requests that failed or missed the SLA in the 15 s after the disturbance, percent.
    pub aftermath_percent: f64,
    /// Seconds from the disturbance until misses are as before for 3 s.
    pub recovery: f64,
    /// Mean time to the first byte of streams.
    pub first_byte: f64,
    /// Its 99th percentile.
    pub first_byte_p99: f64,
    /// Streams within both objectives, percent.
    pub both_percent: f64,
    /// Most failures in a row that one balancer saw of one server.
    pub failures_in_row: u32,
    /// Requests sent to each server in each second.
    pub sent: Vec<Vec<u32>>,
    /// Per second of arrival: requests, and the sum of their J.
    pub seconds: Vec<(u32, f64)>,
}

/// Collects while a run goes on.
pub(super) struct Collector<'a> {
    scenario: &'a Scenario,
    latencies: Vec<f32>,
    first_bytes: Vec<f32>,
    requests: u64,
    errors: u64,
    good: u64,
    both: u64,
    cost: f64,
    cold: (u64, f64),
    /// Work done by each server.
    pub(super) work: Vec<f64>,
    /// Per second of arrival: requests, misses.
    misses: Vec<(u32, u32)>,
    seconds: Vec<(u32, f64)>,
    sent: Vec<Vec<u32>>,
    /// Failures in a row now, by balancer and server, and the most there were.
    rows: Vec<Vec<u32>>,
    failures_in_row: u32,
}

/// A finished request as the collector needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finished {
    pub(super) arrived: f64,
    pub(super) latency: f64,
    /// When it is a stream: seconds to its first byte, if there was one.
    pub(super) first_byte: Option<Option<f64>>,
    pub(super) ok: bool,
    pub(super) server: usize,
    pub(super) balancer: usize,
    pub(super) work: f64,
}

impl<'a> Collector<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Self {
        let seconds = scenario.duration as usize + 2;
        Self {
            scenario,
            latencies: Vec::with_capacity(scenario.arrivals.len()),
            first_bytes: Vec::new(),
            requests: 0,
            errors: 0,
            good: 0,
            both: 0,
            cost: 0.0,
            cold: (0, 0.0),
            work: vec![0.0; scenario.servers.len()],
            misses: vec![(0, 0); seconds],
            seconds: vec![(0, 0.0); seconds],
            sent: vec![vec![0; scenario.servers.len()]; seconds],
            rows: vec![vec![0; scenario.servers.len()]; scenario.balancers],
            failures_in_row: 0,
        }
    }

    pub(super) fn sent(&mut self, server: usize, now: f64) {
        if let Some(count) = self.sent.get_mut(now as usize).and_then(|servers| servers.get_mut(server)) {
            *count += 1;
        }
    }

    pub(super) fn finished(&mut self, request: &Finished) {
        let sla = self.scenario.sla;
        let cost = request.latency + if request.ok { 0.0 } else { FAILURE_COST * sla };
        if let Some(row) = self.rows.get_mut(request.balancer).and_then(|servers| servers.get_mut(request.server)) {
            *row = if request.ok { 0 } else { *row + 1 };
            self.failures_in_row = self.failures_in_row.max(*row);
        }
        let second = request.arrived as usize;
        if let Some((count, misses)) = self.misses.get_mut(second) {
            *count += 1;
            *misses += u32::from(!request.ok || request.latency > sla);
        }
        if let Some((count, sum)) = self.seconds.get_mut(second) {
            *count += 1;
            *sum += cost;
        }
        if request.arrived < self.scenario.warmup {
            self.cold.0 += 1;
            self.cold.1 += cost;
            return;
        }
        self.requests += 1;
        self.cost += cost;
        if let Some(first) = request.first_byte {
            let waited = first.unwrap_or(if request.ok { request.latency } else { self.scenario.timeout });
            self.first_bytes.push(waited as f32);
            let both = request.ok && waited <= self.scenario.first_byte_sla && request.latency <= sla;
            self.both += u64::from(both);
        }
        if request.ok {
            self.latencies.push(request.latency as f32);
            self.good += u64::from(request.latency <= sla);
            if let Some(work) = self.work.get_mut(request.server) {
                *work += request.work;
            }
        } else {
            self.errors += 1;
        }
    }

    /// The result. `available`: for each server its share of the run's work at full use, or `None` if it hardly took
    /// part.
    pub(super) fn result(mut self, capacities: &[Option<f64>]) -> Metrics {
        let all = self.requests as f64;
        let good = self.latencies.len();
        let failures_from = (all * 0.99) as usize;
        let [p50, p95, p99, p999] = [0.5, 0.95, 0.99, 0.999].map(|share| rank(good, share));
        let [p50, p95, p99, p999, p99_all] = ranked(&mut self.latencies, [p50, p95, p99, p999, failures_from]);
        let p99_all = p99_all.unwrap_or(self.scenario.timeout);
        let streams = self.first_bytes.len();
        let [first_byte_p99] = ranked(&mut self.first_bytes, [rank(streams, 0.99)]);
        let percent = |count: u64| if self.requests == 0 { 0.0 } else { 100.0 * count as f64 / all };
        let (recovery, aftermath_percent) = self.aftermath();
        let used: Vec<f64> =
            self.work.iter().zip(capacities).filter_map(|(work, most)| most.map(|most| work / most)).collect();
        Metrics {
            requests: self.requests,
            j: self.cost / all.max(1.0),
            p99_all,
            mean: mean(&self.latencies),
            p50: p50.unwrap_or(0.0),
            p95: p95.unwrap_or(0.0),
            p99: p99.unwrap_or(0.0),
            p999: p999.unwrap_or(0.0),
            error_percent: percent(self.errors),
            good_percent: percent(self.good),
            jain: jain(&used),
            cold_j: self.cold.1 / self.cold.0.max(1) as f64,
            aftermath_percent,
            recovery,
            first_byte: mean(&self.first_bytes),
            first_byte_p99: first_byte_p99.unwrap_or(0.0),
            both_percent: percent(self.both),
            failures_in_row: self.failures_in_row,
            sent: self.sent,
            seconds: self.seconds,
        }
    }

    /// Seconds to recover, and the share of misses in the aftermath.
    fn aftermath(&self) -> (f64, f64) {
        let begin = self.scenario.disturbed_at as usize;
        let end = self.scenario.duration as usize;
        if begin == 0 || begin >= end {
            return (0.0, 0.0);
        }
        let sum = |from: usize, to: usize| {
            let seconds = self.misses.get(from..to.min(self.misses.len())).unwrap_or_default();
            seconds.iter().fold((0, 0), |sum, second| (sum.0 + second.0, sum.1 + second.1))
        };
        let share = |(all, missed): (u32, u32)| f64::from(missed) / f64::from(all.max(1));
        let usual = 2.0 * share(sum(begin.saturating_sub(10), begin)) + 0.02;
        let calm = |second: usize| (second..second + 3).all(|second| share(sum(second, second + 1)) <= usual);
        let recovered = (begin..end.saturating_sub(3)).find(|second| calm(*second)).unwrap_or(end);
        let missed = share(sum(begin, (begin + AFTERMATH).min(end)));
        ((recovered - begin) as f64, 100.0 * missed)
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64
}

/// Where the quantile `share` stands among `count` sorted values.
fn rank(count: usize, share: f64) -> usize {
    ((count as f64 * share) as usize).min(count.saturating_sub(1))
}

/// The values of these ranks, as if `values` were sorted; `None` for a rank beyond them. The highest is found first, and
/// each among those below the one before: a tenth of the price of sorting.
fn ranked<const N: usize>(values: &mut [f32], ranks: [usize; N]) -> [Option<f64>; N] {
    let mut order: [usize; N] = std::array::from_fn(|index| index);
    order.sort_unstable_by_key(|index| std::cmp::Reverse(ranks[*index]));
    let mut found = [None; N];
    let (mut left, mut last) = (values, None);
    for index in order {
        let rank = ranks[index];
        if last.is_some_and(|(at, _)| at == rank) {
            found[index] = last.map(|(_, value)| value);
        } else if rank < left.len() {
            let (below, value, _) = left.select_nth_unstable_by(rank, f32::total_cmp);
            let value = f64::from(*value);
            (left, last, found[index]) = (below, Some((rank, value)), Some(value));
        }
    }
    found
}

/// Jain's index: 1 when all are used alike, 1/n when one does everything.
fn jain(used: &[f64]) -> f64 {
    let sum: f64 = used.iter().sum();
    let squares: f64 = used.iter().map(|value| value * value).sum();
    if squares > 0.0 { sum * sum / (used.len() as f64 * squares) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_and_quantiles() {
        assert!((jain(&[1.0, 1.0, 1.0]) - 1.0).abs() < 1e-12);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
        let values: Vec<f32> = (0..100).map(|value| value as f32).collect();
        let mut values: Vec<f32> = values.into_iter().rev().collect();
        let ranks = [rank(100, 0.5), rank(100, 0.99), 100, 99, 0];
        assert_eq!(ranked(&mut values, ranks), [Some(50.0), Some(99.0), None, Some(99.0), Some(0.0)]);
        assert_eq!(ranked(&mut [], [rank(0, 0.5)]), [None]);
    }
}
