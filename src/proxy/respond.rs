//! From a backend's head, or a refusal, to the response that the client gets.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use http_body::Body;

use super::body::{Inner, ProxyBody};
use super::meter::Meter;
use super::orca;
use super::story::Story;
use super::{Refusal, Tunnel, affinity, headers};
use crate::clock;
use crate::pool::Lease;

/// Longest `Retry-After` that is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// An answer of our own.
pub(super) fn answer<B>(refusal: Refusal, story: Box<Story>) -> Response<ProxyBody<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    let is_grpc = story.head.version == Version::HTTP_2 && headers::is_grpc(&story.head.headers);
    let mut response = if is_grpc { refusal.grpc_response() } else { refusal.response(&story.request_id) };
    headers::finish_response(response.headers_mut(), &story.request_id, false);
    if story.head.version == Version::HTTP_2 {
        // There a connection's fate is not told in a field.
        response.headers_mut().remove(header::CONNECTION);
    }
    response.map(|body| ProxyBody::fixed(body, story))
}

/// The backend's answer, with lease and story on board.
pub(super) fn respond<B>(body: Inner<B>, mut story: Box<Story>) -> Response<ProxyBody<B>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    let answer = std::mem::take(&mut story.answer);
    story.status = answer.status.as_u16();
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    headers::finish_response(response.headers_mut(), &story.request_id, answer.streamed);
    if answer.streamed
        && let (Some(head_at), Some(first_byte)) = (story.head_at, story.first_byte)
    {
        let picked = head_at.checked_sub(first_byte).unwrap_or(head_at);
        let backend = story.lease.as_ref().map(|lease| lease.backend());
        story.meter = backend.map(|backend| Meter::begin(backend, response.headers(), picked));
    }
    if let (Some(session), Some(lease)) = (&story.session, &story.lease) {
        let settled = session.settle(lease.backend(), story.downstream.secure, affinity::seconds(session.mode()));
        story.sticky = affinity::settle(settled, response.headers_mut());
    }
    // The backend has not waited for the whole request: what is left of it can only be read to be thrown away.
    if story.head.version < Version::HTTP_2 && story.downstream.uploads() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    match (answer.status, body) {
        (StatusCode::SWITCHING_PROTOCOLS, Inner::Http1(body)) => {
            let protocol = answer.upgrade.unwrap_or_else(|| HeaderValue::from_static("websocket"));
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, protocol);
            let downstream = Rc::clone(&story.downstream);
            if let (Some(backend), Some(lease)) = (body.into_upgraded(), story.lease.take()) {
                *downstream.tunnel.borrow_mut() = Some(Tunnel::new(backend, lease, story));
            }
            response.map(|()| ProxyBody::empty())
        }
        (_, body) => response.map(|()| ProxyBody::upstream(body, story)),
    }
}

/// Tells the lease what the head says.
pub(super) fn note_response(lease: &mut Lease, story: &mut Story) {
    let answer = &mut story.answer;
    let pause = retry_after(answer.status, &answer.headers);
    let now = clock::now();
    lease.responded(answer.status.as_u16(), answer.streamed, pause, now);
    story.head_at = Some(now);
    if let Some(resources) = lease.live().plan.resources.as_ref().filter(|resources| resources.orca) {
        orca::take(&mut answer.headers, lease.backend(), resources, now);
    }
    story.first_byte = lease.first_byte_after();
}

/// How long an overloaded backend asks to be left alone: seconds, or a date.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status != StatusCode::TOO_MANY_REQUESTS && status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            // Counted from the backend's own `Date`: its clock and ours may differ, and either may be set.
            let date = |text: &str| httpdate::parse_http_date(text).ok();
            let said = headers.get(header::DATE).and_then(|said| date(said.to_str().ok()?));
            date(text)?.duration_since(said.unwrap_or_else(std::time::SystemTime::now)).ok()?
        }
    };
    Some(pause.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_ends_at_a_date_is_counted_from_the_backends_own_clock() {
        let pause = |fields: &[(&'static str, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            retry_after(StatusCode::SERVICE_UNAVAILABLE, &fields.collect())
        };
        let until = ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT");
        assert_eq!(pause(&[until, ("date", "Fri, 31 Dec 1999 23:59:49 GMT")]), Some(Duration::from_secs(10)));
        assert_eq!(pause(&[until, ("date", "Fri, 31 Dec 1999 22:00:00 GMT")]), Some(LONGEST_PAUSE));
        assert_eq!(pause(&[until, ("date", "Sat, 01 Jan 2000 00:00:00 GMT")]), None, "over already");
        assert_eq!(pause(&[until]), None, "by our clock it is long over");
        assert_eq!(pause(&[("retry-after", "7"), ("date", "nonsense")]), Some(Duration::from_secs(7)));
    }
}
