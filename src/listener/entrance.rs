//! What a connection passes before its first request: the PROXY header that says who it is, the limit of connections a
//! client, the TLS handshake. Each has its time.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use tokio::net::TcpStream;

use super::connection::{Entry, FRESH};
use super::proxy_protocol;
use super::worker::Listening;
use crate::config::{ListenerPlan, ListenerTlsPlan};
use crate::proxy::Downstream;
use crate::tls::{self, HandshakeGate, Server};
use crate::upstream::{Secure, Stream, Tcp};

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
    let shared = &listening.shared;
    let (mut client, mut known) = (peer.ip(), true);
    let first = shared.settings();
    if first.plan.proxy_protocol {
        let plan = Arc::clone(&first.plan);
        drop(first);
        // Boxed, as the handshake is: other connections have no such thing.
        let named = Box::pin(introduced(&stream, client, &plan, entry)).await;
        let named = named.inspect_err(|error| tracing::debug!(%peer, "PROXY header: {error}")).ok()?;
        // The proxy passes on what a client sends, also where it does not say who that is: then nobody is vouched for.
        known = named.is_some();
        client = named.unwrap_or(client);
    }
    // Once, and not before the header is there, which may take its time: what follows sees the settings of one moment.
    let settings = shared.settings();
    let (plan, server) = (Arc::clone(&settings.plan), settings.tls.clone());
    entry.trust.set(Some(settings.trust));
    if plan.proxy_protocol && !is_trusted(&plan, peer.ip()) {
        return None;
    }
    drop(settings);
    let counted = match &plan.limits {
        // A proxy that is trusted has connections for many clients; their requests are counted each.
        Some(limits) if !is_trusted(&plan, client) => Some(shared.clients.connect(limits, client)?),
        Some(_) | None => None,
    };
    let (stream, secure) = match server {
        None => (Stream::Plain(stream.into()), false),
        Some(server) => {
            entry.deadline.arm(plan.tls_handshake_timeout);
            // Boxed: what a handshake needs is gone when it is over.
            let shaken = Box::pin(shake(stream, server, listening, gate, entry)).await;
            entry.deadline.disarm();
            (shaken.inspect_err(|error| tracing::debug!(%peer, "TLS handshake: {error}")).ok()?, true)
        }
    };
    let limited = plan.limits.is_some();
    let subject = if let Stream::Tls(tls) = &stream { tls::subject(tls.tls()) } else { None };
    let tells_subject = |tls: &ListenerTlsPlan| tls.client_ca.is_some() && tls.subject_header.is_some();
    if subject.is_none() && plan.tls.as_ref().is_some_and(tells_subject) {
        tracing::warn!(%peer, "the client's certificate cannot be read, and backends want its subject: refused");
        return None;
    }
    let mut downstream = Downstream::new(client, secure, plan);
    downstream.trusted &= known;
    downstream.subject = subject;
    if limited {
        downstream.clients = Some(Arc::clone(&shared.clients));
        downstream.counted = counted;
    }
    Some(Admitted { stream, downstream })
}

fn is_trusted(plan: &ListenerPlan, peer: IpAddr) -> bool {
    plan.trusted_proxies.iter().any(|range| range.contains(peer))
}

/// Who the proxy in front says has connected to it; `None`: it does not say.
async fn introduced(
    stream: &TcpStream,
    peer: IpAddr,
    plan: &ListenerPlan,
    entry: &Entry,
) -> io::Result<Option<IpAddr>> {
    if !is_trusted(plan, peer) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer is not one of trusted_proxies"));
    }
    entry.deadline.arm(plan.header_timeout);
    let named = within(entry, pin!(proxy_protocol::read(stream))).await;
    entry.deadline.disarm();
    named
}

/// What comes of `work`, unless the connection's deadline passes first.
async fn within<T>(entry: &Entry, mut work: Pin<&mut impl Future<Output = io::Result<T>>>) -> io::Result<T> {
    let mut draining = entry.draining.get();
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        // It hears that the worker drains by its deadline; that is no reason to break off.
        if entry.draining.get() && !entry.outdated.get() && !std::mem::replace(&mut draining, true) {
            entry.deadline.arm(FRESH);
        }
        if entry.deadline.poll_passed(cx) { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    })
    .await
}

async fn shake(
    stream: TcpStream,
    server: Arc<Server>,
    listening: &Listening,
    gate: &HandshakeGate,
    entry: &Entry,
) -> io::Result<Stream> {
    let counts = &listening.shared.handshakes;
    let shaken = within(entry, pin!(tls::accept::<Tcp>(&server, stream, gate))).await;
    let count = match &shaken {
        Ok(_) => &counts.done,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => &counts.timed_out,
        Err(_) => &counts.failed,
    };
    count.fetch_add(1, Relaxed);
    Ok(Stream::Tls(Box::new(Secure::new(shaken?))))
}
