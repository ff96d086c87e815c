//! `evenkeel prove`: the simulator's scenarios through the real proxy, over real sockets. Slower than the simulator by as
//! much as real time is slower than virtual; it shows that the one stands for the other.

mod instance;
mod run;

use clap::Args;

use super::{Failure, args, output};
use crate::config::StrategyKind;
use crate::sim::report::Results;
use crate::sim::runner::{Run, Source};
use crate::sim::{Scenario, ScenarioFile, live, suite};
use run::{Done, run, shares};

const EXAMPLES: &str = "\
Examples:
  evenkeel prove                                          nine scenarios, five strategies: about a quarter of an hour
  evenkeel prove --scenario s08 --strategy rl --seconds 30
  evenkeel prove --acceptance                             a fault, a slowdown, a recovery: what must hold of rl

Six scripted instances are the simulator's own servers behind sockets. Work is stretched so that the same load is met at
--rate requests a second. One attempt a request, health checks every second, no ejection unless --ejection.";

/// The shortened set: no event that changes membership, no rate that changes.
const SCENARIOS: [&str; 9] = ["s01", "s03", "s06", "s08", "s09", "s11", "s13", "s22", "s23"];
/// Who is compared.
const STRATEGIES: [StrategyKind; 5] = [
    StrategyKind::Rl,
    StrategyKind::RoundRobin,
    StrategyKind::LeastConnections,
    StrategyKind::PowerOfTwo,
    StrategyKind::PeakEwma,
];

/// One of six answers 500 at once for a minute; another runs at a tenth of its speed for 20 s and then recovers.
const FAULT: (&str, usize, usize) = ("fail_fast", 15, 75);
const SLOW: (usize, usize, usize) = (15, 35, 56);

/// Replay scenarios through the real proxy
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ProveArgs {
    /// Scenario of the fixed suite; may be repeated
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Strategy; may be repeated
    #[arg(long = "strategy", value_name = "S", value_parser = args::strategy())]
    strategies: Vec<StrategyKind>,
    /// Length of a run
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 240, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Repetitions, each with other requests
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    repeat: u64,
    /// Outlier ejection on, for everybody
    #[arg(long)]
    ejection: bool,
    /// What must hold of the agent over real HTTP, each a line that says whether it does
    #[arg(long, conflicts_with_all = ["scenarios", "seconds", "repeat"])]
    acceptance: bool,
}

impl ProveArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        // The balancer has threads of its own; these are for the instances and the clients.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("prove")
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))?;
        let done = runtime.block_on(async { if self.acceptance { self.accept().await } else { self.replay().await } });
        runtime.shutdown_background();
        done
    }

    fn strategies(&self, usual: &[StrategyKind]) -> Vec<StrategyKind> {
        if self.strategies.is_empty() { usual.to_vec() } else { self.strategies.clone() }
    }

    async fn replay(&self) -> Result<(), Failure> {
        let names: Vec<&str> = match self.scenarios.is_empty() {
            true => SCENARIOS.to_vec(),
            false => self.scenarios.iter().map(String::as_str).collect(),
        };
        let (strategies, seconds, rate) = (self.strategies(&STRATEGIES), self.seconds as f64, self.rate as f64);
        let (mut runs, mut lines) = (Vec::new(), Vec::new());
        for name in names {
            let file = suite::find(name).map_err(Failure::Usage)?;
            for seed in 0..self.repeat {
                let scenario = Source::File(Box::new(file.clone())).build(seed).map_err(Failure::Usage)?;
                let scenario = live::shaped(scenario, seconds, rate);
                for strategy in &strategies {
                    output::complain(&format!("{} {} {}", scenario.name, strategy.name(), seed + 1));
                    let done = run(&scenario, *strategy, self.ejection).await?;
                    lines.push(line(&scenario, *strategy, &done));
                    let (scenario, strategy) = (scenario.name.clone(), strategy.name().to_owned());
                    runs.push(Run { scenario, strategy, seed, metrics: done.metrics });
                }
            }
        }
        let heading = format!(
            "\n{:<22} {:<22} {:>20} {:>10} {:>16}",
            "scenario", "strategy", "decision p95 us", "errors %", "throughput /s"
        );
        output::result(&format!("{}{heading}\n{}\n", Results::new(&runs).tables(), lines.join("\n")))
    }

    async fn accept(&self) -> Result<(), Failure> {
        let mut all = true;
        for strategy in self.strategies(&[StrategyKind::Rl]) {
            let (what, at, end) = FAULT;
            let scenario = self.scenario(end, &format!("what = \"{what}\"\nat = {at}\nserver = 0\nshare = 1.0\n"))?;
            let done = run(&scenario, strategy, false).await?;
            let after: Vec<_> = done.answers.iter().filter(|answer| answer.at >= at as f64).collect();
            let failed = after.iter().filter(|answer| !answer.ok).count();
            let percent = 100.0 * failed as f64 / after.len().max(1) as f64;
            let what =
                format!("client errors in the minute after one of six answers 500 at once: {percent:.3} % (below 0.5)");
            all &= say(strategy, &what, percent < 0.5)?;

            let (from, back, end) = SLOW;
            let events = format!(
                "what = \"speed\"\nat = {from}\nserver = 0\nto = 0.1\n\n[[events]]\nwhat = \"speed\"\nat = {back}\nserver = 0\nto = 1.0\n"
            );
            let scenario = self.scenario(end, &events)?;
            let done = run(&scenario, strategy, false).await?;
            let share = |from, to| 100.0 * shares(&done.arrived, from, to).get(&0).copied().unwrap_or_default();
            let slow = share(from + 3, back);
            let what = format!("share of one turned ten times slower, from 3 s on: {slow:.2} % (below 3)");
            all &= say(strategy, &what, slow < 3.0)?;
            let (again, fair) = (share(back + 15, back + 20), 100.0 / scenario.servers.len() as f64);
            let what = format!("its share 15 to 20 s after it recovered: {again:.1} % (at least half of {fair:.1})");
            all &= say(strategy, &what, again >= fair / 2.0)?;
        }
        if all { Ok(()) } else { Err(Failure::Failed("something falls short".into())) }
    }

    /// Six equal instances at a fifth of what they can do; `event` happens.
    fn scenario(&self, seconds: usize, event: &str) -> Result<Scenario, Failure> {
        let rate = self.rate.max(200);
        let text = format!(
            "name = \"acceptance\"\nabout = \"acceptance over real HTTP\"\nduration = {seconds}\ntimeout = 5\nsla = 0.5\n\
             [servers]\nspeeds = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]\nslots = 8\nqueue = 200\n\
             [work]\nkind = \"exponential\"\nmean = 0.04\n[arrivals]\nrate = {rate}\n[[events]]\n{event}"
        );
        let file = ScenarioFile::parse(&text).map_err(Failure::Failed)?;
        Source::File(Box::new(file)).build(0).map_err(Failure::Failed)
    }
}

fn line(scenario: &Scenario, strategy: StrategyKind, done: &Done) -> String {
    format!(
        "{:<22} {:<22} {:>20} {:>10.3} {:>16.1}",
        scenario.name,
        strategy.name(),
        done.decision_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.2}")),
        done.metrics.error_percent,
        done.throughput
    )
}

fn say(strategy: StrategyKind, what: &str, holds: bool) -> Result<bool, Failure> {
    output::line(&format!("{}: {what}: {}", strategy.name(), if holds { "holds" } else { "falls short" }))?;
    Ok(holds)
}
