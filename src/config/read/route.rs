//! `[[routes]]`.

use super::http_names::{header_name, header_value, host_match, url_path};
use crate::config::plan::{PoolPlan, RoutePlan};
use crate::config::reference as keys;
use crate::config::source::Finding;
use crate::config::walk::Table;
use crate::config::words::{join, nearest};

pub(super) fn read_routes(root: &Table<'_>, pools: &[PoolPlan]) -> Vec<RoutePlan> {
    let tables = root.tables("routes", &keys::ROUTE);
    if tables.is_empty() && pools.len() > 1 && !root.walk.damaged && !root.walk.at_fault("routes") {
        let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
        let hint =
            format!("add a `[[routes]]` table with `pool = \"{}\"` and its conditions", names.first().unwrap_or(&""));
        let message =
            format!("{} pools ({}) and no route to tell which request goes where", names.len(), names.join(", "));
        // Where the second pool stands, as there is no place for what is not there.
        let second = pools.get(1).map(|pool| join("pools", &pool.name)).unwrap_or_default();
        let span = root.walk.places.borrow().find(&second);
        root.walk.error_at(&span, "routes", (message, hint));
    }
    tables.iter().map(|table| read_route(table, pools)).collect()
}

fn read_route(table: &Table<'_>, pools: &[PoolPlan]) -> RoutePlan {
    table.require("pool");
    RoutePlan {
        host: table.parsed("host", host_match),
        path_prefix: table.parsed("path_prefix", path_prefix).flatten(),
        headers: read_headers(table),
        model: table.parsed("model", |text| match text {
            "" => Err("is empty; leave the key out to match every model".into()),
            text => Ok(text.to_owned()),
        }),
        max_model_peek: table.size("max_model_peek", RoutePlan::DEFAULT_MODEL_PEEK),
        pool: table.parsed("pool", |name| find_pool(name, pools, table)).unwrap_or_default(),
    }
}

/// Without its last slash; `None` for `/`, which every path has.
fn path_prefix(text: &str) -> Result<Option<String>, Finding> {
    let path = url_path(text)?;
    if path.contains('?') {
        return Err(("a path prefix has no query", "leave out what follows the `?`").into());
    }
    let path = path.trim_end_matches('/');
    Ok((!path.is_empty()).then(|| path.to_owned()))
}

fn read_headers(table: &Table<'_>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, place, item) in table.free_table("headers") {
        let value = item.parsed(header_value);
        match (header_name(name), value) {
            (Ok(name), Some(_)) if headers.iter().any(|(other, _)| *other == name) => {
                item.walk.error_at(
                    &place,
                    &item.path,
                    format!("{name} is asked for twice; names are the same in any case"),
                );
            }
            (Ok(name), Some(value)) => headers.push((name, value)),
            (Ok(_), None) => {}
            (Err(what), _) => item.walk.error_at(&place, &item.path, what),
        }
    }
    headers
}

fn find_pool(name: &str, pools: &[PoolPlan], table: &Table<'_>) -> Result<usize, Finding> {
    if let Some(index) = pools.iter().position(|pool| pool.name == name) {
        return Ok(index);
    }
    if table.walk.damaged {
        return Ok(0); // its table may be what the parser lost
    }
    let names = || pools.iter().map(|pool| pool.name.as_str());
    let hint = match nearest(name, names()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("the pools are: {}", names().collect::<Vec<_>>().join(", ")),
    };
    Err((format!("there is no pool \"{}\"", name.escape_debug()), hint).into())
}
