//! Protocol upgrades (WebSocket): which requests ask for one, and the tunnel that follows the backend's 101. Not a byte
//! is tunnelled before it, and `h2c` is never upgraded to.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, Version};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::access_log::End;
use super::story::Story;
use crate::clock::Deadline;
use crate::pool::Lease;
use crate::upstream::http1::Upgraded;
use crate::upstream::{Stream, is_ending};

/// Bytes in flight in each direction of a tunnel.
const BUFFER: usize = 16 * 1024;
/// How long the other direction may finish once one side has ended: with the sweep's ticks it stays below a second.
const LAST_WORDS: Duration = Duration::from_millis(400);

/// Whether the client asks for a WebSocket: `GET`, HTTP/1.1, `Connection: upgrade`, `Upgrade: websocket` and nothing
/// else. Everything else that asks for an upgrade is served as if it had not asked.
pub(super) fn is_websocket(head: &Parts) -> bool {
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && head.headers.contains_key(header::UPGRADE)
        && names_upgrade(&head.headers)
        && head.headers.get_all(header::UPGRADE).iter().all(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let tokens = headers.get_all(header::CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    tokens.map(<[u8]>::trim_ascii).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// A connection that has become a tunnel, with the lease and the story of its request.
#[derive(Debug)]
pub struct Tunnel {
    backend: Upgraded,
    lease: Box<Lease>,
    story: Box<Story>,
    idle: Duration,
}

impl Tunnel {
    pub(super) fn new(backend: Upgraded, lease: Box<Lease>, story: Box<Story>) -> Self {
        let idle = lease.live().plan.timeouts.tunnel_idle;
        Self { backend, lease, story, idle }
    }

    /// Carries bytes both ways until either side ends, or nothing passes for `tunnel_idle`. `early`: what the client
    /// sent behind its request.
    pub async fn run(mut self, mut client: Stream, early: Bytes) {
        let deadline = Deadline::new();
        deadline.arm(self.idle);
        let mut up = Pump::starting_with(&early);
        let mut down = Pump::starting_with(&self.backend.early);
        let (backend, counted) = (&mut self.backend.stream, &self.backend.counted);
        let mut ending = false;
        let ended = poll_fn(|cx| {
            if counted.must_end() {
                return Poll::Ready(End::BackendReset);
            }
            let before = up.moved + down.moved;
            let sent = up.poll(&mut client, backend, cx);
            let received = down.poll(backend, &mut client, cx);
            if up.moved + down.moved != before && !ending {
                deadline.arm(self.idle);
            }
            match (sent, received) {
                (Poll::Ready(_), Poll::Ready(_)) => return Poll::Ready(End::Ok),
                (Poll::Ready(Err(_)), Poll::Pending) => return Poll::Ready(End::ClientGone),
                (Poll::Pending, Poll::Ready(Err(_))) => return Poll::Ready(End::BackendReset),
                (Poll::Ready(Ok(())), Poll::Pending) | (Poll::Pending, Poll::Ready(Ok(()))) if !ending => {
                    ending = true;
                    deadline.arm(LAST_WORDS);
                }
                (Poll::Ready(Ok(())), Poll::Pending)
                | (Poll::Pending, Poll::Ready(Ok(())))
                | (Poll::Pending, Poll::Pending) => {}
            }
            if deadline.poll_passed(cx) { Poll::Ready(End::Ok) } else { Poll::Pending }
        })
        .await;
        self.story.count_body().set(up.moved);
        self.story.bytes_out = down.moved;
        self.story.end = ended;
        self.lease.received(usize::try_from(down.moved).unwrap_or(usize::MAX));
        match ended {
            // Cut by us at the deadline of its drain: that blames nobody.
            End::BackendReset if is_ending(&self.lease.backend().connections) => {}
            End::BackendReset => self.lease.failed(crate::backend::Ending::Reset),
            End::ClientGone => {}
            _ => self.lease.completed(),
        }
    }
}

/// One direction of a tunnel.
struct Pump {
    buffer: BytesMut,
    moved: u64,
    /// The source has ended, and the sink was told.
    done: bool,
}

impl Pump {
    fn starting_with(early: &[u8]) -> Self {
        Self { buffer: BytesMut::from(early), moved: 0, done: false }
    }

    /// Moves what can be moved; `Ready(Ok)` when the source has ended and the sink has been told.
    fn poll(&mut self, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.done {
            while !self.buffer.is_empty() {
                let sent = ready!(Pin::new(&mut *to).poll_write(cx, &self.buffer))?;
                if sent == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.advance(sent);
                self.moved += sent as u64;
            }
            ready!(Pin::new(&mut *to).poll_flush(cx))?;
            self.buffer.reserve(BUFFER);
            if ready!(poll_read_buf(Pin::new(&mut *from), cx, &mut self.buffer))? == 0 {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}
