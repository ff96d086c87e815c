//! The bar: nineteen requirements of the design, each with the figure that was found and whether it holds.
//!
//! Three families of scenarios are run: the fixed suite, two sets of random scenarios (one was looked at while the agent
//! was designed, the other not), and token streams. "Hindsight best" is the best peer of a scenario, chosen afterwards.

mod judge;

use std::time::Instant;

use self::judge::{Judge, balancers, recovery, streams};
use super::contender::{Choice, Ended, View};
use super::metrics::Metrics;
use super::roster::{self, PLAIN_PEERS, TUNED_PEERS};
use super::runner::{Plan, Run, Source};
use super::server::Server;
use super::suite;
use crate::backend::Ending;

/// The agent on trial.
const AGENT: &str = "rl";
/// Peak EWMA with failure accrual: what most service meshes do.
const USUAL: &str = "pewma+accrual";
/// The strategies that one finds in every load balancer.
const CLASSICS: [&str; 7] = [
    "round_robin",
    "random",
    "ip_hash",
    "weighted_round_robin",
    "least_response_time",
    "resource_based",
    "least_connections",
];
/// Classics that must be beaten clearly.
const BEATEN: [&str; 5] = ["round_robin", "random", "ip_hash", "weighted_round_robin", "least_response_time"];
/// What streams are also compared with: peers fed with latencies freed of length.
const STREAM_PEERS: [&str; 6] = [
    "lrtc+tuned+per_token",
    "lrtc+tuned+first_byte",
    "lrtc+tuned+body=0.1",
    "pewma_full+accrual+per_token",
    "pewma+accrual+first_byte",
    "c3+accrual+per_token",
];
/// The scenario of heavy tails, where the agent is known to be weak.
const HEAVY_TAIL: &str = "s12_heavytail";
/// The set that was looked at, and the one that was not, and how many scenarios each has.
const TRAIN: u64 = 1;
const UNSEEN: u64 = 20_261;
const RANDOM: u64 = 60;
const RANDOM_SEEDS: u64 = 3;
const STREAM_SEEDS: u64 = 3;

/// One requirement.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// B1 to B19.
    pub number: u32,
    /// What is required.
    pub what: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What was found.
    pub figure: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verdict = if self.holds { "holds" } else { "falls short" };
        write!(f, "B{} {}: {verdict} ({})", self.number, self.what, self.figure)
    }
}

/// How the bar is run.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Seeds of the fixed suite; 8 is meant.
    pub seeds: u64,
    /// Threads.
    pub threads: usize,
    /// The moment that second 0 stands for.
    pub start: Instant,
    /// Nanoseconds that a decision takes with 6 and with 50 backends, measured by the caller, who has a clock.
    pub decision_ns: (f64, f64),
}

/// All runs of the bar, for tables and CSV as well.
#[derive(Debug, Default)]
pub struct BarRuns {
    /// The fixed suite.
    pub fixed: Vec<Run>,
    /// The random set that was looked at.
    pub train: Vec<Run>,
    /// The one that was not.
    pub unseen: Vec<Run>,
    /// The first set through one balancer, and through four.
    pub one: Vec<Run>,
    /// Through four.
    pub four: Vec<Run>,
    /// Token streams.
    pub streams: Vec<Run>,
    /// s24 at both rates, with what happened second by second.
    pub recovery: Vec<Run>,
}

type J = fn(&Metrics) -> f64;

fn j(metrics: &Metrics) -> f64 {
    metrics.j
}

fn p99(metrics: &Metrics) -> f64 {
    metrics.p99_all
}

fn owned(names: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn peers() -> Vec<&'static str> {
    PLAIN_PEERS.into_iter().chain(TUNED_PEERS).collect()
}

impl Bar {
    /// Runs everything. `progress` is told (part, runs done, runs in that part).
    ///
    /// # Errors
    /// A scenario makes no sense, which is a fault of this program.
    pub fn run(&self, progress: &(dyn Fn(&str, usize, usize) + Sync)) -> Result<BarRuns, String> {
        let files = |names: Vec<&str>| -> Result<Vec<Source>, String> {
            names.into_iter().map(|name| Ok(Source::File(Box::new(suite::find(name)?)))).collect()
        };
        // One seed is a quick look; the design's three for the bar itself.
        let (random_seeds, stream_seeds) = (RANDOM_SEEDS.min(self.seeds), STREAM_SEEDS.min(self.seeds));
        let set = |set| (0..RANDOM).map(|index| Source::Random { set, index }).collect::<Vec<_>>();
        let run = |part: &str, sources, strategies, seeds, balancers, timelines| {
            let plan =
                Plan { sources, strategies, seeds, balancers, threads: self.threads, timelines, start: self.start };
            plan.run(&|done, total| progress(part, done, total))
        };
        let fixed = suite::names('s').filter(|name| !name.starts_with("s24")).collect();
        let everybody = owned([AGENT, "rl_tabular"].into_iter().chain(CLASSICS).chain(peers()));
        let tuned = owned(std::iter::once(AGENT).chain(TUNED_PEERS));
        let streaming = owned(std::iter::once(AGENT).chain(CLASSICS).chain(TUNED_PEERS).chain(STREAM_PEERS));
        let recovery = suite::names('s').filter(|name| name.starts_with("s24")).collect();
        Ok(BarRuns {
            fixed: run("fixed suite", files(fixed)?, everybody, self.seeds, None, false)?,
            train: run("random set", set(TRAIN), tuned.clone(), random_seeds, None, false)?,
            unseen: run("unseen set", set(UNSEEN), tuned, random_seeds, None, false)?,
            one: run("one proxy", set(TRAIN), owned([AGENT]), random_seeds, Some(1), false)?,
            four: run("four proxies", set(TRAIN), owned([AGENT]), random_seeds, Some(4), false)?,
            streams: run("streams", files(suite::names('t').collect())?, streaming, stream_seeds, None, false)?,
            recovery: run("recovery", files(recovery)?, owned([AGENT]), self.seeds, None, true)?,
        })
    }

    /// The nineteen lines.
    pub fn judge(&self, runs: &BarRuns) -> Vec<Line> {
        let fixed = Judge::new(&runs.fixed, peers());
        let train = Judge::new(&runs.train, TUNED_PEERS.to_vec());
        let unseen = Judge::new(&runs.unseen, TUNED_PEERS.to_vec());
        let mut lines = vec![
            fixed.tail_latency(),
            fixed.cost(),
            fixed.against_usual(),
            fixed.against_single_peers(4, "fixed suite: J and p99* at least 3 % below every single peer", (0.97, 0.97)),
            fixed.errors(),
            fixed.crashes(),
            fixed.leak_and_neighbours(),
            fixed.unequal_speeds(),
            fixed.equal_servers(),
            fixed.cold_start(),
            fixed.classics(),
            self.decision(),
            fixed.tabular(),
            train.random_set(),
            train.by_kind(),
            unseen.unseen_set(&train),
            balancers(&runs.one, &runs.four),
        ];
        lines.push(streams(&runs.streams));
        lines.push(recovery(&runs.recovery));
        lines
    }

    fn decision(&self) -> Line {
        let (six, fifty) = self.decision_ns;
        Line {
            number: 12,
            what: "a decision below 300 ns at 6 backends, below 1 us at 50",
            holds: six < 300.0 && fifty < 1000.0,
            figure: format!("{six:.0} ns, {fifty:.0} ns"),
        }
    }
}

/// Nanoseconds of a decision of the agent among `size` busy backends, by the best of many rounds of `clock`: what a
/// machine that does other things as well can still tell.
///
/// # Errors
/// The agent cannot be made, which is a fault of this program.
pub fn decision_ns(size: usize, clock: &dyn Fn() -> Instant) -> Result<f64, String> {
    const PICKS: usize = 256;
    const ROUNDS: usize = 400;
    let mut scenario = suite::find("s01_homog70")?.build(1, &|_| Err("no trace".to_owned()))?;
    scenario.arrivals.clear();
    let plan = scenario.servers.first().cloned().ok_or("no server")?;
    scenario.servers = vec![plan; size];
    let mut agent = roster::contender(AGENT, &scenario, 1, clock())?;
    let servers: Vec<Server> = scenario.servers.iter().map(Server::new).collect();
    let (in_flight, available) = (vec![0; size], vec![true; size]);
    let (mut now, mut best) = (0.0, f64::INFINITY);
    for _ in 0..ROUNDS {
        now += 0.02;
        let view = |now| View {
            now,
            in_flight: &in_flight,
            available: &available,
            generation: 1,
            servers: &servers,
            balancers: 1,
        };
        let began = clock();
        let choices: Vec<_> = (0..PICKS).map(|client| agent.pick(&view(now), client as u32)).collect();
        best = f64::min(best, clock().saturating_duration_since(began).as_nanos() as f64 / PICKS as f64);
        now += 0.02;
        for Choice { server, ticket } in choices {
            let ended = Ended {
                server,
                ticket,
                ending: Ending::Served(200),
                latency: 0.02,
                first_byte: 0.02,
                tokens: 0.0,
                service: 0.02,
                queued: 0,
            };
            agent.ended(&view(now), &ended);
        }
    }
    Ok(best)
}
