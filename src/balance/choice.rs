//! What several strategies share: the least of many with ties broken by chance, and a draw by weight.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

use super::columns::block_sum;
use super::{Pick, PickKind, Ticket};
use crate::backend::Backend;

/// One number per candidate, on the stack for pools of the usual size.
pub(super) type Numbers = SmallVec<[f64; 32]>;

/// The candidate of least cost. Of several equal ones each is as likely: ties that always went to the first would send
/// the whole of a quiet pool's traffic to one backend.
#[inline]
pub(super) fn cheapest(costs: impl Iterator<Item = f64>, rng: &mut SmallRng) -> Option<Pick> {
    cheapest_from(costs.map(|cost| (cost, move || cost)), rng)
}

/// The same where a cost is dear to work out: each comes with a number that it is not below, and is asked for only if that
/// one does not rule it out.
#[inline]
pub(super) fn cheapest_from<F: FnOnce() -> f64>(
    costs: impl Iterator<Item = (f64, F)>,
    rng: &mut SmallRng,
) -> Option<Pick> {
    let mut best: Option<usize> = None;
    let (mut least, mut ties) = (f64::INFINITY, 1_u32);
    for (index, (floor, cost)) in costs.enumerate() {
        if floor > least {
            continue;
        }
        let cost = cost();
        if cost > least {
            continue;
        }
        if cost == least && best.is_some() {
            // Reservoir: the k-th of equals replaces the one held with chance 1/k.
            ties += 1;
            if rng.random_range(0..ties) == 0 {
                best = Some(index);
            }
        } else {
            (best, least, ties) = (Some(index), cost, 1);
        }
    }
    best.map(|index| drawn(index, 1.0 / f64::from(ties)))
}

/// A candidate with a chance proportional to its share of `total`, the sum of `shares`; never one whose share is 0 while
/// another's is not.
#[inline]
pub(super) fn by_share(shares: &[f64], total: f64, rng: &mut SmallRng) -> usize {
    let mut left = rng.random::<f64>() * total;
    // Whole blocks first, so that each subtraction waits for one before it and not for eight.
    let mut begin = 0;
    for block in shares.as_chunks().0 {
        let sum = block_sum(block);
        if left < sum {
            break;
        }
        left -= sum;
        begin += block.len();
    }
    for (index, share) in shares.iter().enumerate().skip(begin) {
        left -= share;
        if left < 0.0 {
            return index;
        }
    }
    // Rounding left a hair.
    shares.iter().rposition(|share| *share > 0.0).unwrap_or(0)
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
