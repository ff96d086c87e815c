//! The learning agent from outside: as a service to other balancers (`/decide`, `/feedback`), its statistics, its table, and
//! why requests went where they went.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::api::find;
use super::changes::audit;
use super::decisions::{DecisionView, state_of};
use super::desk::{Missing, PATIENCE};
use super::extract::{Asked, Body, Caller, Path};
use super::openapi::{ActionErrors, ChangeErrors, ErrorBody, ReadErrors};
use super::views::pool_etag;
use super::{AdminState, ApiError};
use crate::backend::{Backend, Ending, stable_hash};
use crate::balance::{PickContext, PickKind, Strategy, Table};
use crate::clock;
use crate::config::StrategyKind;
use crate::pool::{Ask, Candidate, Decided, Pool, Unavailable};

type Admin = State<Arc<AdminState>>;

/// Longest response time that a feedback may tell, milliseconds: a day.
const LONGEST_MS: f64 = 86_400_000.0;

/// Decisions shown when no number is asked for, and the most.
const SHOWN: (usize, usize) = (20, 1000);

/// Largest table that is taken: 50 backends of the tabular agent need a fifth of it.
pub(super) const MAX_TABLE: usize = 16 << 20;

/// What `/decide` takes.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct DecideBody {
    /// The pool's name; may be left out when there is one only.
    service: Option<String>,
    /// Whose request it is: strategies that go by the client use it.
    client: Option<String>,
}

/// A decision.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DecideAnswer {
    /// The backend to use.
    selected_instance: String,
    /// Its address.
    address: String,
    /// 1 − cost of the chosen ÷ cost of the next, 0-1; 0 where the strategy weighs no costs.
    confidence: f64,
    decision_time_us: f64,
    /// The strategy's name; `rl-agent` for rl.
    algorithm: &'static str,
    /// For the feedback, within 60 s.
    decision_id: String,
    /// The state in which it was decided, binned; null where the strategy has none.
    #[schema(value_type = Option<Object>)]
    state: Value,
    explored: bool,
    /// How it came about.
    kind: &'static str,
    /// The chance it had, 0-1.
    propensity: f32,
}

/// Ask for a backend.
///
/// For a balancer that forwards by itself. The request counts as in flight until its feedback, or for 60 s; then nobody is
/// blamed.
#[utoipa::path(post, path = "/decide", tag = "agent", request_body = DecideBody,
    responses((status = 200, body = DecideAnswer), ActionErrors, (status = 429, description = "Too many decisions wait for their feedback", body = ErrorBody)))]
pub(super) async fn decide(State(admin): Admin, Body(body): Body<DecideBody>) -> Result<Json<DecideAnswer>, ApiError> {
    let pool = service(&admin, body.service.as_deref())?;
    if !admin.desk.has_room() {
        let message = "too many decisions wait for their feedback; each is forgotten after 60 s";
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_open", message));
    }
    let number = rand::random::<u128>();
    let id = format!("{number:032x}");
    let key = body.client.as_deref().map(|client| stable_hash(client.as_bytes()));
    let mut rng = SmallRng::from_rng(&mut rand::rng());
    let now = clock::now();
    let ask = Ask { id: id.as_bytes(), key, tried: &[], pinned: None, queued: false, repeats: false, now };
    let lease = pool.lease(pool.live(), &ask, &mut rng).map_err(|why| {
        let message = match why {
            Unavailable::NoneHealthy => "no backend is available",
            Unavailable::Held(_) => "every backend asked for a pause (Retry-After)",
            Unavailable::Busy => "every backend is at its limit of requests in flight",
        };
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_backend", message)
    })?;
    let took = clock::now().saturating_duration_since(now);
    let (backend, (kind, propensity, _)) = (Arc::clone(lease.backend()), lease.pick());
    let decided = lease.decided();
    let strategy = lease.live().strategy.as_ref();
    let costs = decided.as_ref().map(|decided| costs(decided, strategy, lease.live().set.ready.as_ref(), key));
    let state = decided.as_ref().map(|decided| state(decided, &backend)).unwrap_or_default();
    let answer = DecideAnswer {
        selected_instance: backend.name.to_string(),
        address: backend.address.to_string(),
        confidence: costs.map_or(0.0, |(chosen, next)| confidence(chosen, next)),
        decision_time_us: took.as_nanos() as f64 / 1e3,
        algorithm: match pool.strategy_kind() {
            StrategyKind::Rl => "rl-agent",
            other => other.name(),
        },
        decision_id: id,
        state,
        explored: kind == PickKind::Explore,
        kind: kind.name(),
        propensity,
    };
    admin.desk.give_out(number, lease, now);
    Ok(Json(answer))
}

/// The pool that stands for a service.
fn service(admin: &AdminState, name: Option<&str>) -> Result<Arc<Pool>, ApiError> {
    if let Some(name) = name {
        return find(admin, name);
    }
    let pools = admin.room.snapshot().pools;
    match pools.as_slice() {
        [only] => Ok(Arc::clone(only)),
        several => {
            let names: Vec<_> = several.iter().map(|pool| &*pool.name).collect();
            Err(ApiError::invalid(format!("`service` is needed, one of: {}", names.join(", "))))
        }
    }
}

/// The cost of the chosen, and the lowest of the others; as the pick weighed them, or as the strategy scores them now.
fn costs(
    decided: &Decided,
    strategy: &dyn Strategy,
    ready: &[Arc<Backend>],
    key: Option<u64>,
) -> (Option<f64>, Option<f64>) {
    let mut all: Vec<_> =
        decided.candidates.iter().filter_map(|candidate| Some((candidate.id, candidate.weighed.cost()?))).collect();
    if all.is_empty() {
        let mut rng = SmallRng::seed_from_u64(0);
        let cx = PickContext { candidates: ready, generation: 0, key, now: clock::now(), rng: &mut rng };
        let scores = strategy.scores(&cx);
        all = ready.iter().map(|backend| backend.id).zip(scores).collect();
    }
    let chosen = all.iter().find(|(id, _)| *id == decided.chosen).map(|(_, cost)| *cost);
    let next = all.iter().filter(|(id, _)| *id != decided.chosen).map(|(_, cost)| *cost).min_by(f64::total_cmp);
    (chosen, next)
}

/// 1 − chosen ÷ next, 0-1. Values of the tabular agent are below 0; there the ratio turns round.
fn confidence(chosen: Option<f64>, next: Option<f64>) -> f64 {
    match (chosen, next) {
        (Some(chosen), Some(next)) if next > 0.0 => (1.0 - chosen / next).clamp(0.0, 1.0),
        (Some(chosen), Some(next)) if chosen < 0.0 => (1.0 - next / chosen).clamp(0.0, 1.0),
        (_, None) => 1.0,
        _ => 0.0,
    }
}

/// The binned state that the chosen backend was in.
fn state(decided: &Decided, backend: &Backend) -> Value {
    let (candidate, resources) = (decided.candidates.iter().find(|seen| seen.id == backend.id), backend.resources());
    let explain = |seen: &Candidate| seen.weighed.explanation(seen.in_flight, resources.cpu, resources.memory);
    state_of(candidate.and_then(explain))
}

/// What `/feedback` takes: how the request of a decision went. `error` or `status`, not both.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct FeedbackBody {
    decision_id: String,
    /// From the decision to the end, milliseconds.
    response_time_ms: f64,
    /// Whether it failed.
    error: Option<bool>,
    /// The status that the backend answered with: 429 and 5xx count as errors.
    #[schema(minimum = 100, maximum = 599)]
    status: Option<u16>,
}

/// What was learned. Null where the pool's strategy does not learn.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FeedbackAnswer {
    /// The weighted sum of the terms.
    reward: Option<f64>,
    terms: Option<RewardTerms>,
    /// The value of the action after the lesson.
    q_value: Option<f64>,
    /// How far the outcome was from what was expected (adaptive: relative).
    td_error: Option<f64>,
}

/// The guide's five terms.
#[derive(Debug, Serialize, ToSchema)]
struct RewardTerms {
    latency: f64,
    errors: f64,
    throughput: f64,
    balance: f64,
    stability: f64,
}

/// Tell how a decision's request went.
#[utoipa::path(post, path = "/feedback", tag = "agent", request_body = FeedbackBody,
    responses((status = 200, body = FeedbackAnswer), ActionErrors, (status = 409, description = "It had its feedback", body = ErrorBody),
        (status = 410, description = "It expired after 60 s", body = ErrorBody)))]
pub(super) async fn feedback(
    State(admin): Admin,
    Body(body): Body<FeedbackBody>,
) -> Result<Json<FeedbackAnswer>, ApiError> {
    if !(0.0..=LONGEST_MS).contains(&body.response_time_ms) {
        return Err(ApiError::invalid("`response_time_ms` is a number from 0 to 86400000"));
    }
    let ending = match (body.error, body.status) {
        (Some(true), None) => Ending::Reset,
        (Some(false), None) => Ending::Served(200),
        (None, Some(status)) if (100..=599).contains(&status) => Ending::Served(status),
        (None, Some(_)) => return Err(ApiError::invalid("`status` is an HTTP status, 100 to 599")),
        _ => return Err(ApiError::invalid("exactly one of `error` and `status` is needed")),
    };
    admin.desk.expire(clock::now());
    let number = u128::from_str_radix(&body.decision_id, 16).ok().filter(|_| body.decision_id.len() == 32);
    let taken = number.ok_or(Missing::Unknown).and_then(|number| admin.desk.take(number));
    let lease = taken.map_err(|missing| {
        let id = &body.decision_id;
        let seconds = PATIENCE.as_secs();
        match missing {
            Missing::Unknown => ApiError::not_found("decision", id),
            Missing::Answered => {
                ApiError::new(StatusCode::CONFLICT, "already_answered", format!("decision {id} had its feedback"))
            }
            Missing::Expired => {
                let message = format!("decision {id} expired: its feedback did not come within {seconds} s");
                ApiError::new(StatusCode::GONE, "expired", message)
            }
        }
    })?;
    let lesson = lease.settle(ending, Duration::from_secs_f64(body.response_time_ms / 1e3));
    Ok(Json(FeedbackAnswer {
        reward: lesson.map(|lesson| lesson.reward.total),
        terms: lesson.map(|lesson| RewardTerms {
            latency: lesson.reward.latency,
            errors: lesson.reward.errors,
            throughput: lesson.reward.throughput,
            balance: lesson.reward.balance,
            stability: lesson.reward.stability,
        }),
        q_value: lesson.map(|lesson| lesson.q_value),
        td_error: lesson.map(|lesson| lesson.td_error),
    }))
}

/// How an agent learns and serves, under the guide's names.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentView {
    pool: String,
    learning_stats: LearningView,
    performance_stats: PerformanceView,
    /// Null: this version has none.
    #[schema(value_type = Option<Object>)]
    guardrail: Value,
    /// Decisions since the start, by kind.
    #[schema(value_type = Object)]
    decisions: Value,
    /// Mean reward of about the last hundred requests.
    reward: f64,
    /// Entropy of the shares, 0-1: 1 is even.
    diversity: f64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LearningStats)]
struct LearningView {
    /// States in use.
    q_table_size: usize,
    /// Share of the possible states that is in use, 0-1.
    state_coverage: f64,
    avg_td_error: f64,
    exploration_rate: f64,
    decision_confidence: f64,
    q_updates: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PerformanceStats)]
struct PerformanceView {
    /// Null before the first measured decision.
    decision_latency_p95_us: Option<f64>,
    cache_hit_rate: f64,
    fallback_rate: f64,
    reward_trend: f64,
}

/// How the learning agent does.
#[utoipa::path(get, path = "/api/v1/pools/{pool}/rl", tag = "agent", params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, body = AgentView), ReadErrors))]
pub(super) async fn statistics(State(admin): Admin, Path(pool): Path<String>) -> Result<Json<AgentView>, ApiError> {
    let pool = find(&admin, &pool)?;
    view(&pool).map(Json).ok_or_else(|| no_agent(&pool))
}

fn no_agent(pool: &Pool) -> ApiError {
    let message = format!("pool {:?} is balanced by {}, not by rl", &*pool.name, pool.strategy_kind().name());
    ApiError::new(StatusCode::NOT_FOUND, "no_agent", message)
}

fn view(pool: &Pool) -> Option<AgentView> {
    let strategy = pool.strategy();
    let agent = strategy.agent()?;
    let (learning, performance) = (agent.learning_stats(), agent.performance_stats());
    let kinds = PickKind::ALL.into_iter().zip(pool.ledger.kinds());
    let decisions = kinds.map(|(kind, count)| (kind.name().to_owned(), count.into())).collect();
    Some(AgentView {
        pool: pool.name.to_string(),
        learning_stats: LearningView {
            q_table_size: learning.q_table_size,
            state_coverage: learning.state_coverage,
            avg_td_error: learning.avg_td_error,
            exploration_rate: learning.exploration_rate,
            decision_confidence: learning.decision_confidence,
            q_updates: learning.q_updates,
        },
        performance_stats: PerformanceView {
            decision_latency_p95_us: pool.stats.decision.quantile(0.95).map(|nanos| nanos / 1e3),
            cache_hit_rate: performance.cache_hit_rate,
            fallback_rate: pool.ledger.fallback_rate(),
            reward_trend: performance.reward_trend,
        },
        guardrail: Value::Null,
        decisions: Value::Object(decisions),
        reward: agent.reward(),
        diversity: agent.diversity(),
    })
}

/// What the agent has learned, to keep or carry elsewhere.
///
/// Versioned JSON, backends by name and address.
#[utoipa::path(get, path = "/api/v1/pools/{pool}/rl/table", tag = "agent", params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, body = Object), ReadErrors))]
pub(super) async fn export(State(admin): Admin, Path(pool): Path<String>) -> Result<Json<Table>, ApiError> {
    let pool = find(&admin, &pool)?;
    let strategy = pool.strategy();
    let agent = strategy.agent().ok_or_else(|| no_agent(&pool))?;
    Ok(Json(agent.export(&pool.set().members, clock::now())))
}

/// Put an exported table in force.
///
/// Rows of backends that the pool does not have (same name and address) are left out. A table that cannot have been learned
/// changes nothing.
#[utoipa::path(put, path = "/api/v1/pools/{pool}/rl/table", tag = "agent", params(("pool" = String, Path, description = "The pool's name")),
    request_body(content = Object, description = "What `GET` of the same path gave"), responses((status = 200, body = AgentView), ChangeErrors))]
pub(super) async fn import(
    State(admin): Admin,
    Path(pool): Path<String>,
    caller: Caller,
    Body(table): Body<Table>,
) -> Result<Json<AgentView>, ApiError> {
    let pool = find(&admin, &pool)?;
    caller.demand(&pool_etag(&pool))?;
    let strategy = pool.strategy();
    let agent = strategy.agent().ok_or_else(|| no_agent(&pool))?;
    let taken = agent.import(&table, &pool.set().members, clock::now());
    taken.map_err(|error| ApiError::invalid(format!("the table is not taken: {error}")))?;
    audit(&caller, "import_table", &pool.name, "", "");
    view(&pool).map(Json).ok_or_else(|| no_agent(&pool))
}

/// The query of `/explain`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    /// How many, newest first; at most 1000.
    #[param(minimum = 1, maximum = 1000, default = 20)]
    last: Option<usize>,
    /// Only of this pool.
    pool: Option<String>,
}

/// Why the last requests went where they went.
#[utoipa::path(get, path = "/api/v1/explain", tag = "agent", params(ExplainQuery),
    responses((status = 200, body = Vec<DecisionView>), ReadErrors, (status = 422, description = "A query that is not understood", body = ErrorBody)))]
pub(super) async fn explain_last(
    State(admin): Admin,
    Asked(query): Asked<ExplainQuery>,
) -> Result<Json<Vec<DecisionView>>, ApiError> {
    let count = query.last.unwrap_or(SHOWN.0);
    if !(1..=SHOWN.1).contains(&count) {
        return Err(ApiError::invalid("`last` is a number from 1 to 1000"));
    }
    let pools = match &query.pool {
        Some(name) => vec![find(&admin, name)?],
        None => admin.room.snapshot().pools,
    };
    let mut all = shown(&pools, |pool| pool.ledger.last(count));
    all.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    Ok(Json(all.into_iter().take(count).map(|(_, view)| view).collect()))
}

/// Why a request went where it went: one entry an attempt.
///
/// Each worker keeps its last thousand decisions.
#[utoipa::path(get, path = "/api/v1/explain/{request_id}", tag = "agent", params(("request_id" = String, Path, description = "The request's `x-request-id`, or a decision's id")),
    responses((status = 200, body = Vec<DecisionView>), ReadErrors))]
pub(super) async fn explain(
    State(admin): Admin,
    Path(request_id): Path<String>,
) -> Result<Json<Vec<DecisionView>>, ApiError> {
    let mut all = shown(&admin.room.snapshot().pools, |pool| pool.ledger.of_request(&request_id));
    if all.is_empty() {
        let message = format!("request {request_id:?} is not among the last decisions");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message));
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(Json(all.into_iter().map(|(_, view)| view).collect()))
}

fn shown(pools: &[Arc<Pool>], of: impl Fn(&Pool) -> Vec<Decided>) -> Vec<(Instant, DecisionView)> {
    let now = clock::now();
    let views = |pool: &Arc<Pool>| {
        let decisions = of(pool);
        let pool = Arc::clone(pool);
        decisions.into_iter().map(move |decided| (decided.at, DecisionView::new(&decided, &pool, now)))
    };
    pools.iter().flat_map(views).collect()
}
