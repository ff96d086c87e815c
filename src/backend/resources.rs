//! What sources outside the traffic say of one backend: CPU, memory and queues, each with its age. Sources of several
//! kinds write into the one record; what is unknown stays so, and an old sample becomes unknown again.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use super::Backend;
use super::moment::{Moment, nanos_of};

/// Sampled resource use, each a fraction 0-1; `None`: unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Resources {
    /// CPU in use.
    pub cpu: Option<f64>,
    /// Memory (or KV cache) in use.
    pub memory: Option<f64>,
    /// When the sample was taken.
    pub sampled: Option<Instant>,
    /// Requests of ours that were in flight when it was taken.
    pub in_flight: u32,
}

/// What the engine says of its own queue and work; `None`: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Signals {
    /// Requests it works on, of ours and others.
    pub running: Option<f64>,
    /// Requests in its queue.
    pub waiting: Option<f64>,
    /// A counter that grows with every step of its work.
    pub heartbeat: Option<f64>,
    /// A value that changes now and then as it works.
    pub activity: Option<f64>,
    /// When it said so.
    pub sampled: Option<Instant>,
}

/// Where a sample came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleSource {
    /// The backend's own metrics.
    Scrape,
    /// A Prometheus server.
    Prometheus,
    /// A response header.
    Orca,
    /// The admin API.
    Api,
}

impl SampleSource {
    /// Every source, in the order of the counters.
    pub const ALL: [Self; 4] = [Self::Scrape, Self::Prometheus, Self::Orca, Self::Api];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scrape => "scrape",
            Self::Prometheus => "prometheus",
            Self::Orca => "orca",
            Self::Api => "api",
        }
    }
}

/// How an attempt to get a sample went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleResult {
    /// It gave what was asked for.
    Ok,
    /// The source did not answer, or refused.
    Failed,
    /// The source answered, but knows nothing of this backend.
    Empty,
}

impl SampleResult {
    /// Every result, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Empty];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Empty => "empty",
        }
    }
}

impl From<bool> for SampleResult {
    fn from(good: bool) -> Self {
        if good { Self::Ok } else { Self::Failed }
    }
}

/// The last samples, read by every pick of some strategies and hence without a lock. A reader that meets a writer may see
/// the CPU of one sample with the memory of the next: both are true. One cache line; what no pick reads is elsewhere.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Samples {
    /// f64 bits; not a number: unknown.
    cpu: AtomicU64,
    /// The same.
    memory: AtomicU64,
    /// A [`Moment`]'s number, of the newest of both; 0: never.
    sampled: AtomicU64,
    in_flight: AtomicU32,
    /// As `sampled`, of each alone: sources may know one of the two. Writers only.
    cpu_at: AtomicU64,
    memory_at: AtomicU64,
    told: Box<Told>,
}

/// What else sources tell, and how often they were asked.
#[derive(Debug)]
struct Told {
    /// f64 bits of [`Signals`], and when.
    signals: [AtomicU64; 4],
    signals_at: AtomicU64,
    /// Attempts to get one, by source and result.
    counts: [[AtomicU64; SampleResult::ALL.len()]; SampleSource::ALL.len()],
}

impl Default for Samples {
    fn default() -> Self {
        let unknown = || AtomicU64::new(f64::NAN.to_bits());
        Self {
            cpu: unknown(),
            memory: unknown(),
            sampled: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            cpu_at: AtomicU64::new(0),
            memory_at: AtomicU64::new(0),
            told: Box::new(Told {
                signals: [unknown(), unknown(), unknown(), unknown()],
                signals_at: AtomicU64::new(0),
                counts: Default::default(),
            }),
        }
    }
}

impl Backend {
    /// The last resource sample; the reader judges its age.
    #[inline]
    pub fn resources(&self) -> Resources {
        Resources {
            cpu: number(&self.samples.cpu),
            memory: number(&self.samples.memory),
            sampled: moment(&self.samples.sampled),
            in_flight: self.samples.in_flight.load(Relaxed),
        }
    }

    /// CPU and memory of the last sample, not a number where unknown, and the requests in flight when it was taken; `None`
    /// when it is older than `oldest`. What [`resources`](Self::resources) says, cheaper.
    #[inline]
    pub fn resources_since(&self, oldest: Moment) -> Option<(f64, f64, u32)> {
        if self.samples.sampled.load(Relaxed) < oldest.nanos() {
            return None;
        }
        let fraction = |word: &AtomicU64| f64::from_bits(word.load(Relaxed));
        let (cpu, memory) = (fraction(&self.samples.cpu), fraction(&self.samples.memory));
        Some((cpu, memory, self.samples.in_flight.load(Relaxed)))
    }

    /// Stores a whole sample, whatever was known before. Its `in_flight` must be this backend's at the moment of sampling.
    pub fn set_resources(&self, sample: Resources) {
        let at = sample.sampled.map_or(0, |at| Moment::of(at).nanos());
        self.samples.cpu.store(bits(sample.cpu), Relaxed);
        self.samples.memory.store(bits(sample.memory), Relaxed);
        self.samples.cpu_at.store(at, Relaxed);
        self.samples.memory_at.store(at, Relaxed);
        self.samples.in_flight.store(sample.in_flight, Relaxed);
        self.samples.sampled.store(at, Relaxed);
    }

    /// Adds what a source has just learned. What it does not know stays as another source said, unless that was longer
    /// ago than `expiry`.
    pub fn note_resources(&self, cpu: Option<f64>, memory: Option<f64>, expiry: Duration, now: Instant) {
        let at = Moment::of(now).nanos();
        let oldest = at.saturating_sub(nanos_of(expiry));
        let note = |value: Option<f64>, word: &AtomicU64, told: &AtomicU64| {
            if value.is_some() {
                word.store(bits(value), Relaxed);
                told.store(at, Relaxed);
            } else if told.load(Relaxed) < oldest {
                word.store(f64::NAN.to_bits(), Relaxed);
            }
        };
        note(cpu, &self.samples.cpu, &self.samples.cpu_at);
        note(memory, &self.samples.memory, &self.samples.memory_at);
        self.samples.in_flight.store(self.in_flight(), Relaxed);
        self.samples.sampled.store(at, Relaxed);
    }

    /// What the engine last said of its queue and work; the reader judges its age.
    pub fn signals(&self) -> Signals {
        let [running, waiting, heartbeat, activity] = &self.samples.told.signals;
        Signals {
            running: number(running),
            waiting: number(waiting),
            heartbeat: number(heartbeat),
            activity: number(activity),
            sampled: moment(&self.samples.told.signals_at),
        }
    }

    /// The same, unless it is older than `expiry`.
    pub fn signals_within(&self, expiry: Duration, now: Instant) -> Option<Signals> {
        let signals = self.signals();
        signals.sampled.filter(|at| now.saturating_duration_since(*at) < expiry).map(|_| signals)
    }

    /// Stores what the engine says of its queue and work.
    pub fn set_signals(&self, signals: Signals) {
        let Signals { running, waiting, heartbeat, activity, sampled } = signals;
        for (word, value) in self.samples.told.signals.iter().zip([running, waiting, heartbeat, activity]) {
            word.store(bits(value), Relaxed);
        }
        self.samples.told.signals_at.store(sampled.map_or(0, |at| Moment::of(at).nanos()), Relaxed);
    }

    /// Counts an attempt of `source` to learn something.
    pub fn count_sample(&self, source: SampleSource, result: impl Into<SampleResult>) {
        self.samples.told.counts[source as usize][result.into() as usize].fetch_add(1, Relaxed);
    }

    /// By source: attempts, in the order of [`SampleResult::ALL`].
    pub fn sample_counts(&self) -> impl Iterator<Item = (SampleSource, [u64; SampleResult::ALL.len()])> {
        let counts = self.samples.told.counts.iter().map(|of| of.each_ref().map(|count| count.load(Relaxed)));
        SampleSource::ALL.into_iter().zip(counts)
    }
}

fn moment(word: &AtomicU64) -> Option<Instant> {
    Some(word.load(Relaxed)).filter(|nanos| *nanos != 0).and_then(Moment::instant)
}

fn number(word: &AtomicU64) -> Option<f64> {
    Some(f64::from_bits(word.load(Relaxed))).filter(|value| !value.is_nan())
}

fn bits(value: Option<f64>) -> u64 {
    value.filter(|value| value.is_finite()).unwrap_or(f64::NAN).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{BackendId, BackendSpec, Health, HealthRules};
    use crate::config::{Address, AdminState, HealthPlan, OutlierPlan};

    fn backend(now: Instant) -> Backend {
        let spec = BackendSpec {
            name: "b".into(),
            address: Address::Ip(([127, 0, 0, 1], 1).into()),
            weight: 1,
            max_in_flight: 0,
            state: AdminState::Ready,
        };
        let rules = HealthRules::new(&HealthPlan::default(), &OutlierPlan::default());
        Backend::new(BackendId(1), 0, &spec, None, Health::new(rules), now)
    }

    #[test]
    fn a_sample_is_what_was_stored_and_expires() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let backend = backend(start);
        assert_eq!(backend.resources(), Resources::default());
        let sample = Resources { cpu: Some(0.6), memory: None, sampled: Some(at(5)), in_flight: 3 };
        backend.set_resources(sample);
        assert_eq!(backend.resources(), sample);
        let expiry = Duration::from_secs(10);
        assert_eq!(
            backend.resources_since(Moment::of(at(15)).before(expiry)).map(|(cpu, _, then)| (cpu, then)),
            Some((0.6, 3))
        );
        assert_eq!(backend.resources_since(Moment::of(at(16)).before(expiry)).map(|(cpu, ..)| cpu), None);
    }

    #[test]
    fn sources_that_know_one_part_each_make_one_record_and_a_silent_one_is_forgotten() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let expiry = Duration::from_secs(10);
        let backend = backend(start);
        let seen = |now: u64| {
            backend
                .resources_since(Moment::of(at(now)).before(expiry))
                .map(|(cpu, memory, _)| (cpu.is_nan(), memory.is_nan()))
        };
        assert_eq!(seen(0), None);
        backend.note_resources(Some(0.5), None, expiry, at(1));
        backend.note_resources(None, Some(0.25), expiry, at(2));
        let both = backend.resources();
        assert_eq!((both.cpu, both.memory, both.sampled), (Some(0.5), Some(0.25), Some(at(2))));
        // The first source falls silent: its word holds for the expiry, however often the other speaks.
        backend.note_resources(None, Some(0.3), expiry, at(10));
        assert_eq!(seen(10), Some((false, false)));
        backend.note_resources(None, Some(0.3), expiry, at(12));
        assert_eq!(seen(12), Some((true, false)));
        assert_eq!(seen(23), None, "all of it is too old");
    }

    #[test]
    fn no_number_is_unknown() {
        let start = Instant::now();
        let backend = backend(start);
        backend.note_resources(Some(f64::NAN), Some(f64::INFINITY), Duration::from_secs(1), start);
        assert_eq!((backend.resources().cpu, backend.resources().memory), (None, None));
        backend.set_signals(Signals { running: Some(3.0), sampled: Some(start), ..Signals::default() });
        assert_eq!(backend.signals().running, Some(3.0));
        assert_eq!(backend.signals_within(Duration::from_secs(1), start + Duration::from_secs(1)), None);
    }
}
