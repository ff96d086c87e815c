//! Whether a failed attempt may be followed by another (reliability.md §7). Pure.

use http::{Method, StatusCode};

use crate::config::{RetryOn, RetryPlan};
use crate::pool::RetryReason;
use crate::upstream::{Fault, UpstreamError};

/// Methods that may be sent twice (RFC 9110 section 9.2.2).
#[inline]
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// Whether a reused connection's failure is only staleness: it was lost before any byte of an answer, and sending the
/// request again harms nobody. Such a connection is replaced by a fresh one to the same backend, and no attempt counts.
pub(super) fn is_stale(error: &UpstreamError, reused: bool, method: &Method, body_kept: bool) -> bool {
    let lost = matches!(error.fault, Fault::Closed | Fault::Io(_));
    reused && lost && !error.answered && body_kept && (!error.sent || is_idempotent(method))
}

/// The reason to try again after `error`, if there is one.
pub(super) fn after_failure(
    plan: &RetryPlan,
    error: &UpstreamError,
    method: &Method,
    body_kept: bool,
) -> Option<RetryReason> {
    let safe = !error.sent || is_idempotent(method) || plan.non_idempotent;
    if !body_kept || !safe {
        return None;
    }
    let on = |condition: RetryOn| plan.on.contains(&condition);
    match &error.fault {
        Fault::Connect(_) | Fault::Starved(_) | Fault::Unresolved | Fault::OtherProtocol => {
            on(RetryOn::ConnectFailure).then_some(RetryReason::ConnectFailure)
        }
        Fault::Closed | Fault::Io(_) | Fault::StreamReset | Fault::Protocol(_) => {
            (on(RetryOn::ResetBeforeResponse) && !error.answered).then_some(RetryReason::Reset)
        }
        Fault::FirstByteTimeout => on(RetryOn::Timeout).then_some(RetryReason::Timeout),
        Fault::IdleTimeout
        | Fault::TotalTimeout
        | Fault::ClientGone
        | Fault::ClientBody(_)
        | Fault::ClientBodyTimeout
        | Fault::ClientBodyTooLarge => None,
    }
}

/// The reason to try again after a response with `status`, before any byte of it was forwarded.
pub(super) fn after_status(
    plan: &RetryPlan,
    status: StatusCode,
    method: &Method,
    body_kept: bool,
) -> Option<RetryReason> {
    let named = plan.on.contains(&RetryOn::Status(status.as_u16()));
    let safe = is_idempotent(method) || plan.non_idempotent;
    (named && safe && body_kept).then_some(RetryReason::Status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(fault: Fault, sent: bool, answered: bool) -> UpstreamError {
        UpstreamError { fault, sent, answered }
    }

    #[test]
    fn a_post_is_repeated_only_when_nothing_was_sent() {
        let plan = RetryPlan::default();
        let refused = || error(Fault::Connect(std::io::ErrorKind::ConnectionRefused.into()), false, false);
        assert_eq!(after_failure(&plan, &refused(), &Method::POST, true), Some(RetryReason::ConnectFailure));
        let reset = error(Fault::Closed, true, false);
        assert_eq!(after_failure(&plan, &reset, &Method::POST, true), None);
        assert_eq!(after_failure(&plan, &reset, &Method::GET, true), Some(RetryReason::Reset));
        let bold = RetryPlan { non_idempotent: true, ..RetryPlan::default() };
        assert_eq!(after_failure(&bold, &reset, &Method::POST, true), Some(RetryReason::Reset));
        assert_eq!(after_failure(&bold, &reset, &Method::POST, false), None, "the body is gone");
    }

    #[test]
    fn nothing_is_repeated_once_an_answer_began() {
        let plan = RetryPlan::default();
        assert_eq!(after_failure(&plan, &error(Fault::Closed, true, true), &Method::GET, true), None);
        assert!(!is_stale(&error(Fault::Closed, true, true), true, &Method::GET, true));
        assert!(is_stale(&error(Fault::Closed, true, false), true, &Method::GET, true));
        assert!(!is_stale(&error(Fault::Closed, true, false), true, &Method::POST, true));
        assert!(!is_stale(&error(Fault::Closed, true, false), false, &Method::GET, true));
    }

    #[test]
    fn statuses_and_timeouts_only_when_configured() {
        let plan = RetryPlan::default();
        assert_eq!(after_status(&plan, StatusCode::BAD_GATEWAY, &Method::GET, true), None);
        assert_eq!(after_failure(&plan, &error(Fault::FirstByteTimeout, true, false), &Method::GET, true), None);
        let eager = RetryPlan { on: vec![RetryOn::Status(502), RetryOn::Timeout], ..RetryPlan::default() };
        assert_eq!(after_status(&eager, StatusCode::BAD_GATEWAY, &Method::GET, true), Some(RetryReason::Status));
        assert_eq!(after_status(&eager, StatusCode::BAD_GATEWAY, &Method::POST, true), None);
        let late = error(Fault::FirstByteTimeout, true, false);
        assert_eq!(after_failure(&eager, &late, &Method::GET, true), Some(RetryReason::Timeout));
    }
}
