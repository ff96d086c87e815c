//! `evenkeel replay`: yesterday's access log against other strategies.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::Failure;
use super::output;
use crate::sim::replay;
use crate::sim::report::Results;
use crate::sim::runner::{self, Run};

/// What `--help` says beneath the options.
const EXAMPLES: &str = "\
Examples:
  evenkeel replay access.log                                  rl and a few classics on that traffic
  evenkeel replay access.log --strategy rl --strategy least_connections --sla 0.5

The log says how long a request took where it went, not how long it would have taken elsewhere: backends are modelled by
their speed relative to each other, their failures, and the most they served at once. Take the answer as an estimate, and
compare the strategy that was in force with what the log itself shows.";

/// What runs when nobody says what.
const USUAL: [&str; 5] = ["rl", "round_robin", "least_connections", "power_of_two", "peak_ewma"];

/// Replay Evenkeel's own access log against other strategies
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReplayArgs {
    /// Access logs in JSON, oldest first
    #[arg(required = true, value_name = "LOG")]
    logs: Vec<PathBuf>,
    /// Name of a strategy; may be repeated
    #[arg(long = "strategy", value_name = "S")]
    strategies: Vec<String>,
    /// Which pool, when the log has several
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Latency objective in seconds [default: ten median latencies]
    #[arg(long, value_name = "SECONDS")]
    sla: Option<f64>,
    /// Seeds: strategies that use chance are run so many times
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
}

impl ReplayArgs {
    /// Runs it.
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.sla.is_some_and(|sla| !(sla > 0.0 && sla.is_finite())) {
            return Err(Failure::Usage("--sla must be above 0".to_owned()));
        }
        let mut text = String::new();
        for path in &self.logs {
            let log = std::fs::read_to_string(path);
            text.push_str(&log.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?);
            text.push('\n');
        }
        let replay = replay::read(&text, self.pool.as_deref(), self.sla).map_err(Failure::Usage)?;
        let strategies = if self.strategies.is_empty() {
            USUAL.iter().map(|name| (*name).to_owned()).collect()
        } else {
            self.strategies
        };
        let (scenario, start) = (&replay.scenario, Instant::now());
        let mut runs = Vec::new();
        for strategy in &strategies {
            for seed in 0..self.seeds {
                let metrics = runner::single(scenario, strategy, seed, start).map_err(Failure::Usage)?;
                runs.push(Run { scenario: scenario.name.clone(), strategy: strategy.clone(), seed, metrics });
            }
        }
        let servers: Vec<_> = replay
            .backends
            .iter()
            .zip(&scenario.servers)
            .map(|(name, server)| format!("{name} (speed {:.2}, {} at once)", server.speed, server.slots))
            .collect();
        let (mean, errors) = replay.logged;
        output::result(&format!(
            "pool {}: {} requests in {:.0} s, {} lines skipped\nbackends: {}\nthe log itself: mean {:.2} ms, errors {:.3} %\n{}",
            replay.pool,
            scenario.arrivals.len(),
            scenario.duration,
            replay.skipped,
            servers.join(", "),
            mean * 1e3,
            errors,
            Results::new(&runs).tables()
        ))
    }
}
