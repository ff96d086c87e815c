//! HTTP/2 to backends: hyper's client connections, shared by the requests of one worker, with a cap on streams.
//!
//! A connection is one task of the worker (hyper's own tasks beside it). Requests take a stream of the first connection
//! that has room; when none has, one of them opens another while the others wait for it.

mod io;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::io::{Error as IoError, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioTimer;

use self::io::{Greeting, LinkIo};
use super::error::{Fault, UpstreamError};
use super::http1::response::MOST_FIELDS;
use super::open::Counted;
use super::stream::Stream;
use crate::clock::coarse_millis;

/// A request body on its way to an HTTP/2 backend. Boxed: all requests of a connection share one type.
pub type OutBody = Pin<Box<dyn Body<Data = Bytes, Error = Fault>>>;

/// Streams on one connection before another is opened; what servers allow by default is 100 to 128.
const MOST_STREAMS: usize = 100;
/// Receive window of one stream. A stalled client holds at most this much of a response here, and as much again in the
/// send buffer of its own connection: with a window of 256 KiB that came to 519 KiB (scripts/memory), and 512 is what a
/// stalled client may hold.
const STREAM_WINDOW: u32 = 192 * 1024;
/// Receive window of a connection: every stream's, so that clients who read slowly never stop the others' responses.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;
/// Bytes of a request body queued per stream (reliability.md §1).
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of response headers (reliability.md §1).
const MOST_HEADER_BYTES: u32 = 64 * 1024;
/// Dead-peer detection (reliability.md §1).
const PING: Duration = Duration::from_secs(20);
const PING_PATIENCE: Duration = Duration::from_secs(10);

/// Spawns the tasks of hyper's HTTP/2 on the worker's own runtime.
#[derive(Debug, Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

/// The HTTP/2 connections of one worker.
#[derive(Default)]
pub struct Http2Connections {
    backends: RefCell<HashMap<u64, Rc<Links>>>,
    /// Connections opened so far.
    opened: Cell<u64>,
}

impl fmt::Debug for Http2Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Connections").field("backends", &self.backends.borrow().len()).finish()
    }
}

/// The connections to one backend.
#[derive(Default)]
struct Links {
    open: RefCell<Vec<Link>>,
    /// Held by whoever opens another connection.
    opening: tokio::sync::Mutex<()>,
    /// How often opening has failed, and why last: those who waited for it fail with it.
    failures: Cell<u64>,
    failure: Cell<Option<Failure>>,
}

/// What of a fault is kept for those who waited.
#[derive(Debug, Clone, Copy)]
enum Failure {
    Connect(ErrorKind),
    /// The code of the system's error.
    Starved(i32),
}

impl Failure {
    fn of(fault: &Fault) -> Self {
        match fault {
            Fault::Connect(error) => Self::Connect(error.kind()),
            Fault::Starved(error) => Self::Starved(error.raw_os_error().unwrap_or_default()),
            _ => Self::Connect(ErrorKind::Other),
        }
    }

    fn fault(self) -> Fault {
        match self {
            Self::Connect(kind) => Fault::Connect(kind.into()),
            Self::Starved(code) => Fault::Starved(IoError::from_raw_os_error(code)),
        }
    }
}

#[derive(Clone)]
struct Link {
    send: SendRequest<OutBody>,
    state: Rc<LinkState>,
}

struct LinkState {
    /// Connections opened before this one.
    number: u64,
    streams: Cell<usize>,
    /// Streams that the backend allows.
    most: Cell<usize>,
    idle_since: Cell<u64>,
}

/// The right to one stream; keep it as long as the stream lives.
pub struct StreamPermit {
    link: Link,
    /// Whether the connection had served a request before.
    reused: bool,
}

impl fmt::Debug for StreamPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamPermit").field("reused", &self.reused).finish_non_exhaustive()
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let state = &self.link.state;
        state.streams.set(state.streams.get().saturating_sub(1));
        state.idle_since.set(coarse_millis());
    }
}

impl Http2Connections {
    /// A stream to `backend`, if a connection is open and has room. `since`: as for [`stream`](Self::stream).
    pub fn take(&self, backend: u64, since: u64) -> Option<StreamPermit> {
        self.backends.borrow().get(&backend)?.take(since)
    }

    /// A stream to `backend`, over an open connection with room or over one that `connect` makes. `since`: connections
    /// older than that are not used, see [`opened`](Self::opened). `patience`: for the backend's greeting.
    ///
    /// # Errors
    /// What `connect` or the handshake failed with.
    pub async fn stream<C>(
        &self,
        backend: u64,
        open: &Arc<AtomicU64>,
        since: u64,
        connect: C,
        patience: Duration,
    ) -> Result<StreamPermit, Fault>
    where
        C: Future<Output = Result<Stream, Fault>>,
    {
        let links = Rc::clone(self.backends.borrow_mut().entry(backend).or_default());
        if let Some(permit) = links.take(since) {
            return Ok(permit);
        }
        let failures = links.failures.get();
        let _opening = links.opening.lock().await;
        // Somebody else may have opened one while this request waited, or failed to: in a queue behind a dead backend
        // each would wait for the timeouts of all before it.
        if let Some(permit) = links.take(since) {
            return Ok(permit);
        }
        if let Some(failure) = links.failure.get().filter(|_| links.failures.get() != failures) {
            return Err(failure.fault());
        }
        let link = match self.open(connect, open, patience).await {
            Ok(link) => link,
            Err(fault) => {
                links.failures.set(links.failures.get() + 1);
                links.failure.set(Some(Failure::of(&fault)));
                return Err(fault);
            }
        };
        link.state.streams.set(1);
        links.open.borrow_mut().push(link.clone());
        Ok(StreamPermit { link, reused: false })
    }

    async fn open<C>(&self, connect: C, open: &Arc<AtomicU64>, patience: Duration) -> Result<Link, Fault>
    where
        C: Future<Output = Result<Stream, Fault>>,
    {
        let stream = connect.await?;
        let number = self.opened.get();
        self.opened.set(number + 1);
        handshake(stream, open, number, patience).await
    }

    /// Connections opened so far: with it as `since`, a stream is surely not of a connection that is open now.
    pub fn opened(&self) -> u64 {
        self.opened.get()
    }

    /// Closes connections without streams that are older than `limit`, that are broken, or whose backend `wanted`
    /// refuses.
    pub fn sweep(&self, wanted: impl Fn(u64) -> bool, limit: Duration) {
        let now = coarse_millis();
        let limit = limit.as_millis() as u64;
        self.backends.borrow_mut().retain(|backend, links| {
            links.open.borrow_mut().retain(|link| {
                let idle = link.state.streams.get() == 0;
                let rested = now.saturating_sub(link.state.idle_since.get());
                let expired = idle && (rested >= limit || !wanted(*backend));
                !expired && !link.send.is_closed()
            });
            wanted(*backend) || !links.open.borrow().is_empty()
        });
    }
}

impl Links {
    /// A stream of the first open connection that has room.
    fn take(&self, since: u64) -> Option<StreamPermit> {
        let mut open = self.open.borrow_mut();
        open.retain(|link| !link.send.is_closed());
        let has_room = |state: &LinkState| state.streams.get() < state.most.get().min(MOST_STREAMS);
        let link = open.iter().find(|link| link.state.number >= since && has_room(&link.state))?.clone();
        link.state.streams.set(link.state.streams.get() + 1);
        Some(StreamPermit { link, reused: true })
    }
}

/// Opens HTTP/2 on `stream`, and waits until the backend has said how many streams it takes: requests beyond that would
/// queue in this connection while another could serve them. It says so unasked, so this costs no round trip of its own;
/// and a server that speaks something else is found out before a request is lost on it.
async fn handshake(stream: Stream, open: &Arc<AtomicU64>, number: u64, patience: Duration) -> Result<Link, Fault> {
    let failed = |error: hyper::Error| Fault::Connect(IoError::other(error));
    let greeting = Rc::new(Greeting::default());
    let io = LinkIo::new(stream, Counted::new(open), Rc::clone(&greeting));
    let handshake = Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // None before the greeting, which is how it is noticed.
        .initial_max_send_streams(0)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MOST_HEADER_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_PATIENCE)
        .handshake::<_, OutBody>(io);
    let (send, connection) = handshake.await.map_err(failed)?;
    let mut connection = Box::pin(connection);
    let greeted = poll_fn(|cx| {
        greeting.listen(cx);
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Err(ended.map_or_else(failed, |()| Fault::Connect(ErrorKind::UnexpectedEof.into()))));
        }
        match connection.current_max_send_streams() {
            0 => Poll::Pending,
            most => Poll::Ready(Ok(most)),
        }
    });
    let most = match tokio::time::timeout(patience, greeted).await {
        Ok(greeted) => greeted?,
        Err(_) => return Err(Fault::Connect(IoError::new(ErrorKind::TimedOut, "no HTTP/2 settings in time"))),
    };
    greeting.over();
    let (streams, idle_since) = (Cell::new(0), Cell::new(coarse_millis()));
    let state = Rc::new(LinkState { number, streams, most: Cell::new(most), idle_since });
    let link = Link { send, state: Rc::clone(&state) };
    tokio::task::spawn_local(poll_fn(move |cx| {
        // Its requests hear of an error themselves.
        let ended = connection.as_mut().poll(cx).map(drop);
        state.most.set(connection.current_max_send_streams());
        ended
    }));
    Ok(link)
}

impl StreamPermit {
    /// Whether the connection had served a request before: then its loss may be staleness, not a fault.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request and waits for the response head.
    ///
    /// # Errors
    /// [`UpstreamError`]; `sent` is false when the backend certainly has not processed the request.
    pub async fn send(&mut self, request: Request<OutBody>) -> Result<Response<Incoming>, UpstreamError> {
        let unsent = |fault| UpstreamError { fault, sent: false, answered: false };
        self.link.send.ready().await.map_err(|_| unsent(Fault::Closed))?;
        let answered = self.link.send.try_send_request(request).await.map_err(|mut failed| {
            if failed.take_message().is_some() {
                return unsent(Fault::Closed);
            }
            let error = failed.into_error();
            let sent = !is_refused(&error);
            UpstreamError { fault: fault_of(&error), sent, answered: false }
        })?;
        if answered.headers().len() > MOST_FIELDS {
            let fault = Fault::Protocol("too many header fields");
            return Err(UpstreamError { fault, sent: true, answered: true });
        }
        Ok(answered)
    }
}

/// Whether the backend said that it has not looked at the request (RFC 9113 section 8.7): it refused the stream, or went
/// away politely before it (streams that it did accept go on then, and fail with something else).
fn is_refused(error: &hyper::Error) -> bool {
    let refused = |error: &h2::Error| {
        let left = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        left || error.reason() == Some(h2::Reason::REFUSED_STREAM)
    };
    error.is_canceled() || h2_error(error).is_some_and(refused)
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// What an error of hyper's HTTP/2 client means. (What the client's own body failed with it does not tell.)
pub fn fault_of(error: &hyper::Error) -> Fault {
    let Some(error) = h2_error(error) else { return Fault::Closed };
    // The cause is lost where several streams fail with it; the kind is kept.
    if error.get_io().is_some_and(|error| error.kind() == ErrorKind::InvalidData) {
        return Fault::Protocol("what HTTP/2 does not allow");
    }
    match error.reason() {
        _ if error.is_reset() && error.is_remote() => Fault::StreamReset,
        Some(h2::Reason::PROTOCOL_ERROR | h2::Reason::FLOW_CONTROL_ERROR | h2::Reason::COMPRESSION_ERROR) => {
            Fault::Protocol("HTTP/2 protocol error")
        }
        Some(_) | None => Fault::Closed,
    }
}
