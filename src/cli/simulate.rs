//! `evenkeel simulate`: strategies against scenarios in virtual time.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use super::Failure;
use super::output;
use crate::sim::bar::{self, Bar};
use crate::sim::report::Results;
use crate::sim::runner::{Plan, Source};
use crate::sim::{ScenarioFile, plot, roster, suite};

/// What `--help` says beneath the options.
const EXAMPLES: &str = "\
Examples:
  evenkeel simulate --scenario s03                          rl and the classics on one scenario
  evenkeel simulate --scenario mine.toml --strategy rl --strategy lc+tuned
  evenkeel simulate --scenario trace.csv --seeds 1          shaped from arrival time, input and output tokens
  evenkeel simulate --seeds 8 --out results                 the fixed suite, with CSV and plots
  evenkeel simulate --scenario random:1:60 --strategy rl    random scenarios 0 to 59 of set 1

Without --scenario: the fixed suite s01 to s24. `streams` stands for t1 to t11.
Without --strategy: rl, the other strategies of this program, and the tuned peers of the literature.
Peers: lc p2c wlr pewma pewma_full lrtc c3 c3_smooth prequal prequal_5, each with +envoy, +accrual or +tuned for
passive ejection, +told for weights by true capacity.";

/// Strategies against scenarios, in virtual time
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SimulateArgs {
    /// Name, TOML file, CSV trace, `suite`, `streams`, or random:SET:COUNT[:FROM]; may be repeated
    #[arg(long = "scenario", value_name = "NAME|FILE")]
    scenarios: Vec<String>,
    /// Name of a strategy or peer; may be repeated
    #[arg(long = "strategy", value_name = "S")]
    strategies: Vec<String>,
    /// Seeds per scenario [default: 3; 8 for --bar]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: Option<u64>,
    /// Split every scenario over so many independent balancers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    balancers: Option<u64>,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=256))]
    threads: u64,
    /// Write results.csv, report.txt and plots there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run all that the design requires of the agent, B1 to B19, and say of each whether it holds (minutes)
    #[arg(long, conflicts_with_all = ["scenarios", "strategies", "balancers"])]
    bar: bool,
}

/// Seeds per scenario, unless said: for a look, and for the bar.
const SEEDS: u64 = 3;
const BAR_SEEDS: u64 = 8;

impl SimulateArgs {
    /// Runs it.
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.bar {
            return self.run_bar();
        }
        let plan = Plan {
            sources: self.sources()?,
            strategies: self.strategies(),
            seeds: self.seeds.unwrap_or(SEEDS),
            balancers: self.balancers.map(|balancers| balancers as usize),
            threads: self.threads as usize,
            timelines: self.out.is_some(),
            start: Instant::now(),
        };
        let bar = Progress::new();
        let runs = plan.run(&|done, total| bar.show("", done, total)).map_err(Failure::Usage)?;
        bar.clear();
        let results = Results::new(&runs);
        let tables = results.tables();
        output::result(&tables)?;
        if let Some(directory) = &self.out {
            write(directory, "report.txt", &tables)?;
            write(directory, "results.csv", &results.csv())?;
            let events: Vec<_> = plan.sources.iter().filter_map(disturbance).collect();
            for plot in plot::all(&runs, &events) {
                write(directory, &plot.name, &plot.svg)?;
            }
        }
        Ok(())
    }

    /// The bar: nineteen lines, and with `--out` every run behind them.
    fn run_bar(self) -> Result<(), Failure> {
        let measure = |size| bar::decision_ns(size, &Instant::now).map_err(Failure::Failed);
        let trial = Bar {
            seeds: self.seeds.unwrap_or(BAR_SEEDS),
            threads: self.threads as usize,
            start: Instant::now(),
            decision_ns: (measure(6)?, measure(50)?),
        };
        let progress = Progress::new();
        let runs = trial.run(&|part, done, total| progress.show(part, done, total)).map_err(Failure::Failed)?;
        progress.clear();
        let lines = trial.judge(&runs);
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        output::result(&text)?;
        if let Some(directory) = &self.out {
            write(directory, "bar.txt", &text)?;
            let parts = [
                ("fixed", &runs.fixed),
                ("train", &runs.train),
                ("unseen", &runs.unseen),
                ("one_proxy", &runs.one),
                ("four_proxies", &runs.four),
                ("streams", &runs.streams),
                ("recovery", &runs.recovery),
            ];
            for (name, runs) in parts {
                let results = Results::new(runs);
                write(directory, &format!("{name}.csv"), &results.csv())?;
                write(directory, &format!("{name}.txt"), &results.tables())?;
            }
        }
        Ok(())
    }

    fn sources(&self) -> Result<Vec<Source>, Failure> {
        if self.scenarios.is_empty() {
            return all(suite::names('s'));
        }
        let mut sources = Vec::new();
        for name in &self.scenarios {
            sources.extend(named(name)?);
        }
        Ok(sources)
    }

    fn strategies(&self) -> Vec<String> {
        if !self.strategies.is_empty() {
            return self.strategies.clone();
        }
        roster::everything().map(str::to_owned).collect()
    }
}

/// Name of a scenario and when its disturbance begins, for the plots.
fn disturbance(source: &Source) -> Option<(String, f64)> {
    match source {
        Source::File(file) => Some((file.name.clone(), file.disturbed_at)),
        Source::Random { .. } => None,
    }
}

/// The scenarios that one `--scenario` means.
fn named(name: &str) -> Result<Vec<Source>, Failure> {
    if name == "suite" {
        return all(suite::names('s'));
    }
    if name == "streams" {
        return all(suite::names('t'));
    }
    if let Some(range) = name.strip_prefix("random:") {
        let numbers: Option<Vec<u64>> = range.split(':').map(|number| number.parse().ok()).collect();
        return match numbers.as_deref() {
            Some([set, count]) => Ok((0..*count).map(|index| Source::Random { set: *set, index }).collect()),
            Some([set, count, from]) => Ok((*from..*count).map(|index| Source::Random { set: *set, index }).collect()),
            _ => Err(Failure::Usage(format!("{name}: random:SET:COUNT or random:SET:COUNT:FROM is meant"))),
        };
    }
    let path = Path::new(name);
    if !path.is_file() {
        return Ok(vec![Source::File(Box::new(suite::find(name).map_err(Failure::Usage)?))]);
    }
    let text = if path.extension().is_some_and(|extension| extension == "csv") {
        trace_scenario(name)?
    } else {
        std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{name}: {error}")))?
    };
    let file = ScenarioFile::parse(&text).map_err(|error| Failure::Usage(format!("{name}: {error}")))?;
    Ok(vec![Source::File(Box::new(file))])
}

/// A scenario around a bare trace: the replicas of the token-stream suite, unequal, with the trace's requests.
fn trace_scenario(path: &str) -> Result<String, Failure> {
    let base = suite::text("t3_hetero75").map_err(Failure::Usage)?;
    let (head, _) = base.split_once("[arrivals]").ok_or_else(|| Failure::Usage("t3 has no arrivals".into()))?;
    let path = serde_json::to_string(path).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(format!("{}[arrivals]\ntrace = {path}\n", head.replace("t3_hetero75", "trace")))
}

fn all<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<Source>, Failure> {
    names.map(|name| Ok(Source::File(Box::new(suite::find(name).map_err(Failure::Usage)?)))).collect()
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = directory.join(name);
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))
}

/// A progress bar on stderr, if that is a terminal.
struct Progress {
    shown: bool,
    began: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal(), began: Instant::now() }
    }

    fn show(&self, part: &str, done: usize, total: usize) {
        if !self.shown {
            return;
        }
        let filled = 30 * done / total.max(1);
        let left = self.began.elapsed().as_secs_f64() * (total - done) as f64 / done.max(1) as f64;
        let left = if part.is_empty() { format!(", {left:.0} s left") } else { String::new() };
        let bar: String = (0..30).map(|place| if place < filled { '#' } else { '.' }).collect();
        let _ = write!(std::io::stderr().lock(), "\r{part} [{bar}] {done}/{total}{left} \x1b[K");
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
