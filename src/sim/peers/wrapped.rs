//! Any peer behind passive ejection, and any peer fed with another latency of streams.

use super::super::contender::{Choice, Contender, Ended, View};
use super::grow;

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
pub(in crate::sim) struct Ejecting<P> {
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
    pub(in crate::sim) fn new(peer: P, rule: EjectionRule) -> Self {
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
pub(in crate::sim) struct Feeding<P> {
    peer: P,
    feed: StreamFeed,
    mean_tokens: f64,
}

impl<P: Contender> Feeding<P> {
    /// `peer`, fed by `feed`.
    pub(in crate::sim) fn new(peer: P, feed: StreamFeed) -> Self {
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
