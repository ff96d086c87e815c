//! The simulator's own chance. A scenario must be the same on every machine and with every version of every library, so
//! its generator is written out: xoshiro256++ (Blackman and Vigna), seeded by splitmix64.

/// A seeded stream of random numbers.
#[derive(Debug, Clone)]
pub struct Chance {
    state: [u64; 4],
}

/// Increment of splitmix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Chance {
    /// The stream of that seed.
    pub fn new(seed: u64) -> Self {
        let mut counter = seed.wrapping_add(GOLDEN);
        let state = std::array::from_fn(|_| {
            counter = counter.wrapping_add(GOLDEN);
            let mut word = counter;
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word ^ (word >> 31)
        });
        Self { state }
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let drawn = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let carried = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= carried;
        *d = d.rotate_left(45);
        drawn
    }

    /// Uniform in (0, 1), never an end.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// A whole number below `limit`.
    #[inline]
    pub fn below(&mut self, limit: usize) -> usize {
        (((self.bits() >> 32) * limit as u64) >> 32) as usize
    }

    /// Exponential with mean 1.
    #[inline]
    pub fn exponential(&mut self) -> f64 {
        -self.unit().ln()
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Log-normal with mean `mean` and log standard deviation `spread`.
    pub fn log_normal(&mut self, mean: f64, spread: f64) -> f64 {
        mean * (spread * self.normal() - spread * spread / 2.0).exp()
    }

    /// Uniform between `low` and `high`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Log-uniform between `low` and `high`.
    pub fn log_between(&mut self, low: f64, high: f64) -> f64 {
        (low.ln() + (high / low).ln() * self.unit()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ_by_seed() {
        let draw = |seed| (0..5).map(|_| Chance::new(seed).bits()).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(Chance::new(7).bits(), Chance::new(8).bits());
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut chance = Chance::new(1);
        let n = 200_000;
        let mut mean =
            |draw: &mut dyn FnMut(&mut Chance) -> f64| (0..n).map(|_| draw(&mut chance)).sum::<f64>() / f64::from(n);
        assert!((mean(&mut Chance::unit) - 0.5).abs() < 0.005);
        assert!((mean(&mut Chance::exponential) - 1.0).abs() < 0.015);
        assert!(mean(&mut Chance::normal).abs() < 0.01);
        assert!((mean(&mut |c| c.log_normal(3.0, 1.0)) - 3.0).abs() < 0.08);
        assert!((mean(&mut |c| c.below(7) as f64) - 3.0).abs() < 0.03);
        assert!((mean(&mut |c| c.between(2.0, 4.0)) - 3.0).abs() < 0.01);
    }
}
