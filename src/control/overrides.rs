//! Changes made through the API, kept beside the file's plan: per key, so that a reload of an unrelated line undoes
//! nothing.
//!
//! One lives until a reload in which the file's own value of that key, or that backend's presence, changed; a backend
//! that was added lives until it is removed or the file names it; a restart forgets them all. Pure: the plan in force is
//! always `effective(file, overrides)`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::admin::ChangeError;
use crate::config::{AdminState, BackendPlan, Plan, PoolPlan, StrategyKind, join_key};

/// All overrides, by pool.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Overrides {
    pools: BTreeMap<String, PoolOverrides>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct PoolOverrides {
    strategy: Option<StrategyKind>,
    backends: BTreeMap<String, BackendOverride>,
}

#[derive(Debug, Clone, PartialEq)]
enum BackendOverride {
    /// Not in the file (or in place of the file's, which was removed before).
    Added(BackendPlan),
    /// In the file, and to be left out.
    Removed,
    /// In the file, with other values.
    Changed(Changed),
}

/// The keys that may differ from the file's; `None`: as in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Changed {
    pub(super) weight: Option<u32>,
    pub(super) max_in_flight: Option<u32>,
    pub(super) state: Option<AdminState>,
}

/// What of the overrides a reload kept and dropped, as key paths.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Survival {
    pub(super) kept: Vec<String>,
    pub(super) dropped: Vec<String>,
}

impl Overrides {
    /// Whether there are none.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// The plan in force for a pool of the file.
    pub(super) fn effective(&self, file: PoolPlan) -> PoolPlan {
        let mut plan = file;
        let Some(overrides) = self.pools.get(&plan.name) else { return plan };
        if let Some(kind) = overrides.strategy {
            plan.strategy.kind = kind;
        }
        plan.backends.retain(|backend| {
            !matches!(overrides.backends.get(&backend.name), Some(BackendOverride::Removed | BackendOverride::Added(_)))
        });
        for (name, change) in &overrides.backends {
            match change {
                BackendOverride::Added(backend) => plan.backends.push(backend.clone()),
                BackendOverride::Removed => {}
                BackendOverride::Changed(changed) => {
                    if let Some(backend) = plan.backends.iter_mut().find(|backend| backend.name == *name) {
                        changed.apply_to(backend);
                    }
                }
            }
        }
        plan
    }

    /// The backends that were added to that pool.
    pub(super) fn added(&self, pool: &str) -> Vec<BackendPlan> {
        let changes = self.pools.get(pool).into_iter().flat_map(|overrides| overrides.backends.values());
        let added = changes.filter_map(|change| match change {
            BackendOverride::Added(backend) => Some(backend.clone()),
            BackendOverride::Removed | BackendOverride::Changed(_) => None,
        });
        added.collect()
    }

    /// Balances `file`'s pool by `kind`.
    pub(super) fn set_strategy(&mut self, file: &PoolPlan, kind: StrategyKind) {
        self.pool(file).strategy = (file.strategy.kind != kind).then_some(kind);
        self.tidy(file);
    }

    /// Adds a backend.
    pub(super) fn add(&mut self, file: &PoolPlan, backend: BackendPlan) -> Result<(), ChangeError> {
        if self.effective(file.clone()).backends.iter().any(|present| present.name == backend.name) {
            return Err(ChangeError::NameTaken);
        }
        let as_in_file = file.backends.contains(&backend);
        let overrides = self.pool(file);
        if as_in_file {
            overrides.backends.remove(&backend.name);
        } else {
            overrides.backends.insert(backend.name.clone(), BackendOverride::Added(backend));
        }
        self.tidy(file);
        Ok(())
    }

    /// Removes a backend.
    pub(super) fn remove(&mut self, file: &PoolPlan, name: &str) -> Result<(), ChangeError> {
        self.require(file, name)?;
        let in_file = file.backends.iter().any(|backend| backend.name == name);
        let overrides = self.pool(file);
        if in_file {
            overrides.backends.insert(name.to_owned(), BackendOverride::Removed);
        } else {
            overrides.backends.remove(name);
        }
        self.tidy(file);
        Ok(())
    }

    /// Changes keys of a backend; what `changed` leaves open stays as it is.
    pub(super) fn change(&mut self, file: &PoolPlan, name: &str, changed: Changed) -> Result<(), ChangeError> {
        self.require(file, name)?;
        let own = file.backends.iter().find(|backend| backend.name == name);
        let present =
            self.pool(file).backends.entry(name.to_owned()).or_insert(BackendOverride::Changed(Changed::default()));
        match present {
            BackendOverride::Added(backend) => changed.apply_to(backend),
            BackendOverride::Removed => return Err(ChangeError::NoBackend),
            BackendOverride::Changed(before) => {
                let merged = changed.or(*before);
                *before = own.map_or(merged, |own| merged.beside(own));
            }
        }
        self.tidy(file);
        Ok(())
    }

    /// What remains of the overrides when the file's plan goes from `old` to `new`.
    pub(super) fn survive(&self, old: &Plan, new: &Plan) -> (Self, Survival) {
        let (mut next, mut survival) = (Self::default(), Survival::default());
        for (name, overrides) in &self.pools {
            let of = |plan: &Plan| plan.pools.iter().find(|pool| pool.name == *name).cloned();
            match (of(old), of(new)) {
                (Some(old), Some(new)) => {
                    let kept = overrides.survive(&old, &new, &mut survival);
                    next.pools.insert(name.clone(), kept);
                    next.tidy(&new);
                }
                _ => survival.dropped.extend(overrides.keys(name).map(|(key, _)| key)),
            }
        }
        (next, survival)
    }

    /// Every override as JSON: `{"key", "value"}`.
    pub(super) fn list(&self) -> Vec<Value> {
        let all = self.pools.iter().flat_map(|(name, overrides)| overrides.keys(name));
        all.map(|(key, value)| json!({ "key": key, "value": value })).collect()
    }

    fn require(&self, file: &PoolPlan, name: &str) -> Result<(), ChangeError> {
        let present = self.effective(file.clone()).backends.iter().any(|backend| backend.name == name);
        if present { Ok(()) } else { Err(ChangeError::NoBackend) }
    }

    fn pool(&mut self, file: &PoolPlan) -> &mut PoolOverrides {
        self.pools.entry(file.name.clone()).or_default()
    }

    /// Forgets entries that say nothing.
    fn tidy(&mut self, file: &PoolPlan) {
        if let Some(overrides) = self.pools.get_mut(&file.name) {
            overrides.backends.retain(|_, change| *change != BackendOverride::Changed(Changed::default()));
            if *overrides == PoolOverrides::default() {
                self.pools.remove(&file.name);
            }
        }
    }
}

/// The path under which everything about a backend is told.
fn backend_key(pool: &str, backend: &str) -> String {
    join_key(&format!("{}.backends", join_key("pools", pool)), backend)
}

impl PoolOverrides {
    fn survive(&self, old: &PoolPlan, new: &PoolPlan, survival: &mut Survival) -> Self {
        let at = join_key(&join_key("pools", &new.name), "strategy");
        let strategy = self.strategy.filter(|_| survival.note(old.strategy.kind == new.strategy.kind, at));
        let mut kept = Self { strategy, backends: BTreeMap::new() };
        for (name, change) in &self.backends {
            let of = |plan: &PoolPlan| plan.backends.iter().find(|backend| backend.name == *name).cloned();
            let (old, new_backend) = (of(old), of(new));
            let at = backend_key(&new.name, name);
            let stays = match change {
                // Named by the file now, or differently than when it was replaced.
                BackendOverride::Added(_) => {
                    survival.note(new_backend.is_none() || old == new_backend, at).then(|| change.clone())
                }
                BackendOverride::Removed => {
                    survival.note(old.is_some() == new_backend.is_some(), at).then(|| change.clone())
                }
                BackendOverride::Changed(changed) => Some(BackendOverride::Changed(match (&old, &new_backend) {
                    (Some(old), Some(new)) => changed.survive(old, new, &at, survival),
                    // One address of a name: the file never names it.
                    (None, None) => {
                        survival.kept.extend(changed.keys(&at).into_iter().map(|(key, _)| key));
                        *changed
                    }
                    _ => {
                        survival.dropped.extend(changed.keys(&at).into_iter().map(|(key, _)| key));
                        Changed::default()
                    }
                })),
            };
            kept.backends.extend(stays.map(|change| (name.clone(), change)));
        }
        kept
    }

    /// Key paths and values.
    fn keys(&self, pool: &str) -> impl Iterator<Item = (String, Value)> {
        let mut keys = Vec::new();
        if let Some(kind) = self.strategy {
            keys.push((join_key(&join_key("pools", pool), "strategy"), json!(kind.name())));
        }
        for (name, change) in &self.backends {
            let at = backend_key(pool, name);
            match change {
                BackendOverride::Added(backend) => keys.push((at, json!(format!("added at {}", backend.address)))),
                BackendOverride::Removed => keys.push((at, json!("removed"))),
                BackendOverride::Changed(changed) => keys.extend(changed.keys(&at)),
            }
        }
        keys.into_iter()
    }
}

impl Changed {
    fn apply_to(self, backend: &mut BackendPlan) {
        backend.weight = self.weight.unwrap_or(backend.weight);
        backend.max_in_flight = self.max_in_flight.or(backend.max_in_flight);
        backend.state = self.state.unwrap_or(backend.state);
    }

    fn or(self, before: Self) -> Self {
        Self {
            weight: self.weight.or(before.weight),
            max_in_flight: self.max_in_flight.or(before.max_in_flight),
            state: self.state.or(before.state),
        }
    }

    /// Without what `own` says anyway.
    fn beside(self, own: &BackendPlan) -> Self {
        Self {
            weight: self.weight.filter(|weight| *weight != own.weight),
            max_in_flight: self.max_in_flight.filter(|limit| Some(*limit) != own.max_in_flight),
            state: self.state.filter(|state| *state != own.state),
        }
    }

    fn survive(self, old: &BackendPlan, new: &BackendPlan, at: &str, survival: &mut Survival) -> Self {
        let mut note = |is_set: bool, same: bool, key: &str| is_set && survival.note(same, format!("{at}.{key}"));
        let weight = note(self.weight.is_some(), old.weight == new.weight, "weight");
        let limit = note(self.max_in_flight.is_some(), old.max_in_flight == new.max_in_flight, "max_in_flight");
        let state = note(self.state.is_some(), old.state == new.state, "state");
        Self {
            weight: self.weight.filter(|_| weight),
            max_in_flight: self.max_in_flight.filter(|_| limit),
            state: self.state.filter(|_| state),
        }
    }

    fn keys(self, at: &str) -> Vec<(String, Value)> {
        let state = self.state.map(|state| match state {
            AdminState::Ready => "ready",
            AdminState::Drain => "drain",
            AdminState::Disabled => "disabled",
        });
        let keys = [
            ("weight", self.weight.map(Value::from)),
            ("max_in_flight", self.max_in_flight.map(Value::from)),
            ("state", state.map(Value::from)),
        ];
        keys.into_iter().filter_map(|(key, value)| value.map(|value| (format!("{at}.{key}"), value))).collect()
    }
}

impl Survival {
    /// Notes whether the override at `key` stays, and passes it on.
    fn note(&mut self, stays: bool, key: String) -> bool {
        if stays {
            self.kept.push(key)
        } else {
            self.dropped.push(key)
        }
        stays
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn backend(name: &str, weight: u32) -> BackendPlan {
        BackendPlan { weight, ..BackendPlan::new(name, "127.0.0.1:1".parse().unwrap()) }
    }

    /// A file with pool `p` of these backends.
    fn file(strategy: StrategyKind, backends: &[(&str, u32)]) -> Plan {
        let backends = backends.iter().map(|(name, weight)| backend(name, *weight)).collect();
        let mut plan = Plan::minimal(([127, 0, 0, 1], 0).into(), strategy, backends);
        Arc::make_mut(&mut plan.pools[0]).name = "p".to_owned();
        plan
    }

    fn shown(plan: &PoolPlan) -> String {
        let backends = plan.backends.iter().map(|b| format!("{}:{}:{:?}", b.name, b.weight, b.state));
        format!("{} {}", plan.strategy.kind.name(), backends.collect::<Vec<_>>().join(" "))
    }

    const WEIGHT_9: Changed = Changed { weight: Some(9), max_in_flight: None, state: None };
    const DRAINED: Changed = Changed { weight: None, max_in_flight: None, state: Some(AdminState::Drain) };
    use StrategyKind::{LeastConnections as Least, Random, RoundRobin};

    #[test]
    fn the_plan_in_force() {
        let plan = file(RoundRobin, &[("a", 1), ("b", 2)]);
        let pool = &plan.pools[0];
        let mut overrides = Overrides::default();
        assert_eq!(overrides.effective((**pool).clone()), **pool);
        overrides.set_strategy(pool, Random);
        overrides.change(pool, "a", WEIGHT_9).unwrap();
        overrides.change(pool, "a", DRAINED).unwrap();
        overrides.remove(pool, "b").unwrap();
        overrides.add(pool, backend("c", 3)).unwrap();
        overrides.change(pool, "c", WEIGHT_9).unwrap();
        assert_eq!(shown(&overrides.effective((**pool).clone())), "random a:9:Drain c:9:Ready");
        let keys: Vec<_> =
            overrides.list().iter().map(|entry| format!("{}={}", entry["key"], entry["value"])).collect();
        let expected = [
            r#""pools.p.strategy"="random""#,
            r#""pools.p.backends.a.weight"=9"#,
            r#""pools.p.backends.a.state"="drain""#,
            r#""pools.p.backends.b"="removed""#,
            r#""pools.p.backends.c"="added at 127.0.0.1:1""#,
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn what_is_undone_leaves_nothing() {
        let plan = file(RoundRobin, &[("a", 1)]);
        let pool = &plan.pools[0];
        let mut overrides = Overrides::default();
        overrides.set_strategy(pool, Random);
        overrides.change(pool, "a", WEIGHT_9).unwrap();
        overrides.add(pool, backend("c", 3)).unwrap();
        overrides.set_strategy(pool, RoundRobin);
        overrides.change(pool, "a", Changed { weight: Some(1), ..Changed::default() }).unwrap();
        overrides.remove(pool, "c").unwrap();
        overrides.remove(pool, "a").unwrap();
        overrides.add(pool, backend("a", 1)).unwrap();
        assert!(overrides.is_empty(), "{overrides:?}");
    }

    #[test]
    fn names_that_are_taken_or_unknown() {
        let plan = file(RoundRobin, &[("a", 1)]);
        let pool = &plan.pools[0];
        let mut overrides = Overrides::default();
        assert_eq!(overrides.add(pool, backend("a", 5)), Err(ChangeError::NameTaken));
        assert_eq!(overrides.remove(pool, "x"), Err(ChangeError::NoBackend));
        assert_eq!(overrides.change(pool, "x", WEIGHT_9), Err(ChangeError::NoBackend));
        overrides.remove(pool, "a").unwrap();
        assert_eq!(overrides.change(pool, "a", WEIGHT_9), Err(ChangeError::NoBackend));
        assert_eq!(overrides.remove(pool, "a"), Err(ChangeError::NoBackend));
        overrides.add(pool, backend("a", 5)).unwrap();
        assert_eq!(shown(&overrides.effective((**pool).clone())), "round_robin a:5:Ready");
        assert_eq!(overrides.add(pool, backend("a", 6)), Err(ChangeError::NameTaken));
    }

    /// Overrides of every kind over a file of `a` and `b`.
    fn all_kinds(plan: &Plan) -> Overrides {
        let pool = &plan.pools[0];
        let mut overrides = Overrides::default();
        overrides.set_strategy(pool, Random);
        overrides.change(pool, "a", WEIGHT_9.or(DRAINED)).unwrap();
        overrides.remove(pool, "b").unwrap();
        overrides.add(pool, backend("c", 3)).unwrap();
        overrides
    }

    #[test]
    fn a_reload_drops_what_the_file_says_anew() {
        let old = file(RoundRobin, &[("a", 1), ("b", 2)]);
        let overrides = all_kinds(&old);
        for (new, in_force, dropped) in [
            (file(RoundRobin, &[("a", 1), ("b", 2)]), "random a:9:Drain c:3:Ready", &[][..]),
            (file(RoundRobin, &[("a", 1), ("b", 2), ("d", 4)]), "random a:9:Drain d:4:Ready c:3:Ready", &[]),
            // The value of a removed backend is not its presence.
            (file(RoundRobin, &[("a", 1), ("b", 5)]), "random a:9:Drain c:3:Ready", &[]),
            (file(Least, &[("a", 1), ("b", 2)]), "least_connections a:9:Drain c:3:Ready", &["pools.p.strategy"]),
            (file(RoundRobin, &[("a", 7), ("b", 2)]), "random a:7:Drain c:3:Ready", &["pools.p.backends.a.weight"]),
            (file(RoundRobin, &[("a", 1)]), "random a:9:Drain c:3:Ready", &["pools.p.backends.b"]),
            (
                file(RoundRobin, &[("b", 2)]),
                "random c:3:Ready",
                &["pools.p.backends.a.weight", "pools.p.backends.a.state"],
            ),
            (file(RoundRobin, &[("a", 1), ("b", 2), ("c", 8)]), "random a:9:Drain c:8:Ready", &["pools.p.backends.c"]),
        ] {
            let (kept, survival) = overrides.survive(&old, &new);
            assert_eq!(shown(&kept.effective((*new.pools[0]).clone())), in_force);
            assert_eq!(survival.dropped, dropped, "{in_force}");
            assert_eq!(survival.kept.len(), 5 - dropped.len(), "{survival:?}");
        }
    }

    #[test]
    fn a_pool_that_is_gone_takes_its_overrides_along() {
        let old = file(RoundRobin, &[("a", 1), ("b", 2)]);
        let mut new = old.clone();
        Arc::make_mut(&mut new.pools[0]).name = "q".to_owned();
        let (kept, survival) = all_kinds(&old).survive(&old, &new);
        assert!(kept.is_empty() && survival.kept.is_empty());
        assert_eq!(survival.dropped.len(), 5);
    }
}
