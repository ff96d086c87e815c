//! The immutable set of backends that the request path reads.

use std::sync::Arc;

use crate::backend::{Backend, HealthState};
use crate::config::{AdminState, PoolPlan};

/// One generation of a pool's backends; never mutated.
#[derive(Debug)]
pub struct BackendSet {
    /// Grows with every publication.
    pub generation: u64,
    /// Every backend of the pool, in the order of the configuration.
    pub members: Box<[Arc<Backend>]>,
    /// Those that may take new requests. When none is healthy (`fail_open`): all that are not drained or disabled.
    pub ready: Box<[Arc<Backend>]>,
    /// No member is healthy.
    pub fail_open: bool,
    /// Some member has a limit of requests in flight, so a pick must check it.
    pub limited: bool,
}

impl BackendSet {
    /// Sorts `members` into a set.
    pub(super) fn publish(generation: u64, members: Box<[Arc<Backend>]>, plan: &PoolPlan) -> Self {
        let wanted = |backend: &&Arc<Backend>| backend.admin_state() == AdminState::Ready;
        let healthy: Box<[Arc<Backend>]> =
            members.iter().filter(wanted).filter(|b| b.health_state() == HealthState::Up).cloned().collect();
        let limited = plan.max_in_flight != 0 || members.iter().any(|backend| backend.max_in_flight() != 0);
        if healthy.is_empty() {
            let ready = members.iter().filter(wanted).cloned().collect();
            return Self { generation, ready, members, fail_open: true, limited };
        }
        Self { generation, ready: healthy, members, fail_open: false, limited }
    }
}
