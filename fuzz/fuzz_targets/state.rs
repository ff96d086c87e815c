//! The learned state of the agent, from a file of any bytes: refused or taken over, never a panic; and what was taken
//! over can be saved and read again.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use evenkeel::backend::Backend;
use evenkeel::balance::{self, store};
use evenkeel::config::{BackendPlan, PoolPlan, RlAgent, RlPlan, StrategyKind, StrategyPlan};
use evenkeel::pool::Pool;
use libfuzzer_sys::fuzz_target;

static BACKENDS: LazyLock<Vec<Arc<Backend>>> = LazyLock::new(|| {
    let backends = ["a", "b"].map(|name| BackendPlan::new(name, "127.0.0.1:1".parse().unwrap()));
    let plan = PoolPlan::new("ai", StrategyKind::RoundRobin, backends.into());
    Pool::new(Arc::new(plan), Instant::now()).set().members.to_vec()
});

fuzz_target!(|input: &[u8]| {
    let _ = store::open(input);
    let now = Instant::now();
    for agent in [RlAgent::Adaptive, RlAgent::Tabular] {
        let plan = StrategyPlan { rl: RlPlan::for_agent(agent), ..StrategyPlan::new(StrategyKind::Rl) };
        let strategy = balance::build(&plan);
        let _ = strategy.load(input, &BACKENDS, now);
        // Behind a good seal the payload is reached.
        if strategy.load(&store::seal(input), &BACKENDS, now).is_ok()
            && let Some(saved) = strategy.save(&BACKENDS, now)
        {
            assert!(balance::build(&plan).load(&saved, &BACKENDS, now).is_ok(), "what was saved is refused");
        }
    }
});
