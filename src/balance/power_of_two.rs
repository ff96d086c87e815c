//! Power of two choices: two different backends at random, the less loaded of them.

use super::choice::{Numbers, by_share, drawn, load};
use super::{Pick, PickContext, Strategy};

/// Draws two different candidates by weight and takes the one with less (in flight + 1) ÷ weight. While both are idle the
/// first drawn is taken, so a quiet pool shares by weight.
///
/// Looking at two instead of all costs little in balance and avoids the herd: several proxies that all see the same least
/// loaded backend do not all choose it.
#[derive(Debug)]
pub(super) struct PowerOfTwo;

/// A candidate as this pick sees it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    weight: f64,
    load: f64,
    idle: bool,
}

impl Seen {
    /// Whether `self`, drawn first, beats `other`, drawn second.
    #[inline]
    fn beats(&self, other: &Self) -> bool {
        (self.idle && other.idle) || self.load <= other.load
    }
}

impl Strategy for PowerOfTwo {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        if cx.candidates.len() < 2 {
            return (!cx.candidates.is_empty()).then(|| Pick::certain(0));
        }
        let seen: Vec<Seen> = cx
            .candidates
            .iter()
            .map(|backend| {
                let weight = backend.weight(cx.now);
                let in_flight = f64::from(backend.in_flight());
                Seen { weight, load: (in_flight + 1.0) / weight, idle: in_flight == 0.0 }
            })
            .collect();
        let mut weights: Numbers = seen.iter().map(|seen| seen.weight).collect();
        let total: f64 = weights.iter().sum();
        let first = by_share(&weights, total, cx.rng);
        let out = std::mem::replace(weights.get_mut(first)?, 0.0);
        let second = by_share(&weights, total - out, cx.rng);
        let index = if seen.get(first)?.beats(seen.get(second)?) { first } else { second };
        Some(drawn(index, chance(&seen, index, total)))
    }

    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        cx.candidates.iter().map(|backend| load(backend, backend.weight(cx.now))).collect()
    }
}

/// The chance that `index` had: over all others, that the two were drawn in either order and `index` won.
fn chance(seen: &[Seen], index: usize, total: f64) -> f64 {
    let Some(one) = seen.get(index) else { return 0.0 };
    let rest = 1.0 / (total - one.weight);
    let mut sum = 0.0;
    for (other, two) in seen.iter().enumerate() {
        if other == index {
            continue;
        }
        if one.beats(two) {
            sum += two.weight * rest;
        }
        if !two.beats(one) {
            sum += two.weight / (total - two.weight);
        }
    }
    sum * one.weight / total
}
