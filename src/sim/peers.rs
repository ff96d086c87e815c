//! Peers that only the simulator has: they full-scan, they are told capacities, or servers report to them. What they
//! are measured by, and tuned as in the literature or better; never weakened.

mod prequal;
mod wrapped;

use super::chance::Chance;
use super::contender::{Choice, Contender, Ended, View};
pub(super) use prequal::Prequal;
pub(super) use wrapped::{Ejecting, Feeding};
pub use wrapped::{EjectionRule, StreamFeed};

/// Picks the lowest score; ties go round robin, since the scan begins behind the last pick.
#[derive(Debug, Default)]
struct Scan {
    last: usize,
}

impl Scan {
    fn lowest(&mut self, available: &[bool], mut score: impl FnMut(usize) -> f64) -> Choice {
        let count = available.len();
        let mut best = (None, f64::INFINITY);
        for step in 1..=count {
            let index = (self.last + step) % count;
            if available[index] {
                let score = score(index);
                if score < best.1 || best.0.is_none() {
                    best = (Some(index), score);
                }
            }
        }
        self.last = best.0.unwrap_or(0);
        Choice { server: self.last, ticket: 0 }
    }
}

fn any(chance: &mut Chance, available: &[bool]) -> usize {
    for _ in 0..64 {
        let index = chance.below(available.len());
        if available[index] {
            return index;
        }
    }
    available.iter().position(|is| *is).unwrap_or(0)
}

/// Two different available servers at random, or twice the only one.
fn two(chance: &mut Chance, available: &[bool]) -> (usize, usize) {
    let first = any(chance, available);
    for _ in 0..16 {
        let second = any(chance, available);
        if second != first {
            return (first, second);
        }
    }
    (first, first)
}

fn grow<T: Clone>(values: &mut Vec<T>, view: &View<'_>, value: T) {
    if values.len() < view.available.len() {
        values.resize(view.available.len(), value);
    }
}

/// Least connections, full scan.
#[derive(Debug, Default)]
pub(super) struct LeastConnections {
    scan: Scan,
}

impl Contender for LeastConnections {
    fn pick(&mut self, view: &View<'_>, _client: u32) -> Choice {
        self.scan.lowest(view.available, |index| f64::from(view.in_flight[index]))
    }
}

/// Weighted least request as Envoy has it, full scan, **told the true nominal capacities**.
#[derive(Debug, Default)]
pub(super) struct WeightedLeastRequest {
    scan: Scan,
}

impl Contender for WeightedLeastRequest {
    fn pick(&mut self, view: &View<'_>, _client: u32) -> Choice {
        self.scan.lowest(view.available, |index| {
            (f64::from(view.in_flight[index]) + 1.0) / view.servers[index].plan.capacity()
        })
    }
}

/// The less loaded of two at random.
#[derive(Debug)]
pub(super) struct PowerOfTwo {
    chance: Chance,
}

impl PowerOfTwo {
    /// With its own chance.
    pub(super) fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed ^ 0xAB_CDEF) }
    }
}

impl Contender for PowerOfTwo {
    fn pick(&mut self, view: &View<'_>, _client: u32) -> Choice {
        let (a, b) = two(&mut self.chance, view.available);
        Choice { server: if view.in_flight[b] < view.in_flight[a] { b } else { a }, ticket: 0 }
    }
}

/// Peak EWMA as in finagle and tower: a latency above the estimate replaces it, one below pulls it down with the time
/// constant; cost = estimate × (in flight + 1).
#[derive(Debug)]
pub(super) struct PeakEwma {
    chance: Chance,
    scan: Scan,
    full_scan: bool,
    /// Estimate in seconds and when it was made.
    estimates: Vec<(f64, f64)>,
    time_constant: f64,
}

/// Estimate of a server not yet measured, seconds (linkerd's default).
const PEAK_EWMA_START: f64 = 0.03;

impl PeakEwma {
    /// Two choices or a full scan, with this time constant in seconds (10 is usual).
    pub(super) fn new(seed: u64, full_scan: bool, time_constant: f64) -> Self {
        Self { chance: Chance::new(seed), scan: Scan::default(), full_scan, estimates: Vec::new(), time_constant }
    }
}

fn peak_cost(estimates: &[(f64, f64)], time_constant: f64, view: &View<'_>, index: usize) -> f64 {
    let (estimate, at) = estimates[index];
    let idle = estimate * (-(view.now - at) / time_constant).exp();
    (idle + 1e-9) * (f64::from(view.in_flight[index]) + 1.0)
}

impl Contender for PeakEwma {
    fn pick(&mut self, view: &View<'_>, _client: u32) -> Choice {
        grow(&mut self.estimates, view, (PEAK_EWMA_START, view.now));
        let (estimates, tau) = (&self.estimates, self.time_constant);
        if self.full_scan {
            return self.scan.lowest(view.available, |index| peak_cost(estimates, tau, view, index));
        }
        let (a, b) = two(&mut self.chance, view.available);
        let better = peak_cost(estimates, tau, view, b) < peak_cost(estimates, tau, view, a);
        Choice { server: if better { b } else { a }, ticket: 0 }
    }

    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        grow(&mut self.estimates, view, (PEAK_EWMA_START, view.now));
        let (estimate, at) = &mut self.estimates[ended.server];
        if ended.latency > *estimate {
            *estimate = ended.latency;
        } else {
            let keep = (-(view.now - *at) / self.time_constant).exp();
            *estimate = *estimate * keep + ended.latency * (1.0 - keep);
        }
        *at = view.now;
    }
}

/// Least response time × (in flight + 1), full scan, as nginx's `least_time`.
#[derive(Debug)]
pub(super) struct ResponseTimeConnections {
    scan: Scan,
    latencies: Vec<f64>,
    step: f64,
}

impl ResponseTimeConnections {
    /// With this step of the latency's average (0.02 is best on the suite).
    pub(super) fn new(step: f64) -> Self {
        Self { scan: Scan::default(), latencies: Vec::new(), step }
    }
}

impl Contender for ResponseTimeConnections {
    fn pick(&mut self, view: &View<'_>, _client: u32) -> Choice {
        grow(&mut self.latencies, view, 0.0);
        let latencies = &self.latencies;
        self.scan.lowest(view.available, |index| latencies[index] * (1.0 + f64::from(view.in_flight[index])))
    }

    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        grow(&mut self.latencies, view, 0.0);
        let latency = &mut self.latencies[ended.server];
        *latency =
            if *latency == 0.0 { ended.latency } else { *latency * (1.0 - self.step) + ended.latency * self.step };
    }
}

/// C3: R − s + q³ s, where servers report their service time and queue with every answer. Rate control is not modelled.
#[derive(Debug)]
pub(super) struct C3 {
    scan: Scan,
    /// Response time, service time, queue.
    seen: Vec<[f64; 3]>,
    step: f64,
    exponent: f64,
}

impl C3 {
    /// With this step of the averages and exponent of the queue (0.1 and 3 in the paper).
    pub(super) fn new(step: f64, exponent: f64) -> Self {
        Self { scan: Scan::default(), seen: Vec::new(), step, exponent }
    }
}

impl Contender for C3 {
    fn pick(&mut self, view: &View<'_>, _client: u32) -> Choice {
        grow(&mut self.seen, view, [0.0; 3]);
        let (seen, exponent) = (&self.seen, self.exponent);
        self.scan.lowest(view.available, |index| {
            let [response, service, queue] = seen[index];
            let expected = 1.0 + f64::from(view.in_flight[index]) * view.balancers as f64 + queue;
            response - service + expected.powf(exponent) * service.max(1e-6)
        })
    }

    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        grow(&mut self.seen, view, [0.0; 3]);
        let seen = &mut self.seen[ended.server];
        let now = [ended.latency, ended.service, ended.queued as f64];
        if seen[1] == 0.0 {
            *seen = now;
        } else {
            for (mean, value) in seen.iter_mut().zip(now) {
                *mean += self.step * (value - *mean);
            }
        }
    }
}
