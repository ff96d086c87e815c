//! What a person sees of a backend: the guide's five bins, in the adaptive agent's terms. Only load, drift and errors
//! enter the cost; CPU and memory are shown (as a price they gained nothing on random scenarios).

use serde::Serialize;

use super::value::bin;

/// Bounds between the drift bins.
const DRIFT_BOUNDS: [f64; 4] = [0.75, 1.25, 2.0, 4.0];

/// Width of the bins of CPU and memory.
const RESOURCE_STEP: f64 = 0.25;

/// Highest bin of CPU and memory: overloaded.
const RESOURCE_BINS: f64 = 4.0;

/// The state of one backend, binned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct State {
    /// Load bin, 0-47.
    pub load: u8,
    /// Faster than learned (0), as learned (1), slower (2 to 4).
    pub drift: u8,
    /// Clean (0), suspected (1), on trial (2).
    pub errors: u8,
    /// 25 % steps, 4 above 100 %; `None`: unknown.
    pub cpu: Option<u8>,
    /// 25 % steps, 4 above 100 %; `None`: unknown.
    pub memory: Option<u8>,
}

impl State {
    /// Bins what is known. `cpu` and `memory` are fractions.
    pub fn encode(in_flight: u32, drift: f64, errors: u8, cpu: Option<f64>, memory: Option<f64>) -> Self {
        Self {
            load: bin(in_flight) as u8,
            drift: DRIFT_BOUNDS.iter().filter(|bound| drift >= **bound).count() as u8,
            errors,
            cpu: cpu.map(resource_bin),
            memory: memory.map(resource_bin),
        }
    }
}

fn resource_bin(fraction: f64) -> u8 {
    (fraction / RESOURCE_STEP).clamp(0.0, RESOURCE_BINS) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_those_of_the_design() {
        let state = State::encode(30, 1.0, 1, Some(0.784), None);
        assert_eq!((state.drift, state.errors, state.cpu, state.memory), (1, 1, Some(3), None));
        assert_eq!(state.load as usize, bin(30));
        for (drift, expected) in [(0.5, 0), (0.75, 1), (1.3, 2), (3.0, 3), (10.0, 4)] {
            assert_eq!(State::encode(0, drift, 0, None, Some(9.0)).drift, expected);
        }
        assert_eq!(State::encode(0, 1.0, 0, Some(f64::NAN), Some(1.0)).cpu, Some(0));
        assert_eq!(State::encode(0, 1.0, 0, None, Some(1.0)).memory, Some(4));
    }
}
