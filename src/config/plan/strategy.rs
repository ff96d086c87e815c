//! What a pool's `strategy` means, and the tables that tune one.

use std::path::PathBuf;
use std::time::Duration;

/// The names of the strategies; the same in TOML, API, metrics and simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the contract's name, described in docs/strategies.md")]
pub enum StrategyKind {
    RoundRobin,
    WeightedRoundRobin,
    LeastConnections,
    LeastResponseTime,
    IpHash,
    Random,
    ResourceBased,
    Rl,
    PowerOfTwo,
    PeakEwma,
}

impl StrategyKind {
    /// Every strategy, in the order of the documentation.
    pub const ALL: [Self; 10] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
        Self::LeastResponseTime,
        Self::IpHash,
        Self::Random,
        Self::ResourceBased,
        Self::Rl,
        Self::PowerOfTwo,
        Self::PeakEwma,
    ];

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::LeastConnections => "least_connections",
            Self::LeastResponseTime => "least_response_time",
            Self::IpHash => "ip_hash",
            Self::Random => "random",
            Self::ResourceBased => "resource_based",
            Self::Rl => "rl",
            Self::PowerOfTwo => "power_of_two",
            Self::PeakEwma => "peak_ewma",
        }
    }

    /// The strategy of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A strategy with the settings it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct StrategyPlan {
    /// Which one.
    pub kind: StrategyKind,
    /// Settings of `ip_hash`.
    pub ip_hash: IpHashPlan,
    /// Settings of `resource_based`.
    pub resource_based: ResourceBasedPlan,
    /// Settings of `rl`.
    pub rl: RlPlan,
}

/// `[pools.NAME.ip_hash]`
#[derive(Debug, Clone, PartialEq)]
pub struct IpHashPlan {
    /// A backend takes at most this many times the mean in-flight per weight before its clients overflow to
    /// the next on the ring (consistent hashing with bounded loads); 0: unbounded.
    pub bounded_load: f64,
}

/// `[pools.NAME.resource_based]`: shares of the cost; they need not sum to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceBasedPlan {
    /// Weight of CPU use.
    pub cpu: f64,
    /// Weight of memory use.
    pub memory: f64,
    /// Weight of requests in flight.
    pub in_flight: f64,
    /// An older sample is unknown: the pool's [`ResourcesPlan::expiry`](super::ResourcesPlan::expiry), repeated here for the strategy.
    pub expiry: Duration,
}

/// `[pools.NAME.rl]`: every key of the learning agent, resolved (file > preset > default of the agent).
#[derive(Debug, Clone, PartialEq)]
pub struct RlPlan {
    /// Which agent.
    pub agent: RlAgent,
    /// α
    pub learning_rate: f64,
    /// γ
    pub discount_factor: f64,
    /// ε at the start.
    pub initial_epsilon: f64,
    /// Factor of ε, per decision (adaptive) or per episode of 100 decisions (tabular).
    pub epsilon_decay: f64,
    /// Floor of ε.
    pub min_epsilon: f64,
    /// c of UCB.
    pub ucb_c: f64,
    /// Relative to the best cost (adaptive), absolute (tabular).
    pub tolerance: f64,
    /// Picks in a row before another within the tolerance is taken.
    pub rotation_after: u32,
    /// Normalised entropy below which exploration is boosted.
    pub diversity_threshold: f64,
    /// How much.
    pub diversity_boost: f64,
    /// The latency that an error is measured in; `None`: automatic.
    pub sla: Option<Duration>,
    /// How ties within the tolerance are broken.
    pub tie: RlTie,
    /// Weights of the reward's terms.
    pub reward: RewardPlan,
    /// The four caches.
    pub cache: RlCachePlan,
    /// Where the learned state lives; `None`: nowhere.
    pub store: Option<RlStorePlan>,
    /// Latency that streamed answers feed: weight of the normalised body time (rl-agent, section 9).
    pub stream_weight: f64,
    /// The guardrail; `None`: off.
    pub guardrail: Option<GuardrailPlan>,
}

/// Which learning agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RlAgent {
    /// Ours, the default.
    Adaptive,
    /// The guide's, to the letter.
    Tabular,
}

/// How the agent breaks ties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RlTie {
    /// Least recently used.
    Lru,
    /// At random: better when several proxies serve the pool.
    Random,
}

/// `reward = { … }`
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the guide's five terms")]
pub struct RewardPlan {
    pub latency: f64,
    pub errors: f64,
    pub throughput: f64,
    pub balance: f64,
    pub stability: f64,
}

/// `cache = { … }`: times to live.
#[derive(Debug, Clone, PartialEq)]
pub struct RlCachePlan {
    /// Choices (tabular only).
    pub decision: Duration,
    /// CPU, memory and the other metrics.
    pub metrics: Duration,
    /// Backend list and weights.
    pub service: Duration,
    /// Encoded states.
    pub state: Duration,
    /// Entries that each may hold.
    pub max_entries: usize,
}

/// `store = { … }`
#[derive(Debug, Clone, PartialEq)]
pub struct RlStorePlan {
    /// The state file.
    pub path: PathBuf,
    /// How often it is written.
    pub interval: Duration,
}

/// `guardrail = { … }`
#[derive(Debug, Clone, PartialEq)]
pub struct GuardrailPlan {
    /// Share of requests routed by the baseline.
    pub control: f64,
    /// The baseline.
    pub baseline: StrategyKind,
    /// Length of a comparison window.
    pub window: Duration,
    /// Windows in a row that must be lost.
    pub windows: u32,
    /// How long the baseline then rules.
    pub hold: Duration,
}
