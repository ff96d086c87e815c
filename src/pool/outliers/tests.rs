//! Ejection by traffic, in virtual time: whole pools whose backends fail with given chances.

use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::backend::Ending;
use crate::config::{BackendPlan, PoolPlan, ProbeKind, StrategyKind};

/// A pool and its traffic: requests in turn to whoever is ready, `per_second` of them.
struct World {
    pool: Arc<Pool>,
    now: Instant,
    rng: SmallRng,
    per_second: u32,
    turn: usize,
    /// Ejections so far.
    ejections: u64,
    most_out: usize,
    /// Requests that were made while so many backends were out, summed.
    out_of_service: usize,
}

impl World {
    fn new(backends: usize, per_second: u32, seed: u64) -> Self {
        let named = (0..backends).map(|n| BackendPlan::new(format!("b{n}"), "127.0.0.1:1".parse().unwrap()));
        let mut plan = PoolPlan::new("ai", StrategyKind::RoundRobin, named.collect());
        plan.health.kind = ProbeKind::None;
        let now = Instant::now();
        let (pool, rng) = (Pool::new(Arc::new(plan), now), SmallRng::seed_from_u64(seed));
        Self { pool, now, rng, per_second, turn: 0, ejections: 0, most_out: 0, out_of_service: 0 }
    }

    /// `seconds` of traffic; backend `n` fails with the chance `failing(n)`.
    fn run(&mut self, seconds: u32, failing: impl Fn(usize) -> f64) {
        let gap = Duration::from_secs(1) / self.per_second;
        let mut next_tick = self.now;
        for _ in 0..seconds * self.per_second {
            self.now += gap;
            if self.now >= next_tick {
                self.pool.tick(self.now);
                next_tick = self.now + Duration::from_millis(250);
            }
            let set = self.pool.set();
            self.turn += 1;
            let backend = &set.ready[self.turn % set.ready.len()];
            let number = set.members.iter().position(|member| member.id == backend.id).unwrap();
            let fails = self.rng.random_bool(failing(number));
            let outcome = if fails {
                Outcome::failed(Ending::Reset, Duration::from_micros(10))
            } else {
                Outcome::served(200, Duration::from_micros(10))
            };
            backend.stats.attempt_ended(&outcome, self.now);
            if backend.concerns_health(fails) {
                self.pool.traffic(backend, &outcome, self.now);
            }
            let out = set.members.len() - set.ready.len();
            self.most_out = self.most_out.max(out);
            self.out_of_service += out;
        }
        self.ejections = self.ejections_of_each().iter().sum();
    }

    fn ejections_of_each(&self) -> Vec<u64> {
        let of_one = |backend: &Arc<Backend>| backend.stats.ejections().iter().map(|count| count.load(Relaxed)).sum();
        self.pool.set().members.iter().map(of_one).collect()
    }

    /// The numbers of those that are ejected now.
    fn out(&self) -> Vec<usize> {
        let ejected = |backend: &Arc<Backend>| backend.health_state() == HealthState::Ejected;
        (0..).zip(&self.pool.set().members).filter(|(_, backend)| ejected(backend)).map(|(n, _)| n).collect()
    }
}

/// A count of failures alone has half of the pool out all the time.
#[test]
fn when_every_backend_fails_alike_hardly_anybody_is_ejected() {
    for chance in [0.02, 0.1, 0.3, 0.5, 0.9, 1.0] {
        for backends in [2, 3, 8] {
            let mut world = World::new(backends, 200, 7);
            world.run(300, |_| chance);
            let share = world.out_of_service as f64 / (300 * 200 * backends) as f64;
            assert!(share < 0.02, "{backends} backends, {chance} of requests fail: {share} of them out");
        }
    }
}

#[test]
fn the_one_that_fails_is_ejected_whatever_share_it_fails() {
    // The share, and within how many seconds at 20 requests a second each.
    for (chance, within) in [(1.0, 1), (0.7, 15), (0.5, 20), (0.35, 60)] {
        for backends in [2, 4, 7] {
            let mut world = World::new(backends, 20 * backends as u32, 3);
            world.run(10, |_| 0.01);
            assert_eq!(world.ejections, 0);
            world.run(within, |number| if number == 1 { chance } else { 0.01 });
            let ejections: Vec<u64> = world.ejections_of_each();
            assert!(ejections[1] >= 1, "{backends} backends, one fails {chance}");
            assert_eq!(ejections.iter().sum::<u64>(), ejections[1], "and no other: {ejections:?}");
        }
    }
}

#[test]
fn half_of_the_pool_dead_is_half_of_the_pool_ejected() {
    for (backends, dead) in [(2, 1), (3, 1), (4, 2), (6, 3)] {
        let mut world = World::new(backends, 100, 11);
        world.run(5, |number| if number < dead { 1.0 } else { 0.0 });
        assert_eq!(world.out(), (0..dead).collect::<Vec<_>>());
    }
}

#[test]
fn ejections_grow_while_it_fails_and_it_is_kept_once_mended() {
    let mut world = World::new(3, 90, 5);
    world.run(600, |number| if number == 2 { 1.0 } else { 0.0 });
    // 10 + 20 + … + 100 s are 550 s: a fixed pause of 10 s would have made some sixty.
    assert!((10..=11).contains(&world.ejections), "{}", world.ejections);
    world.run(130, |_| 0.0);
    assert!(world.out().is_empty());
    let before = world.ejections;
    world.run(60, |_| 0.0);
    assert_eq!(world.ejections, before);
    let reasons = world.pool.set().members[2].stats.ejections().each_ref().map(|count| count.load(Relaxed));
    assert_eq!(reasons[0], 1, "five in a row once, and then failed trials: {reasons:?}");
}

#[test]
fn failures_from_before_the_ejection_are_no_reason_for_the_next() {
    let mut world = World::new(3, 60, 9);
    world.run(20, |number| if number == 0 { 0.6 } else { 0.0 });
    assert_eq!(world.out(), [0]);
    let ejections = world.ejections;
    world.run(40, |_| 0.0);
    assert_eq!((world.out().len(), world.ejections), (0, ejections), "mended while it was out");
}

#[test]
fn the_loss_of_the_last_healthy_backend_is_noted() {
    let mut world = World::new(1, 10, 1);
    assert!(!world.pool.none_healthy());
    let backend = Arc::clone(&world.pool.set().members[0]);
    let mut plan = (*world.pool.plan()).clone();
    plan.health.kind = ProbeKind::Http;
    world.pool.apply(Arc::new(plan), world.now);
    for _ in 0..3 {
        let change = backend.probe_ended(crate::backend::ProbeResult::Failed, world.now);
        if let Some(change) = change {
            world.pool.changed(&backend, change, None, world.now);
        }
    }
    assert!(world.pool.none_healthy());
    world.run(1, |_| 0.0);
    assert!(world.pool.set().fail_open, "and all are used");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the backends do, the cap holds, and somebody always takes traffic.
    #[test]
    fn the_cap_holds(
        chances in proptest::collection::vec(prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64], 1..10),
        seed in any::<u64>(),
    ) {
        let mut world = World::new(chances.len(), 200, seed);
        for shift in 0..3 {
            world.run(10, |number| chances[(number + shift) % chances.len()]);
        }
        let cap = if chances.len() >= 2 { (chances.len() / 2).max(1) } else { 0 };
        prop_assert!(world.most_out <= cap, "{} of {} out", world.most_out, chances.len());
        prop_assert!(!world.pool.set().fail_open);
    }
}
