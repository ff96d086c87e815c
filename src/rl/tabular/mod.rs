//! The agent of the guide, to the letter: the state of the whole service in five bins, a table over (state, backend),
//! the Bellman update, ε-greedy with UCB, tolerance, least recent use and rotation, a reward of five terms on windows of
//! a second, four caches.
//!
//! It is here for the record and to be compared with: on the laboratory's suite it costs about twenty times what the
//! adaptive agent does (`docs/rl.md` says why). Where the guide contradicts itself:
//!
//! * ε₀ is printed as 0.9, 0.8 and 0.3: 0.3, the production preset's, unless configured;
//! * an *episode*, by which ε decays, is a hundred decisions;
//! * the state encodes the mean over the backends, as the text says, not the first backend, as one example does (measured:
//!   no difference);
//! * the reward's weights sum to 1.5 and stay so: only their ratios matter;
//! * rotation comes at the third pick in a row, as the code has it, not after it.

mod action;
mod agent;
mod cache;
mod meter;
mod state;
mod table;

pub use action::{ActionSelector, Selection};
pub use agent::{Agent, SavedAgent, SavedBackend, Terms};
pub use cache::{Cache, CacheStats};
pub use state::{STATES, Signals, State, StateEncoder};
pub use table::{Action, QTable};

use super::reward::Weights;

/// What an operator may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// α
    pub learning_rate: f64,
    /// γ
    pub discount_factor: f64,
    /// ε at the start.
    pub initial_epsilon: f64,
    /// Factor of ε per episode of a hundred decisions.
    pub epsilon_decay: f64,
    /// Floor of ε.
    pub min_epsilon: f64,
    /// c of UCB.
    pub ucb_c: f64,
    /// Values at most this much below the best are as good.
    pub tolerance: f64,
    /// The pick in a row at which another is taken; 0: never.
    pub rotation_after: u32,
    /// Normalised entropy below which exploration is boosted.
    pub diversity_threshold: f64,
    /// By how much.
    pub diversity_boost: f64,
    /// The latency that rewards are measured in, seconds.
    pub sla: f64,
    /// Ties at random instead of by least recent use.
    pub random_ties: bool,
    /// Weights of the reward.
    pub weights: Weights,
    /// Seconds that a decision is kept; 0: not at all.
    pub decision_ttl: f64,
    /// Seconds that metrics are kept.
    pub metrics_ttl: f64,
    /// Seconds that the list of backends is kept.
    pub service_ttl: f64,
    /// Seconds that an encoded state is kept.
    pub state_ttl: f64,
    /// Entries that each cache may hold.
    pub max_entries: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            learning_rate: 0.1,
            discount_factor: 0.95,
            initial_epsilon: 0.3,
            epsilon_decay: 0.998,
            min_epsilon: 0.05,
            ucb_c: 2.0,
            tolerance: 0.05,
            rotation_after: 3,
            diversity_threshold: 0.6,
            diversity_boost: 0.3,
            sla: 0.5,
            random_ties: false,
            weights: Weights::default(),
            decision_ttl: 0.1,
            metrics_ttl: 1.0,
            service_ttl: 5.0,
            state_ttl: 5.0,
            max_entries: 1000,
        }
    }
}
