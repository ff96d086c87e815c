//! Least response time: the backend that is expected to answer first, by its own recent answers and its present load.

use std::sync::Arc;

use super::choice::{Numbers, cheapest, cheapest_from, load};
use super::{Pick, PickContext, Strategy};
use crate::backend::{Backend, Moment, faded, fades_to_at_least};

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
        let (now, moment) = (cx.now, Moment::of(cx.now));
        let mut unknown = false;
        let costs = cx.candidates.iter().map(|backend| {
            let unfaded = backend.stats.unfaded_cost(moment, backend.in_flight() == 0);
            unknown |= unfaded.is_none();
            let (cost, age) = unfaded.unwrap_or((0.0, 0.0));
            let load = load(backend, backend.weight(now));
            // Most are beaten without the power that fading takes.
            (fades_to_at_least(cost, age) * load, move || faded(cost, age) * load)
        });
        let pick = cheapest_from(costs, cx.rng);
        if unknown {
            return cheapest(costs_with_unknown(cx).into_iter(), cx.rng);
        }
        pick
    }

    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        costs_with_unknown(cx).into_vec()
    }
}

#[inline]
fn average(backend: &Arc<Backend>, now: Moment) -> Option<f64> {
    backend.stats.average_cost(now, backend.in_flight() == 0)
}

fn costs_with_unknown(cx: &PickContext<'_>) -> Numbers {
    let now = Moment::of(cx.now);
    let known = || cx.candidates.iter().filter_map(|backend| average(backend, now));
    // When nobody is known, all are alike and the load decides.
    let fastest = known().reduce(f64::min).unwrap_or(1.0);
    let cost = |backend| average(backend, now).unwrap_or(fastest) * load(backend, backend.weight(cx.now));
    cx.candidates.iter().map(cost).collect()
}
