//! One downstream connection: HTTP/1.1 or HTTP/2, told by the first bytes (prior knowledge) or by ALPN.
//!
//! While a connection waits (for its first byte, or between requests) it is held as a bare socket without buffers: a
//! balancer in front of people holds many idle connections.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio_util::io::poll_read_buf;

use super::entrance::Admitted;
use super::{http1, http2};
use crate::clock::{self, Deadline};
use crate::proxy::Proxy;
use crate::upstream::Stream;

/// What an HTTP/2 client with prior knowledge begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for the first bytes of a connection; a usual request head fits.
const FIRST_BYTES: usize = 4 * 1024;
/// An idle connection gives up its buffers after this long: long enough that a busy one never does.
pub(super) const PARK_AFTER: Duration = Duration::from_secs(1);
/// How long a fresh connection has for its first request when the worker drains: who connected before it did has most
/// likely sent one, and perhaps it is still on its way (reliability.md 8.9).
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// How often a client is looked at whose bytes nobody reads: between two looks it is not missed. With the sweep's own
/// delay that leaves room within the second that reliability.md 6.3 gives.
pub(super) const LOOK: Duration = Duration::from_millis(200);
/// How the worker reaches a connection.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Watched by the sweep; forced to pass when the worker wants to be heard.
    pub(super) deadline: Deadline,
    /// The worker is draining, or wants this one to end: as soon as it is polite.
    pub(super) draining: Cell<bool>,
    /// It is trusted no longer: no further request of it is read.
    pub(super) outdated: Cell<bool>,
    /// The trust that its listener's settings had when it was let in; `None`: it has not met them yet.
    pub(super) trust: Cell<Option<u64>>,
}

impl Entry {
    /// Makes the connection hear that it is to end.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        self.deadline.force();
    }
}

/// What a connection is doing, as far as its deadlines care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between requests.
    Idle,
    /// A request head has begun.
    Head,
    /// A request is being served.
    Busy,
    /// The client takes no bytes.
    Blocked,
    /// A request is being served, and the client has closed its sending side.
    Parting,
}

/// Serves `stream` to its end.
pub(super) async fn serve(admitted: Admitted, proxy: Rc<Proxy>, entry: &Entry) {
    let Admitted { mut stream, downstream } = admitted;
    let downstream = Rc::new(downstream);
    let agreed = stream.alpn();
    if agreed == Some(b"h2") {
        return http2::serve(stream, Bytes::new(), &downstream, &proxy, entry).await;
    }
    let mut patience = downstream.listener.header_timeout;
    let mut fresh = agreed.is_none();
    let mut grace = FRESH;
    loop {
        // Only a fresh connection may begin with the preface of HTTP/2, and over TLS none: there ALPN says so (RFC 9113
        // section 3.3).
        let sniff = fresh && downstream.listener.http2.enabled && !stream.is_secure();
        let Some(prefix) = first_bytes(&mut stream, patience, entry, sniff, grace).await else {
            return stream.part();
        };
        if sniff && prefix.starts_with(PREFACE) {
            return http2::serve(stream, prefix, &downstream, &proxy, entry).await;
        }
        // Boxed: what serving a request takes is not held by a connection that rests.
        match Box::pin(http1::serve(stream, prefix, &downstream, &proxy, entry)).await {
            Some(idle) => stream = idle,
            None => return,
        }
        fresh = false;
        grace = Duration::ZERO;
        patience = downstream.listener.idle_timeout.saturating_sub(PARK_AFTER).max(Duration::from_millis(1));
    }
}

/// Waits for bytes without holding a buffer. `None`: the client left, or said nothing in time, or we are draining.
/// `sniff`: waits for as many as tell HTTP/2's preface from anything else. `grace`: what it has since its beginning, should
/// we drain. What has arrived is a request and is served all the same.
async fn first_bytes(
    stream: &mut Stream,
    patience: Duration,
    entry: &Entry,
    sniff: bool,
    grace: Duration,
) -> Option<Bytes> {
    entry.deadline.arm(patience);
    let begun = clock::coarse_millis();
    let mut ending = false;
    let mut buffer = BytesMut::new();
    let read = std::future::poll_fn(|cx| {
        if entry.outdated.get() {
            return Poll::Ready(Ok(0));
        }
        while stream.poll_stirs(cx) || buffer.capacity() > 0 {
            if buffer.capacity() == 0 {
                buffer.reserve(FIRST_BYTES);
            }
            match poll_read_buf(Pin::new(&mut *stream), cx, &mut buffer) {
                Poll::Ready(Ok(n)) if n > 0 && sniff && is_part_of_preface(&buffer) => {}
                Poll::Ready(read) => return Poll::Ready(read),
                Poll::Pending => break,
            }
        }
        if entry.draining.get() && !std::mem::replace(&mut ending, true) {
            let age = Duration::from_millis(clock::coarse_millis().saturating_sub(begun));
            let left = grace.saturating_sub(age);
            if left.is_zero() && buffer.is_empty() && !has_arrivals(stream) {
                return Poll::Ready(Ok(0));
            }
            entry.deadline.arm(left.max(LOOK));
        }
        if entry.deadline.poll_passed(cx) { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    })
    .await;
    entry.deadline.disarm();
    match read {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(buffer.freeze()),
    }
}

/// Whether the kernel has bytes that the event loop has not told yet.
fn has_arrivals(stream: &Stream) -> bool {
    SockRef::from(stream.socket()).peek(&mut [MaybeUninit::uninit(); 1]).is_ok_and(|bytes| bytes > 0)
}

/// Whether more bytes are needed to tell.
fn is_part_of_preface(bytes: &[u8]) -> bool {
    bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes)
}
