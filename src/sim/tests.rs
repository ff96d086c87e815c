//! What the simulator must show: the laboratory's numbers for the peers, the guide's three scenarios for the agent.

use std::time::Instant;

use super::runner::{self, Plan, Source};
use super::*;
use crate::sim::report::Results;

fn scenario(name: &str, seed: u64) -> Scenario {
    let file = suite::find(name).unwrap();
    file.build(seed + 1, &|path| Err(format!("no trace {path}"))).unwrap()
}

fn run(scenario: &Scenario, strategy: &str) -> Metrics {
    runner::single(scenario, strategy, 0, Instant::now()).unwrap()
}

/// Share of the requests that went to `server` from second `from` up to `to`.
fn share(metrics: &Metrics, server: usize, from: usize, to: usize) -> f64 {
    let seconds = &metrics.sent[from..to];
    let all: u32 = seconds.iter().flatten().sum();
    f64::from(seconds.iter().map(|servers| servers[server]).sum::<u32>()) / f64::from(all)
}

/// The design's table "J of the peers on the fixed suite", in milliseconds; the laboratory ran 8 seeds.
const PUBLISHED: [(&str, [f64; 3]); 4] = [
    ("round_robin", [41.3, 1114.0, 86.2]),
    ("least_connections", [40.0, 39.3, 120.7]),
    ("power_of_two", [40.1, 42.6, 79.1]),
    ("pewma", [40.5, 40.9, 79.6]),
];

#[test]
fn peers_cost_what_the_laboratory_printed() {
    let names = ["s01_homog70", "s03_hetero_speed", "s06_crash"];
    let plan = Plan {
        sources: names.iter().map(|name| Source::File(Box::new(suite::find(name).unwrap()))).collect(),
        strategies: PUBLISHED.iter().map(|(name, _)| (*name).to_owned()).collect(),
        seeds: 4,
        balancers: None,
        threads: 2,
        timelines: false,
        start: Instant::now(),
    };
    let runs = plan.run(&|_, _| {}).unwrap();
    let results = Results::new(&runs);
    for (strategy, published) in &PUBLISHED {
        for (scenario, printed) in names.iter().zip(published) {
            let found = results.mean(scenario, strategy, |metrics| metrics.j) * 1e3;
            assert!((found / printed - 1.0).abs() < 0.03, "{strategy} on {scenario}: {found:.1} instead of {printed}");
        }
    }
}

/// A plan saves the runs that passive ejection cannot change; what it reports must be what each run would have given.
#[test]
fn runs_that_ejection_did_not_touch_are_shared_and_others_are_not() {
    let names = ["lc", "lc+envoy", "lc+tuned", "wlr+accrual", "wlr+tuned", "rl"];
    for (file, seed) in [("s18", 0), ("s09", 0)] {
        let plan = Plan {
            sources: vec![Source::File(Box::new(suite::find(file).unwrap()))],
            strategies: names.map(str::to_owned).to_vec(),
            seeds: 1,
            balancers: None,
            threads: 1,
            timelines: true,
            start: Instant::now(),
        };
        for run in plan.run(&|_, _| {}).unwrap() {
            assert_eq!(run.metrics, super::tests::run(&scenario(file, seed), &run.strategy), "{file} {}", run.strategy);
        }
    }
}

#[test]
fn a_run_repeats_from_its_seed() {
    let scenario = scenario("s18", 3);
    for strategy in ["rl", "rl_tabular", "power_of_two", "prequal"] {
        assert_eq!(run(&scenario, strategy), run(&scenario, strategy), "{strategy}");
    }
}

#[test]
fn every_strategy_and_peer_can_be_named_and_picks_only_what_is_available() {
    let mut scenario = scenario("s14", 0);
    scenario.arrivals.retain(|arrival| arrival.at < 8.0);
    scenario.duration = 8.0;
    scenario.warmup = 1.0;
    let all = roster::everything().map(str::to_owned).chain(roster::PEERS.map(|(name, _)| name.to_owned()));
    for name in all.chain(["rl_tabular", "lrtc+per_token", "least_connections+tuned+told"].map(str::to_owned)) {
        // The engine asserts that a pick is available.
        let metrics = run(&scenario, &name);
        assert!(metrics.requests > 1000, "{name}");
    }
    for wrong in ["nonsense", "rl:gamma=1", "lc+nonsense", "rl:discount_factor=x", "lc+eject=1/2"] {
        assert!(runner::single(&scenario, wrong, 0, Instant::now()).is_err(), "{wrong}");
    }
}

/// The guide's first scenario: ten times the load within a second.
#[test]
fn flash_sale_no_request_is_lost_and_nobody_waits_longer_than_behind_least_connections() {
    let scenario = scenario("s05", 0);
    let (agent, least) = (run(&scenario, "rl"), run(&scenario, "least_connections"));
    assert_eq!(agent.error_percent, 0.0);
    assert!(agent.j < 1.04 * least.j, "{} against {}", agent.j, least.j);
    assert!(agent.p99_all < 1.04 * least.p99_all, "{} against {}", agent.p99_all, least.p99_all);
}

/// The guide's second scenario: a backend answers nothing but errors, fast.
#[test]
fn pod_failure_is_avoided_within_a_second_and_forgiven_when_it_is_over() {
    let scenario = scenario("s08", 0);
    let agent = run(&scenario, "rl");
    assert!(agent.error_percent < 0.03, "{} %", agent.error_percent);
    assert!(share(&agent, 0, 41, 80) < 0.005, "{}", share(&agent, 0, 41, 80));
    let before = share(&agent, 0, 20, 40);
    assert!(share(&agent, 0, 100, 120) > 0.8 * before, "back with its share of {before}");
    assert!(run(&scenario, "least_connections").error_percent > 5.0, "who only counts connections falls into it");
}

/// The guide's third scenario: a memory leak makes a backend ten times slower within a minute, then kills it.
#[test]
fn gradual_degradation_moves_the_work_away_step_by_step() {
    let scenario = scenario("s10", 0);
    let agent = run(&scenario, "rl");
    let shares: Vec<f64> = [(10, 20), (35, 40), (50, 55), (70, 78)].map(|(a, b)| share(&agent, 2, a, b)).to_vec();
    assert!(shares.windows(2).all(|pair| pair[1] < pair[0]), "{shares:?}");
    assert!(shares[3] < 0.35 * shares[0], "{shares:?}");
    let least = run(&scenario, "least_connections");
    assert!(agent.j < 0.5 * least.j && agent.error_percent < 0.1 * least.error_percent, "{} {}", agent.j, least.j);
}

#[test]
fn a_server_that_was_slow_is_left_at_once_and_found_again() {
    // B19 of the design, over all seeds as there; and no seed far from it.
    for name in ["s24_slow_recover", "s24_slow_recover_200"] {
        let runs: Vec<_> = (0..4).map(|seed| run(&scenario(name, seed), "rl")).collect();
        let shares = |from, to| runs.iter().map(|run| share(run, 0, from, to)).collect::<Vec<_>>();
        let (slow, back) = (shares(43, 70), shares(80, 90));
        assert!(slow.iter().all(|share| *share < 0.01), "{name}: {slow:?}");
        assert!(back.iter().all(|share| *share > 0.05), "{name}: {back:?}");
        assert!(back.iter().sum::<f64>() / 4.0 > 1.0 / 12.0, "{name}: {back:?}");
    }
}

#[test]
fn the_guides_agent_loses_by_far() {
    let scenario = scenario("s01", 0);
    let (adaptive, tabular) = (run(&scenario, "rl"), run(&scenario, "rl_tabular"));
    assert!(tabular.j > 5.0 * adaptive.j, "{} {}", tabular.j, adaptive.j);
}

#[test]
fn a_users_own_scenario_and_trace_are_read_and_faults_are_told() {
    let text = suite::text("t3_hetero75").unwrap();
    let (head, _) = text.split_once("[arrivals]").unwrap();
    let file = ScenarioFile::parse(&format!("{head}[arrivals]\ntrace = \"t.csv\"\n")).unwrap();
    let csv = "seconds,input,output\n# comment\n5.5,100,20\n5.0,400,50\n8.0,10,1\n";
    let built = file.build(1, &|_| Ok(csv.to_owned())).unwrap();
    let seen: Vec<_> = built.arrivals.iter().map(|arrival| (arrival.at, arrival.tokens)).collect();
    assert_eq!(seen, [(0.0, 50.0), (0.5, 20.0), (3.0, 1.0)]);
    assert!((built.arrivals[0].prefill - (400.0 / 5000.0 + 0.02)).abs() < 1e-12);
    assert_eq!(run(&built, "rl").requests + 1, 3, "the first is warm-up");
    for wrong in ["1,2\n", "", "1,2,3\n4,x,6\n", "1,2,3\n4,-5,6\n"] {
        assert!(file.build(1, &|_| Ok(wrong.to_owned())).is_err(), "{wrong:?}");
    }
    for (from, to) in [
        ("speeds = [0.5, 0.5, 1.0, 1.0, 1.5, 2.0]", "speeds = []"),
        ("slots = 32", "slots = 0"),
        ("load = 0.75", "load = 0.75\nrate = 5"),
        ("requests = 15000", ""),
        ("timeout = 120", "timeout = 0"),
        ("queue = 200", "queue = 200\nunknown = 1"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(ScenarioFile::parse(&text.replace(from, to)).is_err(), "{to}");
    }
    let text = suite::text("s08_blackhole").unwrap().replace("server = 0", "server = 9");
    assert!(ScenarioFile::parse(&text).unwrap().build(1, &|_| Ok(String::new())).is_err(), "no such server");
}
