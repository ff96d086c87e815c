//! Streamed answers of one backend, counted piece by piece, and the watch for a backend that hangs: requests are in flight,
//! yet neither bytes of its streams nor its own counter of work advance, while its `/health` may well stay green.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Backend;
use super::histogram::Histogram;
use super::stats::AttemptResult;

/// Over how long the rates are averaged: as the averages of response times.
const RATE_SECONDS: f64 = 10.0;

/// What is counted of a backend's streams (`text/event-stream`, `application/x-ndjson`). Other answers cost nothing here.
#[derive(Debug, Default)]
pub struct Streams {
    open: AtomicU32,
    /// Of those, the ones for which the backend has to speak next; the others wait for a slow client.
    waiting: AtomicU32,
    pieces: AtomicU64,
    bytes: AtomicU64,
    events: AtomicU64,
    /// From the pick to the first event with content, per stream that had one.
    pub first_token: Histogram,
    /// Between two pieces of a stream.
    pub gap: Histogram,
    watch: Mutex<Watch>,
}

/// What [`Streams`] has counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamsView {
    /// Streams at present.
    pub open: u32,
    /// Body bytes so far.
    pub bytes: u64,
    /// Events so far.
    pub events: u64,
    /// Bytes a second of late.
    pub bytes_per_s: f64,
    /// Events a second of late.
    pub events_per_s: f64,
}

impl Streams {
    /// A stream began.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
        self.pieces.fetch_add(1, Relaxed);
    }

    /// A stream ended.
    pub fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// It is the backend's turn to speak on a stream, or no longer.
    pub fn waits(&self, waits: bool) {
        if waits {
            self.waiting.fetch_add(1, Relaxed);
        } else {
            self.waiting.fetch_sub(1, Relaxed);
        }
    }

    /// A piece of a stream arrived, so long after the one before.
    pub fn piece(&self, bytes: usize, events: u64, gap: Option<Duration>) {
        self.pieces.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.events.fetch_add(events, Relaxed);
        if let Some(gap) = gap {
            self.gap.record(gap);
        }
    }

    /// Pieces so far, beginnings included: they grow while the backend works on streams.
    pub fn pieces(&self) -> u64 {
        self.pieces.load(Relaxed)
    }

    /// The numbers of the moment.
    pub fn view(&self) -> StreamsView {
        let watch = self.lock();
        StreamsView {
            open: self.open.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            events: self.events.load(Relaxed),
            bytes_per_s: watch.bytes.rate,
            events_per_s: watch.events.rate,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the watch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing to judge by.
    Unknown,
    /// It works, or has not been silent for long.
    Moving,
    /// Requests wait for it, and it gives no sign of life.
    Stalled,
}

/// What the last looks saw. One task looks, a few times a second.
#[derive(Debug, Default)]
struct Watch {
    /// Pieces of streams and whole answers.
    signs: u64,
    beat: Beat,
    activity: Option<f64>,
    /// Since when nothing of it has changed.
    silent_since: Option<Instant>,
    looked: Option<Instant>,
    bytes: Rate,
    events: Rate,
}

/// The engine's counter of work.
#[derive(Debug, Default)]
struct Beat {
    value: Option<f64>,
    /// When it last said so.
    sampled: Option<Instant>,
    /// Samples in a row with this value since the silence began.
    same: u32,
}

impl Beat {
    /// Takes over a sample; whether the counter has moved.
    fn look(&mut self, value: Option<f64>, sampled: Option<Instant>) -> bool {
        let moved = value.is_some() && self.value.is_some() && value != self.value;
        if moved || value.is_none() || self.value.is_none() {
            self.same = 0;
        } else if sampled != self.sampled {
            self.same = self.same.saturating_add(1);
        }
        (self.value, self.sampled) = (value, sampled);
        moved
    }
}

/// A decayed rate of a counter.
#[derive(Debug, Default)]
struct Rate {
    last: u64,
    rate: f64,
}

impl Rate {
    fn look(&mut self, count: u64, seconds: f64) {
        let rate = (count - self.last.min(count)) as f64 / seconds;
        self.rate += (rate - self.rate) * (seconds / RATE_SECONDS).min(1.0);
        self.last = count;
    }
}

impl Backend {
    /// Looks for progress `now`. `patience`: how long it may be silent while requests wait for it; zero: for ever.
    ///
    /// Silence is held against it only where it proves something: a stream waits for its next piece, or the engine itself
    /// says that it runs requests while its counter of work stands still. An answer in one piece may rightly take minutes.
    pub fn watch(&self, patience: Duration, now: Instant) -> Progress {
        let mut watch = self.streams.lock();
        let elapsed = watch.looked.replace(now).map(|before| now.saturating_duration_since(before).as_secs_f64());
        if let Some(seconds) = elapsed.filter(|seconds| *seconds > 0.0) {
            watch.bytes.look(self.streams.bytes.load(Relaxed), seconds);
            watch.events.look(self.streams.events.load(Relaxed), seconds);
        }
        let signals = self.signals();
        let beaten = watch.beat.look(signals.heartbeat, signals.sampled);
        let acted = signals.activity != std::mem::replace(&mut watch.activity, signals.activity);
        let signs = self.signs_of_life() + self.stats.attempts(AttemptResult::ErrorStatus);
        let moved = signs != std::mem::replace(&mut watch.signs, signs) || beaten || acted;
        if patience.is_zero() || self.in_flight() == 0 {
            watch.silent_since = None;
            return Progress::Unknown;
        }
        let since = match watch.silent_since {
            Some(since) if !moved => since,
            Some(_) | None => {
                watch.silent_since = Some(now);
                watch.beat.same = 0;
                return if moved { Progress::Moving } else { Progress::Unknown };
            }
        };
        let stream_waits = self.streams.waiting.load(Relaxed) > 0;
        let fresh = |at: Instant| now.saturating_duration_since(at) <= patience / 2;
        let stands_still = watch.beat.same >= 2
            && signals.sampled.is_some_and(fresh)
            && signals.running.is_some_and(|running| running > 0.0);
        if !stream_waits && !stands_still {
            // What has not been judged so far is not held against it later.
            watch.silent_since = Some(since.max(now.checked_sub(patience / 2).unwrap_or(now)));
            return Progress::Unknown;
        }
        if now.saturating_duration_since(since) >= patience { Progress::Stalled } else { Progress::Moving }
    }

    /// Good answers and pieces of streams so far: they grow while it works for us.
    pub fn signs_of_life(&self) -> u64 {
        self.stats.attempts(AttemptResult::Ok) + self.streams.pieces()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend::{BackendId, BackendSpec, Health, HealthRules, InFlight, Outcome, Signals};
    use crate::config::{Address, AdminState, HealthPlan, OutlierPlan};

    const PATIENCE: Duration = Duration::from_secs(6);

    struct World {
        backend: Arc<Backend>,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            let start = Instant::now();
            let spec = BackendSpec {
                name: "b".into(),
                address: Address::Ip(([127, 0, 0, 1], 1).into()),
                weight: 1,
                max_in_flight: 0,
                state: AdminState::Ready,
            };
            let rules = HealthRules::new(&HealthPlan::default(), &OutlierPlan::default());
            let backend = Backend::new(BackendId(1), 0, &spec, None, Health::new(rules), start);
            Self { backend: Arc::new(backend), start }
        }

        fn at(&self, quarter: u64) -> Instant {
            self.start + Duration::from_millis(250 * quarter)
        }

        /// Looks four times a second for so many seconds, doing `each` before every look; the second of the verdict.
        fn stalls(&self, seconds: u64, mut each: impl FnMut(u64)) -> Option<u64> {
            (0..seconds * 4).find_map(|quarter| {
                each(quarter);
                (self.backend.watch(PATIENCE, self.at(quarter)) == Progress::Stalled).then_some(quarter / 4)
            })
        }

        fn says(&self, quarter: u64, running: f64, heartbeat: f64) {
            let sampled = Some(self.at(quarter));
            let signals = Signals { running: Some(running), heartbeat: Some(heartbeat), sampled, ..Signals::default() };
            self.backend.set_signals(signals);
        }
    }

    #[test]
    fn a_stream_that_waits_in_vain_is_a_stall_and_one_that_flows_is_none() {
        let world = World::new();
        let _held = InFlight::enter(&world.backend);
        world.backend.streams.opened();
        world.backend.streams.waits(true);
        assert_eq!(
            world.stalls(60, |quarter| if quarter % 20 == 0 {
                world.backend.streams.piece(10, 1, None)
            }),
            None
        );
        let world = World::new();
        let _held = InFlight::enter(&world.backend);
        world.backend.streams.opened();
        world.backend.streams.waits(true);
        assert_eq!(world.stalls(60, |_| {}), Some(6));
    }

    #[test]
    fn with_a_look_four_times_a_second_the_verdict_falls_within_the_configured_intervals() {
        for interval in [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(30)] {
            let plan = HealthPlan { interval, stalled_after: 3, ..HealthPlan::default() };
            let world = World::new();
            let _held = InFlight::enter(&world.backend);
            world.backend.streams.opened();
            world.backend.streams.waits(true);
            let stalled = |quarter: &u64| world.backend.watch(plan.patience(), world.at(*quarter)) == Progress::Stalled;
            let quarters = (0..1000).find(stalled).unwrap() as u32;
            assert!(Duration::from_millis(250) * quarters <= interval * 3, "{interval:?}: {quarters} looks");
        }
    }

    #[test]
    fn an_answer_in_one_piece_may_take_its_time_and_a_slow_client_blames_nobody() {
        let world = World::new();
        let _held = InFlight::enter(&world.backend);
        assert_eq!(world.stalls(600, |_| {}), None);
        world.backend.streams.opened(); // not waiting: the client is to read
        assert_eq!(world.stalls(600, |_| {}), None);
    }

    #[test]
    fn an_engine_that_runs_requests_without_a_step_is_stalled() {
        let world = World::new();
        let _held = InFlight::enter(&world.backend);
        assert_eq!(world.stalls(60, |quarter| world.says(quarter, 3.0, quarter as f64)), None);
        let world = World::new();
        let _held = InFlight::enter(&world.backend);
        let found = world.stalls(60, |quarter| world.says(quarter, 3.0, 7.0));
        assert!(matches!(found, Some(6..=9)), "{found:?}");
        // Nothing runs there: the request waits for something else.
        let world = World::new();
        let _held = InFlight::enter(&world.backend);
        assert_eq!(world.stalls(600, |quarter| world.says(quarter, 0.0, 7.0)), None);
        // It no longer answers scrapes: the last word proves nothing.
        let world = World::new();
        let _held = InFlight::enter(&world.backend);
        assert_eq!(
            world.stalls(600, |quarter| if quarter < 8 {
                world.says(quarter, 3.0, 7.0)
            }),
            None
        );
    }

    #[test]
    fn whole_answers_are_progress_and_without_requests_there_is_nothing_to_judge() {
        let world = World::new();
        world.backend.streams.opened();
        world.backend.streams.waits(true);
        assert_eq!(world.stalls(60, |_| {}), None, "nothing in flight");
        let held = InFlight::enter(&world.backend);
        let answer = Outcome::served(200, Duration::from_millis(1));
        assert_eq!(world.stalls(60, |quarter| world.backend.stats.attempt_ended(&answer, world.at(quarter))), None);
        drop(held);
        assert_eq!(world.backend.watch(PATIENCE, world.at(400)), Progress::Unknown);
    }

    #[test]
    fn rates_follow_the_counters() {
        let world = World::new();
        for quarter in 0..400 {
            world.backend.streams.piece(100, 2, None);
            world.backend.watch(PATIENCE, world.at(quarter));
        }
        let view = world.backend.streams.view();
        assert!((view.bytes_per_s - 400.0).abs() < 1.0 && (view.events_per_s - 8.0).abs() < 0.1, "{view:?}");
        assert_eq!((view.bytes, view.events), (40_000, 800));
    }
}
