//! Scenario files: what a person writes about servers, work, arrivals and events, in TOML, and how it becomes a
//! [`Scenario`] for a seed. `conf/scenarios/` has the suite; `docs/rl.md` describes every key.

use serde::Deserialize;

use super::arrivals;
use super::chance::Chance;
use super::scenario::{Change, Event, Scenario};
use super::server::{Fault, ServerPlan, Sharing};

/// A scenario file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    /// Its name; also seeds its chance.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub about: String,
    /// Seconds until the last arrival; absent: as long as `arrivals.requests` take, 200 to 1200.
    pub duration: Option<f64>,
    /// Independent balancers.
    #[serde(default = "one")]
    pub balancers: usize,
    /// Seconds until a balancer gives up.
    pub timeout: f64,
    /// Latency objective, seconds.
    pub sla: f64,
    /// Objective of the first byte of streams, seconds.
    #[serde(default)]
    pub first_byte_sla: f64,
    /// When the first disturbance begins, seconds; 0: none.
    #[serde(default)]
    pub disturbed_at: f64,
    /// The servers.
    pub servers: ServersTable,
    /// What requests need.
    #[serde(default)]
    pub work: Option<Work>,
    /// Token streams instead of `work`.
    #[serde(default)]
    pub stream: Option<StreamTable>,
    /// When they come.
    pub arrivals: ArrivalsTable,
    /// What happens.
    #[serde(default)]
    pub events: Vec<EventTable>,
}

fn one() -> usize {
    1
}

/// One number for all, or one each.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum OneOrEach {
    /// For all.
    One(f64),
    /// One each.
    Each(Vec<f64>),
}

impl OneOrEach {
    fn get(&self, index: usize, default: f64) -> f64 {
        match self {
            Self::One(value) => *value,
            Self::Each(values) => values.get(index).copied().unwrap_or(default),
        }
    }
}

/// `[servers]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServersTable {
    /// Work per second of one request alone; one number a server.
    pub speeds: Vec<f64>,
    /// Requests served at once.
    pub slots: OneOrEach,
    /// Requests that may wait.
    pub queue: usize,
    /// β: makes them batching servers.
    pub batch_slowdown: Option<f64>,
    /// k: makes them share so many cores.
    pub cores: Option<f64>,
    /// Work multiplier before the first byte.
    pub prefill: Option<OneOrEach>,
    /// Work multiplier after it.
    pub decode: Option<OneOrEach>,
    /// Servers that are not there from the start.
    #[serde(default)]
    pub absent: Vec<usize>,
}

/// `[work]`: seconds of service at speed 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// Exponential.
    Exponential {
        /// Mean, seconds.
        mean: f64,
    },
    /// Log-normal.
    LogNormal {
        /// Mean, seconds.
        mean: f64,
        /// Log standard deviation.
        spread: f64,
    },
    /// Short requests and, with a chance, long ones; log-normal with spreads 0.4 and 0.6.
    Bimodal {
        /// Mean of the short, seconds.
        short: f64,
        /// Mean of the long, seconds.
        long: f64,
        /// Chance of a long one.
        long_share: f64,
    },
}

impl Work {
    /// Mean, seconds.
    pub fn mean(self) -> f64 {
        match self {
            Self::Exponential { mean } | Self::LogNormal { mean, .. } => mean,
            Self::Bimodal { short, long, long_share } => (1.0 - long_share) * short + long_share * long,
        }
    }

    /// One request.
    pub fn draw(self, chance: &mut Chance) -> f64 {
        match self {
            Self::Exponential { mean } => mean * chance.exponential(),
            Self::LogNormal { mean, spread } => chance.log_normal(mean, spread),
            Self::Bimodal { short, long, long_share } => {
                let (mean, spread) = if chance.unit() < long_share { (long, 0.6) } else { (short, 0.4) };
                chance.log_normal(mean, spread)
            }
        }
    }
}

/// `[stream]`: prompts and answers in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamTable {
    /// Mean prompt.
    pub prompt: f64,
    /// Log standard deviation of prompts.
    pub prompt_spread: f64,
    /// Mean answer.
    pub output: f64,
    /// Log standard deviation of answers.
    pub output_spread: f64,
    /// Chance of a prompt that is `long_factor` times longer; 0: none.
    #[serde(default)]
    pub long_share: f64,
    /// How much longer.
    #[serde(default)]
    pub long_factor: f64,
    /// Prompt tokens a second.
    pub prefill_rate: f64,
    /// Answer tokens a second, alone.
    pub decode_rate: f64,
    /// Seconds of work before the first byte whatever the prompt.
    pub overhead: f64,
}

/// `[arrivals]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrivalsTable {
    /// Requests a second.
    pub rate: Option<f64>,
    /// Or the share of the servers' capacity.
    pub load: Option<f64>,
    /// Or a line through (second, rate) points; a second given twice is a jump.
    pub rates: Option<Vec<(f64, f64)>>,
    /// Bursts on top.
    pub burst: Option<Burst>,
    /// How many, when `duration` is absent.
    pub requests: Option<f64>,
    /// Or a CSV file of arrival time (s), input tokens, output tokens; needs `[stream]` for the rates.
    pub trace: Option<String>,
}

/// `burst = { … }`: the rate alternates between two multiples of itself.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// Multiple in a burst.
    pub high: f64,
    /// Multiple between bursts.
    pub low: f64,
    /// Mean length of a burst, seconds.
    pub high_for: f64,
    /// Mean length between bursts, seconds.
    pub low_for: f64,
}

/// A moment: seconds, or a share of the duration (`"40%"`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Moment {
    /// Seconds.
    Seconds(f64),
    /// `"40%"`
    Share(String),
}

impl Moment {
    fn seconds(&self, duration: f64) -> Result<f64, String> {
        match self {
            Self::Seconds(at) => Ok(*at),
            Self::Share(text) => {
                let percent = text.strip_suffix('%').and_then(|digits| digits.trim().parse::<f64>().ok());
                let percent = percent.ok_or_else(|| format!("{text:?} is neither seconds nor a percentage"))?;
                Ok(duration * (percent / 100.0))
            }
        }
    }
}

/// One server or several.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Which {
    /// One.
    One(usize),
    /// Several.
    Several(Vec<usize>),
}

impl Which {
    fn list(&self) -> Vec<usize> {
        match self {
            Self::One(server) => vec![*server],
            Self::Several(servers) => servers.clone(),
        }
    }
}

/// One `[[events]]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs, reason = "documented at the variant")]
pub enum EventTable {
    /// The speed is now `to`.
    Speed { at: Moment, server: Which, to: f64 },
    /// Connections are refused.
    Refuse { at: Moment, server: Which },
    /// The share fails at once.
    FailFast { at: Moment, server: Which, share: f64 },
    /// The share fails after the usual time.
    FailSlow { at: Moment, server: Which, share: f64 },
    /// No fault any more.
    Recover { at: Moment, server: Which },
    /// The process dies with all it holds.
    Kill { at: Moment, server: Which },
    /// Joins the pool.
    Join { at: Moment, server: Which },
    /// Leaves the pool.
    Leave { at: Moment, server: Which },
    /// Memory in use is now `to`.
    Memory { at: Moment, server: Which, to: f64 },
    /// Second by second slower, 1/(1 + steepness f²) with f from 0 to 1, while memory fills.
    Leak { at: f64, server: usize, seconds: usize, steepness: f64 },
    /// Server b is at `factor` of its speed for `lasting` seconds every `every`, first at `first` + b `shift`.
    Waves { first: f64, shift: f64, every: f64, lasting: f64, factor: f64 },
    /// Every server stands still for `lasting` seconds, with gaps of `lasting` plus an exponential of mean `gap`.
    Pauses { first_after: f64, gap: f64, lasting: f64, seed: u64 },
}

/// Speed of a server that stands still: not zero, so that its clock keeps an order.
const STANDSTILL: f64 = 1e-4;
/// Memory that a leak adds at its end.
const LEAKED: f64 = 0.63;
/// Warm-up: at most so many seconds, plain and streams, and this share of the run.
const WARMUP: (f64, f64, f64) = (10.0, 60.0, 0.15);
/// Bounds of a duration that follows from a number of requests, seconds.
const DURATION: (f64, f64) = (200.0, 1200.0);

impl ScenarioFile {
    /// Reads TOML.
    ///
    /// # Errors
    /// What is wrong, with line and column where TOML knows them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), String> {
        let servers = self.servers.speeds.len();
        let positive = |name: &str, value: f64| {
            if value > 0.0 && value.is_finite() { Ok(()) } else { Err(format!("{name} must be above 0")) }
        };
        if servers == 0 || servers > 1000 {
            return Err("servers.speeds: between 1 and 1000 servers".into());
        }
        for speed in &self.servers.speeds {
            positive("servers.speeds", *speed)?;
        }
        for index in 0..servers {
            positive("servers.slots", self.servers.slots.get(index, 0.0))?;
        }
        positive("timeout", self.timeout)?;
        positive("sla", self.sla)?;
        positive("duration", self.duration.unwrap_or(1.0))?;
        if self.balancers == 0 || self.balancers > 100 {
            return Err("balancers: between 1 and 100".into());
        }
        if self.work.is_none() && self.stream.is_none() {
            return Err("either [work] or [stream] must say what requests need".into());
        }
        let given = [self.arrivals.rate.is_some(), self.arrivals.load.is_some(), self.arrivals.rates.is_some()];
        let ways = given.iter().filter(|is| **is).count() + usize::from(self.arrivals.trace.is_some());
        if ways != 1 {
            return Err("arrivals: one of rate, load, rates, trace".into());
        }
        if self.arrivals.trace.is_none() && self.duration.is_none() && self.arrivals.requests.is_none() {
            return Err("duration, or arrivals.requests, is missing".into());
        }
        if self.arrivals.rates.as_ref().is_some_and(Vec::is_empty) {
            return Err("arrivals.rates is empty".into());
        }
        Ok(())
    }

    /// The servers as they are at the start.
    pub fn server_plans(&self) -> Vec<ServerPlan> {
        let table = &self.servers;
        let each = |value: &Option<OneOrEach>, index| value.as_ref().map_or(1.0, |value| value.get(index, 1.0));
        let plan = |(index, speed): (usize, &f64)| ServerPlan {
            slots: table.slots.get(index, 1.0) as usize,
            speed: *speed,
            sharing: match (table.batch_slowdown, table.cores) {
                (Some(beta), _) => Sharing::Batch(beta),
                (None, Some(cores)) => Sharing::Cores(cores),
                (None, None) => Sharing::Slots,
            },
            queue: table.queue,
            present: !table.absent.contains(&index),
            prefill: each(&table.prefill, index),
            decode: each(&table.decode, index),
        };
        table.speeds.iter().enumerate().map(plan).collect()
    }

    /// Mean work of a request, seconds.
    pub fn mean_work(&self) -> f64 {
        match (&self.stream, &self.work) {
            (Some(stream), _) => stream.prompt / stream.prefill_rate + stream.output / stream.decode_rate,
            (None, Some(work)) => work.mean(),
            (None, None) => 0.0,
        }
    }

    /// The scenario of that seed. The trace file, if one is named, is read by `read`.
    ///
    /// # Errors
    /// An event names a server there is not, a moment is no moment, or the trace is unreadable.
    pub fn build(&self, seed: u64, read: &dyn Fn(&str) -> Result<String, String>) -> Result<Scenario, String> {
        let servers = self.server_plans();
        let capacity: f64 = servers.iter().map(ServerPlan::capacity).sum();
        let mean_work = self.mean_work();
        let rate = self.arrivals.load.map(|load| load * (capacity / mean_work)).or(self.arrivals.rate);
        let arrivals = match &self.arrivals.trace {
            Some(path) => arrivals::from_trace(self, &read(path)?, seed)?,
            None => {
                let requests = self.arrivals.requests.unwrap_or_default();
                let lasting = (requests / rate.unwrap_or(1.0)).clamp(DURATION.0, DURATION.1);
                arrivals::draw(self, rate, self.duration.unwrap_or(lasting), seed)
            }
        };
        let (arrivals, duration) = arrivals;
        let events = self.events(duration, seed)?;
        if let Some(event) = events.iter().find(|event| event.server >= servers.len()) {
            return Err(format!("events: there is no server {}", event.server));
        }
        let longest = if self.stream.is_some() { WARMUP.1 } else { WARMUP.0 };
        Ok(Scenario {
            name: self.name.clone(),
            servers,
            arrivals,
            events,
            balancers: self.balancers,
            timeout: self.timeout,
            sla: self.sla,
            first_byte_sla: self.first_byte_sla,
            warmup: longest.min(duration * WARMUP.2),
            duration,
            disturbed_at: self.disturbed_at,
            mean_work,
        })
    }

    fn events(&self, duration: f64, seed: u64) -> Result<Vec<Event>, String> {
        let mut events = Vec::new();
        for table in &self.events {
            self.expand(table, duration, seed, &mut events)?;
        }
        Ok(events)
    }

    fn expand(&self, table: &EventTable, duration: f64, seed: u64, events: &mut Vec<Event>) -> Result<(), String> {
        let mut simple = |at: &Moment, which: &Which, change: Change| {
            let at = at.seconds(duration)?;
            events.extend(which.list().into_iter().map(|server| Event { at, server, change }));
            Ok(())
        };
        match table {
            EventTable::Speed { at, server, to } => simple(at, server, Change::Speed(*to)),
            EventTable::Refuse { at, server } => simple(at, server, Change::Fault(Fault::Refuse)),
            EventTable::FailFast { at, server, share } => simple(at, server, Change::Fault(Fault::FailFast(*share))),
            EventTable::FailSlow { at, server, share } => simple(at, server, Change::Fault(Fault::FailSlow(*share))),
            EventTable::Recover { at, server } => simple(at, server, Change::Fault(Fault::None)),
            EventTable::Kill { at, server } => simple(at, server, Change::Kill),
            EventTable::Join { at, server } => simple(at, server, Change::Join),
            EventTable::Leave { at, server } => simple(at, server, Change::Leave),
            EventTable::Memory { at, server, to } => simple(at, server, Change::Memory(*to)),
            EventTable::Leak { at, server, seconds, steepness } => {
                for second in 0..*seconds {
                    let f = second as f64 / *seconds as f64;
                    let at = at + second as f64;
                    let (server, speed) = (*server, 1.0 / (1.0 + steepness * f * f));
                    events.push(Event { at, server, change: Change::Speed(speed) });
                    let memory = super::server::IDLE_MEMORY + LEAKED * f;
                    events.push(Event { at, server, change: Change::Memory(memory) });
                }
                Ok(())
            }
            EventTable::Waves { first, shift, every, lasting, factor } => {
                for (server, speed) in self.servers.speeds.iter().copied().enumerate() {
                    let mut at = first + shift * server as f64;
                    while at < duration {
                        events.push(Event { at, server, change: Change::Speed(speed * factor) });
                        events.push(Event { at: at + lasting, server, change: Change::Speed(speed) });
                        at += every;
                    }
                }
                Ok(())
            }
            EventTable::Pauses { first_after, gap, lasting, seed: own } => {
                let mut chance = Chance::new(own + seed);
                for (server, speed) in self.servers.speeds.iter().copied().enumerate() {
                    let mut at = first_after + gap * chance.unit();
                    while at < duration {
                        events.push(Event { at, server, change: Change::Speed(STANDSTILL) });
                        events.push(Event { at: at + lasting, server, change: Change::Speed(speed) });
                        at += lasting + gap * chance.exponential();
                    }
                }
                Ok(())
            }
        }
    }
}
