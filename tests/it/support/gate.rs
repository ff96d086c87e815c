//! A gate: slowness in a test is a gate that the test opens, not a sleep.

use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;

/// Closed until opened; whoever waits at it then goes on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    open: bool,
    waiting: usize,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Lets everybody through, now and from now on.
    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// Makes whoever comes from now on wait again.
    pub(crate) fn shut(&self) {
        self.0.0.lock().unwrap().open = false;
    }

    /// Whether it is open.
    pub(crate) fn is_open(&self) -> bool {
        self.0.0.lock().unwrap().open
    }

    /// How many have come to the gate, those let through included.
    pub(crate) fn arrivals(&self) -> usize {
        self.0.0.lock().unwrap().waiting
    }

    /// Waits until it is open.
    pub(crate) fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.waiting += 1;
        let (state, _) = self.0.1.wait_timeout_while(state, PATIENCE, |state| !state.open).unwrap();
        assert!(state.open, "nobody opened the gate");
    }
}
