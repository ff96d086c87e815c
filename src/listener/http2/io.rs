//! The socket of an HTTP/2 connection as `h2` sees it: notes activity for the sweep, flattens small vectored writes into one
//! plain send, gives back the bytes that were read to tell HTTP/1 from HTTP/2, and looks at frames before `h2` does.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::listener::socket::{self, FLAT_LIMIT};
use crate::upstream::{FrameWatch, Stream};

thread_local! {
    static FLAT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(FLAT_LIMIT));
}

/// What the IO tells the connection's task.
#[derive(Debug, Default)]
pub(super) struct Activity {
    reads: Cell<u64>,
    written: Cell<u64>,
    blocked: Cell<bool>,
    /// A header block has begun and not ended.
    amid_head: Cell<bool>,
    /// The connection was ended for what came on it.
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

    /// A header block has begun and not ended.
    pub(super) fn is_amid_head(&self) -> bool {
        self.amid_head.get()
    }

    /// The connection was ended for what came on it.
    pub(super) fn is_violated(&self) -> bool {
        self.violated.get()
    }

    /// Looks at frames that have come.
    fn look(&self, frames: &mut FrameWatch, bytes: &[u8]) -> io::Result<()> {
        self.reads.set(self.reads.get().wrapping_add(1));
        let seen = frames.read(bytes);
        self.amid_head.set(frames.is_amid_head());
        seen.map_err(|violation| {
            self.violated.set(true);
            io::Error::new(io::ErrorKind::InvalidData, violation)
        })
    }
}

/// A downstream connection.
#[derive(Debug)]
pub(super) struct Io {
    stream: Stream,
    /// Bytes read before the connection was known to be HTTP/2.
    prefix: Bytes,
    activity: Rc<Activity>,
    frames: FrameWatch,
}

impl Io {
    pub(super) fn new(stream: Stream, prefix: Bytes, activity: Rc<Activity>) -> Self {
        Self { stream, prefix, activity, frames: FrameWatch::of_client() }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            let before = self.activity.written();
            self.activity.written.set(before.wrapping_add(*bytes as u64));
            socket::written(self.stream.socket(), before, self.activity.written());
        }
        self.activity.blocked.set(written.is_pending());
        written
    }
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.prefix.is_empty() {
            let taken = this.prefix.split_to(this.prefix.len().min(buf.remaining()));
            buf.put_slice(&taken);
            return Poll::Ready(this.activity.look(&mut this.frames, &taken));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.activity.look(&mut this.frames, buf.filled().get(before..).unwrap_or_default()))
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS holds back what the socket does not take.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.activity.blocked.set(flushed.is_pending());
        flushed
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
