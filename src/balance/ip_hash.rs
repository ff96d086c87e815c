//! IP hash: the same client to the same backend, as far as the pool allows it.

use std::sync::Arc;

use super::choice::{Numbers, cheapest, load};
use super::{Pick, PickContext, PickKind, Strategy};
use crate::backend::{Backend, mix};
use crate::config::IpHashPlan;

/// Weighted rendezvous hashing. Every backend runs a race for every client: its time is −ln(u) ÷ weight, where u in (0, 1)
/// comes from [`mix`]`(mix(key) ^ hash of the backend's name)`; the first one home takes the client.
///
/// Each wins a share of clients equal to its share of the weights. When a backend leaves, only its own clients move, and
/// when its weight changes, only as many as must. There is no table: a filtered candidate, a slow start or a reload needs
/// no rebuilding, and every proxy with the same names agrees. Without a key (a request whose client is unknown) it falls
/// back to least connections.
#[derive(Debug)]
pub(super) struct IpHash {
    /// A backend may have this many times its fair share of the requests in flight; 0: any number.
    bound: f64,
}

impl IpHash {
    pub(super) fn new(plan: &IpHashPlan) -> Self {
        // Below 1 even an even spread would be forbidden.
        Self { bound: if plan.bounded_load > 0.0 { plan.bounded_load.max(1.0) } else { 0.0 } }
    }
}

impl Strategy for IpHash {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let weights: Numbers = cx.candidates.iter().map(|backend| backend.weight(cx.now)).collect();
        let pairs = || cx.candidates.iter().zip(&weights);
        let Some(key) = cx.key.map(mix) else {
            let pick = cheapest(pairs().map(|(backend, weight)| load(backend, *weight)), cx.rng)?;
            return Some(Pick { kind: PickKind::Fallback, ..pick });
        };
        let room = self.room(cx.candidates, &weights);
        let mut best: Option<(usize, f64)> = None;
        for (index, (backend, weight)) in pairs().enumerate() {
            if f64::from(backend.in_flight()) >= room * weight {
                continue;
            }
            let u = uniform(key, backend);
            // −ln(u) is at least 1 − u: most are beaten without a logarithm.
            let least = best.map_or(f64::INFINITY, |(_, least)| least);
            if 1.0 - u < least * weight {
                let time = -u.ln() / weight;
                if time < least {
                    best = Some((index, time));
                }
            }
        }
        // Someone always has room (not everyone can have more than their share); if counts moved meanwhile, least load.
        match best {
            Some((index, _)) => Some(Pick::certain(index)),
            None => cheapest(pairs().map(|(backend, weight)| load(backend, *weight)), cx.rng),
        }
    }

    /// The times of the race.
    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        let weighted = cx.candidates.iter().map(|backend| (backend, backend.weight(cx.now)));
        match cx.key.map(mix) {
            Some(key) => weighted.map(|(backend, weight)| -uniform(key, backend).ln() / weight).collect(),
            None => weighted.map(|(backend, weight)| load(backend, weight)).collect(),
        }
    }
}

impl IpHash {
    /// Requests in flight per weight from which on a backend is passed over: consistent hashing with bounded loads. The
    /// request to be placed counts, and a part of one is rounded up when compared.
    fn room(&self, candidates: &[Arc<Backend>], weights: &[f64]) -> f64 {
        if self.bound == 0.0 {
            return f64::INFINITY;
        }
        let in_flight: f64 = candidates.iter().map(|backend| f64::from(backend.in_flight())).sum();
        self.bound * (in_flight + 1.0) / weights.iter().sum::<f64>()
    }
}

/// A number in (0, 1), the same for this client and backend always and everywhere.
#[inline]
fn uniform(key: u64, backend: &Arc<Backend>) -> f64 {
    let bits = mix(key ^ backend.name_hash) >> 11;
    (bits as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64)
}
