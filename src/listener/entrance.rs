//! What a connection passes before its first request: the TLS handshake, within `tls_handshake_timeout`.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use tokio::net::TcpStream;

use super::connection::Entry;
use super::worker::Listening;
use crate::proxy::Downstream;
use crate::tls::{self, HandshakeGate, Server};
use crate::upstream::Stream;

/// A connection that was let in.
pub(super) struct Admitted {
    pub(super) stream: Stream,
    pub(super) downstream: Downstream,
}

/// Lets a connection in; `None`: it is over.
pub(super) async fn pass(
    stream: TcpStream,
    peer: SocketAddr,
    listening: &Rc<Listening>,
    gate: &HandshakeGate,
    entry: &Entry,
) -> Option<Admitted> {
    let plan = listening.shared.plan.load_full();
    let Some(server) = listening.shared.tls.load_full() else {
        let downstream = Downstream::new(peer.ip(), false, plan);
        return Some(Admitted { stream: Stream::Plain(stream), downstream });
    };
    entry.deadline.arm(plan.tls_handshake_timeout);
    // Boxed: what a handshake needs is gone when it is over, and plain connections never have it.
    let shaken = Box::pin(shake(stream, server, listening, gate, entry)).await;
    entry.deadline.disarm();
    let stream = shaken.inspect_err(|error| tracing::debug!(%peer, "TLS handshake: {error}")).ok()?;
    let mut downstream = Downstream::new(peer.ip(), true, plan);
    if let Stream::Tls(tls) = &stream {
        downstream.subject = tls::subject(tls);
    }
    Some(Admitted { stream, downstream })
}

async fn shake(
    stream: TcpStream,
    server: Arc<Server>,
    listening: &Listening,
    gate: &HandshakeGate,
    entry: &Entry,
) -> io::Result<Stream> {
    let counts = &listening.shared.handshakes;
    let mut handshake = pin!(tls::accept(&server, stream, gate));
    let done = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if entry.deadline.poll_passed(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match done.await {
        Some(Ok(stream)) => {
            counts.done.fetch_add(1, Relaxed);
            Ok(Stream::Tls(Box::new(stream.into())))
        }
        Some(Err(error)) => {
            counts.failed.fetch_add(1, Relaxed);
            Err(error)
        }
        None => {
            counts.timed_out.fetch_add(1, Relaxed);
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}
