//! What a connection's task and the body of the request that it serves share: the stream, and what was read of it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::io::{AsyncWrite, Interest, Ready};
use tokio_util::io::poll_read_buf;

use super::request::Announced;
use crate::listener::socket;
use crate::proxy::Downstream;
use crate::upstream::Stream;
use crate::upstream::http1::{ChunkDecoder, Step};

/// Room for a request head: a usual one fits.
pub(super) const HEAD_READ: usize = 4 * 1024;
/// Smallest and largest room for a piece of a body.
const LEAST_BODY_READ: usize = 8 * 1024;
const MOST_BODY_READ: usize = 64 * 1024;
/// Read at once of what a client sends while it is answered.
const AHEAD: usize = 1024;
/// Most bytes taken from such a client; should it leave then, a look at the socket's state tells.
const MOST_AHEAD: usize = 16 * 1024;
/// Asks a client for its body (RFC 9110 section 15.2.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The body of the request that is being served, as far as it was read.
#[derive(Debug)]
enum Incoming {
    /// All of it.
    Whole,
    /// So many bytes are to come.
    Length(u64),
    /// As the coding has it.
    Chunked(ChunkDecoder),
    /// It broke; nothing behind can be a request.
    Broken,
}

/// One connection's stream.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Stream,
    /// What has come and was not taken.
    pub(super) read: BytesMut,
    incoming: Incoming,
    /// The client waits to be asked for its body.
    unasked: bool,
    /// Who waits for more of it, perhaps another task than the connection's.
    reader: Option<Waker>,
    /// Which request is being served: a body that outlives its own reads nothing.
    number: u64,
    /// Bytes that the client's socket took.
    pub(super) written: u64,
    /// The client takes no bytes.
    pub(super) is_blocked: bool,
    /// The client has closed its sending side while it is answered: it has left, or waits for the answer all the same.
    pub(super) is_parting: bool,
    /// The client has sent ahead more than is taken: what else comes from it, its end too, is not read.
    pub(super) is_deaf: bool,
}

impl Link {
    pub(super) fn new(stream: Stream, first: Bytes) -> Self {
        let read = first.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
        Self {
            stream,
            read,
            incoming: Incoming::Whole,
            unasked: false,
            reader: None,
            number: 0,
            written: 0,
            is_blocked: false,
            is_parting: false,
            is_deaf: false,
        }
    }

    /// Reads what has come, into room for `room` bytes; 0: the client has closed its side.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        self.read.reserve(room);
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read)
    }

    /// A request begins whose head has been read; its number.
    pub(super) fn begin(&mut self, body: Announced, unasked: bool) -> u64 {
        self.incoming = match body {
            Announced::Nothing => Incoming::Whole,
            Announced::Length(length) => Incoming::Length(length),
            Announced::Chunked => Incoming::Chunked(ChunkDecoder::new()),
            Announced::Unclear => Incoming::Broken,
        };
        self.unasked = unasked;
        self.number += 1;
        self.is_deaf = false;
        self.number
    }

    /// No further request is served. Whoever still waits for a piece of a body hears that none will come.
    pub(super) fn leave(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Whether the present request's body was read to its end.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.incoming, Incoming::Whole)
    }

    /// Whether the body of request `number` was read to its end.
    pub(super) fn is_end(&self, number: u64) -> bool {
        number == self.number && self.is_whole()
    }

    /// The head of the final response is on its way: nothing may be said before it any more.
    pub(super) fn answered(&mut self) {
        self.unasked = false;
    }

    /// What the client is to hear before it sends its body, once that is asked for; then no more.
    fn ask(&mut self, cx: &mut Context<'_>, downstream: &Downstream) {
        if std::mem::take(&mut self.unasked) {
            downstream.interject(CONTINUE);
            // At once: the body may be read by another task than the connection's, which nothing wakes now. What the socket
            // does not take, or an error, that one sees when it looks next.
            let _ = self.poll_interjection(cx, downstream);
        }
    }

    /// The next piece of the body of request `number`.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        number: u64,
        downstream: &Downstream,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if number != self.number {
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        self.ask(cx, downstream);
        loop {
            match self.take_piece() {
                Ok(Taken::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Taken::End) => return Poll::Ready(None),
                Ok(Taken::Nothing(more)) => {
                    let room = usize::try_from(more).unwrap_or(MOST_BODY_READ).clamp(LEAST_BODY_READ, MOST_BODY_READ);
                    let error = match self.poll_fill(cx, room) {
                        Poll::Ready(Ok(0)) => io::ErrorKind::UnexpectedEof.into(),
                        Poll::Ready(Ok(_)) => continue,
                        Poll::Ready(Err(error)) => error,
                        Poll::Pending => {
                            if !self.reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                                self.reader = Some(cx.waker().clone());
                            }
                            return Poll::Pending;
                        }
                    };
                    self.incoming = Incoming::Broken;
                    return Poll::Ready(Some(Err(error)));
                }
                Err(what) => {
                    self.incoming = Incoming::Broken;
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, what))));
                }
            }
        }
    }

    /// The next piece of the body, from what was read.
    fn take_piece(&mut self) -> Result<Taken, &'static str> {
        match &mut self.incoming {
            Incoming::Whole => Ok(Taken::End),
            Incoming::Broken => Err("the body broke before"),
            Incoming::Length(left) => {
                if self.read.is_empty() {
                    return Ok(Taken::Nothing(*left));
                }
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(self.read.len());
                *left -= take as u64;
                if *left == 0 {
                    self.incoming = Incoming::Whole;
                }
                Ok(Taken::Frame(Frame::data(self.read.split_to(take).freeze())))
            }
            Incoming::Chunked(decoder) => {
                let step = decoder.decode(&mut self.read)?;
                let more = decoder.expected();
                if decoder.is_done() {
                    self.incoming = Incoming::Whole;
                }
                Ok(match step {
                    Step::Data(data) => Taken::Frame(Frame::data(data)),
                    Step::NeedMore => Taken::Nothing(more),
                    Step::End(Some(trailers)) if !trailers.is_empty() => Taken::Frame(Frame::trailers(trailers)),
                    Step::End(_) => Taken::End,
                })
            }
        }
    }

    /// Throws away what has come of a body that nobody wants; whether that was all of it.
    pub(super) fn drain(&mut self) -> bool {
        while !self.is_whole() {
            match self.take_piece() {
                Ok(Taken::Frame(_)) => {}
                Ok(Taken::End) => return true,
                Ok(Taken::Nothing(_)) | Err(_) => return false,
            }
        }
        true
    }

    /// Writes as much of `bufs` as the client takes, at least something.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let written = match bufs {
            [only] => stream.poll_write(cx, only),
            _ => stream.poll_write_vectored(cx, bufs),
        };
        self.is_blocked = written.is_pending();
        let written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let before = self.written;
        self.written = before.wrapping_add(written as u64);
        socket::written(self.stream.socket(), before, self.written);
        Poll::Ready(Ok(written))
    }

    /// Makes sure that the socket has what was written: TLS holds back what it did not take.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.stream.holds_back() {
            self.is_blocked = false;
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.is_blocked = flushed.is_pending();
        flushed
    }

    /// Writes the informational responses that are to precede the response.
    pub(super) fn poll_interjection(&mut self, cx: &mut Context<'_>, downstream: &Downstream) -> Poll<io::Result<()>> {
        let mut pending = downstream.interjection();
        while !pending.is_empty() {
            let sent = ready!(self.poll_write(cx, &[IoSlice::new(&pending)]))?;
            pending.drain(..sent);
        }
        self.poll_flush(cx)
    }

    /// While a request is answered: has the client ended its side? The connection's task then gives it a moment, see
    /// [`is_parting`](Self::is_parting). What it sends ahead (it pipelines) is kept for later, within limits.
    #[inline]
    pub(super) fn check_departure(&mut self, cx: &mut Context<'_>, downstream: &Downstream) -> io::Result<()> {
        if self.is_parting {
            return Ok(());
        }
        if !downstream.only_answers() {
            // The body is read as far as it is asked for, and its end with it; a reset is seen without that.
            let is_lost = downstream.uploads() && self.socket_state(Interest::WRITABLE).is_write_closed();
            return if is_lost { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) };
        }
        // Nearly always: asked without a buffer.
        if !self.stream.poll_stirs(cx) {
            return Ok(());
        }
        while self.read.len() < MOST_AHEAD {
            match self.poll_fill(cx, AHEAD) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(0)) => {
                    self.is_parting = true;
                    return Ok(());
                }
                Poll::Ready(Ok(_)) => {}
            }
        }
        self.is_deaf = true;
        self.is_parting = self.socket_state(Interest::READABLE).is_read_closed();
        Ok(())
    }

    /// What the event loop knows of the socket, without a system call.
    fn socket_state(&self, interest: Interest) -> Ready {
        let mut ready = pin!(self.stream.socket().ready(interest));
        match ready.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready,
            Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
        }
    }
}

/// What was there of a body.
enum Taken {
    /// A piece, or its trailers.
    Frame(Frame<Bytes>),
    /// Its end.
    End,
    /// Nothing; so many bytes are expected, where that is known.
    Nothing(u64),
}
