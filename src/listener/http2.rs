//! An HTTP/2 connection from a client: the `h2` crate's frames with the contract's windows and the limits that keep floods
//! bounded (Rapid Reset, MadeYouReset, header lists), drained by GOAWAY. hyper's server is not in between: what it does
//! for a stream (fields looked for that are not there, a reset asked for at each step, a clock read for each frame) costs
//! 2.1 k instructions (docs/performance.md, item 17).

mod io;
mod keep_alive;
mod stream;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake, SendResponse};

use self::io::{Activity, Io};
use self::keep_alive::KeepAlive;
use super::connection::{Entry, Phase};
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

fn builder(listener: &ListenerPlan) -> Builder {
    let plan = &listener.http2;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(plan.max_streams)
        .initial_window_size(plan.stream_window)
        .initial_connection_window_size(plan.connection_window)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(listener.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MOST_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MOST_LOCAL_RESETS));
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
    let io = Io::new(stream, prefix, Rc::clone(&activity));
    let mut connection = Served {
        state: State::Shaking(builder(&downstream.listener).handshake(io)),
        leaving: false,
        keep_alive: KeepAlive::new(downstream.listener.http2.ping, PING_PATIENCE),
    };
    let begin = |request, respond| stream::begin(request, respond, proxy, downstream, &activity);
    // Told to go, it has so long to leave.
    let mut closing = None;
    let mut armed = None;
    poll_fn(|cx| {
        loop {
            if entry.draining.get() && closing.is_none() {
                closing = Some(PING_PATIENCE);
                armed = None;
                connection.leave();
            }
            if let Poll::Ready(ended) = connection.poll(cx, &activity, begin) {
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
            connection.leave();
            entry.deadline.arm(patience);
        }
    })
    .await;
}

/// The connection as `h2` has it.
struct Served {
    state: State,
    /// The client is told to go as soon as it can be.
    leaving: bool,
    keep_alive: KeepAlive,
}

enum State {
    Shaking(Handshake<Io, Bytes>),
    Serving(Connection<Io, Bytes>),
}

impl Served {
    /// Takes no further streams, and tells the client so; those that are served end as they would.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true)
            && let State::Serving(connection) = &mut self.state
        {
            connection.graceful_shutdown();
        }
    }

    /// Moves the connection on, and begins its streams; ready when it is over.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        activity: &Activity,
        begin: impl Fn(http::Request<h2::RecvStream>, SendResponse<Bytes>),
    ) -> Poll<Result<(), h2::Error>> {
        let connection = loop {
            match &mut self.state {
                State::Serving(connection) => break connection,
                State::Shaking(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(cx))?;
                    if self.leaving {
                        connection.graceful_shutdown();
                    }
                    self.state = State::Serving(connection);
                }
            }
        };
        if self.keep_alive.is_dead(cx, connection, activity) {
            return Poll::Ready(Ok(()));
        }
        while let Some(accepted) = ready!(connection.poll_accept(cx)) {
            let (request, respond) = accepted?;
            begin(request, respond);
        }
        Poll::Ready(Ok(()))
    }
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
fn is_malformed(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_library()
}
