//! The adaptive agent: what does one more request cost, here, now?
//!
//! ```text
//! C_b = L_b m_b [ V_b(n_b) + ½ n_b ] + E_b        Q_b(n) = −C_b          (seconds)
//! ```
//!
//! | symbol | meaning | file |
//! |---|---|---|
//! | n_b | requests in flight at b | the pool counts it |
//! | q_b(i), V_b | expected latency at load i relative to L_b; its Bellman value | `value.rs` |
//! | L_b | level: typical latency of b | `record.rs` learns it |
//! | m_b | drift: is b as fast as learned, now? | `drift.rs` |
//! | E_b | error price, and the trials that end it | `faults.rs` |
//!
//! `choose.rs` chooses, by costs that `quote.rs` keeps until something changes; `learn.rs` learns; `compile.rs` turns cells
//! into curves ten times a second; `state.rs` bins it all for people, `insight.rs` tells it, `persist.rs` writes it down.

mod agent;
mod choose;
mod compile;
mod drift;
mod faults;
mod insight;
mod learn;
mod looks;
mod persist;
mod quote;
mod record;
mod state;
mod value;

pub use agent::{Agent, Scratch};
pub use insight::Terms;
pub use persist::{SavedAgent, SavedBackend};
pub use record::OWN_LOAD;
pub use state::State;

use super::reward::Weights;

/// What an operator may set. Every other constant stands, with its reason, where it is used.
/// They repeat keys of the configuration, because this room knows nothing of it; `balance::rl` translates.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// α: step of the fast mean of the drift statistic.
    pub learning_rate: f64,
    /// γ: a queueing delay is charged 1 / (1 − γ) times.
    pub discount_factor: f64,
    /// ε at the start.
    pub initial_epsilon: f64,
    /// Factor of ε per decision.
    pub epsilon_decay: f64,
    /// Floor of ε.
    pub min_epsilon: f64,
    /// c of UCB.
    pub ucb_c: f64,
    /// Costs within this share of the best are as good.
    pub tolerance: f64,
    /// Picks in a row before another within the tolerance is taken; 0: never.
    pub rotation_after: u32,
    /// Normalised entropy below which exploration is boosted.
    pub diversity_threshold: f64,
    /// By how much.
    pub diversity_boost: f64,
    /// T in seconds, the exchange rate of an error; `None`: 10 × the pool's median level.
    pub sla: Option<f64>,
    /// Ties within the tolerance at random instead of by least recent use.
    pub random_ties: bool,
    /// Weights of the reward; latency and errors set the price of an error.
    pub weights: Weights,
    /// Weight of the normalised body time of a streamed answer.
    pub stream_weight: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            learning_rate: 0.1,
            discount_factor: 0.75,
            initial_epsilon: 0.3,
            epsilon_decay: 0.998,
            min_epsilon: 0.01,
            ucb_c: 2.0,
            tolerance: 0.05,
            rotation_after: 3,
            diversity_threshold: 0.6,
            diversity_boost: 0.3,
            sla: None,
            random_ties: false,
            weights: Weights::default(),
            stream_weight: 0.1,
        }
    }
}
