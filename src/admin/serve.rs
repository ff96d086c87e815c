//! The admin router on a socket: bounded in connections and in the time a head may take, ended by a word.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt as _;

use super::AdminState;
use super::extract::Peer;

/// Connections at once: an operator's tools, a dashboard or two and a few scrapers need a handful.
const MAX_CONNECTIONS: usize = 256;

/// How long a request head may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two foldings of recorded durations into buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Between two looks for decisions whose feedback is overdue.
const EXPIRY: Duration = Duration::from_secs(1);

/// How long open requests may take after the word to end.
const GRACE: Duration = Duration::from_secs(5);

/// After an `accept` that failed (no descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `shutdown` ends, then lets open requests finish for a few seconds.
pub async fn serve(listener: TcpListener, admin: Arc<AdminState>, shutdown: impl Future<Output = ()>) {
    let router = super::router(Arc::clone(&admin));
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut upkeep = tokio::time::interval(UPKEEP);
    let mut expiry = tokio::time::interval(EXPIRY);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            _ = upkeep.tick() => admin.metrics.upkeep(),
            _ = expiry.tick() => admin.desk.expire(crate::clock::now()),
            (stream, peer, permit) = accept(&listener, &permits) => {
                connection(stream, Peer(peer), permit, &router, &graceful);
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
}

/// The next connection, once one may be held. Cancel-safe: nothing is taken before it is returned.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so a permit always comes.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, permit),
            Err(error) => {
                tracing::warn!(%error, "the admin server cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn connection(
    stream: TcpStream,
    peer: Peer,
    permit: Option<OwnedSemaphorePermit>,
    router: &Router,
    graceful: &GracefulShutdown,
) {
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router.clone().map_request(
        move |mut request: http::Request<hyper::body::Incoming>| {
            // Whom the audit log names.
            request.extensions_mut().insert(peer);
            request.map(Body::new)
        },
    ));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
    let serving = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            tracing::debug!(%error, "admin connection ended");
        }
        drop(permit);
    });
}
