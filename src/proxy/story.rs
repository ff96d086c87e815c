//! The story of one request, told once at its end: to the metrics, and to the access log when it is on. Ends with the
//! last byte, or when the client leaves, wherever the request then is: telling it is the story's `Drop`.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use http::header;
use http::request::Parts;
use http::{HeaderValue, Version};

use super::access_log::{AccessLog, End, Record, Sticky};
use super::meter::Meter;
use super::request_id::RequestId;
use super::{Downstream, Proxy, Refusal};
use crate::backend::{Backend, CodeClass};
use crate::clock;
use crate::pool::{Lease, Pool, RetryReason, Session};
use crate::upstream::http1::response::Head;
use crate::upstream::http1::{Connection, maps};

/// What happened to a request.
#[derive(Debug)]
pub(super) struct Story {
    /// The client's head: told in the log, and sent upstream.
    pub(super) head: Parts,
    /// The host it is for; empty until its head was checked.
    pub(super) host: HeaderValue,
    pub(super) request_id: RequestId,
    pub(super) client: IpAddr,
    pub(super) arrived: Instant,
    pub(super) pool: Option<Arc<Pool>>,
    backend: Option<Arc<Backend>>,
    pick: Option<(&'static str, f32, usize)>,
    strategy: Option<&'static str>,
    /// The head of the last attempt's answer, until it is the head of ours.
    pub(super) answer: Head,
    pub(super) status: u16,
    /// Shared with the request body, which counts as it passes; `None`: there is no body.
    bytes_in: Option<Rc<Cell<u64>>>,
    pub(super) bytes_out: u64,
    pub(super) attempts: u32,
    pub(super) queue: Duration,
    pub(super) connect: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    /// The attempt whose response is being sent; ends before the story is told.
    pub(super) lease: Option<Box<Lease>>,
    /// Telemetry of its response, where that is a stream.
    pub(super) meter: Option<Box<Meter>>,
    /// The lease has ended, or there was none.
    pub(super) settled: bool,
    /// When the last attempt's response head was read.
    pub(super) head_at: Option<Instant>,
    /// From the arrival until the response was whole.
    total: Option<Duration>,
    pub(super) retry: Option<RetryReason>,
    pub(super) sticky: Sticky,
    /// The session it belongs to, where the pool has sessions.
    pub(super) session: Option<Session>,
    /// How it ended; until somebody says so, the client left.
    pub(super) end: End,
    proxy: Rc<Proxy>,
    pub(super) downstream: Rc<Downstream>,
}

impl Story {
    /// The story of the request with this head.
    pub(super) fn begin(
        head: Parts,
        request_id: RequestId,
        client: IpAddr,
        arrived: Instant,
        proxy: Rc<Proxy>,
        downstream: Rc<Downstream>,
    ) -> Box<Self> {
        downstream.busy.set(downstream.busy.get() + 1);
        // Boxed: it is moved many times, and every move of its 500 bytes costs more than the allocation (measured:
        // with the exchange, 5.1 k of 31 k instructions per request were such copies). Written where it will stand.
        let place = Box::new_uninit();
        let story = Self {
            host: HeaderValue::from_static(""),
            head,
            request_id,
            client,
            arrived,
            pool: None,
            backend: None,
            pick: None,
            strategy: None,
            answer: Head::default(),
            status: 0,
            bytes_in: None,
            bytes_out: 0,
            attempts: 0,
            queue: Duration::ZERO,
            connect: None,
            first_byte: None,
            lease: None,
            meter: None,
            settled: false,
            head_at: None,
            total: None,
            retry: None,
            sticky: Sticky::None,
            session: None,
            end: End::ClientGone,
            proxy,
            downstream,
        };
        Box::write(place, story)
    }

    /// A count of body bytes, for whoever passes them on.
    pub(super) fn count_body(&mut self) -> Rc<Cell<u64>> {
        Rc::clone(self.bytes_in.get_or_insert_default())
    }

    /// An attempt begins.
    pub(super) fn attempt(&mut self, lease: &Lease) {
        self.attempts += 1;
        self.backend = Some(Arc::clone(lease.backend()));
        let (kind, propensity, candidates) = lease.pick();
        self.pick = Some((kind.name(), propensity, candidates));
        self.strategy = Some(lease.live().plan.strategy.kind.name());
    }

    /// The whole response is there: the lease ends now. `with_head`: the last of it was read together with the head, so
    /// that moment need not be read from the clock again.
    pub(super) fn served(&mut self, with_head: bool) {
        let Some(mut lease) = self.lease.take() else { return };
        self.end = End::Ok;
        lease.completed();
        let started = lease.started();
        let (now, taken) = match self.head_at.filter(|_| with_head) {
            Some(now) => (now, lease.end_with_head(now)),
            None => {
                let now = clock::now();
                (now, lease.end(now))
            }
        };
        // Most requests are sent on as they arrive.
        self.total = Some(if started == self.arrived { taken } else { now.saturating_duration_since(self.arrived) });
    }

    /// A connection is free again.
    pub(super) fn keep(&self, backend: u64, connection: Box<Connection>, limit: Duration) {
        self.proxy.idle.put(backend, connection, limit);
    }

    /// It is answered by ourselves, with that refusal.
    pub(super) fn refused(&mut self, refusal: Refusal) -> Refusal {
        self.status = refusal.status().as_u16();
        self.end = refusal.end();
        refusal
    }

    fn count(&self, total: Duration) {
        let class = CodeClass::of(if self.end == End::ClientGone && self.bytes_out == 0 { 0 } else { self.status });
        match (&self.backend, &self.pool) {
            (Some(backend), _) => backend.stats.request_ended(class, total),
            (None, Some(pool)) => {
                pool.stats.unrouted[class as usize].fetch_add(1, Relaxed);
            }
            (None, None) => {
                self.proxy.shared.refused[class as usize].fetch_add(1, Relaxed);
            }
        }
        if let (End::ClientGone, Some(pool)) = (self.end, &self.pool) {
            pool.stats.client_disconnects.fetch_add(1, Relaxed);
        }
    }

    fn log(&self, log: &AccessLog, total: Duration) {
        let path = self.head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        let field = |name| self.head.headers.get(name).map(HeaderValue::as_bytes);
        log.write(&Record {
            arrived: SystemTime::now().checked_sub(total).unwrap_or(SystemTime::UNIX_EPOCH),
            request_id: self.request_id.as_str(),
            client: self.client,
            method: self.head.method.as_str(),
            host: self.host.as_bytes(),
            path: path.as_bytes(),
            protocol: protocol_name(self.head.version),
            status: self.status,
            bytes_in: self.bytes_in.as_ref().map_or(0, |count| count.get()),
            bytes_out: self.bytes_out,
            pool: self.pool.as_ref().map(|pool| &*pool.name),
            backend: self.backend.as_ref().map(|backend| &*backend.name),
            strategy: self.strategy,
            propensity: self.pick.map(|(_, propensity, _)| propensity),
            kind: self.pick.map(|(kind, _, _)| kind),
            candidates: self.pick.map_or(0, |(_, _, candidates)| candidates),
            attempts: self.attempts,
            queue: self.queue,
            connect: self.connect,
            first_byte: self.first_byte,
            total,
            end: self.end,
            retry: self.retry.map(RetryReason::name),
            sticky: self.sticky,
            subject: self.downstream.subject.as_deref(),
            referer: field(header::REFERER),
            user_agent: field(header::USER_AGENT),
        });
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        self.lease = None;
        let total = self.total.unwrap_or_else(|| clock::now().saturating_duration_since(self.arrived));
        self.count(total);
        if self.proxy.shared.logs_access.load(Relaxed) {
            self.log(&self.proxy.shared.access_log.load(), total);
        }
        maps::give(std::mem::take(&mut self.head.headers));
        self.downstream.busy.set(self.downstream.busy.get().saturating_sub(1));
        self.downstream.ended.set(self.downstream.ended.get() + 1);
    }
}

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}
