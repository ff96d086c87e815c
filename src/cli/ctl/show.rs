//! Answers of the admin API for people: backends as tables, everything else as an indented outline.

use serde_json::Value;

use crate::cli::table::{Cell, Column, condition, lay_out, milliseconds, numbers, pools, words};

/// One table a pool.
pub(super) fn backends(answer: &Value) -> String {
    const COLUMNS: [Column; 9] = [
        words("backend"),
        words("address"),
        words("health"),
        numbers("weight"),
        numbers("in flight"),
        numbers("requests"),
        numbers("failures"),
        numbers("p50"),
        numbers("p99"),
    ];
    let list = match answer.get("backends") {
        Some(_) => Value::Array(vec![answer.clone()]),
        None => answer.clone(),
    };
    let mut text = String::new();
    for pool in pools(&list) {
        let rows: Vec<_> = pool
            .backends
            .iter()
            .map(|backend| {
                vec![
                    Cell::new(&backend.name),
                    Cell::new(&backend.address),
                    condition(backend),
                    Cell::new(backend.weight.map_or_else(|| "-".into(), |weight| weight.to_string())),
                    Cell::new(backend.in_flight.to_string()),
                    Cell::new(backend.requests.to_string()),
                    Cell::new(backend.failures.to_string()),
                    Cell::new(milliseconds(backend.p50_ms)),
                    Cell::new(milliseconds(backend.p99_ms)),
                ]
            })
            .collect();
        text.push_str(&format!("{} ({})\n", pool.name, pool.strategy));
        for line in lay_out(&COLUMNS, &rows, None, false) {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

/// The results of probing every backend.
pub(super) fn checks(answer: &Value) -> String {
    const COLUMNS: [Column; 5] = [words("backend"), words("check"), words("health"), numbers("took"), words("detail")];
    let Some(results) = answer.get("results").and_then(Value::as_array) else { return tree(answer) };
    let text = |result: &Value, key: &str| result.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let rows: Vec<_> = results
        .iter()
        .map(|result| {
            let took = result.get("took_ms").and_then(Value::as_f64);
            vec![
                Cell::new(text(result, "name")),
                Cell::new(text(result, "result")),
                Cell::new(text(result, "health")),
                Cell::new(milliseconds(took)),
                Cell::new(text(result, "detail")),
            ]
        })
        .collect();
    lay_out(&COLUMNS, &rows, None, false).join("\n")
}

/// JSON as an outline: `key: value`, nested parts indented, list items behind a dash.
pub(super) fn tree(value: &Value) -> String {
    let mut text = String::new();
    branch(value, 0, &mut text);
    text
}

fn branch(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(parts) => {
            for (key, part) in parts {
                match leaf(part) {
                    Some(leaf) => text.push_str(&format!("{indent}{key}: {leaf}\n")),
                    None => {
                        text.push_str(&format!("{indent}{key}:\n"));
                        branch(part, depth + 1, text);
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match leaf(item) {
                    Some(leaf) => text.push_str(&format!("{indent}- {leaf}\n")),
                    None => {
                        let mut inner = String::new();
                        branch(item, depth + 1, &mut inner);
                        // The dash takes the place of the first line's last two blanks.
                        let inner = inner.strip_prefix(&"  ".repeat(depth + 1)).unwrap_or(&inner);
                        text.push_str(&format!("{indent}- {inner}"));
                    }
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&format!("{indent}{}\n", leaf(value).unwrap_or_default()));
        }
    }
}

/// A value that fits on its key's line: a scalar, or a list of a few of them.
fn leaf(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("-".into()),
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(items) if items.is_empty() => Some("none".into()),
        Value::Object(parts) if parts.is_empty() => Some("none".into()),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            let line = items.iter().filter_map(leaf).collect::<Vec<_>>().join(", ");
            (line.len() <= 80).then_some(line)
        }
        Value::Array(_) | Value::Object(_) => None,
    }
}
