//! The handshake with a client. Its arithmetic takes a third of a millisecond; a burst of new clients takes turns with
//! the requests of others.

use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

use super::Server;
use super::x509::Certificate;

/// Handshakes whose key exchange is done between two looks at the sockets: the most that a busy connection waits for
/// strangers.
const AT_ONCE: usize = 2;

/// Handshakes of a listener by how they ended.
#[derive(Debug, Default)]
pub struct Counts {
    /// A connection came about.
    pub done: AtomicU64,
    /// The client, or we, gave up.
    pub failed: AtomicU64,
    /// `tls_handshake_timeout` passed.
    pub timed_out: AtomicU64,
}

/// Lets the handshakes of one worker take turns with its requests.
#[derive(Debug)]
pub struct HandshakeGate(Semaphore);

impl Default for HandshakeGate {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// Shakes hands with a client; the caller watches the time.
///
/// # Errors
/// What the client, or rustls, did not agree with. The client has been sent the alert.
pub async fn accept(server: &Server, stream: TcpStream, gate: &HandshakeGate) -> io::Result<TlsStream<TcpStream>> {
    // A client that says nothing holds no place.
    stream.readable().await?;
    let mut handshake = server.acceptor().accept(stream);
    let turn = gate.0.acquire().await;
    let mut early = None;
    std::future::poll_fn(|cx| {
        early = Some(Pin::new(&mut handshake).poll(cx));
        std::task::Poll::Ready(())
    })
    .await;
    // The runtime looks at all sockets before a task that yields goes on.
    tokio::task::yield_now().await;
    drop(turn);
    match early {
        Some(std::task::Poll::Ready(done)) => done,
        Some(std::task::Poll::Pending) | None => handshake.await,
    }
}

/// The subject of the certificate that a client has shown and proved.
pub fn subject(stream: &tokio_rustls::TlsStream<TcpStream>) -> Option<Box<str>> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    Certificate::parse(leaf).map(|certificate| certificate.subject.into_boxed_str())
}
