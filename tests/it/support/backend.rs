//! A backend that answers by a script, on threads of its own, with every byte under the test's control.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;

use super::message::{Message, fill, is_loss};
use super::{PATIENCE, until};

/// A scripted HTTP/1.1 server.
///
/// Each request is handed to the script as a [`Turn`]; the connection is then kept for the next one, unless the script
/// closed it. Active health checks are answered apart, with the status that [`set_health`](Self::set_health) says, and
/// are in none of the counts. A script that panics fails the test when the backend is dropped.
pub(crate) struct TestBackend {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

struct State {
    script: Box<dyn Fn(&mut Turn<'_>) + Send + Sync>,
    stop: AtomicBool,
    /// Connections that carried a request, in all and now.
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Message>>,
    failures: Mutex<Vec<String>>,
    sockets: Mutex<Vec<TcpStream>>,
    health: AtomicU16,
    probes: AtomicUsize,
}

impl TestBackend {
    /// A backend on 127.0.0.1.
    pub(crate) fn new(script: impl Fn(&mut Turn<'_>) + Send + Sync + 'static) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), script)
    }

    /// A backend that answers every request with 200 and `text`.
    pub(crate) fn saying(text: &str) -> Self {
        let text = text.to_owned();
        Self::new(move |turn| turn.answer(200, &text))
    }

    /// A backend that can be killed and brought back at the same address: one of the loopback network that no other
    /// test has, so that nobody takes its port meanwhile.
    pub(crate) fn mortal(script: impl Fn(&mut Turn<'_>) + Send + Sync + 'static) -> Self {
        Self::at(own_address(), script)
    }

    fn at(address: SocketAddr, script: impl Fn(&mut Turn<'_>) + Send + Sync + 'static) -> Self {
        let state = Arc::new(State {
            script: Box::new(script),
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: Mutex::default(),
            failures: Mutex::default(),
            sockets: Mutex::default(),
            health: AtomicU16::new(200),
            probes: AtomicUsize::new(0),
        });
        let mut backend = Self { address, state, acceptor: None };
        backend.listen();
        backend
    }

    fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).expect("bind a backend");
        self.address = listener.local_addr().unwrap();
        self.state.stop.store(false, SeqCst);
        let state = Arc::clone(&self.state);
        self.acceptor = Some(std::thread::spawn(move || accept(&listener, &state)));
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that carried a request, since the start.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// Those of them that are open now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// Every request so far, as its bytes came.
    pub(crate) fn requests(&self) -> Vec<Message> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How many requests there were.
    pub(crate) fn count(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }

    /// Waits until there were `count` requests.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) {
        until("requests at the backend", || self.count() >= count);
    }

    /// The only request so far.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Message {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.remove(0)
    }

    /// The status that active health checks get; 0: no answer.
    pub(crate) fn set_health(&self, status: u16) {
        self.state.health.store(status, SeqCst);
    }

    /// Health checks answered.
    pub(crate) fn probes(&self) -> usize {
        self.state.probes.load(SeqCst)
    }

    /// Dies as a killed process does: its port refuses, its connections are reset.
    pub(crate) fn kill(&mut self) {
        self.state.stop.store(true, SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            // Wakes the acceptor, which then sees that it is to stop.
            let _ = TcpStream::connect(self.address);
            acceptor.join().unwrap();
        }
        for socket in self.state.sockets.lock().unwrap().drain(..) {
            let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Comes back where it was.
    pub(crate) fn revive(&mut self) {
        assert!(self.acceptor.is_none(), "it is not dead");
        self.listen();
    }
}

impl Drop for TestBackend {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            let failures = self.state.failures.lock().unwrap();
            assert!(failures.is_empty(), "a backend's script failed: {failures:#?}");
        }
    }
}

/// An address of 127.0.0.0/8 that no other part of this process uses, with port 0.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, SeqCst);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    ([127, 128 | (high & 0x7F), low, (number % 250 + 2) as u8], 0).into()
}

/// An address where nobody listens: connecting is refused at once.
pub(crate) fn refusing_address() -> SocketAddr {
    TcpListener::bind(own_address()).unwrap().local_addr().unwrap()
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    while let Ok((stream, _)) = listener.accept() {
        if state.stop.load(SeqCst) {
            return;
        }
        state.sockets.lock().unwrap().push(stream.try_clone().unwrap());
        let state = Arc::clone(state);
        std::thread::spawn(move || serve(stream, &state));
    }
}

fn serve(stream: TcpStream, state: &State) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut wire = Wire { stream, buffer: Vec::new(), closed: false };
    let mut carried = false;
    while !wire.closed {
        let Ok(Some(head)) = Message::read_head(&mut wire.stream, &mut wire.buffer) else { break };
        if head.field("user-agent").is_some_and(|agent| agent.ends_with(" health")) {
            state.probes.fetch_add(1, SeqCst);
            let status = state.health.load(SeqCst);
            if status == 0 {
                let _ = fill(&mut wire.stream, &mut wire.buffer);
                break;
            }
            let _ = wire.stream.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").as_bytes());
            break;
        }
        if !carried {
            carried = true;
            state.connections.fetch_add(1, SeqCst);
            state.open.fetch_add(1, SeqCst);
        }
        let number = {
            let mut requests = state.requests.lock().unwrap();
            requests.push(head.clone());
            requests.len() - 1
        };
        let mut turn = Turn { wire: &mut wire, state, request: head, number, body_read: false };
        let done = catch_unwind(AssertUnwindSafe(|| {
            (state.script)(&mut turn);
            if !turn.wire.closed {
                turn.read_body();
            }
        }));
        if let Err(panic) = done {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            state.failures.lock().unwrap().push(text.unwrap_or("a panic").to_owned());
            break;
        }
    }
    let _ = wire.stream.shutdown(Shutdown::Both);
    if carried {
        state.open.fetch_sub(1, SeqCst);
    }
}

/// A connection of the backend.
struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    closed: bool,
}

/// One request, to be answered.
pub(crate) struct Turn<'a> {
    wire: &'a mut Wire,
    state: &'a State,
    /// The head; and the body, once it was read.
    pub(crate) request: Message,
    /// How many requests this backend had before.
    pub(crate) number: usize,
    body_read: bool,
}

impl Turn<'_> {
    /// The connection, to write on from another thread.
    pub(crate) fn socket(&self) -> TcpStream {
        self.wire.stream.try_clone().unwrap()
    }

    /// Reads the request's body and answers, with `Content-Length`.
    pub(crate) fn answer(&mut self, status: u16, body: &str) {
        self.read_body();
        let body = if self.request.method() == "HEAD" { "" } else { body };
        self.send(format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    }

    /// Sends bytes; a peer that is gone is no failure.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends `piece` again and again until the peer takes nothing for `pause` or has `most` bytes; how many it took.
    pub(crate) fn send_until_stalled(&mut self, piece: &[u8], most: usize, pause: Duration) -> usize {
        self.wire.stream.set_write_timeout(Some(pause)).unwrap();
        let mut sent = 0;
        while sent < most {
            match self.wire.stream.write(piece) {
                Ok(written) => sent += written,
                Err(_) => break,
            }
        }
        self.wire.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        sent
    }

    /// Reads the request's body to its end, if it was not read before. Whether it was whole.
    pub(crate) fn read_body(&mut self) -> bool {
        if !self.body_read {
            self.body_read = true;
            let read = self.request.read_body(&mut self.wire.stream, &mut self.wire.buffer, None);
            read.expect("the body of a request");
            self.state.requests.lock().unwrap()[self.number] = self.request.clone();
        }
        self.request.whole
    }

    /// Reads raw bytes of the body up to and with `needle`.
    pub(crate) fn read_until(&mut self, needle: impl AsRef<[u8]>) -> Vec<u8> {
        let needle = needle.as_ref();
        loop {
            if let Some(at) = super::message::find(&self.wire.buffer, needle) {
                return self.wire.buffer.drain(..at + needle.len()).collect();
            }
            let read = fill(&mut self.wire.stream, &mut self.wire.buffer).expect("read of a request body");
            assert!(read > 0, "the request ended before {}", needle.escape_ascii());
        }
    }

    /// Reads until the peer closes or resets; what it still sent. Fails when it stays.
    pub(crate) fn until_gone(&mut self) -> Vec<u8> {
        loop {
            match fill(&mut self.wire.stream, &mut self.wire.buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_loss(&error) => break,
                Err(error) => panic!("the balancer keeps the connection: {error}"),
            }
        }
        self.close();
        std::mem::take(&mut self.wire.buffer)
    }

    /// Whether nothing of the request's body has arrived so far.
    pub(crate) fn nothing_more_arrived(&mut self) -> bool {
        self.wire.stream.set_nonblocking(true).unwrap();
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let peeked = SockRef::from(&self.wire.stream).peek(&mut byte);
        self.wire.stream.set_nonblocking(false).unwrap();
        self.wire.buffer.is_empty() && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closes politely.
    pub(crate) fn close(&mut self) {
        self.wire.closed = true;
    }

    /// Closes with a reset.
    pub(crate) fn reset(&mut self) {
        self.wire.closed = true;
        self.state.sockets.lock().unwrap().retain(|socket| {
            let other = socket.peer_addr().ok();
            other.is_some() && other != self.wire.stream.peer_addr().ok()
        });
        let _ = SockRef::from(&self.wire.stream).set_linger(Some(Duration::ZERO));
    }

    /// Closes the sending side only.
    pub(crate) fn half_close(&mut self) {
        let _ = self.wire.stream.shutdown(Shutdown::Write);
    }
}
