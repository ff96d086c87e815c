//! The socket of an HTTP/2 connection to a backend as hyper sees it: counted as long as it is open, ended on command,
//! and told of when the backend has greeted.
//!
//! hyper reads and writes in a task of its own, out of our reach; what is to end such a connection must come from below.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};

use crate::clock::Deadline;
use crate::upstream::{Counted, FrameWatch, Stream};

/// Whoever waits for the backend's first SETTINGS.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    waiting: RefCell<Option<Waker>>,
    over: Cell<bool>,
}

impl Greeting {
    /// Wakes `cx` whenever hyper has taken in all that has arrived, until [`over`](Self::over).
    pub(super) fn listen(&self, cx: &Context<'_>) {
        *self.waiting.borrow_mut() = Some(cx.waker().clone());
    }

    /// Nobody waits any more.
    pub(super) fn over(&self) {
        self.over.set(true);
        self.waiting.borrow_mut().take();
    }

    fn told(&self) {
        if !self.over.get()
            && let Some(waker) = self.waiting.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// A connection to a backend.
pub(super) struct LinkIo {
    stream: TokioIo<Stream>,
    counted: Counted,
    /// Never armed: whoever waits on a deadline is woken when connections are to end.
    woken: Deadline,
    greeting: Rc<Greeting>,
    /// Looks at what comes before hyper does.
    frames: FrameWatch,
}

/// Reads, looked at.
struct Watched<'a> {
    stream: &'a mut Stream,
    frames: &'a mut FrameWatch,
}

impl AsyncRead for Watched<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut *this.stream).poll_read(cx, buf))?;
        let seen = this.frames.read(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(seen.map_err(|violation| io::Error::new(io::ErrorKind::InvalidData, violation)))
    }
}

impl LinkIo {
    pub(super) fn new(stream: Stream, counted: Counted, greeting: Rc<Greeting>) -> Self {
        Self {
            stream: TokioIo::new(stream),
            counted,
            woken: Deadline::new(),
            greeting,
            frames: FrameWatch::of_backend(),
        }
    }
}

impl Read for LinkIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.counted.must_end() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the backend was removed")));
        }
        let this = &mut *self;
        let watched = Watched { stream: this.stream.inner_mut(), frames: &mut this.frames };
        let read = Pin::new(&mut TokioIo::new(watched)).poll_read(cx, buf);
        if read.is_pending() {
            self.greeting.told();
            let _ = self.woken.poll_passed(cx);
        }
        read
    }
}

impl Write for LinkIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
