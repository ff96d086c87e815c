//! The bodies on their way through: the client's, counted, limited and (within limits) kept for another try; the
//! backend's, which carries lease and story to the last byte.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};

use super::access_log::End;
use super::headers;
use super::lent::Http2Body;
use super::story::Story;
use super::{Downstream, Refusal, Upload};
use crate::backend::Ending;
use crate::clock::{self, Deadline};
use crate::upstream::http1::ResponseBody;
use crate::upstream::{Fault, is_ending};

/// How long the client may pause before pieces of a body that were not worth another look get one.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A client's request body. Always boxed: futures and exchanges hold several slots for it, and most requests have none.
#[derive(Debug)]
pub struct RequestBody<B> {
    inner: B,
    received: Rc<Cell<u64>>,
    /// Bytes allowed; 0: any number.
    limit: u64,
    /// It comes over HTTP/2, where an end may be a reset in disguise; else in text, where one may be badly written: see
    /// [`poll_inner`](Self::poll_inner).
    over_http2: bool,
    /// What was read and may be needed: by a try that has not come to it, or by one that begins again.
    pieces: VecDeque<Bytes>,
    /// The first of `pieces` that the present try has not sent.
    next: usize,
    /// What followed the last piece, and whether the present try has sent it.
    trailers: Option<HeaderMap>,
    trailers_sent: bool,
    pieces_bytes: usize,
    /// Bytes kept for another try; 0: what was sent is forgotten.
    most_kept: usize,
    /// Something that was sent is forgotten: no other try can follow.
    forgotten: bool,
    /// Until the client's last byte was read.
    upload: Option<Upload>,
    /// The connection that it comes on.
    downstream: Rc<Downstream>,
}

impl<B> RequestBody<B> {
    /// The body of the request that `story` is about.
    pub(super) fn new(inner: B, story: &mut Story) -> Self {
        let received = story.count_body();
        let downstream = &story.downstream;
        Self {
            inner,
            over_http2: story.head.version == Version::HTTP_2,
            received,
            limit: downstream.listener.max_body,
            pieces: VecDeque::new(),
            next: 0,
            trailers: None,
            trailers_sent: false,
            pieces_bytes: 0,
            most_kept: 0,
            forgotten: false,
            upload: Some(Upload::begin(downstream)),
            downstream: Rc::clone(downstream),
        }
    }

    /// Keeps up to `most` bytes for another try.
    pub(super) fn keep(&mut self, most: usize) {
        self.most_kept = most;
    }

    /// Whether all that was read of it is still there.
    pub(super) fn can_replay(&self) -> bool {
        !self.forgotten
    }

    /// Makes the next try begin at the beginning.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
        self.trailers_sent = false;
    }

    /// Takes back a piece that the present try has taken and not sent, the first one: nothing is forgotten then.
    pub(super) fn put_back(&mut self, piece: Bytes) {
        if self.forgotten && !piece.is_empty() {
            self.forgotten = false;
            self.pieces_bytes += piece.len();
            self.pieces.push_front(piece);
            self.next = 0;
        }
    }

    /// Accounts for a piece that was sent, and forgets pieces when too many bytes are kept.
    fn sent(&mut self) {
        self.next += 1;
        if self.pieces_bytes > self.most_kept {
            self.forgotten = true;
            for piece in self.pieces.drain(..self.next) {
                self.pieces_bytes -= piece.len();
            }
            self.next = 0;
            self.most_kept = 0;
        }
    }
}

impl<B> RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    /// Reads on until `look` has seen enough or `most` bytes are there, without sending anything. What was read is sent
    /// later, byte for byte. `patience`: how long the client may say nothing, and until when it must have said it all.
    ///
    /// A client may send single bytes: it is looked again only when there is twice as much, when the body has ended, or
    /// when nothing more comes for a moment.
    ///
    /// # Errors
    /// The client's body failed, stalled or is too large.
    pub(super) async fn peek<T>(
        &mut self,
        most: usize,
        (patience, until): (Duration, Option<Instant>),
        look: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let (deadline, pause) = (Deadline::new(), Deadline::new());
        let mut seen = Vec::new();
        let mut looked = 0;
        loop {
            let left = until.map(|until| until.saturating_duration_since(clock::now()).max(Duration::from_millis(1)));
            deadline.arm(match left {
                Some(left) if patience.is_zero() => left,
                Some(left) => left.min(patience),
                None => patience,
            });
            let unseen = seen.len() > looked;
            if unseen {
                pause.arm(LOOK_PAUSE);
            }
            let come = std::future::poll_fn(|cx| match self.poll_inner(cx) {
                Poll::Ready(frame) => Poll::Ready(Come::Frame(frame)),
                Poll::Pending if deadline.poll_passed(cx) => {
                    Poll::Ready(Come::Frame(Some(Err(Fault::ClientBodyTimeout))))
                }
                Poll::Pending if unseen && pause.poll_passed(cx) => Poll::Ready(Come::Nothing),
                Poll::Pending => Poll::Pending,
            });
            let mut ended = false;
            let mut due = false;
            match come.await {
                Come::Nothing => due = true,
                Come::Frame(None) => ended = true,
                Come::Frame(Some(frame)) => match frame?.into_data() {
                    Ok(data) => {
                        seen.extend_from_slice(&data);
                        self.pieces_bytes += data.len();
                        self.pieces.push_back(data);
                        due = seen.len() >= most || seen.len() >= 2 * looked || self.inner.is_end_stream();
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        ended = true;
                    }
                },
            }
            if (due || ended) && seen.len() > looked {
                looked = seen.len();
                if let Some(found) = look(&seen) {
                    return Ok(Some(found));
                }
            }
            if ended || seen.len() >= most {
                return Ok(None);
            }
        }
    }

    fn upload_ended(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.end();
        }
    }

    /// The next frame of the client's, counted and limited.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() || self.inner.is_end_stream() {
            self.upload_ended();
        }
        let Some(frame) = frame else {
            // hyper takes RST_STREAM(NO_ERROR) for an end. From a client amid its upload it is none, and must not look
            // like one to the backend.
            let is_cut = self.over_http2 && !self.inner.is_end_stream();
            return Poll::Ready(is_cut.then_some(Err(Fault::ClientGone)));
        };
        let mut frame = frame.map_err(|error| Fault::of_client_body(&error))?;
        if let Some(trailers) = frame.trailers_mut() {
            // Nothing follows them; whoever has them does not ask for more.
            self.upload_ended();
            // A bare LF behind the last chunk: hyper takes it, and all up to the next empty line, for trailers without a
            // field. What else would read it would see another request there (reliability.md 2.6).
            if !self.over_http2 && trailers.is_empty() {
                return Poll::Ready(Some(Err(Fault::ClientBody("a bare LF after the last chunk".into()))));
            }
            headers::strip_request_trailers(trailers, &self.downstream);
        }
        if let Some(data) = frame.data_ref() {
            let received = self.received.get() + data.len() as u64;
            self.received.set(received);
            if self.limit != 0 && received > self.limit {
                return Poll::Ready(Some(Err(Fault::ClientBodyTooLarge)));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        if let Some(piece) = this.pieces.get(this.next) {
            let data = piece.clone();
            this.sent();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = &this.trailers {
            let trailers = (!std::mem::replace(&mut this.trailers_sent, true)).then(|| trailers.clone());
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let Some(frame) = ready!(this.poll_inner(cx)) else { return Poll::Ready(None) };
        let frame = frame?;
        if let Some(trailers) = frame.trailers_ref() {
            this.trailers = Some(trailers.clone());
            this.trailers_sent = true;
        }
        if let Some(data) = frame.data_ref() {
            if this.most_kept == 0 {
                this.forgotten = true;
            } else {
                this.pieces_bytes += data.len();
                this.pieces.push_back(data.clone());
                this.sent();
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let sent = self.next >= self.pieces.len() && (self.trailers.is_none() || self.trailers_sent);
        sent && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What a look at the client's body waits for.
enum Come {
    /// The next frame, or the end.
    Frame(Option<Result<Frame<Bytes>, Fault>>),
    /// Nothing, for a moment.
    Nothing,
}

/// A response body as hyper sends it.
#[derive(Debug)]
pub struct ProxyBody<B> {
    inner: Inner<B>,
    /// Told when the body ends or is dropped, with the lease of a backend's response.
    story: Option<Box<Story>>,
    /// What it broke with: told to hyper late, see [`broken`](Self::broken). Boxed like all else here: hyper moves a
    /// response many times.
    breaking: Option<Box<Breaking>>,
}

/// The end of a response that broke.
#[derive(Debug)]
struct Breaking {
    fault: Fault,
    /// hyper still needs a turn to write what it has.
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

    /// The response breaks. hyper drops a connection whose body fails together with all that it has not yet written, the
    /// head included: so it gets one turn to write what it has, and learns of the fault at the next.
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
            if let Some(story) = &mut this.story {
                story.downstream.works.set(true);
                if let Some(meter) = &mut story.meter {
                    meter.waiting();
                }
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::config::ListenerPlan;

    /// A body of so many single bytes.
    struct Drip(usize);

    impl Body for Drip {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let left = self.0.checked_sub(1);
            self.0 = left.unwrap_or(0);
            Poll::Ready(left.map(|_| Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    fn dripping(bytes: usize) -> RequestBody<Drip> {
        let listener = ListenerPlan::new((Ipv4Addr::LOCALHOST, 0).into());
        RequestBody {
            inner: Drip(bytes),
            received: Rc::default(),
            limit: 0,
            over_http2: false,
            pieces: VecDeque::new(),
            next: 0,
            trailers: None,
            trailers_sent: false,
            pieces_bytes: 0,
            most_kept: 0,
            forgotten: false,
            upload: None,
            downstream: Rc::new(Downstream::new(Ipv4Addr::LOCALHOST.into(), false, Arc::new(listener))),
        }
    }

    #[tokio::test]
    async fn single_bytes_are_not_looked_at_each() {
        let (looks, all) = (Cell::new(0), Cell::new(0));
        let look = |seen: &[u8]| -> Option<()> {
            looks.set(looks.get() + 1);
            all.set(seen.len());
            None
        };
        let patience = (Duration::ZERO, None);
        assert_eq!(dripping(5000).peek(1 << 16, patience, look).await.unwrap(), None);
        assert!(all.get() == 5000 && looks.get() <= 15, "{} looks, the last at {}", looks.get(), all.get());
        looks.set(0);
        assert_eq!(dripping(1 << 17).peek(1 << 16, patience, look).await.unwrap(), None);
        assert!(all.get() == 1 << 16 && looks.get() <= 18, "{} looks, the last at {}", looks.get(), all.get());
    }

    #[tokio::test]
    async fn a_piece_that_was_not_sent_is_put_back() {
        let mut body = dripping(3);
        let next = |body: &mut RequestBody<Drip>| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let Poll::Ready(Some(Ok(frame))) = Pin::new(body).poll_frame(&mut cx) else { panic!("a frame") };
            frame.into_data().unwrap()
        };
        let piece = next(&mut body);
        assert!(!body.can_replay(), "nothing was to be kept");
        body.put_back(piece);
        assert!(body.can_replay());
        let all: Vec<Bytes> = (0..3).map(|_| next(&mut body)).collect();
        assert_eq!(all, ["x", "x", "x"]);
        assert!(!body.can_replay());
    }
}
