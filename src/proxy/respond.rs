//! From a backend's head, or a refusal, to the response that the client gets.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use http_body::Body;

use super::body::{Inner, ProxyBody};
use super::meter::Meter;
use super::orca;
use super::request_id::RequestId;
use super::story::Story;
use super::{Refusal, Tunnel, affinity, headers};
use crate::clock;
use crate::pool::Lease;

/// Longest `Retry-After` that is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What the client is to get.
#[derive(Debug)]
pub struct Answer<B> {
    /// The status.
    pub status: StatusCode,
    /// The fields, but for the one that `request_id` is.
    pub headers: HeaderMap,
    /// Whoever sends the head adds it, in the place of any other: text, as which it costs least.
    pub request_id: RequestId,
    /// The body.
    pub body: ProxyBody<B>,
}

/// An answer of our own.
pub(super) fn answer<B>(refusal: Refusal, story: Box<Story>) -> Answer<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    let is_grpc = story.head.version == Version::HTTP_2 && headers::is_grpc(&story.head.headers);
    let response = if is_grpc { refusal.grpc_response() } else { refusal.response(&story.request_id) };
    let (mut head, body) = response.into_parts();
    if story.head.version == Version::HTTP_2 {
        // There a connection's fate is not told in a field.
        head.headers.remove(header::CONNECTION);
    }
    let request_id = story.request_id.clone();
    Answer { status: head.status, headers: head.headers, request_id, body: ProxyBody::fixed(body, story) }
}

/// The backend's answer, with lease and story on board.
pub(super) fn respond<B>(body: Inner<B>, mut story: Box<Story>) -> Answer<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    let status = story.answer.status;
    let mut headers = std::mem::take(&mut story.answer.headers);
    story.status = status.as_u16();
    if story.answer.streamed {
        headers::forbid_buffering(&mut headers);
        if let (Some(head_at), Some(first_byte)) = (story.head_at, story.first_byte) {
            let picked = head_at.checked_sub(first_byte).unwrap_or(head_at);
            let backend = story.lease.as_ref().map(|lease| lease.backend());
            story.meter = backend.map(|backend| Meter::begin(backend, &headers, picked));
        }
    }
    if let (Some(session), Some(lease)) = (&story.session, &story.lease) {
        let settled = session.settle(lease.backend(), story.downstream.secure, affinity::seconds(session.mode()));
        story.sticky = affinity::settle(settled, &mut headers);
    }
    // The backend has not waited for the whole request: what is left of it can only be read to be thrown away.
    if story.head.version < Version::HTTP_2 && story.downstream.uploads() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let request_id = story.request_id.clone();
    let body = match (status, body) {
        (StatusCode::SWITCHING_PROTOCOLS, Inner::Http1(body)) => {
            let protocol = story.answer.upgrade.take().unwrap_or_else(|| HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocol);
            let downstream = Rc::clone(&story.downstream);
            if let (Some(backend), Some(lease)) = (body.into_upgraded(), story.lease.take()) {
                *downstream.tunnel.borrow_mut() = Some(Tunnel::new(backend, lease, story));
            }
            ProxyBody::empty()
        }
        (_, body) => ProxyBody::upstream(body, story),
    };
    Answer { status, headers, request_id, body }
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
