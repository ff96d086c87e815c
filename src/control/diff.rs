//! What a new plan changes, in words for the log and JSON for the API. Also tells what only a restart can change.

use serde_json::{Value, json};

use super::listeners::pair;
use crate::config::{BackendPlan, Plan, PoolPlan};

/// The differences between two plans.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Diff {
    /// Key paths whose value changed, with `+` or `-` before what came or went.
    pub changes: Vec<String>,
    /// Key paths that take effect at the next start only.
    pub restart_required: Vec<String>,
}

impl Diff {
    /// What `new` changes in `old`.
    pub fn between(old: &Plan, new: &Plan) -> Self {
        let mut diff = Self::default();
        diff.restart("server.threads", old.server.threads != new.server.threads);
        diff.restart("log.format", old.log.format != new.log.format);
        let admin = |plan: &Plan| plan.admin.as_ref().map(|admin| admin.address);
        diff.restart("admin.address", admin(old) != admin(new));
        let open = |plan: &Plan| plan.admin.as_ref().map(|admin| admin.public_metrics);
        diff.restart("admin.public_metrics", admin(old) == admin(new) && open(old) != open(new));
        let token = |plan: &Plan| plan.admin.as_ref().map(|admin| admin.token.clone());
        diff.change("admin.token_file", admin(old) == admin(new) && token(old) != token(new));
        diff.change("server.drain_delay", old.server.drain_delay != new.server.drain_delay);
        diff.change("server.drain_timeout", old.server.drain_timeout != new.server.drain_timeout);
        diff.restart("server.max_connections", old.server.max_connections != new.server.max_connections);
        diff.change("log.level", old.log.level != new.log.level);
        diff.change("access_log", old.access_log != new.access_log);
        diff.listeners(old, new);
        diff.pools(old, new);
        diff.change("routes", routes_differ(old, new));
        diff
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.restart_required.is_empty()
    }

    /// The diff as the API shows it.
    pub fn to_json(&self) -> Value {
        json!({ "changes": self.changes, "restart_required": self.restart_required })
    }

    fn change(&mut self, key: &str, differs: bool) {
        if differs {
            self.changes.push(key.to_owned());
        }
    }

    fn restart(&mut self, key: &str, differs: bool) {
        if differs {
            self.restart_required.push(key.to_owned());
        }
    }

    fn listeners(&mut self, old: &Plan, new: &Plan) {
        let pairs = pair(&old.listeners, &new.listeners);
        for (listener, place) in new.listeners.iter().zip(&pairs) {
            match place.and_then(|place| old.listeners.get(place)) {
                None => self.changes.push(format!("+ listeners {}", listener.address)),
                Some(known) => self.change(&format!("listeners {}", listener.address), known != listener),
            }
        }
        for (index, listener) in old.listeners.iter().enumerate() {
            if !pairs.contains(&Some(index)) {
                self.changes.push(format!("- listeners {}", listener.address));
            }
        }
    }

    fn pools(&mut self, old: &Plan, new: &Plan) {
        for pool in &new.pools {
            match old.pools.iter().find(|known| known.name == pool.name) {
                None => self.changes.push(format!("+ pools.{}", pool.name)),
                Some(known) => self.pool(known, pool),
            }
        }
        for pool in &old.pools {
            if !new.pools.iter().any(|known| known.name == pool.name) {
                self.changes.push(format!("- pools.{}", pool.name));
            }
        }
    }

    fn pool(&mut self, old: &PoolPlan, new: &PoolPlan) {
        let at = |key: &str| format!("pools.{}.{key}", new.name);
        if old.strategy.kind != new.strategy.kind {
            let (from, to) = (old.strategy.kind.name(), new.strategy.kind.name());
            self.changes.push(format!("{}: {from} -> {to}", at("strategy")));
        } else {
            self.change(&at(new.strategy.kind.name()), old.strategy != new.strategy);
        }
        self.change(&at("protocol"), old.protocol != new.protocol);
        self.change(&at("when_unhealthy"), old.when_unhealthy != new.when_unhealthy);
        self.change(&at("max_in_flight"), old.max_in_flight != new.max_in_flight);
        self.change(&at("engine"), old.engine != new.engine);
        self.change(&at("shadow"), old.shadow != new.shadow);
        self.change(&at("resolve"), old.resolve != new.resolve);
        self.change(&at("priority_header"), old.priority_header != new.priority_header);
        self.change(&at("health"), old.health != new.health);
        self.change(&at("outlier"), old.outlier != new.outlier);
        self.change(&at("slow_start"), old.slow_start != new.slow_start);
        self.change(&at("timeouts"), old.timeouts != new.timeouts);
        self.change(&at("retry"), old.retry != new.retry);
        self.change(&at("queue"), old.queue != new.queue);
        self.change(&at("sticky"), old.sticky != new.sticky);
        self.change(&at("resources"), old.resources != new.resources);
        self.change(&at("stream_error_event"), old.stream_error_event != new.stream_error_event);
        for backend in &new.backends {
            match old.backends.iter().find(|known| known.name == backend.name) {
                None => self.changes.push(format!("+ {}", at(&format!("backends.{}", backend.name)))),
                Some(known) => self.backend(known, backend, &at(&format!("backends.{}", backend.name))),
            }
        }
        for backend in &old.backends {
            if !new.backends.iter().any(|known| known.name == backend.name) {
                self.changes.push(format!("- {}", at(&format!("backends.{}", backend.name))));
            }
        }
    }

    fn backend(&mut self, old: &BackendPlan, new: &BackendPlan, at: &str) {
        if old.address != new.address {
            self.changes.push(format!("{at}.address: {} -> {}", old.address, new.address));
        }
        if old.weight != new.weight {
            self.changes.push(format!("{at}.weight: {} -> {}", old.weight, new.weight));
        }
        self.change(&format!("{at}.max_in_flight"), old.max_in_flight != new.max_in_flight);
        self.change(&format!("{at}.state"), old.state != new.state);
        self.change(&format!("{at}.expand"), old.expand != new.expand);
        self.change(&format!("{at}.tls"), old.tls != new.tls);
    }
}

/// Routes name pools by index, so they are compared by the pool's name.
fn routes_differ(old: &Plan, new: &Plan) -> bool {
    let shown = |plan: &Plan| -> Vec<_> {
        let name = |index: usize| plan.pools.get(index).map(|pool| pool.name.clone());
        plan.routes
            .iter()
            .map(|route| {
                let bare = crate::config::RoutePlan { pool: 0, ..route.clone() };
                (bare, name(route.pool))
            })
            .collect()
    };
    shown(old) != shown(new)
}
