//! Load bins, the curve over them, and its Bellman value.
//!
//! The curve `q(i)` is the expected latency at load bin `i` relative to the backend's level. It is a mean of what was
//! seen (the cells) and what is plausible (the prior: the pool's curve, and beyond what is known an extrapolation that
//! is pessimistic in load). The Bellman equation `V = W + γ V(s')` with `s' = s` (the next request finds the backend as
//! loaded as this one did) has the fixed point
//!
//! ```text
//! V(n) = q(0) + W(n) / (1 − γ)        W(n) = max(0, q(n) − q(0))
//! ```
//!
//! so a queueing delay is charged 1/(1 − γ) times: once for this request and, discounted, for those behind it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Load bins: each load up to 23 its own, then five per doubling.
pub(super) const BINS: usize = 48;

/// Loads that have a bin of their own.
const SINGLE: usize = 24;

/// Bins per doubling of the load beyond.
const PER_DOUBLING: f64 = 5.0;

/// A cell counts for more than its prior after this many requests (K).
pub(super) const CELL_PRIOR: f64 = 40.0;

/// The pool's cell counts for more than extrapolation after this many requests.
const POOL_PRIOR: f64 = 20.0;

/// Offset of the extrapolation where nothing is known: q grows as (load + 4).
const UNKNOWN_OFFSET: f64 = 4.0;

/// Offset of the extrapolation beyond the last known cell.
const KNOWN_OFFSET: f64 = 2.0;

/// Mean load assumed of a backend that never was seen.
const UNSEEN_LOAD: f64 = 2.0;

/// Least relative latency a curve may show: keeps divisions finite.
const LEAST: f64 = 1e-3;

/// The bin of `n` requests in flight.
#[inline]
pub(super) fn bin(n: u32) -> usize {
    if (n as usize) < SINGLE { n as usize } else { wide_bin(n) }
}

/// Apart, so that what asks for the bin of an ordinary load stays small enough to be inlined.
#[cold]
fn wide_bin(n: u32) -> usize {
    (SINGLE + ((f64::from(n) / SINGLE as f64).log2() * PER_DOUBLING) as usize).min(BINS - 1)
}

/// The load that each bin stands for.
pub(super) fn representatives() -> [f64; BINS] {
    std::array::from_fn(|i| {
        if i < SINGLE { i as f64 } else { SINGLE as f64 * 2_f64.powf((i as f64 - SINGLE as f64 + 0.5) / PER_DOUBLING) }
    })
}

/// What was seen at each load: a decaying count and a running mean.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cells {
    pub(super) count: [f64; BINS],
    pub(super) mean: [f64; BINS],
}

/// Expected relative latency and its Bellman value at every load.
pub(super) type CurveValues = [(f64, f64); BINS];

/// The curve that `cells` and the pool's cells make plausible.
pub(super) fn compile(cells: &Cells, pool: &Cells, loads: &[f64; BINS], gamma: f64) -> CurveValues {
    let seen: f64 = cells.count.iter().sum();
    let weighted: f64 = cells.count.iter().zip(loads).map(|(count, load)| count * load).sum();
    let mean_load = if seen > 0.0 { weighted / seen } else { UNSEEN_LOAD };
    let mut known = (0.0, UNKNOWN_OFFSET / (mean_load + UNKNOWN_OFFSET), UNKNOWN_OFFSET);
    let mut curve = [(0.0, 0.0); BINS];
    let rows = cells.count.iter().zip(&cells.mean).zip(pool.count.iter().zip(&pool.mean)).zip(loads);
    for (point, (((count, mean), (pool_count, pool_mean)), load)) in curve.iter_mut().zip(rows) {
        let (known_load, known_q, offset) = known;
        let extrapolated = known_q * (load + offset) / (known_load + offset);
        let trust = pool_count / (pool_count + POOL_PRIOR);
        let prior = trust * pool_mean + (1.0 - trust) * extrapolated;
        point.0 = ((count * mean + CELL_PRIOR * prior) / (count + CELL_PRIOR)).max(LEAST);
        if *count > CELL_PRIOR {
            known = (*load, point.0, KNOWN_OFFSET);
        }
    }
    let idle = curve[0].0;
    for point in &mut curve {
        point.1 = idle + (point.0 - idle).max(0.0) / (1.0 - gamma);
    }
    curve
}

/// A published curve: readers see each point whole, and points of two compilations a tenth of a second apart may mix.
pub(super) struct Curve([AtomicU64; BINS]);

impl Curve {
    /// The curve of a backend nothing is known of.
    pub(super) fn flat() -> Self {
        let curve = Self([const { AtomicU64::new(0) }; BINS]);
        curve.publish(&[(1.0, 1.0); BINS]);
        curve
    }

    /// Replaces the points.
    pub(super) fn publish(&self, values: &CurveValues) {
        for (cell, (q, v)) in self.0.iter().zip(values) {
            let packed = u64::from((*q as f32).to_bits()) << 32 | u64::from((*v as f32).to_bits());
            cell.store(packed, Relaxed);
        }
    }

    /// q at the load `n`: expected latency relative to the level.
    #[inline]
    pub(super) fn q(&self, n: u32) -> f64 {
        self.q_at(bin(n))
    }

    /// q at a bin.
    #[inline]
    pub(super) fn q_at(&self, bin: usize) -> f64 {
        f64::from(f32::from_bits((self.0[bin].load(Relaxed) >> 32) as u32))
    }

    /// V at the load `n`.
    #[inline]
    pub(super) fn value(&self, n: u32) -> f64 {
        f64::from(f32::from_bits(self.0[bin(n)].load(Relaxed) as u32))
    }
}

impl std::fmt::Debug for Curve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries((0..BINS).map(|bin| self.q_at(bin))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAMMA: f64 = 0.75;

    fn empty() -> Cells {
        Cells { count: [0.0; BINS], mean: [1.0; BINS] }
    }

    #[test]
    fn bins_follow_the_load() {
        assert_eq!((bin(0), bin(23), bin(24)), (0, 23, 24));
        assert_eq!(bin(u32::MAX), BINS - 1);
        let loads = representatives();
        for n in 0..2000 {
            assert!(bin(n + 1) >= bin(n));
            if n >= 24 && bin(n) < BINS - 1 {
                assert!((loads[bin(n)] / f64::from(n)).log2().abs() <= 0.2, "load {n} is in the middle of its bin");
            }
        }
    }

    #[test]
    fn the_bellman_value_is_a_fixed_point() {
        let mut cells = empty();
        for (i, mean) in cells.mean.iter_mut().enumerate() {
            *mean = 1.0 + i as f64 / 10.0;
        }
        cells.count = [1e9; BINS];
        let curve = compile(&cells, &cells, &representatives(), GAMMA);
        let idle = curve[0].0;
        for (q, v) in curve {
            let queueing = q - idle;
            let value = v - idle;
            assert!((value - (queueing + GAMMA * value)).abs() < 1e-9);
        }
    }

    #[test]
    fn an_unknown_curve_rises_with_load() {
        let curve = compile(&empty(), &empty(), &representatives(), GAMMA);
        assert!((curve[2].0 - 1.0).abs() < 1e-12, "one at the mean load");
        assert!((curve[0].0 - 4.0 / 6.0).abs() < 1e-12);
        assert!(curve.windows(2).all(|pair| pair[1].0 > pair[0].0 && pair[1].1 > pair[0].1));
    }

    #[test]
    fn the_pool_teaches_a_new_backend_and_its_own_cells_overrule() {
        let mut pool = empty();
        pool.count = [1e6; BINS];
        pool.mean = [2.0; BINS];
        let taught = compile(&empty(), &pool, &representatives(), GAMMA);
        assert!((taught[5].0 - 2.0).abs() < 1e-3);
        let mut cells = empty();
        cells.count = [4000.0; BINS];
        cells.mean = [3.0; BINS];
        let own = compile(&cells, &pool, &representatives(), GAMMA);
        assert!((own[5].0 - 3.0).abs() < 0.02);
    }

    #[test]
    fn a_published_point_is_read_whole() {
        let curve = Curve::flat();
        let mut values = [(1.0, 1.0); BINS];
        values[7] = (2.5, 4.0);
        curve.publish(&values);
        assert_eq!((curve.q(7), curve.value(7), curve.q(8)), (2.5, 4.0, 1.0));
    }
}
