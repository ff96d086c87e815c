//! Each strategy's shares in a fixed state, against the exact ones.

use super::*;

#[test]
fn round_robin_gives_each_its_turn_whatever_the_weight() {
    let mut picker = Picker::new(StrategyKind::RoundRobin, pool(&[1, 9, 3]));
    let order: Vec<usize> = (0..9).map(|_| picker.pick().index).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn weighted_round_robin_is_exact_and_smooth() {
    let mut picker = Picker::new(StrategyKind::WeightedRoundRobin, pool(&[5, 1, 1]));
    let order: Vec<usize> = (0..7).map(|_| picker.pick().index).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0], "nginx' own example");
    let weights = [7, 3, 1, 1, 4];
    let mut picker = Picker::new(StrategyKind::WeightedRoundRobin, pool(&weights));
    let mut last = [0_i64; 5];
    for turn in 1..=1600_i64 {
        let index = picker.pick().index;
        let gap = turn - last[index];
        assert!(gap <= 2 * (16 / i64::from(weights[index]) + 1), "{index} waited {gap} turns");
        last[index] = turn;
    }
    assert_eq!(Picker::new(StrategyKind::WeightedRoundRobin, pool(&weights)).counts(1600), [700, 300, 100, 100, 400]);
}

#[test]
fn weighted_round_robin_follows_a_live_weight() {
    let mut picker = Picker::new(StrategyKind::WeightedRoundRobin, pool(&[1000, 1, 1]));
    picker.counts(500);
    picker.pool[0].set_weight(1);
    let counts = picker.counts(300);
    assert!(counts.iter().all(|count| (97..=103).contains(count)), "{counts:?}: old credit is not a thousand turns");
}

#[test]
fn random_is_even_and_without_memory() {
    let mut picker = Picker::new(StrategyKind::Random, pool(&[1, 9, 1, 1]));
    let mut pairs = [0; 16];
    let mut last = picker.pick().index;
    for _ in 0..40_000 {
        let index = picker.pick().index;
        pairs[4 * last + index] += 1;
        last = index;
    }
    assert_shares(&pairs, &[1.0; 16]);
}

#[test]
fn least_connections_takes_the_least_loaded_for_its_weight_and_breaks_ties_by_lot() {
    let mut picker = Picker::new(StrategyKind::LeastConnections, pool(&[1, 1, 1, 2, 4]));
    let _held = load(&picker.pool, &[0, 1, 0, 1, 3]);
    // (n + 1) ÷ weight: 1, 2, 1, 1, 1.
    assert_shares(&picker.counts(40_000), &[1.0, 0.0, 1.0, 1.0, 1.0]);
    let _more = load(&picker.pool, &[1, 0, 1, 1, 0]);
    assert_eq!(picker.counts(100)[4], 100);
}

#[test]
fn power_of_two_draws_two_different_ones_and_takes_the_less_loaded() {
    let mut picker = Picker::new(StrategyKind::PowerOfTwo, pool(&[1; 5]));
    let _held = load(&picker.pool, &[4, 3, 2, 1, 0]);
    // Of twenty ordered pairs the r-th best wins those against the worse ones. The worst wins none: one that draws the
    // same twice would give it one in twenty-five.
    assert_shares(&picker.counts(40_000), &[0.0, 1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn power_of_two_shares_a_quiet_pool_by_weight() {
    let mut picker = Picker::new(StrategyKind::PowerOfTwo, pool(&[5, 1, 3, 1]));
    assert_shares(&picker.counts(40_000), &[5.0, 1.0, 3.0, 1.0]);
    let mut picker = Picker::new(StrategyKind::PowerOfTwo, pool(&[3, 1]));
    assert_shares(&picker.counts(40_000), &[3.0, 1.0]);
}

#[test]
fn shares_are_by_weight_in_a_pool_of_many_too() {
    // Sums and draws go by blocks of eight: two of them and a rest.
    let weights: Vec<u32> = (0..21).map(|slot| 1 + slot * 7 % 5).collect();
    let shares: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
    let total: f64 = shares.iter().sum();
    for kind in [StrategyKind::PowerOfTwo, StrategyKind::ResourceBased] {
        let mut picker = Picker::new(kind, pool(&weights));
        let pick = picker.pick();
        assert!((f64::from(pick.propensity) - shares[pick.index] / total).abs() < 1e-6, "{kind:?}: {pick:?}");
        assert_shares(&picker.counts(60_000), &shares);
    }
    let counts = Picker::new(StrategyKind::WeightedRoundRobin, pool(&weights)).counts(10 * total as u32);
    assert!(counts.iter().zip(&weights).all(|(count, weight)| *count == 10 * weight), "{counts:?}");
}

#[test]
fn power_of_two_compares_loads_by_weight() {
    let mut picker = Picker::new(StrategyKind::PowerOfTwo, pool(&[4, 1]));
    let _held = load(&picker.pool, &[2, 0]);
    assert_eq!(picker.counts(100), [100, 0], "3 ÷ 4 is less than 1 ÷ 1");
    let _more = load(&picker.pool, &[2, 0]);
    assert_eq!(picker.counts(100), [0, 100], "5 ÷ 4 is more");
}

#[test]
fn peak_ewma_takes_the_better_of_two_by_peak_load_and_weight() {
    let mut picker = Picker::new(StrategyKind::PeakEwma, pool(&[1, 1, 1, 4, 1]));
    for (backend, ms) in picker.pool.iter().zip([50.0, 20.0, 10.0, 60.0, 20.0]) {
        teach(backend, ms, picker.now);
    }
    let _held = load(&picker.pool, &[0, 0, 2, 0, 0]);
    // Costs 50, 20, 30, 15, 20: of the twenty ordered pairs 0, 5, 2, 8, 5 are won, the tie going to the first drawn.
    assert_shares(&picker.counts(40_000), &[0.0, 5.0, 2.0, 8.0, 5.0]);
}

#[test]
fn least_response_time_takes_the_least_average_times_load_over_weight() {
    let mut picker = Picker::new(StrategyKind::LeastResponseTime, pool(&[1, 1, 2, 1]));
    for (backend, ms) in picker.pool.iter().zip([50.0, 20.0, 30.0, 45.0]) {
        teach(backend, ms, picker.now);
    }
    assert_eq!(picker.counts(100), [0, 0, 100, 0], "15");
    let _held = load(&picker.pool, &[0, 0, 1, 0]);
    assert_eq!(picker.counts(100), [0, 100, 0, 0], "20 against 30");
    let _more = load(&picker.pool, &[0, 2, 2, 0]);
    assert_eq!(picker.counts(100), [0, 0, 0, 100], "45 against 50 and 60");
}

#[test]
fn least_response_time_gives_unknown_backends_their_turn_and_no_more() {
    let mut picker = Picker::new(StrategyKind::LeastResponseTime, pool(&[1; 4]));
    assert_shares(&picker.counts(40_000), &[1.0; 4]);
    teach(&picker.pool[0], 30.0, picker.now);
    teach(&picker.pool[1], 50.0, picker.now);
    assert_shares(&picker.counts(40_000), &[1.0, 0.0, 1.0, 1.0]);
    let _held = load(&picker.pool, &[0, 0, 1, 0]);
    assert_shares(&picker.counts(40_000), &[1.0, 0.0, 0.0, 1.0]);
}

#[test]
fn ip_hash_gives_each_backend_its_share_of_clients() {
    for weights in [[1, 1, 1, 1, 1], [1, 2, 3, 4, 10]] {
        let mut picker = Picker::new(StrategyKind::IpHash, pool(&weights));
        let mut counts = vec![0; 5];
        // Neighbouring addresses, as clients of one network have.
        for address in 0..40_000 {
            counts[picker.pick_for(Some(0x0a00_0000 + address)).index] += 1;
        }
        assert_shares(&counts, &weights.map(f64::from));
    }
}

#[test]
fn ip_hash_without_a_client_goes_by_load() {
    let mut picker = Picker::new(StrategyKind::IpHash, pool(&[1; 3]));
    let _held = load(&picker.pool, &[1, 0, 0]);
    assert_shares(&picker.counts(20_000), &[0.0, 1.0, 1.0]);
    assert_eq!(picker.pick().kind, super::super::PickKind::Fallback);
}

#[test]
fn resource_based_shares_by_what_is_free() {
    let mut picker = Picker::new(StrategyKind::ResourceBased, pool(&[1, 1, 1, 3]));
    for (backend, (cpu, memory)) in picker.pool.iter().zip([(0.2, 0.4), (0.9, 0.4), (0.5, 0.9), (0.9, 0.8)]) {
        sample(backend, Some(cpu), Some(memory), picker.now);
    }
    // Idle: relative load is a half for each.
    let free = |cpu: f64, memory: f64| 1.0 - (0.4 * cpu + 0.3 * memory + 0.3 * 0.5);
    let frees = [free(0.2, 0.4), free(0.9, 0.4), free(0.5, 0.9), free(0.9, 0.8)];
    let mut shares = frees.map(|free| free.powi(4));
    shares[3] *= 3.0;
    assert_shares(&picker.counts(40_000), &shares);
}

#[test]
fn resource_based_takes_the_unknown_and_the_stale_for_the_mean_of_the_known() {
    let mut picker = Picker::new(StrategyKind::ResourceBased, pool(&[1; 4]));
    assert_shares(&picker.counts(20_000), &[1.0; 4]);
    sample(&picker.pool[0], Some(0.2), Some(0.2), picker.now);
    sample(&picker.pool[1], Some(0.6), Some(0.6), picker.now);
    let mean = |part: f64| (1.0 - (0.7 * part + 0.15)).powi(4);
    assert_shares(&picker.counts(40_000), &[mean(0.2), mean(0.6), mean(0.4), mean(0.4)]);
    picker.now += Duration::from_secs(11);
    assert_shares(&picker.counts(20_000), &[1.0; 4]);
}

#[test]
fn resource_based_counts_what_was_sent_since_the_sample() {
    let mut picker = Picker::new(StrategyKind::ResourceBased, pool(&[1; 2]));
    for (backend, part) in picker.pool.iter().zip([0.0, 0.3]) {
        sample(backend, Some(part), Some(part), picker.now);
    }
    let before = picker.counts(10_000)[0];
    // Twelve are sent to each in proportion to what it promised; the idle one must not stay the favourite.
    let _held = load(&picker.pool, &[9, 3]);
    let after = picker.counts(10_000)[0];
    assert!(before > 7_000 && after < 3_500, "{before} then {after}");
}

#[test]
fn every_propensity_is_the_true_chance_of_its_pick() {
    for kind in RANDOMISED {
        let mut picker = Picker::new(kind, pool(&[1, 2, 1, 5, 1, 1]));
        for (backend, ms) in picker.pool.iter().zip([40.0, 40.0, 10.0, 200.0]) {
            teach(backend, ms, picker.now);
            sample(backend, Some(ms / 300.0), Some(0.3), picker.now);
        }
        let _held = load(&picker.pool, &[1, 3, 4, 9, 1, 1]);
        let mut counts = vec![0; 6];
        let mut said = [0.0; 6];
        for _ in 0..40_000 {
            let pick = picker.pick();
            counts[pick.index] += 1;
            let propensity = f64::from(pick.propensity);
            assert!(said[pick.index] == 0.0 || said[pick.index] == propensity, "{kind:?} contradicts itself");
            said[pick.index] = propensity;
        }
        assert!((said.iter().sum::<f64>() - 1.0).abs() < 1e-3, "{kind:?}: chances {said:?} sum to one");
        assert_shares(&counts, &said);
    }
}

#[test]
fn slow_start_acts_through_the_weight_on_all_but_round_robin_and_random() {
    let rule = SlowStartPlan { window: Duration::from_secs(30), min_weight: 0.1 };
    for kind in [StrategyKind::WeightedRoundRobin, StrategyKind::PowerOfTwo, StrategyKind::ResourceBased] {
        let born = Instant::now();
        let backends = (0..4).map(|slot| backend(slot, 10, Some(rule.clone()), born)).collect();
        let mut picker = Picker::new(kind, backends);
        picker.pool[0].begin_ramp(born);
        let begun = picker.counts(4_000)[0];
        picker.now += Duration::from_secs(15);
        let halfway = picker.counts(4_000)[0];
        picker.now += Duration::from_secs(15);
        let done = picker.counts(4_000)[0];
        assert!(begun < 200 && (300..800).contains(&halfway) && done > 900, "{kind:?}: {begun} {halfway} {done}");
    }
    let born = Instant::now();
    let mut picker =
        Picker::new(StrategyKind::IpHash, (0..4).map(|slot| backend(slot, 1, Some(rule.clone()), born)).collect());
    let home: Vec<usize> = (0..4000).map(|key| picker.pick_for(Some(key)).index).collect();
    picker.pool[0].begin_ramp(born);
    let ramped: Vec<usize> = (0..4000).map(|key| picker.pick_for(Some(key)).index).collect();
    let kept = ramped.iter().filter(|index| **index == 0).count();
    assert!((60..200).contains(&kept), "a fortieth of all clients comes back at first, not {kept} of 4000");
    assert!(home.iter().zip(&ramped).all(|(home, now)| home == now || *home == 0), "and no other client moves");
}

fn sample(backend: &Backend, cpu: Option<f64>, memory: Option<f64>, now: Instant) {
    let in_flight = backend.in_flight();
    backend.set_resources(crate::backend::Resources { cpu, memory, sampled: Some(now), in_flight });
}
