//! The balancer under test: an `App` on a thread of its own, on ports that the kernel chose.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use evenkeel::app::{App, AppHandle};
use evenkeel::config::{
    AccessLogFormat, Address, AdminPlan, BackendPlan, ListenerPlan, Plan, PoolPlan, ProbeKind, StrategyKind,
};
use evenkeel::control::Summary;

use super::{PATIENCE, Raw, Samples, TestBackend, comes_to, eventually, until};

/// A plan in the making: one worker, one pool `ai` with backends `b0`, `b1`, …, round robin, no health checks, no access
/// log, an admin server.
pub(crate) struct Setup {
    plan: Plan,
    log: Option<tempfile::TempDir>,
    source: Option<PathBuf>,
}

impl Setup {
    /// In front of these backends.
    pub(crate) fn new(backends: &[&TestBackend]) -> Self {
        Self::at(&backends.iter().map(|backend| backend.address()).collect::<Vec<_>>())
    }

    /// In front of backends at these addresses.
    pub(crate) fn at(addresses: &[SocketAddr]) -> Self {
        let backends = addresses.iter().enumerate();
        let backends = backends.map(|(n, address)| BackendPlan::new(format!("b{n}"), Address::Ip(*address))).collect();
        let mut plan = Plan::minimal(([127, 0, 0, 1], 0).into(), StrategyKind::RoundRobin, backends);
        plan.server.threads = 1;
        plan.admin = Some(AdminPlan::new(([127, 0, 0, 1], 0).into()));
        plan.access_log.format = AccessLogFormat::Off;
        let setup = Self { plan, log: None, source: None };
        setup.pool(|pool| {
            pool.name = "ai".to_owned();
            pool.health.kind = ProbeKind::None;
        })
    }

    /// As the configuration file at `path` says.
    #[track_caller]
    pub(crate) fn file(path: &Path) -> Self {
        let (plan, warnings) = Plan::load(path).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(warnings.is_empty(), "{warnings:?}");
        Self { plan, log: None, source: Some(path.to_owned()) }
    }

    /// Changes the pool.
    pub(crate) fn pool(mut self, change: impl FnOnce(&mut PoolPlan)) -> Self {
        change(Arc::make_mut(&mut self.plan.pools[0]));
        self
    }

    /// Changes the listener.
    pub(crate) fn listener(mut self, change: impl FnOnce(&mut ListenerPlan)) -> Self {
        change(&mut self.plan.listeners[0]);
        self
    }

    /// Changes anything.
    pub(crate) fn plan(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        change(&mut self.plan);
        self
    }

    /// Writes the access log to a file, for [`TestProxy::log`].
    pub(crate) fn logged(mut self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        self.plan.access_log.format = AccessLogFormat::Json;
        self.plan.access_log.path = Some(folder.path().join("access.log"));
        self.log = Some(folder);
        self
    }

    /// Runs it.
    #[track_caller]
    pub(crate) fn start(self) -> TestProxy {
        self.start_after(|_| {})
    }

    /// Runs it after something was done with the address of its first listener, which clients can connect to already.
    #[track_caller]
    pub(crate) fn start_after(self, before: impl FnOnce(SocketAddr)) -> TestProxy {
        let log = self.plan.access_log.path.clone();
        let app = App::bind(self.plan, self.source).expect("bind");
        let (address, admin) = (app.listeners()[0].1, app.admin_address().expect("an admin server"));
        let handle = app.handle();
        before(address);
        let (ended, end) = mpsc::channel();
        std::thread::spawn(move || {
            let summary = app.run().expect("run");
            let _ = ended.send(summary);
        });
        TestProxy { address, admin, handle, end: Some(end), log, _folder: self.log }
    }
}

/// A running balancer. Dropping it waits until nothing is in flight, drains it, and fails the test if anything was cut.
pub(crate) struct TestProxy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where operators do.
    pub(crate) admin: SocketAddr,
    pub(crate) handle: AppHandle,
    end: Option<mpsc::Receiver<Summary>>,
    log: Option<PathBuf>,
    _folder: Option<tempfile::TempDir>,
}

impl TestProxy {
    /// A new client.
    #[track_caller]
    pub(crate) fn client(&self) -> Raw {
        Raw::connect(self.address)
    }

    /// `GET path` on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> super::Message {
        self.client().get(path)
    }

    /// `GET path` of the admin server.
    #[track_caller]
    pub(crate) fn admin(&self, path: &str) -> super::Message {
        Raw::connect(self.admin).get(path)
    }

    /// A change through the admin server: `METHOD PATH` and a JSON body.
    #[track_caller]
    pub(crate) fn change(&self, line: &str, body: &str) -> super::Message {
        let mut client = Raw::connect(self.admin);
        let (method, path) = line.split_once(' ').unwrap();
        let length = body.len();
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"));
        client.response()
    }

    /// `/metrics`.
    #[track_caller]
    pub(crate) fn metrics(&self) -> Samples {
        let answer = self.admin("/metrics");
        assert_eq!(answer.status(), 200);
        Samples::parse(answer.text())
    }

    /// One metric, summed over what the labels leave open.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// Waits until that metric is `value`: what a request leaves in the counts may come after its last byte.
    #[track_caller]
    pub(crate) fn comes_to(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        comes_to(&format!("{name} {labels:?}"), value, || self.metric(name, labels));
    }

    /// Requests in flight at all backends.
    #[track_caller]
    pub(crate) fn in_flight(&self) -> f64 {
        self.metric("evenkeel_in_flight", &[])
    }

    /// The lines of the access log, once there are `count`.
    #[track_caller]
    pub(crate) fn log(&self, count: usize) -> Vec<serde_json::Value> {
        let path = self.log.as_ref().expect("Setup::logged");
        eventually("lines in the access log", || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            // The last may be half written.
            let whole = text.ends_with('\n') && text.lines().count() >= count;
            whole.then(|| text.lines().map(|line| serde_json::from_str(line).expect(line)).collect())
        })
    }

    /// Waits until the pool's backend `name` has this health.
    #[track_caller]
    pub(crate) fn wait_health(&self, name: &str, state: &str) {
        until(&format!("{name} {state}"), || {
            self.metric("evenkeel_backend_state", &[("backend", name), ("state", state)]) == 1.0
        });
    }

    /// Drains and ends it.
    #[track_caller]
    pub(crate) fn end(mut self) -> Summary {
        self.handle.shutdown();
        let end = self.end.take().unwrap();
        end.recv_timeout(PATIENCE).expect("the balancer ends")
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        let Some(end) = self.end.take() else { return };
        if std::thread::panicking() {
            self.handle.abort();
            return;
        }
        until("nothing in flight", || self.in_flight() == 0.0);
        self.handle.shutdown();
        let summary = end.recv_timeout(PATIENCE).expect("the balancer ends");
        assert!(summary.clean, "{summary}");
    }
}
