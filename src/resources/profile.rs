//! Reads an answer in the Prometheus text format by the names of an engine's profile: overrides of the configuration
//! first, then the engine's own (the table in `config::engine`), then what any process or exporter shows. A name that is
//! absent leaves its signal unknown.

use std::time::Instant;

use super::text::Sample;
use crate::config::Rule::{self, Against, AllBut, Idle, Of, Percent, Rate, Share, Sum};
use crate::config::{ANY_SIGNALS, Engine, Signal};

/// The rules in force: overrides first, then the engine's, then any.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    rules: Vec<(Signal, Rule<String>)>,
}

impl Profile {
    /// The profile of `engine` with the metrics that `names` puts in place of its own.
    pub fn new(engine: Engine, names: &[(String, String)]) -> Self {
        let own = names.iter().filter_map(|(signal, metric)| {
            let signal = Signal::named(signal)?;
            let rule = match signal {
                Signal::Cpu if metric.ends_with("_seconds_total") => Rate(metric.clone()),
                Signal::Cpu | Signal::Memory => Share(metric.clone()),
                Signal::Running | Signal::Waiting | Signal::Heartbeat | Signal::Activity => Sum(metric.clone()),
            };
            Some((signal, rule))
        });
        let own: Vec<_> = own.collect();
        let overridden = |signal: Signal| own.iter().any(|(known, _)| *known == signal);
        let usual = engine.profile().signals.iter().chain(ANY_SIGNALS).filter(|(signal, _)| !overridden(*signal));
        let usual: Vec<_> = usual.map(|(signal, rule)| (*signal, owned(*rule))).collect();
        Self { rules: own.into_iter().chain(usual).collect() }
    }

    /// What `text` says, with `before` of the same backend for rates; takes over what it needs next time.
    pub fn read(&self, text: &str, before: &mut Before, now: Instant) -> Reading {
        let found = Found::collect(text, self);
        let elapsed = before.at.map(|at| now.saturating_duration_since(at).as_secs_f64()).filter(|s| *s > 0.0);
        let mut reading = Reading::default();
        let mut next = Before { at: Some(now), counters: Vec::new() };
        for (index, (signal, rule)) in self.rules.iter().enumerate() {
            let value = match rule {
                Share(name) => found.max(name),
                Percent(name) => found.max(name).map(|percent| percent / 100.0),
                Of(used, total) => ratio(found.sum(used), found.sum(total)),
                Against(used, free) => {
                    ratio(found.sum(used), found.sum(used).zip(found.sum(free)).map(|(used, free)| used + free))
                }
                AllBut(free, total) => ratio(found.sum(free), found.sum(total)).map(|share| 1.0 - share),
                Rate(name) => found.sum(name).and_then(|count| next.rate(index, count, before, elapsed)),
                Idle(name) => found.idle(name).and_then(|(idle, series)| {
                    next.rate(index, idle, before, elapsed).map(|rate| 1.0 - rate / f64::from(series))
                }),
                Sum(name) => found.sum(name),
            };
            reading.offer(*signal, value);
        }
        *before = next;
        reading
    }
}

fn owned(rule: Rule<&'static str>) -> Rule<String> {
    match rule {
        Share(a) => Share(a.to_owned()),
        Percent(a) => Percent(a.to_owned()),
        Of(a, b) => Of(a.to_owned(), b.to_owned()),
        Against(a, b) => Against(a.to_owned(), b.to_owned()),
        AllBut(a, b) => AllBut(a.to_owned(), b.to_owned()),
        Rate(a) => Rate(a.to_owned()),
        Idle(a) => Idle(a.to_owned()),
        Sum(a) => Sum(a.to_owned()),
    }
}

/// The metrics that a rule asks for.
fn names(rule: &Rule<String>) -> impl Iterator<Item = &String> {
    let (first, second) = match rule {
        Share(a) | Percent(a) | Rate(a) | Idle(a) | Sum(a) => (a, None),
        Of(a, b) | Against(a, b) | AllBut(a, b) => (a, Some(b)),
    };
    std::iter::once(first).chain(second)
}

/// What one scrape said; `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// CPU in use, 0-1.
    pub cpu: Option<f64>,
    /// Memory (or KV cache) in use, 0-1.
    pub memory: Option<f64>,
    /// Requests running there.
    pub running: Option<f64>,
    /// Requests waiting there.
    pub waiting: Option<f64>,
    /// A counter that grows while it works.
    pub heartbeat: Option<f64>,
    /// Requests it has at all: what makes a still heartbeat suspicious.
    pub activity: Option<f64>,
}

impl Reading {
    /// Whether it says anything at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes a value for a signal that has none yet; shares are brought into 0-1.
    fn offer(&mut self, signal: Signal, value: Option<f64>) {
        let (slot, is_share) = match signal {
            Signal::Cpu => (&mut self.cpu, true),
            Signal::Memory => (&mut self.memory, true),
            Signal::Running => (&mut self.running, false),
            Signal::Waiting => (&mut self.waiting, false),
            Signal::Heartbeat => (&mut self.heartbeat, false),
            Signal::Activity => (&mut self.activity, false),
        };
        let value = value.filter(|value| value.is_finite() && *value >= -1e-9);
        *slot = slot.or(value.map(|value| if is_share { value.clamp(0.0, 1.0) } else { value.max(0.0) }));
    }
}

/// Counters of the scrape before.
#[derive(Debug, Clone, Default)]
pub struct Before {
    at: Option<Instant>,
    /// By index of the rule.
    counters: Vec<(usize, f64)>,
}

impl Before {
    /// Notes `count` for next time; growth per second since `before`. A counter that went back has been reset: unknown.
    fn rate(&mut self, rule: usize, count: f64, before: &Self, elapsed: Option<f64>) -> Option<f64> {
        self.counters.push((rule, count));
        let (_, last) = before.counters.iter().find(|(known, _)| *known == rule)?;
        let growth = count - last;
        (growth >= 0.0).then(|| growth / elapsed.unwrap_or(f64::INFINITY))
    }
}

/// The sums and maxima of the metrics that a profile asks for.
struct Found<'a> {
    metrics: Vec<(&'a str, Series)>,
}

#[derive(Clone, Copy, Default)]
struct Series {
    sum: f64,
    max: f64,
    count: u32,
    idle_sum: f64,
    idle_count: u32,
}

impl<'a> Found<'a> {
    fn collect(text: &str, profile: &'a Profile) -> Self {
        let mut metrics: Vec<(&str, Series)> = Vec::new();
        for name in profile.rules.iter().flat_map(|(_, rule)| names(rule)) {
            if !metrics.iter().any(|(known, _)| known == name) {
                metrics.push((name, Series { max: f64::NEG_INFINITY, ..Series::default() }));
            }
        }
        let names: Vec<&str> = metrics.iter().map(|(name, _)| *name).collect();
        for sample in Sample::all(text, |name| names.contains(&name)) {
            let Some((_, series)) = metrics.iter_mut().find(|(name, _)| *name == sample.name) else { continue };
            series.sum += sample.value;
            series.max = series.max.max(sample.value);
            series.count += 1;
            if sample.has("mode", "idle") {
                series.idle_sum += sample.value;
                series.idle_count += 1;
            }
        }
        Self { metrics }
    }

    fn series(&self, name: &str) -> Option<&Series> {
        self.metrics.iter().find(|(known, series)| *known == name && series.count > 0).map(|(_, series)| series)
    }

    fn sum(&self, name: &str) -> Option<f64> {
        self.series(name).map(|series| series.sum)
    }

    fn max(&self, name: &str) -> Option<f64> {
        self.series(name).map(|series| series.max)
    }

    fn idle(&self, name: &str) -> Option<(f64, u32)> {
        self.series(name).filter(|series| series.idle_count > 0).map(|series| (series.idle_sum, series.idle_count))
    }
}

fn ratio(part: Option<f64>, whole: Option<f64>) -> Option<f64> {
    part.zip(whole).filter(|(_, whole)| *whole > 0.0).map(|(part, whole)| part / whole)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(engine: Engine, text: &str) -> Reading {
        Profile::new(engine, &[]).read(text, &mut Before::default(), Instant::now())
    }

    /// A reading in one line: cpu memory running waiting heartbeat activity.
    fn shown(reading: Reading) -> String {
        let one = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{:.3}", value));
        let Reading { cpu, memory, running, waiting, heartbeat, activity } = reading;
        [cpu, memory, running, waiting, heartbeat, activity].map(one).join(" ")
    }

    #[test]
    fn every_engine_says_what_it_can_and_the_rest_is_unknown() {
        for (engine, text, expected) in [
            (Engine::Vllm, include_str!("fixtures/vllm.txt"), "- 0.420 5.000 3.000 777.000 -"),
            (Engine::Vllm, include_str!("fixtures/vllm_old.txt"), "- 0.250 2.000 0.000 99.000 -"),
            (Engine::Sglang, include_str!("fixtures/sglang.txt"), "- 0.280 4.000 1.000 - 123456.000"),
            (Engine::Tgi, include_str!("fixtures/tgi.txt"), "- - 3.000 7.000 9000.000 42.000"),
            (Engine::Llamacpp, include_str!("fixtures/llamacpp.txt"), "- - 1.000 0.000 658.000 -"),
            (Engine::Triton, include_str!("fixtures/triton.txt"), "0.310 0.500 - 6.000 - 1234.000"),
            (Engine::Generic, include_str!("fixtures/node.txt"), "- 0.750 - - - -"),
            (Engine::Generic, include_str!("fixtures/dcgm.txt"), "0.870 0.250 - - - -"),
            (Engine::Ollama, include_str!("fixtures/vllm.txt"), "- - - - - -"),
            (Engine::Generic, include_str!("fixtures/vllm.txt"), "- - - - - -"),
        ] {
            assert_eq!(shown(read(engine, text)), expected, "{engine:?}");
        }
    }

    #[test]
    fn rates_need_two_scrapes_and_forget_after_a_restart() {
        let profile = Profile::new(Engine::Generic, &[]);
        let (mut before, start) = (Before::default(), Instant::now());
        let mut at = |seconds: u64, cpu: f64| {
            let text = format!("process_cpu_seconds_total {cpu}\n");
            profile.read(&text, &mut before, start + Duration::from_secs(seconds)).cpu
        };
        assert_eq!(at(0, 100.0), None);
        assert_eq!(at(2, 100.5), Some(0.25));
        assert_eq!(at(4, 110.0), Some(1.0), "five cores are all of one");
        assert_eq!(at(6, 0.0), None, "it was restarted");
        assert_eq!(at(8, 1.0), Some(0.5));
    }

    #[test]
    fn idle_seconds_of_all_cores() {
        let profile = Profile::new(Engine::Generic, &[]);
        let (mut before, start) = (Before::default(), Instant::now());
        let mut at = |seconds: u64, idle: [f64; 2]| {
            let text = format!(
                "node_cpu_seconds_total{{cpu=\"0\",mode=\"idle\"}} {}\nnode_cpu_seconds_total{{cpu=\"0\",mode=\"user\"}} 9\n\
                 node_cpu_seconds_total{{cpu=\"1\",mode=\"idle\"}} {}\n",
                idle[0], idle[1]
            );
            profile.read(&text, &mut before, start + Duration::from_secs(seconds)).cpu
        };
        assert_eq!(at(0, [10.0, 20.0]), None);
        assert_eq!(at(10, [20.0, 25.0]), Some(0.25));
    }

    #[test]
    fn names_replace_the_engines_own() {
        let names =
            [("memory", "my_memory"), ("cpu", "my_cpu_seconds_total"), ("running", "vllm:num_requests_waiting")];
        let names = names.map(|(signal, metric)| (signal.to_owned(), metric.to_owned()));
        let profile = Profile::new(Engine::Vllm, &names);
        let (mut before, start) = (Before::default(), Instant::now());
        let text = include_str!("fixtures/vllm.txt");
        assert_eq!(
            shown(profile.read(text, &mut before, start)),
            "- - 3.000 3.000 777.000 -",
            "no fallback for an override"
        );
        let text = "my_memory 0.9\nmy_cpu_seconds_total 1\n";
        profile.read(text, &mut before, start);
        let text = "my_memory 1.7\nmy_cpu_seconds_total 1.5\n";
        let reading = profile.read(text, &mut before, start + Duration::from_secs(1));
        assert_eq!((reading.cpu, reading.memory), (Some(0.5), Some(1.0)));
    }
}
