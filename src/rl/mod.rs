//! The learning agents: pure numbers. They know no HTTP, no clock, no log; time and chance are arguments, so the same
//! code runs in the proxy, in the simulator and behind `POST /decide`.
//!
//! Both agents are Q-learners: in a *state* `s` they take the *action* `a` (a backend) of the best value `Q(s, a)`, see a
//! *reward* `r` and move the value a step `α` towards it:
//!
//! ```text
//! Q(s, a) += α [ r + γ max Q(s', a') − Q(s, a) ]
//! ```
//!
//! * [`adaptive`], the default, learns per backend what one more request costs at its present number of requests in
//!   flight: `Q_b(n) = −C_b(n)`, `C_b = L_b m_b [V_b(n) + ½ n] + E_b`, in seconds.
//! * [`tabular`] is the agent of the guide to the letter: five binned metrics of the whole service, a table over
//!   (state, backend), a reward of five terms.
//!
//! They share [`exploration`] (ε, UCB, tolerance, rotation, diversity), [`reward`], [`statistics`] and [`store`].
//! Workers share one agent: its numbers are atomics, a pick takes no lock and allocates nothing, and a lost update of an
//! average is harmless. `docs/rl.md` has the mathematics, the measurements and what failed.

pub mod adaptive;
mod atomic;
pub mod exploration;
mod records;
pub mod reward;
pub mod statistics;
pub mod store;
pub mod tabular;

/// A backend as an agent sees it when it decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Never reused; tells an old backend from a new one in the same slot.
    pub id: u64,
    /// Dense index of the backend in its pool.
    pub slot: usize,
    /// Requests in flight there, this one not counted.
    pub in_flight: u32,
    /// Its weight, at least 1; only the ratio to the mean weight of the candidates counts.
    pub weight: u32,
}

/// What an agent thinks of a candidate. Seconds, unless said.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// C: what the choice goes by.
    pub total: f64,
    /// L as it counts now.
    pub level: f64,
    /// m as it counts now, a factor.
    pub drift: f64,
    /// E
    pub error_price: f64,
}

/// How a decision came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The best, or one as good.
    Exploit,
    /// Another, to learn of it.
    Explore,
    /// One as good, because the best was taken too often in a row.
    Rotated,
    /// A trial of a backend that failed or was slow.
    Probe,
    /// The decision of the same state a moment ago (tabular only).
    Cached,
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Index into the candidates.
    pub index: usize,
    /// How it came about.
    pub kind: Kind,
    /// The chance it had, 0-1.
    pub propensity: f32,
    /// What to hand back with the outcome.
    pub ticket: u64,
}

/// How a request ended, as numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feedback {
    /// Whether the backend answered well.
    pub ok: bool,
    /// Seconds from the decision to the end.
    pub total: f64,
    /// Seconds from the decision to the first byte; `total` when there was none.
    pub first_byte: f64,
    /// Length of a streamed answer in tokens or bytes; 0: not a stream.
    pub length: f64,
}

/// What one outcome taught.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Lesson {
    /// The terms of the reward and their weighted sum.
    pub reward: reward::Reward,
    /// The value of the action after the lesson.
    pub q_value: f64,
    /// How far the outcome was from what was expected (adaptive: relative).
    pub td_error: f64,
}
