//! Many runs: every strategy in every scenario for every seed, on several threads.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::engine::Engine;
use super::file::ScenarioFile;
use super::metrics::Metrics;
use super::scenario::Scenario;
use super::{random, roster};

/// Where a scenario comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A file, embedded or the user's.
    File(Box<ScenarioFile>),
    /// A random one.
    Random {
        /// Which set.
        set: u64,
        /// Which of it.
        index: u64,
    },
}

impl Source {
    /// The scenario for a seed, counted from 0.
    ///
    /// # Errors
    /// The file does not make sense, or its trace cannot be read.
    pub fn build(&self, seed: u64) -> Result<Scenario, String> {
        match self {
            Self::File(file) => file
                // Seed 0 is the files' seed 1, for no better reason than that results were first published so.
                .build(seed + 1, &|path| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}")))
                .map_err(|error| format!("{}: {error}", file.name)),
            Self::Random { set, index } => Ok(random::scenario(*set, *index, seed)),
        }
    }
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Scenarios.
    pub sources: Vec<Source>,
    /// Names of strategies, as [`roster`] knows them.
    pub strategies: Vec<String>,
    /// Seeds 0 up to this.
    pub seeds: u64,
    /// Splits every scenario over so many balancers.
    pub balancers: Option<usize>,
    /// Threads.
    pub threads: usize,
    /// Keep what happened second by second (for plots); costs memory.
    pub timelines: bool,
    /// The moment that second 0 stands for.
    pub start: Instant,
}

/// One run and its result.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Seed, from 0.
    pub seed: u64,
    /// The result.
    pub metrics: Metrics,
}

/// Runs one strategy in one scenario.
///
/// # Errors
/// The strategy is not known.
pub fn single(scenario: &Scenario, strategy: &str, seed: u64, start: Instant) -> Result<Metrics, String> {
    let contenders = (0..scenario.balancers)
        .map(|balancer| roster::contender(strategy, scenario, seed * 100 + balancer as u64 + 1, start))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Engine::new(scenario, contenders).run())
}

/// Peers that differ in nothing but passive ejection, which most scenarios never call upon, are run once: results by the
/// name without ejection, of runs in which it did not act.
#[derive(Default)]
struct Untouched(HashMap<String, Metrics>);

impl Untouched {
    /// Runs one strategy in the scenario that all calls must share, or finds that it was run under another name.
    fn run(&mut self, scenario: &Scenario, strategy: &str, seed: u64, start: Instant) -> Result<Metrics, String> {
        let Some((bare, needed)) = roster::without_ejection(strategy) else {
            return single(scenario, strategy, seed, start);
        };
        if let Some(known) = self.0.get(&bare).filter(|known| known.failures_in_row < needed) {
            return Ok(known.clone());
        }
        let metrics = single(scenario, strategy, seed, start)?;
        if metrics.failures_in_row < needed {
            self.0.insert(bare, metrics.clone());
        }
        Ok(metrics)
    }
}

/// A run and its place in the order of results: scenario, strategy, seed.
type Placed = ((usize, usize, u64), Run);

impl Plan {
    /// Runs everything. `progress` is told (runs done, runs in all) after each run.
    ///
    /// # Errors
    /// A scenario or a strategy makes no sense; the first such fault is told, nothing else is run.
    pub fn run(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Vec<Run>, String> {
        let jobs: Vec<(usize, u64)> =
            (0..self.sources.len()).flat_map(|source| (0..self.seeds).map(move |seed| (source, seed))).collect();
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let total = jobs.len() * self.strategies.len();
        let results = Mutex::new(Vec::with_capacity(total));
        let fault = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.clamp(1, jobs.len().max(1)) {
                scope.spawn(|| {
                    while let Some((source, seed)) = jobs.get(next.fetch_add(1, Relaxed)) {
                        let step = || progress(done.fetch_add(1, Relaxed) + 1, total);
                        match self.job(*source, *seed, step) {
                            Ok(runs) => lock(&results).extend(runs),
                            Err(error) => {
                                lock(&fault).get_or_insert(error);
                                next.store(jobs.len(), Relaxed);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = lock(&fault).take() {
            return Err(error);
        }
        let mut results = std::mem::take(&mut *lock(&results));
        results.sort_by_key(|(order, _)| *order);
        Ok(results.into_iter().map(|(_, run)| run).collect())
    }

    /// All strategies on one scenario and seed, each with its place in the order of results.
    fn job(&self, source: usize, seed: u64, step: impl Fn()) -> Result<Vec<Placed>, String> {
        let Some(origin) = self.sources.get(source) else { return Ok(Vec::new()) };
        let mut scenario = origin.build(seed)?;
        if let Some(balancers) = self.balancers {
            scenario = scenario.with_balancers(balancers);
        }
        let mut runs = Vec::with_capacity(self.strategies.len());
        let mut untouched = Untouched::default();
        for (place, strategy) in self.strategies.iter().enumerate() {
            let mut metrics = untouched.run(&scenario, strategy, seed, self.start)?;
            if !self.timelines {
                metrics.sent = Vec::new();
                metrics.seconds = Vec::new();
            }
            let run = Run { scenario: scenario.name.clone(), strategy: strategy.clone(), seed, metrics };
            runs.push(((source, place, seed), run));
            step();
        }
        Ok(runs)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
