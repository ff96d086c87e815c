//! `evenkeel demo`: the balancer before six unequal mock instances, under load, while a schedule slows one down and
//! breaks another. Everything happens over real sockets; the balancer is told nothing of the schedule.

mod cast;
mod load;
mod tally;
mod view;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use http::Method;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use self::cast::Turn;
use self::load::Heard;
use self::view::Stage;
use super::http::{AdminUrl, Client};
use super::screen::Screen;
use super::{Failure, args, output, table};
use crate::app::{App, AppHandle};
use crate::config::{
    AccessLogFormat, Address, AdminPlan, BackendPlan, Engine, Plan, PoolPlan, ResourcesPlan, ScrapePlan, StrategyKind,
};
use crate::mock::Mock;

/// Name of the pool, in the API and in the metrics.
const POOL: &str = "ai";
/// Where the demo listens unless told otherwise, if that is free.
const LISTEN: u16 = 8080;
/// The same of its admin server.
const ADMIN: u16 = 9901;
/// Between two looks at the balancer, and two frames.
const LOOK: Duration = Duration::from_millis(500);
/// Looks between two lines where there is no terminal.
const LOOKS_A_LINE: u32 = 10;
/// How long mocks and admin server may take to answer: they are in this process.
const PATIENCE: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  evenkeel demo
  evenkeel demo --strategy round_robin          see what it does without an eye for speed
  evenkeel demo --duration 60s > demo.txt       plain lines and a summary

Every 40 s: after 10 s instance-1 turns five times slower, for 10 s; after 30 s instance-4 answers 500, then
refuses connections, for 10 s. Only the mocks are told, over their own sockets.";

/// Show the balancer at work: six mock AI instances of unequal speed, load, a slowdown, a failure and a recovery.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArgs {
    /// End after this long; without it: at Ctrl-C.
    #[arg(long, value_name = "D", value_parser = args::duration)]
    duration: Option<Duration>,
    /// How backends are chosen.
    #[arg(long, value_name = "S", default_value = "rl", value_parser = args::strategy())]
    strategy: StrategyKind,
    /// Where clients connect [default: 127.0.0.1:8080, or any free port].
    #[arg(long, value_name = "ADDR", value_parser = args::listen)]
    listen: Option<SocketAddr>,
    /// Where the admin server and the dashboard are [default: 127.0.0.1:9901, or any free port].
    #[arg(long, value_name = "ADDR", value_parser = args::listen_local)]
    admin: Option<SocketAddr>,
}

impl DemoArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let profiles = cast::profiles();
        let mocks = Mocks::start(&profiles)?;
        let balancer = Balancer::start(self.plan(&mocks))?;
        output::line(&view::preface(balancer.listener, balancer.admin))?;
        let rate = cast::LOAD * cast::capacity(&profiles);
        let stage = Stage::new(profiles.len(), rate, self.strategy.name(), Instant::now());
        let turns = cast::schedule(&profiles);
        let played = super::block_on(play(stage, turns, &mocks, &balancer, self.duration));
        balancer.stop();
        output::result(&played?)
    }

    fn plan(&self, mocks: &Mocks) -> Plan {
        let backends = mocks.mocks.iter().map(|(name, mock)| BackendPlan::new(name, Address::Ip(mock.address())));
        let mut pool = PoolPlan::new(POOL, self.strategy, backends.collect());
        pool.engine = Engine::Vllm;
        pool.resources = Some(ResourcesPlan { scrape: Some(ScrapePlan::default()), ..ResourcesPlan::default() });
        let listen = self.listen.unwrap_or_else(|| free(LISTEN, "--listen"));
        let admin = self.admin.unwrap_or_else(|| free(ADMIN, "--admin"));
        let mut plan = Plan::minimal(listen, self.strategy, Vec::new());
        plan.pools = vec![Arc::new(pool)];
        plan.admin = Some(AdminPlan::new(admin));
        plan.access_log.format = AccessLogFormat::Off;
        // The load is gone by then; what is left is a stray curl.
        plan.server.drain_timeout = PATIENCE;
        plan
    }
}

/// The default port, or any if it is taken.
fn free(port: u16, flag: &str) -> SocketAddr {
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(error) => {
            output::complain(&format!(
                "evenkeel: {wanted} is not free ({error}); taking another port ({flag} chooses)"
            ));
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
        }
    }
}

/// The instances, all on one thread of their own: the balancer's threads stay its own.
struct Mocks {
    mocks: Vec<(String, Mock)>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Mocks {
    fn start(profiles: &[crate::mock::MockProfile]) -> Result<Self, Failure> {
        let failed = |error| Failure::Failed(format!("cannot start the mock instances: {error}"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("mocks")
            .enable_all()
            .build()
            .map_err(failed)?;
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mocks = profiles
            .iter()
            .map(|profile| {
                let mock = Mock::start_on(runtime.handle(), anywhere, profile.clone()).map_err(failed)?;
                Ok((profile.name.clone(), mock))
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Self { mocks, runtime: Some(runtime) })
    }

    fn client(&self, instance: usize) -> Option<Client> {
        self.mocks.get(instance).map(|(_, mock)| Client::new(AdminUrl::new(mock.address())))
    }
}

impl Drop for Mocks {
    fn drop(&mut self) {
        self.mocks.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The balancer, running on threads of its own.
struct Balancer {
    handle: AppHandle,
    thread: JoinHandle<()>,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Balancer {
    fn start(plan: Plan) -> Result<Self, Failure> {
        let app = App::bind(plan, None).map_err(|error| Failure::Usage(error.to_string()))?;
        let listener = app.listeners().first().map(|(_, address)| *address);
        let (Some(listener), Some(admin)) = (listener, app.admin_address()) else {
            return Err(Failure::Failed("the balancer has no address".into()));
        };
        let handle = app.handle();
        let thread = std::thread::Builder::new()
            .name("balancer".into())
            .spawn(move || {
                if let Err(error) = app.run() {
                    output::complain(&format!("evenkeel: the balancer cannot run: {error}"));
                }
            })
            .map_err(|error| Failure::Failed(format!("cannot start the balancer: {error}")))?;
        Ok(Self { handle, thread, listener, admin })
    }

    fn stop(self) {
        self.handle.shutdown();
        // A panic in there has been printed where it happened.
        let _ = self.thread.join();
    }
}

/// Runs load, schedule and display until the end; returns the summary.
async fn play(
    mut stage: Stage,
    turns: Vec<Turn>,
    mocks: &Mocks,
    balancer: &Balancer,
    duration: Option<Duration>,
) -> Result<String, Failure> {
    let start = Instant::now();
    let (tell, mut heard) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(load::generate(reachable(balancer.listener), stage.rate, tell));
    let api = Client::new(AdminUrl::new(reachable(balancer.admin)));
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = Screen::new()?;
    let mut interrupted = std::pin::pin!(super::interrupted());
    let mut look = 0;
    let mut next_turn = 0;
    loop {
        // Turns repeat round by round.
        let (round, index) = (next_turn / turns.len().max(1), next_turn % turns.len().max(1));
        let turn = turns.get(index);
        let turn_at =
            start + cast::ROUND * u32::try_from(round).unwrap_or(u32::MAX) + turn.map_or(cast::ROUND, |turn| turn.at);
        tokio::select! {
            Some(heard) = heard.recv() => match heard {
                Heard::Sent => stage.tally.sent += 1,
                Heard::Ended(ended) => stage.tally.ended(ended, Instant::now()),
            },
            () = sleep_until(turn_at) => {
                next_turn += 1;
                if let Some(turn) = turn {
                    take_turn(&mut stage, turn, mocks).await;
                }
            }
            _ = looks.tick() => {
                match look_at(&api).await {
                    Ok(pool) => stage.seen(pool, Instant::now()),
                    Err(failure) => stage.event(Instant::now(), "demo", &failure.to_string()),
                }
                show(&mut screen, &mut stage, look)?;
                look += 1;
            }
            done = &mut interrupted => {
                done?;
                break;
            }
            () = sleep_until(duration.map_or(turn_at, |duration| start + duration)), if duration.is_some() => break,
        }
    }
    Ok(stage.summary(Instant::now()))
}

async fn take_turn(stage: &mut Stage, turn: &Turn, mocks: &Mocks) {
    let Some(mock) = mocks.client(turn.instance) else { return };
    let done = match &turn.order {
        None => Ok(()),
        Some(order) => match mock.call(Method::POST, "/__mock", Some(order), PATIENCE).await {
            Ok(reply) => reply.accepted().map(drop),
            Err(error) => Err(Failure::from(error)),
        },
    };
    match done {
        Ok(()) => stage.turned(turn.instance, turn.now, turn.event, Instant::now()),
        Err(failure) => stage.event(Instant::now(), "demo", &failure.to_string()),
    }
}

async fn look_at(api: &Client) -> Result<table::PoolView, Failure> {
    let answer = api.get(&format!("/api/v1/pools/{POOL}"), PATIENCE).await?;
    serde_json::from_value(answer).map_err(|error| Failure::Failed(format!("the admin API speaks strangely: {error}")))
}

fn show(screen: &mut Screen, stage: &mut Stage, look: u32) -> Result<(), Failure> {
    let now = Instant::now();
    if screen.live() {
        let frame = stage.frame(screen.width(), screen.colour(), now);
        return screen.draw(&frame);
    }
    for event in stage.fresh_events() {
        output::line(&event)?;
    }
    if look > 0 && look.is_multiple_of(LOOKS_A_LINE) {
        output::line(&stage.plain(now))?;
    }
    Ok(())
}

/// An address to connect to, for one that may mean every interface.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}
