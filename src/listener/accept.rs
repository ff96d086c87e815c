//! The accept loop of one socket: a cap on connections, a pause when descriptors run out, and a fair share for every
//! worker when connections are few and long.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::worker::{Listening, WorkerState};

/// Pause after an accept that failed for want of descriptors or memory (reliability.md §8: 50-100 ms).
const BACK_OFF: Duration = Duration::from_millis(75);
/// How often a full balancer looks whether a connection has ended.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Accepts until `closed`; then takes what the kernel has queued, since with `SO_REUSEPORT` a plain close would reset
/// those connections (reliability.md §8.9).
pub(super) async fn run(
    socket: TcpListener,
    listening: Rc<Listening>,
    worker: Rc<WorkerState>,
    closed: oneshot::Receiver<()>,
) {
    tokio::select! {
        _ = closed => {}
        () = accept(&socket, &listening, &worker) => {}
    }
    // The kernel is asked itself: what it has queued, the event loop may not have told yet.
    let Ok(socket) = socket.into_std() else { return };
    loop {
        match socket.accept() {
            Ok((stream, peer)) => {
                if stream.set_nonblocking(true).is_ok()
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    admit(stream, peer, &listening, &worker);
                }
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(_) => return,
        }
    }
}

async fn accept(socket: &TcpListener, listening: &Rc<Listening>, worker: &Rc<WorkerState>) {
    let mut failing = false;
    loop {
        if worker.census.is_full() {
            tokio::time::sleep(FULL_PAUSE).await;
            continue;
        }
        match socket.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                admit(stream, peer, listening, worker);
            }
            // The client left before it was accepted: nobody's trouble.
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                if !failing {
                    tracing::error!(address = %listening.address, "cannot accept connections, trying again: {error}");
                }
                failing = true;
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Takes a connection on, or hands it to a worker that has far fewer.
fn admit(stream: TcpStream, peer: SocketAddr, listening: &Rc<Listening>, worker: &Rc<WorkerState>) {
    // Responses and streamed events must leave at once; a socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    match worker.census.idler_than(worker.index) {
        Some(other) => {
            if let Ok(stream) = stream.into_std() {
                worker.hand_over(other, stream, peer, listening);
            }
        }
        None => worker.begin(stream, peer, listening),
    }
}
