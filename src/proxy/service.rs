//! Every step of a request, in order.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use http::header;
use http::request::Parts;
use http_body::Body;
use smallvec::SmallVec;

use super::RequestBody;
use super::body::Inner;
use super::forward::Order;
use super::framing::{self, Framed};
use super::peek::{self, Peek};
use super::request_id::RequestId;
use super::respond::{Answer, answer, note_response, respond};
use super::route::{Found, Model};
use super::story::Story;
use super::{Downstream, Proxy, Refusal, affinity, forwarded, headers, retry, upgrade};
use crate::backend::{BackendId, Ending, stable_hash};
use crate::clock;
use crate::config::{PoolPlan, Protocol};
use crate::pool::{Ask, Lease, Live, Pool, Priority, RetryReason, Unavailable};
use crate::upstream::http1::Asks;
use crate::upstream::{Fault, UpstreamError, is_ending};

/// Backends already tried for one request.
type Tried = SmallVec<[BackendId; 4]>;

impl Proxy {
    /// Answers one request: checked, routed, sent to a backend (perhaps to several, one after the other), streamed back.
    /// The head is taken into its story before the future is made: futures are moved, and heads are large.
    pub fn handle<B>(
        self: Rc<Self>,
        downstream: &Rc<Downstream>,
        head: Parts,
        body: B,
    ) -> impl Future<Output = Answer<B>> + use<B>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error + 'static,
    {
        let mut story = self.begin(downstream, head);
        let checked = check(&mut story, downstream);
        async move {
            let has_body = !body.is_end_stream();
            let framed = match checked {
                Ok(framed) => framed,
                Err(refusal) => {
                    if has_body {
                        story.downstream.unread.set(true);
                    }
                    return answer(story.refused(refusal), story);
                }
            };
            let mut body = has_body.then(|| Box::new(RequestBody::new(body, &mut story)));
            let done = match self.route(&story, &mut body).await {
                Ok(pool) => self.forward(pool, framed, body, &mut story).await,
                Err(refusal) => Err(story.refused(refusal)),
            };
            match done {
                Ok(body) => respond(body, story),
                Err(refusal) => answer(refusal, story),
            }
        }
    }

    fn begin(self: &Rc<Self>, downstream: &Rc<Downstream>, head: Parts) -> Box<Story> {
        let now = clock::now();
        let client = forwarded::client_address(&head.headers, downstream);
        let request_id = RequestId::of(&head.headers, downstream.trusted, &mut *self.rng.borrow_mut());
        Story::begin(head, request_id, client, now, Rc::clone(self), Rc::clone(downstream))
    }

    /// The pool of a request. Its body is looked into only when a route asks for the model.
    async fn route<B>(&self, story: &Story, body: &mut Option<Box<RequestBody<B>>>) -> Result<Arc<Pool>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let path = story.head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::path);
        let find = |model: Model<'_>| match self.routing.borrow_mut().load().find(
            story.host.as_bytes(),
            path,
            &story.head.headers,
            model,
        ) {
            Found::Pool(pool) => Ok(Arc::clone(pool)),
            Found::NeedsModel(most) => Err(Some(most)),
            Found::Nothing => Err(None),
        };
        let most = match find(Model::Unknown) {
            Ok(pool) => return Ok(pool),
            Err(None) => return Err(Refusal::NoRoute),
            Err(Some(most)) => most,
        };
        let longest = self.routing.borrow_mut().load().longest_total(story.host.as_bytes(), path, &story.head.headers);
        let until = longest.map(|total| story.arrived + total);
        let look = |seen: &[u8]| match peek::model(seen) {
            Peek::Found(model) => Some(Some(model)),
            Peek::Absent => Some(None),
            Peek::NeedMore => None,
        };
        let patience = story.downstream.listener.body_idle_timeout;
        let model = match body {
            Some(body) => body.peek(most, (patience, until), look).await.map_err(|fault| Refusal::of_fault(&fault))?,
            None => None,
        };
        find(Model::Known(model.flatten().as_deref())).map_err(|_| Refusal::NoRoute)
    }

    /// Attempts, until one is answered or none may follow: the head of the answer, and its lease, are the story's then.
    async fn forward<B>(
        &self,
        pool: Arc<Pool>,
        framed: Framed,
        mut body: Option<Box<RequestBody<B>>>,
        story: &mut Story,
    ) -> Result<Inner<B>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: std::error::Error + 'static,
    {
        let downstream = Rc::clone(&story.downstream);
        let first = pool.live();
        let plan = &first.plan;
        let has_body = body.is_some();
        let may_repeat = retry::is_idempotent(&story.head.method) || plan.retry.non_idempotent;
        // A backend can refuse a stream, or leave politely, when the body is on its way: it has done nothing then, and
        // any request may go elsewhere.
        let may_be_refused = matches!(plan.protocol, Protocol::H2c | Protocol::H2 | Protocol::Auto);
        let may_follow = may_be_refused || (may_repeat && plan.retry.attempts > 1);
        let most_kept = if may_follow { plan.retry.max_replay } else { 0 };
        if let Some(body) = &mut body {
            body.keep(most_kept);
        }
        let order = Order {
            downstream: &downstream,
            framing: headers::body_framing(&story.head.method, framed.content_length, has_body),
            asks: Asks {
                expect_continue: framed.expect_continue && has_body,
                upgrade: framed.upgrade && !has_body && upgrade::is_websocket(&story.head),
            },
            connection_field: framed.connection,
            total: (!plan.timeouts.total.is_zero()).then(|| story.arrived + plan.timeouts.total),
        };
        pool.budget.earn();
        story.pool = Some(Arc::clone(&pool));
        let mut tried = Tried::new();
        loop {
            if order.total.is_some_and(|total| clock::now() >= total) {
                return Err(story.refused(Refusal::BackendTimeout));
            }
            let live = if tried.is_empty() { Arc::clone(&first) } else { pool.live() };
            let mut lease = match self.lease(&pool, live, (tried.as_slice(), order.total), story).await {
                Ok(lease) => lease,
                Err(refusal) => return Err(story.refused(refusal)),
            };
            story.attempt(&lease);
            tried.push(lease.backend().id);
            match self.attempt(&order, &lease, body.take(), story).await {
                Ok(body) => {
                    note_response(&mut lease, story);
                    let again = retry::after_status(&plan.retry, story.answer.status, &story.head.method, !has_body);
                    match again.filter(|reason| may_retry(&lease, story, *reason)) {
                        // The answer was read only as far as its head: its connection is closed with it.
                        Some(reason) => {
                            lease.completed();
                            story.retry = Some(reason);
                        }
                        None => {
                            story.lease = Some(lease);
                            return Ok(body);
                        }
                    }
                }
                Err(failed) => {
                    body = failed.body;
                    blame(&mut lease, &failed.error);
                    let kept = body.as_ref().is_none_or(|body| body.can_replay());
                    let again = retry::after_failure(&plan.retry, &failed.error, &story.head.method, kept);
                    match again.filter(|reason| may_retry(&lease, story, *reason)) {
                        Some(reason) => story.retry = Some(reason),
                        None => {
                            self.tell(&lease, &failed.error, story);
                            drop(lease);
                            let refusal = Refusal::of_fault(&failed.error.fault);
                            // The story of a client that left is already told: nobody refused it anything.
                            let is_gone = matches!(failed.error.fault, Fault::ClientGone);
                            return Err(if is_gone { refusal } else { story.refused(refusal) });
                        }
                    }
                    if let Some(body) = &mut body {
                        body.rewind();
                    }
                }
            }
        }
    }

    /// A backend for the next attempt, perhaps one not yet `tried`; waits in the queue when all are busy, until `total` at
    /// most.
    async fn lease(
        &self,
        pool: &Arc<Pool>,
        live: Arc<Live>,
        (tried, total): (&[BackendId], Option<Instant>),
        story: &mut Story,
    ) -> Result<Box<Lease>, Refusal> {
        let now = if tried.is_empty() { story.arrived } else { clock::now() };
        let peer = &story.downstream;
        let key = Some(if story.client == peer.peer { peer.key } else { address_key(story.client) });
        if tried.is_empty() {
            let sticky = live.sticky.as_ref();
            story.session = sticky.map(|sticky| affinity::session(sticky, &story.head.headers, story.client));
        }
        // A session's own backend is tried once; when it failed, another takes the session over.
        let session = story.session.as_ref().filter(|_| tried.is_empty());
        let pinned = session.and_then(|session| session.backend(&live.set, now));
        let id = story.request_id.as_bytes();
        let ask = Ask { id, key, tried, pinned, queued: false, repeats: false, now };
        match pool.lease(Arc::clone(&live), &ask, &mut self.rng.borrow_mut()) {
            Ok(lease) => return Ok(lease),
            Err(Unavailable::NoneHealthy) => return Err(Refusal::NoBackend(pool.retry_after())),
            Err(Unavailable::Held(left)) => return Err(Refusal::NoBackend(whole_seconds(left))),
            Err(Unavailable::Busy) => {}
        }
        let plan = pool.plan();
        let priority = match plan.priority_header.as_str() {
            "" => Priority::Normal,
            name => story.head.headers.get(name).map_or(Priority::Normal, |value| Priority::parse(value.as_bytes())),
        };
        // Boxed: few wait, and every request would carry what it takes.
        let (lease, waited) = Box::pin(self.wait_for_lease(pool, &plan, priority, ask, total)).await;
        story.queue += waited;
        lease
    }

    /// Waits in the queue until a backend is free for `ask`, and how long that took. `total`: as for
    /// [`lease`](Self::lease).
    async fn wait_for_lease(
        &self,
        pool: &Arc<Pool>,
        plan: &PoolPlan,
        priority: Priority,
        mut ask: Ask<'_>,
        total: Option<Instant>,
    ) -> (Result<Box<Lease>, Refusal>, Duration) {
        let now = ask.now;
        let waiting = match pool.queue_up(priority, now) {
            Ok(waiting) => waiting,
            Err(after) => return (self.lease_again(pool, &mut ask).ok_or(Refusal::QueueFull(after)), Duration::ZERO),
        };
        let deadline = now + plan.queue.timeout;
        let deadline = total.map_or(deadline, |total| total.min(deadline));
        ask.queued = true;
        loop {
            if tokio::time::timeout_at(deadline.into(), waiting.turn()).await.is_err() {
                let late = clock::now();
                let waited = late.saturating_duration_since(now);
                if total.is_some_and(|total| late >= total) {
                    return (Err(Refusal::BackendTimeout), waited);
                }
                let again = self.lease_again(pool, &mut ask);
                return (again.ok_or_else(|| Refusal::QueueTimeout(pool.retry_after())), waited);
            }
            ask.now = clock::now();
            let refusal = match pool.lease(pool.live(), &ask, &mut self.rng.borrow_mut()) {
                Ok(lease) => return (Ok(lease), waiting.served(ask.now)),
                Err(Unavailable::NoneHealthy) => Refusal::NoBackend(pool.retry_after()),
                Err(Unavailable::Held(left)) => Refusal::NoBackend(whole_seconds(left)),
                // What became free may be where this request has failed: those behind it must not wait for it.
                Err(Unavailable::Busy) if !ask.tried.is_empty() => {
                    waiting.pass_on();
                    continue;
                }
                Err(Unavailable::Busy) => continue,
            };
            return (Err(refusal), ask.now.saturating_duration_since(now));
        }
    }

    /// A backend that the request was tried at before: better than none, when there is no waiting for another.
    fn lease_again(&self, pool: &Arc<Pool>, ask: &mut Ask<'_>) -> Option<Box<Lease>> {
        if ask.tried.is_empty() {
            return None;
        }
        *ask = Ask { queued: true, repeats: true, now: clock::now(), ..*ask };
        pool.lease(pool.live(), ask, &mut self.rng.borrow_mut()).ok()
    }

    /// One line for a request that failed for good: the client's answer names no backend, so this does.
    fn tell(&self, lease: &Lease, error: &UpstreamError, story: &Story) {
        if error.fault.blames_client() {
            return;
        }
        if matches!(error.fault, Fault::Starved(_)) {
            return self.shared.note_starved(&lease.pool().name, error);
        }
        let mut cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        if is_ending(&lease.backend().connections) {
            cause = "cut off by us: the backend's drain timeout is over".to_owned();
        }
        tracing::warn!(
            pool = %lease.pool().name,
            backend = %lease.backend().name,
            request_id = story.request_id.as_str(),
            attempts = story.attempts,
            cause,
            "request failed: {error}"
        );
    }
}

/// A pause as `Retry-After` says it: never shorter than it is.
fn whole_seconds(pause: Duration) -> u64 {
    pause.as_secs() + u64::from(pause.subsec_nanos() != 0)
}

/// Whether the head may pass.
#[inline]
fn check(story: &mut Story, downstream: &Downstream) -> Result<Framed, Refusal> {
    let framed = {
        let known_host = downstream.host.borrow();
        let known = known_host.as_ref().map_or(b"".as_slice(), HeaderValue::as_bytes);
        let framed = framing::check(&story.head, &downstream.listener, known);
        let is_known = framed.as_ref().is_ok_and(|framed| framed.known_host) && story.head.uri.authority().is_none();
        // Nearly every request: the look-up and a copy of its own are spared.
        story.host = match &*known_host {
            Some(known) if is_known => known.clone(),
            _ => headers::host(&story.head),
        };
        framed?
    };
    if !framed.known_host
        && let Some(host) = story.head.headers.get(header::HOST)
    {
        *downstream.host.borrow_mut() = HeaderValue::from_bytes(host.as_bytes()).ok();
    }
    if let (Some(clients), Some(limits)) = (&downstream.clients, &downstream.listener.limits) {
        clients.request(limits, story.client, story.arrived).map_err(Refusal::TooManyRequests)?;
    }
    framing::one_hop_less(&mut story.head);
    Ok(framed)
}

/// Reports a failed attempt.
fn blame(lease: &mut Lease, error: &UpstreamError) {
    match &error.fault {
        Fault::Connect(_) | Fault::Unresolved | Fault::OtherProtocol => lease.failed(Ending::ConnectFailed),
        Fault::Starved(_) => lease.failed(Ending::Starved),
        Fault::FirstByteTimeout | Fault::IdleTimeout | Fault::TotalTimeout => lease.failed(Ending::TimedOut),
        // Cut by us at the deadline of its drain: that blames nobody.
        Fault::Closed | Fault::Io(_) | Fault::StreamReset if is_ending(&lease.backend().connections) => {}
        Fault::Closed | Fault::Io(_) | Fault::StreamReset | Fault::Protocol(_) => lease.failed(Ending::Reset),
        Fault::ClientGone | Fault::ClientBody(_) | Fault::ClientBodyTimeout | Fault::ClientBodyTooLarge => {}
    }
}

/// Whether attempts and budget allow another try; if so it is counted.
fn may_retry(lease: &Lease, story: &Story, reason: RetryReason) -> bool {
    let plan = &lease.live().plan.retry;
    let now: Instant = clock::now();
    let allowed = story.attempts < plan.attempts && lease.pool().budget.spend(plan.budget, now);
    if allowed {
        lease.pool().stats.retried(reason);
    }
    allowed
}

/// The key of a client address for `ip_hash`, stable across processes and versions. An IPv4 client is the same client on
/// a listener of both families.
pub(super) fn address_key(address: std::net::IpAddr) -> u64 {
    match address.to_canonical() {
        std::net::IpAddr::V4(v4) => stable_hash(&v4.octets()),
        std::net::IpAddr::V6(v6) => stable_hash(&v6.octets()),
    }
}
