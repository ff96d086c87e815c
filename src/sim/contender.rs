//! What the simulator runs: the product's own strategies, on real backend records, and peers that only the simulator
//! has (they may be told what no proxy can know).

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::scenario::Scenario;
use super::server::Server;
use crate::backend::{Backend, BackendId, BackendSpec, Ending, Health, HealthRules, InFlight, Outcome, Resources};
use crate::balance::{self, Observation, PickContext, Strategy, Ticket};
use crate::config::{Address, AdminState, HealthPlan, OutlierPlan, ProbeKind, StrategyPlan};

/// What a balancer sees, and the servers themselves for those that may look.
#[derive(Debug)]
pub struct View<'a> {
    /// Seconds from the start.
    pub now: f64,
    /// Requests of this balancer in flight per server.
    pub in_flight: &'a [u32],
    /// Which servers the health checker lets through.
    pub available: &'a [bool],
    /// Changes whenever `available` does; never 0.
    pub generation: u64,
    /// The servers.
    pub servers: &'a [Server],
    /// How many balancers there are.
    pub balancers: usize,
}

/// A pick: the server, and what comes back with the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index of the server.
    pub server: usize,
    /// Comes back in [`Ended`].
    pub ticket: u64,
}

/// A request that ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ended {
    /// Where.
    pub server: usize,
    /// Of its pick.
    pub ticket: u64,
    /// How.
    pub ending: Ending,
    /// Seconds since it was sent.
    pub latency: f64,
    /// Seconds to the first byte; `latency` when it is no stream.
    pub first_byte: f64,
    /// Tokens of a streamed answer; 0: no stream.
    pub tokens: f64,
    /// Seconds since its service began: what a server would report.
    pub service: f64,
    /// Requests waiting there now: what a server would report.
    pub queued: usize,
}

impl Ended {
    /// Whether the answer was good.
    pub fn ok(&self) -> bool {
        !self.ending.blames_backend()
    }
}

/// A balancer under test. One per simulated balancer; nothing is shared.
pub trait Contender {
    /// Where the next request goes; always an available server.
    fn pick(&mut self, view: &View<'_>, client: u32) -> Choice;

    /// A request ended; it is no longer counted in `view.in_flight`.
    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        let _ = (view, ended);
    }

    /// CPU and memory of every server over the last second.
    fn sampled(&mut self, view: &View<'_>, resources: &[(f64, f64)]) {
        let _ = (view, resources);
    }

    /// Probes it sends per request.
    fn probes(&self) -> usize {
        0
    }

    /// A probe's answer: requests in flight at the server, and its recent latency at about that load.
    fn probed(&mut self, server: usize, load: f64, latency: f64, now: f64) {
        let _ = (server, load, latency, now);
    }
}

/// One of the product's strategies, exactly as the proxy runs it.
pub struct OfProduct {
    strategy: Box<dyn Strategy>,
    backends: Vec<Arc<Backend>>,
    /// Guards of what is in flight, per backend: they are all alike, so any may end first.
    guards: Vec<Vec<InFlight>>,
    candidates: Vec<Arc<Backend>>,
    /// Index of each candidate among all servers.
    indices: Vec<usize>,
    generation: u64,
    rng: SmallRng,
    start: Instant,
}

impl OfProduct {
    /// The strategy of `plan` before the servers of `scenario`. `weights`: one per server, 1..=1000. `start` is the
    /// moment that second 0 stands for; any will do.
    pub fn new(plan: &StrategyPlan, scenario: &Scenario, weights: &[u32], seed: u64, start: Instant) -> Self {
        let health = HealthPlan { kind: ProbeKind::None, ..HealthPlan::default() };
        let rules = HealthRules::new(&health, &OutlierPlan::default());
        let backends: Vec<_> = (0..scenario.servers.len())
            .map(|slot| {
                let spec = BackendSpec {
                    name: format!("server-{slot}"),
                    address: Address::Name { host: format!("server-{slot}"), port: 80 },
                    weight: weights.get(slot).copied().unwrap_or(1),
                    max_in_flight: 0,
                    state: AdminState::Ready,
                };
                let id = BackendId(slot as u64);
                Arc::new(Backend::new(id, slot, &spec, None, Health::new(rules.clone()), start))
            })
            .collect();
        Self {
            strategy: balance::build(plan),
            guards: backends.iter().map(|_| Vec::new()).collect(),
            candidates: Vec::with_capacity(backends.len()),
            indices: Vec::with_capacity(backends.len()),
            backends,
            generation: 0,
            rng: SmallRng::seed_from_u64(seed),
            start,
        }
    }

    /// The strategy itself.
    pub fn strategy(&self) -> &dyn Strategy {
        &*self.strategy
    }

    /// The backend records, one per server.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    fn moment(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    fn refresh(&mut self, view: &View<'_>) {
        if self.generation == view.generation {
            return;
        }
        self.generation = view.generation;
        self.candidates.clear();
        self.indices.clear();
        for (index, backend) in self.backends.iter().enumerate() {
            if view.available.get(index).copied().unwrap_or(false) {
                self.candidates.push(Arc::clone(backend));
                self.indices.push(index);
            }
        }
    }
}

impl Contender for OfProduct {
    fn pick(&mut self, view: &View<'_>, client: u32) -> Choice {
        self.refresh(view);
        let now = self.moment(view.now);
        let mut cx = PickContext {
            candidates: &self.candidates,
            generation: self.generation,
            // Spread like the hash of an address.
            key: Some(u64::from(client).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            now,
            rng: &mut self.rng,
        };
        let pick = self.strategy.pick(&mut cx);
        let (position, ticket) = pick.map_or((0, Ticket(0)), |pick| (pick.index, pick.ticket));
        let server = self.indices.get(position).copied().unwrap_or(0);
        if let (Some(backend), Some(guards)) = (self.backends.get(server), self.guards.get_mut(server)) {
            guards.extend(InFlight::enter(backend));
        }
        Choice { server, ticket: ticket.0 }
    }

    fn ended(&mut self, view: &View<'_>, ended: &Ended) {
        let now = self.moment(view.now);
        let Some(backend) = self.backends.get(ended.server) else { return };
        if let Some(guards) = self.guards.get_mut(ended.server) {
            guards.pop();
        }
        let answered = matches!(ended.ending, Ending::Served(_));
        let outcome = Outcome {
            ending: ended.ending,
            first_byte: answered.then(|| Duration::from_secs_f64(ended.first_byte)),
            total: Duration::from_secs_f64(ended.latency),
            body_bytes: ended.tokens as u64,
            streamed: ended.tokens > 0.0,
            retry_after: None,
        };
        // The order of the proxy's lease: the count, the statistics, the strategy.
        backend.stats.attempt_ended(&outcome, now);
        let ticket = Some(Ticket(ended.ticket));
        self.strategy.observe(&Observation { backend, ticket, outcome: &outcome, now });
    }

    fn sampled(&mut self, view: &View<'_>, resources: &[(f64, f64)]) {
        let sampled = Some(self.moment(view.now));
        for (backend, (cpu, memory)) in self.backends.iter().zip(resources) {
            let in_flight = backend.in_flight();
            backend.set_resources(Resources { cpu: Some(*cpu), memory: Some(*memory), sampled, in_flight });
        }
    }
}
