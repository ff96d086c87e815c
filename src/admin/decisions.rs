//! Decisions as the API shows them.

use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::views::rounded;
use crate::backend::{AttemptResult, BackendId, Ending};
use crate::balance::{Explanation, PickKind};
use crate::pool::{Candidate, Decided, Pool};

/// A decision, read back.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Decision)]
pub(super) struct DecisionView {
    request_id: String,
    /// How long ago, seconds.
    age_s: f64,
    pool: String,
    strategy: &'static str,
    selected: String,
    /// exploit, explore, rotated, cached, probe, sticky, fallback or control.
    kind: &'static str,
    explored: bool,
    /// The chance it had, 0-1.
    propensity: f32,
    /// The first 64, in the pool's order; none when a session decided.
    candidates: Vec<CandidateView>,
    candidate_count: usize,
    filtered: Vec<FilteredView>,
    /// Null while it runs.
    outcome: Option<OutcomeView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Candidate)]
struct CandidateView {
    name: String,
    /// Requests in flight there before the decision.
    in_flight: u32,
    /// What the choice went by, lower is better: seconds, or minus the Q-value. Null: the strategy weighs no costs.
    cost: Option<f64>,
    /// The terms of the cost, or state and Q-value, with the binned state.
    #[schema(value_type = Option<Object>)]
    terms: Option<Explanation>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Filtered)]
struct FilteredView {
    name: String,
    /// draining, disabled, down, ejected, warming, unknown, full, tried or held (`Retry-After`).
    why: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Outcome)]
struct OutcomeView {
    /// ok, error_status, connect_failed, starved, timeout, reset or client_gone.
    end: &'static str,
    status: Option<u16>,
    total_ms: f64,
}

impl DecisionView {
    pub(super) fn new(decided: &Decided, pool: &Pool, now: Instant) -> Self {
        let members = pool.set();
        let (leaving, departed) = (pool.leaving(), pool.departed());
        let find = |id: BackendId| members.members.iter().chain(&leaving).find(|backend| backend.id == id);
        let name = |id| match (find(id), departed.get(&id)) {
            (Some(backend), _) => backend.name.to_string(),
            (None, Some(name)) => name.to_string(),
            (None, None) => "gone".to_owned(),
        };
        let candidate = |candidate: &Candidate| {
            let resources = find(candidate.id).map(|backend| backend.resources()).unwrap_or_default();
            CandidateView {
                name: name(candidate.id),
                in_flight: candidate.in_flight,
                cost: candidate.weighed.cost(),
                terms: candidate.weighed.explanation(candidate.in_flight, resources.cpu, resources.memory),
            }
        };
        Self {
            request_id: decided.request_id.clone(),
            age_s: rounded(now.saturating_duration_since(decided.at).as_secs_f64()),
            pool: pool.name.to_string(),
            strategy: decided.strategy.name(),
            selected: name(decided.chosen),
            kind: decided.kind.name(),
            explored: decided.kind == PickKind::Explore,
            propensity: decided.propensity,
            candidates: decided.candidates.iter().map(candidate).collect(),
            candidate_count: decided.candidate_count,
            filtered: decided
                .left_out
                .iter()
                .map(|(id, why)| FilteredView { name: name(*id), why: why.name() })
                .collect(),
            outcome: decided.ended.map(|(ending, total)| OutcomeView {
                end: AttemptResult::of(ending).name(),
                status: if let Ending::Served(status) = ending { Some(status) } else { None },
                total_ms: rounded(total.as_secs_f64() * 1e3),
            }),
        }
    }
}

/// A state alone, or null.
pub(super) fn state_of(explanation: Option<Explanation>) -> Value {
    explanation.map(|explanation| explanation.state()).unwrap_or_default()
}
