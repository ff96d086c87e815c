//! The table: every metric that Evenkeel exposes. A name that appears in `/metrics` stands here and nowhere else.
//!
//! No label ever holds a path or a client; the values of every label come from the configuration or from a fixed list.

/// One metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Full name, prefix included.
    pub name: &'static str,
    /// What it says, for people.
    pub help: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
}

/// Types of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, sum and count.
    Histogram,
}

impl Kind {
    /// The word of the `# TYPE` line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Declares the families and the list of them all.
macro_rules! families {
    ($($ident:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $ident: Family =
                Family { name: $name, help: $help, kind: Kind::$kind, labels: &[$($label),*] };
        )*
        /// Every family, in the order of the table.
        pub const ALL: &[Family] = &[$($ident),*];
    };
}

families! {
    REQUESTS = Counter "evenkeel_requests_total" ["pool", "backend", "code_class"]
        "Client requests, counted once at their end; backend is that of the last attempt or empty.";
    UPSTREAM_ATTEMPTS = Counter "evenkeel_upstream_attempts_total" ["pool", "backend", "result"]
        "Attempts at backends by how they ended.";
    REQUEST_DURATION = Histogram "evenkeel_request_duration_seconds" ["pool", "backend"]
        "Time from the pick of a backend to the last byte.";
    FIRST_BYTE = Histogram "evenkeel_first_byte_seconds" ["pool", "backend"]
        "Time from the pick of a backend to the first byte of its response.";
    FIRST_TOKEN = Histogram "evenkeel_first_token_seconds" ["pool", "backend"]
        "Time from the pick of a backend to the first event of its stream that has content.";
    STREAM_GAP = Histogram "evenkeel_stream_gap_seconds" ["pool", "backend"]
        "Time between two pieces of a streamed response.";
    STREAM_BYTES = Counter "evenkeel_stream_bytes_total" ["pool", "backend"]
        "Body bytes of streamed responses.";
    STREAM_EVENTS = Counter "evenkeel_stream_events_total" ["pool", "backend"]
        "Events of streamed responses.";
    STREAMS_OPEN = Gauge "evenkeel_streams_open" ["pool", "backend"]
        "Streamed responses at present.";
    RESOURCE_USE = Gauge "evenkeel_resource_use_ratio" ["pool", "backend", "resource"]
        "Share of a resource that a backend says is in use, 0-1; absent while unknown.";
    RESOURCE_AGE = Gauge "evenkeel_resource_age_seconds" ["pool", "backend"]
        "Age of the last sample of a backend's resources.";
    RESOURCE_SAMPLES = Counter "evenkeel_resource_samples_total" ["pool", "backend", "source", "result"]
        "Attempts to learn a backend's resources, by source.";
    ENGINE_REQUESTS = Gauge "evenkeel_engine_requests" ["pool", "backend", "state"]
        "Requests that a backend itself says are running or waiting there, of all clients; absent while unknown.";
    QUEUE_WAIT = Histogram "evenkeel_queue_wait_seconds" ["pool"]
        "Time that requests waited for a place at a backend.";
    DECISION = Histogram "evenkeel_decision_seconds" ["pool", "strategy"]
        "Time that the strategy took to pick a backend.";
    IN_FLIGHT = Gauge "evenkeel_in_flight" ["pool", "backend"]
        "Requests at a backend, from the pick to the last byte.";
    QUEUE_LENGTH = Gauge "evenkeel_queue_length" ["pool"]
        "Requests that wait for a place at a backend.";
    BACKEND_UP = Gauge "evenkeel_backend_up" ["pool", "backend"]
        "1 when the backend is healthy.";
    BACKEND_STATE = Gauge "evenkeel_backend_state" ["pool", "backend", "state"]
        "One series a word: of what the operator wants (ready, draining, disabled) and of health; 1 for the present one of each.";
    BACKEND_WEIGHT = Gauge "evenkeel_backend_weight" ["pool", "backend"]
        "Configured weight of a backend.";
    BACKEND_HELD = Gauge "evenkeel_backend_held_seconds" ["pool", "backend"]
        "For how long a backend still asked to be left alone (Retry-After); 0: it does not.";
    CONNECTIONS = Gauge "evenkeel_connections" ["listener"]
        "Open client connections.";
    CONNECTIONS_CUT = Counter "evenkeel_connections_cut_total" ["reason"]
        "Client connections ended because the client was too slow or spoke no HTTP.";
    UPSTREAM_CONNECTIONS = Gauge "evenkeel_upstream_connections" ["pool", "backend"]
        "Open connections to a backend.";
    CLIENT_LIMITED = Counter "evenkeel_client_limited_total" ["listener", "limit", "action"]
        "Connections and requests beyond a client's limit: refused, or counted only by a dry run.";
    TLS_HANDSHAKES = Counter "evenkeel_tls_handshakes_total" ["listener", "result"]
        "TLS handshakes with clients by how they ended.";
    TLS_CERTIFICATE_RELOADS = Counter "evenkeel_tls_certificate_reloads_total" ["result"]
        "Certificates that were read anew because their files changed, by result.";
    TLS_CERTIFICATE_EXPIRY = Gauge "evenkeel_tls_certificate_expiry_timestamp_seconds" ["file"]
        "When a certificate expires, seconds after the epoch.";
    HEALTH_CHECKS = Counter "evenkeel_health_checks_total" ["pool", "backend", "result"]
        "Active health checks by result.";
    EJECTIONS = Counter "evenkeel_ejections_total" ["pool", "backend", "reason"]
        "Ejections of a backend because of live traffic.";
    RETRIES = Counter "evenkeel_retries_total" ["pool", "reason"]
        "Second tries by reason.";
    CLIENT_DISCONNECTS = Counter "evenkeel_client_disconnects_total" ["pool"]
        "Clients that left before the end of their response.";
    NONE_HEALTHY = Gauge "evenkeel_pool_none_healthy" ["pool"]
        "1 while no backend of the pool is healthy: all are used, or none, as when_unhealthy says.";
    FAIL_OPEN = Counter "evenkeel_fail_open_picks_total" ["pool"]
        "Picks made although no backend was healthy, or each free one had asked for a pause (Retry-After).";
    ACCESS_LOG_LOST = Counter "evenkeel_access_log_lost_lines_total" []
        "Access log lines that could not be written.";
    CONFIG_RELOADS = Counter "evenkeel_config_reloads_total" ["result"]
        "Reloads of the configuration by result.";
    CONFIG_GENERATION = Gauge "evenkeel_config_generation" []
        "Generation of the configuration in force; 1 at start.";
    CONFIG_LAST_RELOAD_SUCCESS = Gauge "evenkeel_config_last_reload_success" []
        "1 when the last reload was applied, 0 when it was refused.";
    PANICS = Counter "evenkeel_panics_total" []
        "Panics that were caught.";
    ADMIN_REQUEST_SECONDS = Histogram "evenkeel_admin_request_seconds" []
        "Time that requests to the admin server took.";
    BUILD_INFO = Gauge "evenkeel_build_info" ["version"]
        "Always 1; the label tells the version.";
    RL_EPSILON = Gauge "evenkeel_rl_epsilon" ["pool"]
        "Present share of exploration of the learning agent.";
    RL_Q_STATES = Gauge "evenkeel_rl_q_states" ["pool"]
        "States in the agent's table.";
    RL_STATE_COVERAGE = Gauge "evenkeel_rl_state_coverage" ["pool"]
        "Share of the agent's states that were visited.";
    RL_TD_ERROR = Gauge "evenkeel_rl_td_error" ["pool"]
        "Smoothed absolute temporal-difference error.";
    RL_REWARD = Gauge "evenkeel_rl_reward" ["pool"]
        "Smoothed reward.";
    RL_DECISIONS = Counter "evenkeel_rl_decisions_total" ["pool", "kind"]
        "Picks of the agent by how they came about.";
    RL_DIVERSITY = Gauge "evenkeel_rl_diversity" ["pool"]
        "Normalised entropy of the agent's recent picks.";
    RL_DECISION_CONFIDENCE = Gauge "evenkeel_rl_decision_confidence" ["pool"]
        "Smoothed confidence of the agent's decisions.";
    RL_DECISION_P95 = Gauge "evenkeel_rl_decision_latency_p95_seconds" ["pool"]
        "95th percentile of the time that a decision took.";
    RL_CACHE_HIT_RATE = Gauge "evenkeel_rl_cache_hit_rate" ["pool"]
        "Share of look-ups that the agent's caches answered.";
    RL_FALLBACK_RATE = Gauge "evenkeel_rl_fallback_rate" ["pool"]
        "Share of decisions that the baseline took instead of the agent.";
    RL_REWARD_TREND = Gauge "evenkeel_rl_reward_trend" ["pool"]
        "Mean reward of late less that of longer ago; above 0 it improves.";
    RL_GUARDRAIL_ACTIVE = Gauge "evenkeel_rl_guardrail_active" ["pool"]
        "1 while the baseline rules instead of the agent.";
    RL_UPDATES = Counter "evenkeel_rl_updates_total" ["pool"]
        "Outcomes the agent learned from.";
    SHADOW_AGREEMENT = Gauge "evenkeel_shadow_agreement" ["pool", "shadow"]
        "Share of picks in which the shadow strategy agreed.";
    SHADOW_COST_RATIO = Gauge "evenkeel_shadow_cost_ratio" ["pool", "shadow"]
        "Estimated cost of the shadow strategy divided by that of the live one.";
    PROCESS_CPU_SECONDS = Counter "process_cpu_seconds_total" []
        "Total user and system CPU time spent in seconds.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" []
        "Number of open file descriptors.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" []
        "Maximum number of open file descriptors.";
    PROCESS_VIRTUAL_MEMORY = Gauge "process_virtual_memory_bytes" []
        "Virtual memory size in bytes.";
    PROCESS_RESIDENT_MEMORY = Gauge "process_resident_memory_bytes" []
        "Resident memory size in bytes.";
    PROCESS_START_TIME = Gauge "process_start_time_seconds" []
        "Start time of the process since unix epoch in seconds.";
    PROCESS_THREADS = Gauge "process_threads" []
        "Number of OS threads in the process.";
}

/// Those kept in the recorder of [`Metrics`](super::Metrics).
pub(super) const PROCESS_WIDE: &[Family] = &[
    TLS_CERTIFICATE_RELOADS,
    CONFIG_RELOADS,
    CONFIG_GENERATION,
    CONFIG_LAST_RELOAD_SUCCESS,
    PANICS,
    ADMIN_REQUEST_SECONDS,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names: Vec<_> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            assert!(family.name.starts_with("evenkeel_") || family.name.starts_with("process_"), "{}", family.name);
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(family.name.bytes().all(fits), "{}", family.name);
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{}", family.name);
            assert!(!family.labels.iter().any(|label| ["path", "client", "le", "quantile"].contains(label)));
        }
    }
}
