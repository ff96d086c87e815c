//! The action selector: ε-greedy with UCB, "equally good" within a tolerance, least recent use, rotation at the third
//! pick in a row, and a boost of ε when few backends get all the work.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::super::Kind;
use super::super::exploration::{Epsilon, Rotation, diversity, diversity_boost, upper_confidence};
use super::Settings;
use super::state::State;
use super::table::{Action, QTable};

/// Decisions of an episode: ε decays once per episode.
const EPISODE: u64 = 100;

/// A selected action.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// Index into the actions.
    pub index: usize,
    /// How it came about.
    pub kind: Kind,
    /// The chance it had.
    pub propensity: f64,
}

/// Selects actions.
#[derive(Debug)]
pub struct ActionSelector {
    pub(super) epsilon: Epsilon,
    pub(super) decisions: AtomicU64,
    rotation: Rotation,
    ucb_c: f64,
    tolerance: f64,
    rotation_after: u64,
    threshold: f64,
    boost: f64,
    random_ties: bool,
}

impl ActionSelector {
    /// A selector with these settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            epsilon: Epsilon::new(settings.initial_epsilon, settings.epsilon_decay, settings.min_epsilon),
            decisions: AtomicU64::new(0),
            rotation: Rotation::default(),
            ucb_c: settings.ucb_c,
            tolerance: settings.tolerance,
            rotation_after: u64::from(settings.rotation_after),
            threshold: settings.diversity_threshold,
            boost: settings.diversity_boost,
            random_ties: settings.random_ties,
        }
    }

    /// ε with the diversity boost.
    pub fn exploration_rate(&self, table: &QTable) -> f64 {
        (self.epsilon.now() + diversity_boost(self.diversity(table), self.threshold, self.boost)).min(1.0)
    }

    /// Normalised entropy of the picks, 0-1.
    pub fn diversity(&self, table: &QTable) -> f64 {
        let kinds = table.rows().filter(|row| row.picks.get() > 0.0).count();
        diversity(table.rows().map(|row| row.picks.get()), kinds)
    }

    /// Selects one of `actions`, which must not be empty, in `state`.
    pub fn select(&self, table: &QTable, state: State, actions: &[Action], rng: &mut SmallRng) -> Selection {
        let decisions = self.decisions.fetch_add(1, Relaxed) + 1;
        if decisions.is_multiple_of(EPISODE) {
            self.epsilon.step();
        }
        let epsilon = self.exploration_rate(table);
        let selection = if rng.random::<f64>() < epsilon {
            let index = self.explore(table, state, actions, decisions, rng);
            Selection { index, kind: Kind::Explore, propensity: epsilon }
        } else {
            let (index, share) = self.exploit(table, state, actions, rng);
            Selection { index, kind: Kind::Exploit, propensity: (1.0 - epsilon) * share }
        };
        self.rotate(table, state, actions, selection)
    }

    /// Replaces the selection when it would be one too many in a row: the best of the others, whatever its value.
    pub fn rotate(&self, table: &QTable, state: State, actions: &[Action], selection: Selection) -> Selection {
        let slot = |index: usize| actions.get(index).map_or(0, |action| action.slot);
        let run = self.rotation.run(slot(selection.index)) + 1;
        let mut chosen = selection;
        if self.rotation_after > 0 && run >= self.rotation_after {
            let others = actions.iter().enumerate().filter(|(index, _)| *index != selection.index);
            let value = |action: &Action| table.value(state, *action);
            if let Some((index, _)) = others.max_by(|(_, a), (_, b)| value(a).total_cmp(&value(b))) {
                chosen = Selection { index, kind: Kind::Rotated, ..selection };
            }
        }
        self.rotation.picked(slot(chosen.index));
        chosen
    }

    /// The highest upper confidence bound; an action never tried in this state comes first.
    fn explore(&self, table: &QTable, state: State, actions: &[Action], decisions: u64, rng: &mut SmallRng) -> usize {
        let mut best = (0, (0.0, f64::NEG_INFINITY));
        for (index, action) in actions.iter().enumerate() {
            let visits = table.visits(state, *action);
            let rank = if visits == 0 {
                (1.0, rng.random::<f64>())
            } else {
                let value = table.value(state, *action);
                (0.0, upper_confidence(value, self.ucb_c, decisions as f64 + 1.0, f64::from(visits)))
            };
            if rank > best.1 {
                best = (index, rank);
            }
        }
        best.0
    }

    /// Of those as good as the best, the least recently used: (index, chance among ties).
    fn exploit(&self, table: &QTable, state: State, actions: &[Action], rng: &mut SmallRng) -> (usize, f64) {
        let threshold = table.best_value(state, actions.iter().copied()) - self.tolerance;
        let mut best = (0, f64::INFINITY);
        let mut ties = 0.0_f64;
        for (index, action) in actions.iter().enumerate() {
            if table.value(state, *action) < threshold {
                continue;
            }
            ties += 1.0;
            let used = if self.random_ties {
                rng.random::<f64>()
            } else {
                table.row(*action).map_or(-1.0, |row| row.used.get())
            };
            if used < best.1 {
                best = (index, used);
            }
        }
        (best.0, if self.random_ties { 1.0 / ties.max(1.0) } else { 1.0 })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const STATE: State = State([1, 2, 1, 0, 2]);

    fn actions(count: u64) -> Vec<Action> {
        (0..count).map(|id| Action { slot: id as usize, id }).collect()
    }

    fn table(values: &[f64], used: &[f64]) -> QTable {
        let table = QTable::default();
        for (action, (value, used)) in actions(values.len() as u64).into_iter().zip(values.iter().zip(used)) {
            table.nudge(STATE, action, *value, 1.0);
            table.row(action).unwrap().used.set(*used);
        }
        table
    }

    fn selector(epsilon: f64, rotation_after: u32) -> ActionSelector {
        ActionSelector::new(&Settings {
            initial_epsilon: epsilon,
            min_epsilon: epsilon,
            rotation_after,
            diversity_boost: 0.0,
            ..Settings::default()
        })
    }

    #[test]
    fn the_guides_tolerance_takes_the_least_recently_used() {
        // Used 2.1 s, 8.7 s, 4.3 s and long ago; the last is not as good.
        let table = table(&[0.85, 0.83, 0.84, 0.72], &[10.0 - 2.1, 10.0 - 8.7, 10.0 - 4.3, 0.0]);
        let chosen = selector(0.0, 0).select(&table, STATE, &actions(4), &mut SmallRng::seed_from_u64(1));
        assert_eq!((chosen.index, chosen.kind), (1, Kind::Exploit));
    }

    #[test]
    fn the_guides_exploration_prefers_the_unknown() {
        let table = QTable::default();
        let pods = actions(3);
        for (action, (value, visits)) in pods.iter().zip([(0.75, 45), (0.82, 67), (0.45, 12)]) {
            for _ in 0..visits {
                table.nudge(STATE, *action, value, 1.0);
            }
        }
        let selector = selector(1.0, 0);
        selector.decisions.store(122, Relaxed);
        let chosen = selector.select(&table, STATE, &pods, &mut SmallRng::seed_from_u64(1));
        assert_eq!((chosen.index, chosen.kind), (2, Kind::Explore), "1.72 beats 1.40 and 1.36");
    }

    #[test]
    fn the_third_in_a_row_goes_to_the_second_best() {
        let table = table(&[0.9, 0.1, 0.5], &[0.0; 3]);
        let (selector, mut rng) = (selector(0.0, 3), SmallRng::seed_from_u64(1));
        let picks: Vec<_> = (0..6).map(|_| selector.select(&table, STATE, &actions(3), &mut rng)).collect();
        let indices: Vec<_> = picks.iter().map(|pick| pick.index).collect();
        assert_eq!(indices, [0, 0, 2, 0, 0, 2]);
        assert_eq!(picks[2].kind, Kind::Rotated);
    }

    #[test]
    fn epsilon_decays_once_in_a_hundred_decisions() {
        let settings = Settings { initial_epsilon: 0.8, epsilon_decay: 0.5, min_epsilon: 0.1, ..Settings::default() };
        let selector = ActionSelector::new(&settings);
        let (table, mut rng) = (QTable::default(), SmallRng::seed_from_u64(1));
        for _ in 0..199 {
            selector.select(&table, STATE, &actions(2), &mut rng);
        }
        assert_eq!(selector.epsilon.now(), 0.4);
    }
}
