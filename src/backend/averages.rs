//! Decayed averages of one backend's response times, kept in its record so that a reload or a change of strategy does not
//! lose them.
//!
//! Every value is one atomic word, read and written without a lock. Two workers that record at the same moment may lose
//! one of the two samples (a plain load, then a store): an average over fifty samples does not notice, and it is cheaper
//! than a loop. No reader ever sees half a value.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Time constant of the averages, seconds: Finagle's and tower's default for Peak-EWMA.
pub const DECAY_SECONDS: f64 = 10.0;
/// From nanoseconds to that unit; a multiplication is cheaper than two divisions.
const PER_NANO: f64 = 1e-9 / DECAY_SECONDS;
/// A failure is recorded as at least this long: an instance that fails at once would otherwise look like the fastest.
pub const FAILURE_SECONDS: f64 = 5.0;
/// A failure is recorded as at most this long, whatever `Retry-After` says.
pub const FAILURE_SECONDS_MAX: f64 = 300.0;
/// A mean counts as resting on at most this many samples, so that a busy backend's average follows within about fifty
/// answers. A gain of 0.02 did best for `least_response_time` in simulation.
const MASS_MAX: f32 = 50.0;

/// One sample, made from an [`Outcome`](super::Outcome).
#[derive(Debug, Clone, Copy)]
pub(super) enum Sample {
    /// A good answer: total time, and the time that an answer of the usual length would have taken.
    Answer { total: f64, comparable: f64 },
    /// An answer that was no work, such as a 404: shown, but no strategy goes by it.
    Refusal { total: f64 },
    /// A failure, priced.
    Failure { price: f64 },
    /// The client left after so long without a byte: the true time is longer than this.
    AtLeast { seconds: f64 },
}

/// The averages of one backend; times in seconds.
///
/// Readers say whether the backend is idle, and only then does time alone make a value fade: a backend with requests in
/// flight is being tried already, and one that has stopped answering would otherwise look better every second.
#[derive(Debug, Default)]
pub(super) struct Averages {
    /// When the last sample was taken, as a [`Moment`](super::Moment)'s number; 0: none yet.
    last: AtomicU64,
    /// Mean total time of good answers: what people are shown.
    response: AtomicU64,
    /// Mean time with failures at their price: what `least_response_time` goes by.
    cost: AtomicU64,
    /// Peak-EWMA, f64 bits: jumps up at once, comes down with [`DECAY_SECONDS`].
    peak: AtomicU64,
    /// Mean body bytes of streamed answers.
    body: AtomicU64,
}

impl Averages {
    /// Adds a sample.
    #[inline]
    pub(super) fn record(&self, sample: Sample, at_nanos: u64) {
        let (total, cost) = match sample {
            Sample::Answer { total, comparable } => (Some(total), comparable),
            Sample::Refusal { total } => {
                Mean::load(&self.response).with(total).store(&self.response);
                return;
            }
            Sample::Failure { price } => (None, price),
            Sample::AtLeast { seconds } => {
                // A lower bound says something only where it is above what we believe.
                if Mean::load(&self.cost).value().is_some_and(|mean| seconds <= mean) {
                    return;
                }
                (None, seconds)
            }
        };
        // Nothing takes no time at all; 0 would read as "unknown".
        let cost = cost.max(1e-6);
        let before = self.last.load(Relaxed);
        self.last.store(before.max(at_nanos), Relaxed);
        let gap = at_nanos.saturating_sub(before) as f64 * PER_NANO;
        // What was measured before a pause of five seconds counts for half, before one of ten for a twentieth: the first
        // answer of a backend that is tried again must be believed, or it waits for many more trials.
        let kept = if before == 0 { 0.0 } else { decay(3.0 * gap * gap) };
        let response = Mean::load(&self.response).decayed(kept);
        total.map_or(response, |total| response.with(total)).store(&self.response);
        Mean::load(&self.cost).decayed(kept).with(cost).store(&self.cost);
        let peak = f64::from_bits(self.peak.load(Relaxed));
        let next = if cost > peak {
            cost
        } else {
            let kept = decay(gap);
            peak * kept + cost * (1.0 - kept)
        };
        self.peak.store(next.to_bits(), Relaxed);
    }

    /// Body time of a streamed answer, scaled to the usual length: `seconds` for `bytes`.
    #[inline]
    pub(super) fn scaled_body(&self, seconds: f64, bytes: u64) -> f64 {
        let mean = Mean::load(&self.body);
        mean.decayed(1.0).with(bytes as f64).store(&self.body);
        match mean.value() {
            // A tenth to ten times: beyond that the byte count says little about the work.
            Some(usual) if bytes > 0 => seconds * (usual / bytes as f64).clamp(0.1, 10.0),
            Some(_) | None => seconds,
        }
    }

    /// Mean total time of good answers.
    pub(super) fn response(&self) -> Option<f64> {
        Mean::load(&self.response).value()
    }

    /// Mean time with failures at their price; it fades while the backend is idle.
    ///
    /// By exp(−(age ÷ 10 s)²): a sample of a few seconds ago still holds, so a quiet pool does not forget who is slow, and
    /// one of half a minute ago is gone whatever it was. With plain exponential decay one that had been a hundred times
    /// slower would wait five times as long for its next chance as one three times slower.
    #[inline]
    pub(super) fn cost(&self, at_nanos: u64, idle: bool) -> Option<f64> {
        self.unfaded_cost(at_nanos, idle).map(|(cost, age)| faded(cost, age))
    }

    /// The same in two parts, for [`faded`] to put together: who compares hundreds of backends needs the whole of few.
    #[inline]
    pub(super) fn unfaded_cost(&self, at_nanos: u64, idle: bool) -> Option<(f64, f64)> {
        let cost = Mean::load(&self.cost).value()?;
        Some((cost, if idle { self.age(at_nanos) } else { 0.0 }))
    }

    /// Peak-EWMA; it decays while the backend is idle.
    #[inline]
    pub(super) fn peak(&self, at_nanos: u64, idle: bool) -> Option<f64> {
        let peak = f64::from_bits(self.peak.load(Relaxed));
        if peak == 0.0 {
            return None;
        }
        Some(if idle { peak * decay(self.age(at_nanos)) } else { peak })
    }

    /// Nanoseconds since the last sample.
    pub(super) fn age_nanos(&self, at_nanos: u64) -> Option<u64> {
        let last = self.last.load(Relaxed);
        (last != 0).then(|| at_nanos.saturating_sub(last))
    }

    /// Time since the last sample, in units of [`DECAY_SECONDS`].
    #[inline]
    fn age(&self, at_nanos: u64) -> f64 {
        // The conversion of a signed number is one instruction, and centuries fit.
        at_nanos.saturating_sub(self.last.load(Relaxed)) as i64 as f64 * PER_NANO
    }
}

/// A mean cost that has lain idle for `age` time constants.
#[inline]
pub(crate) fn faded(cost: f64, age: f64) -> f64 {
    // Of a busy one; spares it the power.
    if age == 0.0 { cost } else { cost * decay(age * age) }
}

/// A number that [`faded`] is not below, and not far below it within the first ten seconds: (1 − x ÷ 4)⁴ is less than
/// (1 − x ÷ 256)²⁵⁶, and the last factor is more than what the 256th power makes of rounding.
#[inline]
pub(crate) fn fades_to_at_least(cost: f64, age: f64) -> f64 {
    let root = (1.0 - age * age * 0.25).max(0.0);
    let square = root * root;
    cost * (square * square) * (1.0 - 1e-12)
}

/// exp(−`age`), as (1 − age ÷ 256)^256: within 0.005 of it, monotone, never negative, and a third of the price, which
/// matters where hundreds of candidates fade in one pick.
#[inline]
fn decay(age: f64) -> f64 {
    let mut power = (1.0 - age / 256.0).max(0.0);
    for _ in 0..8 {
        power *= power;
    }
    power
}

/// A mean and the samples it rests on, two f32 in one word.
#[derive(Debug, Clone, Copy)]
struct Mean {
    mean: f32,
    mass: f32,
}

impl Mean {
    #[inline]
    fn load(word: &AtomicU64) -> Self {
        let bits = word.load(Relaxed);
        Self { mean: f32::from_bits((bits >> 32) as u32), mass: f32::from_bits(bits as u32) }
    }

    #[inline]
    fn store(self, word: &AtomicU64) {
        word.store(u64::from(self.mean.to_bits()) << 32 | u64::from(self.mass.to_bits()), Relaxed);
    }

    #[inline]
    fn decayed(self, decay: f64) -> Self {
        // Never to zero: an old mean stays known, it only yields to the next sample.
        Self { mean: self.mean, mass: (self.mass * decay as f32).max(self.mass.min(1e-3)) }
    }

    #[inline]
    fn with(self, value: f64) -> Self {
        let mass = (self.mass + 1.0).min(MASS_MAX);
        Self { mean: self.mean + (value as f32 - self.mean) / mass.max(1.0), mass }
    }

    #[inline]
    fn value(self) -> Option<f64> {
        (self.mass > 0.0).then(|| f64::from(self.mean))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(seconds: f64) -> Sample {
        Sample::Answer { total: seconds, comparable: seconds }
    }

    fn at(seconds: f64) -> u64 {
        // Zero would be "never".
        1 + (seconds * 1e9) as u64
    }

    #[test]
    fn the_first_samples_count_alike_however_fast_they_come() {
        let averages = Averages::default();
        for (i, value) in [3.0, 1.0, 1.0, 1.0].into_iter().enumerate() {
            averages.record(answer(value), at(1.0 + i as f64 * 1e-4));
        }
        let mean = averages.response().unwrap();
        assert!((mean - 1.5).abs() < 1e-3, "{mean}: a slow first connection must not rule for ten seconds");
    }

    #[test]
    fn it_follows_a_change_within_fifty_answers_or_ten_seconds() {
        let busy = Averages::default();
        let mut now = 0.0;
        for value in std::iter::repeat_n(0.04, 10_000).chain(std::iter::repeat_n(0.4, 100)) {
            busy.record(answer(value), at(now));
            now += 0.001;
        }
        let mean = busy.response().unwrap();
        assert!(mean > 0.35, "{mean} after two time constants in samples");
        let quiet = Averages::default();
        quiet.record(answer(0.04), at(0.0));
        quiet.record(answer(0.4), at(30.0));
        assert!(quiet.response().unwrap() > 0.35, "half a minute old counts for a twentieth");
    }

    #[test]
    fn a_failure_is_expensive_in_cost_and_peak_but_not_shown_as_a_response_time() {
        let averages = Averages::default();
        averages.record(answer(0.04), at(0.0));
        averages.record(Sample::Failure { price: 5.0 }, at(0.1));
        assert!((averages.response().unwrap() - 0.04).abs() < 1e-6);
        assert!(averages.cost(at(0.1), false).unwrap() > 2.0);
        assert!((averages.peak(at(0.1), false).unwrap() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn peak_jumps_at_once_and_comes_down_by_a_factor_of_e_in_ten_seconds() {
        let averages = Averages::default();
        averages.record(answer(0.1), at(0.0));
        averages.record(answer(1.0), at(1.0));
        assert!((averages.peak(at(1.0), false).unwrap() - 1.0).abs() < 1e-9);
        let mut now = 1.0;
        while now < 11.0 - 1e-6 {
            now += 0.01;
            averages.record(answer(0.0), at(now));
        }
        let peak = averages.peak(at(now), false).unwrap();
        assert!((peak / (-1f64).exp() - 1.0).abs() < 0.01, "{peak}");
    }

    #[test]
    fn an_idle_backends_sample_loses_its_force_and_a_busy_ones_does_not() {
        let averages = Averages::default();
        averages.record(answer(1.0), at(0.0));
        assert!(averages.cost(at(10.0), true).unwrap() < 0.37);
        assert!(averages.peak(at(10.0), true).unwrap() < 0.37);
        assert!((averages.cost(at(10.0), false).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(averages.age_nanos(at(10.0)), Some(at(10.0) - at(0.0)));
    }

    #[test]
    fn a_client_that_left_counts_only_where_it_waited_longer_than_expected() {
        let averages = Averages::default();
        averages.record(answer(1.0), at(0.0));
        averages.record(Sample::AtLeast { seconds: 0.5 }, at(0.5));
        assert!((averages.cost(at(0.5), false).unwrap() - 1.0).abs() < 1e-6);
        averages.record(Sample::AtLeast { seconds: 30.0 }, at(1.0));
        assert!(averages.cost(at(1.0), false).unwrap() > 10.0);
        assert!((averages.response().unwrap() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn long_and_short_streams_of_one_speed_compare_alike() {
        let averages = Averages::default();
        for _ in 0..200 {
            averages.scaled_body(1.0, 1000);
        }
        assert!((averages.scaled_body(4.0, 4000) - 1.0).abs() < 1e-3);
        assert!((averages.scaled_body(0.0, 0)).abs() < 1e-9, "an empty body is no division by zero");
    }

    #[test]
    fn the_cheap_decay_is_near_the_true_one() {
        let mut last = 1.1;
        for step in 0..3000 {
            let age = f64::from(step) * 0.1;
            let found = decay(age);
            assert!((found - (-age).exp()).abs() < 0.005 && (0.0..=last).contains(&found), "{age}: {found}");
            last = found;
        }
    }

    #[test]
    fn what_fading_leaves_at_least_is_no_more_than_what_it_leaves() {
        for step in 0..100_000 {
            let age = f64::from(step) * f64::from(step) * 1e-9;
            let (least, left) = (fades_to_at_least(0.3, age), faded(0.3, age));
            assert!(least <= left, "{age}: {least} > {left}");
            assert!(age > 0.5 || least > 0.99 * left, "{age}: {least} is far below {left}");
        }
    }

    #[test]
    fn four_threads_leave_a_value_between_the_samples() {
        let averages = Averages::default();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let averages = &averages;
                scope.spawn(move || {
                    for i in 0..20_000u64 {
                        averages
                            .record(answer(if (i + thread).is_multiple_of(2) { 0.1 } else { 0.3 }), 1 + i * 100_000);
                    }
                });
            }
        });
        let (mean, peak) = (averages.response().unwrap(), averages.peak(at(2.0), false).unwrap());
        assert!((0.1..=0.3001).contains(&mean) && (0.1..=0.3001).contains(&peak), "{mean} {peak}");
        assert!((mean - 0.2).abs() < 0.09, "{mean}");
    }
}
