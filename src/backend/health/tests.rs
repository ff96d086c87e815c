//! The state machine in virtual time: a table of stories, and any sequence of events.

use proptest::prelude::*;

use super::*;
use crate::backend::Ending;

fn rules() -> HealthRules {
    HealthRules {
        rise: 2,
        fall: 3,
        probed: true,
        consecutive_failures: 5,
        failure_rate: 0.2,
        base_ejection: Duration::from_secs(10),
        max_ejection: Duration::from_secs(300),
    }
}

/// Nobody to compare with, and room for one more ejection.
const ALONE: Peers = Peers { may_eject: true, usual: None };

fn beside(good: u64, bad: u64) -> Peers {
    Peers { may_eject: true, usual: Some(Tally { good, bad }) }
}

/// A backend, and a clock that only moves when told.
struct Story {
    health: Health,
    now: Instant,
    answers: u64,
}

impl Story {
    fn new(rules: HealthRules) -> Self {
        Self { health: Health::new(rules), now: Instant::now(), answers: 0 }
    }

    fn up() -> Self {
        let mut story = Self::new(rules());
        story.probe(ProbeResult::Passed);
        assert_eq!(story.health.state(), HealthState::Up);
        story
    }

    fn wait(&mut self, seconds: f64) -> Option<HealthChange> {
        self.now += Duration::from_secs_f64(seconds);
        self.health.tick(self.now)
    }

    fn probe(&mut self, verdict: ProbeResult) -> Option<HealthChange> {
        self.health.probe_ended(verdict, self.answers, self.now)
    }

    fn answer(&mut self, status: u16) -> Option<HealthChange> {
        self.answers += u64::from(status < 500);
        self.health.served(&Outcome::served(status, Duration::from_millis(1)), self.now, &ALONE)
    }

    /// As many failures as eject a healthy backend; how long it is then out.
    fn eject(&mut self) -> f64 {
        for _ in 0..4 {
            assert_eq!(self.answer(500), None);
        }
        let change = self.answer(500).expect("the fifth failure ejects");
        assert_eq!((change.to, change.reason), (HealthState::Ejected, Reason::ConsecutiveFailures));
        change.duration.expect("an ejection has a length").as_secs_f64()
    }
}

#[test]
fn the_first_probe_decides_at_once() {
    let mut story = Story::new(rules());
    assert_eq!(story.health.state(), HealthState::Unknown);
    let change = story.probe(ProbeResult::Passed).unwrap();
    assert_eq!((change.from, change.to, change.reason), (HealthState::Unknown, HealthState::Up, Reason::ProbePassed));
    let mut story = Story::new(rules());
    assert_eq!(story.probe(ProbeResult::Failed).unwrap().to, HealthState::Down);
}

#[test]
fn three_failures_in_a_row_take_it_down_and_two_passes_bring_it_up() {
    use ProbeResult::{Failed, Passed};
    let mut story = Story::up();
    for verdict in [Failed, Failed, Passed, Failed, Failed] {
        assert_eq!(story.probe(verdict), None, "never three in a row");
    }
    assert_eq!(story.probe(Failed).unwrap().to, HealthState::Down);
    for verdict in [Passed, Failed, Passed] {
        assert_eq!(story.probe(verdict), None);
    }
    assert_eq!(story.probe(Passed).unwrap().to, HealthState::Up);
}

#[test]
fn loading_is_not_a_failure_and_ends_with_the_first_pass() {
    let mut story = Story::new(rules());
    assert_eq!(story.probe(ProbeResult::Loading).unwrap().to, HealthState::Warming);
    for _ in 0..100 {
        assert_eq!(story.probe(ProbeResult::Loading), None, "a model may take minutes to load");
    }
    let change = story.probe(ProbeResult::Passed).unwrap();
    assert_eq!((change.from, change.to), (HealthState::Warming, HealthState::Up));
    assert_eq!(story.probe(ProbeResult::Loading).unwrap().reason, Reason::Loading, "an engine that restarts says so");
}

#[test]
fn a_late_probe_is_no_verdict_while_live_requests_are_answered() {
    let mut story = Story::up();
    for _ in 0..10 {
        story.answer(200);
        assert_eq!(story.probe(ProbeResult::TimedOut), None);
    }
    assert_eq!(story.health.state(), HealthState::Up);
    assert_eq!(story.probe(ProbeResult::TimedOut), None);
    assert_eq!(story.probe(ProbeResult::TimedOut), None);
    let change = story.probe(ProbeResult::TimedOut).expect("nothing was answered since: it hangs");
    assert_eq!((change.to, change.reason), (HealthState::Down, Reason::ProbeTimedOut));
}

#[test]
fn five_failures_in_a_row_eject_and_a_success_between_does_not() {
    let mut story = Story::up();
    for status in [500, 502, 503, 429, 200, 500, 500, 500, 500] {
        assert_eq!(story.answer(status), None);
    }
    assert_eq!(story.answer(500).unwrap().duration, Some(Duration::from_secs(10)));
    assert_eq!(story.wait(9.9), None);
    let change = story.wait(0.2).unwrap();
    assert_eq!((change.from, change.to, change.reason), (HealthState::Ejected, HealthState::Up, Reason::EjectionOver));
}

#[test]
fn a_client_that_left_neither_ejects_nor_clears() {
    let mut story = Story::up();
    let gone = Outcome::failed(Ending::ClientGone, Duration::from_millis(1));
    for _ in 0..20 {
        assert_eq!(story.health.served(&gone, story.now, &ALONE), None);
    }
    for _ in 0..4 {
        story.answer(500);
        story.health.served(&gone, story.now, &ALONE);
    }
    assert!(story.answer(500).is_some());
}

#[test]
fn a_passing_probe_does_not_undo_an_ejection_and_a_failing_one_is_remembered() {
    let mut story = Story::up();
    story.eject();
    for _ in 0..10 {
        assert_eq!(story.probe(ProbeResult::Passed), None);
    }
    assert_eq!(story.health.state(), HealthState::Ejected);
    for _ in 0..3 {
        story.probe(ProbeResult::Failed);
    }
    assert_eq!(story.wait(10.0).unwrap().to, HealthState::Down, "its probes decide again");
}

#[test]
fn on_trial_one_failure_ejects_for_longer_and_one_success_closes_it() {
    let mut story = Story::up();
    assert_eq!(story.eject(), 10.0);
    story.wait(10.0);
    assert!(story.health.awaits_success());
    story.now += Duration::from_millis(5);
    let change = story.answer(500).expect("the trial failed");
    assert_eq!((change.reason, change.duration), (Reason::TrialFailed, Some(Duration::from_secs(20))));
    story.wait(20.0);
    story.now += Duration::from_millis(5);
    assert_eq!(story.answer(200), None);
    assert!(!story.health.awaits_success());
    assert_eq!(story.answer(500), None, "no longer on trial");
}

#[test]
fn what_began_before_the_ejection_ended_is_no_trial() {
    let mut story = Story::up();
    story.eject();
    story.wait(10.0);
    story.now += Duration::from_secs(1);
    let old = Outcome::failed(Ending::Reset, Duration::from_secs(60));
    assert_eq!(story.health.served(&old, story.now, &ALONE), None, "a stream from before breaks late");
    let old = Outcome::served(200, Duration::from_secs(60));
    assert_eq!(story.health.served(&old, story.now, &ALONE), None);
    assert!(story.health.awaits_success(), "and a success from before proves nothing");
    assert_eq!(story.answer(500).unwrap().reason, Reason::TrialFailed);
}

#[test]
fn ejections_grow_up_to_the_cap_and_good_behaviour_shortens_them_again() {
    let mut story = Story::up();
    let mut lengths = vec![story.eject()];
    for _ in 0..40 {
        let pause = *lengths.last().unwrap();
        story.wait(pause);
        story.now += Duration::from_millis(5);
        lengths.push(story.answer(500).unwrap().duration.unwrap().as_secs_f64());
    }
    assert_eq!(lengths[..4], [10.0, 20.0, 30.0, 40.0]);
    assert_eq!(lengths[39..], [300.0, 300.0]);
    story.wait(300.0);
    story.now += Duration::from_millis(5);
    story.answer(200);
    // 300 + 290 + … + 10 s of good behaviour forget everything; 300 + 290 s forget two of thirty.
    story.now += Duration::from_secs(590);
    assert_eq!(story.eject(), 290.0);
    story.wait(290.0);
    story.now += Duration::from_millis(5);
    story.answer(200);
    story.now += Duration::from_secs(4650);
    assert_eq!(story.eject(), 10.0);
}

#[test]
fn the_cap_of_the_pool_delays_an_ejection_and_does_not_forget_it() {
    let mut story = Story::up();
    let failed = Outcome::served(500, Duration::from_millis(1));
    for _ in 0..20 {
        assert_eq!(story.health.served(&failed, story.now, &Peers::default()), None);
    }
    assert!(story.health.served(&failed, story.now, &ALONE).is_some(), "room again");
}

#[test]
fn a_run_of_failures_proves_nothing_when_the_others_fail_as_often() {
    let run = |peers: Peers, most: u32| {
        let mut story = Story::up();
        let failed = Outcome::served(500, Duration::from_millis(1));
        (1..=most).find(|_| story.health.served(&failed, story.now, &peers).is_some())
    };
    assert_eq!(run(ALONE, 100), Some(5));
    assert_eq!(run(beside(1000, 0), 100), Some(5));
    assert_eq!(run(beside(990, 10), 100), Some(5), "one in a hundred");
    assert_eq!(run(beside(900, 100), 100), Some(8), "one in ten: 0.1 to the eighth is 1e-8");
    assert_eq!(run(beside(500, 500), 100), Some(27), "half of them");
    assert_eq!(run(beside(0, 10_000), 10_000), None, "all of them");
}

#[test]
fn on_trial_a_failure_proves_nothing_when_the_others_fail_as_often() {
    let on_trial = || {
        let mut story = Story::up();
        let pause = story.eject();
        story.wait(pause);
        story.now += Duration::from_millis(5);
        story
    };
    let failed = Outcome::served(500, Duration::from_millis(1));
    let run = |peers: Peers| {
        let mut story = on_trial();
        (1..100).find(|_| {
            let change = story.health.served(&failed, story.now, &peers);
            change.is_some_and(|change| {
                assert_eq!(change.reason, Reason::TrialFailed);
                true
            })
        })
    };
    assert_eq!([ALONE, beside(990, 10), beside(900, 100)].map(run), [Some(1), Some(1), Some(2)]);
    assert_eq!([beside(50, 50), beside(0, 1000)].map(run), [Some(5), None]);
}

#[test]
fn a_share_of_failures_ejects_only_far_above_the_others() {
    let verdict = |own: (u64, u64), peers: Peers| {
        let mut story = Story::up();
        let change = story.health.judged(Tally { good: own.0, bad: own.1 }, &peers, story.now);
        change.is_some_and(|change| {
            assert_eq!((change.to, change.reason), (HealthState::Ejected, Reason::FailureRate));
            true
        })
    };
    assert!(verdict((50, 50), beside(1000, 0)));
    assert!(verdict((10, 10), beside(1000, 0)));
    assert!(!verdict((9, 10), beside(1000, 0)), "fewer than twenty attempts");
    assert!(!verdict((850, 150), beside(1000, 0)), "below the threshold");
    assert!(verdict((700, 300), beside(1000, 0)), "above it");
    assert!(!verdict((70, 30), beside(1000, 0)), "perhaps above it, but not surely");
    assert!(!verdict((500, 500), beside(700, 300)), "the others are hardly better");
    assert!(verdict((300, 700), beside(700, 300)));
    assert!(!verdict((0, 1000), beside(0, 1000)), "all fail: nobody's fault");
    assert!(!verdict((10, 10), beside(3, 0)), "too little is known of the others");
    assert!(!verdict((50, 50), ALONE));
    assert!(!verdict((50, 50), Peers { may_eject: false, ..beside(1000, 0) }));
}

#[test]
fn an_ejection_ended_by_hand_is_followed_by_a_trial() {
    let mut story = Story::up();
    assert_eq!(story.health.release(story.now), None);
    story.eject();
    assert_eq!(story.health.release(story.now).unwrap().reason, Reason::Released);
    story.now += Duration::from_millis(5);
    assert_eq!(story.answer(500).unwrap().reason, Reason::TrialFailed);
}

#[test]
fn rules_that_no_longer_keep_it_out_let_it_in() {
    let mut story = Story::up();
    story.eject();
    let off = HealthRules { consecutive_failures: 0, ..rules() };
    let change = story.health.set_rules(off, story.now).unwrap();
    assert_eq!((change.from, change.to, change.reason), (HealthState::Ejected, HealthState::Up, Reason::RulesChanged));
    for _ in 0..20 {
        assert_eq!(story.answer(500), None);
    }
    let mut story = Story::new(rules());
    story.probe(ProbeResult::Failed);
    let unprobed = HealthRules { probed: false, ..rules() };
    assert_eq!(story.health.set_rules(unprobed, story.now).unwrap().to, HealthState::Up);
    let mut story = Story::up();
    story.eject();
    let short = HealthRules { max_ejection: Duration::from_secs(2), ..rules() };
    assert_eq!(story.health.set_rules(short, story.now), None);
    assert!(story.wait(2.0).is_some(), "a shorter limit shortens the present ejection");
}

#[derive(Debug, Clone)]
enum Event {
    Probe(u8),
    Answer { status: u16, took_ms: u64, may_eject: bool, good: u64, bad: u64 },
    Judged { own: (u64, u64), good: u64, bad: u64 },
    ClientGone,
    Wait(u64),
    Release,
    Rules { probed: bool, failures: u32, base_ms: u64, max_ms: u64 },
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..100u64, 0..1u64 << 60]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..4u8).prop_map(Event::Probe),
        (
            prop_oneof![Just(200), Just(500), Just(429)],
            prop_oneof![Just(1), 0..600_000u64],
            any::<bool>(),
            count(),
            count()
        )
            .prop_map(|(status, took_ms, may_eject, good, bad)| Event::Answer {
                status,
                took_ms,
                may_eject,
                good,
                bad
            }),
        ((count(), count()), count(), count()).prop_map(|(own, good, bad)| Event::Judged { own, good, bad }),
        Just(Event::ClientGone),
        (0..400_000u64).prop_map(Event::Wait),
        Just(Event::Release),
        (any::<bool>(), 0..4u32, prop_oneof![0..60_000u64, Just(u64::MAX)], prop_oneof![0..300_000u64, Just(u64::MAX)])
            .prop_map(|(probed, failures, base_ms, max_ms)| Event::Rules { probed, failures, base_ms, max_ms }),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_events_is_legal(events in proptest::collection::vec(event(), 1..200)) {
        let mut rules = HealthRules { consecutive_failures: 2, ..rules() };
        let mut health = Health::new(rules.clone());
        let mut now = Instant::now();
        let mut answers = 0;
        for event in events {
            let before = health.state();
            let change = match event {
                Event::Probe(kind) => {
                    let verdict = [
                        ProbeResult::Passed,
                        ProbeResult::Failed,
                        ProbeResult::TimedOut,
                        ProbeResult::Loading,
                    ][usize::from(kind)];
                    health.probe_ended(verdict, answers, now)
                }
                Event::Answer { status, took_ms, may_eject, good, bad } => {
                    answers += u64::from(status == 200);
                    health.served(&Outcome::served(status, Duration::from_millis(took_ms)), now, &Peers { may_eject, ..beside(good, bad) })
                }
                Event::Judged { own: (well, badly), good, bad } => {
                    health.judged(Tally { good: well, bad: badly }, &beside(good, bad), now)
                }
                Event::ClientGone => health.served(&Outcome::failed(Ending::ClientGone, Duration::ZERO), now, &ALONE),
                Event::Wait(millis) => {
                    now += Duration::from_millis(millis);
                    health.tick(now)
                }
                Event::Release => health.release(now),
                Event::Rules { probed, failures, base_ms, max_ms } => {
                    rules = HealthRules {
                        probed,
                        consecutive_failures: failures,
                        base_ejection: Duration::from_millis(base_ms),
                        max_ejection: Duration::from_millis(max_ms),
                        ..rules
                    };
                    health.set_rules(rules.clone(), now)
                }
            };
            let after = health.state();
            // A change is reported exactly when there is one, and tells the truth.
            prop_assert_eq!(change.is_some(), before != after);
            if let Some(change) = change {
                prop_assert_eq!((change.from, change.to), (before, after));
                if let Some(pause) = change.duration {
                    prop_assert!(change.to == HealthState::Ejected && pause <= rules.max_ejection);
                }
            }
            if let Some(until) = health.ejected_until() {
                prop_assert!(until <= now + rules.max_ejection.min(EJECTION_LIMIT), "out for longer than the limit");
                prop_assert!(rules.consecutive_failures > 0);
            }
            if !rules.probed && after != HealthState::Ejected {
                prop_assert_eq!(after, HealthState::Up, "without probes only an ejection keeps it out");
            }
        }
    }
}
