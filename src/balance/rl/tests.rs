//! The agent as the pool sees it: candidates, tickets, outcomes, saved state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::backend::{BackendId, BackendSpec, Ending, Health, HealthRules, InFlight};
use crate::balance::Strategy as _;
use crate::config::{Address, AdminState, HealthPlan, OutlierPlan, ProbeKind};

fn backend(slot: usize, id: u64, name: &str, weight: u32, now: Instant) -> Arc<Backend> {
    let health = HealthPlan { kind: ProbeKind::None, ..HealthPlan::default() };
    let rules = HealthRules::new(&health, &OutlierPlan::default());
    let spec = BackendSpec {
        name: name.to_owned(),
        address: Address::Name { host: name.to_owned(), port: 80 },
        weight,
        max_in_flight: 0,
        state: AdminState::Ready,
    };
    Arc::new(Backend::new(BackendId(id), slot, &spec, None, Health::new(rules), now))
}

fn backends(count: usize, now: Instant) -> Vec<Arc<Backend>> {
    (0..count).map(|slot| backend(slot, slot as u64, &format!("b{slot}"), 1, now)).collect()
}

/// One request after the other, each answered by `latency` of the backend's slot before the next comes.
struct Serial {
    strategy: Rl,
    backends: Vec<Arc<Backend>>,
    now: Instant,
    rng: SmallRng,
}

impl Serial {
    fn new(agent: RlAgent, backends: Vec<Arc<Backend>>, now: Instant) -> Self {
        let plan = RlPlan::for_agent(agent);
        Self { strategy: Rl::new(&plan), backends, now, rng: SmallRng::seed_from_u64(7) }
    }

    fn serve(&mut self, requests: usize, outcome: impl Fn(usize) -> Outcome) -> Vec<usize> {
        let mut counts = vec![0; self.backends.len()];
        for _ in 0..requests {
            let mut cx =
                PickContext { candidates: &self.backends, generation: 1, key: None, now: self.now, rng: &mut self.rng };
            let pick = self.strategy.pick(&mut cx).unwrap();
            let guard = InFlight::enter(&self.backends[pick.index]).unwrap();
            counts[pick.index] += 1;
            let outcome = outcome(pick.index);
            self.now += outcome.total;
            drop(guard);
            let seen = Observation {
                backend: &self.backends[pick.index],
                ticket: Some(pick.ticket),
                outcome: &outcome,
                now: self.now,
            };
            self.strategy.observe(&seen);
            self.now += Duration::from_millis(1);
        }
        counts
    }
}

fn millis(slot: usize) -> Duration {
    Duration::from_millis([10, 20, 40][slot % 3])
}

#[test]
fn the_fast_get_the_work_and_the_failing_next_to_none() {
    let now = Instant::now();
    let mut serial = Serial::new(RlAgent::Adaptive, backends(3, now), now);
    serial.serve(2000, |slot| Outcome::served(200, millis(slot)));
    let counts = serial.serve(1000, |slot| Outcome::served(200, millis(slot)));
    assert!(counts[0] > 900, "idle pool: the fastest is always free: {counts:?}");
    let broken = |slot: usize| Outcome::served(if slot == 0 { 500 } else { 200 }, millis(slot));
    serial.serve(50, broken);
    let counts = serial.serve(1000, broken);
    assert!(counts[0] < 30, "priced, and tried now and then: {counts:?}");
}

#[test]
fn throttling_counts_as_an_error_and_a_client_that_left_as_nothing() {
    let now = Instant::now();
    let mut serial = Serial::new(RlAgent::Adaptive, backends(2, now), now);
    serial.serve(500, |_| Outcome::served(200, Duration::from_millis(10)));
    let throttled = |slot: usize| Outcome::served(if slot == 0 { 429 } else { 200 }, Duration::from_millis(10));
    serial.serve(50, throttled);
    assert!(serial.serve(500, throttled)[0] < 20);

    let mut serial = Serial::new(RlAgent::Adaptive, backends(2, now), now);
    serial.serve(500, |_| Outcome::served(200, Duration::from_millis(10)));
    let before = serial.strategy.export(&serial.backends, serial.now);
    let gone = Outcome::failed(Ending::ClientGone, Duration::from_millis(500));
    let Learned::Adaptive { backends: before, .. } = before.learned else { panic!("adaptive") };
    serial.serve(20, |_| gone);
    let Learned::Adaptive { backends: after, .. } = serial.strategy.export(&serial.backends, serial.now).learned else {
        panic!("adaptive")
    };
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.learned.level, before.learned.samples), (after.learned.level, after.learned.samples));
        assert_eq!(before.learned.faults.1, after.learned.faults.1);
    }
}

#[test]
fn weight_divides_the_cost() {
    let now = Instant::now();
    let pool = vec![backend(0, 0, "small", 1, now), backend(1, 1, "large", 3, now)];
    let mut serial = Serial::new(RlAgent::Adaptive, pool, now);
    let counts = serial.serve(400, |_| Outcome::served(200, Duration::from_millis(10)));
    assert!(counts[1] > 300, "equal servers, but the operator prefers the second: {counts:?}");
}

#[test]
fn learned_state_moves_by_name_and_address() {
    for agent in [RlAgent::Adaptive, RlAgent::Tabular] {
        let now = Instant::now();
        let mut serial = Serial::new(agent, backends(3, now), now);
        serial.serve(500, |slot| Outcome::served(200, millis(slot)));
        let bytes = serial.strategy.save(&serial.backends, serial.now).unwrap();
        // Another process: other ids, other slots, one backend replaced.
        let moved: Vec<_> =
            ["b2", "b0", "new"].iter().enumerate().map(|(i, n)| backend(i, 90 + i as u64, n, 1, now)).collect();
        let other = Rl::new(&RlPlan::for_agent(agent));
        other.load(&bytes, &moved, now).unwrap();
        match (other.export(&moved, now).learned, serial.strategy.export(&serial.backends, serial.now).learned) {
            (Learned::Adaptive { backends: new, .. }, Learned::Adaptive { backends: old, .. }) => {
                assert_eq!((new[0].learned.level, new[1].learned.level), (old[2].learned.level, old[0].learned.level));
                assert_eq!((new[2].learned.level, new[1].learned.samples), (0.0, old[0].learned.samples));
                assert_eq!(new[1].learned.cell_means, old[0].learned.cell_means);
            }
            (Learned::Tabular { backends: new, .. }, Learned::Tabular { backends: old, .. }) => {
                assert_eq!((&new[0].learned, &new[1].learned), (&old[2].learned, &old[0].learned));
                assert!(new[2].learned.cells.is_empty());
            }
            _ => panic!("the agent is the same"),
        }
    }
}

#[test]
fn a_state_that_makes_no_sense_changes_nothing() {
    let now = Instant::now();
    let pool = backends(2, now);
    let (adaptive, tabular) =
        (Rl::new(&RlPlan::for_agent(RlAgent::Adaptive)), Rl::new(&RlPlan::for_agent(RlAgent::Tabular)));
    let bytes = tabular.save(&pool, now).unwrap();
    assert!(matches!(adaptive.load(&bytes, &pool, now), Err(StateError::Content(_))), "of the other agent");
    let mut table = adaptive.export(&pool, now);
    let Learned::Adaptive { backends: rows, .. } = &mut table.learned else { panic!("adaptive") };
    rows[0].learned.level = 3.0;
    rows[1].learned.level = -1.0;
    assert!(matches!(adaptive.import(&table, &pool, now), Err(StateError::Content(_))));
    let Learned::Adaptive { backends: rows, .. } = adaptive.export(&pool, now).learned else { panic!("adaptive") };
    assert_eq!(rows[0].learned.level, 0.0, "not even the sound row was taken");
    assert!(matches!(adaptive.load(b"junk", &pool, now), Err(StateError::Foreign)));
    assert!(matches!(adaptive.load(&store::seal(b"{}"), &pool, now), Err(StateError::Content(_))));
}

#[test]
fn a_new_backend_in_an_old_slot_is_not_mistaken() {
    let now = Instant::now();
    let mut serial = Serial::new(RlAgent::Adaptive, backends(2, now), now);
    serial.serve(500, |slot| Outcome::served(200, Duration::from_millis(if slot == 0 { 500 } else { 10 })));
    serial.backends[0] = backend(0, 55, "fresh", 1, serial.now);
    let counts = serial.serve(20, |_| Outcome::served(200, Duration::from_millis(10)));
    assert!(counts[0] >= 3, "it gets a fair share at once: {counts:?}");
}

/// What happens in a random order: arrivals, ends of all kinds, and sets of candidates that change.
fn history(agent: RlAgent, seed: u64, count: usize) -> Vec<usize> {
    let start = Instant::now();
    let (pool, strategy) = (backends(count, start), Rl::new(&RlPlan::for_agent(agent)));
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut rng = SmallRng::seed_from_u64(seed + 1);
    let (mut now, mut running, mut picks) = (start, Vec::new(), Vec::new());
    for _ in 0..400 {
        now += Duration::from_micros(chance.random_range(0..200_000));
        if running.is_empty() || chance.random_bool(0.55) {
            let whole = chance.random_bool(0.8);
            let first = if whole { 0 } else { chance.random_range(0..count) };
            let candidates = &pool[first..];
            let generation = u64::from(whole);
            let mut cx = PickContext { candidates, generation, key: None, now, rng: &mut rng };
            let pick = strategy.pick(&mut cx).unwrap();
            assert!(pick.index < candidates.len());
            assert!((0.0..=1.0).contains(&pick.propensity));
            picks.push(first + pick.index);
            let chosen = &candidates[pick.index];
            running.push((InFlight::enter(chosen).unwrap(), chosen.clone(), pick.ticket, now));
        } else {
            let (guard, backend, ticket, began) = running.swap_remove(chance.random_range(0..running.len()));
            let endings =
                [Ending::Served(200), Ending::Served(503), Ending::TimedOut, Ending::Reset, Ending::ClientGone];
            let ending = endings[if chance.random_bool(0.7) { 0 } else { chance.random_range(0..5) }];
            let mut outcome = Outcome::failed(ending, now.duration_since(began));
            outcome.streamed = chance.random_bool(0.3);
            outcome.body_bytes = chance.random_range(0..5000);
            outcome.first_byte = chance.random_bool(0.5).then(|| outcome.total / 3);
            drop(guard);
            let ticket = chance.random_bool(0.9).then_some(ticket);
            strategy.observe(&Observation { backend: &backend, ticket, outcome: &outcome, now });
        }
        for explanation in strategy.explain(&pool, now) {
            let cost = explanation.cost();
            assert!(cost.is_finite(), "{explanation:?}");
            assert!(agent == RlAgent::Tabular || cost > 0.0, "{explanation:?}");
        }
    }
    let table = strategy.export(&pool, now);
    assert_eq!(serde_json::from_str::<Table>(&serde_json::to_string(&table).unwrap()).unwrap().version, table.version);
    drop(running);
    assert!(pool.iter().all(|backend| backend.in_flight() == 0));
    picks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn picks_are_candidates_numbers_stay_finite_and_a_seed_repeats(seed in 0_u64..1000, count in 1_usize..9) {
        for agent in [RlAgent::Adaptive, RlAgent::Tabular] {
            prop_assert_eq!(history(agent, seed, count), history(agent, seed, count));
        }
    }
}

#[test]
fn workers_may_pick_and_observe_at_once() {
    for agent in [RlAgent::Adaptive, RlAgent::Tabular] {
        let start = Instant::now();
        let (pool, strategy) = (backends(6, start), Rl::new(&RlPlan::for_agent(agent)));
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (pool, strategy) = (&pool, &strategy);
                scope.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(worker);
                    let mut running = std::collections::VecDeque::new();
                    for step in 0..20_000_u32 {
                        let now = start + Duration::from_micros(u64::from(step) * 100);
                        let mut cx = PickContext { candidates: pool, generation: 1, key: None, now, rng: &mut rng };
                        let pick = strategy.pick(&mut cx).unwrap();
                        running.push_back((InFlight::enter(&pool[pick.index]).unwrap(), pick, now));
                        if running.len() > 8 {
                            let (guard, pick, began) = running.pop_front().unwrap();
                            let failed = pick.index == 2 && step % 3 == 0;
                            let outcome = Outcome::served(if failed { 500 } else { 200 }, now.duration_since(began));
                            drop(guard);
                            let (backend, ticket) = (&pool[pick.index], Some(pick.ticket));
                            strategy.observe(&Observation { backend, ticket, outcome: &outcome, now });
                        }
                    }
                });
            }
        });
        assert!(pool.iter().all(|backend| backend.in_flight() == 0), "every guard came home");
        let now = start + Duration::from_secs(3);
        assert!(strategy.explain(&pool, now).iter().all(|explanation| explanation.cost().is_finite()));
        assert_eq!(strategy.learning_stats().q_updates, 4 * (20_000 - 8));
        let table = strategy.export(&pool, now);
        Rl::new(&RlPlan::for_agent(agent)).import(&table, &pool, now).unwrap();
    }
}
