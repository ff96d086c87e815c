//! One attempt: a connection, the request on it, the response head. A pooled connection that turns out to be stale is
//! replaced by a fresh one to the same backend; that is no attempt of its own.

use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use http_body::Body;

use super::body::RequestBody;
use super::headers::Outbound;
use super::retry;
use super::story::Story;
use super::{Downstream, Proxy};
use crate::clock;
use crate::pool::{Lease, RetryReason};
use crate::upstream::http1::request::BodyFraming;
use crate::upstream::http1::response::Head;
use crate::upstream::http1::{Connection, Exchange, ExchangeTimeouts, ResponseBody};
use crate::upstream::{Fault, UpstreamError, connect};

/// What stays the same over all attempts of a request.
pub(super) struct Order<'a> {
    pub(super) downstream: &'a Downstream,
    pub(super) framing: BodyFraming,
    pub(super) expect_continue: bool,
    /// When the request as a whole must be over.
    pub(super) total: Option<Instant>,
}

/// A failed attempt, and the client's body if another may follow.
pub(super) struct FailedAttempt<B> {
    pub(super) error: UpstreamError,
    pub(super) body: Option<RequestBody<B>>,
}

impl Proxy {
    /// Sends the request to the leased backend and waits for its response head.
    pub(super) async fn attempt<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        mut body: Option<RequestBody<B>>,
        story: &mut Story,
    ) -> Result<(Head, ResponseBody<RequestBody<B>>), FailedAttempt<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: fmt::Display,
    {
        let idempotent = retry::is_idempotent(&story.head.method);
        let mut idle = self.idle_connection(lease, idempotent);
        loop {
            let connection = match idle.take() {
                Some(connection) => connection,
                None => match connect_to(lease, story).await {
                    Ok(connection) => connection,
                    Err(fault) => {
                        let error = UpstreamError { fault, sent: false, answered: false };
                        return Err(FailedAttempt { error, body });
                    }
                },
            };
            let exchange = self.exchange(order, lease, connection, body, story);
            let failed = match exchange.head(|_informational| {}).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            body = failed.body;
            let kept = body.as_ref().is_none_or(RequestBody::can_replay);
            if !retry::is_stale(&failed.error, failed.reused, &story.head.method, kept) {
                return Err(FailedAttempt { error: failed.error, body });
            }
            // Its siblings are likely stale too: the next connection is a fresh one.
            lease.pool().stats.retried(RetryReason::Stale);
            if let Some(body) = &mut body {
                body.rewind();
            }
        }
    }

    /// An idle connection. Before a request that must not be sent twice the kernel is asked whether it is still open.
    #[inline]
    fn idle_connection(&self, lease: &Lease, idempotent: bool) -> Option<Connection> {
        loop {
            let mut connection = self.idle.take(lease.backend().id.0)?;
            if idempotent || connection.is_quiet_in_kernel() {
                return Some(connection);
            }
        }
    }

    #[inline]
    fn exchange<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        mut connection: Connection,
        body: Option<RequestBody<B>>,
        story: &Story,
    ) -> Exchange<RequestBody<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: fmt::Display,
    {
        Outbound {
            head: &story.head,
            downstream: order.downstream,
            request_id: &story.request_id,
            framing: order.framing,
            expect_continue: order.expect_continue,
        }
        .write(connection.head_buffer());
        let plan = &lease.live().plan.timeouts;
        let timeouts = ExchangeTimeouts {
            first_byte: plan.first_byte,
            idle: plan.idle,
            client_body: order.downstream.listener.body_idle_timeout,
            total: order.total,
        };
        let method = story.head.method.clone();
        Exchange::new(connection, method, body, order.framing, order.expect_continue, timeouts)
    }
}

/// A fresh connection to the leased backend.
async fn connect_to(lease: &Lease, story: &mut Story) -> Result<Connection, Fault> {
    let address = lease.backend().endpoint().ok_or(Fault::Unresolved)?;
    let started = clock::now();
    let stream = connect(address, lease.live().plan.timeouts.connect).await?;
    story.connect = Some(clock::now().saturating_duration_since(started));
    Ok(Connection::new(stream, &lease.backend().connections))
}
