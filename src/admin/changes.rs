//! The handlers of the write side: each checks its input, asks the control room for the change, writes one audit line and
//! answers with what is then in force.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::api::{find, tagged};
use super::extract::{Asked, Body, Caller, Path};
use super::openapi::{ChangeErrors, ErrorBody};
use super::room::{Alteration, Change, ChangeError, Precondition};
use super::views::{BackendView, CheckedView, backend_etag, expiry, pool_etag, wanted_name};
use super::{AdminState, ApiError};
use crate::backend::SampleSource;
use crate::clock;
use crate::config::{AdminState as Wanted, StrategyKind, parse_duration, show_duration};
use crate::pool::Pool;

type Admin = State<Arc<AdminState>>;
type Place = Path<(String, String)>;

/// Add a backend.
///
/// The body has the keys of the backend's table in the configuration. It lives until it is removed or the file names it.
#[utoipa::path(post, path = "/api/v1/pools/{pool}/backends", tag = "changes", params(("pool" = String, Path, description = "The pool's name")),
    request_body(content = Object, description = "The keys of a backend's TOML table", example = json!({"name": "instance-7", "address": "127.0.0.1:8007", "weight": 1})),
    responses((status = 201, body = BackendView), ChangeErrors, (status = 409, description = "The name is taken", body = ErrorBody)))]
pub(super) async fn add(
    State(admin): Admin,
    Path(pool): Path<String>,
    caller: Caller,
    Body(keys): Body<Map<String, Value>>,
) -> Result<Response, ApiError> {
    let Some(name) = keys.get("name").and_then(Value::as_str).map(str::to_owned) else {
        return Err(ApiError::invalid("a backend needs a `name`, a text"));
    };
    let detail = Value::Object(keys.clone()).to_string();
    change(&admin, &pool, &caller, pool_condition(&caller), Alteration::Add(keys)).await?;
    audit(&caller, "add", &pool, &name, &detail);
    let mut response = shown(&admin, &pool, &name)?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// What `PATCH` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PatchBody {
    /// 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    weight: Option<u32>,
    /// Requests it takes at once; 0: no limit.
    max_in_flight: Option<u32>,
    /// `ready`, `drain` or `disabled`.
    state: Option<StateWord>,
}

impl PatchBody {
    /// The keys that it has, for the audit log.
    fn told(&self) -> String {
        let number = |key: &str, value: Option<u32>| value.map(|value| format!("{key} {value}"));
        let state = self.state.map(|state| format!("state {}", wanted_name(state.into())));
        let keys = [number("weight", self.weight), number("max_in_flight", self.max_in_flight), state];
        keys.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What is wanted of a backend: the words of the configuration, and the one that the API shows for `drain`.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum StateWord {
    Ready,
    #[serde(alias = "draining")]
    Drain,
    Disabled,
}

impl From<StateWord> for Wanted {
    fn from(word: StateWord) -> Self {
        match word {
            StateWord::Ready => Self::Ready,
            StateWord::Drain => Self::Drain,
            StateWord::Disabled => Self::Disabled,
        }
    }
}

/// Change a backend's weight, limit or state.
#[utoipa::path(patch, path = "/api/v1/pools/{pool}/backends/{name}", tag = "changes", params(("pool" = String, Path, description = "The pool's name"), ("name" = String, Path, description = "The backend's name")),
    responses((status = 200, body = BackendView), ChangeErrors))]
pub(super) async fn patch(
    State(admin): Admin,
    Path((pool, name)): Place,
    caller: Caller,
    Body(body): Body<PatchBody>,
) -> Result<Response, ApiError> {
    if body.weight.is_some_and(|weight| !(1..=1000).contains(&weight)) {
        return Err(ApiError::invalid("`weight` is a whole number from 1 to 1000"));
    }
    let detail = body.told();
    if detail.is_empty() {
        return Err(ApiError::invalid("nothing to change: `weight`, `max_in_flight` or `state` is needed"));
    }
    let PatchBody { weight, max_in_flight, state } = body;
    let what = Alteration::Patch { backend: name.clone(), weight, max_in_flight, state: state.map(Wanted::from) };
    change(&admin, &pool, &caller, backend_condition(&caller, &name), what).await?;
    audit(&caller, "patch", &pool, &name, &detail);
    shown(&admin, &pool, &name)
}

/// The query of `DELETE`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    /// How long requests in flight get, such as `30s`; absent: the server's `drain_timeout`.
    #[serde(default, deserialize_with = "duration")]
    #[param(value_type = Option<String>, example = "30s")]
    drain_timeout: Option<Duration>,
    /// Answer when it is gone.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    wait: bool,
}

/// A removal's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Removed {
    name: String,
    /// Requests still in flight there.
    in_flight: u32,
    /// Seconds until those are cut off.
    remaining_s: Option<f64>,
    gone: bool,
}

/// How often a waiting removal looks whether the backend is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long after its deadline a removal may take before the wait is given up: cutting takes a moment.
const AFTER_DEADLINE: Duration = Duration::from_secs(5);

/// Remove a backend gracefully.
///
/// It gets no new requests; those in flight finish, or are cut off after `drain_timeout`; then it is gone.
#[utoipa::path(delete, path = "/api/v1/pools/{pool}/backends/{name}", tag = "changes", params(("pool" = String, Path, description = "The pool's name"), ("name" = String, Path, description = "The backend's name"), RemoveQuery),
    responses((status = 202, description = "It is leaving", body = Removed), (status = 200, description = "It is gone", body = Removed),
        ChangeErrors, (status = 504, description = "It is still not empty", body = ErrorBody)))]
pub(super) async fn remove(
    State(admin): Admin,
    Path((pool, name)): Place,
    caller: Caller,
    Asked(RemoveQuery { drain_timeout, wait }): Asked<RemoveQuery>,
) -> Result<Response, ApiError> {
    let leaver = find(&admin, &pool)?.backend(&name).ok_or_else(|| ApiError::not_found("backend", &name))?;
    let what = Alteration::Remove { backend: name.clone(), drain_timeout };
    change(&admin, &pool, &caller, backend_condition(&caller, &name), what).await?;
    audit(&caller, "remove", &pool, &name, &told_time("drain_timeout", drain_timeout));
    let gone = || find(&admin, &pool).map_or(true, |pool| !pool.leaving().iter().any(|left| left.id == leaver.id));
    if !wait {
        let deadline = admin.room.drain_deadline(leaver.id);
        let remaining_s = deadline.map(|at| at.saturating_duration_since(clock::now()).as_secs_f64());
        let body = Removed { name, in_flight: leaver.in_flight(), remaining_s, gone: gone() };
        return Ok((StatusCode::ACCEPTED, Json(body)).into_response());
    }
    let limit = admin.room.drain_deadline(leaver.id).map(|deadline| deadline + AFTER_DEADLINE);
    while !gone() {
        if limit.is_some_and(|limit| clock::now() >= limit) {
            let message = "the backend still has requests in flight after its deadline";
            return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, "not_drained", message));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(Json(Removed { name, in_flight: 0, remaining_s: None, gone: true }).into_response())
}

/// The query of a drain.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainQuery {
    /// How long pinned sessions may go on; absent: the server's `drain_timeout`.
    #[serde(default, deserialize_with = "duration")]
    #[param(value_type = Option<String>, example = "60s")]
    timeout: Option<Duration>,
}

/// Send a backend no new sessions, without removing it.
#[utoipa::path(post, path = "/api/v1/pools/{pool}/backends/{name}/drain", tag = "changes", params(("pool" = String, Path, description = "The pool's name"), ("name" = String, Path, description = "The backend's name"), DrainQuery),
    responses((status = 200, body = BackendView), ChangeErrors))]
pub(super) async fn drain(
    State(admin): Admin,
    Path((pool, name)): Place,
    caller: Caller,
    Asked(DrainQuery { timeout }): Asked<DrainQuery>,
) -> Result<Response, ApiError> {
    let what = Alteration::Drain { backend: name.clone(), timeout };
    change(&admin, &pool, &caller, backend_condition(&caller, &name), what).await?;
    audit(&caller, "drain", &pool, &name, &told_time("timeout", timeout));
    shown(&admin, &pool, &name)
}

/// Take a drained backend back.
#[utoipa::path(post, path = "/api/v1/pools/{pool}/backends/{name}/undrain", tag = "changes", params(("pool" = String, Path, description = "The pool's name"), ("name" = String, Path, description = "The backend's name")),
    responses((status = 200, body = BackendView), ChangeErrors))]
pub(super) async fn undrain(
    State(admin): Admin,
    Path((pool, name)): Place,
    caller: Caller,
) -> Result<Response, ApiError> {
    let what = Alteration::Undrain { backend: name.clone() };
    change(&admin, &pool, &caller, backend_condition(&caller, &name), what).await?;
    audit(&caller, "undrain", &pool, &name, "");
    shown(&admin, &pool, &name)
}

/// What `PUT …/strategy` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StrategyBody {
    /// Its name, as in the configuration.
    strategy: String,
}

/// A switch's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Switched {
    strategy: &'static str,
    previous: &'static str,
}

/// Balance by another strategy, live.
#[utoipa::path(put, path = "/api/v1/pools/{pool}/strategy", tag = "changes", params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, body = Switched), ChangeErrors))]
pub(super) async fn strategy(
    State(admin): Admin,
    Path(pool): Path<String>,
    caller: Caller,
    Body(StrategyBody { strategy }): Body<StrategyBody>,
) -> Result<Response, ApiError> {
    let before = find(&admin, &pool)?.strategy_kind();
    let Some(kind) = StrategyKind::from_name(&strategy) else {
        let known = StrategyKind::ALL.map(StrategyKind::name);
        let message = format!("there is no strategy {strategy:?}; there are {}", known.join(", "));
        return Err(ApiError::invalid(message).with("known", json!(known)));
    };
    change(&admin, &pool, &caller, pool_condition(&caller), Alteration::Strategy(kind)).await?;
    audit(&caller, "strategy", &pool, "", &format!("{} to {}", before.name(), kind.name()));
    let now = find(&admin, &pool)?;
    Ok(tagged(pool_etag(&now), Switched { strategy: now.strategy_kind().name(), previous: before.name() }))
}

/// What `PUT …/resources` takes: fractions.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResourcesBody {
    /// Share of its CPU in use.
    #[schema(minimum = 0, maximum = 1)]
    cpu: Option<f64>,
    /// Share of its memory (or KV cache) in use.
    #[schema(minimum = 0, maximum = 1)]
    memory: Option<f64>,
}

/// Tell a backend's CPU and memory use.
///
/// Leaves no audit line: these are measurements, pushed by a program.
#[utoipa::path(put, path = "/api/v1/pools/{pool}/backends/{name}/resources", tag = "changes", params(("pool" = String, Path, description = "The pool's name"), ("name" = String, Path, description = "The backend's name")),
    responses((status = 200, body = BackendView), ChangeErrors))]
pub(super) async fn resources(
    State(admin): Admin,
    Path((pool, name)): Place,
    caller: Caller,
    Body(body): Body<ResourcesBody>,
) -> Result<Response, ApiError> {
    let found = find(&admin, &pool)?;
    let backend = found.backend(&name).ok_or_else(|| ApiError::not_found("backend", &name))?;
    caller.demand(&backend_etag(&backend))?;
    for (key, value) in [("cpu", body.cpu), ("memory", body.memory)] {
        if value.is_some_and(|value| !(0.0..=1.0).contains(&value)) {
            return Err(ApiError::invalid(format!("`{key}` is a fraction from 0 to 1")));
        }
    }
    if body.cpu.is_none() && body.memory.is_none() {
        return Err(ApiError::invalid("`cpu`, `memory` or both are needed"));
    }
    backend.note_resources(body.cpu, body.memory, expiry(&found), clock::now());
    backend.count_sample(SampleSource::Api, true);
    shown(&admin, &pool, &name)
}

/// What a check on demand found, in the pool's order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Checked {
    results: Vec<CheckedView>,
}

/// Probe every backend now.
#[utoipa::path(post, path = "/api/v1/pools/{pool}/check", tag = "changes", params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, body = Checked), ChangeErrors))]
pub(super) async fn check(
    State(admin): Admin,
    Path(pool): Path<String>,
    caller: Caller,
) -> Result<Json<Checked>, ApiError> {
    let pool = find(&admin, &pool)?;
    caller.demand(&pool_etag(&pool))?;
    let reports = admin.room.check(pool).await;
    let results = reports.iter().map(|(backend, report)| CheckedView::new(backend, report)).collect();
    Ok(Json(Checked { results }))
}

/// What `PUT …/health` takes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthBody {
    /// Whether active checks run.
    enabled: bool,
}

/// Pause or resume active checks.
#[utoipa::path(put, path = "/api/v1/pools/{pool}/health", tag = "changes", params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, body = HealthBody), ChangeErrors))]
pub(super) async fn health(
    State(admin): Admin,
    Path(pool): Path<String>,
    caller: Caller,
    Body(HealthBody { enabled }): Body<HealthBody>,
) -> Result<Response, ApiError> {
    let pool = find(&admin, &pool)?;
    caller.demand(&pool_etag(&pool))?;
    pool.pause_checks(!enabled);
    audit(&caller, if enabled { "resume_checks" } else { "pause_checks" }, &pool.name, "", "");
    Ok(tagged(pool_etag(&pool), HealthBody { enabled: !pool.checks_paused() }))
}

/// Asks the control room, and puts its refusal into the API's words.
async fn change(
    admin: &AdminState,
    pool: &str,
    caller: &Caller,
    only_if: Option<Precondition>,
    what: Alteration,
) -> Result<(), ApiError> {
    debug_assert_eq!(caller.has_condition(), only_if.is_some());
    let name = match &what {
        Alteration::Add(keys) => keys.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        Alteration::Patch { backend, .. }
        | Alteration::Remove { backend, .. }
        | Alteration::Drain { backend, .. }
        | Alteration::Undrain { backend } => backend.clone(),
        Alteration::Strategy(_) => String::new(),
    };
    let change = Change { pool: pool.to_owned(), what, only_if };
    admin.room.change(change).await.map_err(|error| refused(error, pool, &name))
}

fn refused(error: ChangeError, pool: &str, backend: &str) -> ApiError {
    match error {
        ChangeError::NoPool => ApiError::not_found("pool", pool),
        ChangeError::NoBackend => ApiError::not_found("backend", backend),
        ChangeError::NameTaken => {
            let message = format!("the pool has a backend {backend:?} already");
            ApiError::new(StatusCode::CONFLICT, "name_taken", message)
        }
        ChangeError::TagMismatch => ApiError::stale(),
        ChangeError::Invalid(message, errors) => ApiError::invalid(message).with("errors", Value::Array(errors)),
        ChangeError::Unavailable(why) => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why),
    }
}

fn pool_condition(caller: &Caller) -> Option<Precondition> {
    let caller = caller.clone();
    caller.has_condition().then(|| -> Precondition { Box::new(move |pool| caller.allows(&pool_etag(pool))) })
}

/// A backend that is not there fails no condition: that it is missing is said by the change itself.
fn backend_condition(caller: &Caller, name: &str) -> Option<Precondition> {
    let (caller, name) = (caller.clone(), name.to_owned());
    caller.has_condition().then(|| -> Precondition {
        Box::new(move |pool: &Pool| pool.backend(&name).is_none_or(|backend| caller.allows(&backend_etag(&backend))))
    })
}

/// The backend as it is now.
fn shown(admin: &AdminState, pool: &str, name: &str) -> Result<Response, ApiError> {
    let pool = find(admin, pool)?;
    let backend = pool.backend(name).ok_or_else(|| ApiError::not_found("backend", name))?;
    let view = BackendView::find(&pool, name, &*admin.room, clock::now());
    Ok(tagged(backend_etag(&backend), view))
}

/// A time limit for the audit log.
fn told_time(key: &str, limit: Option<Duration>) -> String {
    format!("{key} {}", limit.map_or_else(|| "as configured".to_owned(), show_duration))
}

/// Longest detail of an audit line, bytes: the keys of a backend fit, a body of megabytes does not fill the disk.
const MOST_DETAIL: usize = 2048;

/// The one line that each change leaves.
pub(super) fn audit(caller: &Caller, action: &str, pool: &str, backend: &str, detail: &str) {
    let detail = detail.get(..detail.floor_char_boundary(MOST_DETAIL)).unwrap_or_default();
    tracing::info!(target: "evenkeel::audit", action, pool, backend, detail, peer = caller.peer, "changed by the admin API");
}

/// A duration of a query, as in the configuration.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration =
        parse_duration(&text).map_err(|error| serde::de::Error::custom(format!("{error}: {}", error.hint)))?;
    Ok(Some(duration))
}
