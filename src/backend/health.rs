//! One state machine for what active probes and live traffic say of a backend.
//!
//! Probes move it between unknown, warming, up and down by `rise` and `fall`; failures of live traffic eject it for a
//! time that grows with each ejection in a row. The two do not overrule each other: a passing probe does not shorten an
//! ejection (the engine whose `/health` stays green while every answer fails is the case to catch), and a failing one is
//! remembered beneath it. After an ejection the backend is on trial: the first request begun since then decides, one
//! failure ejects it again.
//!
//! Live traffic ejects in two ways: by failures in a row, and by a share of failures. Both are judged beside the other
//! backends ([`Peers`]): when all of them fail alike it is no backend's fault, and ejecting would only crowd the rest.
//!
//! Every transition is returned as a [`HealthChange`], so that the caller logs it, counts it and publishes a new set of
//! candidates; no other code changes health. Pure: time is an argument.

use std::time::{Duration, Instant};

use super::{Outcome, ProbeResult, Tally};
use crate::config::{HealthPlan, OutlierPlan, ProbeKind};

/// An ejection never lasts longer than this, whatever is configured: it keeps the arithmetic of times in range.
const EJECTION_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);
/// A run of failures ejects when it would be rarer than this at the rate at which the others fail: at a thousand requests
/// a second chance alone would bring one such run a day.
const RUN_BY_CHANCE: f64 = 1e-8;
/// The same on trial, where the backend is under suspicion.
const TRIAL_BY_CHANCE: f64 = 0.05;
/// So many failures and no answer: a backend of which everything fails.
const ALL_FAIL: u64 = 5;
/// A share of failures is judged from this many attempts of the window on.
const LEAST_ATTEMPTS: u64 = 20;
/// How sure we are of a backend's own share and of the others', in standard deviations. The own one is looked at four
/// times a second, and a wrong ejection costs capacity.
const SURE_OF_OWN: f64 = 3.0;
const SURE_OF_OTHERS: f64 = 2.0;
/// How many times the others' share its own must be.
const TIMES_WORSE: f64 = 1.5;

/// Where a backend stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// Not yet probed: no traffic.
    Unknown,
    /// Takes traffic.
    Up,
    /// Failed its probes: no traffic.
    Down,
    /// Loading: no traffic, not a failure.
    Warming,
    /// Kept out because of live traffic; when it ends, its probes decide again.
    Ejected,
}

impl HealthState {
    /// Every state, in the order of the contract.
    pub const ALL: [Self; 5] = [Self::Up, Self::Down, Self::Ejected, Self::Warming, Self::Unknown];

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
            Self::Warming => "warming",
            Self::Ejected => "ejected",
        }
    }
}

/// Why a backend changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Enough probes passed.
    ProbePassed,
    /// Enough probes failed.
    ProbeFailed,
    /// Enough probes got no answer in time.
    ProbeTimedOut,
    /// It said that it is loading.
    Loading,
    /// Consecutive failures of live traffic.
    ConsecutiveFailures,
    /// A share of failures of live traffic far above that of the others.
    FailureRate,
    /// The first request after an ejection failed too.
    TrialFailed,
    /// Requests were in flight, and nothing moved.
    Stalled,
    /// A stalled backend moved again.
    Progressed,
    /// The ejection ran out.
    EjectionOver,
    /// The ejection was ended by hand.
    Released,
    /// Probes or ejection were switched off.
    RulesChanged,
}

impl Reason {
    /// Those that eject, in the order of the counters.
    pub const EJECTING: [Self; 4] = [Self::ConsecutiveFailures, Self::FailureRate, Self::TrialFailed, Self::Stalled];

    /// The label in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProbePassed => "probe_passed",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeTimedOut => "probe_timed_out",
            Self::Loading => "loading",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
            Self::TrialFailed => "trial_failed",
            Self::Stalled => "stalled",
            Self::Progressed => "progressed",
            Self::EjectionOver => "ejection_over",
            Self::Released => "released",
            Self::RulesChanged => "rules_changed",
        }
    }
}

/// A transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthChange {
    /// Before.
    pub from: HealthState,
    /// After.
    pub to: HealthState,
    /// Why.
    pub reason: Reason,
    /// How long, for an ejection.
    pub duration: Option<Duration>,
}

/// The rules of a pool that the state machine obeys.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthRules {
    /// Passes in a row to come up from down (the very first probe, and the first after loading, need one).
    pub rise: u32,
    /// Failures in a row to go down.
    pub fall: u32,
    /// Whether probes run at all; without them a backend is up.
    pub probed: bool,
    /// Failures of live traffic in a row that eject; 0: traffic never ejects.
    pub consecutive_failures: u32,
    /// The share of failures above which a backend much worse than the others is ejected; 0: never.
    pub failure_rate: f64,
    /// First ejection; the n-th in a row lasts n times as long.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
}

impl HealthRules {
    /// The rules that a pool's tables mean.
    pub fn new(health: &HealthPlan, outlier: &OutlierPlan) -> Self {
        Self {
            rise: health.rise,
            fall: health.fall,
            probed: health.kind != ProbeKind::None,
            consecutive_failures: outlier.consecutive_failures,
            failure_rate: outlier.failure_rate,
            base_ejection: outlier.base_ejection,
            max_ejection: outlier.max_ejection,
        }
    }

    /// How long the `nth` ejection in a row lasts.
    fn ejection(&self, nth: u32) -> Duration {
        self.base_ejection.saturating_mul(nth).min(self.max_ejection).min(EJECTION_LIMIT)
    }
}

/// What the pool knows of the other backends when one is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peers {
    /// The pool's cap allows one more ejection.
    pub may_eject: bool,
    /// How attempts ended lately at the others that are up: of one of the better third of them. `None`: nobody else had any.
    pub usual: Option<Tally>,
}

impl Peers {
    /// How many failures in a row are no chance, when failures are as common as among the others: the run that would be
    /// rarer than `by_chance`. At least 1; endless when all the others' attempts fail.
    fn telling_run(&self, by_chance: f64) -> f64 {
        // Of a few failures the share is drawn towards none; of some more nothing but failures means all.
        if self.usual.is_some_and(|usual| usual.good == 0 && usual.bad >= ALL_FAIL) {
            return f64::INFINITY;
        }
        let usual = self.usual.map_or(0.0, Tally::share);
        if usual <= 0.0 { 1.0 } else { (by_chance.ln() / usual.ln()).ceil().max(1.0) }
    }
}

/// The health of one backend.
#[derive(Debug)]
pub struct Health {
    rules: HealthRules,
    /// What the probes say, beneath any ejection.
    probe: HealthState,
    passes: u32,
    failures: u32,
    /// Signs of life in live traffic that the backend had counted at the last probe.
    answers_seen: u64,
    /// Failures of live traffic in a row.
    traffic_failures: u32,
    ejected_until: Option<Instant>,
    /// Ejections in a row: what the next one is multiplied with. Fades, see [`Self::eject`].
    streak: u32,
    /// When the last ejection ended.
    released: Option<Instant>,
    /// The next request begun after `released` decides.
    on_trial: bool,
    /// It hangs, and stays ejected until it moves or nothing waits for it any more.
    hangs: bool,
}

impl Health {
    /// A backend nothing is known of yet.
    pub fn new(rules: HealthRules) -> Self {
        let probe = if rules.probed { HealthState::Unknown } else { HealthState::Up };
        Self {
            rules,
            probe,
            passes: 0,
            failures: 0,
            answers_seen: 0,
            traffic_failures: 0,
            ejected_until: None,
            streak: 0,
            released: None,
            on_trial: false,
            hangs: false,
        }
    }

    /// Where the backend stands.
    pub fn state(&self) -> HealthState {
        if self.ejected_until.is_some() { HealthState::Ejected } else { self.probe }
    }

    /// When the present ejection ends.
    pub fn ejected_until(&self) -> Option<Instant> {
        self.ejected_until
    }

    /// Whether the next good answer matters: it ends a run of failures or a trial. Lets the request path skip the lock.
    pub fn awaits_success(&self) -> bool {
        self.traffic_failures > 0 || self.on_trial
    }

    /// Puts other rules in force; history stays. A backend whose probes or ejections are switched off is no longer
    /// kept out by them; one whose probes are switched on keeps its state until they say otherwise.
    pub fn set_rules(&mut self, rules: HealthRules, now: Instant) -> Option<HealthChange> {
        let before = self.state();
        if !rules.probed {
            self.probe = HealthState::Up;
            (self.passes, self.failures) = (0, 0);
        }
        if rules.consecutive_failures == 0 && !self.hangs {
            self.ejected_until = None;
            (self.streak, self.traffic_failures, self.on_trial) = (0, 0, false);
        } else if let Some(until) = self.ejected_until {
            let latest = now.checked_add(rules.max_ejection.min(EJECTION_LIMIT)).unwrap_or(until);
            self.ejected_until = Some(until.min(latest));
        }
        self.rules = rules;
        self.change(before, Reason::RulesChanged, None)
    }

    /// An active probe ended. `answers`: signs of life in live traffic so far, good answers and pieces of streams. A probe
    /// that got no answer in time, or heard that the engine is full, is no verdict while they grow: a busy engine probes
    /// late.
    pub fn probe_ended(&mut self, result: ProbeResult, answers: u64, _now: Instant) -> Option<HealthChange> {
        let before = self.state();
        let answering = answers > self.answers_seen;
        self.answers_seen = answers;
        let reason = match result {
            ProbeResult::Starved => return None,
            ProbeResult::Passed => {
                self.probe_passed();
                Reason::ProbePassed
            }
            ProbeResult::TimedOut | ProbeResult::Busy if answering && self.probe == HealthState::Up => return None,
            ProbeResult::TimedOut => {
                self.probe_failed();
                Reason::ProbeTimedOut
            }
            ProbeResult::Failed | ProbeResult::Busy => {
                self.probe_failed();
                Reason::ProbeFailed
            }
            ProbeResult::Loading => {
                (self.passes, self.failures) = (0, 0);
                if self.rules.probed {
                    self.probe = HealthState::Warming;
                }
                Reason::Loading
            }
        };
        self.change(before, reason, None)
    }

    fn probe_passed(&mut self) {
        self.passes = self.passes.saturating_add(1);
        self.failures = 0;
        let needed = match self.probe {
            HealthState::Unknown | HealthState::Warming => 1,
            HealthState::Up | HealthState::Down | HealthState::Ejected => self.rules.rise,
        };
        if self.passes >= needed {
            if self.probe != HealthState::Up {
                // It comes back from the dead: failures of its former life do not count against it.
                self.traffic_failures = 0;
            }
            self.probe = HealthState::Up;
        }
    }

    fn probe_failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.passes = 0;
        if self.rules.probed && (self.failures >= self.rules.fall || self.probe == HealthState::Unknown) {
            self.probe = HealthState::Down;
        }
    }

    /// Whether a request that ended `now` began before the last ejection ended. It says nothing about now: a stream may
    /// take minutes to break.
    pub fn predates(&self, outcome: &Outcome, now: Instant) -> bool {
        let began = now.checked_sub(outcome.total).unwrap_or(now);
        self.released.is_some_and(|released| began < released)
    }

    /// A request ended `now`. When the pool's cap forbids one more ejection, the next failure asks again.
    pub fn served(&mut self, outcome: &Outcome, now: Instant, peers: &Peers) -> Option<HealthChange> {
        if outcome.ending.says_nothing() || self.ejected_until.is_some() || self.predates(outcome, now) {
            return None;
        }
        if !outcome.ending.blames_backend() {
            self.traffic_failures = 0;
            self.on_trial = false;
            return None;
        }
        self.traffic_failures = self.traffic_failures.saturating_add(1);
        let (limit, run) = (self.rules.consecutive_failures, f64::from(self.traffic_failures));
        if limit == 0 || !peers.may_eject {
            return None;
        }
        if self.on_trial && run >= peers.telling_run(TRIAL_BY_CHANCE) {
            return Some(self.eject(Reason::TrialFailed, now));
        }
        let enough = run >= f64::from(limit) && run >= peers.telling_run(RUN_BY_CHANCE);
        enough.then(|| self.eject(Reason::ConsecutiveFailures, now))
    }

    /// Requests are in flight and nothing moves. An ejection that is in force already lasts until this ends.
    pub fn stalled(&mut self, now: Instant, may_eject: bool) -> Option<HealthChange> {
        if self.ejected_until.is_some() {
            self.hangs = true;
            return None;
        }
        if !may_eject {
            return None;
        }
        self.hangs = true;
        Some(self.eject(Reason::Stalled, now))
    }

    /// It moves again: an ejection for a stall is over at once, and the next request decides.
    pub fn progressed(&mut self, now: Instant) -> Option<HealthChange> {
        if !std::mem::replace(&mut self.hangs, false) {
            return None;
        }
        self.ejected_until?;
        self.end_ejection(now, Reason::Progressed)
    }

    /// A look at how attempts ended lately, `own` of this backend: ejects when its share of failures is surely above the
    /// configured one, and surely far above that of the others. Without others to compare with it never does.
    pub fn judged(&mut self, own: Tally, peers: &Peers, now: Instant) -> Option<HealthChange> {
        let threshold = self.rules.failure_rate;
        let off = threshold <= 0.0 || self.rules.consecutive_failures == 0 || !peers.may_eject;
        if off || self.state() != HealthState::Up || own.attempts() < LEAST_ATTEMPTS {
            return None;
        }
        let usual = peers.usual.map_or(1.0, |usual| usual.share_at_most(SURE_OF_OTHERS));
        let worse = own.share_at_least(SURE_OF_OWN) > threshold.max(TIMES_WORSE * usual);
        worse.then(|| self.eject(Reason::FailureRate, now))
    }

    /// Ejects. The n-th time in a row lasts n times as long; for every such time that passed without an ejection since
    /// the last one ended, n falls by one.
    fn eject(&mut self, reason: Reason, now: Instant) -> HealthChange {
        let from = self.state();
        let mut clean = self.released.map_or(Duration::ZERO, |released| now.saturating_duration_since(released));
        while self.streak > 0 {
            let Some(rest) = clean.checked_sub(self.rules.ejection(self.streak)) else { break };
            clean = rest;
            self.streak -= 1;
        }
        // Beyond the first that reaches the cap a longer memory would only delay the forgetting.
        if self.streak == 0 || self.rules.ejection(self.streak) < self.rules.max_ejection {
            self.streak = self.streak.saturating_add(1);
        }
        let pause = self.rules.ejection(self.streak);
        self.ejected_until = now.checked_add(pause).or(Some(now));
        (self.traffic_failures, self.on_trial) = (0, false);
        HealthChange { from, to: HealthState::Ejected, reason, duration: Some(pause) }
    }

    /// Time passed: an ejection may be over.
    pub fn tick(&mut self, now: Instant) -> Option<HealthChange> {
        if now < self.ejected_until? {
            return None;
        }
        self.end_ejection(now, Reason::EjectionOver)
    }

    /// Ends an ejection by hand. The next request decides, as after one that ran out.
    pub fn release(&mut self, now: Instant) -> Option<HealthChange> {
        self.ejected_until?;
        self.end_ejection(now, Reason::Released)
    }

    fn end_ejection(&mut self, now: Instant, reason: Reason) -> Option<HealthChange> {
        let before = self.state();
        self.ejected_until = None;
        self.hangs = false;
        self.released = Some(now);
        self.on_trial = true;
        self.change(before, reason, None)
    }

    fn change(&self, from: HealthState, reason: Reason, duration: Option<Duration>) -> Option<HealthChange> {
        let to = self.state();
        (from != to).then_some(HealthChange { from, to, reason, duration })
    }
}

#[cfg(test)]
mod tests;
