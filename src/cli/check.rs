//! `evenkeel check`: everything that is wrong with a configuration file, at once.

use clap::{Args, ValueEnum};

use super::config_file::{self, ConfigArgs};
use super::{Failure, output};
use crate::config::{Plan, Severity, findings_as_json, findings_as_text};

const EXAMPLES: &str = "\
Examples:
  evenkeel check
  evenkeel check -c balancer.toml
  evenkeel check -c balancer.toml --format json | jq -r '.[].message'

Exit codes: 0 usable (perhaps with warnings), 2 not usable.";

/// Validate a configuration file, the certificates, files and host names that it names included.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// How findings are shown: text on stderr, or a JSON list on stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
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
        match self.format {
            Format::Json => output::line(&findings_as_json(&examined.findings))?,
            Format::Text if examined.findings.is_empty() => {}
            Format::Text => output::complain(&findings_as_text(&examined.findings)),
        }
        let file = path.display();
        let Some(plan) = examined.plan else {
            let errors = examined.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
            return Err(Failure::Usage(format!("{file}: {} found", count(errors, "error"))));
        };
        match self.format {
            Format::Json => Ok(()),
            Format::Text => output::line(&format!("{file}: ok ({})", extent(&plan))),
        }
    }
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
