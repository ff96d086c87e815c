//! What has gone wrong in other balancers, each under the name of its report.

use super::world::{Does, World};
use super::*;

/// Those that go by response times.
const BY_TIME: [StrategyKind; 2] = [StrategyKind::LeastResponseTime, StrategyKind::PeakEwma];

#[test]
fn traefik_12306_a_recovered_backend_is_found_again() {
    // One of four is twenty times slower from second 20 to 60.
    let does = |index, now| Does::Serve(if index == 0 && (20.0..60.0).contains(&now) { 800.0 } else { 40.0 });
    for kind in BY_TIME {
        for (rate, seed) in [(200.0, 2), (400.0, 3)] {
            let mut world = World::new(kind, 4, 8, seed);
            world.run(30.0, rate, does);
            let slow = world.run(60.0, rate, does)[0];
            assert!(slow < 0.01, "{kind:?} at {rate}/s: {slow:.3} of the traffic to one twenty times slower");
            world.run(80.0, rate, does);
            let recovered = world.run(110.0, rate, does)[0];
            assert!(recovered > 0.2, "{kind:?} at {rate}/s: {recovered:.3} after recovery, fair is 0.25");
        }
        // A quiet pool, in which nothing forces anybody to look: the two strategies prefer whoever was lucky of late, so
        // shares are uneven, but nobody is forgotten.
        let mut world = World::new(kind, 4, 8, 4);
        world.run(30.0, 10.0, does);
        let slow = world.run(60.0, 10.0, does)[0];
        assert!(slow < 0.05, "{kind:?}: {slow:.3} of a quiet pool's traffic to one twenty times slower");
        let found = (60..100).any(|second| world.run(f64::from(second + 1), 10.0, does)[0] > 0.0);
        assert!(found, "{kind:?} does not look for forty seconds");
        let shares = world.run(600.0, 10.0, does);
        assert!(shares.iter().all(|share| *share > 0.1), "{kind:?}: {shares:.3?} in ten quiet minutes");
    }
}

#[test]
fn failing_fast_does_not_look_fast() {
    for kind in BY_TIME {
        for rate in [20.0, 400.0] {
            let mut world = World::new(kind, 4, 8, 4);
            let does = |index, now| if index == 0 && now > 20.0 { Does::Fail } else { Does::Serve(40.0) };
            world.run(22.0, rate, does);
            let share = world.run(60.0, rate, does)[0];
            assert!(share < 0.02, "{kind:?} at {rate}/s: {share:.4} of the traffic to one that fails in 1 ms");
        }
    }
}

#[test]
fn retry_after_is_believed_for_as_long_as_it_says() {
    let mut picker = Picker::new(StrategyKind::LeastResponseTime, pool(&[1; 2]));
    for backend in &picker.pool {
        teach(backend, 40.0, picker.now);
    }
    let mut refusal = Outcome::served(429, millis(1.0));
    refusal.retry_after = Some(Duration::from_secs(120));
    picker.pool[0].stats.attempt_ended(&refusal, picker.now);
    picker.now += Duration::from_secs(20);
    teach(&picker.pool[1], 40.0, picker.now);
    assert_eq!(picker.counts(100)[0], 0);
}

#[test]
fn ties_do_not_all_go_to_the_first() {
    for kind in StrategyKind::ALL {
        // `ip_hash` has no ties, and the agent's are its own affair.
        if matches!(kind, StrategyKind::IpHash | StrategyKind::Rl) {
            continue;
        }
        // One request at a time, all backends alike.
        let mut world = World::new(kind, 6, 8, 5);
        let shares = world.run(200.0, 10.0, |_, _| Does::Serve(1.0));
        // Those that go by time believe in small differences of their measurements; that is no tie.
        let (limit, floor) = if BY_TIME.contains(&kind) { (0.5, 0.02) } else { (0.3, 0.06) };
        let most = shares.iter().copied().fold(0.0, f64::max);
        let least = shares.iter().copied().fold(1.0, f64::min);
        assert!(most < limit && least > floor, "{kind:?}: {shares:.3?}");
    }
}

#[test]
fn envoy_44989_a_request_counts_from_its_selection() {
    // A burst before a single connection is made: the pick itself must count.
    for kind in [StrategyKind::LeastConnections, StrategyKind::LeastResponseTime] {
        let mut picker = Picker::new(kind, pool(&[1; 6]));
        for backend in &picker.pool {
            teach(backend, 40.0, picker.now);
        }
        let held: Vec<InFlight> = (0..60)
            .map(|_| {
                let index = picker.pick().index;
                InFlight::enter(&picker.pool[index]).unwrap()
            })
            .collect();
        assert!(picker.pool.iter().all(|backend| backend.in_flight() == 10), "{kind:?}");
        drop(held);
    }
}

#[test]
fn haproxy_1282_a_reload_resets_no_position() {
    for kind in [StrategyKind::RoundRobin, StrategyKind::WeightedRoundRobin] {
        let backends = pool(&[3, 1, 1, 1]);
        let mut rng = SmallRng::seed_from_u64(1);
        let (calm, reloaded) = (strategy(kind), strategy(kind));
        for generation in 1..=120 {
            let mut pick = |strategy: &dyn Strategy, generation| {
                let now = backends[0].born;
                let mut cx = PickContext { candidates: &backends, generation, key: None, now, rng: &mut rng };
                strategy.pick(&mut cx).unwrap().index
            };
            assert_eq!(pick(&*calm, 1), pick(&*reloaded, generation), "{kind:?}");
        }
    }
    // And a neighbour that comes and goes takes no turn from the others.
    for kind in [StrategyKind::RoundRobin, StrategyKind::WeightedRoundRobin] {
        let all = pool(&[1; 5]);
        let strategy = strategy(kind);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut counts = [0_u32; 5];
        for turn in 0..1000 {
            // Every other request finds the last one full.
            let candidates = &all[..if turn % 2 == 0 { 5 } else { 4 }];
            let generation = u64::from(turn % 2 == 0);
            let mut cx = PickContext { candidates, generation, key: None, now: all[0].born, rng: &mut rng };
            counts[strategy.pick(&mut cx).unwrap().index] += 1;
        }
        let (most, least) = (counts[..4].iter().max().unwrap(), counts[..4].iter().min().unwrap());
        assert!(most - least <= 10, "{kind:?}: {counts:?}");
    }
}

#[test]
fn caddy_7873_two_choices_are_two() {
    // With two backends the two are always both: the busier one never wins.
    for kind in [StrategyKind::PowerOfTwo, StrategyKind::PeakEwma] {
        let mut picker = Picker::new(kind, pool(&[1; 2]));
        let _held = load(&picker.pool, &[1, 0]);
        assert_eq!(picker.counts(1000), [0, 1000], "{kind:?}");
    }
}

#[test]
fn one_that_stops_answering_does_not_get_better_with_time() {
    // Peak-EWMA as usually built decays while nothing comes back, and a hung backend ends with all of the traffic that
    // its draw allows: half of all requests of a pool of four.
    for kind in [
        StrategyKind::LeastConnections,
        StrategyKind::PowerOfTwo,
        StrategyKind::LeastResponseTime,
        StrategyKind::PeakEwma,
    ] {
        let mut world = World::new(kind, 4, 8, 6);
        let does = |index, now| if index == 0 && now > 20.0 { Does::Hang } else { Does::Serve(40.0) };
        world.run(20.0, 400.0, does);
        let shares = world.run(60.0, 400.0, does);
        assert!(shares[0] < 0.01, "{kind:?}: {:.4} of the traffic vanishes", shares[0]);
    }
}

#[test]
fn one_that_hung_and_was_restarted_is_used_again() {
    for kind in BY_TIME {
        let mut world = World::new(kind, 4, 8, 8);
        let does = |index, now: f64| {
            if index == 0 && (20.0..40.0).contains(&now) { Does::Hang } else { Does::Serve(40.0) }
        };
        world.run(40.0, 200.0, does);
        world.restart(0);
        world.run(100.0, 200.0, does);
        let share = world.run(130.0, 200.0, does)[0];
        assert!(share > 0.125, "{kind:?}: {share:.3}");
    }
}

#[test]
fn a_sample_of_a_second_ago_makes_no_herd() {
    // Samples arrive once a second; one backend looked idle. It gets more, and never everything.
    let mut world = World::new(StrategyKind::ResourceBased, 4, 8, 9);
    let sampled = |world: &World, parts: [f64; 4], at: f64| {
        for (backend, part) in world.pool.iter().zip(parts) {
            backend.set_resources(crate::backend::Resources {
                cpu: Some(part),
                memory: Some(0.5),
                sampled: Some(backend.born + Duration::from_secs_f64(at)),
                in_flight: backend.in_flight(),
            });
        }
    };
    world.run(1.0, 400.0, |_, _| Does::Serve(40.0));
    sampled(&world, [0.02, 0.6, 0.6, 0.6], 1.0);
    let shares = world.run(2.0, 400.0, |_, _| Does::Serve(40.0));
    assert!(shares[0] > 0.3 && shares[0] < 0.6, "{shares:.3?}");
}

#[test]
fn resource_based_does_not_follow_a_hung_backend_whose_cpu_is_idle() {
    let mut world = World::new(StrategyKind::ResourceBased, 4, 8, 10);
    let mut share = 1.0;
    for second in 0..40 {
        for (index, backend) in world.pool.iter().enumerate() {
            backend.set_resources(crate::backend::Resources {
                cpu: Some(if index == 0 { 0.0 } else { 0.5 }),
                memory: Some(0.5),
                sampled: Some(backend.born + Duration::from_secs(second)),
                in_flight: backend.in_flight(),
            });
        }
        let does = |index, _| if index == 0 { Does::Hang } else { Does::Serve(40.0) };
        share = world.run(second as f64 + 1.0, 200.0, does)[0];
    }
    assert!(share < 0.05, "{share:.3} of the traffic still vanishes");
}
