//! Power of two choices: two different backends at random, the less loaded of them.

use super::choice::{by_share, drawn, load};
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
        // No branches: over a whole pool they would be mispredicted half of the time.
        (self.idle & other.idle) | (self.load <= other.load)
    }
}

impl Strategy for PowerOfTwo {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        if cx.candidates.len() < 2 {
            return (!cx.candidates.is_empty()).then(|| Pick::certain(0));
        }
        let mut total = 0.0;
        let seen: Vec<Seen> = cx
            .candidates
            .iter()
            .map(|backend| {
                let weight = backend.weight(cx.now);
                let in_flight = f64::from(backend.in_flight());
                total += weight;
                Seen { weight, load: (in_flight + 1.0) / weight, idle: in_flight == 0.0 }
            })
            .collect();
        let weights = || seen.iter().map(|seen| seen.weight);
        let first = by_share(weights(), total, cx.rng);
        let others = weights().enumerate().map(|(index, weight)| if index == first { 0.0 } else { weight });
        let second = by_share(others, total - seen.get(first)?.weight, cx.rng);
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
        let another = f64::from(u8::from(other != index));
        let drawn_second = f64::from(u8::from(one.beats(two))) * rest;
        let drawn_first = f64::from(u8::from(!two.beats(one))) / (total - two.weight);
        sum += another * two.weight * (drawn_second + drawn_first);
    }
    sum * one.weight / total
}
