//! A scripted instance: one of the simulator's servers behind a socket of its own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::sim::live::{LiveServer, Reception};
use crate::sim::{Change, Fault, ServerPlan};

/// Headers that carry what a request needs, and who answered.
pub(super) const WORK: &str = "x-work";
pub(super) const COIN: &str = "x-coin";
pub(super) const SERVER: &str = "x-server";

/// How long a failure at once takes, as in the simulator.
const AT_ONCE: Duration = Duration::from_millis(1);
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Between two attempts to have the port back after a refusal.
const RETRY: Duration = Duration::from_millis(20);

/// One instance.
pub(super) struct Instance {
    pub(super) address: SocketAddr,
    pub(super) server: LiveServer,
    index: usize,
    start: Instant,
    waiting: Mutex<HashMap<u32, oneshot::Sender<bool>>>,
    /// The next end may be another than a moment ago.
    changed: Notify,
    refusing: watch::Sender<bool>,
}

/// A request whose client may leave.
struct Waiting<'a> {
    instance: &'a Instance,
    id: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.instance.waiting().remove(&self.id).is_some() {
            self.instance.server.left(self.id);
        }
    }
}

impl Instance {
    /// Binds a port and serves while `tasks` live. `start`: the moment that second 0 stands for.
    pub(super) fn start(
        index: usize,
        plan: &ServerPlan,
        start: Instant,
        tasks: &mut JoinSet<()>,
    ) -> std::io::Result<Arc<Self>> {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let instance = Arc::new(Self {
            address: listener.local_addr()?,
            server: LiveServer::new(plan),
            index,
            start,
            waiting: Mutex::default(),
            changed: Notify::new(),
            refusing: watch::Sender::new(false),
        });
        tasks.spawn(serve(Arc::clone(&instance), listener));
        tasks.spawn(pace(Arc::clone(&instance)));
        Ok(instance)
    }

    /// Something happens to it.
    pub(super) fn change(&self, change: Change) {
        for lost in self.server.change(change, self.now()) {
            self.waiting().remove(&lost);
        }
        if let Change::Fault(fault) = change {
            self.refusing.send_replace(fault == Fault::Refuse);
        }
        self.changed.notify_one();
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<bool>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let say = |status: StatusCode| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"done\n")));
            *response.status_mut() = status;
            response.headers_mut().insert(SERVER, (self.index as u64).into());
            response
        };
        let number = |name: &str| -> Option<f64> { request.headers().get(name)?.to_str().ok()?.parse().ok() };
        let (Some(work), Some(coin)) = (number(WORK), number(COIN)) else {
            let healthy = self.server.passes_check();
            return say(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE });
        };
        let (id, reception) = self.server.arrive(work, coin, self.now());
        let refused = match reception {
            Reception::Taken => None,
            Reception::Failed => Some(StatusCode::INTERNAL_SERVER_ERROR),
            Reception::Full => Some(StatusCode::SERVICE_UNAVAILABLE),
        };
        if let Some(status) = refused {
            sleep(AT_ONCE).await;
            return say(status);
        }
        let (tell, told) = oneshot::channel();
        self.waiting().insert(id, tell);
        let _waiting = Waiting { instance: self, id };
        self.changed.notify_one();
        match told.await {
            Ok(true) => say(StatusCode::OK),
            Ok(false) | Err(_) => say(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// Tells requests that they are done when they are.
async fn pace(instance: Arc<Instance>) {
    loop {
        for (id, ok) in instance.server.due(instance.now()) {
            if let Some(tell) = instance.waiting().remove(&id) {
                let _ = tell.send(ok);
            }
        }
        match instance.server.next() {
            Some(at) => tokio::select! {
                () = sleep_until(instance.start + Duration::from_secs_f64(at)) => {}
                () = instance.changed.notified() => {}
            },
            None => instance.changed.notified().await,
        }
    }
}

/// Accepts, except while it refuses: then the port is closed and so are its connections.
async fn serve(instance: Arc<Instance>, listener: TcpListener) {
    let mut refusing = instance.refusing.subscribe();
    let mut listening = Some(listener);
    loop {
        let Some(listener) = listening.take() else {
            if refusing.wait_for(|refusing| !refusing).await.is_err() {
                return;
            }
            match bind(instance.address) {
                Ok(again) => listening = Some(again),
                Err(_) => sleep(RETRY).await,
            }
            continue;
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let _ = stream.set_nodelay(true);
                    let instance = Arc::clone(&instance);
                    connections.spawn(async move {
                        let service = service_fn(|request| {
                            let instance = Arc::clone(&instance);
                            async move { Ok::<_, Infallible>(instance.answer(request).await) }
                        });
                        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                    });
                }
                Some(_) = connections.join_next() => {}
                ended = refusing.wait_for(|refusing| *refusing) => {
                    if ended.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
        drop(listener);
        connections.shutdown().await;
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
