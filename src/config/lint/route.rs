//! Routes that no request can reach, pools that no route names.

use crate::config::plan::*;
use crate::config::walk::Walk;
use crate::config::words::join;

pub(super) fn check(walk: &Walk<'_>, plan: &Plan) {
    for (index, route) in plan.routes.iter().enumerate() {
        let path = format!("routes[{index}]");
        let broken = |index: usize| {
            let at = |key: &str| walk.at_fault(&format!("routes[{index}].{key}"));
            ["host", "path_prefix", "headers", "model", "pool"].into_iter().any(at)
        };
        let earlier = plan.routes.iter().take(index).position(|earlier| covers(earlier, route));
        if let Some(earlier) = earlier.filter(|earlier| !broken(*earlier) && !broken(index)) {
            let what = format!("no request can reach this route: routes[{earlier}] takes all that match it");
            walk.warn(&[&path], (what, "put the narrower route first"));
        }
        if route.model.is_none() {
            let key = format!("{path}.max_model_peek");
            if walk.written(&key) {
                walk.warn(&[&key], ("cannot act: this route has no `model`", "leave it out"));
            }
        }
    }
    if plan.routes.is_empty() || (0..plan.routes.len()).any(|index| walk.at_fault(&format!("routes[{index}].pool"))) {
        return;
    }
    for (index, pool) in plan.pools.iter().enumerate() {
        if plan.routes.iter().all(|route| route.pool != index) {
            let hint = format!("add a route with `pool = \"{}\"`, or leave the pool out", pool.name);
            walk.warn(&[&join("pools", &pool.name)], ("no route leads to this pool", hint));
        }
    }
}

/// Whether every request that `narrow` matches is matched by `wide` too.
fn covers(wide: &RoutePlan, narrow: &RoutePlan) -> bool {
    let host = match (&wide.host, &narrow.host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(HostMatch::Exact(wide)), Some(HostMatch::Exact(narrow))) => wide == narrow,
        (Some(HostMatch::Exact(_)), Some(HostMatch::Suffix(_))) => false,
        (Some(HostMatch::Suffix(wide)), Some(HostMatch::Exact(narrow))) => {
            narrow.len() > wide.len() && narrow.ends_with(wide.as_str())
        }
        (Some(HostMatch::Suffix(wide)), Some(HostMatch::Suffix(narrow))) => narrow.ends_with(wide.as_str()),
    };
    let path = match (&wide.path_prefix, &narrow.path_prefix) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => {
            narrow.strip_prefix(wide.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    };
    let headers = wide.headers.iter().all(|header| narrow.headers.contains(header));
    // A body that is longer than the peek has no model, so a peek that is shorter matches less.
    let model = match (&wide.model, &narrow.model) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => a == b && wide.max_model_peek >= narrow.max_model_peek,
    };
    host && path && headers && model
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, path: &str, header: &str, model: &str) -> RoutePlan {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        RoutePlan {
            host: text(host).map(|host| match host.strip_prefix('*') {
                Some(suffix) => HostMatch::Suffix(suffix.to_owned()),
                None => HostMatch::Exact(host),
            }),
            path_prefix: text(path),
            headers: text(header).map(|value| ("x".to_owned(), value)).into_iter().collect(),
            model: text(model),
            ..RoutePlan::to(0)
        }
    }

    #[test]
    fn a_route_covers_what_is_narrower() {
        for (wide, narrow, covered) in [
            (route("", "", "", ""), route("a.b", "/v1", "gold", "m"), true),
            (route("a.b", "/v1", "gold", "m"), route("", "", "", ""), false),
            (route("*.b", "", "", ""), route("a.b", "", "", ""), true),
            (route("*.b", "", "", ""), route("*.a.b", "", "", ""), true),
            (route("*.a.b", "", "", ""), route("*.b", "", "", ""), false),
            (route("a.b", "", "", ""), route("*.b", "", "", ""), false),
            (route("", "/v1", "", ""), route("", "/v1/chat", "", ""), true),
            (route("", "/v1", "", ""), route("", "/v10", "", ""), false),
            (route("", "", "gold", ""), route("", "", "", ""), false),
            (route("", "", "gold", ""), route("", "", "iron", ""), false),
            (route("", "", "", "m"), route("", "", "", "n"), false),
        ] {
            assert_eq!(covers(&wide, &narrow), covered, "{wide:?} {narrow:?}");
        }
    }
}
