//! `evenkeel run`: the balancer in the foreground, from a configuration file.

use std::path::PathBuf;

use clap::Args;

use super::config_file::{self, ConfigArgs};
use super::{Failure, output};
use crate::app::App;
use crate::config::{LogFormat, LogPlan, Plan};
use crate::telemetry::logging::{Format, init};

const EXAMPLES: &str = "\
Examples:
  evenkeel run                          conf/evenkeel.toml, else /etc/evenkeel/evenkeel.toml
  evenkeel run -c balancer.toml
  kill -HUP $(pidof evenkeel)           read the file again; a faulty one changes nothing

When ready it writes a line per listener to stdout, `listening http 127.0.0.1:8080`, and one for the admin
server, `admin http 127.0.0.1:9901`. Log lines go to stderr. SIGTERM and SIGINT drain and end it with 0; a
second one ends it at once with 1.";

/// Run the balancer in the foreground.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

impl RunArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = self.config.path()?;
        let plan = config_file::load(&path)?;
        serve(plan, Some(path))
    }
}

/// Serves a plan until told to stop; shared by `run` and `quick`.
pub(super) fn serve(plan: Plan, source: Option<PathBuf>) -> Result<(), Failure> {
    start_log(&plan.log)?;
    let app = App::bind(plan, source).map_err(|error| Failure::Usage(error.to_string()))?;
    for (scheme, address) in app.listeners() {
        output::line(&format!("listening {scheme} {address}"))?;
    }
    if let Some(address) = app.admin_address() {
        output::line(&format!("admin http {address}"))?;
    }
    let summary = app.run();
    match summary.clean {
        true => Ok(()),
        false => Err(Failure::Failed(summary.to_string())),
    }
}

fn start_log(plan: &LogPlan) -> Result<(), Failure> {
    let format = match plan.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    init(&plan.level, format).map(drop).map_err(|error| Failure::Usage(error.to_string()))
}
