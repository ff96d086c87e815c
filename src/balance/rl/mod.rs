//! The learning agents as a strategy: turns backends and outcomes into the numbers that `rl` knows, and back.
//!
//! What feeds the agent: a request that ended well, its time to the last byte (a streamed answer: its time to the first
//! byte and a little of the rest, freed of its length); a 429, a 5xx, a broken or missing answer, a failure; a client
//! that left, nothing.

mod table;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use table::{Learned, Row, Table};

use super::{Observation, Pick, PickContext, PickKind, StateError, Strategy, Ticket, Weighed};
use crate::backend::{Backend, Outcome};
use crate::config::{RlAgent, RlPlan, RlTie};
pub use crate::rl::Lesson;
use crate::rl::adaptive::{self, Scratch};
use crate::rl::reward::Weights;
use crate::rl::statistics::{LearningStats, PerformanceStats};
use crate::rl::{Candidate, Feedback, Kind, store, tabular};

/// CPU and memory samples older than this are unknown (the contract's default expiry).
const RESOURCE_EXPIRY: Duration = Duration::from_secs(10);

thread_local! {
    /// Buffers of this worker: a pick allocates nothing once they have grown to the size of its largest pool.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// The learning agent of one pool.
#[derive(Debug)]
pub struct Rl {
    agent: Agent,
    /// The agent counts seconds from the first moment it was told.
    origin: OnceLock<Instant>,
}

/// Which of the two.
#[derive(Debug)]
enum Agent {
    Adaptive(Box<adaptive::Agent>),
    Tabular(Box<tabular::Agent>),
}

/// Why a backend was or was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Explanation {
    /// The terms of its cost.
    Adaptive(adaptive::Terms),
    /// State and value.
    Tabular(tabular::Terms),
}

impl Explanation {
    /// What the choice went by, lower is better: the cost in seconds, or minus the value.
    pub fn cost(&self) -> f64 {
        match self {
            Self::Adaptive(terms) => terms.cost,
            Self::Tabular(terms) => -terms.q_value,
        }
    }

    /// The state alone: five named bins of the backend, or the five of the service.
    pub fn state(&self) -> serde_json::Value {
        let state = match self {
            Self::Adaptive(terms) => serde_json::to_value(terms.state),
            Self::Tabular(terms) => serde_json::to_value(terms.state),
        };
        state.unwrap_or_default()
    }
}

impl Rl {
    /// An agent that knows nothing yet.
    pub fn new(plan: &RlPlan) -> Self {
        let agent = match plan.agent {
            RlAgent::Adaptive => Agent::Adaptive(Box::new(adaptive::Agent::new(adaptive_settings(plan)))),
            RlAgent::Tabular => Agent::Tabular(Box::new(tabular::Agent::new(tabular_settings(plan)))),
        };
        Self { agent, origin: OnceLock::new() }
    }

    /// Learns from an outcome and says what. `None`: it teaches nothing, since the client left.
    pub fn learn(&self, seen: &Observation<'_>) -> Option<Lesson> {
        let now = self.seconds(seen.now);
        let (slot, id, in_flight) = (seen.backend.slot, seen.backend.id.0, seen.backend.in_flight());
        let ticket = seen.ticket.map(|ticket| ticket.0);
        let feedback = feedback(seen.outcome);
        match &self.agent {
            Agent::Adaptive(agent) => match feedback {
                Some(feedback) => Some(agent.learn((slot, id, in_flight), ticket, &feedback, now)),
                None => {
                    agent.left((slot, id, in_flight), now);
                    None
                }
            },
            Agent::Tabular(agent) => Some(agent.learn(slot, id, ticket, &feedback?, now)),
        }
    }

    /// What speaks for and against every candidate, in their order.
    pub fn explain(&self, candidates: &[Arc<Backend>], now: Instant) -> Vec<Explanation> {
        let mut scratch = Scratch::new();
        fill(&mut scratch, candidates);
        let seconds = self.seconds(now);
        let mean_weight = scratch.mean_weight();
        let explain = |(backend, candidate): (&Arc<Backend>, &Candidate)| match &self.agent {
            Agent::Adaptive(agent) => {
                let weight = f64::from(candidate.weight) / mean_weight;
                Explanation::Adaptive(agent.explain(candidate, weight, resources(backend, now), seconds))
            }
            Agent::Tabular(agent) => Explanation::Tabular(agent.explain(candidate)),
        };
        candidates.iter().zip(&scratch.candidates).map(explain).collect()
    }

    /// The guide's learning statistics.
    pub fn learning_stats(&self) -> LearningStats {
        match &self.agent {
            Agent::Adaptive(agent) => agent.learning_stats(),
            Agent::Tabular(agent) => agent.learning_stats(),
        }
    }

    /// The guide's performance statistics, as far as the agent knows them: the time of a decision and the share of
    /// fall-backs are the caller's to fill in.
    pub fn performance_stats(&self) -> PerformanceStats {
        match &self.agent {
            Agent::Adaptive(agent) => agent.performance_stats(),
            Agent::Tabular(agent) => agent.performance_stats(),
        }
    }

    /// Mean reward of late.
    pub fn reward(&self) -> f64 {
        match &self.agent {
            Agent::Adaptive(agent) => agent.reward(),
            Agent::Tabular(agent) => agent.reward(),
        }
    }

    /// Entropy of the shares of requests, 0-1: 1 is even.
    pub fn diversity(&self) -> f64 {
        match &self.agent {
            Agent::Adaptive(agent) => agent.diversity(),
            Agent::Tabular(agent) => agent.diversity(),
        }
    }

    /// Halves ε, after a guardrail's fall-back.
    pub fn halve_epsilon(&self) {
        match &self.agent {
            Agent::Adaptive(agent) => agent.halve_epsilon(),
            Agent::Tabular(agent) => agent.halve_epsilon(),
        }
    }

    #[inline]
    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(*self.origin.get_or_init(|| now)).as_secs_f64()
    }
}

impl Strategy for Rl {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let now = self.seconds(cx.now);
        let decision = SCRATCH.with_borrow_mut(|scratch| {
            fill(scratch, cx.candidates);
            match &self.agent {
                // A filtered set of candidates has generation 0: its members are not all there is.
                Agent::Adaptive(agent) => agent.decide(scratch, cx.generation != 0, now, cx.rng),
                Agent::Tabular(agent) => {
                    let at = cx.now;
                    let measured =
                        |index: usize| cx.candidates.get(index).map_or((None, None), |backend| resources(backend, at));
                    agent.decide(&scratch.candidates, cx.generation, &measured, now, cx.rng)
                }
            }
        })?;
        Some(Pick {
            index: decision.index,
            ticket: Ticket(decision.ticket),
            propensity: decision.propensity,
            kind: kind(decision.kind),
        })
    }

    fn observe(&self, seen: &Observation<'_>) {
        self.learn(seen);
    }

    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        self.explain(cx.candidates, cx.now).iter().map(Explanation::cost).collect()
    }

    fn weighed(&self, most: usize, tell: &mut dyn FnMut(usize, u32, Weighed)) {
        SCRATCH.with_borrow(|scratch| match &self.agent {
            Agent::Adaptive(agent) => {
                let weighed = scratch.candidates.iter().zip(agent.weighed(scratch)).take(most);
                for (index, (candidate, (weight, cost))) in weighed.enumerate() {
                    let [weight, cost, level, drift, error_price] =
                        [weight, cost.total, cost.level, cost.drift, cost.error_price].map(|term| term as f32);
                    tell(index, candidate.in_flight, Weighed::Adaptive { weight, cost, level, drift, error_price });
                }
            }
            Agent::Tabular(agent) => {
                for (index, candidate) in scratch.candidates.iter().take(most).enumerate() {
                    let terms = agent.explain(candidate);
                    let (state, unknown, q_value) = (terms.state.0, terms.unknown, terms.q_value as f32);
                    let weighed = Weighed::Tabular { state, unknown, q_value, visits: terms.visits };
                    tell(index, candidate.in_flight, weighed);
                }
            }
        });
    }

    fn placed(&self, backend: &Backend, now: Instant) -> Option<Ticket> {
        let now = self.seconds(now);
        let ticket = match &self.agent {
            Agent::Adaptive(agent) => agent.dispatched(backend.slot, backend.id.0, backend.in_flight(), now),
            Agent::Tabular(agent) => agent.dispatched(backend.slot, backend.id.0, now),
        };
        Some(Ticket(ticket))
    }

    fn save(&self, backends: &[Arc<Backend>], now: Instant) -> Option<Vec<u8>> {
        serde_json::to_vec(&self.export(backends, now)).ok().map(|json| store::seal(&json))
    }

    fn load(&self, bytes: &[u8], backends: &[Arc<Backend>], now: Instant) -> Result<(), StateError> {
        let json = store::open(bytes)?;
        let table = serde_json::from_slice(json).map_err(|error| StateError::Content(error.to_string()))?;
        self.import(&table, backends, now)
    }

    fn agent(&self) -> Option<&Self> {
        Some(self)
    }
}

impl Weighed {
    /// The same for people: with all terms and the binned state. `cpu`, `memory`: fractions, as far as known.
    pub fn explanation(&self, in_flight: u32, cpu: Option<f64>, memory: Option<f64>) -> Option<Explanation> {
        match *self {
            Self::Nothing => None,
            Self::Adaptive { weight, cost, level, drift, error_price } => {
                let [weight, cost, level, drift, error_price] =
                    [weight, cost, level, drift, error_price].map(f64::from);
                let own_load = adaptive::OWN_LOAD * f64::from(in_flight);
                // The cost without its other terms is the value.
                let value = (cost * weight - error_price) / (level * drift).max(f64::MIN_POSITIVE) - own_load;
                let state = adaptive::State::encode(in_flight, drift, u8::from(error_price > 0.0), cpu, memory);
                let terms = adaptive::Terms { level, drift, value, own_load, error_price, weight, cost, state };
                Some(Explanation::Adaptive(terms))
            }
            Self::Tabular { state, unknown, q_value, visits } => {
                let q_value = f64::from(q_value);
                let terms = tabular::Terms { state: tabular::State(state), unknown, q_value, visits };
                Some(Explanation::Tabular(terms))
            }
        }
    }
}

/// Writes the candidates down as the agent sees them.
#[inline]
fn fill(scratch: &mut Scratch, backends: &[Arc<Backend>]) {
    scratch.candidates.clear();
    scratch.candidates.extend(backends.iter().map(|backend| {
        let (slot, id) = backend.key();
        // The configured weight: the agent needs no slow start, it learns what a cold backend can take.
        Candidate { id: id.0, slot, in_flight: backend.in_flight(), weight: backend.configured_weight().max(1) }
    }));
}

/// What an outcome tells the agent; `None`: nothing.
fn feedback(outcome: &Outcome) -> Option<Feedback> {
    if outcome.ending.says_nothing() {
        return None;
    }
    let total = outcome.total.as_secs_f64();
    Some(Feedback {
        ok: !outcome.ending.blames_backend(),
        total,
        first_byte: outcome.first_byte.map_or(total, |at| at.as_secs_f64()).min(total),
        length: if outcome.streamed { outcome.body_bytes as f64 } else { 0.0 },
    })
}

/// CPU and memory of a backend, if the sample is fresh.
fn resources(backend: &Backend, now: Instant) -> (Option<f64>, Option<f64>) {
    let sample = backend.resources();
    let fresh = sample.sampled.is_some_and(|at| now.saturating_duration_since(at) <= RESOURCE_EXPIRY);
    if fresh { (sample.cpu, sample.memory) } else { (None, None) }
}

fn kind(kind: Kind) -> PickKind {
    match kind {
        Kind::Exploit => PickKind::Exploit,
        Kind::Explore => PickKind::Explore,
        Kind::Rotated => PickKind::Rotated,
        Kind::Probe => PickKind::Probe,
        Kind::Cached => PickKind::Cached,
    }
}

fn adaptive_settings(plan: &RlPlan) -> adaptive::Settings {
    adaptive::Settings {
        learning_rate: plan.learning_rate,
        discount_factor: plan.discount_factor,
        initial_epsilon: plan.initial_epsilon,
        epsilon_decay: plan.epsilon_decay,
        min_epsilon: plan.min_epsilon,
        ucb_c: plan.ucb_c,
        tolerance: plan.tolerance,
        rotation_after: plan.rotation_after,
        diversity_threshold: plan.diversity_threshold,
        diversity_boost: plan.diversity_boost,
        sla: plan.sla.map(|sla| sla.as_secs_f64()),
        random_ties: plan.tie == RlTie::Random,
        weights: weights(plan),
        stream_weight: plan.stream_weight,
    }
}

fn tabular_settings(plan: &RlPlan) -> tabular::Settings {
    tabular::Settings {
        learning_rate: plan.learning_rate,
        discount_factor: plan.discount_factor,
        initial_epsilon: plan.initial_epsilon,
        epsilon_decay: plan.epsilon_decay,
        min_epsilon: plan.min_epsilon,
        ucb_c: plan.ucb_c,
        tolerance: plan.tolerance,
        rotation_after: plan.rotation_after,
        diversity_threshold: plan.diversity_threshold,
        diversity_boost: plan.diversity_boost,
        sla: plan.sla.map_or(tabular::Settings::default().sla, |sla| sla.as_secs_f64()),
        random_ties: plan.tie == RlTie::Random,
        weights: weights(plan),
        decision_ttl: plan.cache.decision.as_secs_f64(),
        metrics_ttl: plan.cache.metrics.as_secs_f64(),
        service_ttl: plan.cache.service.as_secs_f64(),
        state_ttl: plan.cache.state.as_secs_f64(),
        max_entries: plan.cache.max_entries,
    }
}

fn weights(plan: &RlPlan) -> Weights {
    let reward = &plan.reward;
    Weights {
        latency: reward.latency,
        errors: reward.errors,
        throughput: reward.throughput,
        balance: reward.balance,
        stability: reward.stability,
    }
}
