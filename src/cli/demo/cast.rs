//! Who plays in the demo: six mock instances of unequal speed, and what the schedule does to them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::mock::MockProfile;

/// Speed and slots of each instance. The spread is that of a pool grown over years: one new fast card, one old slow one.
const INSTANCES: [(f64, usize); 6] = [(2.0, 8), (1.5, 8), (1.0, 6), (1.0, 6), (0.7, 6), (0.4, 4)];

/// Share of the capacity that the load generator asks for: busy enough that a bad choice hurts, with room for the slow
/// phase, in which a quarter of the capacity is gone.
pub(super) const LOAD: f64 = 0.6;

/// The profiles of the six, named `instance-1` to `instance-6`.
pub(super) fn profiles() -> Vec<MockProfile> {
    (1..)
        .zip(INSTANCES)
        .map(|(number, (speed, slots))| MockProfile {
            speed,
            slots,
            tokens: 32,
            tokens_per_second: 80.0,
            first_token_ms: 80.0,
            seed: number,
            ..MockProfile::named(format!("instance-{number}"))
        })
        .collect()
}

/// Requests a second that all can serve together, by the mocks' own model.
pub(super) fn capacity(profiles: &[MockProfile]) -> f64 {
    profiles
        .iter()
        .map(|profile| {
            // At the intended load, the other slots are busy that often.
            let company = 1.0 + profile.contention * LOAD;
            let tokens = f64::from(profile.tokens) / profile.tokens_per_second * company;
            profile.slots as f64 * profile.speed / (profile.first_token_ms / 1000.0 + tokens)
        })
        .sum()
}

/// One turn of the schedule.
#[derive(Debug)]
pub(super) struct Turn {
    /// From the start of a round.
    pub(super) at: Duration,
    /// Which instance, from 0.
    pub(super) instance: usize,
    /// What is sent to its `/__mock`; `None`: nothing, an earlier order has run out.
    pub(super) order: Option<Value>,
    /// What the table then says of it; empty: nothing any more.
    pub(super) now: &'static str,
    /// What the list of events says, after the instance's name.
    pub(super) event: &'static str,
}

/// Length of a round; the schedule then begins again.
pub(super) const ROUND: Duration = Duration::from_secs(40);

/// A round: a slowdown that health checks cannot see, then a failure in two forms.
pub(super) fn schedule(profiles: &[MockProfile]) -> Vec<Turn> {
    let speed = profiles.first().map_or(1.0, |profile| profile.speed);
    let turn =
        |seconds, instance, order, now, event| Turn { at: Duration::from_secs(seconds), instance, order, now, event };
    vec![
        turn(10, 0, Some(json!({"speed": speed / 5.0})), "5x slower", "turns five times slower"),
        turn(20, 0, Some(json!({"speed": speed})), "", "is as fast as before"),
        turn(30, 3, Some(json!({"error_rate": 1.0})), "answers 500", "answers 500, and fast"),
        // Whoever refuses connections takes no orders either, so this one ends by itself.
        turn(35, 3, Some(json!({"error_rate": 0.0, "refuse_s": 5.0})), "refuses", "refuses connections"),
        turn(40, 3, None, "", "is well again"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_one_that_a_mock_takes_and_the_last_turn_heals() {
        let profiles = profiles();
        let mut now = profiles.clone();
        for turn in schedule(&profiles) {
            assert!(turn.at <= ROUND);
            let order = turn.order.unwrap_or_else(|| json!({}));
            now[turn.instance] = now[turn.instance].with(&order).unwrap();
        }
        assert_eq!(now, profiles);
    }

    #[test]
    fn the_load_leaves_room_in_the_worst_phase() {
        let profiles = profiles();
        let load = LOAD * capacity(&profiles);
        let mut slowed = profiles.clone();
        slowed[0].speed /= 5.0;
        assert!(load < 0.95 * capacity(&slowed), "{load} of {}", capacity(&slowed));
        assert!(load < 0.95 * capacity(&[&profiles[..3], &profiles[4..]].concat()));
    }
}
