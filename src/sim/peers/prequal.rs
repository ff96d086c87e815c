//! Prequal (Google, NSDI 2024), as its paper has it: the only peer that asks servers by itself.

use super::super::chance::Chance;
use super::super::contender::{Choice, Contender, Ended, View};
use super::{any, grow};

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
pub(in crate::sim) struct Prequal {
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
    pub(in crate::sim) fn new(seed: u64, hot_quantile: f64, reuse: u32, per_request: usize) -> Self {
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
