//! One worker: a thread with a `current_thread` runtime, its own listening sockets, its own request path.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use super::accept;
use super::connection::{self, Entry};
use super::{ListenerShared, entrance};
use crate::clock;
use crate::proxy::{Proxy, Shared};
use crate::tls::HandshakeGate;

/// Names a listener for the life of the process.
pub type ListenerId = usize;

/// What the control plane tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Listen on this socket too.
    Listen {
        /// Its name.
        id: ListenerId,
        /// The worker's own socket.
        socket: std::net::TcpListener,
        /// What all workers share of it.
        shared: Arc<ListenerShared>,
    },
    /// Stop accepting there; connections go on.
    Close(ListenerId),
    /// End connections there that were let in with less trust than this, as soon as it is polite.
    Outdate {
        /// Where.
        listener: ListenerId,
        /// Of [`Settings`](super::Settings).
        trust: u64,
    },
    /// Stop accepting everywhere, end connections as soon as it is polite.
    Drain,
    /// Serve a connection that another worker accepted.
    Adopt {
        /// The connection.
        stream: StdStream,
        /// Its other end.
        peer: SocketAddr,
        /// Where it was accepted.
        listener: ListenerId,
        /// The address of that listener.
        address: SocketAddr,
        /// What all workers share of it: this one may not have been told of the listener yet.
        shared: Arc<ListenerShared>,
    },
    /// End now, whatever goes on.
    Stop,
}

/// How many connections each worker has; shared by all of them.
#[derive(Debug)]
pub struct Census {
    workers: Box<[AtomicUsize]>,
    /// Idle upstream connections are counted by the control plane's question, open ones here.
    most: usize,
    /// Sweeps of each worker so far: one that stands still does not count on.
    beats: Box<[AtomicU64]>,
    /// Accept loops that run: one that is told to end first takes what the kernel has queued.
    accepting: AtomicUsize,
}

impl Census {
    /// For `workers` workers that together hold at most `most` connections.
    pub fn new(workers: usize, most: usize) -> Arc<Self> {
        let beats = (0..workers).map(|_| AtomicU64::new(0)).collect();
        let workers = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Self { workers, most, beats, accepting: AtomicUsize::new(0) })
    }

    /// Connections in all.
    pub fn total(&self) -> usize {
        self.workers.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Whether any worker still takes connections.
    pub fn is_accepting(&self) -> bool {
        self.accepting.load(SeqCst) > 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.total() >= self.most
    }

    /// Connections of each worker.
    pub fn per_worker(&self) -> Vec<usize> {
        self.workers.iter().map(|count| count.load(Relaxed)).collect()
    }

    /// How often each worker has looked at its deadlines: proof that it goes on.
    pub fn beats(&self) -> Vec<u64> {
        self.beats.iter().map(|count| count.load(Relaxed)).collect()
    }

    fn beat(&self, worker: usize) {
        if let Some(count) = self.beats.get(worker) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn enter(&self, worker: usize) {
        if let Some(count) = self.workers.get(worker) {
            count.fetch_add(1, Relaxed);
        }
    }

    fn leave(&self, worker: usize) {
        if let Some(count) = self.workers.get(worker) {
            count.fetch_sub(1, Relaxed);
        }
    }

    /// The worker to hand a new connection to instead of `this` one: when this has at least two more than the idlest,
    /// and an eighth of all more. With few connections (long HTTP/2 ones) that keeps the halves within one of each
    /// other; with many, where chance spreads them well, hardly any is handed over.
    pub(super) fn idler_than(&self, this: usize) -> Option<usize> {
        let own = self.workers.get(this)?.load(Relaxed);
        let (other, least) =
            self.workers.iter().map(|count| count.load(Relaxed)).enumerate().min_by_key(|(_, count)| *count)?;
        let margin = 2.max(self.total() / 8);
        (other != this && own + 1 >= least + margin).then_some(other)
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    commands: mpsc::UnboundedSender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What the tasks of one worker share.
pub(super) struct WorkerState {
    pub(super) index: usize,
    pub(super) census: Arc<Census>,
    proxy: Rc<Proxy>,
    listeners: RefCell<HashMap<ListenerId, Open>>,
    entries: RefCell<HashMap<u64, (ListenerId, Rc<Entry>)>>,
    next_entry: std::cell::Cell<u64>,
    draining: std::cell::Cell<bool>,
    gate: HandshakeGate,
    siblings: Arc<std::sync::OnceLock<Vec<mpsc::UnboundedSender<Command>>>>,
}

/// A listener as one worker knows it.
pub(super) struct Listening {
    pub(super) id: ListenerId,
    pub(super) address: SocketAddr,
    pub(super) shared: Arc<ListenerShared>,
}

struct Open {
    listening: Rc<Listening>,
    close: Option<oneshot::Sender<()>>,
}

impl Worker {
    /// Starts `count` workers that know each other.
    ///
    /// # Errors
    /// No thread or runtime can be made.
    pub fn start(count: usize, shared: &Arc<Shared>, census: &Arc<Census>) -> io::Result<Vec<Self>> {
        let siblings = Arc::new(std::sync::OnceLock::new());
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            let (commands, inbox) = mpsc::unbounded_channel();
            let mut builder = Builder::new_current_thread();
            let (shared, census, siblings) = (Arc::clone(shared), Arc::clone(census), Arc::clone(&siblings));
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let runtime = match builder.enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        tracing::error!(worker = index, "no runtime for a worker: {error}");
                        return;
                    }
                };
                // Chance differs between workers and starts.
                let seed = rand::random();
                let state = Rc::new(WorkerState {
                    index,
                    census,
                    proxy: Rc::new(Proxy::new(shared, seed)),
                    listeners: RefCell::default(),
                    entries: RefCell::default(),
                    next_entry: std::cell::Cell::new(0),
                    draining: std::cell::Cell::new(false),
                    gate: HandshakeGate::default(),
                    siblings,
                });
                // When it returns, every task of this worker is dropped with the runtime, and its connections close.
                runtime.block_on(state.run(inbox));
            })?;
            workers.push(Self { commands, thread: Some(thread) });
        }
        // INVARIANT: set once, here.
        let _ = siblings.set(workers.iter().map(|worker| worker.commands.clone()).collect());
        Ok(workers)
    }

    /// Tells the worker something. A worker that has ended hears nothing.
    pub fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Waits until the worker's thread has ended. `false`: it panicked.
    pub fn join(mut self) -> bool {
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

impl WorkerState {
    async fn run(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let sweeper = Rc::clone(&self);
        tokio::task::spawn_local(clock::run_sweep(move || {
            sweeper.proxy.sweep();
            sweeper.census.beat(sweeper.index);
        }));
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Listen { id, socket, shared } => self.listen(id, socket, shared),
                Command::Close(id) => self.close(id),
                Command::Outdate { listener, trust } => self.outdate(listener, trust),
                Command::Drain => self.drain(),
                Command::Adopt { stream, peer, listener, address, shared } => {
                    let known = self.listeners.borrow().get(&listener).map(|open| Rc::clone(&open.listening));
                    let listening = known.unwrap_or_else(|| Rc::new(Listening { id: listener, address, shared }));
                    self.adopt(stream, peer, &listening);
                }
                Command::Stop => return,
            }
        }
    }

    fn listen(self: &Rc<Self>, id: ListenerId, socket: std::net::TcpListener, shared: Arc<ListenerShared>) {
        let opened = TcpListener::from_std(socket).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(worker = self.index, "cannot listen: {error}");
                return;
            }
        };
        let listening = Rc::new(Listening { id, address, shared });
        let (close, closed) = oneshot::channel();
        let open = Open { listening: Rc::clone(&listening), close: Some(close) };
        self.listeners.borrow_mut().insert(id, open);
        let worker = Rc::clone(self);
        self.census.accepting.fetch_add(1, SeqCst);
        tokio::task::spawn_local(async move {
            let census = Arc::clone(&worker.census);
            accept::run(socket, listening, worker, closed).await;
            census.accepting.fetch_sub(1, SeqCst);
        });
    }

    /// The accept loop ends and takes the backlog; the listener stays known for connections handed over late.
    fn close(&self, id: ListenerId) {
        if let Some(open) = self.listeners.borrow_mut().get_mut(&id)
            && let Some(close) = open.close.take()
        {
            let _ = close.send(());
        }
    }

    fn drain(&self) {
        self.draining.set(true);
        let ids: Vec<ListenerId> = self.listeners.borrow().keys().copied().collect();
        for id in ids {
            self.close(id);
        }
        for (_, entry) in self.entries.borrow().values() {
            entry.drain();
        }
    }

    fn outdate(&self, listener: ListenerId, trust: u64) {
        for (at, entry) in self.entries.borrow().values() {
            if *at == listener && entry.trust.get().is_some_and(|had| had < trust) {
                entry.outdated.set(true);
                entry.drain();
            }
        }
    }

    fn adopt(self: &Rc<Self>, stream: StdStream, peer: SocketAddr, listening: &Rc<Listening>) {
        if let Ok(stream) = TcpStream::from_std(stream) {
            self.begin(stream, peer, listening);
        }
        // It was counted while it was on its way; what has begun counts itself.
        self.census.leave(self.index);
    }

    /// Hands a connection to another worker, and counts it there at once: else all that arrive before the other has
    /// looked would follow it. A worker that has ended takes nothing; then it is served here.
    pub(super) fn hand_over(
        self: &Rc<Self>,
        other: usize,
        stream: StdStream,
        peer: SocketAddr,
        listening: &Rc<Listening>,
    ) {
        self.census.enter(other);
        let (listener, address, shared) = (listening.id, listening.address, Arc::clone(&listening.shared));
        let command = Command::Adopt { stream, peer, listener, address, shared };
        let back = match self.siblings.get().and_then(|siblings| siblings.get(other)) {
            Some(sibling) => sibling.send(command).err().map(|back| back.0),
            None => Some(command),
        };
        if let Some(Command::Adopt { stream, .. }) = back {
            self.census.leave(other);
            if let Ok(stream) = TcpStream::from_std(stream) {
                self.begin(stream, peer, listening);
            }
        }
    }

    /// Serves a connection in a task of its own. A panic there ends that connection and no other.
    pub(super) fn begin(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, listening: &Rc<Listening>) {
        let entry = Rc::new(Entry::default());
        if self.draining.get() {
            entry.drain();
        }
        let number = self.next_entry.get();
        self.next_entry.set(number + 1);
        self.entries.borrow_mut().insert(number, (listening.id, Rc::clone(&entry)));
        let counted = Counted::new(Rc::clone(self), Rc::clone(listening), number);
        let (proxy, worker, listening) = (Rc::clone(&self.proxy), Rc::clone(self), Rc::clone(listening));
        tokio::task::spawn_local(async move {
            if let Some(admitted) = entrance::pass(stream, peer, &listening, &worker.gate, &entry).await {
                connection::serve(admitted, proxy, &entry).await;
            }
            drop(counted);
        });
    }
}

/// One open connection in every count, until dropped.
struct Counted {
    worker: Rc<WorkerState>,
    listening: Rc<Listening>,
    number: u64,
}

impl Counted {
    fn new(worker: Rc<WorkerState>, listening: Rc<Listening>, number: u64) -> Self {
        worker.census.enter(worker.index);
        listening.shared.connections.fetch_add(1, Relaxed);
        Self { worker, listening, number }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.worker.census.leave(self.worker.index);
        self.listening.shared.connections.fetch_sub(1, Relaxed);
        self.worker.entries.borrow_mut().remove(&self.number);
    }
}
