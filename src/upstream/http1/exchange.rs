//! One request and its response on one connection, both ways at the same time.
//!
//! [`Exchange::head`] sends the request (as much of it as the backend takes) and waits for the response head; what is
//! left of the request is sent while [`ResponseBody`] is read. Dropping either closes the connection: that is how a
//! client's departure cancels the work of a backend.

mod send;

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::Body;

use super::connection::{Connection, FIRST_READ};
use super::request::BodyFraming;
use super::response::{self, Head, Rest};
use super::response_body::{BULK_READ, Decoder, ResponseBody};
use crate::clock::{self, Deadline};
use crate::upstream::error::{Fault, UpstreamError};

/// 1xx responses tolerated before the final one (reliability.md §1).
const MOST_INFORMATIONAL: u32 = 20;
/// How long a client's `Expect: 100-continue` waits for the backend's word before its body is asked for anyway:
/// RFC 9110 section 10.1.1 forbids to wait for ever, and curl itself waits one second.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// The deadlines of an exchange; zero: none.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeTimeouts {
    /// From the request sent to the response head.
    pub first_byte: Duration,
    /// Between two pieces of the response.
    pub idle: Duration,
    /// Between two pieces of the client's body.
    pub client_body: Duration,
    /// When the request as a whole must be over.
    pub total: Option<Instant>,
}

/// What a request asks for beside a response.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asks {
    /// `Expect: 100-continue`: the client's body is asked for only when the backend says so, or after a second.
    pub expect_continue: bool,
    /// Another protocol: a 101 may be the answer.
    pub upgrade: bool,
}

/// What the exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    Client,
    Backend,
    Continue,
    Body,
}

/// A request on its way.
#[derive(Debug)]
pub struct Exchange<B> {
    pub(super) connection: Box<Connection>,
    pub(super) body: Option<B>,
    /// The body once it was read, for another try.
    spent: Option<B>,
    framing: BodyFraming,
    /// Bytes of `connection.write` already sent.
    written: usize,
    /// A piece of body to send after `connection.write`.
    piece: Bytes,
    /// A piece that was copied behind the head and may not have left with it.
    joined: Bytes,
    /// The CRLF of a chunk is to follow `piece`.
    tail: Tail,
    /// What the client's body failed with while its first piece was joined to the head.
    failed: Option<Fault>,
    /// A body that waits for the backend's 100.
    holding: bool,
    /// The request asks for another protocol, so a 101 may come.
    upgrade: bool,
    sent_any: bool,
    pub(super) wait: Wait,
    pub(super) deadline: Deadline,
    timeouts: ExchangeTimeouts,
    method: Method,
    informational: u32,
    length_left: u64,
    /// How the response's body is read.
    pub(super) decoder: Decoder,
    /// The backend lets the connection carry another request.
    pub(super) keep_alive: bool,
    /// Bytes of the response were read after those that brought its head.
    pub(super) read_on: bool,
    /// The largest read of a body.
    pub(super) most_read: usize,
    /// The largest next one: what is read waits in memory when the client does not take it, and who has taken nothing yet
    /// may be one of a thousand that never will.
    pub(super) next_read: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    None,
    Crlf,
}

/// A failed exchange, with the client's body for another try.
#[derive(Debug)]
pub struct Failed<B> {
    /// What went wrong.
    pub error: UpstreamError,
    /// The client's body; what was read of it is gone, unless it keeps that itself.
    pub body: Option<B>,
    /// The first piece of the body, if it was taken and surely not sent; else empty.
    pub unsent: Bytes,
    /// Whether the connection had carried a request before: then its loss may be staleness, not a fault.
    pub reused: bool,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Fault>,
{
    /// A request whose head stands in the connection's head buffer.
    pub fn new(
        connection: Box<Connection>,
        method: Method,
        body: Option<B>,
        framing: BodyFraming,
        asks: Asks,
        timeouts: ExchangeTimeouts,
    ) -> Self {
        let length_left = if let BodyFraming::Length(length) = framing { length } else { 0 };
        Self {
            connection,
            holding: asks.expect_continue && body.is_some(),
            upgrade: asks.upgrade,
            body,
            spent: None,
            framing,
            written: 0,
            piece: Bytes::new(),
            joined: Bytes::new(),
            tail: Tail::None,
            failed: None,
            sent_any: false,
            wait: Wait::Nothing,
            deadline: Deadline::new(),
            timeouts,
            method,
            informational: 0,
            length_left,
            decoder: Decoder::Done,
            keep_alive: false,
            read_on: false,
            most_read: BULK_READ,
            next_read: 2 * FIRST_READ,
        }
    }

    /// Reads at most `most` bytes of the response's body at once: what is read waits in memory for a slow client.
    #[must_use]
    pub fn reading_at_most(mut self, most: usize) -> Self {
        self.most_read = most;
        self
    }

    /// Sends the request and waits for the final response head, which is written to `head`: as a value it would be moved
    /// half a dozen times. `informational` is called for each 1xx but 100 and 101.
    ///
    /// # Errors
    /// [`Failed`] with the body, if another backend may still be tried.
    pub async fn head(
        mut self: Box<Self>,
        head: &mut Head,
        mut informational: impl FnMut(&Head),
    ) -> Result<ResponseBody<B>, Failed<B>> {
        match poll_fn(|cx| self.poll_head(cx, head, &mut informational)).await {
            Ok(_) if head.status == StatusCode::SWITCHING_PROTOCOLS => Ok(ResponseBody::upgraded(self)),
            Ok(rest) => Ok(ResponseBody::new(self, rest)),
            Err(fault) => {
                let answered = !self.connection.read.is_empty() || self.informational > 0;
                let reused = self.connection.reused;
                let unsent = match self.sent_any {
                    true => Bytes::new(),
                    false if self.piece.is_empty() => self.joined,
                    false => self.piece,
                };
                Err(Failed {
                    error: UpstreamError { fault, sent: self.sent_any, answered },
                    body: self.body.or(self.spent),
                    unsent,
                    reused,
                })
            }
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut Head,
        informational: &mut impl FnMut(&Head),
    ) -> Poll<Result<Rest, Fault>> {
        loop {
            let sending = self.poll_send(cx)?;
            match self.poll_receive_head(cx, head) {
                Poll::Ready(Ok(rest)) => {
                    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS && self.is_agreed(head);
                    if !head.status.is_informational() || upgraded {
                        self.deadline.disarm();
                        return Poll::Ready(Ok(rest));
                    }
                    self.informational += 1;
                    if self.informational > MOST_INFORMATIONAL {
                        return Poll::Ready(Err(Fault::Protocol("too many informational responses")));
                    }
                    match head.status {
                        StatusCode::CONTINUE => self.holding = false,
                        StatusCode::SWITCHING_PROTOCOLS => {
                            return Poll::Ready(Err(Fault::Protocol("101 to what was not asked for")));
                        }
                        _ => informational(head),
                    }
                    self.wait = Wait::Nothing;
                    continue;
                }
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => {}
            }
            let wait = match sending {
                Poll::Ready(()) => Wait::Backend,
                Poll::Pending if self.holding && self.flushed() => Wait::Continue,
                Poll::Pending if self.flushed() => Wait::Client,
                Poll::Pending => Wait::Backend,
            };
            self.arm(wait);
            if !self.deadline.poll_passed(cx) {
                return Poll::Pending;
            }
            if wait == Wait::Continue {
                self.holding = false;
                self.wait = Wait::Nothing;
                continue;
            }
            return Poll::Ready(Err(self.timed_out()));
        }
    }

    /// Whether a 101 agrees to what was asked for: the one protocol that is passed on.
    fn is_agreed(&self, head: &Head) -> bool {
        self.upgrade && head.upgrade.as_ref().is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }

    fn poll_receive_head(&mut self, cx: &mut Context<'_>, head: &mut Head) -> Poll<Result<Rest, Fault>> {
        loop {
            if !self.connection.read.is_empty() {
                let parsed = response::parse(&mut self.connection.read, &self.method, head);
                if let Some(rest) = parsed.map_err(Fault::Protocol)? {
                    return Poll::Ready(Ok(rest));
                }
            }
            match ready!(self.connection.poll_fill(cx, FIRST_READ)) {
                Ok(0) => return Poll::Ready(Err(Fault::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Fault::Io(error))),
            }
        }
    }

    /// Arms the deadline when what is waited for has changed, or has moved on.
    pub(super) fn arm(&mut self, wait: Wait) {
        if self.wait == wait {
            return;
        }
        self.wait = wait;
        let limit = match wait {
            Wait::Nothing => Duration::ZERO,
            Wait::Client => self.timeouts.client_body,
            Wait::Backend => self.timeouts.first_byte,
            Wait::Continue => CONTINUE_WAIT,
            Wait::Body => self.timeouts.idle,
        };
        let Some(total) = self.timeouts.total else { return self.deadline.arm(limit) };
        // A deadline that has passed is armed with the least there is, so that it passes at the next look.
        let left = total.saturating_duration_since(clock::now()).max(Duration::from_millis(1));
        self.deadline.arm(if limit.is_zero() { left } else { left.min(limit) });
    }

    pub(super) fn timed_out(&self) -> Fault {
        // Whoever is waited for is to blame, also when the request as a whole has taken too long.
        let owes = self.body.is_some() && self.flushed() && !self.holding;
        if self.wait == Wait::Client || (self.wait == Wait::Body && owes) {
            return Fault::ClientBodyTimeout;
        }
        if self.timeouts.total.is_some_and(|total| clock::now() >= total) {
            return Fault::TotalTimeout;
        }
        match self.wait {
            Wait::Body => Fault::IdleTimeout,
            Wait::Nothing | Wait::Client | Wait::Backend | Wait::Continue => Fault::FirstByteTimeout,
        }
    }

    /// Whether the request went out whole, as far as the backend's next one is concerned.
    pub(super) fn sent_whole(&self) -> bool {
        self.body.is_none() && self.flushed() && self.length_left == 0
    }
}

#[cfg(test)]
mod tests;
