//! `evenkeel check`: everything that is wrong with a configuration file, at once.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::config_file::{self, ConfigArgs};
use super::http::{AdminUrl, client};
use super::{Failure, block_on, output};
use crate::config::{Plan, Severity, findings_as_json, findings_as_text};

/// How long a balancer may take to compare.
const PATIENCE: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  evenkeel check
  evenkeel check -c balancer.toml
  evenkeel check -c balancer.toml --format json | jq -r '.[].message'
  evenkeel check -c balancer.toml --diff http://127.0.0.1:9901

With --diff the running balancer is asked what a reload of this file would change, which changes made through its API
would be kept or dropped, and what would need a restart; nothing is changed.
Exit codes: 0 usable (perhaps with warnings), 1 the balancer of --diff does not answer or refuses, 2 not usable.";

/// Validate a configuration file, the certificates, files and host names that it names included.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How findings are shown: text on stderr, or JSON on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Also say what a reload would change in the balancer with this admin server.
    #[arg(long, value_name = "ADMIN_URL")]
    diff: Option<AdminUrl>,
    /// For --diff: file that holds the admin token, or env:NAME.
    #[arg(long, value_name = "FILE", env = "EVENKEEL_TOKEN_FILE")]
    token_file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = self.config.path()?;
        let examined = config_file::examine(&path);
        let listed = findings_as_json(&examined.findings);
        match self.format {
            Format::Json if self.diff.is_some() && examined.plan.is_some() => {}
            Format::Json => output::line(&listed)?,
            Format::Text if examined.findings.is_empty() => {}
            Format::Text => output::complain(&findings_as_text(&examined.findings)),
        }
        let file = path.display();
        let Some(plan) = examined.plan else {
            let errors = examined.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
            return Err(Failure::Usage(format!("{file}: {} found", count(errors, "error"))));
        };
        if self.format == Format::Text {
            output::line(&format!("{file}: ok ({})", extent(&plan)))?;
        }
        let Some(url) = self.diff else { return Ok(()) };
        let diff = preview(&path, url, self.token_file.as_deref())?;
        match self.format {
            Format::Json => {
                let findings: Value = serde_json::from_str(&listed).unwrap_or_default();
                output::line(&format!("{:#}", json!({ "findings": findings, "diff": diff })))
            }
            Format::Text => output::line(&described(&diff)),
        }
    }
}

/// What the balancer at `url` says that a reload of this file would do.
fn preview(file: &Path, url: AdminUrl, token_file: Option<&str>) -> Result<Value, Failure> {
    let text = std::fs::read(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    let client = client(url, token_file)?;
    let body = ("text/plain", Bytes::from(text));
    block_on(async {
        let reply = client.send(Method::POST, "/api/v1/reload/preview", Some(body), PATIENCE).await?;
        reply.accepted()
    })
}

/// The answer for people.
fn described(diff: &Value) -> String {
    let parts = [
        ("changes", "a reload would change"),
        ("overrides_dropped", "a reload would drop these changes made through the API"),
        ("overrides_kept", "a reload would keep these changes made through the API"),
        ("restart_required", "only a restart would change"),
    ];
    let mut lines = Vec::new();
    for (key, title) in parts {
        let items = diff.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !items.is_empty() {
            lines.push(format!("{title}:"));
            lines.extend(items.iter().filter_map(Value::as_str).map(|item| format!("  {item}")));
        }
    }
    if lines.is_empty() { "a reload would change nothing".to_owned() } else { lines.join("\n") }
}

/// What the plan consists of.
fn extent(plan: &Plan) -> String {
    let backends = plan.pools.iter().map(|pool| pool.backends.len()).sum();
    [count(plan.listeners.len(), "listener"), count(plan.pools.len(), "pool"), count(backends, "backend")].join(", ")
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
