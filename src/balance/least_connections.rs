//! Least connections: the backend with the fewest requests in flight for its weight.

use super::choice::{cheapest, load};
use super::{Pick, PickContext, Strategy};

/// Least (in flight + 1) ÷ weight. The one more is the request to be placed: without it a heavy and a light backend that
/// are both idle would be equals.
#[derive(Debug)]
pub(super) struct LeastConnections;

impl Strategy for LeastConnections {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let now = cx.now;
        cheapest(cx.candidates.iter().map(|backend| load(backend, backend.weight(now))), cx.rng)
    }

    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        cx.candidates.iter().map(|backend| load(backend, backend.weight(cx.now))).collect()
    }
}
