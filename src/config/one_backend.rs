//! One backend from the JSON of the admin API: the keys of its TOML table, read by the very code that reads files.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{BackendPlan, ConfigError, ConfigErrors, Loaded, Protocol, Severity};

/// Where the backend stands in the text that is made of it.
const PLACE: &str = "pools.p.backends[0].";

/// The backend that `keys` describe, in a pool of that protocol; relative paths start from `base`.
///
/// # Errors
/// Every fault, by key.
pub fn backend_from_json(
    keys: &Map<String, Value>,
    protocol: Protocol,
    base: &Path,
) -> Result<BackendPlan, ConfigErrors> {
    let protocol = match protocol {
        Protocol::Http1 => "http1",
        Protocol::H2c => "h2c",
        Protocol::Https => "https",
        Protocol::H2 => "h2",
        Protocol::Auto => "auto",
    };
    let document = json!({
        "listeners": [{ "address": "127.0.0.1:0" }],
        "pools": { "p": { "strategy": "round_robin", "protocol": protocol, "backends": [keys] } },
    });
    let text = toml::to_string(&document).map_err(|error| fault("body", &format!("no TOML can say this: {error}")))?;
    let loaded = Loaded::from_text(&text, "the request", base).map_err(of_the_backend)?;
    let backend = loaded.plan.pools.first().and_then(|pool| pool.backends.first());
    backend.cloned().ok_or_else(|| fault("body", "describes no backend"))
}

/// The findings with keys as the request has them.
fn of_the_backend(errors: ConfigErrors) -> ConfigErrors {
    let own = |mut error: ConfigError| {
        error.key = error.key.strip_prefix(PLACE).unwrap_or("body").to_owned();
        (error.line, error.column, error.excerpt) = (0, 0, None);
        error
    };
    ConfigErrors(errors.into_vec().into_iter().map(own).collect())
}

fn fault(key: &str, message: &str) -> ConfigErrors {
    ConfigErrors(vec![ConfigError {
        file: "the request".to_owned(),
        line: 0,
        column: 0,
        key: key.to_owned(),
        message: message.to_owned(),
        hint: String::new(),
        severity: Severity::Error,
        excerpt: None,
    }])
}

#[cfg(test)]
mod tests {
    use super::super::AdminState;
    use super::*;

    fn read(keys: Value) -> Result<BackendPlan, Vec<String>> {
        let keys = keys.as_object().unwrap().clone();
        let found = backend_from_json(&keys, Protocol::Http1, Path::new("/etc"));
        found.map_err(|errors| errors.errors().map(|error| error.key.clone()).collect())
    }

    #[test]
    fn the_keys_of_a_backend() {
        let plan = read(json!({ "name": "b", "address": "127.0.0.1:9", "weight": 7, "state": "drain" })).unwrap();
        assert_eq!((plan.name.as_str(), plan.weight, plan.state), ("b", 7, AdminState::Drain));
        assert_eq!(plan.address.to_string(), "127.0.0.1:9");
        let least = read(json!({ "name": "b", "address": "gpu-1:80" })).unwrap();
        assert_eq!((least.weight, least.max_in_flight), (1, None));
    }

    #[test]
    fn every_fault_is_named_by_its_key() {
        let keys = json!({ "name": "b", "address": "nowhere", "weight": 0, "colour": "red", "max_in_flight": "x" });
        let mut found = read(keys).unwrap_err();
        found.sort_unstable();
        assert_eq!(found, ["address", "colour", "max_in_flight", "weight"]);
        assert_eq!(read(json!({ "name": "b" })).unwrap_err(), ["address"]);
        assert!(read(json!({ "name": "a\"]\n[server]\nthreads=9", "address": "127.0.0.1:9" })).is_err());
        assert!(read(json!({ "name": null, "address": "127.0.0.1:9" })).is_err());
        assert!(read(json!({ "name": "b", "address": "127.0.0.1:9", "tls": [1, {}, "x"] })).is_err());
    }
}
