//! The strategies: which of the eligible backends gets the next request.
//!
//! Pure: no await, no clock, no global randomness, no logging; time and chance are arguments, so the same code runs in
//! the proxy and, in virtual time, in the simulator. A strategy never filters: every candidate it is given may be picked
//! (the pool has already left out what is down, draining, full, held or tried).

mod choice;
mod columns;
mod ip_hash;
mod least_connections;
mod least_response_time;
mod peak_ewma;
mod power_of_two;
mod random;
mod resource_based;
mod rl;
mod round_robin;
mod weighted_round_robin;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::SmallRng;

use crate::backend::{Backend, Outcome};
use crate::config::{StrategyKind, StrategyPlan};
pub use crate::rl::statistics::{LearningStats, PerformanceStats};
pub use crate::rl::store::{self, StateError};
pub use rl::{Explanation, Learned, Lesson, Rl, Row, Table};

/// Chooses a backend. One duty, two extras with empty defaults.
pub trait Strategy: fmt::Debug + Send + Sync {
    /// Picks one of `cx.candidates`; `None` only when there are none. Called by every worker at once, so state is
    /// atomics or a short lock; it may not block.
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick>;

    /// A request that this strategy (or another before it: see [`Observation::ticket`]) placed has ended.
    fn observe(&self, seen: &Observation<'_>) {
        let _ = seen;
    }

    /// One number per candidate, lower is better, to explain a pick; never used to pick. Empty: nothing to say.
    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        let _ = cx;
        Vec::new()
    }

    /// What the last pick of this thread went by: candidate by candidate in their order, its index, the requests in flight
    /// there before the pick, and the terms; of the first `most`. Called right after [`pick`](Self::pick), if at all.
    fn weighed(&self, most: usize, tell: &mut dyn FnMut(usize, u32, Weighed)) {
        let _ = (most, tell);
    }

    /// A request is about to be counted at `backend` that this strategy did not place: a sticky session, a control
    /// group, a retry with one candidate left. The ticket comes back with its outcome; `None`: nothing to remember.
    fn placed(&self, backend: &Backend, now: Instant) -> Option<Ticket> {
        let _ = (backend, now);
        None
    }

    /// What it has learned of `backends`, for the disk or for its successor after a reload; `None`: it learns nothing.
    fn save(&self, backends: &[Arc<Backend>], now: Instant) -> Option<Vec<u8>> {
        let _ = (backends, now);
        None
    }

    /// Takes over what [`save`](Self::save) wrote, matched by name and address; what is not in `backends` is dropped.
    /// On an error nothing was changed.
    fn load(&self, bytes: &[u8], backends: &[Arc<Backend>], now: Instant) -> Result<(), StateError> {
        let _ = (bytes, backends, now);
        Ok(())
    }

    /// The learning agent inside, for its statistics and tables, if this strategy has one.
    fn agent(&self) -> Option<&Rl> {
        None
    }
}

/// What a pick may depend on.
#[derive(Debug)]
pub struct PickContext<'a> {
    /// The eligible backends, in the pool's order.
    pub candidates: &'a [Arc<Backend>],
    /// Changes whenever the pool's membership or weights change; a strategy with a table rebuilds it when this
    /// differs from its own. 0: a one-off subset (something is full, held or already tried): keep no table for it.
    pub generation: u64,
    /// Hash of the client address or affinity key.
    pub key: Option<u64>,
    /// The present moment.
    pub now: Instant,
    /// Chance.
    pub rng: &'a mut SmallRng,
}

/// What a strategy weighed of one candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weighed {
    /// Nothing that is told: the strategy goes by requests in flight, weight, order or chance.
    Nothing,
    /// The adaptive agent's terms, in seconds unless said.
    Adaptive {
        /// Weight ÷ mean weight of the candidates.
        weight: f32,
        /// C: the whole cost.
        cost: f32,
        /// L as it counted.
        level: f32,
        /// m as it counted, a factor.
        drift: f32,
        /// E
        error_price: f32,
    },
    /// The tabular agent's.
    Tabular {
        /// The five bins of the service's state.
        state: [u8; 5],
        /// Which of the five metrics were unknown, hence in bin 0.
        unknown: [bool; 5],
        /// Q(s, a)
        q_value: f32,
        /// How often that was updated.
        visits: u32,
    },
}

impl Weighed {
    /// What the choice went by, lower is better: the cost in seconds, or minus the value.
    pub fn cost(&self) -> Option<f64> {
        match self {
            Self::Nothing => None,
            Self::Adaptive { cost, .. } => Some(f64::from(*cost)),
            Self::Tabular { q_value, .. } => Some(-f64::from(*q_value)),
        }
    }
}

/// A choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pick {
    /// Index into [`PickContext::candidates`].
    pub index: usize,
    /// Comes back with the outcome.
    pub ticket: Ticket,
    /// The chance that this pick had, 0-1, for the log and off-policy scoring.
    pub propensity: f32,
    /// How it came about.
    pub kind: PickKind,
}

impl Pick {
    /// A pick that could not have been another.
    pub fn certain(index: usize) -> Self {
        Self { index, ticket: Ticket(0), propensity: 1.0, kind: PickKind::Exploit }
    }
}

/// What a strategy wants to remember until the outcome; 0 where it wants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// How a pick came about: the `kind` of access log and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the contract's labels")]
pub enum PickKind {
    Exploit,
    Explore,
    Rotated,
    Cached,
    Probe,
    Sticky,
    Fallback,
    Control,
}

impl PickKind {
    /// Every kind, in the order of its discriminant.
    pub const ALL: [Self; 8] = [
        Self::Exploit,
        Self::Explore,
        Self::Rotated,
        Self::Cached,
        Self::Probe,
        Self::Sticky,
        Self::Fallback,
        Self::Control,
    ];

    /// The contract's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exploit => "exploit",
            Self::Explore => "explore",
            Self::Rotated => "rotated",
            Self::Cached => "cached",
            Self::Probe => "probe",
            Self::Sticky => "sticky",
            Self::Fallback => "fallback",
            Self::Control => "control",
        }
    }
}

/// The outcome of a pick.
#[derive(Debug)]
pub struct Observation<'a> {
    /// The backend. The request that ended is no longer counted in its `in_flight`.
    pub backend: &'a Backend,
    /// The ticket of the pick, or of [`Strategy::placed`]; `None` when another strategy placed the request.
    pub ticket: Option<Ticket>,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// Now: the end.
    pub now: Instant,
}

/// The strategy of that plan.
pub fn build(plan: &StrategyPlan) -> Box<dyn Strategy> {
    match plan.kind {
        StrategyKind::RoundRobin => Box::new(round_robin::RoundRobin::default()),
        StrategyKind::WeightedRoundRobin => Box::new(weighted_round_robin::WeightedRoundRobin::default()),
        StrategyKind::LeastConnections => Box::new(least_connections::LeastConnections),
        StrategyKind::LeastResponseTime => Box::new(least_response_time::LeastResponseTime),
        StrategyKind::IpHash => Box::new(ip_hash::IpHash::new(&plan.ip_hash)),
        StrategyKind::Random => Box::new(random::Random),
        StrategyKind::ResourceBased => Box::new(resource_based::ResourceBased::new(&plan.resource_based)),
        StrategyKind::PowerOfTwo => Box::new(power_of_two::PowerOfTwo),
        StrategyKind::PeakEwma => Box::new(peak_ewma::PeakEwma),
        StrategyKind::Rl => Box::new(Rl::new(&plan.rl)),
    }
}
