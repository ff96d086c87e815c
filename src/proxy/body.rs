//! The body of a response on its way to the client: a backend's carries lease and story to the last byte.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};

use super::Refusal;
use super::access_log::End;
use super::headers;
use super::lent::Http2Body;
use super::request_body::RequestBody;
use super::story::Story;
use crate::backend::Ending;
use crate::upstream::http1::ResponseBody;
use crate::upstream::{Fault, is_ending};

/// A response body as it is sent.
#[derive(Debug)]
pub struct ProxyBody<B> {
    inner: Inner<B>,
    /// Told when the body ends or is dropped, with the lease of a backend's response.
    story: Option<Box<Story>>,
    /// What it broke with: told late, see [`broken`](Self::broken). Boxed like all else here: a response is moved several
    /// times.
    breaking: Option<Box<Breaking>>,
}

/// The end of a response that broke.
#[derive(Debug)]
struct Breaking {
    fault: Fault,
    /// Who sends still needs a turn to write what there is.
    turn: bool,
}

/// Where the bytes of a response come from.
#[derive(Debug)]
pub(super) enum Inner<B> {
    /// An answer of ours.
    Fixed(Bytes),
    /// A backend's, over HTTP/1.1.
    Http1(ResponseBody<Box<RequestBody<B>>>),
    /// A backend's, over HTTP/2.
    Http2(Box<Http2Body>),
}

impl<B> ProxyBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    /// An answer of ours.
    pub(super) fn fixed(body: Bytes, story: Box<Story>) -> Self {
        Self { inner: Inner::Fixed(body), story: Some(story), breaking: None }
    }

    /// Nothing: a 101, whose story the tunnel tells.
    pub(super) fn empty() -> Self {
        Self { inner: Inner::Fixed(Bytes::new()), story: None, breaking: None }
    }

    /// A backend's answer, whose lease the story holds.
    pub(super) fn upstream(inner: Inner<B>, story: Box<Story>) -> Self {
        let mut this = Self { inner, story: Some(story), breaking: None };
        if this.is_done() {
            this.ended_well();
        }
        this
    }

    /// Whether it is an answer of ours, not a backend's.
    pub fn is_own(&self) -> bool {
        matches!(self.inner, Inner::Fixed(_))
    }

    /// Sends on what it can of the request while the client takes nothing of the response: it may read on only when its
    /// request is sent. A fault is told by the next frame.
    pub fn pump(&mut self, cx: &mut Context<'_>) {
        if self.breaking.is_none()
            && let Inner::Http1(body) = &mut self.inner
            && let Err(fault) = body.pump(cx)
        {
            let _ = self.broken(fault, cx);
        }
    }

    fn is_done(&self) -> bool {
        match &self.inner {
            Inner::Fixed(body) => body.is_empty(),
            Inner::Http1(body) => body.is_done(),
            Inner::Http2(body) => body.is_done(),
        }
    }

    /// The whole response is there: the lease ends now, its connection is free for the next request.
    fn ended_well(&mut self) {
        let Some(story) = &mut self.story else { return };
        if std::mem::replace(&mut story.settled, true) {
            return;
        }
        let mut with_head = false;
        if let (Inner::Http1(body), Some(lease)) = (&mut self.inner, &story.lease) {
            with_head = body.came_with_head();
            if let Some(connection) = body.take_connection() {
                let limit = lease.live().plan.timeouts.upstream_idle;
                story.keep(super::forward::key(lease), connection, limit);
            }
        }
        story.served(with_head);
    }

    /// The response breaks. `h2` drops a stream that is reset together with all that it has not yet written: so that gets one
    /// turn to leave, and the fault is told at the next.
    #[cold]
    fn broken(&mut self, fault: Fault, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let last_words = self.last_words(&fault);
        self.ended_badly(&fault);
        self.breaking = Some(Box::new(Breaking { fault, turn: last_words.is_some() }));
        if let Some(event) = last_words {
            return Poll::Ready(Some(Ok(Frame::data(event))));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    #[cold]
    fn breaks(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self.breaking.take() {
            Some(mut breaking) if breaking.turn => {
                breaking.turn = false;
                self.breaking = Some(breaking);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(breaking) => Poll::Ready(Some(Err(breaking.fault))),
            None => Poll::Ready(None),
        }
    }

    /// The error event that the pool wants sent to a client whose SSE stream breaks (`stream_error_event`). Not amid an
    /// event: the client would take it for a part of that one.
    fn last_words(&mut self, fault: &Fault) -> Option<Bytes> {
        let open_ended = self.size_hint().exact().is_none();
        let story = self.story.as_mut()?;
        let wanted = story.lease.as_ref()?.live().plan.stream_error_event;
        if !wanted || !open_ended || fault.blames_client() || !story.meter.as_ref()?.is_between_events() {
            return None;
        }
        let body = Refusal::of_fault(fault).response(&story.request_id).into_body();
        let event = Bytes::from([b"event: error\ndata: ", body.as_ref(), b"\n\n"].concat());
        story.bytes_out += event.len() as u64;
        Some(event)
    }

    fn ended_badly(&mut self, fault: &Fault) {
        let open_ended = self.size_hint().exact().is_none();
        let Some(story) = &mut self.story else { return };
        story.settled = true;
        if open_ended && story.head.version == Version::HTTP_10 {
            story.downstream.broke_off.set(true);
        }
        story.meter = None;
        if let Some(mut lease) = story.lease.take() {
            let is_cut = is_ending(&lease.backend().connections);
            if fault.is_timeout() {
                lease.failed(Ending::TimedOut);
                story.end = End::BackendTimeout;
            } else if !fault.blames_client() {
                // Cut by us at the deadline of its drain: that blames nobody.
                if !is_cut {
                    lease.failed(Ending::Reset);
                }
                story.end = End::BackendReset;
            }
            if is_cut && !fault.blames_client() {
                tracing::warn!(
                    pool = %lease.pool().name,
                    backend = %lease.backend().name,
                    request_id = story.request_id.as_str(),
                    "response cut off by us: the backend's drain timeout is over"
                );
            } else if !fault.blames_client() {
                tracing::warn!(
                    pool = %lease.pool().name,
                    backend = %lease.backend().name,
                    request_id = story.request_id.as_str(),
                    "response broken off: {fault}"
                );
            }
        }
    }
}

impl<B> Body for ProxyBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        if this.breaking.is_some() {
            return this.breaks(cx);
        }
        let polled = match &mut this.inner {
            Inner::Fixed(body) => {
                let data = std::mem::take(body);
                if data.is_empty() {
                    return Poll::Ready(None);
                }
                if let Some(story) = &mut this.story {
                    story.bytes_out += data.len() as u64;
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Inner::Http1(body) => body.poll_frame(cx),
            Inner::Http2(body) => body.poll_frame(cx),
        };
        let Poll::Ready(polled) = polled else {
            if let Some(meter) = this.story.as_mut().and_then(|story| story.meter.as_mut()) {
                meter.waiting();
            }
            return Poll::Pending;
        };
        match polled {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                }
                if let (Some(story), Some(data)) = (&mut this.story, frame.data_ref()) {
                    story.bytes_out += data.len() as u64;
                    if let Some(lease) = &mut story.lease {
                        lease.received(data.len());
                    }
                    if let Some(meter) = &mut story.meter {
                        meter.piece(data);
                    }
                }
                if this.is_done() {
                    this.ended_well();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(fault)) => this.broken(fault, cx),
            None => {
                this.ended_well();
                Poll::Ready(None)
            }
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.is_done()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Fixed(body) => SizeHint::with_exact(body.len() as u64),
            Inner::Http1(body) => body.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
            Inner::Http2(body) => body.incoming.size_hint(),
        }
    }
}
