//! `evenkeel run`: the balancer in the foreground, from a configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::config_file::{self, ConfigArgs};
use super::{Failure, output};
use crate::app::App;
use crate::config::{LogFormat, LogPlan, Plan};
use crate::telemetry::logging::{Format, Logging, init};

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
        serve(plan, Some(path), None)
    }
}

/// Serves a plan until told to stop; shared by `run` and `quick`. `greeting` is said on stderr when it is ready, with a
/// line to try.
pub(super) fn serve(plan: Plan, source: Option<PathBuf>, greeting: Option<String>) -> Result<(), Failure> {
    let logging = start_log(&plan.log)?;
    let app = App::bind(plan, source).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut ready = String::new();
    for (scheme, address) in app.listeners() {
        ready.push_str(&format!("listening {scheme} {address}\n"));
    }
    if let Some(address) = app.admin_address() {
        ready.push_str(&format!("admin http {address}\n"));
    }
    let first = app.listeners().first().map(|(_, address)| shown(*address));
    let say_ready = move || {
        if let (Some(greeting), Some(address)) = (greeting, first) {
            output::complain(&format!("evenkeel: {greeting}; try: curl -i http://{address}/"));
        }
        // Nobody to read it is no reason not to serve.
        if let Err(failure) = output::result(&ready) {
            output::complain(&format!("evenkeel: {failure}"));
        }
    };
    let done = app.with_logging(logging).with_signals().with_ready(say_ready).run();
    let summary = done.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    // A drain that ran into its deadline has done what it was told; only a second signal is a failure.
    if summary.aborted { Err(Failure::Failed(summary.to_string())) } else { Ok(()) }
}

/// A listener as one would type it here.
fn shown(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() { format!("localhost:{}", listen.port()) } else { listen.to_string() }
}

fn start_log(plan: &LogPlan) -> Result<Logging, Failure> {
    let format = match plan.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    init(&plan.level, format).map_err(|error| Failure::Usage(error.to_string()))
}
