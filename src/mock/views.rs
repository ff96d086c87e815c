//! What an instance shows of itself: vLLM's metrics, and its whole state at `/__mock`.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::engine::{Engine, Snapshot};

/// KV-cache tokens a slot has room for: a 4k context, half used, is what small deployments give a request.
const KV_TOKENS_PER_SLOT: f64 = 2048.0;
/// Pretended memory of weights, and of a full KV cache on top.
const WEIGHTS_BYTES: f64 = 4.0 * 1024.0 * 1024.0 * 1024.0;
const KV_BYTES: f64 = 2.0 * 1024.0 * 1024.0 * 1024.0;

/// Prometheus text with vLLM's names. The `process_*` figures are the pretended instance's, not this process's: one
/// process may hold several mocks.
pub(super) fn metrics(engine: &Engine) -> String {
    let seen = engine.snapshot();
    let counts = &engine.counts;
    let kv = kv_use(engine, &seen);
    let label = format!("{{engine=\"0\",model_name=\"{}\"}}", escape(&seen.profile.model));
    let mut text = String::with_capacity(2048);
    let mut one = |name: &str, kind: &str, help: &str, label: &str, value: f64| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{label} {value}");
    };
    one("vllm:num_requests_running", "gauge", "Requests on a slot.", &label, seen.running as f64);
    one("vllm:num_requests_waiting", "gauge", "Requests waiting for a slot.", &label, seen.waiting as f64);
    one("vllm:kv_cache_usage_perc", "gauge", "KV-cache use, 1 is full.", &label, kv);
    let prompt = counts.prompt_tokens.load(Relaxed) as f64;
    one("vllm:prompt_tokens_total", "counter", "Prompt tokens read.", &label, prompt);
    let tokens = counts.tokens.load(Relaxed) as f64;
    one("vllm:generation_tokens_total", "counter", "Tokens made.", &label, tokens);
    let answered = counts.answered.load(Relaxed) as f64;
    one("vllm:request_success_total", "counter", "Requests answered to the end.", &label, answered);
    let cpu = seen.busy_s;
    one("process_cpu_seconds_total", "counter", "Pretended: share of slots in use, summed over time.", "", cpu);
    let memory = WEIGHTS_BYTES + KV_BYTES * kv;
    one("process_resident_memory_bytes", "gauge", "Pretended: weights and KV cache.", "", memory);
    let start = unix_seconds() - engine.started.elapsed().as_secs_f64();
    one("process_start_time_seconds", "gauge", "Start of this instance since the epoch.", "", start);
    // A histogram in vLLM: steps of the engine and the tokens made in each.
    let iterations = counts.iterations.load(Relaxed);
    let name = "vllm:iteration_tokens_total";
    let _ = writeln!(
        text,
        "# HELP {name} Tokens per engine step.\n# TYPE {name} histogram\n\
         {name}_bucket{{engine=\"0\",le=\"+Inf\",model_name=\"{model}\"}} {iterations}\n\
         {name}_sum{label} {tokens}\n{name}_count{label} {iterations}",
        model = escape(&seen.profile.model),
    );
    text
}

/// `GET /__mock`: settings, what happens now and what happened so far.
pub(super) fn state(engine: &Engine) -> Value {
    let seen = engine.snapshot();
    let counts = &engine.counts;
    json!({
        "name": seen.profile.name,
        "uptime_s": engine.started.elapsed().as_secs_f64(),
        "in_flight": counts.in_flight.load(Relaxed),
        "running": seen.running,
        "waiting": seen.waiting,
        "refusing": seen.refusing,
        "kv_use": kv_use(engine, &seen),
        "busy_s": seen.busy_s,
        "requests": counts.requests.load(Relaxed),
        "answered": counts.answered.load(Relaxed),
        "errors": counts.errors.load(Relaxed),
        "refused": counts.refused.load(Relaxed),
        "cancelled": counts.cancelled.load(Relaxed),
        "probes": counts.probes.load(Relaxed),
        "prompt_tokens": counts.prompt_tokens.load(Relaxed),
        "tokens": counts.tokens.load(Relaxed),
        "profile": seen.profile,
    })
}

fn kv_use(engine: &Engine, seen: &Snapshot) -> f64 {
    let held = engine.counts.held_tokens.load(Relaxed) as f64;
    (held / (seen.profile.slots as f64 * KV_TOKENS_PER_SLOT)).clamp(0.0, 1.0)
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A label value as Prometheus wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
