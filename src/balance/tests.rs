//! The strategies against chance, against the known failures of other balancers, and against arbitrary input.
//!
//! Distribution tests draw tens of thousands of picks from fixed seeds and compare counts with the exact shares; the
//! bounds are those of a chi-square test at one in a million, so a right implementation passes and one that is off by a
//! few per cent does not. Whatever needs time runs in the [`world`], where time is a number.

mod any_input;
mod distribution;
mod known_failures;
mod stable;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::{Pick, PickContext, Strategy, build};
use crate::backend::{Backend, BackendId, BackendSpec, Health, HealthRules, InFlight, Outcome};
use crate::config::{Address, AdminState, HealthPlan, OutlierPlan, SlowStartPlan, StrategyKind, StrategyPlan};

/// The strategies of this room that draw lots.
const RANDOMISED: [StrategyKind; 6] = [
    StrategyKind::LeastConnections,
    StrategyKind::LeastResponseTime,
    StrategyKind::Random,
    StrategyKind::ResourceBased,
    StrategyKind::PowerOfTwo,
    StrategyKind::PeakEwma,
];

fn strategy(kind: StrategyKind) -> Box<dyn Strategy> {
    build(&StrategyPlan::new(kind))
}

fn backend(slot: usize, weight: u32, slow_start: Option<SlowStartPlan>, born: Instant) -> Arc<Backend> {
    let spec = BackendSpec {
        name: format!("instance-{slot}"),
        address: Address::Name { host: format!("instance-{slot}"), port: 80 },
        weight,
        max_in_flight: 0,
        state: AdminState::Ready,
    };
    let health = Health::new(HealthRules::new(&HealthPlan::default(), &OutlierPlan::default()));
    Arc::new(Backend::new(BackendId(slot as u64 + 1), slot, &spec, slow_start, health, born))
}

/// Backends of these weights, born now.
fn pool(weights: &[u32]) -> Vec<Arc<Backend>> {
    let born = Instant::now();
    weights.iter().enumerate().map(|(slot, weight)| backend(slot, *weight, None, born)).collect()
}

/// So many requests in flight at each.
fn load(pool: &[Arc<Backend>], in_flight: &[u32]) -> Vec<InFlight> {
    let pairs = pool.iter().zip(in_flight);
    pairs.flat_map(|(backend, count)| (0..*count).map(|_| InFlight::enter(backend).unwrap())).collect()
}

/// Picks in the same state again and again.
struct Picker {
    strategy: Box<dyn Strategy>,
    pool: Vec<Arc<Backend>>,
    now: Instant,
    rng: SmallRng,
}

impl Picker {
    fn new(kind: StrategyKind, pool: Vec<Arc<Backend>>) -> Self {
        let now = pool[0].born;
        Self { strategy: strategy(kind), pool, now, rng: SmallRng::seed_from_u64(7) }
    }

    fn pick_for(&mut self, key: Option<u64>) -> Pick {
        let mut cx = PickContext { candidates: &self.pool, generation: 1, key, now: self.now, rng: &mut self.rng };
        self.strategy.pick(&mut cx).expect("there are candidates")
    }

    fn pick(&mut self) -> Pick {
        self.pick_for(None)
    }

    fn counts(&mut self, picks: u32) -> Vec<u32> {
        let mut counts = vec![0; self.pool.len()];
        for _ in 0..picks {
            counts[self.pick().index] += 1;
        }
        counts
    }
}

/// Fails unless `counts` may come from `shares`, by Pearson's chi-square at one in a million.
#[track_caller]
fn assert_shares(counts: &[u32], shares: &[f64]) {
    let total = f64::from(counts.iter().sum::<u32>());
    let sum: f64 = shares.iter().sum();
    let mut chi_square = 0.0;
    let mut freedom = -1.0;
    for (count, share) in counts.iter().zip(shares) {
        let expected = total * share / sum;
        if expected == 0.0 {
            assert_eq!(*count, 0, "{counts:?} where {shares:?} allows none");
            continue;
        }
        assert!(expected >= 5.0, "too few picks to tell");
        chi_square += (f64::from(*count) - expected).powi(2) / expected;
        freedom += 1.0;
    }
    // Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal; 4.75 sigma is one in a million.
    let spread = 2.0 / (9.0 * f64::max(freedom, 1.0));
    let limit = f64::max(freedom, 1.0) * (1.0 - spread + 4.75 * spread.sqrt()).powi(3);
    assert!(chi_square < limit, "{counts:?} is not {shares:?}: chi-square {chi_square:.1}, limit {limit:.1}");
}

fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1e3)
}

/// Answers that make a backend's averages `ms`.
fn teach(backend: &Backend, ms: f64, now: Instant) {
    for _ in 0..5 {
        backend.stats.attempt_ended(&Outcome::served(200, millis(ms)), now);
    }
}
