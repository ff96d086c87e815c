//! Listening sockets: one per worker and address, with `SO_REUSEPORT`, so that the kernel spreads connections.

use std::io;
use std::net::{SocketAddr, TcpListener};

#[cfg(target_os = "linux")]
use socket2::SockRef;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

#[cfg(target_os = "linux")]
use crate::upstream::UNSENT;

/// Connections the kernel may queue before they are accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Bytes that the kernel takes for a client beyond those on their way to it, until the client has shown that it takes them: a
/// thousand that ask for much and take nothing cost what they are given at first.
#[cfg(target_os = "linux")]
const UNSENT_AT_FIRST: u32 = 16 * 1024;

/// Writes up to this size are copied together: one plain send costs 2.4 % less CPU per request than a vectored one
/// (docs/performance.md, item 6).
pub(super) const FLAT_LIMIT: usize = 4096;

/// Bytes that a client's connection has taken when it is given as much as a backend's.
const PROVEN: u64 = 512 * 1024;

/// `before` bytes had been written to a client's connection, now it is `after`: one that takes much is given more at once.
#[inline]
pub(super) fn written(stream: &TcpStream, before: u64, after: u64) {
    if before < PROVEN && after >= PROVEN {
        // Where it fails the connection is slower, nothing else.
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
        #[cfg(not(target_os = "linux"))]
        let _ = stream;
    }
}

/// Binds `count` sockets to `address`. With port 0 all share the port that the first was given.
///
/// # Errors
/// The address is in use, not ours, or not allowed.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    // SO_REUSEPORT would silently share a port with another process of this user: ask first whether it is free.
    if address.port() != 0 {
        drop(listen(address, false)?);
    }
    for _ in 0..count.max(1) {
        let socket = listen(address, true)?;
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn listen(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if share {
        #[cfg(target_os = "linux")]
        socket.set_tcp_notsent_lowat(UNSENT_AT_FIRST)?; // connections inherit it
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_share_one_port_and_a_taken_port_is_refused() {
        let sockets = bind(([127, 0, 0, 1], 0).into(), 3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        assert!(bind(address, 1).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_holds_little_for_a_client_that_takes_nothing() {
        use std::io::{Read, Write};

        const MOST: usize = 64 << 20;
        let mut sockets = bind(([127, 0, 0, 1], 0).into(), 1).unwrap();
        let listening = sockets.pop().unwrap();
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        client.connect(&listening.local_addr().unwrap().into()).unwrap();
        let (mut served, _) = listening.accept().unwrap();
        served.set_nonblocking(true).unwrap();
        let mut taken = 0;
        let refused = loop {
            match served.write(&[b'x'; 16 << 10]) {
                Ok(bytes) if taken < MOST => taken += bytes,
                other => break other,
            }
        };
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // What is unsent, a last piece that may overshoot, and what the client's own buffer holds.
        assert!(taken <= UNSENT_AT_FIRST as usize + (96 << 10), "{taken} bytes");
        drop(served);
        let mut got = Vec::new();
        std::net::TcpStream::from(client).read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), taken);
    }
}
