//! The request path: read [`service`] first.
//!
//! One [`Proxy`] per worker holds what only that worker touches (idle upstream connections, chance); [`Shared`] is what
//! all workers read: the routing snapshot and the access log.

pub mod access_log;
mod affinity;
mod body;
mod error;
mod forward;
pub mod forwarded;
pub mod framing;
pub mod headers;
mod lent;
mod limits;
mod meter;
pub mod orca;
pub mod peek;
mod request_body;
pub mod request_id;
mod respond;
mod retry;
mod route;
mod service;
mod story;
mod upgrade;

pub use body::ProxyBody;
pub use error::Refusal;
pub use limits::{ClientConnection, ClientTable};
pub use request_body::RequestBody;
pub use respond::Answer;
pub use route::{Found, Model, Route, Routing};
pub use upgrade::Tunnel;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use http::HeaderValue;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::backend::CodeClass;
use crate::clock;
use crate::config::{AdminState, ListenerPlan};
use crate::upstream::http2::Http2Connections;
use crate::upstream::{IdleConnections, UpstreamError, endings};
use access_log::AccessLog;

/// Two shortages of descriptors or memory are told apart by so long a pause between their failures.
const STARVED_APART: Duration = Duration::from_secs(10);

/// What all workers read and only the control plane replaces.
#[derive(Debug)]
pub struct Shared {
    /// Routes and pools.
    pub routing: ArcSwap<Routing>,
    /// The access log. Replaced by [`replace_access_log`](Self::replace_access_log).
    pub access_log: ArcSwap<AccessLog>,
    /// Whether it is on: most of the time it is not, and a look at the log itself costs 50 instructions.
    logs_access: AtomicBool,
    /// Requests that no route matched or that ended before routing, by [`CodeClass`].
    pub refused: [AtomicU64; CodeClass::ALL.len()],
    /// Client connections that were ended because of what the client did, by [`Cut`].
    pub cut: [AtomicU64; Cut::ALL.len()],
    /// When a connection to a backend was last missed for want of descriptors or memory of ours.
    starved: Mutex<Option<Instant>>,
}

/// Why a client's connection was ended outside of any request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It did not finish a request head in time.
    SlowHead,
    /// It took no bytes for too long.
    SlowReader,
    /// What it sent is not HTTP.
    Malformed,
}

impl Cut {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::SlowHead, Self::SlowReader, Self::Malformed];

    /// The label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlowHead => "slow_head",
            Self::SlowReader => "slow_reader",
            Self::Malformed => "malformed",
        }
    }
}

impl Shared {
    /// What the workers of one balancer share.
    pub fn new(routing: Routing, access_log: AccessLog) -> Arc<Self> {
        Arc::new(Self {
            routing: ArcSwap::from_pointee(routing),
            logs_access: AtomicBool::new(access_log.is_on()),
            access_log: ArcSwap::from_pointee(access_log),
            refused: Default::default(),
            cut: Default::default(),
            starved: Mutex::default(),
        })
    }

    /// A client's connection is ended.
    pub fn cut(&self, why: Cut) {
        self.cut[why as usize].fetch_add(1, Relaxed);
    }

    /// A request failed for want of descriptors or memory of ours. Told once for each time of need: a line for every
    /// request would bury what led to it.
    fn note_starved(&self, pool: &str, error: &UpstreamError) {
        let now = clock::now();
        let last = self.starved.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= STARVED_APART) {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(
                pool,
                cause,
                "out of resources: connections to backends cannot be made; requests that need one get 503, no backend is \
                 blamed. Raise the limit of open files (LimitNOFILE, ulimit -n), or lower server.max_connections"
            );
        }
    }

    /// Puts another access log in force.
    pub fn replace_access_log(&self, log: AccessLog) {
        let is_on = log.is_on();
        self.access_log.store(Arc::new(log));
        self.logs_access.store(is_on, Relaxed);
    }
}

/// The way from a worker's cache to the routing it caches.
#[derive(Debug)]
struct SharedRouting(Arc<Shared>);

impl Deref for SharedRouting {
    type Target = ArcSwap<Routing>;

    fn deref(&self) -> &Self::Target {
        &self.0.routing
    }
}

/// The request path of one worker.
#[derive(Debug)]
pub struct Proxy {
    /// What all workers read.
    pub shared: Arc<Shared>,
    /// This worker's idle upstream connections.
    pub idle: IdleConnections,
    /// This worker's HTTP/2 connections to backends.
    pub http2: Http2Connections,
    /// Whether a backend of a pool with `protocol = "auto"` agreed to HTTP/2, by the key of its connections.
    agreed: RefCell<HashMap<u64, bool>>,
    rng: RefCell<SmallRng>,
    /// Routes and pools as this worker saw them last: to see that they are still the same costs a tenth of a load.
    routing: RefCell<Cache<SharedRouting, Arc<Routing>>>,
    /// What [`endings`] said when it was looked at last.
    endings: Cell<u64>,
}

impl Proxy {
    /// A request path with chance of its own, seeded by `seed`.
    pub fn new(shared: Arc<Shared>, seed: u64) -> Self {
        let routing = RefCell::new(Cache::new(SharedRouting(Arc::clone(&shared))));
        Self {
            shared,
            routing,
            idle: IdleConnections::default(),
            http2: Http2Connections::default(),
            agreed: RefCell::default(),
            rng: RefCell::new(SmallRng::seed_from_u64(seed)),
            endings: Cell::new(endings()),
        }
    }

    /// Closes idle upstream connections that are too old, dead, made under rules of old, or lead to a backend that takes no
    /// more requests, and lets requests at a backend whose connections were ended notice it.
    pub fn sweep(&self) {
        // Also lets go of pools that are gone.
        let mut routing = self.routing.borrow_mut();
        let routing = routing.load();
        let mut wanted = HashSet::new();
        for pool in &routing.pools {
            let live = pool.live();
            let ready = live.set.members.iter().filter(|backend| backend.admin_state() == AdminState::Ready);
            wanted.extend(ready.map(|backend| forward::key_of(backend.id, &live)));
        }
        self.idle.sweep(|key| wanted.contains(&key));
        let limit = routing.pools.iter().map(|pool| pool.plan().timeouts.upstream_idle).max().unwrap_or_default();
        self.http2.sweep(|key| wanted.contains(&key), limit);
        self.agreed.borrow_mut().retain(|key, _| wanted.contains(key));
        let now = endings();
        if self.endings.replace(now) != now {
            clock::wake_waiting();
        }
    }
}

/// What the request path must know of the connection a request came on.
#[derive(Debug)]
pub struct Downstream {
    /// The client, or the proxy before us.
    pub peer: IpAddr,
    /// The key of `peer` for `ip_hash`.
    key: u64,
    /// `peer` as text.
    pub peer_text: String,
    /// Its forwarded fields in wire form, where `peer` is not trusted.
    forwarded: Vec<u8>,
    /// The last valid `Host`: most connections say one again and again. A copy: a slice of a request's head would hold
    /// the head's buffer.
    host: RefCell<Option<HeaderValue>>,
    /// Whether `peer` is one of the listener's trusted proxies.
    pub trusted: bool,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// The subject of the client's certificate, where one was asked for.
    pub subject: Option<Box<str>>,
    /// What each client has taken, where the listener has limits.
    pub clients: Option<Arc<ClientTable>>,
    /// Its place in the client's count of connections.
    pub counted: Option<ClientConnection>,
    /// The listener's limits.
    pub listener: Arc<ListenerPlan>,
    /// Requests being served on it now.
    pub busy: Cell<u32>,
    /// Request bodies that are not yet read to their end: the socket is read as they are asked for then.
    uploads: Cell<u32>,
    /// A request body was given up before its end: the client may still be sending it.
    pub unread: Cell<bool>,
    /// Requests that have ended on it.
    pub ended: Cell<u64>,
    /// An answer of unknown length broke off: to a client of HTTP/1.0 a polite close would look like its end.
    pub broke_off: Cell<bool>,
    /// A backend has agreed to another protocol: what the connection becomes once the 101 is sent.
    pub tunnel: RefCell<Option<Tunnel>>,
    /// Informational responses to write before anything else; HTTP/1.1 only.
    interjection: RefCell<Vec<u8>>,
}

impl Downstream {
    /// A connection from `peer` to `listener`.
    pub fn new(peer: IpAddr, secure: bool, listener: Arc<ListenerPlan>) -> Self {
        let peer = peer.to_canonical();
        let trusted = listener.trusted_proxies.iter().any(|range| range.contains(peer));
        let peer_text = peer.to_string();
        Self {
            peer,
            key: service::address_key(peer),
            forwarded: forwarded::of_peer(&peer_text, secure),
            peer_text,
            host: RefCell::new(None),
            trusted,
            secure,
            subject: None,
            clients: None,
            counted: None,
            listener,
            busy: Cell::new(0),
            uploads: Cell::new(0),
            unread: Cell::new(false),
            ended: Cell::new(0),
            broke_off: Cell::new(false),
            tunnel: RefCell::new(None),
            interjection: RefCell::default(),
        }
    }

    /// Whether a request is being served whose every byte was read: should the client leave now, nothing but a look at its
    /// socket would tell.
    #[inline]
    pub fn only_answers(&self) -> bool {
        self.busy.get() > 0 && self.uploads.get() == 0
    }

    /// Whether a request is being served whose body is not yet read to its end: should its reader pause, nothing but a
    /// look at the socket would tell that the client was lost.
    #[inline]
    pub fn uploads(&self) -> bool {
        self.uploads.get() > 0
    }

    /// Lets an informational response in before the final one, which the connection's task writes.
    pub fn interject(&self, head: &[u8]) {
        self.interjection.borrow_mut().extend_from_slice(head);
    }

    /// Whether something is to be written before anything else.
    #[inline]
    pub fn has_interjection(&self) -> bool {
        !self.interjection.borrow().is_empty()
    }

    /// What is to be written; the writer removes what was sent.
    pub fn interjection(&self) -> RefMut<'_, Vec<u8>> {
        self.interjection.borrow_mut()
    }
}

/// A request body that is being read.
#[derive(Debug)]
struct Upload {
    downstream: Rc<Downstream>,
    whole: bool,
}

impl Upload {
    fn begin(downstream: &Rc<Downstream>) -> Self {
        downstream.uploads.set(downstream.uploads.get() + 1);
        Self { downstream: Rc::clone(downstream), whole: false }
    }

    /// It was read to its end.
    fn end(mut self) {
        self.whole = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.downstream.uploads.set(self.downstream.uploads.get().saturating_sub(1));
        if !self.whole {
            self.downstream.unread.set(true);
        }
    }
}
