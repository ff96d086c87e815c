//! One attempt: a connection, the request on it, the response head; over HTTP/1.1 or HTTP/2. A pooled connection that
//! turns out to be stale is replaced by a fresh one to the same backend; that is no attempt of its own.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Body;

use super::body::{Http2Body, Inner, Lent, RequestBody};
use super::headers::Outbound;
use super::retry;
use super::story::Story;
use super::{Downstream, Proxy};
use crate::clock::{self, Deadline};
use crate::config::{Address, Protocol, StickyMode};
use crate::pool::{Lease, RetryReason};
use crate::upstream::http1::request::BodyFraming;
use crate::upstream::http1::response::{Head, is_event_stream};
use crate::upstream::http1::{Asks, Connection, Exchange, ExchangeTimeouts};
use crate::upstream::{Fault, Stream, UpstreamError, connect, connect_any};

/// What stays the same over all attempts of a request.
pub(super) struct Order<'a> {
    pub(super) downstream: &'a Downstream,
    pub(super) framing: BodyFraming,
    pub(super) asks: Asks,
    /// The client's head has a `Connection` field.
    pub(super) connection_field: bool,
    /// When the request as a whole must be over.
    pub(super) total: Option<Instant>,
}

/// A backend's answer: its head, and its body to come.
pub(super) struct Answer<B> {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Whether it is streamed in events.
    pub(super) streamed: bool,
    /// The protocol of a 101.
    pub(super) upgrade: Option<HeaderValue>,
    pub(super) body: Inner<B>,
}

/// A failed attempt, and the client's body if another may follow.
pub(super) struct FailedAttempt<B> {
    pub(super) error: UpstreamError,
    pub(super) body: Option<Box<RequestBody<B>>>,
}

impl Proxy {
    /// Sends the request to the leased backend and waits for its response head.
    pub(super) async fn attempt<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        body: Option<Box<RequestBody<B>>>,
        story: &mut Story,
    ) -> Result<Answer<B>, FailedAttempt<B>>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error + 'static,
    {
        match lease.live().plan.protocol {
            Protocol::Http1 | Protocol::Https | Protocol::Auto => self.attempt_http1(order, lease, body, story).await,
            Protocol::H2c | Protocol::H2 => Box::pin(self.attempt_http2(order, lease, body, story)).await,
        }
    }

    async fn attempt_http1<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        mut body: Option<Box<RequestBody<B>>>,
        story: &mut Story,
    ) -> Result<Answer<B>, FailedAttempt<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let idempotent = retry::is_idempotent(&story.head.method);
        let mut idle = self.idle_connection(lease, idempotent);
        loop {
            let connection = match idle.take() {
                Some(connection) => connection,
                None => match open(lease, story).await {
                    Ok(stream) => Connection::new(stream, &lease.backend().connections),
                    Err(fault) => {
                        let error = UpstreamError { fault, sent: false, answered: false };
                        return Err(FailedAttempt { error, body });
                    }
                },
            };
            let exchange = Box::new(self.exchange(order, lease, connection, body, story));
            let failed = match exchange.head(|head| pass_on(order, story, head)).await {
                Ok((head, body)) => {
                    let Head { status, headers, upgrade, streamed, .. } = head;
                    return Ok(Answer { status, headers, streamed, upgrade, body: Inner::Http1(body) });
                }
                Err(failed) => failed,
            };
            body = failed.body;
            let kept = body.as_ref().is_none_or(|body| body.can_replay());
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
    fn idle_connection(&self, lease: &Lease, idempotent: bool) -> Option<Box<Connection>> {
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
        mut connection: Box<Connection>,
        body: Option<Box<RequestBody<B>>>,
        story: &Story,
    ) -> Exchange<Box<RequestBody<B>>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        outbound(order, story, lease).write(connection.head_buffer());
        let plan = &lease.live().plan.timeouts;
        let timeouts = ExchangeTimeouts {
            first_byte: plan.first_byte,
            idle: plan.idle,
            client_body: order.downstream.listener.body_idle_timeout,
            total: order.total,
        };
        let method = story.head.method.clone();
        Exchange::new(connection, method, body, order.framing, order.asks, timeouts)
    }

    async fn attempt_http2<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        mut body: Option<Box<RequestBody<B>>>,
        story: &mut Story,
    ) -> Result<Answer<B>, FailedAttempt<B>>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error + 'static,
    {
        let backend = lease.backend();
        let patience = lease.live().plan.timeouts.connect;
        let mut since = 0;
        loop {
            let opening = open(lease, story);
            let stream = self.http2.stream(backend.id.0, &backend.connections, since, opening, patience).await;
            let mut permit = match stream {
                Ok(permit) => permit,
                Err(fault) => {
                    let error = UpstreamError { fault, sent: false, answered: false };
                    return Err(FailedAttempt { error, body });
                }
            };
            let lent = Lent::new(body.take(), order.downstream.listener.body_idle_timeout);
            let address = backend.address.to_string();
            let scheme = if lease.live().plan.protocol == Protocol::H2c { "http" } else { "https" };
            let error = match outbound(order, story, lease).to_http2(lent.to_body(), scheme, &address) {
                Ok(request) => {
                    let head = permit.send(request);
                    match wait_for_head(head, &lent, order, lease).await {
                        Ok(response) => {
                            let (mut head, incoming) = response.into_parts();
                            super::headers::strip_hop_by_hop(&mut head.headers);
                            let idle = lease.live().plan.timeouts.idle;
                            let body = Http2Body::new(incoming, permit, idle, order.total, lent.fault());
                            let kind = head.headers.get(http::header::CONTENT_TYPE);
                            let streamed = kind.is_some_and(|kind| is_event_stream(kind.as_bytes()));
                            let (status, headers) = (head.status, head.headers);
                            let body = Inner::Http2(Box::new(body));
                            return Ok(Answer { status, headers, streamed, upgrade: None, body });
                        }
                        Err(error) => error,
                    }
                }
                Err(_) => UpstreamError {
                    fault: Fault::ClientBody("the host cannot be sent over HTTP/2".into()),
                    sent: false,
                    answered: false,
                },
            };
            body = lent.take_back();
            let error = match lent.fault().take() {
                Some(fault) => UpstreamError { fault, ..error },
                None => error,
            };
            let kept = body.as_ref().is_none_or(|body| body.can_replay());
            if since > 0 || !retry::is_stale(&error, permit.is_reused(), &story.head.method, kept) {
                return Err(FailedAttempt { error, body });
            }
            // Its siblings are likely stale too: the next connection is a fresh one, and the last.
            since = self.http2.opened();
            lease.pool().stats.retried(RetryReason::Stale);
            if let Some(body) = &mut body {
                body.rewind();
            }
        }
    }
}

fn outbound<'a>(order: &Order<'a>, story: &'a Story, lease: &'a Lease) -> Outbound<'a> {
    let sticky = lease.live().plan.sticky.as_ref();
    let orca = lease.live().plan.resources.as_ref().is_some_and(|resources| resources.orca);
    let own_cookie = sticky.filter(|sticky| sticky.mode == StickyMode::Cookie).map(|sticky| sticky.name.as_str());
    Outbound {
        head: &story.head,
        downstream: order.downstream,
        host: story.host.as_bytes(),
        request_id: &story.request_id,
        framing: order.framing,
        asks: order.asks,
        connection_field: order.connection_field,
        own_cookie,
        orca,
    }
}

/// A fresh connection to the leased backend.
async fn open(lease: &Lease, story: &mut Story) -> Result<Stream, Fault> {
    let backend = lease.backend();
    let patience = lease.live().plan.timeouts.connect;
    let started = clock::now();
    let stream = match backend.address {
        Address::Ip(address) => connect(address, patience).await?,
        Address::Name { .. } => {
            let (address, stream) = connect_any(&backend.endpoints(), patience).await?;
            backend.prefer_endpoint(address);
            stream
        }
    };
    story.connect = Some(clock::now().saturating_duration_since(started));
    Ok(stream)
}

/// An informational response goes to HTTP/1.1 clients at once; others never see it (documented).
fn pass_on(order: &Order<'_>, story: &Story, head: &Head) {
    if story.head.version != http::Version::HTTP_11 {
        return;
    }
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(format!("HTTP/1.1 {}\r\n", head.status).as_bytes());
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    order.downstream.interject(&bytes);
}

/// Waits for the head of an HTTP/2 response: `first_byte` counts from the last piece of the request that was taken.
async fn wait_for_head<B, F, T>(head: F, lent: &Lent<B>, order: &Order<'_>, lease: &Lease) -> Result<T, UpstreamError>
where
    F: Future<Output = Result<T, UpstreamError>>,
{
    let deadline = Deadline::new();
    let limit = lease.live().plan.timeouts.first_byte;
    let mut seen = u64::MAX;
    let mut head = std::pin::pin!(head);
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(answer) = head.as_mut().poll(cx) {
            return std::task::Poll::Ready(answer);
        }
        if seen != lent.progress() {
            seen = lent.progress();
            let left = order.total.map(|total| total.saturating_duration_since(clock::now()));
            let least = std::time::Duration::from_millis(1);
            deadline.arm(match left {
                Some(left) if limit.is_zero() => left.max(least),
                Some(left) => left.min(limit).max(least),
                None => limit,
            });
        }
        if !deadline.poll_passed(cx) {
            return std::task::Poll::Pending;
        }
        let fault = match order.total {
            Some(total) if clock::now() >= total => Fault::TotalTimeout,
            _ => Fault::FirstByteTimeout,
        };
        std::task::Poll::Ready(Err(UpstreamError { fault, sent: true, answered: false }))
    })
    .await
}
