//! The state encoder: five metrics of the service, each in a few bins. 5 · 5 · 5 · 3 · 5 = 1,875 states.

use serde::Serialize;

/// Bins of CPU, memory, response time, error rate and request rate.
const BINS: [usize; 5] = [5, 5, 5, 3, 5];

/// Widths of the bins: percent, percent, milliseconds, percent, requests a second.
const WIDTHS: [f64; 5] = [25.0, 25.0, 100.0, 5.0, 50.0];

/// States there can be.
pub const STATES: usize = BINS[0] * BINS[1] * BINS[2] * BINS[3] * BINS[4];

/// The five metrics; `None` is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Signals {
    /// CPU in use, percent.
    pub cpu: Option<f64>,
    /// Memory in use, percent.
    pub memory: Option<f64>,
    /// Mean response time, milliseconds.
    pub response_time: Option<f64>,
    /// Failed requests, percent.
    pub error_rate: Option<f64>,
    /// Requests a second.
    pub request_rate: Option<f64>,
}

impl Signals {
    fn values(&self) -> [Option<f64>; 5] {
        [self.cpu, self.memory, self.response_time, self.error_rate, self.request_rate]
    }

    /// Which of the five are unknown, in the order of the state.
    pub fn unknown(&self) -> [bool; 5] {
        self.values().map(|value| value.is_none())
    }

    /// The key under which an encoded state is kept: the metrics, rounded to a tenth.
    pub(super) fn key(&self) -> [i64; 5] {
        self.values().map(|value| value.map_or(i64::MIN, |value| (value * 10.0) as i64))
    }
}

/// A state: five bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct State(pub [u8; 5]);

impl State {
    /// Its place among all states, 0 to 1,874.
    #[inline]
    pub fn index(self) -> usize {
        self.0.iter().zip(BINS).fold(0, |index, (bin, bins)| index * bins + usize::from(*bin).min(bins - 1))
    }

    /// The state at that place; beyond the last it begins anew.
    pub fn from_index(index: usize) -> Self {
        let mut rest = index % STATES;
        let mut state = [0; 5];
        for (bin, bins) in state.iter_mut().zip(BINS).rev() {
            *bin = (rest % bins) as u8;
            rest /= bins;
        }
        Self(state)
    }
}

/// Bins metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct StateEncoder;

impl StateEncoder {
    /// The state that these metrics mean. What is unknown, or no number, is in bin 0 (the guide's default).
    pub fn encode(&self, signals: &Signals) -> State {
        let mut state = [0; 5];
        for (bin, ((value, width), bins)) in state.iter_mut().zip(signals.values().into_iter().zip(WIDTHS).zip(BINS)) {
            let value = value.unwrap_or(0.0).max(0.0);
            *bin = ((value / width) as usize).min(bins - 1) as u8;
        }
        State(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(cpu: f64, memory: f64, response_time: f64, error_rate: f64, request_rate: f64) -> [u8; 5] {
        let signals = Signals {
            cpu: Some(cpu),
            memory: Some(memory),
            response_time: Some(response_time),
            error_rate: Some(error_rate),
            request_rate: Some(request_rate),
        };
        StateEncoder.encode(&signals).0
    }

    #[test]
    fn the_guides_flash_sale() {
        assert_eq!(encode(78.4, 45.2, 234.0, 1.8, 167.0), [3, 1, 2, 0, 3]);
    }

    #[test]
    fn the_guides_three_pods() {
        // The first is printed as (1, 2, 0, 0, 0). In its overview 150 ms is bin 1 and 65 % CPU bin 2.
        assert_eq!(encode(45.2, 67.8, 89.0, 0.5, 34.2), [1, 2, 0, 0, 0]);
        assert_eq!(encode(78.9, 82.1, 156.0, 2.1, 67.8), [3, 3, 1, 0, 1]);
        assert_eq!(encode(23.4, 34.5, 67.0, 0.0, 12.3), [0, 1, 0, 0, 0]);
    }

    #[test]
    fn edges_and_nonsense_stay_within_the_bins() {
        assert_eq!(encode(25.0, 100.0, 400.0, 10.0, 200.0), [1, 4, 4, 2, 4]);
        assert_eq!(encode(1e9, 1e9, 1e9, 1e9, 1e9), [4, 4, 4, 2, 4]);
        assert_eq!(encode(-5.0, f64::NAN, f64::INFINITY, 0.0, 0.0), [0, 0, 4, 0, 0]);
        assert_eq!(StateEncoder.encode(&Signals::default()), State([0; 5]));
        assert_eq!(Signals::default().unknown(), [true; 5]);
    }

    #[test]
    fn there_are_1875_states_each_with_its_place() {
        assert_eq!(STATES, 1875);
        for index in 0..STATES {
            assert_eq!(State::from_index(index).index(), index);
        }
    }
}
