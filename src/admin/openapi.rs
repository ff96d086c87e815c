//! What `/openapi.json` says beside the handlers' own words: title, security, and the errors they share.

use serde::Serialize;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement};
use utoipa::{IntoResponses, ToSchema};

/// The description without its paths.
pub(super) fn frame() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Evenkeel admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The state of a running balancer, and its changes."))
        .build();
    let token = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The admin token, where one is configured."))
            .build(),
    );
    let components = ComponentsBuilder::new().security_scheme("token", token).build();
    // Either the token or, on a loopback address without one, nothing.
    let security = [SecurityRequirement::new::<_, [String; 0], String>("token", []), SecurityRequirement::default()];
    OpenApiBuilder::new().info(info).components(Some(components)).security(Some(security)).build()
}

/// Every error of the API.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(super) struct ErrorBody {
    error: ErrorDetail,
    /// Every fault, where there may be several.
    #[schema(value_type = Option<Vec<Object>>)]
    errors: Option<Vec<serde_json::Value>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// What is wrong, in a sentence.
    message: String,
    /// `invalid_request_error` or `server_error`.
    #[serde(rename = "type")]
    kind: String,
    /// For programs.
    code: String,
    request_id: String,
}

/// How a reading may fail.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only described")]
pub(super) enum ReadErrors {
    /// A name in the path is not UTF-8.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// No such pool or backend.
    #[response(status = 404)]
    NotFound(ErrorBody),
}

/// How something asked for that changes no setting may fail: as a change, but there is no condition to it.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only described")]
pub(super) enum ActionErrors {
    /// The body is not JSON, or a name in the path not UTF-8.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Without a token: not from this machine's own hand.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// No such pool.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// It makes no sense; every fault is named.
    #[response(status = 422)]
    Invalid(ErrorBody),
    /// No backend is available, or the balancer is stopping.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// How a change may fail.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only described")]
pub(super) enum ChangeErrors {
    /// The body is not JSON, or a name in the path not UTF-8.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// The token is missing or wrong.
    #[response(status = 401)]
    Unauthorized(ErrorBody),
    /// Without a token: not from this machine's own hand.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// No such pool or backend.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// `If-Match` names another state than the present one.
    #[response(status = 412)]
    PreconditionFailed(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// It makes no sense; every fault is named.
    #[response(status = 422)]
    Invalid(ErrorBody),
    /// The balancer is stopping.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}
