//! IP hash: the same client to the same backend, as far as the pool allows it.

use std::sync::Arc;

use super::choice::{cheapest, load};
use super::columns::LANES;
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
        let loads = || cx.candidates.iter().map(|backend| load(backend, backend.weight(cx.now)));
        let Some(key) = cx.key.map(mix) else {
            let pick = cheapest(loads(), cx.rng)?;
            return Some(Pick { kind: PickKind::Fallback, ..pick });
        };
        let room = self.room(cx);
        let (mut best, mut least) = (None, f64::INFINITY);
        for (index, backend) in cx.candidates.iter().enumerate() {
            let weight = backend.weight(cx.now);
            let u = uniform(key, backend);
            // −ln(u) is at least 1 − u: most are beaten without a logarithm, and without a look at their room.
            if 1.0 - u < least * weight && f64::from(backend.in_flight()) < room * weight {
                let time = -u.ln() / weight;
                if time < least {
                    (best, least) = (Some(index), time);
                }
            }
        }
        // Someone always has room (not everyone can have more than their share); if counts moved meanwhile, least load.
        match best {
            Some(index) => Some(Pick::certain(index)),
            None => cheapest(loads(), cx.rng),
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
    fn room(&self, cx: &PickContext<'_>) -> f64 {
        if self.bound == 0.0 {
            return f64::INFINITY;
        }
        let (mut in_flight, mut weights) = (0, 0.0);
        // In groups, so that not every addition waits for all before it.
        for group in cx.candidates.chunks(LANES) {
            in_flight += group.iter().map(|backend| u64::from(backend.in_flight())).sum::<u64>();
            weights += group.iter().map(|backend| backend.weight(cx.now)).sum::<f64>();
        }
        self.bound * (in_flight as f64 + 1.0) / weights
    }
}

/// A number in (0, 1), the same for this client and backend always and everywhere.
#[inline]
fn uniform(key: u64, backend: &Arc<Backend>) -> f64 {
    let bits = mix(key ^ backend.name_hash()) >> 11;
    // 53 bits fit into either; the conversion of a signed number is one instruction.
    (bits as i64 as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64)
}
