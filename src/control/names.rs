//! Host names of backends: looked up before the start and then every `resolve`, by the system's resolver.
//!
//! The system's resolver knows `/etc/hosts`, search domains, nsswitch and the container runtime's names, which a resolver
//! of our own would have to learn one by one. It does not tell how long an answer is valid; asking again every `resolve`
//! (10 s) is more often than what compose, Kubernetes and Consul promise (30 s and less), and a cache on the way obeys
//! them. A failed lookup keeps the last addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;

use super::effective::Resolved;
use super::{Control, leave};
use crate::clock;
use crate::config::{Address, Plan, PoolPlan};

/// The shortest pause between two lookups, whatever the configuration says.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// Looks up every name of `plan` at once; names without an answer are left out.
pub(super) async fn look_up(plan: &Plan) -> Resolved {
    let mut asked = tokio::task::JoinSet::new();
    for address in names(plan) {
        asked.spawn(async move {
            let answer = lookup_host(address.to_string()).await;
            let found = answer.map(|found| found.collect::<BTreeSet<SocketAddr>>().into_iter().collect());
            (address, found)
        });
    }
    let mut resolved = Resolved::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((address, Ok(found))) => drop(resolved.insert(address, found)),
            Ok((name, Err(error))) => tracing::debug!(%name, "lookup failed: {error}"),
            Err(_) => {}
        }
    }
    resolved
}

/// The names of `plan`, each once.
fn names(plan: &Plan) -> Vec<Address> {
    let backends = plan.pools.iter().flat_map(|pool| &pool.backends);
    let mut names = BTreeMap::new();
    for backend in backends {
        if let Address::Name { .. } = backend.address {
            names.insert(backend.address.to_string(), backend.address.clone());
        }
    }
    names.into_values().collect()
}

/// How long until the names of `plan` are to be looked up again; `None`: it has none.
pub(super) fn pause(plan: &Plan) -> Option<Duration> {
    let has_names = |pool: &&Arc<PoolPlan>| pool.backends.iter().any(|b| matches!(b.address, Address::Name { .. }));
    plan.pools.iter().filter(has_names).map(|pool| pool.resolve.max(LEAST_PAUSE)).min()
}

impl Control {
    /// The plan whose names are looked up: the file's, and the backends that were added through the API.
    pub(super) fn plan_of_names(&self) -> Plan {
        let with_added = |written: &Arc<PoolPlan>| {
            let added = self.overrides.added(&written.name);
            if added.is_empty() {
                return Arc::clone(written);
            }
            let mut pool = (**written).clone();
            pool.backends.extend(added);
            Arc::new(pool)
        };
        Plan { pools: self.plan.pools.iter().map(with_added).collect(), ..self.plan.clone() }
    }

    /// Takes over the answers of a lookup: addresses of names, and the backends of names that are expanded.
    pub(super) fn take_names(&mut self, found: Resolved) {
        for (name, addresses) in found.into_iter().filter(|(_, addresses)| !addresses.is_empty()) {
            self.resolved.insert(name, addresses);
        }
        let asked = names(&self.plan_of_names());
        self.resolved.retain(|name, _| asked.contains(name));
        self.apply_names();
    }

    /// Puts what is known of names in force.
    pub(super) fn apply_names(&self) {
        let routing = self.shared.routing.load();
        for (pool, written) in routing.pools.iter().zip(&self.plan.pools) {
            let plan = self.in_force(written);
            if *pool.plan() != plan {
                let (before, after) = (pool.set().members.len(), plan.backends.len());
                tracing::info!(pool = %pool.name, before, after, "backends changed with their names' addresses");
                let left = pool.apply(Arc::new(plan), clock::now());
                leave::follow(pool, left, None, self.plan.server.drain_timeout);
            }
            for backend in &pool.set().members {
                let Some(addresses) = self.resolved.get(&backend.address) else { continue };
                if let Some(address) = backend.set_endpoints(addresses) {
                    tracing::info!(pool = %pool.name, backend = %backend.name, name = %backend.address, %address, "resolved");
                }
            }
        }
    }
}
