//! The verbs of `ctl` that take arguments: what each sends, and what it says when done.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::{PATIENCE, Session, encode, pool_path, show};
use crate::cli::{Failure, args, output};

/// How often a wait looks again; the server is not asked to hold connections for a drain of minutes.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a wait goes on after the deadline that the server names: ending what is left takes a moment.
const AFTER_DEADLINE: Duration = Duration::from_secs(5);
/// How long a removal is waited for whose deadline the server alone knows: it answers 504 soon after that.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// How long a wait goes on when the server names none: its default drain timeout, and a little.
const DEFAULT_WAIT: Duration = Duration::from_secs(65);

/// How long to wait for a backend of which the server says that it has these seconds left.
fn patience(remaining: Option<&Value>) -> Duration {
    let seconds = remaining.and_then(Value::as_f64).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.map_or(DEFAULT_WAIT, |left| left.saturating_add(AFTER_DEADLINE))
}

/// A backend.
#[derive(Debug, Args)]
pub(super) struct NameArgs {
    /// The backend's name.
    name: String,
}

impl NameArgs {
    pub(super) async fn undrain(&self, session: &Session) -> Result<(), Failure> {
        let path = format!("{}/undrain", session.backend_path(&self.name).await?);
        let answer = session.call(Method::POST, &path, None, PATIENCE).await?;
        session.show_done(&answer, &format!("{} takes traffic again", self.name))
    }
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The new backend's name.
    name: String,
    /// Its address, host:port.
    address: String,
    /// Weight, 1 to 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: Option<u32>,
    /// Requests it takes at once; 0: no limit.
    #[arg(long, value_name = "N")]
    max_in_flight: Option<u32>,
}

impl AddArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let mut body = Map::new();
        body.insert("name".into(), json!(self.name));
        body.insert("address".into(), json!(self.address));
        if let Some(weight) = self.weight {
            body.insert("weight".into(), json!(weight));
        }
        if let Some(limit) = self.max_in_flight {
            body.insert("max_in_flight".into(), json!(limit));
        }
        let path = format!("{}/backends", pool_path(&session.only_pool().await?));
        let answer = session.call(Method::POST, &path, Some(&Value::Object(body)), PATIENCE).await?;
        session.show_done(&answer, &format!("{} added at {}", self.name, self.address))
    }
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The backend's name.
    name: String,
    /// How long requests in flight get.
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    drain_timeout: Option<Duration>,
    /// Come back when it is gone; exit 1 if it is not in time.
    #[arg(long)]
    wait: bool,
}

impl RemoveArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let backend = session.backend_path(&self.name).await?;
        let timeout = self.drain_timeout.map(|timeout| format!("drain_timeout={}", text(timeout)));
        // The server waits, for it knows which backend was meant: another of that name may be added meanwhile.
        let wait = self.wait.then(|| "wait=true".to_owned());
        let query: Vec<String> = timeout.into_iter().chain(wait).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let patience = match (self.wait, self.drain_timeout) {
            (false, _) => PATIENCE,
            (true, Some(timeout)) => timeout.saturating_add(2 * AFTER_DEADLINE),
            (true, None) => LONGEST_WAIT,
        };
        let answer = session.call(Method::DELETE, &format!("{backend}{query}"), None, patience).await?;
        let what = if self.wait { "is gone" } else { "is being removed" };
        session.show_done(&answer, &format!("{} {what}", self.name))
    }
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// The backend's name.
    name: String,
    /// How long pinned sessions may go on.
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    timeout: Option<Duration>,
    /// Come back when nothing is in flight there; exit 1 if it is not in time.
    #[arg(long)]
    wait: bool,
}

impl DrainArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let backend = session.backend_path(&self.name).await?;
        let query = self.timeout.map_or_else(String::new, |timeout| format!("?timeout={}", text(timeout)));
        let answer = session.call(Method::POST, &format!("{backend}/drain{query}"), None, PATIENCE).await?;
        if !self.wait {
            return session.show_done(&answer, &format!("{} takes no new sessions", self.name));
        }
        let limit = patience(answer.pointer("/drain/remaining_s"));
        wait_until(limit, &format!("{} still has requests in flight", self.name), async || {
            Ok(session.get(&backend).await?.get("in_flight").and_then(Value::as_u64) == Some(0))
        })
        .await?;
        session.show_done(&session.get(&backend).await?, &format!("{} is drained", self.name))
    }
}

#[derive(Debug, Args)]
pub(super) struct WeightArgs {
    /// The backend's name.
    name: String,
    /// Its new weight, 1 to 1000.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: u32,
}

impl WeightArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let backend = session.backend_path(&self.name).await?;
        let body = json!({"weight": self.weight});
        let answer = session.call(Method::PATCH, &backend, Some(&body), PATIENCE).await?;
        session.show_done(&answer, &format!("{} has weight {}", self.name, self.weight))
    }
}

#[derive(Debug, Args)]
#[group(id = "keys", required = true, multiple = true, args = ["weight", "max_in_flight", "state"])]
pub(super) struct SetArgs {
    /// The backend's name.
    name: String,
    /// Weight, 1 to 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: Option<u32>,
    /// Requests it takes at once; 0: no limit.
    #[arg(long, value_name = "N")]
    max_in_flight: Option<u32>,
    /// Whether it takes requests: disabled ends its sessions at once, drain lets them go on for a while.
    #[arg(long, value_name = "STATE", value_parser = ["ready", "drain", "disabled"])]
    state: Option<String>,
}

impl SetArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let backend = session.backend_path(&self.name).await?;
        let keys = [
            ("weight", self.weight.map(Value::from)),
            ("max_in_flight", self.max_in_flight.map(Value::from)),
            ("state", self.state.clone().map(Value::from)),
        ];
        let given = keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let body: Map<String, Value> = given.collect();
        let words: Vec<_> = body.iter().map(|(key, value)| format!("{key} {}", show::tree(value).trim())).collect();
        let answer = session.call(Method::PATCH, &backend, Some(&Value::Object(body)), PATIENCE).await?;
        session.show_done(&answer, &format!("{} has {}", self.name, words.join(", ")))
    }
}

#[derive(Debug, Args)]
pub(super) struct ChecksArgs {
    /// Pause active health checks, or go on with them.
    #[arg(value_parser = ["on", "off"])]
    checks: String,
}

impl ChecksArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let pool = session.only_pool().await?;
        let body = json!({"enabled": self.checks == "on"});
        let answer = session.call(Method::PUT, &format!("{}/health", pool_path(&pool)), Some(&body), PATIENCE).await?;
        session.show_done(&answer, &format!("active health checks of {pool} are {}", self.checks))
    }
}

#[derive(Debug, Args)]
pub(super) struct StrategyArgs {
    /// The strategy's name; an unknown one is refused, with the known ones listed.
    strategy: String,
}

impl StrategyArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let pool = session.only_pool().await?;
        let body = json!({"strategy": self.strategy});
        let path = format!("{}/strategy", pool_path(&pool));
        let answer = session.call(Method::PUT, &path, Some(&body), PATIENCE).await?;
        let before =
            answer.get("previous").and_then(Value::as_str).map_or_else(String::new, |was| format!(", before by {was}"));
        session.show_done(&answer, &format!("{pool} is balanced by {}{before}", self.strategy))
    }
}

#[derive(Debug, Args)]
pub(super) struct ResourcesArgs {
    /// The backend's name.
    name: String,
    /// CPU use, 0 to 1.
    #[arg(long, value_name = "SHARE", required_unless_present = "memory")]
    cpu: Option<f64>,
    /// Memory use, 0 to 1.
    #[arg(long, value_name = "SHARE")]
    memory: Option<f64>,
}

impl ResourcesArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let mut body = Map::new();
        for (key, value) in [("cpu", self.cpu), ("memory", self.memory)] {
            if let Some(value) = value {
                body.insert(key.into(), json!(value));
            }
        }
        let path = format!("{}/resources", session.backend_path(&self.name).await?);
        let answer = session.call(Method::PUT, &path, Some(&Value::Object(body)), PATIENCE).await?;
        session.show_done(&answer, &format!("the resources of {} are noted", self.name))
    }
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The request's `x-request-id`.
    #[arg(conflicts_with = "last")]
    request_id: Option<String>,
    /// Show the last decisions instead.
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: u32,
}

impl ExplainArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let path = match &self.request_id {
            Some(id) => format!("/api/v1/explain/{}", encode(id)),
            None => format!("/api/v1/explain?last={}", self.last),
        };
        let answer = session.get(&path).await?;
        session.show(&answer, show::tree)
    }
}

#[derive(Debug, Args)]
pub(super) struct RlArgs {
    /// Print the learned table (versioned JSON), to keep or carry elsewhere.
    #[arg(long, conflicts_with = "import")]
    export: bool,
    /// Put a table in force that `--export` printed.
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
}

impl RlArgs {
    pub(super) async fn run(&self, session: &Session) -> Result<(), Failure> {
        let path = format!("{}/rl", pool_path(&session.only_pool().await?));
        if self.export {
            return output::line(&session.get(&format!("{path}/table")).await?.to_string());
        }
        let Some(file) = &self.import else {
            let answer = session.get(&path).await?;
            return session.show(&answer, show::tree);
        };
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", file.display())))?;
        let table: Value = serde_json::from_str(&text)
            .map_err(|error| Failure::Usage(format!("{} is not JSON: {error}", file.display())))?;
        let answer = session.call(Method::PUT, &format!("{path}/table"), Some(&table), PATIENCE).await?;
        session.show_done(&answer, &format!("{} is in force", file.display()))
    }
}

/// Looks until `done` says so, `limit` at most; then `late` is the failure.
async fn wait_until(limit: Duration, late: &str, done: impl AsyncFn() -> Result<bool, Failure>) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    while !done().await? {
        if Instant::now() >= deadline {
            return Err(Failure::Failed(format!("{late} after {} s", limit.as_secs())));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// A duration as the API reads it.
fn text(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
