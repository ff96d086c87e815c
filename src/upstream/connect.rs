//! Opening a connection, within the pool's `connect` timeout.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::error::Fault;
use super::stream::Stream;

/// Connects to the first of `addresses` that accepts, within `timeout` in all: one that does not answer leaves the next
/// ones their share of what is left. Returns the address too.
///
/// # Errors
/// [`Fault::Unresolved`] without an address; else as [`connect`], of the last one.
pub async fn connect_any(addresses: &[SocketAddr], timeout: Duration) -> Result<(SocketAddr, Stream), Fault> {
    let mut last = Fault::Unresolved;
    let deadline = Instant::now() + timeout;
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match connect(*address, left / untried).await {
            Ok(stream) => return Ok((*address, stream)),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// Connects to `address` within `timeout`.
///
/// # Errors
/// [`Fault::Connect`] with the system's reason, or `TimedOut`.
pub async fn connect(address: SocketAddr, timeout: Duration) -> Result<Stream, Fault> {
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Fault::Connect(error)),
        Err(_) => return Err(Fault::Connect(io::Error::new(io::ErrorKind::TimedOut, "connect timeout"))),
    };
    // Requests and streamed events must leave at once; a socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    Ok(Stream::Plain(stream))
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
        let (address, _) = connect_any(&[refusing, open], timeout).await.unwrap();
        assert_eq!(address, open);
        assert!(matches!(connect_any(&[refusing, refusing], timeout).await, Err(Fault::Connect(_))));
        assert!(matches!(connect_any(&[], timeout).await, Err(Fault::Unresolved)));
    }
}
