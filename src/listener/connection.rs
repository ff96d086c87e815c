//! One downstream connection: hyper's HTTP/1.1 server or HTTP/2 over our IO, with the connection's deadlines around it.
//! Which of the two is told by the first bytes (prior knowledge) or by ALPN.
//!
//! While a connection waits (for its first byte, or between requests) it is taken out of hyper and held as a bare
//! socket: hyper's buffers cost some 20 KiB, and a balancer in front of people holds many idle connections.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use socket2::SockRef;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::entrance::Admitted;
use super::http2;
use super::io::{Activity, Io};
use super::last::{has_impossible_length, linger, refuse};
use crate::clock::{self, Deadline};
use crate::config::ListenerPlan;
use crate::proxy::{Cut, Downstream, Proxy};
use crate::upstream::Stream;

/// What an HTTP/2 client with prior knowledge begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room for the first bytes of a connection; a usual request head fits.
const FIRST_BYTES: usize = 4 * 1024;
/// Room above the limits, so that our own check answers 414 and 431 with a body before hyper's parser does without.
const BUFFER_SLACK: usize = 16 * 1024;
/// Header fields that hyper takes unasked.
const HYPER_MAX_HEADERS: usize = 100;
/// An idle connection leaves hyper after this long: long enough that a busy one never does.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// How long a client that closed its sending side is still answered when there is nothing to send. Nothing tells one that
/// left from one that only has no more to say (`printf … | nc -N`), until bytes are sent: who left answers them with a
/// reset. So the latter gets what flows, and the former's work is cancelled within a second (reliability.md 6.3), sweeps
/// included.
const PARTING: Duration = Duration::from_millis(250);
/// How long a fresh connection has for its first request when the worker drains: who connected before it did has most
/// likely sent one, and perhaps it is still on its way (reliability.md 8.9).
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// How often a client is looked at whose bytes nobody reads: between two looks it is not missed. With the sweep's own
/// delay that leaves room within the second that reliability.md 6.3 gives.
const LOOK: Duration = Duration::from_millis(200);
/// An answer to a client that never finished its head: nothing can be routed, so nobody is asked.
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

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

/// Why hyper no longer has the connection.
enum Left {
    /// It is over.
    Ended,
    /// Nothing has happened for a while.
    Parked,
    /// A deadline passed.
    Expired(Phase),
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
        if has_impossible_length(&prefix) {
            proxy.shared.cut(Cut::Malformed);
            return refuse(stream, entry).await;
        }
        match serve_http1(stream, prefix, &downstream, &proxy, entry).await {
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

/// Ends a connection so that its client sees it break.
fn reset(stream: Stream) {
    let _ = SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO));
}

/// Whether more bytes are needed to tell.
fn is_part_of_preface(bytes: &[u8]) -> bool {
    bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes)
}

fn http1_builder(listener: &ListenerPlan) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // A client that half-closes has most likely left: the work of its request must be cancelled. Our IO looks for that
        // itself: hyper would read into a new 8 KiB buffer for every request (docs/performance.md).
        .half_close(true)
        // Deadlines are the sweep's: a tokio timer per request costs 9 % (docs/performance.md).
        .header_read_timeout(None)
        .max_buf_size(listener.max_header_bytes.saturating_add(listener.max_uri).saturating_add(BUFFER_SLACK));
    // hyper's own default; saying so again would cost it an allocation for every head.
    if listener.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(listener.max_headers);
    }
    builder
}

/// Lets hyper serve requests until the connection ends or rests. `Some`: it rests, here is the socket.
async fn serve_http1(
    stream: Stream,
    prefix: Bytes,
    downstream: &Rc<Downstream>,
    proxy: &Rc<Proxy>,
    entry: &Entry,
) -> Option<Stream> {
    let activity = Rc::new(Activity::default());
    let io = Io::new(stream, prefix, Rc::clone(&activity), Rc::clone(downstream)).watching_for_departure();
    let service = service_fn(|request| Rc::clone(proxy).handle(downstream, request));
    let mut connection = http1_builder(&downstream.listener).serve_connection(io, service);
    let mut watch = Watch::new(entry, &activity, downstream);
    let (mut draining, mut closing) = (false, false);
    let mut malformed = false;
    let left = std::future::poll_fn(|cx| {
        if entry.outdated.get() && !closing {
            (draining, closing) = (true, true);
            watch.rearm();
            Pin::new(&mut connection).graceful_shutdown();
        }
        let mut polled = Pin::new(&mut connection).poll(cx);
        if entry.draining.get() && !closing && polled.is_pending() {
            if !std::mem::replace(&mut draining, true) {
                watch.rearm();
            }
            match watch.phase_now() {
                // Whether the next request has arrived meanwhile is told where connections rest.
                Phase::Idle if activity.is_flushed() => return Poll::Ready(Left::Parked),
                // The rest of a head is waited for as ever: hyper would close at once.
                Phase::Head => {}
                Phase::Idle | Phase::Busy | Phase::Blocked | Phase::Parting => {
                    closing = true;
                    Pin::new(&mut connection).graceful_shutdown();
                    polled = Pin::new(&mut connection).poll(cx);
                }
            }
        }
        if let Poll::Ready(ended) = polled {
            if ended.is_err_and(|error| error.is_parse()) {
                proxy.shared.cut(Cut::Malformed);
                malformed = true;
            }
            return Poll::Ready(Left::Ended);
        }
        watch.poll(cx)
    })
    .await;
    match left {
        Left::Ended => {
            let tunnel = downstream.tunnel.take();
            if let Some(tunnel) = tunnel {
                let parts = connection.into_parts();
                let (stream, ahead) = parts.io.into_parts();
                let early = if ahead.is_empty() { parts.read_buf } else { [parts.read_buf, ahead].concat().into() };
                tunnel.run(stream, early).await;
            } else if downstream.broke_off.get() {
                reset(connection.into_parts().io.into_stream());
            } else if malformed || downstream.unread.get() {
                linger(connection.into_parts().io.into_stream(), entry).await;
            }
            None
        }
        Left::Expired(Phase::Head) => {
            proxy.shared.cut(Cut::SlowHead);
            // Best effort, to a client that has not finished speaking; hyper has written nothing for this request.
            let mut stream = connection.into_parts().io.into_stream();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let _ = Pin::new(&mut stream).poll_write(&mut cx, TIMED_OUT);
            let _ = Pin::new(&mut stream).poll_flush(&mut cx);
            stream.part();
            None
        }
        // What breaks off must not look complete: no close_notify.
        Left::Expired(Phase::Blocked) => {
            proxy.shared.cut(Cut::SlowReader);
            reset(connection.into_parts().io.into_stream());
            None
        }
        Left::Expired(Phase::Idle) => {
            connection.into_parts().io.into_stream().part();
            None
        }
        Left::Expired(Phase::Busy | Phase::Parting) => None,
        Left::Parked => {
            let parts = connection.into_parts();
            parts.read_buf.is_empty().then(|| parts.io.into_stream())
        }
    }
}

/// The deadlines of a connection in hyper's hands.
struct Watch<'a> {
    entry: &'a Entry,
    activity: &'a Activity,
    downstream: &'a Downstream,
    /// What the deadline was armed for: the phase, the number of requests ended, and what a slow or parting client has taken.
    armed: Option<(Phase, u64, u64)>,
    /// Reads at the end of the last request: any further one begins a head.
    reads_at_rest: u64,
    ended: u64,
}

impl<'a> Watch<'a> {
    fn new(entry: &'a Entry, activity: &'a Activity, downstream: &'a Downstream) -> Self {
        let ended = downstream.ended.get();
        Self { entry, activity, downstream, armed: None, reads_at_rest: 0, ended }
    }

    /// Called after hyper was polled: arms the deadline for what goes on now, and says when it has passed.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Left> {
        let phase = self.phase_now();
        let taken = match phase {
            Phase::Blocked | Phase::Parting => self.activity.written(),
            Phase::Busy => u64::from(self.looks()),
            Phase::Idle | Phase::Head => 0,
        };
        let now = (phase, self.ended, taken);
        if self.armed != Some(now) {
            self.armed = Some(now);
            let listener = &self.downstream.listener;
            self.entry.deadline.arm(match phase {
                Phase::Idle => listener.idle_timeout.min(PARK_AFTER),
                Phase::Head => listener.header_timeout,
                Phase::Busy if self.looks() => LOOK,
                Phase::Busy => Duration::ZERO,
                Phase::Blocked => listener.write_idle_timeout,
                Phase::Parting => PARTING,
            });
        }
        if !self.entry.deadline.poll_passed(cx) {
            return Poll::Pending;
        }
        // Our IO has just looked whether the client is still there: hyper flushes whenever it is polled.
        if phase == Phase::Busy {
            self.rearm();
            return self.poll(cx);
        }
        if phase == Phase::Idle && self.downstream.listener.idle_timeout > PARK_AFTER {
            if self.activity.is_flushed() {
                return Poll::Ready(Left::Parked);
            }
            self.entry.deadline.arm(PARK_AFTER);
            return Poll::Pending;
        }
        Poll::Ready(Left::Expired(phase))
    }

    /// Makes the next poll arm the deadline anew.
    fn rearm(&mut self) {
        self.entry.deadline.disarm();
        self.armed = None;
    }

    /// Whether nobody reads what the client sends now, so that its end must be looked for.
    fn looks(&self) -> bool {
        self.downstream.uploads() || self.activity.is_deaf()
    }

    /// What goes on now, after the end of requests was noted.
    fn phase_now(&mut self) -> Phase {
        let ended = self.downstream.ended.get();
        if ended != self.ended {
            self.ended = ended;
            self.reads_at_rest = self.activity.reads();
        }
        self.phase()
    }

    fn phase(&self) -> Phase {
        if self.activity.is_parting() {
            Phase::Parting
        } else if self.activity.is_blocked() {
            Phase::Blocked
        } else if self.downstream.busy.get() > 0 {
            Phase::Busy
        } else if self.activity.reads() > self.reads_at_rest {
            Phase::Head
        } else {
            Phase::Idle
        }
    }
}
