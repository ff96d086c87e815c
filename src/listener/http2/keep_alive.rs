//! Pings that find out whether a silent client is still there.

use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use h2::server::Connection;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::Activity;
use crate::clock::Deadline;

/// Pings a client that has said nothing for a while. Whatever it says then is as good as the answer.
pub(super) struct KeepAlive {
    /// The silence after which it is asked; zero: it never is.
    interval: Duration,
    patience: Duration,
    pings: Option<PingPong>,
    deadline: Deadline,
    /// Reads when the deadline was armed.
    reads: u64,
    asked: bool,
}

impl KeepAlive {
    /// Asks after `interval`, and waits for `patience`.
    pub(super) fn new(interval: Duration, patience: Duration) -> Self {
        Self { interval, patience, pings: None, deadline: Deadline::new(), reads: 0, asked: false }
    }

    /// Whether the client is gone: it did not answer in time.
    pub(super) fn is_dead<T>(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection<T, Bytes>,
        activity: &Activity,
    ) -> bool
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        if self.interval.is_zero() {
            return false;
        }
        let begins = self.pings.is_none();
        if begins {
            self.pings = connection.ping_pong();
        }
        let Some(pings) = &mut self.pings else { return false };
        let reads = activity.reads();
        if begins || reads != self.reads {
            (self.reads, self.asked) = (reads, false);
            self.deadline.arm(self.interval);
        }
        if self.deadline.poll_passed(cx) {
            if self.asked {
                return true;
            }
            self.asked = true;
            // The answer to the last one is taken, or there could be no next; it was seen as any other read. It fails when
            // that answer never came, because the client said something else: then it is awaited still.
            let _ = pings.poll_pong(cx);
            let _ = pings.send_ping(Ping::opaque());
            self.deadline.arm(self.patience);
            let _ = self.deadline.poll_passed(cx);
        }
        false
    }
}
