//! `evenkeel quick`: a working balancer with no configuration file.

use std::io::IsTerminal;
use std::net::SocketAddr;

use clap::Args;

use super::Failure;
use super::args::{self, Target};
use super::run::serve;
use crate::config::{AccessLogFormat, AdminPlan, BackendPlan, Plan, PoolPlan, ProbeKind, Protocol, StrategyKind};

const EXAMPLES: &str = "\
Examples:
  evenkeel quick --listen :8080 --to 10.0.0.5:8000 --to 10.0.0.6:8000
  evenkeel quick --listen 8080 --to 8001 --to 8002 --strategy least_connections --admin 9901

A bare port listens on every interface, and names a backend on this machine. Backends are checked by
connecting to them; a configuration file can do more (`evenkeel run`).";

/// Balance between a few addresses, with no configuration file.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct QuickArgs {
    /// Where clients connect.
    #[arg(long, value_name = "ADDR", value_parser = args::listen)]
    listen: SocketAddr,
    /// A backend; give it several times.
    #[arg(long, value_name = "ADDR", required = true, value_parser = args::target)]
    to: Vec<Target>,
    /// How backends are chosen.
    #[arg(long, value_name = "S", default_value = "rl", value_parser = args::strategy())]
    strategy: StrategyKind,
    /// Admin server and dashboard; without it there are none.
    #[arg(long, value_name = "ADDR", value_parser = args::listen_local)]
    admin: Option<SocketAddr>,
}

impl QuickArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let plan = self.plan()?;
        let names: Vec<String> = self.to.iter().map(|target| target.address.to_string()).collect();
        let greeting = format!("{} between {}", self.strategy.name(), names.join(", "));
        serve(plan, None, Some(greeting))
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let tls = self.to.iter().filter(|target| target.tls).count();
        let protocol = match tls {
            0 => Protocol::Http1,
            all if all == self.to.len() => Protocol::Https,
            _ => {
                let mixed =
                    "--to with http and with https cannot be mixed here; a configuration file can have a pool of each";
                return Err(Failure::Usage(mixed.into()));
            }
        };
        if let Some(twice) = self
            .to
            .iter()
            .enumerate()
            .find(|(at, target)| self.to.iter().take(*at).any(|before| before.address == target.address))
        {
            return Err(Failure::Usage(format!("--to {} is given twice", twice.1.address)));
        }
        if let Some(admin) = self.admin.filter(|admin| !admin.ip().is_loopback()) {
            return Err(Failure::Usage(format!(
                "--admin {admin}: an admin server that others can reach needs a token, and so a configuration file"
            )));
        }
        let backends = (1..)
            .zip(&self.to)
            .map(|(number, target)| BackendPlan::new(format!("backend-{number}"), target.address.clone()));
        let mut pool = PoolPlan::new("default", self.strategy, backends.collect());
        pool.protocol = protocol;
        // Not everything answers /health with 200; what accepts connections can be tried.
        pool.health.kind = ProbeKind::Tcp;
        let mut plan = Plan::minimal(self.listen, self.strategy, Vec::new());
        plan.pools = vec![pool.into()];
        plan.admin = self.admin.map(AdminPlan::new);
        if std::io::stdout().is_terminal() {
            // Somebody is watching: lines that eyes can read.
            plan.access_log.format = AccessLogFormat::Combined;
        }
        Ok(plan)
    }
}
