//! The routes, and the handlers of the read side.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use super::error::{REQUEST_ID, request_id};
use super::extract::{Caller, Path, Text};
use super::openapi::{self, ActionErrors, ChangeErrors, ErrorBody, ReadErrors};
use super::room::{Phase, Refused};
use super::views::{BackendView, PoolView, StatusView, backend_etag, config_etag, pool_etag};
use super::{AdminState, ApiError, agent, auth, changes, dashboard, scrape};
use crate::clock;
use crate::pool::Pool;

/// Every route, with its guards.
pub fn router(admin: Arc<AdminState>) -> Router {
    let (router, description) = OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(dashboard::page))
        .routes(routes!(metrics))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(status))
        .routes(routes!(pools))
        .routes(routes!(one_pool))
        .routes(routes!(backends, changes::add))
        .routes(routes!(one_backend, changes::patch, changes::remove))
        .routes(routes!(changes::drain))
        .routes(routes!(changes::undrain))
        .routes(routes!(changes::resources))
        .routes(routes!(changes::check))
        .routes(routes!(changes::health))
        .routes(routes!(changes::strategy))
        .routes(routes!(reload))
        .routes(routes!(preview))
        .routes(routes!(agent::decide))
        .routes(routes!(agent::feedback))
        .routes(routes!(agent::statistics))
        .routes(routes!(agent::export, agent::import).layer(DefaultBodyLimit::max(agent::MAX_TABLE)))
        .routes(routes!(agent::explain_last))
        .routes(routes!(agent::explain))
        .split_for_parts();
    let description = Json(description);
    router
        .route("/openapi.json", get(async move || description.clone()))
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(&admin), auth::guard))
        .layer(from_fn_with_state(Arc::clone(&admin), observe))
        .with_state(admin)
}

/// Around everything: the time it took, and an identifier on every answer.
async fn observe(State(admin): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let start = clock::now();
    let mut response = next.run(request).await;
    if !response.headers().contains_key(REQUEST_ID)
        && let Ok(id) = HeaderValue::from_str(&request_id())
    {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    admin.metrics.admin_request_seconds.record(clock::now().saturating_duration_since(start).as_secs_f64());
    response
}

async fn no_route(request: Request) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", request.uri().path()))
}

async fn wrong_method(request: Request) -> ApiError {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "telemetry", responses((status = 200, content_type = "text/plain", body = String)))]
async fn metrics(State(admin): State<Arc<AdminState>>) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], scrape::scrape(&*admin.room, &admin.metrics))
}

/// A word.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    status: &'static str,
}

/// Whether the process is alive. Needs no token.
#[utoipa::path(get, path = "/healthz", tag = "telemetry", security(()), responses((status = 200, body = Health)))]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether it is of use: running, with a healthy backend. Needs no token.
///
/// Ready when running and some backend of some pool is healthy: a balancer of several pools is of use while one is.
#[utoipa::path(get, path = "/readyz", tag = "telemetry", security(()),
    responses((status = 200, body = Health), (status = 503, description = "Starting, draining, or no backend is healthy", body = ErrorBody)))]
async fn readyz(State(admin): State<Arc<AdminState>>) -> Result<Json<Health>, ApiError> {
    let snapshot = admin.room.snapshot();
    let message = match snapshot.phase {
        Phase::Starting => "starting",
        Phase::Draining => "draining",
        Phase::Running if snapshot.pools.iter().all(|pool| pool.healthy() == 0) => "no backend is healthy",
        Phase::Running => return Ok(Json(Health { status: "ready" })),
    };
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message))
}

/// The state of the balancer. The `ETag` is for `If-Match` on a reload.
#[utoipa::path(get, path = "/api/v1/status", tag = "state", responses((status = 200, body = StatusView), ReadErrors))]
async fn status(State(admin): State<Arc<AdminState>>) -> Response {
    let snapshot = admin.room.snapshot();
    tagged(config_etag(&snapshot), StatusView::new(snapshot))
}

/// Every pool with its backends. The `ETag` is for `If-Match` on a reload.
#[utoipa::path(get, path = "/api/v1/pools", tag = "state", responses((status = 200, body = Vec<PoolView>), ReadErrors))]
async fn pools(State(admin): State<Arc<AdminState>>) -> Response {
    let (now, snapshot) = (clock::now(), admin.room.snapshot());
    let views: Vec<_> = snapshot.pools.iter().map(|pool| PoolView::new(pool, &*admin.room, now)).collect();
    tagged(config_etag(&snapshot), views)
}

/// One pool. The `ETag` is for `If-Match` on changes of the pool.
#[utoipa::path(get, path = "/api/v1/pools/{pool}", tag = "state", params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, body = PoolView), ReadErrors))]
async fn one_pool(State(admin): State<Arc<AdminState>>, Path(pool): Path<String>) -> Result<Response, ApiError> {
    let pool = find(&admin, &pool)?;
    Ok(tagged(pool_etag(&pool), PoolView::new(&pool, &*admin.room, clock::now())))
}

/// A pool's backends, those that are leaving it at the end. The `ETag` is for `If-Match` on changes of the pool.
#[utoipa::path(get, path = "/api/v1/pools/{pool}/backends", tag = "state", params(("pool" = String, Path, description = "The pool's name")),
    responses((status = 200, body = Vec<BackendView>), ReadErrors))]
async fn backends(State(admin): State<Arc<AdminState>>, Path(pool): Path<String>) -> Result<Response, ApiError> {
    let pool = find(&admin, &pool)?;
    Ok(tagged(pool_etag(&pool), BackendView::all(&pool, &*admin.room, clock::now())))
}

/// One backend. The `ETag` is for `If-Match` on its changes.
#[utoipa::path(get, path = "/api/v1/pools/{pool}/backends/{name}", tag = "state", params(("pool" = String, Path, description = "The pool's name"), ("name" = String, Path, description = "The backend's name")),
    responses((status = 200, body = BackendView), ReadErrors))]
async fn one_backend(
    State(admin): State<Arc<AdminState>>,
    Path((pool, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let pool = find(&admin, &pool)?;
    let view = BackendView::find(&pool, &name, &*admin.room, clock::now());
    let view = view.ok_or_else(|| ApiError::not_found("backend", &name))?;
    let tag = pool.backend(&name).map(|backend| backend_etag(&backend)).unwrap_or_default();
    Ok(tagged(tag, view))
}

/// Read the configuration file again, like SIGHUP.
///
/// Answers with what changed, what needs a restart and which overrides were kept or dropped; or with every fault of the
/// file, and then nothing has changed.
#[utoipa::path(post, path = "/api/v1/reload", tag = "changes",
    responses((status = 200, description = "What changed", body = Object), ChangeErrors))]
async fn reload(State(admin): State<Arc<AdminState>>, caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.demand(&config_etag(&admin.room.snapshot()))?;
    let done = admin.room.reload().await.map_err(unusable)?;
    changes::audit(&caller, "reload", "", "", &done.diff.to_string());
    Ok(Json(done.diff))
}

/// What a reload would change, without doing it.
///
/// Of the configuration file as it is now, or of the TOML text in the body in its place. The answer is that of a reload.
#[utoipa::path(post, path = "/api/v1/reload/preview", tag = "state",
    request_body(content = Option<String>, content_type = "text/plain", description = "A configuration; empty: the file as it is now"),
    responses((status = 200, description = "What would change", body = Object), ActionErrors))]
async fn preview(State(admin): State<Arc<AdminState>>, Text(text): Text) -> Result<Json<Value>, ApiError> {
    let text = (!text.is_empty()).then_some(text);
    Ok(Json(admin.room.preview(text).await.map_err(unusable)?.diff))
}

fn unusable(refused: Refused) -> ApiError {
    let error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration", refused.message);
    error.with("errors", Value::Array(refused.errors))
}

/// The pool of that name.
pub(super) fn find(admin: &AdminState, name: &str) -> Result<Arc<Pool>, ApiError> {
    let pools = admin.room.snapshot().pools;
    pools.into_iter().find(|pool| *pool.name == *name).ok_or_else(|| ApiError::not_found("pool", name))
}

/// JSON with an entity tag, for `If-Match`.
pub(super) fn tagged(tag: String, view: impl Serialize) -> Response {
    let mut response = Json(view).into_response();
    if let (false, Ok(tag)) = (tag.is_empty(), HeaderValue::from_str(&tag)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
