//! One attempt: a connection, the request on it, the response head; over HTTP/1.1 or HTTP/2. A pooled connection that
//! turns out to be stale is replaced by a fresh one to the same backend; that is no attempt of its own.

use std::time::Instant;

use bytes::Bytes;
use http_body::Body;

use super::RequestBody;
use super::body::Inner;
use super::headers::Outbound;
use super::lent::{Http2Body, Lent};
use super::retry;
use super::story::Story;
use super::{Downstream, Proxy};
use crate::backend::BackendId;
use crate::clock::{self, Deadline};
use crate::config::{Address, Protocol, StickyMode};
use crate::pool::{Lease, Live, RetryReason};
use crate::tls::{Alpn, TlsError};
use crate::upstream::http1::request::BodyFraming;
use crate::upstream::http1::response::{Head, is_event_stream};
use crate::upstream::http1::{Asks, Connection, Exchange, ExchangeTimeouts};
use crate::upstream::http2::StreamPermit;
use crate::upstream::{Fault, Stream, UpstreamError, connect, connect_any};

/// Largest read of a body for an HTTP/2 client: a connection has many streams, and each may have a client that reads
/// slowly. Such a stream holds 175 KiB with it, and 618 KiB with reads of 256 KiB (scripts/memory).
const STREAM_READ: usize = 64 * 1024;

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

/// A failed attempt, and the client's body if another may follow.
pub(super) struct FailedAttempt<B> {
    pub(super) error: UpstreamError,
    pub(super) body: Option<Box<RequestBody<B>>>,
}

impl Proxy {
    /// Sends the request to the leased backend and waits for its response head, which is left in the story: what a future
    /// returns is moved by each that awaits it.
    pub(super) async fn attempt<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        body: Option<Box<RequestBody<B>>>,
        story: &mut Story,
    ) -> Result<Inner<B>, FailedAttempt<B>>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error + 'static,
    {
        match lease.live().plan.protocol {
            Protocol::Http1 | Protocol::Https => self.attempt_http1(order, lease, body, story, None).await,
            Protocol::H2c | Protocol::H2 => Box::pin(self.attempt_http2(order, lease, body, story, None)).await,
            Protocol::Auto => Box::pin(self.attempt_either(order, lease, body, story)).await,
        }
    }

    /// HTTP/1.1 or HTTP/2, as the backend agreed last; the first connection tells.
    async fn attempt_either<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        mut body: Option<Box<RequestBody<B>>>,
        story: &mut Story,
    ) -> Result<Inner<B>, FailedAttempt<B>>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error + 'static,
    {
        // Other protocols are switched to from HTTP/1.1 only.
        if order.asks.upgrade {
            return self.attempt_http1(order, lease, body, story, None).await;
        }
        let key = key(lease);
        let mut first = None;
        let mut again = true;
        loop {
            let known = self.agreed.borrow().get(&key).copied();
            let http2 = match known {
                Some(http2) => http2,
                None => match Box::pin(open(order, lease, story, (Alpn::Either, Alpn::Either))).await {
                    Ok(stream) => {
                        let http2 = stream.alpn() == Some(b"h2");
                        first = Some(stream);
                        self.agreed.borrow_mut().insert(key, http2);
                        http2
                    }
                    Err(fault) => {
                        let error = UpstreamError { fault, sent: false, answered: false };
                        return Err(FailedAttempt { error, body });
                    }
                },
            };
            let done = if http2 {
                self.attempt_http2(order, lease, body, story, first.take()).await
            } else {
                self.attempt_http1(order, lease, body, story, first.take()).await
            };
            match done {
                // It has changed its mind, perhaps as another version of itself: learned anew, once.
                Err(failed) if again && matches!(failed.error.fault, Fault::OtherProtocol) => {
                    self.agreed.borrow_mut().remove(&key);
                    again = false;
                    body = failed.body;
                }
                done => return done,
            }
        }
    }

    async fn attempt_http1<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        mut body: Option<Box<RequestBody<B>>>,
        story: &mut Story,
        first: Option<Stream>,
    ) -> Result<Inner<B>, FailedAttempt<B>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let idempotent = retry::is_idempotent(&story.head.method);
        let mut idle = match first {
            None => self.idle_connection(lease, idempotent),
            Some(stream) => Some(Connection::new(stream, &lease.backend().connections)),
        };
        loop {
            let connection = match idle.take() {
                Some(connection) => connection,
                // Boxed: it is rare, and most of what a request's future would weigh, which is copied several times.
                None => {
                    let alpn = (Alpn::Http1, offer(order, lease, Alpn::Http1));
                    match Box::pin(open(order, lease, story, alpn)).await {
                        Ok(stream) => Connection::new(stream, &lease.backend().connections),
                        Err(fault) => {
                            let error = UpstreamError { fault, sent: false, answered: false };
                            return Err(FailedAttempt { error, body });
                        }
                    }
                }
            };
            let place = Box::new_uninit();
            let exchange = Box::write(place, self.exchange(order, lease, connection, body, story));
            let version = story.head.version;
            let failed = match exchange.head(&mut story.answer, |head| pass_on(order, version, head)).await {
                Ok(body) => return Ok(Inner::Http1(body)),
                Err(failed) => failed,
            };
            body = failed.body;
            if let Some(body) = &mut body {
                body.put_back(failed.unsent);
            }
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
            let mut connection = self.idle.take(key(lease))?;
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
        let exchange = Exchange::new(connection, method, body, order.framing, order.asks, timeouts);
        if story.head.version == http::Version::HTTP_2 { exchange.reading_at_most(STREAM_READ) } else { exchange }
    }

    /// A stream to the leased backend: on a connection opened no earlier than `since`, or on `ready`, or on one made now.
    async fn permit(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        story: &mut Story,
        since: u64,
        ready: Option<Stream>,
    ) -> Result<StreamPermit, Fault> {
        let key = key(lease);
        if ready.is_none()
            && let Some(permit) = self.http2.take(key, since)
        {
            return Ok(permit);
        }
        // Boxed: connections are opened seldom, and what that takes is large.
        Box::pin(async {
            let opening = async {
                match ready {
                    Some(stream) => Ok(stream),
                    None => open(order, lease, story, (Alpn::Http2, offer(order, lease, Alpn::Http2))).await,
                }
            };
            let patience = lease.live().plan.timeouts.connect;
            let stream = self.http2.stream(key, &lease.backend().connections, since, opening, patience);
            within(order.total, stream).await
        })
        .await
    }

    async fn attempt_http2<B>(
        &self,
        order: &Order<'_>,
        lease: &Lease,
        mut body: Option<Box<RequestBody<B>>>,
        story: &mut Story,
        mut first: Option<Stream>,
    ) -> Result<Inner<B>, FailedAttempt<B>>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error + 'static,
    {
        let mut since = 0;
        loop {
            let mut permit = match self.permit(order, lease, story, since, first.take()).await {
                Ok(permit) => permit,
                Err(fault) => {
                    let error = UpstreamError { fault, sent: false, answered: false };
                    return Err(FailedAttempt { error, body });
                }
            };
            let lent = Lent::new(body.take(), order.downstream.listener.body_idle_timeout);
            let scheme = if lease.live().plan.protocol == Protocol::H2c { "http" } else { "https" };
            let error = match outbound(order, story, lease).to_http2(lent.to_body(), scheme) {
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
                            story.answer = Head { status, headers, streamed, upgrade: None };
                            return Ok(Inner::Http2(Box::new(body)));
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
        named_host: story.host.as_bytes(),
        address: &lease.backend().address,
        request_id: &story.request_id,
        framing: order.framing,
        asks: order.asks,
        connection_field: order.connection_field,
        own_cookie,
        orca,
    }
}

/// Bits of a key that tell trust. The number begins anew after 8 million changes of a pool's TLS; no connection of then is
/// left.
const TRUST_BITS: u32 = 24;

/// What connections to the leased backend are kept under.
#[inline]
pub(super) fn key(lease: &Lease) -> u64 {
    key_of(lease.backend().id, lease.live())
}

/// What connections to a backend are kept under: those in the clear never serve where TLS is asked for, nor do those
/// that were made when somebody else was taken for the backend.
#[inline]
pub(super) fn key_of(backend: BackendId, live: &Live) -> u64 {
    let secure = if live.plan.protocol.is_plain() { 0 } else { live.trust << 1 | 1 };
    backend.0 << TRUST_BITS | secure & ((1 << TRUST_BITS) - 1)
}

/// What is offered where `wanted` is needed: with `auto` the backend may say that it has changed its mind.
fn offer(order: &Order<'_>, lease: &Lease, wanted: Alpn) -> Alpn {
    let open_to_either = lease.live().plan.protocol == Protocol::Auto && !order.asks.upgrade;
    if open_to_either { Alpn::Either } else { wanted }
}

/// What comes of `work`, unless the request as a whole has taken too long before.
async fn within<T>(total: Option<Instant>, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match total {
        None => work.await,
        Some(total) => tokio::time::timeout_at(total.into(), work).await.unwrap_or(Err(Fault::TotalTimeout)),
    }
}

/// A fresh connection to the leased backend. Over TLS the second of `alpn` is offered and the first must be agreed on.
async fn open(order: &Order<'_>, lease: &Lease, story: &mut Story, alpn: (Alpn, Alpn)) -> Result<Stream, Fault> {
    let (wanted, offered) = alpn;
    let backend = lease.backend();
    let plan = &lease.live().plan;
    let patience = plan.timeouts.connect;
    let started = clock::now();
    let connector = if plan.protocol.is_plain() {
        None
    } else {
        let of_settings = |error: TlsError| Fault::Connect(std::io::Error::other(error));
        lease.pool().clients().connector(plan, &backend.name).map_err(of_settings)?
    };
    let secure = connector.as_ref().map(|connector| (connector, offered));
    let stream = match backend.address {
        Address::Ip(address) => within(order.total, connect(address, patience, secure)).await?,
        Address::Name { .. } => {
            let endpoints = backend.endpoints();
            let (address, stream) = within(order.total, connect_any(&endpoints, patience, secure)).await?;
            backend.prefer_endpoint(address);
            stream
        }
    };
    story.connect = Some(clock::now().saturating_duration_since(started));
    // Who agrees to nothing speaks HTTP/1.1.
    let is_http2 = stream.alpn() == Some(b"h2");
    let fits = match wanted {
        Alpn::Http1 => !is_http2,
        Alpn::Http2 => is_http2 || !stream.is_secure(),
        Alpn::Either => true,
    };
    if fits { Ok(stream) } else { Err(Fault::OtherProtocol) }
}

/// An informational response goes to HTTP/1.1 clients at once; others never see it (documented).
fn pass_on(order: &Order<'_>, version: http::Version, head: &Head) {
    if version != http::Version::HTTP_11 {
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

/// Waits for the head of an HTTP/2 response: `first_byte` counts from the last piece of the request that was taken, and
/// not while the client is to send the next one.
async fn wait_for_head<B, F, T>(head: F, lent: &Lent<B>, order: &Order<'_>, lease: &Lease) -> Result<T, UpstreamError>
where
    F: Future<Output = Result<T, UpstreamError>>,
{
    let deadline = Deadline::new();
    let limit = lease.live().plan.timeouts.first_byte;
    let mut seen = None;
    let mut head = std::pin::pin!(head);
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(answer) = head.as_mut().poll(cx) {
            return std::task::Poll::Ready(answer);
        }
        // Nobody tells when the client is waited for, or no longer: that is looked at whenever the time is over.
        let late = order.total.is_some_and(|total| clock::now() >= total);
        if lent.awaits_client() && !late && deadline.poll_passed(cx) {
            seen = None;
        }
        let now = Some((lent.progress(), lent.awaits_client()));
        if seen != now {
            seen = now;
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
        let fault = match late {
            _ if lent.awaits_client() => Fault::ClientBodyTimeout,
            true => Fault::TotalTimeout,
            false => Fault::FirstByteTimeout,
        };
        std::task::Poll::Ready(Err(UpstreamError { fault, sent: true, answered: false }))
    })
    .await
}
