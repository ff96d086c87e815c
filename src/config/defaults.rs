//! What a key means when nobody wrote it: one `Default` (or `new`) per table of the contract, and constructors for plans
//! that tests, `quick`, `demo` and the simulator make in code.
//!
//! Every value here is the contract's (section 2), those of `rl` are the agent's design. `conf/full.toml` writes them all
//! out and a test holds it equal to this file.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use super::plan::*;

const KIB: usize = 1024;

impl Plan {
    /// One listener, one pool named `default`, everything else at its default, no admin server.
    pub fn minimal(listen: SocketAddr, strategy: StrategyKind, backends: Vec<BackendPlan>) -> Self {
        Self {
            server: ServerPlan::default(),
            log: LogPlan::default(),
            listeners: vec![ListenerPlan::new(listen)],
            admin: None,
            routes: Vec::new(),
            pools: vec![Arc::new(PoolPlan::new("default", strategy, backends))],
            access_log: AccessLogPlan::default(),
        }
    }
}

impl Default for ServerPlan {
    fn default() -> Self {
        Self {
            threads: 0,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(60),
            max_connections: 50_000,
        }
    }
}

impl Default for LogPlan {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for AccessLogPlan {
    fn default() -> Self {
        Self { format: AccessLogFormat::Json, path: None }
    }
}

impl ListenerPlan {
    /// A plain listener at `address`, with every limit at its default.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            max_header_bytes: 64 * KIB,
            max_headers: 100,
            max_uri: 16 * KIB,
            max_body: 0,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_idle_timeout: Duration::from_secs(60),
            write_idle_timeout: Duration::from_secs(60),
            tls_handshake_timeout: Duration::from_secs(5),
            http2: Http2Plan::default(),
            limits: None,
            tls: None,
            guarded_headers: Vec::new(),
        }
    }
}

impl Default for Http2Plan {
    fn default() -> Self {
        Self {
            enabled: true,
            max_streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            ping: Duration::from_secs(20),
        }
    }
}

/// What an empty `limits = {}` means: nothing is limited until a number is written.
impl Default for ClientLimitsPlan {
    fn default() -> Self {
        Self { per_client_connections: 0, per_client_rps: 0.0, dry_run: false }
    }
}

impl AdminPlan {
    /// An admin server at `address`, without a token.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: None, public_metrics: false }
    }
}

impl Default for AdminPlan {
    fn default() -> Self {
        Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 9901)))
    }
}

impl RoutePlan {
    /// Bytes of body peeked for `model` unless written otherwise.
    pub const DEFAULT_MODEL_PEEK: usize = 64 * KIB;

    /// A route without conditions to the pool of that index.
    pub fn to(pool: usize) -> Self {
        Self {
            host: None,
            path_prefix: None,
            headers: Vec::new(),
            model: None,
            max_model_peek: Self::DEFAULT_MODEL_PEEK,
            pool,
        }
    }
}

impl PoolPlan {
    /// A pool with everything but its strategy and backends at the defaults.
    pub fn new(name: impl Into<String>, strategy: StrategyKind, backends: Vec<BackendPlan>) -> Self {
        Self {
            name: name.into(),
            strategy: StrategyPlan::new(strategy),
            protocol: Protocol::Http1,
            when_unhealthy: WhenUnhealthy::FailOpen,
            max_in_flight: 0,
            engine: Engine::Generic,
            shadow: Vec::new(),
            resolve: Duration::from_secs(10),
            priority_header: String::new(),
            backends,
            health: HealthPlan::default(),
            outlier: OutlierPlan::default(),
            slow_start: None,
            timeouts: TimeoutsPlan::default(),
            retry: RetryPlan::default(),
            queue: QueuePlan::default(),
            sticky: None,
            resources: None,
            stream_error_event: false,
        }
    }
}

impl BackendPlan {
    /// A ready backend of weight 1 under the pool's limit.
    pub fn new(name: impl Into<String>, address: Address) -> Self {
        Self {
            name: name.into(),
            address,
            weight: 1,
            max_in_flight: None,
            state: AdminState::Ready,
            expand: false,
            tls: None,
        }
    }
}

impl Default for BackendTlsPlan {
    fn default() -> Self {
        Self { server_name: None, ca: None, verify: true, client: None }
    }
}

impl StrategyPlan {
    /// That strategy with its settings at the defaults.
    pub fn new(kind: StrategyKind) -> Self {
        Self {
            kind,
            ip_hash: IpHashPlan::default(),
            resource_based: ResourceBasedPlan::default(),
            rl: RlPlan::default(),
        }
    }
}

impl Default for IpHashPlan {
    fn default() -> Self {
        Self { bounded_load: 0.0 }
    }
}

impl Default for ResourceBasedPlan {
    fn default() -> Self {
        Self { cpu: 0.4, memory: 0.3, in_flight: 0.3, expiry: Duration::from_secs(10) }
    }
}

impl Default for HealthPlan {
    fn default() -> Self {
        Self {
            kind: ProbeKind::Http,
            path: Engine::Generic.profile().health_path.to_owned(),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            jitter: 0.1,
            expect_status: vec![(200, 299)],
            stalled_after: Engine::Generic.profile().stalled_after,
        }
    }
}

impl Default for OutlierPlan {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            failure_rate: 0.2,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
            max_ejected: 0.5,
        }
    }
}

/// What an empty `[pools.NAME.slow_start]` means.
impl Default for SlowStartPlan {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), min_weight: 0.1 }
    }
}

impl Default for TimeoutsPlan {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(300),
            total: Duration::ZERO,
            upstream_idle: Duration::from_secs(4),
            tunnel_idle: Duration::from_secs(3600),
        }
    }
}

impl Default for RetryPlan {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: vec![RetryOn::ConnectFailure, RetryOn::ResetBeforeResponse],
            non_idempotent: false,
            budget: 0.2,
            max_replay: 64 * KIB,
        }
    }
}

impl Default for QueuePlan {
    fn default() -> Self {
        Self { size: 128, timeout: Duration::from_secs(30) }
    }
}

/// What an empty `[pools.NAME.sticky]` means.
impl Default for StickyPlan {
    fn default() -> Self {
        Self {
            mode: StickyMode::Cookie,
            name: "evenkeel".to_owned(),
            secret: None,
            idle: Duration::from_secs(30 * 60),
            life: Duration::from_secs(8 * 3600),
            same_site: SameSite::Lax,
            spill: 0,
        }
    }
}

/// What an empty `[pools.NAME.resources]` means: no source, so nothing is known.
impl Default for ResourcesPlan {
    fn default() -> Self {
        Self { scrape: None, prometheus: None, orca: false, expiry: Duration::from_secs(10) }
    }
}

impl Default for ScrapePlan {
    fn default() -> Self {
        Self { path: "/metrics".to_owned(), port: 0, interval: Duration::from_secs(1), names: Vec::new() }
    }
}

/// The guide's two tuning sets of the tabular agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RlPreset {
    /// The guide's "Conservative (Production)".
    Production,
    /// The guide's "Aggressive (Development/Testing)".
    Development,
}

impl RlPlan {
    /// The agent's own defaults. `store` is `None`: only a configuration file has a folder to put it in (there the
    /// default is `state/POOL.rl`).
    pub fn for_agent(agent: RlAgent) -> Self {
        let common = Self {
            agent,
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
            tie: RlTie::Lru,
            reward: RewardPlan::default(),
            cache: RlCachePlan::default(),
            store: None,
            stream_weight: 0.1,
            guardrail: Some(GuardrailPlan::default()),
        };
        match agent {
            RlAgent::Adaptive => common,
            // The guide's formulas: γ 0.95, a 500 ms SLA, decisions cached for 100 ms. It gives no ε floor outside its
            // presets; 0.05 is the production preset's, and what the laboratory measured.
            RlAgent::Tabular => Self {
                discount_factor: 0.95,
                min_epsilon: 0.05,
                sla: Some(Duration::from_millis(500)),
                cache: RlCachePlan { decision: Duration::from_millis(100), ..common.cache },
                ..common
            },
        }
    }

    /// The tabular agent as one of the guide's tuning sets has it.
    pub fn preset(preset: RlPreset) -> Self {
        let tabular = Self::for_agent(RlAgent::Tabular);
        match preset {
            RlPreset::Production => Self {
                learning_rate: 0.05,
                discount_factor: 0.95,
                initial_epsilon: 0.3,
                epsilon_decay: 0.998,
                min_epsilon: 0.05,
                ..tabular
            },
            RlPreset::Development => Self {
                learning_rate: 0.2,
                discount_factor: 0.9,
                initial_epsilon: 0.8,
                epsilon_decay: 0.995,
                min_epsilon: 0.1,
                ..tabular
            },
        }
    }
}

impl Default for RlPlan {
    fn default() -> Self {
        Self::for_agent(RlAgent::Adaptive)
    }
}

impl Default for RewardPlan {
    fn default() -> Self {
        Self { latency: 0.4, errors: 0.4, throughput: 0.1, balance: 0.1, stability: 0.5 }
    }
}

impl Default for RlCachePlan {
    fn default() -> Self {
        Self {
            decision: Duration::ZERO,
            metrics: Duration::from_secs(1),
            service: Duration::from_secs(5),
            state: Duration::from_secs(5),
            max_entries: 1000,
        }
    }
}

impl Default for GuardrailPlan {
    fn default() -> Self {
        Self {
            control: 0.02,
            baseline: StrategyKind::PowerOfTwo,
            window: Duration::from_secs(30),
            windows: 3,
            hold: Duration::from_secs(300),
        }
    }
}
