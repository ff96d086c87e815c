//! One run: a scenario, a strategy, the real proxy between real sockets.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, sleep_until, timeout};

use super::instance::{COIN, Instance, SERVER, WORK};
use crate::app::App;
use crate::cli::http::{AdminUrl, Client, connect};
use crate::cli::{Failure, output};
use crate::config::{AccessLogFormat, Address, AdminPlan, BackendPlan, Plan, PoolPlan, StrategyKind};
use crate::sim::live::{Answer, measure};
use crate::sim::{Arrival, Metrics, Scenario};

/// How long an answer of the admin server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the first request: health checks have passed by then.
const HEAD_START: Duration = Duration::from_secs(1);

/// What a run gave.
pub(super) struct Done {
    /// Every answer.
    pub(super) answers: Vec<Answer>,
    /// Requests by server and second.
    pub(super) arrived: Vec<Vec<u32>>,
    /// The simulator's measures.
    pub(super) metrics: Metrics,
    /// 95th percentile of a decision, microseconds; `None`: none was measured.
    pub(super) decision_us: Option<f64>,
    /// Good answers a second.
    pub(super) throughput: f64,
}

/// Runs `scenario` through a proxy of its own. `ejection`: whether outlier ejection is on.
pub(super) async fn run(scenario: &Scenario, strategy: StrategyKind, ejection: bool) -> Result<Done, Failure> {
    let start = Instant::now() + HEAD_START;
    let failed = |error: std::io::Error| Failure::Failed(format!("cannot start an instance: {error}"));
    let mut tasks = tokio::task::JoinSet::new();
    let instances: Vec<Arc<Instance>> = (0..)
        .zip(&scenario.servers)
        .map(|(index, plan)| Instance::start(index, plan, start, &mut tasks).map_err(failed))
        .collect::<Result<_, _>>()?;
    let balancer = Balancer::start(plan(scenario, strategy, ejection, &instances))?;
    let events = scenario.events.clone();
    let script = tokio::spawn(async move {
        for event in events {
            sleep_until(start + Duration::from_secs_f64(event.at)).await;
            if let Some(instance) = instances.get(event.server) {
                instance.change(event.change);
            }
        }
        instances
    });
    let client = Arc::new(Clients { address: balancer.listener, idle: Mutex::default() });
    let patience = Duration::from_secs_f64(scenario.timeout * 1.5) + Duration::from_secs(1);
    let mut requests = tokio::task::JoinSet::new();
    for arrival in scenario.arrivals.clone() {
        let due = start + Duration::from_secs_f64(arrival.at);
        sleep_until(due).await;
        let client = Arc::clone(&client);
        requests.spawn(async move {
            let told = timeout(patience, client.ask(&arrival)).await.unwrap_or(None);
            let (ok, server) = told.map_or((false, 0), |(ok, server)| (ok, server));
            Answer { at: arrival.at, took: due.elapsed().as_secs_f64(), ok, server, work: arrival.work }
        });
    }
    let answers = requests.join_all().await;
    let instances = script.await.map_err(|error| Failure::Failed(format!("the script broke: {error}")))?;
    let decision_us = balancer.decision_p95().await?;
    balancer.stop().await;
    let arrived: Vec<_> = instances.iter().map(|instance| instance.server.arrived()).collect();
    let metrics = measure(scenario, &answers, &arrived);
    let good = answers.iter().filter(|answer| answer.ok).count();
    Ok(Done { metrics, decision_us, throughput: good as f64 / scenario.duration, answers, arrived })
}

fn plan(scenario: &Scenario, strategy: StrategyKind, ejection: bool, instances: &[Arc<Instance>]) -> Plan {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let backends =
        (1..).zip(instances).map(|(n, instance)| BackendPlan::new(format!("b{n}"), Address::Ip(instance.address)));
    let mut pool = PoolPlan::new("prove", strategy, backends.collect());
    pool.strategy.rl.sla = Some(Duration::from_secs_f64(scenario.sla));
    pool.timeouts.first_byte = Duration::from_secs_f64(scenario.timeout);
    // As in the simulator: one attempt for everybody, the same health checks, and ejection only on demand.
    pool.retry.attempts = 1;
    pool.health.interval = Duration::from_secs(1);
    pool.health.timeout = Duration::from_millis(900);
    if !ejection {
        pool.outlier.consecutive_failures = 0;
    }
    let mut plan = Plan::minimal(anywhere, strategy, Vec::new());
    plan.pools = vec![Arc::new(pool)];
    plan.admin = Some(AdminPlan::new(anywhere));
    plan.access_log.format = AccessLogFormat::Off;
    plan.server.drain_timeout = Duration::from_secs(1);
    plan
}

/// The balancer, on threads of its own.
struct Balancer {
    handle: crate::app::AppHandle,
    thread: std::thread::JoinHandle<()>,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Balancer {
    fn start(plan: Plan) -> Result<Self, Failure> {
        let app = App::bind(plan, None).map_err(|error| Failure::Failed(error.to_string()))?;
        let listener = app.listeners().first().map(|(_, address)| *address);
        let (Some(listener), Some(admin)) = (listener, app.admin_address()) else {
            return Err(Failure::Failed("the balancer has no address".into()));
        };
        let handle = app.handle();
        let thread = std::thread::spawn(move || {
            if let Err(error) = app.run() {
                output::complain(&format!("evenkeel: the balancer cannot run: {error}"));
            }
        });
        Ok(Self { handle, thread, listener, admin })
    }

    /// 95th percentile of a decision from the histogram, interpolated within its bucket, microseconds.
    async fn decision_p95(&self) -> Result<Option<f64>, Failure> {
        let client = Client::new(AdminUrl::new(self.admin));
        let reply = client.call(http::Method::GET, "/metrics", None, PATIENCE).await?;
        let text = String::from_utf8_lossy(&reply.body);
        let buckets: Vec<(f64, f64)> = text
            .lines()
            .filter(|line| line.starts_with("evenkeel_decision_seconds_bucket"))
            .filter_map(|line| {
                let (_, rest) = line.split_once("le=\"")?;
                let (bound, rest) = rest.split_once('"')?;
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
                Some((bound, rest.rsplit(' ').next()?.parse().ok()?))
            })
            .collect();
        let wanted = buckets.last().map_or(0.0, |(_, all)| all * 0.95);
        let mut before = (0.0, 0.0);
        for (bound, count) in buckets {
            if wanted > 0.0 && count >= wanted {
                let share = (wanted - before.1) / (count - before.1).max(1e-9);
                let seconds = if bound.is_finite() { before.0 + (bound - before.0) * share } else { before.0 };
                return Ok(Some(seconds * 1e6));
            }
            before = (bound, count);
        }
        Ok(None)
    }

    async fn stop(self) {
        self.handle.shutdown();
        let thread = self.thread;
        // A panic in there has been printed where it happened.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// Connections to the balancer, used again and again.
struct Clients {
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Clients {
    /// Asks once: whether the answer was good, and whose it was. `None`: there was no whole answer.
    async fn ask(&self, arrival: &Arrival) -> Option<(bool, usize)> {
        let request = Request::get("/work")
            .header(HOST, "prove")
            .header(WORK, arrival.work.to_string())
            .header(COIN, arrival.coin.to_string())
            .body(Full::new(Bytes::new()))
            .ok()?;
        let mut sender = self.connection().await?;
        let answer = sender.send_request(request).await.ok()?;
        let ok = answer.status().is_success();
        let server = answer.headers().get(SERVER).and_then(|name| name.to_str().ok()?.parse().ok());
        answer.into_body().collect().await.ok()?;
        if sender.ready().await.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Some((ok, server.unwrap_or_default()))
    }

    async fn connection(&self) -> Option<SendRequest<Full<Bytes>>> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(sender) if sender.is_ready() => return Some(sender),
                Some(_) => {}
                None => return connect(&self.address.ip().to_string(), self.address.port()).await.ok(),
            }
        }
    }
}

/// The share of requests that each server got from second `from` to second `to`.
pub(super) fn shares(arrived: &[Vec<u32>], from: usize, to: usize) -> HashMap<usize, f64> {
    let sum = |seconds: &Vec<u32>| seconds.iter().take(to).skip(from).map(|count| f64::from(*count)).sum::<f64>();
    let all: f64 = arrived.iter().map(sum).sum();
    arrived.iter().enumerate().map(|(server, seconds)| (server, sum(seconds) / all.max(1.0))).collect()
}
