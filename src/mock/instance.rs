//! One running mock: its socket, its connections, and the thread it may have to itself.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::engine::Engine;
use super::profile::{MockProfile, ProfileError};
use super::{service, views};

/// Connections that may wait to be accepted; the kernel caps it at its own limit (4096 on Linux).
const BACKLOG: i32 = 4096;
/// Pause after a failed accept (no file descriptors left) or bind, so that neither spins.
const RETRY: Duration = Duration::from_millis(20);
/// How long a connection that ordered a refusal gets to take its answer.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Where a mock listens.
#[derive(Debug)]
pub enum Bind {
    /// A listener that the caller bound.
    Listener(StdListener),
    /// An address to bind; port 0 lets the kernel choose.
    Address(SocketAddr),
}

impl From<StdListener> for Bind {
    fn from(listener: StdListener) -> Self {
        Self::Listener(listener)
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

/// A running mock AI instance. Dropping it stops it.
#[derive(Debug)]
pub struct Mock {
    address: SocketAddr,
    engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Mock {
    /// Starts a mock on a thread of its own.
    ///
    /// # Errors
    /// When the address cannot be bound, the thread not be started, or the profile is out of range.
    pub fn start(bind: impl Into<Bind>, profile: MockProfile) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let name = format!("mock-{}", profile.name);
        let mut mock = Self::start_on(runtime.handle(), bind, profile)?;
        let mut stopped = mock.stop.subscribe();
        let run = move || {
            runtime.block_on(async {
                // An error means that the mock is gone, which is a stop too.
                let _ = stopped.changed().await;
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        };
        mock.thread = Some(std::thread::Builder::new().name(name).spawn(run)?);
        Ok(mock)
    }

    /// Starts a mock on a runtime that the caller drives: several can share one thread.
    ///
    /// # Errors
    /// When the address cannot be bound or the profile is out of range.
    pub fn start_on(runtime: &Handle, bind: impl Into<Bind>, profile: MockProfile) -> io::Result<Self> {
        let profile = profile.checked().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = match bind.into() {
            Bind::Listener(listener) => listener,
            Bind::Address(address) => {
                let socket = bound(address)?;
                socket.listen(BACKLOG)?;
                socket.into()
            }
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let engine = Arc::new(Engine::new(profile));
        let (stop, stopped) = watch::channel(false);
        let listener = {
            let _guard = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(serve(Arc::clone(&engine), listener, address, stopped));
        Ok(Self { address, engine, stop, thread: None })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes settings, as `POST /__mock` does, but also while the instance refuses connections.
    ///
    /// # Errors
    /// When a key is unknown or a value out of range; nothing is changed then.
    pub fn set(&self, change: &Value) -> Result<(), ProfileError> {
        self.engine.set(change)
    }

    /// What `GET /__mock` shows: the profile, counts, and what is in flight.
    pub fn state(&self) -> Value {
        views::state(&self.engine)
    }

    /// Closes the socket and all connections, and waits for the thread if it has its own.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.end();
    }
}

/// Accepts until stopped; closes and reopens the socket as refusals are ordered.
async fn serve(engine: Arc<Engine>, listener: TcpListener, address: SocketAddr, mut stopped: watch::Receiver<bool>) {
    let mut refusals = engine.refusals();
    let mut listener = Some(listener);
    let mut reserved = None;
    let mut connections = JoinSet::new();
    let (cut, _) = watch::channel(());
    loop {
        let refusal = *refusals.borrow_and_update();
        if let Some(until) = refusal.filter(|until| *until > Instant::now()) {
            drop(listener.take());
            cut.send_replace(());
            // Bound and not listening: the port stays ours, and the kernel answers every connection with a reset.
            reserved = reserved.or_else(|| bound(address).ok());
            tokio::select! {
                () = sleep_until(until) => {}
                _ = refusals.changed() => {}
                _ = stopped.changed() => return,
            }
            continue;
        }
        let Some(open) = &listener else {
            match reopen(reserved.take(), address) {
                Ok(opened) => listener = Some(opened),
                Err(_) => sleep(RETRY).await,
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&engine), stream, cut.subscribe()));
                }
                Err(_) => sleep(RETRY).await,
            },
            // Finished ones are taken out, or the set would grow with every connection ever made.
            Some(_) = connections.join_next() => {}
            Ok(()) = refusals.changed() => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Serves one connection, HTTP/1.1 or HTTP/2, until it ends or is cut.
async fn connection(engine: Arc<Engine>, stream: TcpStream, mut cut: watch::Receiver<()>) {
    // Nagle would hold tokens back; without the option the connection still works.
    let _ = stream.set_nodelay(true);
    let control = Arc::new(AtomicBool::new(false));
    let controlled = Arc::clone(&control);
    let service = service_fn(move |request| {
        let answer = service::handle(Arc::clone(&engine), Arc::clone(&controlled), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // Errors here are clients that left or spoke nonsense: nothing to tell anyone.
        _ = connection.as_mut() => return,
        _ = cut.changed() => {}
    }
    if control.load(Relaxed) {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER, connection).await;
    }
}

fn reopen(reserved: Option<Socket>, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match reserved {
        Some(socket) => socket,
        None => bound(address)?,
    };
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A bound socket that does not listen yet.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restart must not fail on connections of the last run that still linger.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
