//! One state machine for what active probes and live traffic say of a backend.
//!
//! Probes move it between unknown, up and down by `rise` and `fall`; failures of live traffic eject it for a time that
//! grows with each ejection in a row. Every transition is returned as a [`HealthChange`], so that the caller logs it,
//! counts it and publishes a new set of candidates; no other code changes health.

use std::time::{Duration, Instant};

use super::{Ending, ProbeResult};
use crate::config::{HealthPlan, OutlierPlan, ProbeKind};

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
    /// It said that it is loading.
    Loading,
    /// Consecutive failures of live traffic.
    ConsecutiveFailures,
    /// The ejection ran out.
    EjectionOver,
}

impl Reason {
    /// The label in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProbePassed => "probe_passed",
            Self::ProbeFailed => "probe_failed",
            Self::Loading => "loading",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::EjectionOver => "ejection_over",
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
    /// Passes in a row to come up (the very first probe needs one).
    pub rise: u32,
    /// Failures in a row to go down.
    pub fall: u32,
    /// Whether probes run at all; without them a backend is up.
    pub probed: bool,
    /// Failures of live traffic in a row that eject; 0: never.
    pub consecutive_failures: u32,
    /// First ejection.
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
            base_ejection: outlier.base_ejection,
            max_ejection: outlier.max_ejection,
        }
    }
}

/// The health of one backend.
#[derive(Debug)]
pub struct Health {
    rules: HealthRules,
    /// What the probes say.
    probe: HealthState,
    passes: u32,
    failures: u32,
    /// Failures of live traffic in a row.
    traffic_failures: u32,
    ejected_until: Option<Instant>,
    ejections_in_a_row: u32,
}

impl Health {
    /// A backend nothing is known of yet.
    pub fn new(rules: HealthRules) -> Self {
        let probe = if rules.probed { HealthState::Unknown } else { HealthState::Up };
        Self { rules, probe, passes: 0, failures: 0, traffic_failures: 0, ejected_until: None, ejections_in_a_row: 0 }
    }

    /// Where the backend stands.
    pub fn state(&self) -> HealthState {
        if self.ejected_until.is_some() { HealthState::Ejected } else { self.probe }
    }

    /// Puts other rules in force; history stays.
    pub fn set_rules(&mut self, rules: HealthRules) {
        if !rules.probed {
            self.probe = HealthState::Up;
        }
        self.rules = rules;
    }

    /// An active probe ended.
    pub fn probe_ended(&mut self, result: ProbeResult, now: Instant) -> Option<HealthChange> {
        match result {
            ProbeResult::Passed => self.probed(true, now),
            ProbeResult::Failed | ProbeResult::TimedOut => self.probed(false, now),
            ProbeResult::Loading => self.loading(now),
        }
    }

    /// An active probe passed or failed.
    pub fn probed(&mut self, passed: bool, _now: Instant) -> Option<HealthChange> {
        let before = self.state();
        if passed {
            self.passes += 1;
            self.failures = 0;
            let needed = match self.probe {
                HealthState::Unknown | HealthState::Warming => 1,
                HealthState::Up | HealthState::Down | HealthState::Ejected => self.rules.rise,
            };
            if self.passes >= needed {
                self.probe = HealthState::Up;
            }
        } else {
            self.failures += 1;
            self.passes = 0;
            if self.failures >= self.rules.fall || self.probe == HealthState::Unknown {
                self.probe = HealthState::Down;
            }
        }
        self.change(before, if passed { Reason::ProbePassed } else { Reason::ProbeFailed }, None)
    }

    /// An active probe was answered with "still loading". An explicit word, so it counts at once and is no failure; one
    /// pass then brings the backend up.
    pub fn loading(&mut self, _now: Instant) -> Option<HealthChange> {
        let before = self.state();
        self.passes = 0;
        self.failures = 0;
        self.probe = HealthState::Warming;
        self.change(before, Reason::Loading, None)
    }

    /// A request ended. `may_eject`: whether the pool's cap allows one more ejection.
    pub fn served(&mut self, ending: Ending, now: Instant, may_eject: bool) -> Option<HealthChange> {
        if ending == Ending::ClientGone {
            return None;
        }
        if !ending.blames_backend() {
            self.traffic_failures = 0;
            if self.ejected_until.is_none() {
                self.ejections_in_a_row = 0;
            }
            return None;
        }
        self.traffic_failures = self.traffic_failures.saturating_add(1);
        let limit = self.rules.consecutive_failures;
        if limit == 0 || self.traffic_failures < limit || !may_eject || self.ejected_until.is_some() {
            return None;
        }
        let before = self.state();
        self.ejections_in_a_row = self.ejections_in_a_row.saturating_add(1);
        let pause = self.rules.base_ejection.saturating_mul(self.ejections_in_a_row).min(self.rules.max_ejection);
        self.ejected_until = Some(now + pause);
        self.traffic_failures = 0;
        self.change(before, Reason::ConsecutiveFailures, Some(pause))
    }

    /// Time passed: an ejection may be over.
    pub fn tick(&mut self, now: Instant) -> Option<HealthChange> {
        let until = self.ejected_until?;
        if now < until {
            return None;
        }
        let before = self.state();
        self.ejected_until = None;
        self.change(before, Reason::EjectionOver, None)
    }

    fn change(&self, from: HealthState, reason: Reason, duration: Option<Duration>) -> Option<HealthChange> {
        let to = self.state();
        (from != to).then_some(HealthChange { from, to, reason, duration })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> HealthRules {
        HealthRules {
            rise: 2,
            fall: 3,
            probed: true,
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(25),
        }
    }

    fn probe(health: &mut Health, results: &[ProbeResult]) -> HealthState {
        for result in results {
            health.probe_ended(*result, Instant::now());
        }
        health.state()
    }

    use ProbeResult::{Failed, Loading, Passed, TimedOut};

    #[test]
    fn probes_move_it_by_rise_and_fall() {
        for (results, expected) in [
            (&[][..], HealthState::Unknown),
            (&[Passed], HealthState::Up),
            (&[Failed], HealthState::Down),
            (&[Passed, Failed, TimedOut], HealthState::Up),
            (&[Passed, Failed, TimedOut, Failed], HealthState::Down),
            (&[Passed, Failed, Failed, Passed, Failed, Failed], HealthState::Up),
            (&[Failed, Passed], HealthState::Down),
            (&[Failed, Passed, Passed], HealthState::Up),
            (&[Failed, Passed, Failed, Passed], HealthState::Down),
            (&[Loading], HealthState::Warming),
            (&[Loading, Loading, Loading, Loading], HealthState::Warming),
            (&[Loading, Passed], HealthState::Up),
            (&[Passed, Loading], HealthState::Warming),
            (&[Loading, Failed, Failed, Failed], HealthState::Down),
        ] {
            assert_eq!(probe(&mut Health::new(rules()), results), expected, "{results:?}");
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let (mut health, now) = (Health::new(rules()), Instant::now());
        let change = health.probe_ended(Passed, now).unwrap();
        assert_eq!((change.from, change.to), (HealthState::Unknown, HealthState::Up));
        assert_eq!(health.probe_ended(Passed, now), None);
    }

    fn fail(health: &mut Health, times: u32, now: Instant) -> Option<HealthChange> {
        (0..times).map(|_| health.served(Ending::Served(500), now, true)).last().flatten()
    }

    #[test]
    fn ejection_grows_while_in_a_row_and_a_success_ends_the_row() {
        let mut health = Health::new(rules());
        let mut now = Instant::now();
        probe(&mut health, &[Passed]);
        for expected in [10, 20, 25, 25] {
            assert_eq!(fail(&mut health, 4, now), None);
            let change = fail(&mut health, 1, now).unwrap();
            assert_eq!((change.to, change.duration), (HealthState::Ejected, Some(Duration::from_secs(expected))));
            health.served(Ending::Served(200), now, true); // one that was still under way does not end the row
            assert_eq!(fail(&mut health, 9, now), None, "an ejected one is not ejected again");
            health.served(Ending::Served(200), now, true);
            now += Duration::from_secs(expected);
            assert_eq!(health.tick(now - Duration::from_millis(1)), None);
            assert_eq!(health.tick(now).unwrap().to, HealthState::Up);
        }
        health.served(Ending::Served(200), now, true);
        assert_eq!(fail(&mut health, 5, now).unwrap().duration, Some(Duration::from_secs(10)));
    }

    #[test]
    fn what_does_not_eject() {
        let (mut health, now) = (Health::new(rules()), Instant::now());
        probe(&mut health, &[Passed]);
        for _ in 0..20 {
            health.served(Ending::ClientGone, now, true);
            assert_eq!(fail(&mut health, 4, now), None);
            assert_eq!(health.served(Ending::Served(404), now, true), None);
        }
        for _ in 0..20 {
            assert_eq!(health.served(Ending::Reset, now, false), None, "the pool's cap is reached");
        }
        let mut off = Health::new(HealthRules { consecutive_failures: 0, ..rules() });
        assert_eq!(fail(&mut off, 50, now), None);
    }

    #[test]
    fn probes_decide_when_the_ejection_is_over() {
        let (mut health, now) = (Health::new(rules()), Instant::now());
        probe(&mut health, &[Passed]);
        fail(&mut health, 5, now);
        assert_eq!(probe(&mut health, &[Failed, Failed, Failed]), HealthState::Ejected);
        assert_eq!(health.tick(now + Duration::from_secs(10)).unwrap().to, HealthState::Down);
    }
}
