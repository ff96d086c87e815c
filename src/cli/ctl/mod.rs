//! `evenkeel ctl`: the admin API by hand. Knows the contract's paths and nothing of the balancer's insides.

mod show;
mod verbs;

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::http::{AdminArgs, Client};
use super::table::{self, PoolView};
use super::{Failure, output};

/// How long an answer may take when nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  evenkeel ctl status
  evenkeel ctl health || echo down
  evenkeel ctl backends --json
  evenkeel ctl add instance-7 127.0.0.1:8007 --weight 2
  evenkeel ctl drain instance-3 --timeout 5m --wait
  evenkeel ctl remove instance-3 --wait
  evenkeel ctl set instance-3 --weight 2 --max-in-flight 16
  evenkeel ctl strategy rl
  evenkeel ctl explain --last 5

A backend's pool is found by the backend's name; `--pool` is needed where two pools have one of that name.
Exit codes: 0 done, 1 refused, unreachable or timed out, 2 usage.";

/// Look at and change a running balancer, through its admin server.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(super) struct CtlArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// The pool; may be left out when there is one only.
    #[arg(long, value_name = "NAME", global = true)]
    pool: Option<String>,
    /// Print the server's answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Version, uptime, listeners, pools, overrides, last reload.
    Status,
    /// Whether it answers at all; needs no token.
    Health,
    /// All backends with state, health, load and response times.
    Backends,
    /// Add a backend; it lives until removed, or named by the configuration file.
    Add(verbs::AddArgs),
    /// Remove a backend gracefully: no new requests, those in flight finish.
    Remove(verbs::RemoveArgs),
    /// Send a backend no new sessions, without removing it.
    Drain(verbs::DrainArgs),
    /// Take a drained backend back.
    Undrain(verbs::NameArgs),
    /// Change a backend's weight.
    Weight(verbs::WeightArgs),
    /// Change a backend's weight, limit or state.
    Set(verbs::SetArgs),
    /// Change a pool's strategy, live.
    Strategy(verbs::StrategyArgs),
    /// Tell a backend's CPU and memory use, as fractions.
    Resources(verbs::ResourcesArgs),
    /// Probe every backend now and show the results.
    Check,
    /// Pause or resume a pool's active health checks.
    Checks(verbs::ChecksArgs),
    /// Why requests went where they went.
    Explain(verbs::ExplainArgs),
    /// What the learning agent has learned and how it does.
    Rl(verbs::RlArgs),
    /// Read the configuration again, like SIGHUP.
    Reload,
}

impl CtlArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let session = Session { client: self.admin.client()?, pool: self.pool, json: self.json };
        super::block_on(session.run(self.verb))
    }
}

/// One invocation: the server, and how to answer.
struct Session {
    client: Client,
    pool: Option<String>,
    json: bool,
}

impl Session {
    async fn run(&self, verb: Verb) -> Result<(), Failure> {
        match verb {
            Verb::Status => {
                let status = self.get("/api/v1/status").await?;
                self.show(&status, show::status)
            }
            Verb::Health => {
                let health = self.get("/healthz").await?;
                self.show(&health, show::tree)
            }
            Verb::Backends => {
                let path = match &self.pool {
                    None => "/api/v1/pools".to_owned(),
                    Some(pool) => pool_path(pool),
                };
                let answer = self.get(&path).await?;
                self.show(&answer, show::backends)
            }
            Verb::Add(args) => args.run(self).await,
            Verb::Remove(args) => args.run(self).await,
            Verb::Drain(args) => args.run(self).await,
            Verb::Undrain(args) => args.undrain(self).await,
            Verb::Weight(args) => args.run(self).await,
            Verb::Set(args) => args.run(self).await,
            Verb::Checks(args) => args.run(self).await,
            Verb::Strategy(args) => args.run(self).await,
            Verb::Resources(args) => args.run(self).await,
            Verb::Check => {
                let path = format!("{}/check", pool_path(&self.only_pool().await?));
                // Probes have timeouts of their own, and a pool may have many.
                let answer = self.call(Method::POST, &path, None, 6 * PATIENCE).await?;
                self.show(&answer, show::checks)
            }
            Verb::Explain(args) => args.run(self).await,
            Verb::Rl(args) => args.run(self).await,
            Verb::Reload => {
                let answer = self.call(Method::POST, "/api/v1/reload", None, 6 * PATIENCE).await?;
                self.show(&answer, |answer| format!("reloaded\n{}", show::tree(answer)))
            }
        }
    }

    async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.client.get(path, PATIENCE).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let reply = self.client.call(method, path, body, patience).await?;
        if self.json && !reply.status.is_success() {
            // A program gets the refusal itself, on stdout like every answer; the exit code tells them apart.
            output::line(&String::from_utf8_lossy(&reply.body))?;
        }
        reply.accepted()
    }

    /// Prints an answer: the JSON as it came, or for people.
    fn show(&self, answer: &Value, people: fn(&Value) -> String) -> Result<(), Failure> {
        match self.json {
            true => output::line(&format!("{answer:#}")),
            false => output::line(people(answer).trim_end()),
        }
    }

    /// Prints what was done: the server's answer as JSON, or a sentence for people.
    fn show_done(&self, answer: &Value, done: &str) -> Result<(), Failure> {
        match self.json {
            true => output::line(&format!("{answer:#}")),
            false => output::line(done),
        }
    }

    async fn pools(&self) -> Result<Vec<PoolView>, Failure> {
        Ok(table::pools(&self.get("/api/v1/pools").await?))
    }

    /// The pool that was named, or the only one.
    async fn only_pool(&self) -> Result<String, Failure> {
        if let Some(pool) = &self.pool {
            return Ok(pool.clone());
        }
        let pools = self.pools().await?;
        match pools.as_slice() {
            [pool] => Ok(pool.name.clone()),
            _ => {
                let names: Vec<_> = pools.iter().map(|pool| pool.name.as_str()).collect();
                Err(Failure::Usage(format!("--pool is needed, one of: {}", names.join(", "))))
            }
        }
    }

    /// The path of a backend, in the pool that was named or the only one that has it.
    async fn backend_path(&self, backend: &str) -> Result<String, Failure> {
        let pool = match &self.pool {
            Some(pool) => pool.clone(),
            None => {
                let having = |pool: &&PoolView| pool.backends.iter().any(|member| member.name == backend);
                let pools = self.pools().await?;
                let found: Vec<_> = pools.iter().filter(having).map(|pool| pool.name.as_str()).collect();
                match found.as_slice() {
                    [pool] => (*pool).to_owned(),
                    [] => return Err(Failure::Failed(format!("no backend named {backend} in any pool"))),
                    several => {
                        let several = several.join(", ");
                        return Err(Failure::Usage(format!(
                            "{backend} is in several pools, say which: --pool {several}"
                        )));
                    }
                }
            }
        };
        Ok(format!("{}/backends/{}", pool_path(&pool), encode(backend)))
    }
}

fn pool_path(pool: &str) -> String {
    format!("/api/v1/pools/{}", encode(pool))
}

/// A name as one segment of a path (RFC 3986: all but unreserved characters are escaped).
fn encode(name: &str) -> String {
    name.bytes().fold(String::new(), |mut path, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
        path
    })
}

#[cfg(test)]
mod tests;
