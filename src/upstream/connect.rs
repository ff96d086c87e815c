//! Opening a connection, within the pool's `connect` timeout.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::error::Fault;
use super::stream::Stream;

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
