//! The Q-table: a value and a count of visits for each state and backend. All cells are atomics, so a decision never
//! waits for a learner.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use super::super::atomic::Number;
use super::super::records::{self, Records};
use super::super::statistics::Tally;
use super::meter::Meter;
use super::state::{STATES, State};

/// A backend as an action: its slot, and its id, which is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Action {
    /// Dense index of the backend in its pool.
    pub slot: usize,
    /// Which backend that is.
    pub id: u64,
}

/// What is known of one backend.
#[derive(Debug)]
pub(super) struct Row {
    owner: AtomicU64,
    cells: OnceLock<Cells>,
    /// When it was last picked; negative: never.
    pub(super) used: Number,
    /// When it was last a candidate.
    pub(super) offered: Number,
    /// Picks so far, for diversity.
    pub(super) picks: Number,
    pub(super) meter: Meter,
    pub(super) tally: Tally,
}

/// Value and visits of each state.
#[derive(Debug)]
struct Cells {
    values: Box<[Number]>,
    visits: Box<[AtomicU32]>,
}

impl Row {
    fn cells(&self) -> &Cells {
        self.cells.get_or_init(|| Cells {
            values: (0..STATES).map(|_| Number::default()).collect(),
            visits: (0..STATES).map(|_| AtomicU32::new(0)).collect(),
        })
    }
}

impl Row {
    /// Q of this backend in that state; 0 while it has no cells.
    pub(super) fn value(&self, state: State) -> f64 {
        self.cells.get().and_then(|cells| cells.values.get(state.index())).map_or(0.0, Number::get)
    }
}

impl Default for Row {
    fn default() -> Self {
        Self {
            owner: AtomicU64::new(0),
            cells: OnceLock::new(),
            used: Number::new(-1.0),
            offered: Number::new(f64::NEG_INFINITY),
            picks: Number::default(),
            meter: Meter::default(),
            tally: Tally::default(),
        }
    }
}

impl records::Record for Row {
    fn owner(&self) -> &AtomicU64 {
        &self.owner
    }

    fn reset(&self) {
        if let Some(cells) = self.cells.get() {
            cells.values.iter().for_each(|value| value.set(0.0));
            cells.visits.iter().for_each(|visits| visits.store(0, Relaxed));
        }
        self.used.set(-1.0);
        self.offered.set(f64::NEG_INFINITY);
        self.picks.set(0.0);
        self.meter.reset();
        self.tally.reset();
    }
}

/// Values of all (state, backend) pairs.
#[derive(Debug)]
pub struct QTable {
    rows: Records<Row>,
    /// States that were ever updated.
    seen: Box<[AtomicBool]>,
}

impl Default for QTable {
    fn default() -> Self {
        Self { rows: Records::new(), seen: (0..STATES).map(|_| AtomicBool::new(false)).collect() }
    }
}

impl QTable {
    pub(super) fn row(&self, action: Action) -> Option<&Row> {
        self.rows.of(action.slot, action.id)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.owned()
    }

    fn cell(&self, state: State, action: Action) -> Option<(&Number, &AtomicU32)> {
        let cells = self.row(action)?.cells();
        Some((cells.values.get(state.index())?, cells.visits.get(state.index())?))
    }

    /// Q(s, a); 0 for a pair never seen.
    pub fn value(&self, state: State, action: Action) -> f64 {
        self.cell(state, action).map_or(0.0, |(value, _)| value.get())
    }

    /// How often the pair was updated.
    pub fn visits(&self, state: State, action: Action) -> u32 {
        self.cell(state, action).map_or(0, |(_, visits)| visits.load(Relaxed))
    }

    /// The best value of a state; 0 without actions (a terminal state).
    pub fn best_value(&self, state: State, actions: impl IntoIterator<Item = Action>) -> f64 {
        let best = actions.into_iter().map(|action| self.value(state, action)).fold(f64::NEG_INFINITY, f64::max);
        if best.is_finite() { best } else { 0.0 }
    }

    /// Moves Q(s, a) the share `rate` towards `target`; returns the error before. A target that is no number is ignored.
    pub fn nudge(&self, state: State, action: Action, target: f64, rate: f64) -> f64 {
        let Some((value, visits)) = self.cell(state, action).filter(|_| target.is_finite()) else { return 0.0 };
        let error = target - value.get();
        value.approach(target, rate);
        visits.fetch_add(1, Relaxed);
        if let Some(seen) = self.seen.get(state.index()) {
            seen.store(true, Relaxed);
        }
        error
    }

    /// Sets a pair to what was saved.
    pub(super) fn restore(&self, state: State, action: Action, saved: (f64, u32)) {
        if let Some((value, visits)) = self.cell(state, action) {
            value.set(saved.0);
            visits.store(saved.1, Relaxed);
            if let Some(seen) = self.seen.get(state.index()) {
                seen.store(true, Relaxed);
            }
        }
    }

    /// States that were ever updated.
    pub fn states(&self) -> usize {
        self.seen.iter().filter(|seen| seen.load(Relaxed)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: State = State([2, 1, 1, 0, 3]);

    fn action(id: u64) -> Action {
        Action { slot: id as usize, id }
    }

    #[test]
    fn the_guides_first_episode() {
        let table = QTable::default();
        let next = table.best_value(State([2, 1, 0, 0, 3]), (0..3).map(action));
        let error = table.nudge(STATE, action(1), 0.402 + 0.95 * next, 0.1);
        assert!((error - 0.402).abs() < 1e-12);
        assert!((table.value(STATE, action(1)) - 0.0402).abs() < 1e-12);
        assert_eq!((table.value(STATE, action(0)), table.states()), (0.0, 1));
    }

    #[test]
    fn the_guides_failing_pod() {
        let table = QTable::default();
        table.nudge(STATE, action(1), 0.82, 1.0);
        table.nudge(STATE, action(1), -4.8, 0.1);
        assert!((table.value(STATE, action(1)) - 0.258).abs() < 1e-12);
    }

    #[test]
    fn the_guides_learning_cycle_moves_a_tenth_of_the_way() {
        // 0.89 + 0.1 · (0.423 + 0.95 max − 0.89) is printed as 0.932, which means max Q(s') = 0.934.
        let table = QTable::default();
        table.nudge(STATE, action(2), 0.89, 1.0);
        table.nudge(STATE, action(2), 0.423 + 0.95 * 0.934, 0.1);
        assert!((table.value(STATE, action(2)) - 0.932).abs() < 0.001);
    }

    #[test]
    fn a_new_backend_in_the_slot_starts_at_zero_and_nonsense_is_ignored() {
        let table = QTable::default();
        table.nudge(STATE, action(1), 5.0, 1.0);
        assert_eq!(table.nudge(STATE, action(1), f64::NAN, 0.1), 0.0);
        assert_eq!(table.value(STATE, action(1)), 5.0);
        assert_eq!(table.value(STATE, Action { slot: 1, id: 9 }), 0.0);
        assert_eq!(table.best_value(STATE, []), 0.0);
    }
}
