//! One HTTP/1.1 connection to a backend: the stream and its two buffers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio_util::io::poll_read_buf;

use super::buffers;
use crate::upstream::{Counted, Stream};

/// Size of the first read of a response: 8 % less CPU on 16 KiB responses than 8 KiB (docs/performance.md).
pub(super) const FIRST_READ: usize = 32 * 1024;
/// Room below which a read buffer is renewed.
const LEAST_ROOM: usize = 2 * 1024;

/// A connection, busy or idle.
#[derive(Debug)]
pub struct Connection {
    pub(super) stream: Stream,
    /// Bytes that have arrived. Between two requests it has no room: the worker's connections share their buffers.
    pub(super) read: BytesMut,
    /// Whether `read` was allocated for this connection: of another size than those that are shared.
    own: bool,
    /// Reused for every head that is sent.
    pub(super) write: Vec<u8>,
    /// Whether a request was answered on it before.
    pub(super) reused: bool,
    counted: Counted,
}

/// A connection after a 101: no longer HTTP.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection.
    pub stream: Stream,
    /// What the backend sent behind its 101.
    pub early: Bytes,
    /// Its place in the count of open connections.
    pub counted: Counted,
}

impl Connection {
    /// A fresh connection, counted in `open` until it is dropped. Boxed: every request moves it from the idle ones into
    /// its exchange and back.
    pub fn new(stream: Stream, open: &Arc<AtomicU64>) -> Box<Self> {
        let counted = Counted::new(open);
        Box::new(Self {
            stream,
            read: BytesMut::new(),
            own: false,
            write: Vec::with_capacity(1024),
            reused: false,
            counted,
        })
    }

    /// The stream and what was already read of it.
    pub(super) fn into_upgraded(self) -> Upgraded {
        Upgraded { stream: self.stream, early: self.read.freeze(), counted: self.counted }
    }

    /// Whether it has carried a request before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// The empty buffer in which the next request head is to be written.
    #[inline]
    pub fn head_buffer(&mut self) -> &mut Vec<u8> {
        self.write.clear();
        &mut self.write
    }

    /// Whether an idle connection is still open and silent. Costs no system call when nothing happened. Anything that
    /// arrives unasked makes a connection unusable: no later client may ever receive it.
    pub fn is_quiet(&mut self) -> bool {
        if !self.read.is_empty() {
            return false;
        }
        let mut byte = [0u8; 1];
        match &mut self.stream {
            // Asks what the event loop has told, and wakes nobody: a fifth of a poll's instructions.
            Stream::Plain(socket) => {
                matches!(socket.socket().try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Stream::Tls(stream) => {
                let mut cx = Context::from_waker(Waker::noop());
                let mut buffer = tokio::io::ReadBuf::new(&mut byte);
                tokio::io::AsyncRead::poll_read(Pin::new(&mut **stream), &mut cx, &mut buffer).is_pending()
            }
        }
    }

    /// As [`is_quiet`](Self::is_quiet), but asks the kernel: also sees a close that the event loop has not told yet.
    /// Worth a system call before a request that must not be sent twice.
    pub fn is_quiet_in_kernel(&mut self) -> bool {
        if !self.is_quiet() {
            return false;
        }
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let socket = socket2::SockRef::from(self.stream.socket());
        matches!(socket.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The exchange is over and nothing is left unread: the next one may begin.
    pub(super) fn rest(&mut self) {
        self.reused = true;
        let buffer = std::mem::take(&mut self.read);
        if !std::mem::take(&mut self.own) {
            buffers::give(buffer);
        }
    }

    /// Reads once, with room for `want` bytes; `Ok(0)`: the backend has closed.
    #[inline]
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        if self.counted.must_end() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the backend was removed")));
        }
        // Nothing is held while the backend thinks: buffers are for what has come.
        if self.read.capacity() == 0 && !self.stream.poll_stirs(cx) {
            return Poll::Pending;
        }
        if self.read.capacity() - self.read.len() < want.min(LEAST_ROOM) {
            if self.read.capacity() == 0 && want <= FIRST_READ {
                self.read = buffers::take();
            } else if !self.read.try_reclaim(want) {
                self.own = true;
                self.read.reserve(want);
            }
        }
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read)
    }
}
