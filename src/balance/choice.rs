//! What several strategies share: the least of many with ties broken by chance, and a draw by weight.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

use super::{Pick, PickKind, Ticket};
use crate::backend::Backend;

/// One number per candidate, on the stack for pools of the usual size.
pub(super) type Numbers = SmallVec<[f64; 32]>;

/// The candidate of least cost. Of several equal ones each is as likely: ties that always went to the first would send
/// the whole of a quiet pool's traffic to one backend.
pub(super) fn cheapest(costs: impl Iterator<Item = f64>, rng: &mut SmallRng) -> Option<Pick> {
    let mut best: Option<(usize, f64)> = None;
    let mut ties = 1_u32;
    for (index, cost) in costs.enumerate() {
        match best {
            Some((_, least)) if cost > least => {}
            // Reservoir: the k-th of equals replaces the one held with chance 1/k.
            Some((_, least)) if cost == least => {
                ties += 1;
                if rng.random_range(0..ties) == 0 {
                    best = Some((index, cost));
                }
            }
            Some(_) | None => {
                best = Some((index, cost));
                ties = 1;
            }
        }
    }
    best.map(|(index, _)| drawn(index, 1.0 / f64::from(ties)))
}

/// A candidate with a chance proportional to its share of `total`, the sum of `shares`; never one whose share is 0 while
/// another's is not.
#[inline]
pub(super) fn by_share(shares: impl Iterator<Item = f64>, total: f64, rng: &mut SmallRng) -> usize {
    let mut left = rng.random::<f64>() * total;
    let mut last = 0;
    for (index, share) in shares.enumerate() {
        left -= share;
        if left < 0.0 {
            return index;
        }
        if share > 0.0 {
            last = index;
        }
    }
    // Rounding left a hair.
    last
}

/// Requests that a backend would have, per weight, with one more.
#[inline]
pub(super) fn load(backend: &Arc<Backend>, weight: f64) -> f64 {
    (f64::from(backend.in_flight()) + 1.0) / weight
}

/// A pick that had this chance.
#[inline]
pub(super) fn drawn(index: usize, propensity: f64) -> Pick {
    Pick { index, ticket: Ticket(0), propensity: propensity as f32, kind: PickKind::Exploit }
}
