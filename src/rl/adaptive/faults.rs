//! Errors: a price, a trial, and a memory that grows with relapses.
//!
//! No backend is removed because of errors; it is *priced*, so capacity never vanishes when load is what causes them.
//! `e⁺` is the part of its error rate that is significantly above the pool's; a backend with `e⁺ > 0` is *suspected*. A
//! suspected backend that is idle gets one real request, a *trial*, when its timer is due. Each relapse or failed trial
//! doubles the interval; the memory of it fades with a half-life of five minutes.

use super::super::atomic::Number;

/// Weight of an ended request after one more: a window of about a hundred.
const PER_REQUEST: f64 = 0.99;
/// Half-life of the window in seconds.
const HALF_LIFE: f64 = 60.0;
/// Requests at the pool's rate that a backend starts with: first clear sign after two or three failures.
const PRIOR: f64 = 10.0;
/// Significance in standard errors: a single failure of a warm backend in a clean pool is not a fault.
const SIGNIFICANCE: f64 = 2.0;
/// First interval of trials, seconds.
const FIRST_INTERVAL: f64 = 1.0;
/// Longest interval of trials, seconds.
const LONGEST_INTERVAL: f64 = 300.0;
/// Half-life of the memory of relapses, seconds.
const INTERVAL_HALF_LIFE: f64 = 300.0;
/// Failures are multiplied by this when a trial succeeds.
const FORGIVEN: f64 = 0.5;
/// The next trial after a success comes after this share of the interval.
const CONFIRM: f64 = 0.25;
/// Failures added, and requests, to a backend's rate when the pool's is formed: nobody starts at zero.
const POOL_PRIOR: (f64, f64) = (0.05, 10.0);

/// Up to here the series of the exponential may end after its third power: the next, x⁴/24, is 4e-10.
const SHORT: f64 = 0.01;

/// The error state of one backend. A cost needs the first two.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Faults {
    /// e⁺: significant excess of the error rate, 0-1.
    excess: Number,
    /// When the next trial is due.
    next_trial: Number,
    /// N: ended requests, decaying.
    ends: Number,
    /// F: failed requests, decaying.
    failures: Number,
    /// When N and F were last brought up to date.
    updated: Number,
    /// g: interval of trials in seconds; 0: no offence yet.
    interval: Number,
    /// When g last changed.
    interval_at: Number,
    /// When the last trial began; infinite after a failure, until the next begins.
    trial_began: Number,
}

/// The part that is saved, times as ages in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Record {
    pub(super) ends: f64,
    pub(super) failures: f64,
    pub(super) interval: f64,
    pub(super) interval_age: f64,
}

impl Faults {
    /// Forgets everything.
    pub(super) fn reset(&self, now: f64) {
        self.resume(Record { ends: 0.0, failures: 0.0, interval: 0.0, interval_age: 0.0 }, now);
    }

    /// Goes on from what was saved; the price follows at the next compilation.
    pub(super) fn resume(&self, saved: Record, now: f64) {
        self.ends.set(saved.ends);
        self.failures.set(saved.failures);
        self.updated.set(now);
        self.excess.set(0.0);
        self.interval.set(saved.interval);
        self.interval_at.set(now - saved.interval_age);
        self.next_trial.set(0.0);
        self.trial_began.set(f64::INFINITY);
    }

    /// What is worth saving.
    pub(super) fn record(&self, now: f64) -> Record {
        Record {
            ends: self.ends.get(),
            failures: self.failures.get(),
            interval: self.interval.get(),
            interval_age: (now - self.interval_at.get()).max(0.0),
        }
    }

    /// e⁺
    #[inline]
    pub(super) fn excess(&self) -> f64 {
        self.excess.get()
    }

    /// Whether its errors are significant.
    #[inline]
    pub(super) fn suspected(&self) -> bool {
        self.excess.get() > 0.0
    }

    /// When a suspected backend is due for a trial, once it is idle.
    #[inline]
    pub(super) fn next_trial(&self) -> f64 {
        self.next_trial.get()
    }

    /// Begins the trial that is due, by a request dispatched `now`. One worker wins when several try.
    pub(super) fn begin_trial(&self, now: f64) -> bool {
        let due = self.next_trial.get();
        let won = now >= due && self.next_trial.replace(due, now + self.interval.get().max(FIRST_INTERVAL));
        if won {
            self.trial_began.set(now);
        }
        won
    }

    /// Whether a trial runs.
    pub(super) fn on_trial(&self) -> bool {
        self.suspected() && self.trial_began.get().is_finite()
    }

    /// Its smoothed error rate, of which the pool's median is made.
    pub(super) fn rate(&self) -> f64 {
        (self.failures.get() + POOL_PRIOR.0) / (self.ends.get() + POOL_PRIOR.1)
    }

    /// A request that was dispatched at `dispatched` ended; `pool` is the pool's error rate.
    pub(super) fn ended(&self, ok: bool, dispatched: f64, pool: f64, now: f64) {
        self.fade(now, PER_REQUEST);
        self.ends.add(1.0);
        let in_trial = dispatched >= self.trial_began.get();
        let was_suspected = self.suspected();
        if ok {
            if was_suspected && in_trial {
                self.failures.set(self.failures.get() * FORGIVEN);
                self.next_trial.set(now + CONFIRM * self.interval.get());
                self.weigh(pool, now);
            }
            return;
        }
        self.failures.add(1.0);
        self.trial_began.set(f64::INFINITY);
        self.weigh(pool, now);
        if in_trial || (self.suspected() && !was_suspected) {
            let age = (now - self.interval_at.get()).max(0.0);
            let faded = self.interval.get() * 0.5_f64.powf(age / INTERVAL_HALF_LIFE);
            let interval = (2.0 * faded.max(FIRST_INTERVAL / 2.0)).min(LONGEST_INTERVAL);
            self.interval.set(interval);
            self.interval_at.set(now);
            self.next_trial.set(now + interval);
        }
    }

    /// Recomputes e⁺ against the pool's error rate.
    pub(super) fn weigh(&self, pool: f64, now: f64) {
        self.fade(now, 1.0);
        let weight = self.ends.get() + PRIOR;
        let rate = (self.failures.get() + PRIOR * pool) / weight;
        let error = (pool * (1.0 - pool) / weight).max(0.0).sqrt();
        self.excess.set((rate - pool - SIGNIFICANCE * error).max(0.0));
    }

    fn fade(&self, now: f64, factor: f64) {
        let age = (now - self.updated.get()).max(0.0);
        let decay = halved(age / HALF_LIFE) * factor;
        self.updated.set(now.max(self.updated.get()));
        self.ends.set(self.ends.get() * decay);
        self.failures.set(self.failures.get() * decay);
    }
}

/// What is left after so many half-lives: 2^-x.
#[inline]
fn halved(half_lives: f64) -> f64 {
    // Between two requests next to nothing: the series' first terms, exact to 1e-9, for less work.
    let x = half_lives * std::f64::consts::LN_2;
    if x < SHORT { 1.0 - x * (1.0 - x * (0.5 - x / 6.0)) } else { (-half_lives).exp2() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: f64 = 0.003;

    fn trial_due(faults: &Faults, now: f64) -> bool {
        now >= faults.next_trial()
    }

    fn warm(count: usize) -> (Faults, f64) {
        let faults = Faults::default();
        faults.reset(0.0);
        let mut now = 0.0;
        for _ in 0..count {
            now += 0.01;
            faults.ended(true, now - 0.005, POOL, now);
        }
        (faults, now)
    }

    #[test]
    fn one_failure_of_a_warm_backend_is_chance_and_three_are_not() {
        let (faults, now) = warm(300);
        faults.ended(false, now, POOL, now);
        assert!(!faults.suspected());
        faults.ended(false, now, POOL, now);
        faults.ended(false, now, POOL, now);
        assert!(faults.suspected());
        assert!(!trial_due(&faults, now + 0.9) && trial_due(&faults, now + 1.1), "first trial after a second");
    }

    /// Fails until suspected, then lets trials succeed until it is believed again. Returns the seconds it was out.
    fn offence(faults: &Faults, now: &mut f64) -> f64 {
        while !faults.suspected() {
            *now += 0.01;
            faults.ended(false, *now - 0.001, POOL, *now);
        }
        let began = *now;
        while faults.suspected() {
            *now += 0.01;
            if trial_due(faults, *now) && faults.begin_trial(*now) {
                faults.ended(true, *now, POOL, *now + 0.001);
            }
        }
        *now - began
    }

    #[test]
    fn the_short_way_to_halve_is_exact() {
        for x in [0.0, 1e-6, 1e-3, 0.0144, 0.0145, 0.3, 5.0] {
            assert!((halved(x) - (-x).exp2()).abs() < 1e-9, "{x}");
        }
    }

    #[test]
    fn each_relapse_must_be_good_for_longer() {
        let (faults, mut now) = warm(300);
        let mut out = Vec::new();
        for _ in 0..4 {
            out.push(offence(&faults, &mut now));
            for _ in 0..200 {
                now += 0.01;
                faults.ended(true, now, POOL, now);
            }
        }
        assert!(out[0] > 1.0 && out[0] < 3.5, "{out:?}");
        assert!(out.windows(2).all(|pair| pair[1] > 1.4 * pair[0]), "{out:?}");
    }

    #[test]
    fn only_one_worker_begins_a_trial() {
        let (faults, mut now) = warm(300);
        for _ in 0..5 {
            faults.ended(false, now, POOL, now);
        }
        now += 2.0;
        assert!(faults.begin_trial(now));
        assert!(!faults.begin_trial(now), "the timer runs again");
        assert!(!trial_due(&faults, now));
    }

    #[test]
    fn a_pool_that_fails_as_a_whole_suspects_nobody() {
        let (faults, now) = warm(300);
        for _ in 0..100 {
            faults.ended(false, now, 0.9, now);
        }
        assert!(!faults.suspected());
    }
}
