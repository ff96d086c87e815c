//! `[server]`, `[log]`, `[admin]`, `[access_log]`.

use std::path::PathBuf;

use crate::config::plan::*;
use crate::config::reference as keys;
use crate::config::secret::Secret;
use crate::config::source::Finding;
use crate::config::walk::Table;
use crate::config::words::nearest;

pub(super) fn read_server(root: &Table<'_>) -> ServerPlan {
    let default = ServerPlan::default();
    let Some(table) = root.table("server", &keys::SERVER) else { return default };
    ServerPlan {
        threads: table.integer("threads", default.threads),
        drain_delay: table.duration("drain_delay", default.drain_delay),
        drain_timeout: table.duration("drain_timeout", default.drain_timeout),
        max_connections: table.integer("max_connections", default.max_connections),
    }
}

pub(super) fn read_log(root: &Table<'_>) -> LogPlan {
    let default = LogPlan::default();
    let Some(table) = root.table("log", &keys::LOG) else { return default };
    LogPlan {
        level: table.parsed("level", log_level).unwrap_or(default.level),
        format: table.choice("format", default.format, |word| match word {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        }),
    }
}

/// A level, or a filter that `tracing` understands. A bare word must be a level: `tracing` would take it for a target and
/// log nothing of use.
fn log_level(text: &str) -> Result<String, Finding> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.contains(&word.to_ascii_lowercase().as_str());
    for part in text.split(',').map(str::trim) {
        if !part.contains('=') && !is_level(part) {
            let hint = match nearest(part, LEVELS.into_iter()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => {
                    "off, error, warn, info, debug, trace, or a filter like \"info,evenkeel::health=debug\"".to_owned()
                }
            };
            return Err((format!("`{}` is not a level", part.escape_debug()), hint).into());
        }
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err((format!("is not a filter: {error}"), "such as \"info,evenkeel::health=debug\"").into()),
    }
}

pub(super) fn read_admin(root: &Table<'_>) -> Option<AdminPlan> {
    let table = root.table("admin", &keys::ADMIN)?;
    let default = AdminPlan::default();
    let plan = AdminPlan {
        address: table.socket("address").unwrap_or(default.address),
        token: read_secret(&table, "token_file"),
        public_metrics: table.flag("public_metrics", default.public_metrics),
    };
    if !plan.address.ip().to_canonical().is_loopback() && !table.has("token_file") {
        table.wrong(
            "address",
            (
                format!("{} is not loopback, and there is no token_file", plan.address.ip()),
                "set `token_file`, or listen on 127.0.0.1",
            ),
        );
    }
    Some(plan)
}

/// A file or `env:NAME`.
pub(super) fn read_secret(table: &Table<'_>, key: &str) -> Option<Secret> {
    table.parsed(key, |text| {
        let variable = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        match text.strip_prefix("env:") {
            None if text.is_empty() => Err("is empty; a path or env:NAME is expected".into()),
            Some(name) if !variable(name) => {
                let message = format!("`{}` is not the name of an environment variable", name.escape_debug());
                Err((message, "such as \"env:EVENKEEL_ADMIN_TOKEN\"").into())
            }
            None | Some(_) => Ok(Secret::named(text, &table.walk.base)),
        }
    })
}

pub(super) fn read_access_log(root: &Table<'_>) -> AccessLogPlan {
    let default = AccessLogPlan::default();
    let Some(table) = root.table("access_log", &keys::ACCESS_LOG) else { return default };
    AccessLogPlan {
        format: table.choice("format", default.format, |word| match word {
            "json" => Some(AccessLogFormat::Json),
            "combined" => Some(AccessLogFormat::Combined),
            "off" => Some(AccessLogFormat::Off),
            _ => None,
        }),
        path: table.parsed("path", |text| stdout_or_file(text, &table)).flatten(),
    }
}

/// `None`: stdout.
fn stdout_or_file(text: &str, table: &Table<'_>) -> Result<Option<PathBuf>, Finding> {
    match text {
        "" => Err(("is empty", "a path, or \"-\" for stdout").into()),
        "-" => Ok(None),
        path => Ok(Some(table.walk.base.join(path))),
    }
}
