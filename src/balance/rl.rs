//! The learning agents as a strategy: turns backends and outcomes into the numbers that `rl` knows, and back.
//!
//! What feeds the agent: a request that ended well, its time to the last byte (a streamed answer: its time to the first
//! byte and a little of the rest, freed of its length); a 429, a 5xx, a broken or missing answer, a failure; a client
//! that left, nothing.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Observation, Pick, PickContext, PickKind, StateError, Strategy, Ticket};
use crate::backend::{Backend, Ending, Outcome};
use crate::config::RlPlan;
use crate::config::RlTie;
use crate::rl::adaptive::{self, SavedAgent, SavedBackend, Scratch, Terms};
use crate::rl::reward::Weights;
use crate::rl::statistics::{LearningStats, PerformanceStats};
use crate::rl::{Candidate, Feedback, Kind, Lesson, store};

/// CPU and memory samples older than this are unknown (the contract's default expiry).
const RESOURCE_EXPIRY: Duration = Duration::from_secs(10);

thread_local! {
    /// Buffers of this worker: a pick allocates nothing once they have grown to the size of its largest pool.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// The learning agent of one pool.
#[derive(Debug)]
pub struct Rl {
    agent: adaptive::Agent,
    /// The agent counts seconds from the first moment it was told.
    origin: OnceLock<Instant>,
}

impl Rl {
    /// An agent that knows nothing yet.
    pub fn new(plan: &RlPlan) -> Self {
        Self { agent: adaptive::Agent::new(adaptive_settings(plan)), origin: OnceLock::new() }
    }

    /// Learns from an outcome and says what. `None`: it teaches nothing, since the client left.
    pub fn learn(&self, seen: &Observation<'_>) -> Option<Lesson> {
        let now = self.seconds(seen.now);
        let backend = (seen.backend.slot, seen.backend.id.0, seen.backend.in_flight());
        let Some(feedback) = feedback(seen.outcome) else {
            self.agent.left(backend, now);
            return None;
        };
        Some(self.agent.learn(backend, seen.ticket.map(|ticket| ticket.0), &feedback, now))
    }

    /// The terms of every candidate's cost, in the order of the candidates.
    pub fn explain(&self, candidates: &[Arc<Backend>], now: Instant) -> Vec<Terms> {
        let mut scratch = Scratch::new();
        fill(&mut scratch, candidates);
        let seconds = self.seconds(now);
        let pairs = candidates.iter().zip(&scratch.candidates);
        pairs
            .map(|(backend, candidate)| {
                let (cpu, memory) = resources(backend, now);
                self.agent.explain(candidate, cpu, memory, seconds)
            })
            .collect()
    }

    /// The guide's learning statistics.
    pub fn learning_stats(&self) -> LearningStats {
        self.agent.learning_stats()
    }

    /// The guide's performance statistics, as far as the agent knows them: the time of a decision and the share of
    /// fall-backs are the caller's to fill in.
    pub fn performance_stats(&self) -> PerformanceStats {
        self.agent.performance_stats()
    }

    /// Mean reward of late.
    pub fn reward(&self) -> f64 {
        self.agent.reward()
    }

    /// Entropy of the shares of requests, 0-1: 1 is even.
    pub fn diversity(&self) -> f64 {
        self.agent.diversity()
    }

    /// Halves ε, after a guardrail's fall-back.
    pub fn halve_epsilon(&self) {
        self.agent.halve_epsilon();
    }

    /// What was learned, as JSON of a version of its own, with names instead of slots.
    pub fn export(&self, backends: &[Arc<Backend>], now: Instant) -> Table {
        let seconds = self.seconds(now);
        let learned = backends.iter().filter_map(|backend| {
            let learned = self.agent.save_backend(backend.slot, backend.id.0, seconds)?;
            Some(Row { name: backend.name.to_string(), address: backend.address.to_string(), learned })
        });
        Table { version: store::VERSION, agent: self.agent.save(), backends: learned.collect() }
    }

    /// Takes over a table; rows of other backends are left out. On an error nothing was changed.
    ///
    /// # Errors
    /// The table is of another version, or holds numbers that no agent can have learned.
    pub fn import(&self, table: &Table, backends: &[Arc<Backend>], now: Instant) -> Result<(), StateError> {
        if table.version != store::VERSION {
            return Err(StateError::Version { found: table.version });
        }
        if let Some(row) = table.backends.iter().find(|row| !row.learned.is_sound()) {
            return Err(StateError::Content(format!("numbers of backend {:?} make no sense", row.name)));
        }
        let seconds = self.seconds(now);
        self.agent.resume(&table.agent);
        for row in &table.backends {
            let same =
                |backend: &&Arc<Backend>| *backend.name == *row.name && backend.address.to_string() == row.address;
            if let Some(backend) = backends.iter().find(same) {
                self.agent.resume_backend(backend.slot, backend.id.0, &row.learned, seconds);
            }
        }
        Ok(())
    }

    #[inline]
    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(*self.origin.get_or_init(|| now)).as_secs_f64()
    }
}

/// What an agent learned, to save, show and move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Of this form.
    pub version: u32,
    /// Beyond single backends.
    pub agent: SavedAgent,
    /// Per backend.
    pub backends: Vec<Row>,
}

/// What it learned of one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The backend's name …
    pub name: String,
    /// … and address: both must match for the row to be taken over.
    pub address: String,
    /// The numbers.
    pub learned: SavedBackend,
}

impl Strategy for Rl {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let now = self.seconds(cx.now);
        let decision = SCRATCH.with_borrow_mut(|scratch| {
            fill(scratch, cx.candidates);
            // A filtered set of candidates has generation 0: its members are not all there is.
            self.agent.decide(scratch, cx.generation != 0, now, cx.rng)
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
        self.explain(cx.candidates, cx.now).iter().map(|terms| terms.cost).collect()
    }

    fn placed(&self, backend: &Backend, now: Instant) -> Option<Ticket> {
        let now = self.seconds(now);
        Some(Ticket(self.agent.dispatched(backend.slot, backend.id.0, backend.in_flight(), now)))
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

/// Writes the candidates down as the agent sees them.
#[inline]
fn fill(scratch: &mut Scratch, backends: &[Arc<Backend>]) {
    let total: f64 = backends.iter().map(|backend| f64::from(backend.configured_weight())).sum();
    let mean = total / backends.len().max(1) as f64;
    scratch.candidates.clear();
    scratch.candidates.extend(backends.iter().map(|backend| Candidate {
        id: backend.id.0,
        slot: backend.slot,
        in_flight: backend.in_flight(),
        // The configured weight: the agent needs no slow start, it learns what a cold backend can take.
        weight: f64::from(backend.configured_weight()) / mean,
        cost: 0.0,
    }));
}

/// What an outcome tells the agent; `None`: nothing.
fn feedback(outcome: &Outcome) -> Option<Feedback> {
    if outcome.ending == Ending::ClientGone {
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
