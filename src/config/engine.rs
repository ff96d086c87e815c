//! The model servers we know, as one table: where each answers health probes, how it says that it is loading or full, and
//! what its metrics are called, with fallbacks for names that changed between versions.
//!
//! A profile is data. Who probes, scrapes or watches reads it here; nothing else in the program asks which engine it is.
//! A name that is absent from an answer leaves its signal unknown.

/// Which model server the backends are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "product names")]
pub enum Engine {
    Vllm,
    Sglang,
    Tgi,
    Ollama,
    Llamacpp,
    Triton,
    Generic,
}

/// What is known of a model server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineProfile {
    /// Its word in the configuration.
    pub name: &'static str,
    /// Where it answers health probes.
    pub health_path: &'static str,
    /// What a 503 to a probe says (any of these words, whatever their case) while the model is loaded; the empty word
    /// stands for an empty body.
    pub loading: &'static [&'static str],
    /// Whether any other 503 to a probe may only mean that its queue is full.
    pub full_is_503: bool,
    /// Where its metrics are, if not at the port of the API.
    pub metrics_port: Option<u16>,
    /// Health-check intervals without any sign of progress, requests in flight, after which it counts as stalled; 0: silence
    /// says nothing, because its answers may rightly take long in one piece.
    pub stalled_after: u32,
    /// Its signals; of several lines for one, the first that says something counts.
    pub signals: &'static [(Signal, Rule<&'static str>)],
}

/// What can be learned of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// CPU (or GPU) in use, 0-1.
    Cpu,
    /// Memory or KV cache in use, 0-1.
    Memory,
    /// Requests it works on.
    Running,
    /// Requests in its queue.
    Waiting,
    /// A counter that grows with every step of its work: a change is progress, and none while requests run is a stall.
    Heartbeat,
    /// A value that changes now and then as it works, such as a count of finished requests: a change is progress, silence
    /// says nothing.
    Activity,
}

impl Signal {
    /// The signal of that name in `names = { … }`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "cpu" => Some(Self::Cpu),
            "memory" => Some(Self::Memory),
            "running" => Some(Self::Running),
            "waiting" => Some(Self::Waiting),
            "heartbeat" => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

/// How a signal follows from metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule<N> {
    /// The greatest of its series; 0-1.
    Share(N),
    /// The greatest of its series; 0-100.
    Percent(N),
    /// The first ÷ the second.
    Of(N, N),
    /// The first ÷ the sum of both.
    Against(N, N),
    /// 1 − the first ÷ the second.
    AllBut(N, N),
    /// Growth per second, at most 1: of a counter of seconds, cores in use, where one core is all we can be sure of.
    Rate(N),
    /// 1 − growth per second and series, over the series with `mode="idle"`.
    Idle(N),
    /// The sum of its series.
    Sum(N),
}

use Rule::{Against, AllBut, Idle, Of, Percent, Rate, Share, Sum};
use Signal::{Activity, Cpu, Heartbeat, Memory, Running, Waiting};

const LOADING: &[&str] = &["loading", "starting"];

/// The table. The versions that the names are known of stand in the fixtures of `resources`.
const VLLM: EngineProfile = EngineProfile {
    name: "vllm",
    health_path: "/health",
    loading: LOADING,
    full_is_503: false,
    metrics_port: None,
    stalled_after: 3,
    signals: &[
        (Memory, Share("vllm:kv_cache_usage_perc")),
        (Memory, Share("vllm:gpu_cache_usage_perc")), // until 0.9
        (Running, Sum("vllm:num_requests_running")),
        (Waiting, Sum("vllm:num_requests_waiting")),
        (Heartbeat, Sum("vllm:iteration_tokens_total_count")),
        (Heartbeat, Sum("vllm:generation_tokens_total")),
    ],
};
const SGLANG: EngineProfile = EngineProfile {
    name: "sglang",
    health_path: "/health",
    loading: &["", "loading", "starting"],
    full_is_503: false,
    metrics_port: None,
    stalled_after: 3,
    signals: &[
        (Memory, Share("sglang:token_usage")),
        (Running, Sum("sglang:num_running_reqs")),
        (Waiting, Sum("sglang:num_queue_reqs")),
        // Counted when a request ends.
        (Activity, Sum("sglang:generation_tokens_total")),
        // A gauge, written every forty steps: it changes while tokens are made.
        (Activity, Sum("sglang:gen_throughput")),
    ],
};
const TGI: EngineProfile = EngineProfile {
    name: "tgi",
    health_path: "/health",
    loading: LOADING,
    full_is_503: true,
    metrics_port: None,
    stalled_after: 3,
    signals: &[
        (Running, Sum("tgi_batch_current_size")),
        (Waiting, Sum("tgi_queue_size")),
        // One a step, prefill or decode.
        (Heartbeat, Sum("tgi_batch_inference_count")),
        // Counted when a request ends.
        (Activity, Sum("tgi_request_generated_tokens_count")),
    ],
};
/// It shows no metrics: in-flight requests are counted here, and streams tell of progress.
const OLLAMA: EngineProfile = EngineProfile {
    name: "ollama",
    health_path: "/api/version",
    loading: LOADING,
    full_is_503: false,
    metrics_port: None,
    // It loads another model amid everything, which may take a minute.
    stalled_after: 0,
    signals: &[],
};
const LLAMACPP: EngineProfile = EngineProfile {
    name: "llamacpp",
    health_path: "/health",
    loading: LOADING,
    full_is_503: true, // `path = "/slots?fail_on_no_slot=1"`
    metrics_port: None,
    stalled_after: 3,
    signals: &[
        (Memory, Share("llamacpp:kv_cache_usage_ratio")), // removed in 2025
        (Running, Sum("llamacpp:requests_processing")),
        (Waiting, Sum("llamacpp:requests_deferred")),
        (Heartbeat, Sum("llamacpp:n_decode_total")),
    ],
};
const TRITON: EngineProfile = EngineProfile {
    name: "triton",
    health_path: "/v2/health/ready",
    loading: LOADING,
    full_is_503: false,
    metrics_port: Some(8002),
    stalled_after: 0,
    signals: &[
        (Cpu, Share("nv_cpu_utilization")),
        (Memory, Of("nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes")),
        (Waiting, Sum("nv_inference_pending_request_count")),
        (Activity, Sum("nv_inference_request_success")),
    ],
};
const GENERIC: EngineProfile = EngineProfile {
    name: "generic",
    health_path: "/health",
    loading: &[],
    full_is_503: false,
    metrics_port: None,
    stalled_after: 0,
    signals: &[],
};

/// Read after the engine's own: exporters of nodes and GPUs, and any process.
pub const ANY_SIGNALS: &[(Signal, Rule<&str>)] = &[
    (Cpu, Percent("DCGM_FI_DEV_GPU_UTIL")),
    (Cpu, Idle("node_cpu_seconds_total")),
    (Cpu, Rate("process_cpu_seconds_total")),
    (Memory, Against("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE")),
    (Memory, AllBut("node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes")),
];

impl Engine {
    /// Every engine, in the order of the reference.
    pub const ALL: [Self; 7] =
        [Self::Vllm, Self::Sglang, Self::Tgi, Self::Ollama, Self::Llamacpp, Self::Triton, Self::Generic];

    /// What is known of it.
    pub fn profile(self) -> &'static EngineProfile {
        match self {
            Self::Vllm => &VLLM,
            Self::Sglang => &SGLANG,
            Self::Tgi => &TGI,
            Self::Ollama => &OLLAMA,
            Self::Llamacpp => &LLAMACPP,
            Self::Triton => &TRITON,
            Self::Generic => &GENERIC,
        }
    }

    /// The engine of that word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.profile().name == word)
    }

    /// Whether the body of a 503 to a probe says that the model is still being loaded.
    pub fn is_loading(self, body: &[u8]) -> bool {
        let says = |word: &str| body.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
        self.profile().loading.iter().any(|word| if word.is_empty() { body.is_empty() } else { says(word) })
    }
}
