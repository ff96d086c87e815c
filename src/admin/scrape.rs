//! `/metrics`: walks the pools and their backends and writes what their atomics hold, then the process-wide metrics.
//!
//! What is gone is not written; nothing is kept between scrapes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use super::room::{ControlRoom, Snapshot};
use super::views::{expiry, is_up, wanted_name};
use crate::backend::{
    AttemptResult, Backend, CodeClass, HISTOGRAM_BUCKETS, HealthState, Histogram, Moment, Reason, SampleResult,
};
use crate::balance::{LearningStats, PerformanceStats, PickKind};
use crate::clock;
use crate::config::AdminState as Wanted;
use crate::pool::{DECISION_BUCKETS, Pool, RetryReason};
use crate::telemetry::metrics::{Exposition, Family, Metrics, families};

/// The whole answer.
pub(super) fn scrape(room: &dyn ControlRoom, metrics: &Metrics) -> String {
    let snapshot = room.snapshot();
    let pools: Vec<Walked> = snapshot.pools.iter().map(Walked::new).collect();
    let mut out = Exposition::default();
    traffic(&mut out, &pools, snapshot.refused);
    gauges(&mut out, &pools, room);
    health(&mut out, &pools);
    streams(&mut out, &pools);
    resources(&mut out, &pools, clock::now());
    pool_wide(&mut out, &pools);
    learning(&mut out, &pools);
    process_wide(&mut out, &snapshot);
    metrics.write(&mut out);
    out.into_text()
}

/// A pool and all its backends, those that are leaving among them: their requests still count.
struct Walked {
    pool: Arc<Pool>,
    backends: Vec<Arc<Backend>>,
}

impl Walked {
    fn new(pool: &Arc<Pool>) -> Self {
        let mut backends = pool.set().members.to_vec();
        // A name may have come back while its predecessor is still leaving; one series a name.
        let leaving = pool.leaving().into_iter().filter(|b| !backends.iter().any(|member| member.name == b.name));
        let leaving: Vec<_> = leaving.collect();
        for backend in leaving {
            if !backends.iter().any(|present| present.name == backend.name) {
                backends.push(backend);
            }
        }
        Self { pool: Arc::clone(pool), backends }
    }
}

/// Every pair of pool and backend.
fn each(pools: &[Walked]) -> impl Iterator<Item = (&str, &Arc<Backend>)> {
    pools.iter().flat_map(|walked| walked.backends.iter().map(|backend| (&*walked.pool.name, backend)))
}

fn traffic(out: &mut Exposition, pools: &[Walked], refused: [u64; CodeClass::ALL.len()]) {
    let mut family = out.family(&families::REQUESTS);
    for walked in pools {
        for backend in &walked.backends {
            for class in CodeClass::ALL {
                let count = backend.stats.requests(class);
                family.sample(&[&walked.pool.name, &backend.name, class.name()], count);
            }
        }
        for (class, count) in CodeClass::ALL.into_iter().zip(&walked.pool.stats.unrouted) {
            family.sample(&[&walked.pool.name, "", class.name()], count.load(Relaxed));
        }
    }
    for (class, count) in CodeClass::ALL.into_iter().zip(refused) {
        family.sample(&["", "", class.name()], count);
    }
    let mut family = out.family(&families::UPSTREAM_ATTEMPTS);
    for (pool, backend) in each(pools) {
        for result in AttemptResult::ALL {
            family.sample(&[pool, &backend.name, result.name()], backend.stats.attempts(result));
        }
    }
    backend_histogram(out, &families::REQUEST_DURATION, pools, |backend| backend.stats.total());
    backend_histogram(out, &families::FIRST_BYTE, pools, |backend| backend.stats.first_byte());
}

fn backend_histogram(
    out: &mut Exposition,
    family: &'static Family,
    pools: &[Walked],
    of: impl Fn(&Backend) -> &Histogram,
) {
    let mut family = out.family(family);
    for (pool, backend) in each(pools) {
        let (counts, sum) = of(backend).snapshot();
        family.histogram(&[pool, &backend.name], HISTOGRAM_BUCKETS, &counts, sum);
    }
}

fn gauges(out: &mut Exposition, pools: &[Walked], room: &dyn ControlRoom) {
    let now = clock::now();
    let mut family = out.family(&families::IN_FLIGHT);
    for (pool, backend) in each(pools) {
        family.sample(&[pool, &backend.name], backend.in_flight());
    }
    let mut family = out.family(&families::BACKEND_UP);
    for (pool, backend) in each(pools) {
        family.sample(&[pool, &backend.name], u8::from(is_up(backend)));
    }
    let mut family = out.family(&families::BACKEND_STATE);
    for (pool, backend) in each(pools) {
        let present = [wanted_name(backend.admin_state()), backend.health_state().name()];
        for state in STATES {
            family.sample(&[pool, &backend.name, state], u8::from(present.contains(&state)));
        }
    }
    let mut family = out.family(&families::BACKEND_WEIGHT);
    for (pool, backend) in each(pools) {
        family.sample(&[pool, &backend.name], backend.configured_weight());
    }
    let mut family = out.family(&families::BACKEND_HELD);
    for (pool, backend) in each(pools) {
        family.sample(&[pool, &backend.name], backend.held_for(now).unwrap_or_default().as_secs_f64());
    }
    let mut family = out.family(&families::UPSTREAM_CONNECTIONS);
    for (pool, backend) in each(pools) {
        if let Some(count) = room.upstream_connections(backend.id) {
            family.sample(&[pool, &backend.name], count);
        }
    }
}

/// The states of `backend_state`: what the operator wants, and what health says; one of each is 1.
const STATES: [&str; 8] = ["ready", "draining", "disabled", "up", "down", "ejected", "warming", "unknown"];

fn health(out: &mut Exposition, pools: &[Walked]) {
    let mut family = out.family(&families::HEALTH_CHECKS);
    for (pool, backend) in each(pools) {
        for (result, count) in backend.probes.counts() {
            family.sample(&[pool, &backend.name, result.name()], count);
        }
    }
    let mut family = out.family(&families::EJECTIONS);
    for (pool, backend) in each(pools) {
        for (reason, count) in Reason::EJECTING.into_iter().zip(backend.stats.ejections()) {
            family.sample(&[pool, &backend.name, reason.name()], count.load(Relaxed));
        }
    }
}

fn streams(out: &mut Exposition, pools: &[Walked]) {
    backend_histogram(out, &families::FIRST_TOKEN, pools, |backend| &backend.streams.first_token);
    backend_histogram(out, &families::STREAM_GAP, pools, |backend| &backend.streams.gap);
    let mut family = out.family(&families::STREAM_BYTES);
    for (pool, backend) in each(pools) {
        family.sample(&[pool, &backend.name], backend.streams.view().bytes);
    }
    let mut family = out.family(&families::STREAM_EVENTS);
    for (pool, backend) in each(pools) {
        family.sample(&[pool, &backend.name], backend.streams.view().events);
    }
    let mut family = out.family(&families::STREAMS_OPEN);
    for (pool, backend) in each(pools) {
        family.sample(&[pool, &backend.name], backend.streams.view().open);
    }
}

/// What is unknown has no series: a zero would be a lie.
fn resources(out: &mut Exposition, pools: &[Walked], now: Instant) {
    let all: Vec<_> = pools
        .iter()
        .flat_map(|walked| {
            let expiry = expiry(&walked.pool);
            walked.backends.iter().map(move |backend| (&*walked.pool.name, backend, expiry))
        })
        .collect();
    let mut family = out.family(&families::RESOURCE_USE);
    for (pool, backend, expiry) in &all {
        let Some((cpu, memory, _)) = backend.resources_since(Moment::of(now).before(*expiry)) else { continue };
        for (resource, share) in [("cpu", cpu), ("memory", memory)] {
            if !share.is_nan() {
                family.sample(&[pool, &backend.name, resource], share);
            }
        }
    }
    let mut family = out.family(&families::RESOURCE_AGE);
    for (pool, backend, _) in &all {
        if let Some(at) = backend.resources().sampled {
            family.sample(&[pool, &backend.name], now.saturating_duration_since(at).as_secs_f64());
        }
    }
    let mut family = out.family(&families::ENGINE_REQUESTS);
    for (pool, backend, expiry) in &all {
        let Some(signals) = backend.signals_within(*expiry, now) else { continue };
        for (state, count) in [("running", signals.running), ("waiting", signals.waiting)] {
            if let Some(count) = count {
                family.sample(&[pool, &backend.name, state], count);
            }
        }
    }
    let mut family = out.family(&families::RESOURCE_SAMPLES);
    for (pool, backend, _) in &all {
        for (source, counts) in backend.sample_counts() {
            // A source that nobody configured has no series.
            if counts == [0; SampleResult::ALL.len()] {
                continue;
            }
            for (result, count) in SampleResult::ALL.into_iter().zip(counts) {
                family.sample(&[pool, &backend.name, source.name(), result.name()], count);
            }
        }
    }
}

fn pool_wide(out: &mut Exposition, pools: &[Walked]) {
    let mut family = out.family(&families::QUEUE_WAIT);
    for Walked { pool, .. } in pools {
        let (counts, sum) = pool.stats.queue_wait.snapshot();
        family.histogram(&[&pool.name], HISTOGRAM_BUCKETS, &counts, sum);
    }
    let mut family = out.family(&families::DECISION);
    for Walked { pool, .. } in pools {
        let decision = &pool.stats.decision;
        let counts: Vec<u64> = decision.buckets.iter().map(|count| count.load(Relaxed)).collect();
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let sum = seconds(decision.sum_nanos.load(Relaxed));
        let bounds = DECISION_BUCKETS.into_iter().map(seconds);
        family.histogram(&[&pool.name, pool.strategy_kind().name()], bounds, &counts, sum);
    }
    let mut family = out.family(&families::QUEUE_LENGTH);
    for Walked { pool, .. } in pools {
        family.sample(&[&pool.name], pool.queue_view().length);
    }
    let mut family = out.family(&families::RETRIES);
    for Walked { pool, .. } in pools {
        for (reason, count) in RetryReason::ALL.into_iter().zip(&pool.stats.retries) {
            family.sample(&[&pool.name, reason.name()], count.load(Relaxed));
        }
    }
    let mut family = out.family(&families::CLIENT_DISCONNECTS);
    for Walked { pool, .. } in pools {
        family.sample(&[&pool.name], pool.stats.client_disconnects.load(Relaxed));
    }
    let mut family = out.family(&families::NONE_HEALTHY);
    for Walked { pool, .. } in pools {
        family.sample(&[&pool.name], u8::from(pool.none_healthy()));
    }
    let mut family = out.family(&families::FAIL_OPEN);
    for Walked { pool, .. } in pools {
        family.sample(&[&pool.name], pool.stats.fail_open.load(Relaxed));
    }
}

/// What an agent says of itself.
struct Told {
    pool: Arc<Pool>,
    learning: LearningStats,
    performance: PerformanceStats,
    reward: f64,
    diversity: f64,
}

/// What of it is one gauge; `None`: nothing yet.
type Value = fn(&Told) -> Option<f64>;

/// The agents of the pools that have one.
fn learning(out: &mut Exposition, pools: &[Walked]) {
    let tell = |walked: &Walked| {
        let pool = Arc::clone(&walked.pool);
        let strategy = pool.strategy();
        let agent = strategy.agent()?;
        let (learning, performance) = (agent.learning_stats(), agent.performance_stats());
        Some(Told { pool, learning, performance, reward: agent.reward(), diversity: agent.diversity() })
    };
    let told: Vec<Told> = pools.iter().filter_map(tell).collect();
    let gauges: [(&'static Family, Value); 11] = [
        (&families::RL_EPSILON, |told| Some(told.learning.exploration_rate)),
        (&families::RL_Q_STATES, |told| Some(told.learning.q_table_size as f64)),
        (&families::RL_STATE_COVERAGE, |told| Some(told.learning.state_coverage)),
        (&families::RL_TD_ERROR, |told| Some(told.learning.avg_td_error)),
        (&families::RL_DECISION_CONFIDENCE, |told| Some(told.learning.decision_confidence)),
        (&families::RL_REWARD, |told| Some(told.reward)),
        (&families::RL_REWARD_TREND, |told| Some(told.performance.reward_trend)),
        (&families::RL_DIVERSITY, |told| Some(told.diversity)),
        (&families::RL_CACHE_HIT_RATE, |told| Some(told.performance.cache_hit_rate)),
        (&families::RL_FALLBACK_RATE, |told| Some(told.pool.ledger.fallback_rate())),
        (&families::RL_DECISION_P95, |told| Some(told.pool.stats.decision.quantile(0.95)? / 1e9)),
    ];
    for (family, value) in gauges {
        let mut family = out.family(family);
        for told in &told {
            if let Some(value) = value(told) {
                family.sample(&[&told.pool.name], value);
            }
        }
    }
    let mut family = out.family(&families::RL_DECISIONS);
    for told in &told {
        for (kind, count) in PickKind::ALL.into_iter().zip(told.pool.ledger.kinds()) {
            family.sample(&[&told.pool.name, kind.name()], count);
        }
    }
    let mut family = out.family(&families::RL_UPDATES);
    for told in &told {
        family.sample(&[&told.pool.name], told.learning.q_updates);
    }
    let mut family = out.family(&families::RL_GUARDRAIL_ACTIVE);
    for told in &told {
        // This version has no guardrail.
        family.sample(&[&told.pool.name], 0);
    }
}

fn process_wide(out: &mut Exposition, snapshot: &Snapshot) {
    let mut family = out.family(&families::CONNECTIONS);
    for listening in &snapshot.listeners {
        family.sample(&[&listening.address.to_string()], listening.connections);
    }
    let mut family = out.family(&families::CONNECTIONS_CUT);
    for (reason, count) in &snapshot.cut {
        family.sample(&[*reason], *count);
    }
    let mut family = out.family(&families::CLIENT_LIMITED);
    for listening in &snapshot.listeners {
        for (action, counts) in ["refused", "dry_run"].into_iter().zip(listening.limited) {
            for (limit, count) in ["connections", "requests"].into_iter().zip(counts) {
                family.sample(&[&listening.address.to_string(), limit, action], count);
            }
        }
    }
    let mut family = out.family(&families::TLS_HANDSHAKES);
    for listening in &snapshot.listeners {
        for (result, count) in ["ok", "failed", "timeout"].into_iter().zip(listening.handshakes.unwrap_or_default()) {
            if listening.handshakes.is_some() {
                family.sample(&[&listening.address.to_string(), result], count);
            }
        }
    }
    let mut family = out.family(&families::TLS_CERTIFICATE_EXPIRY);
    for (file, expiry) in &snapshot.certificates {
        let at = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        family.sample(&[&file.display().to_string()], at.as_secs());
    }
    out.family(&families::ACCESS_LOG_LOST).sample(&[], snapshot.access_log_lost);
}

/// Compile-time reminder: whoever adds a state to either list adds it to [`STATES`].
const _: fn(Wanted, HealthState) = |wanted, health| {
    match wanted {
        Wanted::Ready | Wanted::Drain | Wanted::Disabled => {}
    }
    match health {
        HealthState::Unknown | HealthState::Up | HealthState::Down | HealthState::Warming | HealthState::Ejected => {}
    }
};
