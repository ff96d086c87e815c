//! Power of two choices: two different backends at random, the less loaded of them.

use super::choice::{by_share, drawn, load};
use super::columns::{sum, with_columns};
use super::{Pick, PickContext, Strategy};

/// Draws two different candidates by weight and takes the one with less (in flight + 1) ÷ weight. While both are idle the
/// first drawn is taken, so a quiet pool shares by weight.
///
/// Looking at two instead of all costs little in balance and avoids the herd: several proxies that all see the same least
/// loaded backend do not all choose it.
#[derive(Debug)]
pub(super) struct PowerOfTwo;

impl Strategy for PowerOfTwo {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        if cx.candidates.len() < 2 {
            return (!cx.candidates.is_empty()).then(|| Pick::certain(0));
        }
        with_columns(cx.candidates.len(), |[weights, requests, parts]| {
            for ((backend, weight), requests) in cx.candidates.iter().zip(&mut *weights).zip(&mut *requests) {
                *weight = backend.weight(cx.now);
                *requests = f64::from(backend.in_flight());
            }
            let total = sum(weights);
            let first = by_share(weights, total, cx.rng);
            // The first is no candidate for the second.
            let weight = std::mem::take(weights.get_mut(first)?);
            let second = by_share(weights, total - weight, cx.rng);
            *weights.get_mut(first)? = weight;
            let seen = |index: usize| Some(Seen { weight: *weights.get(index)?, requests: *requests.get(index)? });
            let index = if seen(first)?.beats(seen(second)?) { first } else { second };
            Some(drawn(index, chance(weights, requests, index, seen(index)?, total, parts)))
        })
    }

    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        cx.candidates.iter().map(|backend| load(backend, backend.weight(cx.now))).collect()
    }
}

/// A candidate as this pick sees it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    weight: f64,
    /// In flight.
    requests: f64,
}

impl Seen {
    /// Whether `self`, drawn first, beats `other`, drawn second.
    #[inline]
    fn beats(self, other: Self) -> bool {
        // No branches: over a whole pool they would be mispredicted half of the time. Products of whole numbers are exact,
        // and cheaper than the two loads.
        ((self.requests == 0.0) & (other.requests == 0.0))
            | ((self.requests + 1.0) * other.weight <= (other.requests + 1.0) * self.weight)
    }
}

/// The chance that `index`, which is `one`, had: over all others, that the two were drawn in either order and it won.
/// `parts` is a column for its work.
fn chance(weights: &[f64], requests: &[f64], index: usize, one: Seen, total: f64, parts: &mut [f64]) -> f64 {
    let rest = 1.0 / (total - one.weight);
    for ((part, weight), requests) in parts.iter_mut().zip(weights).zip(requests) {
        let two = Seen { weight: *weight, requests: *requests };
        let drawn_second = if one.beats(two) { rest } else { 0.0 };
        let drawn_first = if two.beats(one) { 0.0 } else { 1.0 / (total - two.weight) };
        *part = two.weight * (drawn_second + drawn_first);
    }
    if let Some(itself) = parts.get_mut(index) {
        *itself = 0.0;
    }
    sum(parts) * one.weight / total
}
