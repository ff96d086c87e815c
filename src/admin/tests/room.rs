//! A control room that plays its part, and requests to the API without a socket.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::super::*;
use crate::backend::{Backend, BackendId, CodeClass, Outcome, ProbeReport, ProbeResult, Resources};
use crate::config::{AdminState as Wanted, BackendPlan, PoolPlan, StrategyKind};
use crate::pool::Pool;

#[derive(Debug)]
pub(super) struct Room {
    pub(super) pools: Vec<Arc<Pool>>,
    pub(super) phase: Mutex<Phase>,
    pub(super) refuses: bool,
    /// What was asked for and granted.
    pub(super) changes: Mutex<Vec<Alteration>>,
}

impl ControlRoom for Room {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            phase: *self.phase.lock().unwrap(),
            uptime: Duration::from_millis(12_500),
            config_generation: 3,
            pools: self.pools.clone(),
            listeners: vec![Listening {
                address: ([127, 0, 0, 1], 80).into(),
                scheme: "http",
                connections: 4,
                handshakes: None,
                limited: [[0; 2]; 2],
            }],
            workers: vec![3, 1],
            overrides: vec![json!({ "key": "pools.p.strategy" })],
            last_reload: Some(LastReload {
                at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_500),
                applied: false,
                errors: vec!["conf/x.toml:1:2: wrong".to_owned()],
            }),
            certificates: vec![("a\"b.pem".into(), SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000))],
            access_log_lost: 7,
            refused: [0, 0, 3, 0, 0],
            cut: vec![("slow_head", 5)],
        }
    }

    fn drain_deadline(&self, _: BackendId) -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(30))
    }

    fn upstream_connections(&self, _: BackendId) -> Option<u64> {
        Some(2)
    }

    fn reload(&self) -> Reply<'_, Result<ReloadDone, Refused>> {
        let refused = || Refused {
            message: "the file is faulty".to_owned(),
            errors: vec![json!({ "line": 3 })],
            lines: Vec::new(),
        };
        let answer =
            if self.refuses { Err(refused()) } else { Ok(ReloadDone { diff: json!({ "added": ["pools.p.b"] }) }) };
        Box::pin(async { answer })
    }

    /// As the control room does it, but only for what stands in the pool already.
    fn change(&self, change: Change) -> Reply<'_, Result<(), ChangeError>> {
        let answer = (|| {
            let pool = self.pools.iter().find(|pool| *pool.name == *change.pool).ok_or(ChangeError::NoPool)?;
            if change.only_if.as_ref().is_some_and(|holds| !holds(pool)) {
                return Err(ChangeError::TagMismatch);
            }
            let mut plan = (*pool.plan()).clone();
            let find = |name: &str| plan.backends.iter().position(|b| b.name == *name).ok_or(ChangeError::NoBackend);
            match &change.what {
                Alteration::Add(keys) if keys["name"] == "a" => return Err(ChangeError::NameTaken),
                Alteration::Add(keys) if keys.len() < 2 => {
                    return Err(ChangeError::Invalid("no address".to_owned(), vec![json!({ "key": "address" })]));
                }
                Alteration::Add(keys) => {
                    let address = keys["address"].as_str().unwrap().parse().unwrap();
                    plan.backends.push(BackendPlan::new(keys["name"].as_str().unwrap(), address));
                }
                Alteration::Patch { backend, weight, .. } => {
                    let index = find(backend)?;
                    plan.backends[index].weight = weight.unwrap_or(plan.backends[index].weight);
                }
                Alteration::Remove { backend, .. } => drop(plan.backends.remove(find(backend)?)),
                Alteration::Drain { backend, .. } | Alteration::Undrain { backend } => drop(find(backend)?),
                Alteration::Strategy(kind) => plan.strategy.kind = *kind,
            }
            pool.apply(Arc::new(plan), Instant::now());
            self.changes.lock().unwrap().push(change.what);
            Ok(())
        })();
        Box::pin(async { answer })
    }

    fn check(&self, pool: Arc<Pool>) -> Reply<'_, Vec<(Arc<Backend>, ProbeReport)>> {
        let report = ProbeReport {
            result: ProbeResult::Failed,
            detail: "status 500".to_owned(),
            took: Duration::from_millis(2),
        };
        let all = pool.set().members.iter().map(|backend| (Arc::clone(backend), report.clone())).collect();
        Box::pin(async { all })
    }
}

/// Pool `p` with backends `a` (up, used) and `b` (drained, unknown health).
pub(super) fn pool() -> Arc<Pool> {
    let mut drained = BackendPlan::new("b", "127.0.0.1:2".parse().unwrap());
    drained.state = Wanted::Drain;
    let backends = vec![BackendPlan::new("a", "127.0.0.1:1".parse().unwrap()), drained];
    let pool = Pool::new(Arc::new(PoolPlan::new("p", StrategyKind::LeastConnections, backends)), Instant::now());
    let (backend, now) = (pool.backend("a").unwrap(), Instant::now());
    let report = ProbeReport {
        result: ProbeResult::Passed,
        detail: "status 200".to_owned(),
        took: Duration::from_micros(1_500),
    };
    pool.probed(&backend, &report, now);
    for status in [200, 500] {
        backend.stats.attempt_ended(&Outcome::served(status, Duration::from_millis(100)), now);
        backend.stats.request_ended(CodeClass::of(status), Duration::from_millis(100));
    }
    let sample = Resources { cpu: Some(0.25), memory: None, sampled: Some(now), ..Resources::default() };
    backend.set_resources(sample);
    pool
}

pub(super) fn admin_with(token: Option<&str>, refuses: bool) -> (Arc<AdminState>, Arc<Room>) {
    let room =
        Arc::new(Room { pools: vec![pool()], phase: Mutex::new(Phase::Running), refuses, changes: Mutex::default() });
    let metrics = Arc::new(Metrics::new().unwrap());
    (AdminState::new(Arc::clone(&room) as _, metrics, token.map(str::to_owned), false), room)
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

pub(super) async fn ask(router: &Router, request: axum::http::request::Builder) -> Answer {
    send(router, request.body(Body::empty()).unwrap()).await
}

/// A write from this machine, `METHOD PATH`, with a body.
pub(super) async fn write(router: &Router, line: &str, body: &str) -> Answer {
    write_if(router, line, body, None).await
}

pub(super) async fn write_if(router: &Router, line: &str, body: &str, tag: Option<&str>) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost:9901");
    if let Some(tag) = tag {
        request = request.header("if-match", tag);
    }
    send(router, request.body(Body::from(body.to_owned())).unwrap()).await
}

pub(super) async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}
