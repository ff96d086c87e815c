//! From a plan's backends to records: keeps those that stand in both, makes the new, names those that left.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::Writer;
use crate::backend::{Backend, BackendId, BackendSpec, Health, HealthRules};
use crate::config::{BackendPlan, PoolPlan};

/// The next [`BackendId`] of this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What [`build`] made.
pub(super) struct Built {
    pub(super) members: Box<[Arc<Backend>]>,
    pub(super) left: Vec<Arc<Backend>>,
}

/// The members that `plan` asks for. A backend keeps its record when its name and address are unchanged.
pub(super) fn build(plan: &PoolPlan, present: &[Arc<Backend>], writer: &mut Writer, now: Instant) -> Built {
    let rules = HealthRules::new(&plan.health, &plan.outlier);
    let members: Box<[Arc<Backend>]> = plan
        .backends
        .iter()
        .map(|wanted| {
            let kept = present.iter().find(|b| *b.name == *wanted.name && b.address == wanted.address);
            match kept {
                Some(backend) => {
                    backend.set_weight(wanted.weight);
                    backend.set_max_in_flight(limit(plan, wanted));
                    backend.set_admin_state(wanted.state);
                    backend.set_health_rules(rules.clone(), now);
                    backend.set_slow_start(plan.slow_start.as_ref());
                    Arc::clone(backend)
                }
                None => Arc::new(make(plan, wanted, rules.clone(), writer.take_slot(), now)),
            }
        })
        .collect();
    let stays = |backend: &Arc<Backend>| members.iter().any(|member| member.id == backend.id);
    let left = present.iter().filter(|backend| !stays(backend)).cloned().collect();
    Built { members, left }
}

/// Whether the backends that stand in both plans are to be believed, and spoken to, alike.
pub(super) fn trusts_alike(before: &PoolPlan, after: &PoolPlan) -> bool {
    after.backends.iter().all(|wanted| {
        let twin = before.backends.iter().find(|old| old.name == wanted.name && old.address == wanted.address);
        twin.is_none_or(|twin| twin.tls == wanted.tls)
    })
}

fn make(plan: &PoolPlan, wanted: &BackendPlan, rules: HealthRules, slot: usize, now: Instant) -> Backend {
    let spec = BackendSpec {
        name: wanted.name.clone(),
        address: wanted.address.clone(),
        weight: wanted.weight,
        max_in_flight: limit(plan, wanted),
        state: wanted.state,
    };
    let id = BackendId(NEXT_ID.fetch_add(1, Relaxed));
    Backend::new(id, slot, &spec, plan.slow_start.clone(), Health::new(rules), now)
}

fn limit(plan: &PoolPlan, wanted: &BackendPlan) -> u32 {
    wanted.max_in_flight.unwrap_or(plan.max_in_flight)
}
