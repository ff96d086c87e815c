//! The parts of a pool that are off unless written: sticky sessions, sources of CPU and memory.

use super::http_names::{cookie_name, header_name, url_path};
use super::server::read_secret;
use crate::config::plan::*;
use crate::config::reference as keys;
use crate::config::source::Finding;
use crate::config::walk::Table;

pub(super) fn read_sticky(pool: &Table<'_>) -> Option<StickyPlan> {
    let table = pool.table("sticky", &keys::STICKY)?;
    let default = StickyPlan::default();
    let mode = table.choice("mode", default.mode, |word| match word {
        "cookie" => Some(StickyMode::Cookie),
        "header" => Some(StickyMode::Header),
        "source_ip" => Some(StickyMode::SourceIp),
        _ => None,
    });
    let name = match mode {
        StickyMode::Cookie => table.parsed("name", cookie_name),
        StickyMode::Header => {
            if !table.has("name") && !table.walk.damaged {
                table.wrong("name", ("is missing: which header?", "such as `name = \"x-session-id\"`"));
            }
            table.parsed("name", header_name)
        }
        StickyMode::SourceIp => table.text("name").map(str::to_owned),
    };
    Some(StickyPlan {
        mode,
        name: name.unwrap_or(default.name),
        secret: read_secret(&table, "secret_file"),
        idle: table.duration("idle", default.idle),
        life: table.duration("life", default.life),
        same_site: table.choice("same_site", default.same_site, |word| match word {
            "lax" => Some(SameSite::Lax),
            "strict" => Some(SameSite::Strict),
            "none" => Some(SameSite::None),
            _ => None,
        }),
        spill: table.integer("spill", default.spill),
    })
}

pub(super) fn read_resources(pool: &Table<'_>) -> Option<ResourcesPlan> {
    let table = pool.table("resources", &keys::RESOURCES)?;
    let default = ResourcesPlan::default();
    Some(ResourcesPlan {
        scrape: table.table("scrape", &keys::SCRAPE).map(|scrape| read_scrape(&scrape)),
        prometheus: table.table("prometheus", &keys::PROMETHEUS).map(|source| read_prometheus(&source)),
        orca: table.flag("orca", default.orca),
        expiry: table.duration("expiry", default.expiry),
    })
}

fn read_scrape(table: &Table<'_>) -> ScrapePlan {
    let default = ScrapePlan::default();
    let mut names = Vec::new();
    if let Some(written) = table.table("names", &keys::SCRAPE_NAMES) {
        for signal in keys::SCRAPE_NAMES.keys {
            if let Some(metric) = written.parsed(signal.name, metric_name) {
                names.push((signal.name.to_owned(), metric));
            }
        }
    }
    ScrapePlan {
        path: table.parsed("path", url_path).unwrap_or(default.path),
        port: table.integer("metrics_port", default.port),
        interval: table.duration("interval", default.interval),
        names,
    }
}

/// A Prometheus metric name.
fn metric_name(text: &str) -> Result<String, Finding> {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if text.is_empty() || !text.chars().all(sound) || text.starts_with(|c: char| c.is_ascii_digit()) {
        let message = format!("`{}` is not a metric name", text.escape_debug());
        return Err((message, "letters, digits, _ and :, such as \"vllm:kv_cache_usage_perc\"").into());
    }
    Ok(text.to_owned())
}

fn read_prometheus(table: &Table<'_>) -> PrometheusPlan {
    table.require("url");
    if !table.has("cpu") && !table.has("memory") && !table.walk.damaged {
        table.wrong("cpu", ("is missing, and so is `memory`", "write at least one query"));
    }
    let query = |text: &str| match text.trim() {
        "" => Err("is empty; a query is expected".into()),
        _ => Ok(text.to_owned()),
    };
    PrometheusPlan {
        url: table.parsed("url", server_url).unwrap_or_default(),
        cpu: table.parsed("cpu", query),
        memory: table.parsed("memory", query),
        interval: table.duration("interval", std::time::Duration::from_secs(1)),
    }
}

fn server_url(text: &str) -> Result<String, Finding> {
    let refused = || {
        Finding::from((
            format!("`{}` is not the URL of a server", text.escape_debug()),
            "such as \"http://127.0.0.1:9090\"",
        ))
    };
    let uri: http::Uri = text.parse().map_err(|_| match text.contains('@') {
        // Perhaps a password: not said again.
        true => Finding::from(("is not the URL of a server", "such as \"http://127.0.0.1:9090\"")),
        false => refused(),
    })?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let message = "holds a user or a password, which stand in no file of ours";
        return Err(
            (message, "let it be asked without, for instance through a proxy on this host that adds them").into()
        );
    }
    if uri.scheme_str() == Some("https") {
        return Err(
            ("Prometheus is asked over http:// only in this version", "its plain address, or a local proxy").into()
        );
    }
    let sound = uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty());
    if sound && uri.query().is_none() { Ok(text.trim_end_matches('/').to_owned()) } else { Err(refused()) }
}
