//! The downstream socket as hyper sees it: notes activity for the sweep, flattens small vectored writes into one plain
//! send, gives back the bytes that were read to tell HTTP/1 from HTTP/2, and lets informational responses in between.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Vectored writes up to this size are copied together: one plain send costs 2.4 % less CPU per request
/// (data-path.md, item 6).
const FLAT_LIMIT: usize = 4096;

thread_local! {
    static FLAT: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(FLAT_LIMIT));
}

/// Shared by the IO that hyper owns and the connection's task. Atomics, because hyper wants an IO that is `Send`; all of
/// them are touched by one thread only.
#[derive(Debug, Default)]
pub(super) struct Activity {
    reads: AtomicU64,
    blocked: AtomicBool,
    /// Something was written and not yet flushed.
    dirty: AtomicBool,
    /// Bytes of informational responses to write before anything else.
    interjection: Mutex<Vec<u8>>,
    interjected: AtomicBool,
}

impl Activity {
    /// Reads that brought bytes.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Relaxed)
    }

    /// The client takes no bytes.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Relaxed)
    }

    /// Everything written has left.
    pub(super) fn is_flushed(&self) -> bool {
        !self.dirty.load(Relaxed) && !self.interjected.load(Relaxed)
    }

    #[inline]
    fn has_read(&self) {
        self.reads.store(self.reads.load(Relaxed).wrapping_add(1), Relaxed);
    }
}

/// A plain downstream socket.
#[derive(Debug)]
pub(super) struct Io {
    stream: TokioIo<TcpStream>,
    /// Bytes read before hyper was given the socket.
    prefix: Bytes,
    activity: Arc<Activity>,
}

impl Io {
    pub(super) fn new(stream: TcpStream, prefix: Bytes, activity: Arc<Activity>) -> Self {
        Self { stream: TokioIo::new(stream), prefix, activity }
    }

    /// The socket, when hyper has given the IO back.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }

    /// Writes what was interjected; nothing else may be written before.
    fn poll_interjection(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.activity.interjected.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let activity = Arc::clone(&self.activity);
        let mut pending = activity.interjection.lock().unwrap_or_else(PoisonError::into_inner);
        while !pending.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &pending))?;
            pending.drain(..sent);
        }
        activity.interjected.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        self.activity.blocked.store(written.is_pending(), Relaxed);
        self.activity.dirty.store(true, Relaxed);
        written
    }
}

impl Read for Io {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let take = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..take]);
            self.prefix.advance(take);
            self.activity.has_read();
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
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
        ready!(self.poll_interjection(cx))?;
        // hyper flushes the socket only once its own buffer is empty.
        self.activity.dirty.store(false, Relaxed);
        Pin::new(&mut self.stream).poll_flush(cx)
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
