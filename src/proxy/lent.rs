//! Bodies over HTTP/2 to backends: a response's, with its stream and its deadlines; and the client's, lent to hyper's
//! client, which does not give bodies back.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::request_body::RequestBody;
use crate::clock::{self, Deadline};
use crate::upstream::Fault;
use crate::upstream::http2::{self, OutBody, StreamPermit};

/// A response body over HTTP/2, with its stream and its deadlines.
#[derive(Debug)]
pub(super) struct Http2Body {
    pub(super) incoming: Incoming,
    _permit: StreamPermit,
    deadline: Deadline,
    waiting: bool,
    idle: Duration,
    total: Option<Instant>,
    /// What the request body still on its way failed with: hyper then only says that the stream was reset.
    upload: UploadFault,
}

impl Http2Body {
    pub(super) fn new(
        incoming: Incoming,
        permit: StreamPermit,
        idle: Duration,
        total: Option<Instant>,
        upload: UploadFault,
    ) -> Self {
        Self { incoming, _permit: permit, deadline: Deadline::new(), waiting: false, idle, total, upload }
    }

    pub(super) fn is_done(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.waiting = false;
            self.deadline.disarm();
            let fault = |error| self.upload.take().unwrap_or_else(|| http2::fault_of(&error));
            // hyper takes RST_STREAM(NO_ERROR) for an end; amid a response it is none.
            if frame.is_none() && !self.incoming.is_end_stream() {
                return Poll::Ready(Some(Err(self.upload.take().unwrap_or(Fault::StreamReset))));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(fault)));
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

/// What a lent body failed with, told to whoever answers for the request.
#[derive(Debug, Clone, Default)]
pub(super) struct UploadFault(Rc<RefCell<Option<Fault>>>);

impl UploadFault {
    pub(super) fn take(&self) -> Option<Fault> {
        self.0.borrow_mut().take()
    }
}

/// A request body lent to hyper's HTTP/2 client, which does not give bodies back: the lender keeps a hand on it, for
/// another try.
pub(super) struct Lent<B>(Rc<LentBody<B>>);

struct LentBody<B> {
    body: RefCell<Option<Box<RequestBody<B>>>>,
    /// There was a body to lend: where it is missing it was taken back.
    lent: bool,
    /// Grows with every piece that was taken.
    progress: Cell<u64>,
    /// The client is waited for.
    waiting: Cell<bool>,
    deadline: Deadline,
    idle: Duration,
    fault: UploadFault,
}

/// The borrower's end.
struct Borrowed<B>(Rc<LentBody<B>>);

impl<B> Lent<B> {
    pub(super) fn new(body: Option<Box<RequestBody<B>>>, idle: Duration) -> Self {
        Self(Rc::new(LentBody {
            lent: body.is_some(),
            body: RefCell::new(body),
            progress: Cell::new(0),
            waiting: Cell::new(false),
            deadline: Deadline::new(),
            idle,
            fault: UploadFault::default(),
        }))
    }

    pub(super) fn progress(&self) -> u64 {
        self.0.progress.get()
    }

    /// Whether the client is to send the next piece.
    pub(super) fn awaits_client(&self) -> bool {
        self.0.waiting.get()
    }

    /// What the body failed with, if it did.
    pub(super) fn fault(&self) -> UploadFault {
        self.0.fault.clone()
    }

    /// Takes the body back; the borrower sees it fail.
    pub(super) fn take_back(&self) -> Option<Box<RequestBody<B>>> {
        let body = self.0.body.borrow_mut().take();
        // Wakes the borrower, if it waits for the client.
        self.0.deadline.force();
        body
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

impl<B> LentBody<B> {
    fn failed(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        *self.fault.0.borrow_mut() = Some(fault);
        // hyper resets the stream, whatever it is told.
        Poll::Ready(Some(Err(Fault::Closed)))
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
        // A body that was taken back must not look complete to the backend.
        let Some(body) = body.as_mut() else { return Poll::Ready(Some(Err(Fault::Closed))) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Err(fault))) => lent.failed(fault),
            Poll::Ready(frame) => {
                lent.progress.set(lent.progress.get() + 1);
                lent.waiting.set(false);
                lent.deadline.disarm();
                Poll::Ready(frame)
            }
            Poll::Pending => {
                if !lent.waiting.replace(true) {
                    lent.deadline.arm(lent.idle);
                }
                if lent.deadline.poll_passed(cx) { lent.failed(Fault::ClientBodyTimeout) } else { Poll::Pending }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.0.lent || self.0.body.borrow().as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if self.0.lent { SizeHint::default() } else { SizeHint::with_exact(0) }
    }
}
