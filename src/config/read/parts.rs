//! The parts of a pool that are always there: health, outlier, slow start, timeouts, retry, queue.

use toml::de::DeValue;

use super::http_names::url_path;
use crate::config::Engine;
use crate::config::plan::*;
use crate::config::reference as keys;
use crate::config::source::Finding;
use crate::config::walk::{Item, Table};
use crate::config::words::nearest;

pub(super) fn read_health(pool: &Table<'_>, engine: Engine) -> HealthPlan {
    let profile = engine.profile();
    let default = HealthPlan {
        path: profile.health_path.to_owned(),
        stalled_after: profile.stalled_after,
        ..HealthPlan::default()
    };
    let Some(table) = pool.table("health", &keys::HEALTH) else { return default };
    let kind = table.choice("kind", default.kind, |word| match word {
        "http" => Some(ProbeKind::Http),
        "tcp" => Some(ProbeKind::Tcp),
        "grpc" => Some(ProbeKind::Grpc),
        "none" => Some(ProbeKind::None),
        _ => None,
    });
    let path = match kind {
        // A gRPC probe names a service; the empty name means the whole server.
        ProbeKind::Grpc => table.text("path").map(str::to_owned).or(Some(String::new())),
        ProbeKind::Http | ProbeKind::Tcp | ProbeKind::None => table.parsed("path", url_path),
    };
    HealthPlan {
        kind,
        path: path.unwrap_or(default.path),
        interval: table.duration("interval", default.interval),
        timeout: table.duration("timeout", default.timeout),
        rise: table.integer("rise", default.rise),
        fall: table.integer("fall", default.fall),
        jitter: table.number("jitter", default.jitter),
        expect_status: read_statuses(&table).unwrap_or(default.expect_status),
        stalled_after: table.integer("stalled_after", default.stalled_after),
    }
}

fn read_statuses(table: &Table<'_>) -> Option<Vec<(u16, u16)>> {
    if !table.has("expect_status") {
        return None;
    }
    let items = table.items("expect_status");
    if items.is_empty() && !table.walk.at_fault(&table.at("expect_status")) {
        table.wrong("expect_status", ("is empty: no answer could pass", "such as [\"200-299\"]"));
    }
    let range = |text: &str| -> Result<(u16, u16), Finding> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |digits: &str| digits.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok((first, last)),
            (Some(_), Some(_)) => Err((format!("`{text}` runs backwards"), "the lower status stands first").into()),
            (None, _) | (_, None) => {
                let message = format!("`{}` is not a status", text.escape_debug());
                Err((message, "a status or a range, 100 to 599: \"204\", \"200-299\"").into())
            }
        }
    };
    Some(items.iter().filter_map(|item| text_or_status(item, range)).collect())
}

/// Statuses are texts, as ranges must be; a bare number is as clear.
fn text_or_status<T>(item: &Item<'_>, parse: impl Fn(&str) -> Result<T, Finding>) -> Option<T> {
    let DeValue::Integer(number) = item.value else { return item.parsed(parse) };
    parse(&number.to_string()).map_err(|what| item.wrong(what)).ok()
}

pub(super) fn read_outlier(pool: &Table<'_>) -> OutlierPlan {
    let default = OutlierPlan::default();
    let Some(table) = pool.table("outlier", &keys::OUTLIER) else { return default };
    OutlierPlan {
        consecutive_failures: table.integer("consecutive_failures", default.consecutive_failures),
        failure_rate: table.number("failure_rate", default.failure_rate),
        base_ejection: table.duration("base_ejection", default.base_ejection),
        max_ejection: table.duration("max_ejection", default.max_ejection),
        max_ejected: table.number("max_ejected", default.max_ejected),
    }
}

pub(super) fn read_slow_start(pool: &Table<'_>) -> Option<SlowStartPlan> {
    let table = pool.table("slow_start", &keys::SLOW_START)?;
    let default = SlowStartPlan::default();
    Some(SlowStartPlan {
        window: table.duration("window", default.window),
        min_weight: table.number("min_weight", default.min_weight),
    })
}

pub(super) fn read_timeouts(pool: &Table<'_>) -> TimeoutsPlan {
    let default = TimeoutsPlan::default();
    let Some(table) = pool.table("timeouts", &keys::TIMEOUTS) else { return default };
    TimeoutsPlan {
        connect: table.duration("connect", default.connect),
        first_byte: table.duration("first_byte", default.first_byte),
        idle: table.duration("idle", default.idle),
        total: table.duration("total", default.total),
        upstream_idle: table.duration("upstream_idle", default.upstream_idle),
        tunnel_idle: table.duration("tunnel_idle", default.tunnel_idle),
    }
}

pub(super) fn read_retry(pool: &Table<'_>) -> RetryPlan {
    let default = RetryPlan::default();
    let Some(table) = pool.table("retry", &keys::RETRY) else { return default };
    RetryPlan {
        attempts: table.integer("attempts", default.attempts),
        on: if table.has("on") { read_conditions(&table) } else { default.on },
        non_idempotent: table.flag("non_idempotent", default.non_idempotent),
        budget: table.number("budget", default.budget),
        max_replay: table.size("max_replay", default.max_replay),
    }
}

fn read_conditions(table: &Table<'_>) -> Vec<RetryOn> {
    const WORDS: [&str; 7] = ["connect_failure", "reset_before_response", "502", "503", "504", "429", "timeout"];
    let condition = |text: &str| match text {
        "connect_failure" => Ok(RetryOn::ConnectFailure),
        "reset_before_response" => Ok(RetryOn::ResetBeforeResponse),
        "timeout" => Ok(RetryOn::Timeout),
        "429" => Ok(RetryOn::Status(429)),
        "502" => Ok(RetryOn::Status(502)),
        "503" => Ok(RetryOn::Status(503)),
        "504" => Ok(RetryOn::Status(504)),
        _ => {
            // Statuses lie too near one another for a guess.
            let hint = match nearest(text, WORDS.into_iter()).filter(|near| near.len() > 3) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("one of {}", WORDS.join(", ")),
            };
            Err((format!("unknown condition \"{}\"", text.escape_debug()), hint).into())
        }
    };
    let mut on = Vec::new();
    for item in table.items("on") {
        match text_or_status(&item, condition) {
            Some(condition) if on.contains(&condition) => item.wrong("is listed twice"),
            Some(condition) => on.push(condition),
            None => {}
        }
    }
    on
}

pub(super) fn read_queue(pool: &Table<'_>) -> QueuePlan {
    let default = QueuePlan::default();
    let Some(table) = pool.table("queue", &keys::QUEUE) else { return default };
    QueuePlan { size: table.integer("size", default.size), timeout: table.duration("timeout", default.timeout) }
}
