//! HTTP/2 to backends: hyper's client connections, shared by the requests of one worker, with a cap on streams.
//!
//! A connection is one task of the worker. Requests take a stream of the first connection that has room; when none has,
//! one of them opens another while the others wait for it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
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
use hyper_util::rt::{TokioIo, TokioTimer};

use super::error::{Fault, UpstreamError};
use super::open::Counted;
use super::stream::Stream;
use crate::clock::{Deadline, coarse_millis};

/// A request body on its way to an HTTP/2 backend. Boxed: all requests of a connection share one type.
pub type OutBody = Pin<Box<dyn Body<Data = Bytes, Error = Fault>>>;

/// Streams on one connection before another is opened; what servers allow by default is 100 to 128.
const MOST_STREAMS: usize = 100;
/// Receive window of one stream. A stalled client holds at most this much of a response here, and as much again in the
/// send buffer of its own connection.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of a connection: as the contract's downstream default.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
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
}

#[derive(Clone)]
struct Link {
    send: SendRequest<OutBody>,
    streams: Rc<Cell<usize>>,
    idle_since: Rc<Cell<u64>>,
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
        self.link.streams.set(self.link.streams.get().saturating_sub(1));
        self.link.idle_since.set(coarse_millis());
    }
}

impl Http2Connections {
    /// A stream to `backend`, over an open connection with room or over one that `connect` makes.
    ///
    /// # Errors
    /// What `connect` or the handshake failed with.
    pub async fn stream<C>(&self, backend: u64, open: &Arc<AtomicU64>, connect: C) -> Result<StreamPermit, Fault>
    where
        C: Future<Output = Result<Stream, Fault>>,
    {
        let links = Rc::clone(self.backends.borrow_mut().entry(backend).or_default());
        if let Some(permit) = links.take() {
            return Ok(permit);
        }
        let _opening = links.opening.lock().await;
        // Somebody else may have opened one while this request waited.
        if let Some(permit) = links.take() {
            return Ok(permit);
        }
        let link = handshake(connect.await?, open).await?;
        link.streams.set(1);
        links.open.borrow_mut().push(link.clone());
        Ok(StreamPermit { link, reused: false })
    }

    /// Closes connections without streams that are older than `limit`, that are broken, or whose backend `wanted`
    /// refuses.
    pub fn sweep(&self, wanted: impl Fn(u64) -> bool, limit: Duration) {
        let now = coarse_millis();
        let limit = limit.as_millis() as u64;
        self.backends.borrow_mut().retain(|backend, links| {
            links.open.borrow_mut().retain(|link| {
                let idle = link.streams.get() == 0;
                let expired = idle && (now.saturating_sub(link.idle_since.get()) >= limit || !wanted(*backend));
                !expired && !link.send.is_closed()
            });
            wanted(*backend) || !links.open.borrow().is_empty()
        });
    }
}

impl Links {
    /// A stream of the first open connection that has room.
    fn take(&self) -> Option<StreamPermit> {
        let mut open = self.open.borrow_mut();
        open.retain(|link| !link.send.is_closed());
        let link = open.iter().find(|link| link.streams.get() < MOST_STREAMS)?.clone();
        link.streams.set(link.streams.get() + 1);
        Some(StreamPermit { link, reused: true })
    }
}

async fn handshake(stream: Stream, open: &Arc<AtomicU64>) -> Result<Link, Fault> {
    let handshake = Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MOST_HEADER_BYTES)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING_PATIENCE)
        .handshake::<_, OutBody>(TokioIo::new(stream));
    let (send, connection) = handshake.await.map_err(|error| Fault::Connect(std::io::Error::other(error)))?;
    let counted = Counted::new(open);
    tokio::task::spawn_local(async move {
        // Never armed: whoever waits on a deadline is woken when connections are to end.
        let woken = Deadline::new();
        let mut connection = std::pin::pin!(connection);
        poll_fn(|cx| {
            if counted.must_end() || woken.poll_passed(cx) {
                return Poll::Ready(());
            }
            // Its requests hear of an error themselves.
            connection.as_mut().poll(cx).map(drop)
        })
        .await;
    });
    Ok(Link { send, streams: Rc::new(Cell::new(0)), idle_since: Rc::new(Cell::new(coarse_millis())) })
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
        self.link.send.try_send_request(request).await.map_err(|mut failed| {
            if failed.take_message().is_some() {
                return unsent(Fault::Closed);
            }
            let error = failed.into_error();
            let sent = !is_refused(&error);
            UpstreamError { fault: fault_of(&error), sent, answered: false }
        })
    }
}

/// Whether the backend said that it has not looked at the request (RFC 9113 section 8.7).
fn is_refused(error: &hyper::Error) -> bool {
    h2_reason(error) == Some(h2::Reason::REFUSED_STREAM) || error.is_canceled()
}

fn h2_reason(error: &hyper::Error) -> Option<h2::Reason> {
    std::error::Error::source(error)?.downcast_ref::<h2::Error>()?.reason()
}

/// What an error of hyper's HTTP/2 client means.
pub fn fault_of(error: &hyper::Error) -> Fault {
    // A fault of the client's own body comes back through hyper as the cause.
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(fault) = inner.downcast_ref::<Fault>() {
            return fault.of_client();
        }
        cause = inner.source();
    }
    match h2_reason(error) {
        Some(h2::Reason::PROTOCOL_ERROR | h2::Reason::FLOW_CONTROL_ERROR | h2::Reason::COMPRESSION_ERROR) => {
            Fault::Protocol("HTTP/2 protocol error")
        }
        Some(_) | None => Fault::Closed,
    }
}
