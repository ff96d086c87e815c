//! The client's body on its way to a backend: counted, limited, looked into, and (within limits) kept for another try.

use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};

use super::headers;
use super::story::Story;
use super::{Downstream, Upload};
use crate::clock::{self, Deadline};
use crate::upstream::Fault;

/// How long the client may pause before pieces of a body that were not worth another look get one.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// A client's request body. Always boxed: futures and exchanges hold several slots for it, and most requests have none.
#[derive(Debug)]
pub struct RequestBody<B> {
    inner: B,
    received: Rc<Cell<u64>>,
    /// Bytes allowed; 0: any number.
    limit: u64,
    /// It comes over HTTP/2, where an end may be a reset in disguise.
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
            // A reset of the stream may look like an end (RST_STREAM(NO_ERROR)). From a client amid
            // its upload it is none, and must not look like one to the backend.
            let is_cut = self.over_http2 && !self.inner.is_end_stream();
            return Poll::Ready(is_cut.then_some(Err(Fault::ClientGone)));
        };
        let mut frame = frame.map_err(|error| Fault::of_client_body(&error))?;
        if let Some(trailers) = frame.trailers_mut() {
            // Nothing follows them; whoever has them does not ask for more.
            self.upload_ended();
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
