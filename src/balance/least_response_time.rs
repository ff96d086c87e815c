//! Least response time: the backend that is expected to answer first, by its own recent answers and its present load.

use super::choice::{Numbers, cheapest, load};
use super::{Pick, PickContext, Strategy};

/// Least average × (in flight + 1) ÷ weight, over all candidates.
///
/// The average (see [`Stats::average_cost`](crate::backend::Stats::average_cost)) holds failures at five seconds or more,
/// so failing fast does not look fast, and loses its force while a backend is idle, so one that was slow is tried again.
/// A backend of which nothing is known is taken to be as fast as the fastest: it gets its turn, and no more than its
/// share before the first answer, since each request in flight counts.
#[derive(Debug)]
pub(super) struct LeastResponseTime;

impl Strategy for LeastResponseTime {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let costs = costs(cx);
        cheapest(costs.into_iter(), cx.rng)
    }

    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        costs(cx).into_vec()
    }
}

fn costs(cx: &PickContext<'_>) -> Numbers {
    // Not a number: unknown.
    let averages: Numbers = cx
        .candidates
        .iter()
        .map(|backend| backend.stats.average_cost(cx.now, backend.in_flight() == 0).unwrap_or(f64::NAN))
        .collect();
    let fastest = averages.iter().copied().fold(f64::NAN, f64::min);
    // When nobody is known, all are alike and the load decides.
    let fastest = if fastest.is_nan() { 1.0 } else { fastest };
    let pairs = cx.candidates.iter().zip(&averages);
    pairs
        .map(|(backend, average)| {
            let average = if average.is_nan() { fastest } else { *average };
            average * load(backend, backend.weight(cx.now))
        })
        .collect()
}
