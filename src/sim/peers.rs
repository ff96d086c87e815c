//! Peers that only the simulator has: they full-scan, they are told capacities, or servers report to them. What they
//! are measured by, and tuned as in the literature or better; never weakened.

use super::chance::Chance;
use super::contender::{Choice, Contender, Ended, View};

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

/// A probe's answer that Prequal may still use.
#[derive(Debug, Clone, Copy)]
struct Probe {
    server: usize,
    load: f64,
    latency: f64,
    at: f64,
    uses: u32,
}

/// Prequal: asynchronous probes of load and latency; the hot-cold rule; compensation of used probes, and aversion to
/// servers that fail.
#[derive(Debug)]
pub(super) struct Prequal {
    chance: Chance,
    probes: Vec<Probe>,
    loads: Vec<f64>,
    /// The same in order.
    sorted: Vec<f64>,
    oldest_load: usize,
    drop_oldest: bool,
    errors: Vec<f64>,
    hot_quantile: f64,
    reuse: u32,
    per_request: usize,
}

/// Probes kept, loads remembered, and seconds a probe is fresh.
const PREQUAL_POOL: usize = 16;
const PREQUAL_LOADS: usize = 128;
const PREQUAL_FRESH: f64 = 1.0;
/// A server whose error rate is above this is hot whatever its load.
const PREQUAL_AVERSION: f64 = 0.2;

impl Prequal {
    /// With this quantile of loads above which a server is hot, uses of a probe, and probes per request.
    pub(super) fn new(seed: u64, hot_quantile: f64, reuse: u32, per_request: usize) -> Self {
        Self {
            chance: Chance::new(seed),
            probes: Vec::new(),
            loads: Vec::new(),
            sorted: Vec::new(),
            oldest_load: 0,
            drop_oldest: false,
            errors: Vec::new(),
            hot_quantile,
            reuse,
            per_request,
        }
    }

    fn oldest(&self) -> usize {
        let oldest = self.probes.iter().enumerate().min_by(|a, b| a.1.at.total_cmp(&b.1.at));
        oldest.map_or(0, |(index, _)| index)
    }

    /// The load above which a probed server is hot.
    fn threshold(&self) -> f64 {
        let loads = &self.sorted;
        let rank = ((loads.len() as f64 * self.hot_quantile) as usize).min(loads.len().saturating_sub(1));
        loads.get(rank).copied().unwrap_or(0.0)
    }

    /// Remembers a load in the place of the oldest.
    fn remember(&mut self, load: f64) {
        let place = |sorted: &[f64], load: f64| sorted.partition_point(|other| *other < load);
        if self.loads.len() < PREQUAL_LOADS {
            self.loads.push(load);
        } else {
            let old = std::mem::replace(&mut self.loads[self.oldest_load], load);
            self.oldest_load = (self.oldest_load + 1) % PREQUAL_LOADS;
            self.sorted.remove(place(&self.sorted, old));
        }
        self.sorted.insert(place(&self.sorted, load), load);
    }

    fn best(&self, threshold: f64) -> usize {
        let rank = |probe: &Probe| {
            let errors = self.errors[probe.server];
            let averse = errors > PREQUAL_AVERSION;
            if probe.load > threshold || averse {
                (1.0, probe.load + if averse { 1e6 } else { 0.0 })
            } else {
                (0.0, probe.latency * (1.0 + 10.0 * errors))
            }
        };
        let mut best = (0, (f64::INFINITY, f64::INFINITY));
        for (index, probe) in self.probes.iter().enumerate() {
            let rank = rank(probe);
            if rank < best.1 {
                best = (index, rank);
            }
        }
        best.0
    }

    fn worst(&self, threshold: f64) -> usize {
        let rank =
            |probe: &Probe| (probe.load > threshold, if probe.load > threshold { probe.load } else { probe.latency });
        let worst = self.probes.iter().enumerate().max_by(|a, b| {
            let (a, b) = (rank(a.1), rank(b.1));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        worst.map_or(0, |(index, _)| index)
    }
}

impl Contender for Prequal {
    fn pick(&mut self, view: &View<'_>, _client: u32) -> Choice {
        grow(&mut self.errors, view, 0.0);
        self.probes.retain(|probe| view.now - probe.at < PREQUAL_FRESH && view.available[probe.server]);
        if self.probes.len() < 2 {
            return Choice { server: any(&mut self.chance, view.available), ticket: 0 };
        }
        let threshold = self.threshold();
        let best = self.best(threshold);
        let server = self.probes[best].server;
        for probe in self.probes.iter_mut().filter(|probe| probe.server == server) {
            probe.load += 1.0;
        }
        self.probes[best].uses += 1;
        if self.probes[best].uses >= self.reuse {
            self.probes.swap_remove(best);
        }
        if self.probes.len() > PREQUAL_POOL / 2 {
            self.drop_oldest = !self.drop_oldest;
            let out = if self.drop_oldest { self.oldest() } else { self.worst(threshold) };
            self.probes.swap_remove(out);
        }
        Choice { server, ticket: 0 }
    }

    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        grow(&mut self.errors, view, 0.0);
        let failed = if ended.ok() { 0.0 } else { 1.0 };
        let errors = &mut self.errors[ended.server];
        *errors += 0.05 * (failed - *errors);
    }

    fn probes(&self) -> usize {
        self.per_request
    }

    fn probed(&mut self, server: usize, load: f64, latency: f64, now: f64) {
        self.remember(load);
        if self.probes.len() >= PREQUAL_POOL {
            let oldest = self.oldest();
            self.probes.swap_remove(oldest);
        }
        self.probes.push(Probe { server, load, latency, at: now, uses: 0 });
    }
}

/// How passive ejection goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EjectionRule {
    /// Failures in a row that eject.
    pub failures: u32,
    /// Seconds of the first ejection.
    pub base: f64,
    /// Share of the servers that may be out, at least one.
    pub share: f64,
    /// Doubling with one trial request (finagle's accrual), or growing linearly without (Envoy's).
    pub accrual: bool,
}

impl EjectionRule {
    /// Envoy's defaults: 5 in a row, 30 s, 10 % of the hosts.
    pub const ENVOY: Self = Self { failures: 5, base: 30.0, share: 0.1, accrual: false };
    /// Finagle's and linkerd's defaults: 5 in a row, 5 s doubling, all hosts, one trial request.
    pub const ACCRUAL: Self = Self { failures: 5, base: 5.0, share: 1.0, accrual: true };
    /// The best found on the suite: 3 in a row, 2 s doubling, all hosts, one trial request.
    pub const TUNED: Self = Self { failures: 3, base: 2.0, share: 1.0, accrual: true };
}

/// What an ejector knows of a server.
#[derive(Debug, Clone, Copy, Default)]
struct Ejected {
    failures: u32,
    times: u32,
    until: f64,
    on_trial: bool,
}

/// Any peer, behind passive ejection.
pub(super) struct Ejecting<P> {
    peer: P,
    rule: EjectionRule,
    servers: Vec<Ejected>,
    available: Vec<bool>,
    scratch: Vec<bool>,
    generation: u64,
}

/// Most doublings, as a factor.
const LONGEST_DOUBLING: f64 = 60.0;

impl<P: Contender> Ejecting<P> {
    /// `peer` behind `rule`.
    pub(super) fn new(peer: P, rule: EjectionRule) -> Self {
        Self { peer, rule, servers: Vec::new(), available: Vec::new(), scratch: Vec::new(), generation: 0 }
    }

    /// Works out who may be picked now, and notices when that changed.
    fn refresh(&mut self, view: &View<'_>) {
        let rows = self.servers.iter().zip(view.available).zip(view.in_flight);
        self.scratch.clear();
        self.scratch.extend(rows.map(|((server, available), in_flight)| {
            let trial_runs = server.on_trial && *in_flight > 0;
            *available && view.now >= server.until && !trial_runs
        }));
        if !self.scratch.contains(&true) {
            self.scratch.clear();
            self.scratch.extend_from_slice(view.available);
        }
        if self.scratch != self.available {
            std::mem::swap(&mut self.scratch, &mut self.available);
            self.generation += 1;
        }
    }
}

impl<P: Contender> Contender for Ejecting<P> {
    fn pick(&mut self, view: &View<'_>, client: u32) -> Choice {
        grow(&mut self.servers, view, Ejected { until: -1.0, ..Ejected::default() });
        self.refresh(view);
        self.peer.pick(&View { available: &self.available, generation: self.generation, ..*view }, client)
    }

    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        grow(&mut self.servers, view, Ejected { until: -1.0, ..Ejected::default() });
        let out = self.servers.iter().filter(|server| view.now < server.until).count();
        let most = ((self.servers.len() as f64 * self.rule.share) as usize).max(1);
        let (rule, server) = (self.rule, &mut self.servers[ended.server]);
        if ended.ok() {
            server.failures = 0;
            if server.on_trial {
                server.on_trial = false;
                server.times = 0;
            }
        } else {
            server.failures += 1;
            let over = server.failures >= rule.failures || server.on_trial;
            if over && view.now >= server.until && out < most {
                server.times += 1;
                server.failures = 0;
                let pause = if rule.accrual {
                    rule.base * 2_f64.powi(server.times as i32 - 1).min(LONGEST_DOUBLING)
                } else {
                    rule.base * f64::from(server.times)
                };
                server.until = view.now + pause;
                server.on_trial = rule.accrual;
            }
        }
        self.peer.ended(view, ended);
    }

    fn sampled(&mut self, view: &View<'_>, resources: &[(f64, f64)]) {
        self.peer.sampled(view, resources);
    }

    fn probes(&self) -> usize {
        self.peer.probes()
    }

    fn probed(&mut self, server: usize, load: f64, latency: f64, now: f64) {
        self.peer.probed(server, load, latency, now);
    }
}

/// Which latency of a streamed answer feeds the peer within.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StreamFeed {
    /// To the first byte.
    FirstByte,
    /// The whole, per token.
    PerToken,
    /// To the first byte, plus this share of the body per token.
    FirstByteAndBody(f64),
}

/// Any peer, fed with a normalised latency of streams.
pub(super) struct Feeding<P> {
    peer: P,
    feed: StreamFeed,
    mean_tokens: f64,
}

impl<P: Contender> Feeding<P> {
    /// `peer`, fed by `feed`.
    pub(super) fn new(peer: P, feed: StreamFeed) -> Self {
        Self { peer, feed, mean_tokens: 0.0 }
    }
}

impl<P: Contender> Contender for Feeding<P> {
    fn pick(&mut self, view: &View<'_>, client: u32) -> Choice {
        self.peer.pick(view, client)
    }

    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        let mut fed = *ended;
        if ended.ok() && ended.tokens > 0.0 {
            if self.mean_tokens == 0.0 {
                self.mean_tokens = ended.tokens;
            }
            self.mean_tokens += 0.01 * (ended.tokens - self.mean_tokens);
            let scale = self.mean_tokens / ended.tokens.max(1.0);
            let body = ended.latency - ended.first_byte;
            fed.latency = match self.feed {
                StreamFeed::FirstByte => ended.first_byte,
                StreamFeed::PerToken => ended.latency * scale,
                StreamFeed::FirstByteAndBody(share) => ended.first_byte + share * body * scale,
            };
        }
        self.peer.ended(view, &fed);
    }

    fn sampled(&mut self, view: &View<'_>, resources: &[(f64, f64)]) {
        self.peer.sampled(view, resources);
    }

    fn probes(&self) -> usize {
        self.peer.probes()
    }

    fn probed(&mut self, server: usize, load: f64, latency: f64, now: f64) {
        self.peer.probed(server, load, latency, now);
    }
}

impl Contender for Box<dyn Contender> {
    fn pick(&mut self, view: &View<'_>, client: u32) -> Choice {
        (**self).pick(view, client)
    }

    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        (**self).ended(view, ended);
    }

    fn sampled(&mut self, view: &View<'_>, resources: &[(f64, f64)]) {
        (**self).sampled(view, resources);
    }

    fn probes(&self) -> usize {
        (**self).probes()
    }

    fn probed(&mut self, server: usize, load: f64, latency: f64, now: f64) {
        (**self).probed(server, load, latency, now);
    }
}
