//! Arbitrary pools, and four threads at once.

use proptest::prelude::{Just, Strategy as _, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::backend::Resources;

/// What a backend may be like.
#[derive(Debug, Clone)]
struct Any {
    weight: u32,
    in_flight: u32,
    limit: u32,
    answers: Vec<(u16, u64)>,
    resources: Resources,
    age_ms: u64,
}

fn any_backend() -> impl proptest::strategy::Strategy<Value = Any> {
    let fraction =
        || prop_oneof![Just(None), (-1.0..3.0f64).prop_map(Some), Just(Some(f64::NAN)), Just(Some(f64::INFINITY))];
    (
        1..=1000u32,
        0..40u32,
        prop_oneof![Just(0), 1..50u32],
        proptest::collection::vec((prop_oneof![Just(200u16), Just(404), Just(503)], 0..200_000u64), 0..4),
        (fraction(), fraction(), 0..100u32),
        0..30_000u64,
    )
        .prop_map(|(weight, in_flight, limit, answers, (cpu, memory, then), age_ms)| Any {
            weight,
            in_flight,
            limit,
            answers,
            resources: Resources { cpu, memory, sampled: None, in_flight: then },
            age_ms,
        })
}

proptest! {
    #[test]
    fn every_strategy_picks_one_that_is_there(
        any in proptest::collection::vec(any_backend(), 0..12),
        key in proptest::option::of(any::<u64>()),
        generation in 0..3u64,
        seed in any::<u64>(),
        bound in prop_oneof![Just(0.0), 0.1..3.0f64],
    ) {
        let born = Instant::now();
        let now = born + Duration::from_secs(40);
        let mut held = Vec::new();
        let mut candidates = Vec::new();
        for (slot, any) in any.iter().enumerate() {
            let made = backend(slot * 3, any.weight, None, born);
            held.extend((0..any.in_flight).map(|_| InFlight::enter(&made).unwrap()));
            made.set_max_in_flight(any.limit);
            let then = now - millis(any.age_ms as f64);
            for (status, ms) in &any.answers {
                made.stats.attempt_ended(&Outcome::served(*status, Duration::from_millis(*ms)), then);
            }
            made.set_resources(Resources { sampled: Some(then), ..any.resources });
            candidates.push(made);
        }
        for kind in StrategyKind::ALL {
            let mut plan = StrategyPlan::new(kind);
            plan.ip_hash.bounded_load = bound;
            let strategy = build(&plan);
            let mut rng = SmallRng::seed_from_u64(seed);
            for _ in 0..8 {
                let mut cx = PickContext { candidates: &candidates, generation, key, now, rng: &mut rng };
                let scores = strategy.scores(&cx);
                let Some(pick) = strategy.pick(&mut cx) else {
                    prop_assert!(candidates.is_empty(), "{:?} picked none of {}", kind, candidates.len());
                    continue;
                };
                prop_assert!(pick.index < candidates.len(), "{:?}", kind);
                prop_assert!(pick.propensity > 0.0 && pick.propensity <= 1.0001, "{:?}: {}", kind, pick.propensity);
                prop_assert_eq!(scores.len(), candidates.len());
                if kind != StrategyKind::Rl {
                    prop_assert!(scores.iter().all(|score| score.is_finite() && *score >= 0.0), "{:?}: {:?}", kind, scores);
                }
            }
        }
    }
}

#[test]
fn four_threads_share_the_turns_exactly() {
    let shares = [
        (StrategyKind::RoundRobin, [2000, 2000, 2000, 2000]),
        (StrategyKind::WeightedRoundRobin, [1000, 2000, 1000, 4000]),
    ];
    for (kind, expected) in shares {
        let counts = threads(kind);
        assert_eq!(counts, expected, "{kind:?}");
    }
}

#[test]
fn four_threads_find_every_strategy_of_one_mind() {
    for kind in StrategyKind::ALL {
        let counts = threads(kind);
        assert_eq!(counts.iter().sum::<u32>(), 8000, "{kind:?}");
    }
}

/// Four threads pick, enter and leave 2,000 times each; what each backend got. Nothing is left in flight.
fn threads(kind: StrategyKind) -> Vec<u32> {
    let pool = pool(&[1, 2, 1, 4]);
    let strategy = strategy(kind);
    let counts: Vec<std::sync::atomic::AtomicU32> = pool.iter().map(|_| 0.into()).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (pool, strategy, counts) = (&pool, &strategy, &counts);
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(thread);
                for i in 0..2000 {
                    let now = pool[0].born + Duration::from_micros(i * 50);
                    let key = Some(thread * 2000 + i);
                    let mut cx = PickContext { candidates: pool, generation: 1, key, now, rng: &mut rng };
                    let pick = strategy.pick(&mut cx).unwrap();
                    let in_flight = InFlight::enter(&pool[pick.index]).unwrap();
                    counts[pick.index].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let outcome = Outcome::served(200, Duration::from_millis(1 + i % 7));
                    pool[pick.index].stats.attempt_ended(&outcome, now);
                    let backend = &pool[pick.index];
                    strategy.observe(&super::super::Observation {
                        backend,
                        ticket: Some(pick.ticket),
                        outcome: &outcome,
                        now,
                    });
                    drop(in_flight);
                }
            });
        }
    });
    assert!(pool.iter().all(|backend| backend.in_flight() == 0), "{kind:?} leaks");
    counts.into_iter().map(std::sync::atomic::AtomicU32::into_inner).collect()
}
