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

/// The state of the balancer: an outline, its times as dates.
pub(super) fn status(answer: &Value) -> String {
    let mut answer = answer.clone();
    if let Some(at) = answer.pointer_mut("/last_reload/at")
        && let Some(seconds) = at.as_f64()
    {
        *at = Value::String(date(seconds));
    }
    tree(&answer)
}

/// A moment, in seconds after the epoch, as RFC 3339 writes it, in UTC.
fn date(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, second) = (whole / 86_400, whole % 86_400);
    // Days are counted from 1 March of year 0, so that the leap day comes last: the usual reckoning of the Gregorian
    // calendar in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0: March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
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
