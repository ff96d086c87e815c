//! The command line: one file a sub-command, each calling the library and nothing else.
//!
//! `ctl` and `top` speak HTTP to a running admin server and touch no other room. Results go to stdout, everything said
//! about them to stderr. Exit codes: 0 done, 1 failed while running, 2 usage or configuration error (nothing was
//! started).

mod args;
mod check;
mod completions;
mod config_file;
mod ctl;
mod demo;
mod http;
mod man;
mod mock;
mod output;
mod prove;
mod quick;
mod replay;
mod run;
mod screen;
mod simulate;
mod table;
mod top;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// What `evenkeel --help` says beneath the commands.
const EXAMPLES: &str = "\
Examples:
  evenkeel demo                                        the balancer at work, on this machine
  evenkeel quick --listen :8080 --to 8001 --to 8002    a balancer without a configuration file
  evenkeel check -c evenkeel.toml                      what is wrong with a configuration file
  evenkeel run -c evenkeel.toml                        the balancer in earnest
  evenkeel ctl backends                                what it thinks of its backends
  evenkeel top                                         the same, live
  evenkeel simulate --scenario s06                     strategies against a crash, in virtual time

Exit codes: 0 done, 1 failed while running, 2 usage or configuration error (nothing was started).";

/// A reverse-proxy load balancer for a handful of AI instances that learns where to send each request.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Quick(quick::QuickArgs),
    Demo(demo::DemoArgs),
    Mock(mock::MockArgs),
    Ctl(ctl::CtlArgs),
    Top(top::TopArgs),
    Simulate(simulate::SimulateArgs),
    Replay(replay::ReplayArgs),
    Prove(prove::ProveArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// How a command failed: decides the exit code, and is said on stderr.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing was started: exit 2.
    #[error("{0}")]
    Usage(String),
    /// It went wrong on the way: exit 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
        }
    }
}

/// Runs the command that the process' arguments name, and says how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse(); // Usage errors leave from here, with code 2; --help and --version with 0.
    let done = match cli.command {
        Command::Run(args) => args.run(),
        Command::Check(args) => args.run(),
        Command::Quick(args) => args.run(),
        Command::Demo(args) => args.run(),
        Command::Mock(args) => args.run(),
        Command::Ctl(args) => args.run(),
        Command::Top(args) => args.run(),
        Command::Simulate(args) => args.run(),
        Command::Replay(args) => args.run(),
        Command::Prove(args) => args.run(),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&format!("evenkeel: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}

/// Runs a command's asynchronous part on this thread.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(work)
}

/// Waits for Ctrl-C or SIGTERM.
async fn interrupted() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("cannot watch for signals: {error}"));
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        tokio::select! {
            done = tokio::signal::ctrl_c() => done.map_err(failed),
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(failed)
}

/// The whole command line as data: for completions, the manual page and the reference in docs.
pub fn definition() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent_and_every_command_has_examples() {
        let definition = definition();
        definition.clone().debug_assert();
        let commands: Vec<_> = definition.get_subcommands().collect();
        assert!(!commands.is_empty());
        for command in commands {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no examples", command.get_name());
            assert!(command.get_about().is_some(), "{} says nothing of itself", command.get_name());
        }
    }
}
