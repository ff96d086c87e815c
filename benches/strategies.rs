//! What a choice costs, for each strategy and pool size, and what it costs to record how a request ended.
//!
//! The bar: a pick among 500 backends below 5 µs, the whole record of one request well below 150 ns.
//! `cargo bench --bench strategies` (`--profile quick` builds faster and is a little slower).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a benchmark an unwrap is an assertion")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::Bencher;
use evenkeel::backend::{
    Backend, BackendId, BackendSpec, CodeClass, Health, HealthRules, InFlight, Outcome, Resources,
};
use evenkeel::balance::{PickContext, build};
use evenkeel::config::{Address, AdminState, HealthPlan, OutlierPlan, StrategyKind, StrategyPlan};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// The allocator that users get: where it puts backends decides which lines of a cache they share.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [6, 50, 500];

/// A pool in the middle of its work: weights, averages, samples and requests in flight are all different.
fn pool(size: usize, busy: bool) -> (Vec<Arc<Backend>>, Vec<InFlight>, Instant) {
    let born = Instant::now();
    let now = born + Duration::from_secs(60);
    let mut held = Vec::new();
    let backends = (0..size)
        .map(|slot| {
            let spec = BackendSpec {
                name: format!("instance-{slot}"),
                address: Address::Name { host: format!("instance-{slot}"), port: 80 },
                weight: 1 + (slot as u32 * 7) % 5,
                max_in_flight: 0,
                state: AdminState::Ready,
            };
            let health = Health::new(HealthRules::new(&HealthPlan::default(), &OutlierPlan::default()));
            let backend = Arc::new(Backend::new(BackendId(slot as u64), slot, &spec, None, health, born));
            for i in 0..20_u64 {
                let took = Duration::from_millis(20 + (slot as u64 * 13 + i * 7) % 50);
                backend.stats.attempt_ended(&Outcome::served(200, took), now - Duration::from_millis(500 - i));
            }
            if busy {
                held.extend((0..1 + slot % 4).filter_map(|_| InFlight::enter(&backend)));
            }
            let part = |step: usize| Some((slot * step % 100) as f64 / 100.0);
            let in_flight = backend.in_flight();
            backend.set_resources(Resources { cpu: part(37), memory: part(61), sampled: Some(now), in_flight });
            backend
        })
        .collect();
    (backends, held, now)
}

fn pick(bencher: Bencher<'_, '_>, plan: &StrategyPlan, size: usize, busy: bool) {
    let (candidates, _held, now) = pool(size, busy);
    let strategy = build(plan);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut key = 0_u64;
    let mut pick = || {
        key = key.wrapping_add(0x9e37_79b9);
        let mut cx = PickContext { candidates: &candidates, generation: 1, key: Some(key), now, rng: &mut rng };
        strategy.pick(&mut cx)
    };
    // The first picks of a pool make buffers, and an agent's first ones compile its curves.
    for _ in 0..100 {
        pick();
    }
    bencher.bench_local(pick);
}

/// One module a strategy: its picks in a pool of this size, every backend busy or every backend idle.
macro_rules! strategies {
    ($($name:ident $kind:ident)*) => {$(
        mod $name {
            #[divan::bench(args = super::SIZES)]
            fn busy(bencher: divan::Bencher<'_, '_>, size: usize) {
                super::pick(bencher, &super::StrategyPlan::new(super::StrategyKind::$kind), size, true);
            }
            #[divan::bench(args = super::SIZES)]
            fn idle(bencher: divan::Bencher<'_, '_>, size: usize) {
                super::pick(bencher, &super::StrategyPlan::new(super::StrategyKind::$kind), size, false);
            }
        }
    )*};
}

strategies! {
    round_robin RoundRobin
    weighted_round_robin WeightedRoundRobin
    least_connections LeastConnections
    least_response_time LeastResponseTime
    ip_hash IpHash
    random Random
    resource_based ResourceBased
    power_of_two PowerOfTwo
    peak_ewma PeakEwma
    rl Rl
}

#[divan::bench(args = SIZES)]
fn ip_hash_bounded(bencher: Bencher<'_, '_>, size: usize) {
    let mut plan = StrategyPlan::new(StrategyKind::IpHash);
    plan.ip_hash.bounded_load = 1.25;
    pick(bencher, &plan, size, true);
}

/// Everything that is recorded of one request: the attempt and the request.
#[divan::bench]
fn record_one_request(bencher: Bencher<'_, '_>) {
    let (backends, _held, mut now) = pool(1, true);
    let outcome = Outcome::served(200, Duration::from_millis(37));
    bencher.bench_local(|| {
        now += Duration::from_micros(100);
        for backend in &backends {
            backend.stats.attempt_ended(divan::black_box(&outcome), now);
            backend.stats.request_ended(CodeClass::C2xx, divan::black_box(outcome.total));
        }
    });
}

/// Entering and leaving a backend: the in-flight count.
#[divan::bench]
fn enter_and_leave(bencher: Bencher<'_, '_>) {
    let (backends, _held, _) = pool(1, true);
    bencher.bench_local(|| backends.first().and_then(InFlight::enter));
}
