//! Opening a connection, within the pool's `connect` timeout; over TLS the handshake is part of it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::TcpStream;

use super::error::Fault;
use super::secure::Secure;
use super::stream::Stream;
use super::tcp::Tcp;
use crate::clock;
use crate::tls::{Alpn, Connector};

/// Bytes that the kernel takes for a peer, client or backend, beyond those on their way to it. Without it a client that reads
/// next to nothing holds some 1.7 MiB of the kernel's memory, cut into packets as small as it asks for, and most of what it
/// costs goes into that: a thousand under `slowhttptest -X` then cost a third (scripts/abuse). Large downloads are as fast
/// as before; with a quarter of it a fifth slower.
pub const UNSENT: u32 = 128 * 1024;

/// Connects to the first of `addresses` that accepts, within `timeout` in all: one that does not answer leaves the next
/// ones their share of what is left. Returns the address too.
///
/// # Errors
/// [`Fault::Unresolved`] without an address; else as [`connect`], of the last one.
pub async fn connect_any(
    addresses: &[SocketAddr],
    timeout: Duration,
    secure: Option<(&Connector, Alpn)>,
) -> Result<(SocketAddr, Stream), Fault> {
    let mut last = Fault::Unresolved;
    let deadline = clock::now() + timeout;
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(clock::now());
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match connect(*address, left / untried, secure).await {
            Ok(stream) => return Ok((*address, stream)),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// Connects to `address` within `timeout`, over TLS if `secure` says how.
///
/// # Errors
/// [`Fault::Connect`] with the system's or rustls' reason, or `TimedOut`; [`Fault::Starved`].
pub async fn connect(
    address: SocketAddr,
    timeout: Duration,
    secure: Option<(&Connector, Alpn)>,
) -> Result<Stream, Fault> {
    let connected = match secure {
        None => tokio::time::timeout(timeout, TcpStream::connect(address)).await.map(|done| done.and_then(plain)),
        // Boxed: plain connections need none of its room.
        Some((connector, alpn)) => tokio::time::timeout(timeout, Box::pin(encrypted(address, connector, alpn))).await,
    };
    match connected {
        Ok(connected) => connected.map_err(Fault::of_connect),
        Err(_) => Err(Fault::Connect(io::Error::new(io::ErrorKind::TimedOut, "connect timeout"))),
    }
}

/// A socket that refuses an option still works.
fn set_up(stream: &TcpStream) {
    // Requests and streamed events must leave at once.
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
}

fn plain(stream: TcpStream) -> io::Result<Stream> {
    set_up(&stream);
    Ok(Stream::Plain(stream.into()))
}

async fn encrypted(address: SocketAddr, connector: &Connector, alpn: Alpn) -> io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    set_up(&stream);
    let of_tls = |error: io::Error| io::Error::new(error.kind(), format!("TLS handshake: {error}"));
    let stream = connector.connect(Tcp::from(stream), alpn).await.map_err(of_tls)?;
    Ok(Stream::Tls(Box::new(Secure::new(stream))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_address_that_accepts_is_taken() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        // Bound and not listening: refuses.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let refusing = socket.local_addr().unwrap();
        let timeout = Duration::from_secs(30);
        let (address, _) = connect_any(&[refusing, open], timeout, None).await.unwrap();
        assert_eq!(address, open);
        assert!(matches!(connect_any(&[refusing, refusing], timeout, None).await, Err(Fault::Connect(_))));
        assert!(matches!(connect_any(&[], timeout, None).await, Err(Fault::Unresolved)));
    }
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_holds_little_for_a_backend_that_takes_nothing() {
        use socket2::{Domain, Socket, Type};

        let listening = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listening.set_recv_buffer_size(4096).unwrap();
        listening.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listening.listen(1).unwrap();
        let address = listening.local_addr().unwrap().as_socket().unwrap();
        let stream = connect(address, Duration::from_secs(30), None).await.unwrap();
        let (_taking, _) = listening.accept().unwrap();
        let mut taken = 0;
        while let Ok(bytes) = stream.socket().try_write(&[b'x'; 16 << 10]) {
            taken += bytes;
            assert!(taken <= UNSENT as usize + (96 << 10), "{taken} bytes");
        }
        assert!(taken >= UNSENT as usize, "{taken} bytes");
    }
}
