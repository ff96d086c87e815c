//! What the learning agent costs: a decision alone, and a whole request (decision, feedback, its share of the
//! compilations), at 10,000 requests a second of virtual time.
//!
//! The bar: decision and feedback together below 500 ns at 6 backends, a decision below 1.5 µs at 50.
//! `cargo bench --bench rl` (`--profile quick` builds faster and is a little slower).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a benchmark an unwrap is an assertion")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::Bencher;
use evenkeel::backend::{Backend, BackendId, BackendSpec, Health, HealthRules, InFlight, Outcome};
use evenkeel::balance::{Observation, Pick, PickContext, Strategy, build};
use evenkeel::config::{
    Address, AdminState, HealthPlan, OutlierPlan, ProbeKind, RlAgent, RlPlan, StrategyKind, StrategyPlan,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [6, 12, 50];

/// Virtual time between two requests.
const GAP: Duration = Duration::from_micros(100);

/// Requests in flight per backend.
const BUSY: usize = 4;

/// A pool under load: every request ends a little after others began.
struct Load {
    strategy: Box<dyn Strategy>,
    backends: Vec<Arc<Backend>>,
    running: VecDeque<(InFlight, Pick, Instant)>,
    now: Instant,
    rng: SmallRng,
}

impl Load {
    fn new(agent: RlAgent, size: usize) -> Self {
        let mut plan = StrategyPlan::new(StrategyKind::Rl);
        plan.rl = RlPlan::for_agent(agent);
        Self::of(&plan, size)
    }

    fn of(plan: &StrategyPlan, size: usize) -> Self {
        let now = Instant::now();
        let health = HealthPlan { kind: ProbeKind::None, ..HealthPlan::default() };
        let backend = |slot: usize| {
            let spec = BackendSpec {
                name: format!("instance-{slot}"),
                address: Address::Name { host: format!("instance-{slot}"), port: 80 },
                weight: 1,
                max_in_flight: 0,
                state: AdminState::Ready,
            };
            let health = Health::new(HealthRules::new(&health, &OutlierPlan::default()));
            Arc::new(Backend::new(BackendId(slot as u64), slot, &spec, None, health, now))
        };
        let mut load = Self {
            strategy: build(plan),
            backends: (0..size).map(backend).collect(),
            running: VecDeque::new(),
            now,
            rng: SmallRng::seed_from_u64(1),
        };
        for _ in 0..20_000 {
            load.request();
        }
        load
    }

    fn decide(&mut self) -> Option<Pick> {
        let (candidates, now) = (&self.backends, self.now);
        let mut cx = PickContext { candidates, generation: 1, key: None, now, rng: &mut self.rng };
        self.strategy.pick(&mut cx)
    }

    fn request(&mut self) {
        self.now += GAP;
        let pick = self.decide().expect("there are candidates");
        let guard = InFlight::enter(&self.backends[pick.index]).expect("there is no limit");
        self.running.push_back((guard, pick, self.now));
        if self.running.len() > BUSY * self.backends.len() {
            let ended = self.rng.random_range(0..8);
            let (guard, pick, began) = self.running.remove(ended).expect("there are more than eight");
            drop(guard);
            let outcome = Outcome::served(200, self.now - began);
            let (backend, ticket) = (&*self.backends[pick.index], Some(pick.ticket));
            self.strategy.observe(&Observation { backend, ticket, outcome: &outcome, now: self.now });
        }
    }
}

/// A decision and the feedback of another, with their share of the compilations.
#[divan::bench(args = SIZES)]
fn adaptive_request(bencher: Bencher<'_, '_>, size: usize) {
    let mut load = Load::new(RlAgent::Adaptive, size);
    bencher.bench_local(|| load.request());
}

/// The same work around a strategy that draws and learns nothing: what of a request above is the benchmark's own.
#[divan::bench(args = SIZES)]
fn random_request(bencher: Bencher<'_, '_>, size: usize) {
    let mut load = Load::of(&StrategyPlan::new(StrategyKind::Random), size);
    bencher.bench_local(|| load.request());
}

/// A decision alone, every backend busy.
#[divan::bench(args = SIZES)]
fn adaptive_decision(bencher: Bencher<'_, '_>, size: usize) {
    let mut load = Load::new(RlAgent::Adaptive, size);
    bencher.bench_local(|| load.decide());
}

/// The guide's agent, for comparison.
#[divan::bench(args = SIZES)]
fn tabular_request(bencher: Bencher<'_, '_>, size: usize) {
    let mut load = Load::new(RlAgent::Tabular, size);
    bencher.bench_local(|| load.request());
}
