//! From what the file says of a pool to what is in force: names with `expand = true` become one backend per address.
//!
//! Pure, so that every writer (a reload, a lookup, the API) gets the same answer from the same facts.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::config::{Address, BackendPlan, PoolPlan};

/// What names resolved to, sorted; a name that was never found is absent.
pub(super) type Resolved = HashMap<Address, Vec<SocketAddr>>;

/// The plan in force for `written`.
pub(super) fn effective(written: &PoolPlan, resolved: &Resolved) -> PoolPlan {
    if !written.backends.iter().any(|backend| backend.expand) {
        return written.clone();
    }
    let secure = !written.protocol.is_plain();
    let mut plan = written.clone();
    plan.backends = written.backends.iter().flat_map(|backend| expanded(backend, resolved, secure)).collect();
    plan
}

fn expanded(backend: &BackendPlan, resolved: &Resolved, secure: bool) -> Vec<BackendPlan> {
    if !backend.expand || matches!(backend.address, Address::Ip(_)) {
        return vec![backend.clone()];
    }
    let addresses = resolved.get(&backend.address).map(Vec::as_slice).unwrap_or_default();
    // What is verified stays the name that was written.
    let tls = match (&backend.address, secure) {
        (Address::Name { host, .. }, true) => {
            let mut tls = backend.tls.clone().unwrap_or_default();
            tls.server_name.get_or_insert_with(|| host.clone());
            Some(tls)
        }
        (Address::Name { .. } | Address::Ip(_), _) => backend.tls.clone(),
    };
    let of = |address: &SocketAddr| BackendPlan {
        // The address is in the name, so that a backend keeps its record as long as its address is offered.
        name: format!("{}-{}", backend.name, address.ip()),
        address: Address::Ip(*address),
        expand: false,
        tls: tls.clone(),
        ..backend.clone()
    };
    addresses.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StrategyKind;

    #[test]
    fn a_name_becomes_one_backend_per_address() {
        let name: Address = "workers:8000".parse().unwrap();
        let mut many = BackendPlan::new("w", name.clone());
        many.expand = true;
        many.weight = 3;
        let single = BackendPlan::new("one", "127.0.0.1:1".parse().unwrap());
        let plan = PoolPlan::new("ai", StrategyKind::Random, vec![many, single]);
        let names = |plan: &PoolPlan| plan.backends.iter().map(|b| b.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&effective(&plan, &Resolved::new())), ["one"]);
        let found = vec!["10.0.0.1:8000".parse().unwrap(), "10.0.0.2:8000".parse().unwrap()];
        let resolved = Resolved::from([(name, found)]);
        let plan = effective(&plan, &resolved);
        assert_eq!(names(&plan), ["w-10.0.0.1", "w-10.0.0.2", "one"]);
        assert_eq!(plan.backends[1].address.to_string(), "10.0.0.2:8000");
        assert_eq!(plan.backends[1].weight, 3);
    }
}
