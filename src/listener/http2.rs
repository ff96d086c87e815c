//! An HTTP/2 connection from a client: hyper's server with the contract's windows and the limits that keep floods
//! bounded (Rapid Reset, MadeYouReset, header lists), drained by GOAWAY. A stream whose client takes nothing is reset
//! after `write_idle_timeout`; hyper would hold it, and what it asked of a backend, for as long as the client likes.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;

use super::connection::{Entry, Phase};
use super::io::{Activity, Io};
use crate::clock::Deadline;
use crate::config::ListenerPlan;
use crate::proxy::{Cut, Downstream, Proxy};
use crate::upstream::Stream;

/// Bytes of response body queued per stream (reliability.md §1).
const SEND_BUFFER: usize = 64 * 1024;
/// Largest frame received (reliability.md §1).
const FRAME: u32 = 16 * 1024;
/// Streams reset by the client before they were accepted (Rapid Reset; reliability.md §1).
const MOST_PENDING_RESETS: usize = 20;
/// Streams that we reset because of the client's errors (MadeYouReset; reliability.md §1).
const MOST_LOCAL_RESETS: usize = 128;
/// How long a ping may stay unanswered (reliability.md §1).
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that was too slow, and was told to go, may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes that a connection must have written for its waiting streams to count as moving: answers to pings are less.
const LEAST_MOVED: u64 = 1024;

fn builder(listener: &ListenerPlan, executor: StreamExecutor) -> http2::Builder<StreamExecutor> {
    let plan = &listener.http2;
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(plan.max_streams)
        .initial_stream_window_size(plan.stream_window)
        .initial_connection_window_size(plan.connection_window)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(listener.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MOST_PENDING_RESETS)
        .max_local_error_reset_streams(MOST_LOCAL_RESETS);
    if !plan.ping.is_zero() {
        builder.keep_alive_interval(plan.ping).keep_alive_timeout(PING_PATIENCE);
    }
    builder
}

/// Serves one connection to its end.
pub(super) async fn serve(
    stream: Stream,
    prefix: Bytes,
    downstream: &Rc<Downstream>,
    proxy: &Rc<Proxy>,
    entry: &Entry,
) {
    let activity = Rc::new(Activity::default());
    let io = Io::new(stream, prefix, Rc::clone(&activity), Rc::clone(downstream)).watching_frames();
    let service = service_fn(|request| {
        let (proxy, downstream) = (Rc::clone(proxy), Rc::clone(downstream));
        // Boxed: hyper, our executor and tokio hand a stream's future on by value, and copied it thirteen times. Begun by
        // its own task: h2 decodes the heads that came together one after the other, and its code stays in the cache.
        let of = Rc::clone(&downstream);
        let mut answer = Box::pin(async move { proxy.handle(&of, request).await });
        poll_fn(move |cx| {
            let polled = answer.as_mut().poll(cx);
            if polled.is_pending() {
                downstream.works.set(true);
            }
            polled
        })
    });
    let executor = StreamExecutor { downstream: Rc::clone(downstream), activity: Rc::clone(&activity) };
    let mut connection = pin!(builder(&downstream.listener, executor).serve_connection(io, service));
    // Told to go, it has so long to leave.
    let mut closing = None;
    let mut armed = None;
    poll_fn(|cx| {
        loop {
            if entry.draining.get() && closing.is_none() {
                closing = Some(PING_PATIENCE);
                armed = None;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if activity.is_violated() || ended.is_err_and(|error| is_malformed(&error)) {
                    proxy.shared.cut(Cut::Malformed);
                }
                return Poll::Ready(());
            }
            let phase = phase(&activity, downstream);
            let present = (phase, downstream.ended.get());
            if armed != Some(present) {
                armed = Some(present);
                let listener = &downstream.listener;
                entry.deadline.arm(match (phase, closing) {
                    // A client that answers no ping does not hold up the end.
                    (Phase::Idle | Phase::Head, Some(patience)) => patience,
                    (Phase::Idle, None) => listener.idle_timeout,
                    (Phase::Head, None) => listener.header_timeout,
                    (Phase::Blocked, _) => listener.write_idle_timeout,
                    (Phase::Busy | Phase::Parting, _) => Duration::ZERO,
                });
            }
            if !entry.deadline.poll_passed(cx) {
                return Poll::Pending;
            }
            let patience = match phase {
                Phase::Idle => PING_PATIENCE,
                Phase::Head => FAREWELL,
                Phase::Blocked => {
                    proxy.shared.cut(Cut::SlowReader);
                    return Poll::Ready(());
                }
                Phase::Busy | Phase::Parting => return Poll::Ready(()),
            };
            if closing.is_some() {
                return Poll::Ready(());
            }
            if phase == Phase::Head {
                proxy.shared.cut(Cut::SlowHead);
            }
            // It is told to go before it is cut off.
            closing = Some(patience);
            connection.as_mut().graceful_shutdown();
            entry.deadline.arm(patience);
        }
    })
    .await;
}

/// Spawns hyper's tasks, one for each stream, and ends those that wait too long for their client.
#[derive(Clone)]
struct StreamExecutor {
    downstream: Rc<Downstream>,
    activity: Rc<Activity>,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(watched(stream, self.clone()));
    }
}

/// Runs one stream to its end, or until its client has taken nothing for `write_idle_timeout`: dropping it resets it.
async fn watched<F: Future>(stream: F, StreamExecutor { downstream, activity }: StreamExecutor) {
    let mut stream = pin!(stream);
    let deadline = Deadline::new();
    let mut written_before = None;
    poll_fn(|cx| {
        downstream.works.set(false);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Who waits neither for us nor for the backend waits for the client to open its window.
        if downstream.works.get() {
            written_before = None;
            deadline.disarm();
            return Poll::Pending;
        }
        let written = activity.written();
        // A stream's own progress is not seen from here; a connection that moves is given the benefit of the doubt.
        let stuck = |before: u64| written.wrapping_sub(before) < LEAST_MOVED;
        if written_before.is_some() && deadline.poll_passed(cx) {
            if written_before.is_some_and(stuck) {
                return Poll::Ready(());
            }
            written_before = None;
        }
        if written_before.is_none() {
            written_before = Some(written);
            deadline.arm(downstream.listener.write_idle_timeout);
            let _ = deadline.poll_passed(cx);
        }
        Poll::Pending
    })
    .await;
}

fn phase(activity: &Activity, downstream: &Downstream) -> Phase {
    if activity.is_blocked() {
        Phase::Blocked
    } else if downstream.busy.get() > 0 {
        Phase::Busy
    } else if downstream.ended.get() == 0 || activity.is_amid_head() {
        // A client that has asked for nothing yet has as long as for its first head (as over HTTP/1.1), whatever else
        // it says.
        Phase::Head
    } else {
        Phase::Idle
    }
}

/// Whether the client broke the rules of HTTP/2.
fn is_malformed(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|error| error.is_go_away() && error.is_library())
}
