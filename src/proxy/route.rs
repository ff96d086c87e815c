//! Which pool a request goes to: the first route whose conditions all hold.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::config::{HostMatch, Plan, RoutePlan};
use crate::pool::Pool;

/// One generation of routes and pools: a request sees one of them from start to end.
#[derive(Debug)]
pub struct Routing {
    /// Grows with every reload that is committed.
    pub generation: u64,
    /// In file order; empty: everything goes to the only pool.
    pub routes: Vec<Route>,
    /// Sorted by name.
    pub pools: Vec<Arc<Pool>>,
}

/// A route and its pool.
#[derive(Debug)]
pub struct Route {
    /// Its conditions.
    pub plan: RoutePlan,
    /// Where it leads.
    pub pool: Arc<Pool>,
}

impl Routing {
    /// The routes of `plan` over `pools`, which are in the plan's order.
    pub fn new(generation: u64, plan: &Plan, pools: Vec<Arc<Pool>>) -> Self {
        let route = |plan: &RoutePlan| Some(Route { plan: plan.clone(), pool: Arc::clone(pools.get(plan.pool)?) });
        Self { generation, routes: plan.routes.iter().filter_map(route).collect(), pools }
    }

    /// The pool of a request to `host` (as the client wrote it) and `path`. `model`: the JSON body's, once it was looked
    /// for.
    pub fn find(&self, host: &[u8], path: &str, headers: &HeaderMap, model: Model<'_>) -> Found<'_> {
        if self.routes.is_empty() {
            return self.pools.first().map_or(Found::Nothing, Found::Pool);
        }
        let host = without_port(host);
        for route in self.routes.iter().filter(|route| matches(&route.plan, host, path, headers)) {
            match (&route.plan.model, model) {
                (None, _) => return Found::Pool(&route.pool),
                // Whether an earlier route holds must be known before a later one may.
                (Some(_), Model::Unknown) => return Found::NeedsModel(route.plan.max_model_peek),
                (Some(wanted), Model::Known(Some(model))) if wanted == model => return Found::Pool(&route.pool),
                (Some(_), Model::Known(_)) => {}
            }
        }
        Found::Nothing
    }

    /// The longest `timeouts.total` of the pools that such a request may go to while its model is not known; `None`: one
    /// of them has no limit.
    pub fn longest_total(&self, host: &[u8], path: &str, headers: &HeaderMap) -> Option<Duration> {
        let host = without_port(host);
        let mut longest = Duration::ZERO;
        for route in self.routes.iter().filter(|route| matches(&route.plan, host, path, headers)) {
            let total = route.pool.plan().timeouts.total;
            if total.is_zero() {
                return None;
            }
            longest = longest.max(total);
            if route.plan.model.is_none() {
                break;
            }
        }
        Some(longest)
    }

    /// The pool of that name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| &*pool.name == name)
    }
}

/// What is known of a request's model.
#[derive(Debug, Clone, Copy)]
pub enum Model<'a> {
    /// Its body was not looked at.
    Unknown,
    /// It was: here is the model, if there is one.
    Known(Option<&'a str>),
}

/// Where a request goes.
#[derive(Debug)]
pub enum Found<'a> {
    /// To this pool.
    Pool(&'a Arc<Pool>),
    /// It depends on the model, which is to be looked for in this many bytes of body.
    NeedsModel(usize),
    /// No route holds.
    Nothing,
}

/// Whether every condition but the model holds.
fn matches(route: &RoutePlan, host: &[u8], path: &str, headers: &HeaderMap) -> bool {
    let host_holds = match &route.host {
        None => true,
        Some(HostMatch::Exact(name)) => host.eq_ignore_ascii_case(name.as_bytes()),
        Some(HostMatch::Suffix(suffix)) => host
            .len()
            .checked_sub(suffix.len())
            .is_some_and(|at| at > 0 && host[at..].eq_ignore_ascii_case(suffix.as_bytes())),
    };
    host_holds
        && route.path_prefix.as_ref().is_none_or(|prefix| has_prefix(path, prefix))
        && route.headers.iter().all(|(name, value)| headers.get_all(name).iter().any(|seen| seen == value.as_str()))
}

/// `/v1` matches `/v1` and `/v1/…`, not `/v10`.
fn has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// The host without its port; an IPv6 literal keeps its brackets.
fn without_port(host: &[u8]) -> &[u8] {
    let from = if host.first() == Some(&b'[') { host.iter().position(|byte| *byte == b']').unwrap_or(0) } else { 0 };
    match host[from..].iter().position(|byte| *byte == b':') {
        Some(colon) => &host[..from + colon],
        None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(host: Option<HostMatch>, prefix: Option<&str>, headers: &[(&str, &str)]) -> RoutePlan {
        RoutePlan {
            host,
            path_prefix: prefix.map(str::to_owned),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            model: None,
            max_model_peek: 0,
            pool: 0,
        }
    }

    #[test]
    fn conditions() {
        let mut gold = HeaderMap::new();
        gold.insert("x-tier", "gold".parse().unwrap());
        let none = HeaderMap::new();
        let exact = || Some(HostMatch::Exact("api.example.com".into()));
        let wild = || Some(HostMatch::Suffix(".example.com".into()));
        let cases = [
            (plan(exact(), None, &[]), "API.example.com:8443", "/", &none, true),
            (plan(exact(), None, &[]), "x.example.com", "/", &none, false),
            (plan(wild(), None, &[]), "a.b.example.com", "/", &none, true),
            (plan(wild(), None, &[]), "example.com", "/", &none, false),
            (plan(wild(), None, &[]), ".example.com", "/", &none, false),
            (plan(None, Some("/v1"), &[]), "", "/v1", &none, true),
            (plan(None, Some("/v1"), &[]), "", "/v1/x", &none, true),
            (plan(None, Some("/v1"), &[]), "", "/v10", &none, false),
            (plan(None, None, &[("x-tier", "gold")]), "", "/", &gold, true),
            (plan(None, None, &[("x-tier", "gold")]), "", "/", &none, false),
            (plan(exact(), Some("/v1"), &[("x-tier", "gold")]), "api.example.com", "/v1", &none, false),
        ];
        for (route, host, path, headers, expected) in cases {
            let held = matches(&route, without_port(host.as_bytes()), path, headers);
            assert_eq!(held, expected, "{route:?} {host} {path}");
        }
        assert_eq!(without_port(b"[::1]:80"), b"[::1]");
    }

    #[test]
    fn a_model_is_asked_for_only_when_it_decides() {
        let pools: Vec<Arc<Pool>> = ["a", "b", "c"]
            .iter()
            .map(|name| {
                let backend = crate::config::BackendPlan::new("x", "127.0.0.1:1".parse().unwrap());
                let plan = crate::config::PoolPlan::new(*name, crate::config::StrategyKind::Random, vec![backend]);
                Pool::new(Arc::new(plan), crate::clock::now())
            })
            .collect();
        let route = |index: usize, prefix: Option<&str>, model: Option<&str>| Route {
            plan: RoutePlan { model: model.map(str::to_owned), max_model_peek: 9, ..plan(None, prefix, &[]) },
            pool: Arc::clone(&pools[index]),
        };
        let routes = vec![
            route(2, Some("/plain"), None),
            route(0, None, Some("small")),
            route(1, None, Some("large")),
            route(2, None, None),
        ];
        let routing = Routing { generation: 1, routes, pools: pools.clone() };
        let none = HeaderMap::new();
        let name = |path: &str, model: Model<'_>| match routing.find(b"", path, &none, model) {
            Found::Pool(pool) => pool.name.to_string(),
            Found::NeedsModel(most) => format!("peek {most}"),
            Found::Nothing => "nothing".to_owned(),
        };
        assert_eq!(name("/plain", Model::Unknown), "c");
        assert_eq!(name("/v1", Model::Unknown), "peek 9");
        assert_eq!(name("/v1", Model::Known(Some("small"))), "a");
        assert_eq!(name("/v1", Model::Known(Some("large"))), "b");
        assert_eq!(name("/v1", Model::Known(Some("other"))), "c");
        assert_eq!(name("/v1", Model::Known(None)), "c");
    }
}
