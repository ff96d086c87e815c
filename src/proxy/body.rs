//! The bodies on their way through: the client's, counted, limited and (within limits) kept for another try; the
//! backend's, which carries lease and story to the last byte.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::access_log::End;
use super::story::Story;
use crate::backend::Ending;
use crate::clock::{self, Deadline};
use crate::pool::Lease;
use crate::upstream::Fault;
use crate::upstream::http1::ResponseBody;
use crate::upstream::http2::{self, OutBody, StreamPermit};

/// A client's request body.
#[derive(Debug)]
pub struct RequestBody<B> {
    inner: B,
    received: Rc<Cell<u64>>,
    /// Bytes allowed; 0: any number.
    limit: u64,
    /// What was read and may be needed: by a try that has not come to it, or by one that begins again.
    pieces: VecDeque<Bytes>,
    /// The first of `pieces` that the present try has not sent.
    next: usize,
    pieces_bytes: usize,
    /// Bytes kept for another try; 0: what was sent is forgotten.
    most_kept: usize,
    /// Something that was sent is forgotten: no other try can follow.
    forgotten: bool,
}

impl<B> RequestBody<B> {
    /// `inner`, counted in `received`, limited to `limit` bytes (0: none).
    pub(super) fn new(inner: B, received: Rc<Cell<u64>>, limit: u64) -> Self {
        let pieces = VecDeque::new();
        Self { inner, received, limit, pieces, next: 0, pieces_bytes: 0, most_kept: 0, forgotten: false }
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
    /// later, byte for byte. `patience`: how long the client may say nothing.
    ///
    /// # Errors
    /// The client's body failed, stalled or is too large.
    pub(super) async fn peek<T>(
        &mut self,
        most: usize,
        patience: Duration,
        look: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let deadline = Deadline::new();
        deadline.arm(patience);
        let mut seen = Vec::new();
        loop {
            let frame = std::future::poll_fn(|cx| match self.poll_inner(cx) {
                Poll::Ready(frame) => Poll::Ready(frame),
                Poll::Pending if deadline.poll_passed(cx) => Poll::Ready(Some(Err(Fault::ClientBodyTimeout))),
                Poll::Pending => Poll::Pending,
            });
            let Some(frame) = frame.await else { return Ok(None) };
            // Trailers behind a body this short are of no use to anybody, and have no place among the pieces.
            let Ok(data) = frame?.into_data() else { return Ok(None) };
            deadline.arm(patience);
            seen.extend_from_slice(&data);
            self.pieces_bytes += data.len();
            self.pieces.push_back(data);
            if let Some(found) = look(&seen) {
                return Ok(Some(found));
            }
            if seen.len() >= most {
                return Ok(None);
            }
        }
    }

    /// The next frame of the client's, counted and limited.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else { return Poll::Ready(None) };
        let frame = frame.map_err(|error| Fault::of_client_body(&error))?;
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
        let Some(frame) = ready!(this.poll_inner(cx)) else { return Poll::Ready(None) };
        let frame = frame?;
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
        self.next >= self.pieces.len() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A response body as hyper sends it.
#[derive(Debug)]
pub struct ProxyBody<B> {
    inner: Inner<B>,
    /// Told and reported when the body ends or is dropped.
    tracked: Option<Tracked>,
    /// What it broke with: told to hyper one poll late, see [`broken`](Self::broken).
    fault: Option<Fault>,
}

/// Where the bytes of a response come from.
#[derive(Debug)]
pub(super) enum Inner<B> {
    /// An answer of ours.
    Fixed(Bytes),
    /// A backend's, over HTTP/1.1.
    Http1(ResponseBody<RequestBody<B>>),
    /// A backend's, over HTTP/2.
    Http2(Http2Body),
}

/// What goes with a backend's response to its last byte. The lease ends before the story is told.
#[derive(Debug)]
struct Tracked {
    lease: Option<Lease>,
    story: Box<Story>,
    ended: bool,
}

impl<B> ProxyBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    /// An answer of ours.
    pub(super) fn fixed(body: Bytes, story: Box<Story>) -> Self {
        Self { inner: Inner::Fixed(body), tracked: Some(Tracked { lease: None, story, ended: false }), fault: None }
    }

    /// Nothing: a 101, whose story the tunnel tells.
    pub(super) fn empty() -> Self {
        Self { inner: Inner::Fixed(Bytes::new()), tracked: None, fault: None }
    }

    /// A backend's answer.
    pub(super) fn upstream(inner: Inner<B>, lease: Lease, story: Box<Story>) -> Self {
        let mut this = Self { inner, tracked: Some(Tracked { lease: Some(lease), story, ended: false }), fault: None };
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
        let Some(tracked) = &mut self.tracked else { return };
        if std::mem::replace(&mut tracked.ended, true) {
            return;
        }
        if let Some(lease) = &mut tracked.lease {
            if let Inner::Http1(body) = &mut self.inner
                && let Some(connection) = body.take_connection()
            {
                let limit = lease.live().plan.timeouts.upstream_idle;
                tracked.story.keep(lease.backend().id.0, connection, limit);
            }
            lease.completed();
            tracked.story.end = End::Ok;
        }
        tracked.lease = None;
    }

    /// The response breaks. hyper drops a connection whose body fails together with all that it has not yet written, the
    /// head included: so it gets one turn to write what it has, and learns of the fault at the next.
    fn broken(&mut self, fault: Fault, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.ended_badly(&fault);
        self.fault = Some(fault);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn ended_badly(&mut self, fault: &Fault) {
        let Some(tracked) = &mut self.tracked else { return };
        tracked.ended = true;
        if let Some(lease) = &mut tracked.lease {
            if fault.is_timeout() {
                lease.failed(Ending::TimedOut);
                tracked.story.end = End::BackendTimeout;
            } else if !fault.blames_client() {
                lease.failed(Ending::Reset);
                tracked.story.end = End::BackendReset;
            }
            if !fault.blames_client() {
                tracing::warn!(
                    pool = %lease.pool().name,
                    backend = %lease.backend().name,
                    request_id = tracked.story.request_id.to_str().unwrap_or_default(),
                    "response broken off: {fault}"
                );
            }
        }
        tracked.lease = None;
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
        if let Some(fault) = this.fault.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        let polled = match &mut this.inner {
            Inner::Fixed(body) => {
                let data = std::mem::take(body);
                if data.is_empty() {
                    return Poll::Ready(None);
                }
                if let Some(tracked) = &mut this.tracked {
                    tracked.story.bytes_out += data.len() as u64;
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Inner::Http1(body) => body.poll_frame(cx),
            Inner::Http2(body) => body.poll_frame(cx),
        };
        match ready!(polled) {
            Some(Ok(frame)) => {
                if let (Some(tracked), Some(data)) = (&mut this.tracked, frame.data_ref()) {
                    tracked.story.bytes_out += data.len() as u64;
                    if let Some(lease) = &mut tracked.lease {
                        lease.received(data.len());
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

/// A response body over HTTP/2, with its stream and its deadlines.
#[derive(Debug)]
pub(super) struct Http2Body {
    incoming: Incoming,
    _permit: StreamPermit,
    deadline: Deadline,
    waiting: bool,
    idle: Duration,
    total: Option<Instant>,
}

impl Http2Body {
    pub(super) fn new(incoming: Incoming, permit: StreamPermit, idle: Duration, total: Option<Instant>) -> Self {
        Self { incoming, _permit: permit, deadline: Deadline::new(), waiting: false, idle, total }
    }

    fn is_done(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.waiting = false;
            self.deadline.disarm();
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| http2::fault_of(&error))));
        }
        if !self.waiting {
            self.waiting = true;
            let left = self.total.map(|total| total.saturating_duration_since(clock::now()));
            let left = left.map(|left| left.max(Duration::from_millis(1)));
            self.deadline.arm(match left {
                Some(left) if self.idle.is_zero() => left,
                Some(left) => left.min(self.idle),
                None => self.idle,
            });
        }
        if !self.deadline.poll_passed(cx) {
            return Poll::Pending;
        }
        let late = self.total.is_some_and(|total| clock::now() >= total);
        Poll::Ready(Some(Err(if late { Fault::TotalTimeout } else { Fault::IdleTimeout })))
    }
}

/// A request body lent to hyper's HTTP/2 client, which does not give bodies back: the lender keeps a hand on it, for
/// another try.
pub(super) struct Lent<B>(Rc<LentBody<B>>);

struct LentBody<B> {
    body: RefCell<Option<RequestBody<B>>>,
    /// Grows with every piece that was taken.
    progress: Cell<u64>,
    deadline: Deadline,
    idle: Duration,
}

/// The borrower's end.
struct Borrowed<B>(Rc<LentBody<B>>);

impl<B> Lent<B> {
    pub(super) fn new(body: Option<RequestBody<B>>, idle: Duration) -> Self {
        let deadline = Deadline::new();
        Self(Rc::new(LentBody { body: RefCell::new(body), progress: Cell::new(0), deadline, idle }))
    }

    pub(super) fn progress(&self) -> u64 {
        self.0.progress.get()
    }

    /// Takes the body back; the borrower sees its end.
    pub(super) fn take_back(&self) -> Option<RequestBody<B>> {
        self.0.body.borrow_mut().take()
    }
}

impl<B> Lent<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: std::error::Error + 'static,
{
    pub(super) fn to_body(&self) -> OutBody {
        Box::pin(Borrowed(Rc::clone(&self.0)))
    }
}

impl<B> Body for Borrowed<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let lent = &self.0;
        let mut body = lent.body.borrow_mut();
        let Some(body) = body.as_mut() else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            lent.progress.set(lent.progress.get() + 1);
            lent.deadline.arm(lent.idle);
            return Poll::Ready(frame);
        }
        if lent.deadline.poll_passed(cx) { Poll::Ready(Some(Err(Fault::ClientBodyTimeout))) } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.borrow().as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.borrow().as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
