//! One stream of an HTTP/2 connection: the request answered, the response sent as far as the client's window lets it. A
//! stream whose client takes nothing is reset after `write_idle_timeout`, or it would be held, with what it asked of a
//! backend, for as long as the client likes.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};

use super::io::Activity;
use crate::clock::Deadline;
use crate::listener::date;
use crate::proxy::request_id::X_REQUEST_ID;
use crate::proxy::{Answer, Downstream, Proxy, ProxyBody};

/// Bytes that a connection must have written for its waiting streams to count as moving: answers to pings are less.
const LEAST_MOVED: u64 = 1024;

/// Begins a stream, as a task of its own. Nothing is done before that runs: `h2` decodes the heads that came together one
/// after the other, and its code stays in the processor's cache.
pub(super) fn begin(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    proxy: &Rc<Proxy>,
    downstream: &Rc<Downstream>,
    activity: &Rc<Activity>,
) {
    // Boxed, and made where it will stand: tokio moves a task's future several times.
    let place = Box::new_uninit();
    let (proxy, downstream, activity) = (Rc::clone(proxy), Rc::clone(downstream), Rc::clone(activity));
    let stream = Box::write(place, serve(request, respond, proxy, downstream, activity));
    tokio::task::spawn_local(Box::into_pin(stream));
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    proxy: Rc<Proxy>,
    downstream: Rc<Downstream>,
    activity: Rc<Activity>,
) {
    let head_only = request.method() == Method::HEAD;
    let answer = {
        let (mut head, body) = request.into_parts();
        if !body.is_end_stream() && take_expectation(&mut head.headers) {
            let mut asked = Response::new(());
            *asked.status_mut() = StatusCode::CONTINUE;
            // Fails when the client has reset the stream.
            let _ = respond.send_informational(asked);
        }
        let mut answer = pin!(proxy.handle(&downstream, head, ClientBody(body)));
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            // A client that resets the stream waits no longer: what is done for it ends with this future.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(answer) = answer else { return };
    let Answer { status, mut headers, request_id, body } = answer;
    headers.insert(X_REQUEST_ID.clone(), request_id.to_value());
    headers.entry(DATE).or_insert_with(|| date::with(HeaderValue::clone));
    let is_bare = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let wants_body = !head_only && !is_bare;
    let is_empty = body.is_end_stream();
    if !is_empty
        && !is_bare
        && let Some(length) = body.size_hint().exact()
    {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let is_whole = is_empty || (!wants_body && body.is_own());
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    // Fails when the client has reset the stream.
    let Ok(stream) = respond.send_response(response, is_whole) else { return };
    if is_whole {
        return;
    }
    let patience = Patience { limit: downstream.listener.write_idle_timeout, waiting: None };
    let mut sending = Sending { stream, body, wants_body, held: None, patience };
    poll_fn(|cx| sending.poll(cx, &activity)).await;
}

/// Whether the client waits to be asked for its body (RFC 9110 section 10.1.1), in which case it is: a stream of its own can
/// be refused at any moment, so that a backend's word is not waited for. No backend is told of it then.
fn take_expectation(headers: &mut HeaderMap) -> bool {
    let waits = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if waits {
        headers.remove(EXPECT);
    }
    waits
}

/// A response on its way.
struct Sending {
    stream: SendStream<Bytes>,
    body: ProxyBody<ClientBody>,
    /// The answer to HEAD has none, nor have 204 and 304, whatever a backend sends.
    wants_body: bool,
    /// A piece for which the client's window had no room yet, and whether it is the last.
    held: Option<(Bytes, bool)>,
    patience: Patience,
}

impl Sending {
    /// Sends what there is and what the client takes; ready at the end, whichever it is.
    fn poll(&mut self, cx: &mut Context<'_>, activity: &Activity) -> Poll<()> {
        loop {
            if self.held.is_some() {
                let room = self.poll_room(cx, activity);
                if room.is_pending() {
                    self.body.pump(cx);
                }
                if !ready!(room) {
                    return Poll::Ready(());
                }
            }
            if let Some((data, last)) = self.held.take()
                && (self.stream.send_data(data, last).is_err() || last)
            {
                return Poll::Ready(());
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                return self.stream.poll_reset(cx).map(|_| ());
            };
            // Errors of sending: the client has reset the stream, and has heard enough.
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let last = self.body.is_end_stream();
                    let data = if self.wants_body { data } else { Bytes::new() };
                    if data.is_empty() && !last {
                        continue;
                    }
                    if !data.is_empty() {
                        // A claim, not a reservation: what it is given it holds, and the other streams of the connection
                        // need room too.
                        self.stream.reserve_capacity(1);
                        self.held = Some((data, last));
                        continue;
                    }
                    let _ = self.stream.send_data(data, true);
                }
                Some(Ok(Err(frame))) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    self.stream.reserve_capacity(0);
                    let _ = self.stream.send_trailers(trailers);
                }
                Some(Err(_)) => self.stream.send_reset(Reason::INTERNAL_ERROR),
                None => drop(self.stream.send_data(Bytes::new(), true)),
            }
            return Poll::Ready(());
        }
    }

    /// Waits for room in the client's windows; `false`: there will be none, or the client was too slow.
    fn poll_room(&mut self, cx: &mut Context<'_>, activity: &Activity) -> Poll<bool> {
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) => {}
                Poll::Ready(Some(Ok(_))) => break,
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(false),
                Poll::Pending if self.patience.is_over(cx, activity) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.patience.waiting = None;
        Poll::Ready(true)
    }
}

/// How long a stream waits for its client.
struct Patience {
    limit: Duration,
    /// Bytes that the connection had written when the wait began, and its deadline.
    waiting: Option<(u64, Deadline)>,
}

impl Patience {
    /// Whether the client has taken nothing for the whole of the limit. A stream's own progress is not seen from here; a
    /// connection that moves is given the benefit of the doubt.
    fn is_over(&mut self, cx: &Context<'_>, activity: &Activity) -> bool {
        let written = activity.written();
        let (before, deadline) = self.waiting.get_or_insert_with(|| {
            let deadline = Deadline::new();
            deadline.arm(self.limit);
            (written, deadline)
        });
        if !deadline.poll_passed(cx) {
            return false;
        }
        if written.wrapping_sub(*before) < LEAST_MOVED {
            return true;
        }
        *before = written;
        deadline.arm(self.limit);
        let _ = deadline.poll_passed(cx);
        false
    }
}

/// The body of a client's request.
#[derive(Debug)]
struct ClientBody(RecvStream);

impl Body for ClientBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.0.poll_data(cx)) {
            Some(Ok(data)) => {
                // The window opens as its reader takes what has come.
                let _ = self.0.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                Poll::Ready(ready!(self.0.poll_trailers(cx)).map(|trailers| trailers.map(Frame::trailers)).transpose())
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
