//! The downstream socket as hyper or `h2` see it: notes activity for the sweep, flattens small vectored writes into one plain
//! send, gives back the bytes that were read to tell HTTP/1 from HTTP/2, and lets informational responses in between.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, Interest, ReadBuf, Ready};

use crate::proxy::Downstream;
use crate::upstream::{FrameWatch, Stream};

/// Vectored writes up to this size are copied together: one plain send costs 2.4 % less CPU per request
/// (docs/performance.md, item 6).
const FLAT_LIMIT: usize = 4096;

/// Read at once of what a client sends while it is answered.
const AHEAD: usize = 1024;
/// Most bytes taken from such a client; should it leave then, a look at the socket's state tells.
const MOST_AHEAD: usize = 16 * 1024;

thread_local! {
    static FLAT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(FLAT_LIMIT));
}

/// What the IO tells the connection's task.
#[derive(Debug, Default)]
pub(super) struct Activity {
    reads: Cell<u64>,
    written: Cell<u64>,
    blocked: Cell<bool>,
    /// Something was written and not yet flushed.
    dirty: Cell<bool>,
    /// The client has closed its sending side while it is answered.
    parting: Cell<bool>,
    /// The client has sent ahead more than is taken: what else comes from it, its end too, is not read.
    deaf: Cell<bool>,
    /// HTTP/2: a header block has begun and not ended.
    amid_head: Cell<bool>,
    /// HTTP/2: the connection was ended for what came on it.
    violated: Cell<bool>,
}

impl Activity {
    /// Reads that brought bytes.
    pub(super) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Bytes that the client's socket took.
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    /// The client takes no bytes.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Everything written has left.
    pub(super) fn is_flushed(&self) -> bool {
        !self.dirty.get()
    }

    /// The client has closed its sending side while it is answered: it has left, or waits for the answer all the same.
    pub(super) fn is_parting(&self) -> bool {
        self.parting.get()
    }

    /// The client's end would not be seen by reading, but by looking at the socket.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf.get()
    }

    /// HTTP/2: a header block has begun and not ended.
    pub(super) fn is_amid_head(&self) -> bool {
        self.amid_head.get()
    }

    /// HTTP/2: the connection was ended for what came on it.
    pub(super) fn is_violated(&self) -> bool {
        self.violated.get()
    }

    /// Looks at frames that have come.
    fn look(&self, frames: &mut FrameWatch, bytes: &[u8]) -> io::Result<()> {
        let seen = frames.read(bytes);
        self.amid_head.set(frames.is_amid_head());
        seen.map_err(|violation| {
            self.violated.set(true);
            io::Error::new(io::ErrorKind::InvalidData, violation)
        })
    }

    #[inline]
    fn has_read(&self) {
        self.reads.set(self.reads.get().wrapping_add(1));
    }
}

/// A downstream connection.
#[derive(Debug)]
pub(super) struct Io {
    stream: TokioIo<Stream>,
    /// Bytes read before hyper was given the socket.
    prefix: Bytes,
    activity: Rc<Activity>,
    downstream: Rc<Downstream>,
    /// Look for the client's departure while it waits for an answer.
    watching: bool,
    /// HTTP/2: looks at what comes before `h2` does. Boxed: HTTP/1.1 has none.
    frames: Option<Box<FrameWatch>>,
}

/// Reads of an HTTP/2 connection, looked at.
struct Watched<'a> {
    stream: &'a mut Stream,
    frames: &'a mut FrameWatch,
    activity: &'a Activity,
}

impl AsyncRead for Watched<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut *this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.activity.look(this.frames, buf.filled().get(before..).unwrap_or_default()))
    }
}

impl Io {
    pub(super) fn new(stream: Stream, prefix: Bytes, activity: Rc<Activity>, downstream: Rc<Downstream>) -> Self {
        Self { stream: TokioIo::new(stream), prefix, activity, downstream, watching: false, frames: None }
    }

    /// Makes the IO look for the client's departure, which hyper's HTTP/1.1 server then need not do.
    pub(super) fn watching_for_departure(self) -> Self {
        Self { watching: true, ..self }
    }

    /// Makes the IO look at the frames of HTTP/2.
    pub(super) fn watching_frames(self) -> Self {
        Self { frames: Some(Box::new(FrameWatch::of_client())), ..self }
    }

    /// While a request is answered: has the client ended its side? The connection's task then gives it a moment, see
    /// [`Activity::is_parting`]. What it sends ahead (it pipelines) is kept for hyper's next reads, within limits.
    #[inline]
    fn check_departure(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let watching = self.watching && !self.activity.is_parting();
        if !watching {
            return Ok(());
        }
        if !self.downstream.only_answers() {
            // hyper reads the body as far as it is asked for, and its end with it; a reset is seen without that.
            let is_lost = self.downstream.uploads() && self.socket_state(Interest::WRITABLE).is_write_closed();
            return if is_lost { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) };
        }
        // Nearly always: asked without a buffer.
        if !self.stream.inner().poll_stirs(cx) {
            return Ok(());
        }
        let mut room = [MaybeUninit::uninit(); AHEAD];
        while self.prefix.len() < MOST_AHEAD {
            let mut buf = ReadBuf::uninit(&mut room);
            match Pin::new(self.stream.inner_mut()).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    self.activity.parting.set(true);
                    return Ok(());
                }
                Poll::Ready(Ok(())) => self.keep(buf.filled()),
            }
        }
        self.activity.deaf.set(true);
        if self.socket_state(Interest::READABLE).is_read_closed() {
            self.activity.parting.set(true);
        }
        Ok(())
    }

    /// Keeps what was read ahead.
    fn keep(&mut self, bytes: &[u8]) {
        let mut ahead = match std::mem::take(&mut self.prefix).try_into_mut() {
            Ok(ahead) => ahead,
            Err(shared) => BytesMut::from(&*shared),
        };
        ahead.extend_from_slice(bytes);
        self.prefix = ahead.freeze();
    }

    /// What the event loop knows of the socket, without a system call.
    fn socket_state(&self, interest: Interest) -> Ready {
        let mut ready = pin!(self.stream.inner().socket().ready(interest));
        match ready.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready,
            Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
        }
    }

    /// The connection, when hyper has given the IO back.
    pub(super) fn into_stream(self) -> Stream {
        self.stream.into_inner()
    }

    /// The connection, and what the client sent on it that hyper has not read.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream.into_inner(), self.prefix)
    }

    /// Writes the informational responses that were interjected; nothing else may be written before. They are dropped
    /// when bytes of an earlier response are still in hyper's hands (a client that pipelines and reads slowly): they
    /// would land amid them.
    #[inline]
    fn poll_interjection(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.downstream.has_interjection() {
            return Poll::Ready(Ok(()));
        }
        let mut pending = self.downstream.interjection();
        if self.activity.dirty.get() {
            pending.clear();
        }
        while !pending.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &pending) {
                Poll::Ready(sent) => drop(pending.drain(..sent?)),
                Poll::Pending => {
                    self.activity.blocked.set(true);
                    return Poll::Pending;
                }
            }
        }
        self.activity.blocked.set(false);
        Poll::Ready(Ok(()))
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.activity.written.set(self.activity.written.get().wrapping_add(*bytes as u64));
        }
        self.activity.blocked.set(written.is_pending());
        self.activity.dirty.set(true);
        written
    }
}

impl Read for Io {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let this = &mut *self;
            let take = this.prefix.len().min(buf.remaining());
            let taken = &this.prefix[..take];
            buf.put_slice(taken);
            let looked = match &mut this.frames {
                Some(frames) => this.activity.look(frames, taken),
                None => Ok(()),
            };
            this.prefix.advance(take);
            this.activity.deaf.set(false);
            this.activity.has_read();
            return Poll::Ready(looked);
        }
        let this = &mut *self;
        let read = match &mut this.frames {
            None => Pin::new(&mut this.stream).poll_read(cx, buf),
            Some(frames) => {
                let watched = Watched { stream: this.stream.inner_mut(), frames, activity: &this.activity };
                Pin::new(&mut TokioIo::new(watched)).poll_read(cx, buf)
            }
        };
        if read.is_ready() {
            self.activity.has_read();
        }
        read
    }
}

impl Write for Io {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interjection(cx))?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes the socket only once its own buffer is empty; TLS holds back what the socket does not take.
        self.activity.dirty.set(false);
        ready!(self.poll_interjection(cx))?;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.activity.dirty.set(flushed.is_pending());
        self.activity.blocked.set(flushed.is_pending());
        ready!(flushed)?;
        Poll::Ready(self.check_departure(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interjection(cx))?;
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let written = if total > FLAT_LIMIT || bufs.len() < 2 {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        } else {
            FLAT.with_borrow_mut(|flat| {
                flat.clear();
                for buf in bufs {
                    flat.extend_from_slice(buf);
                }
                Pin::new(&mut self.stream).poll_write(cx, flat)
            })
        };
        self.note(written)
    }
}
