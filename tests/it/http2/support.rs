//! An HTTP/2 client and a scripted HTTP/2 backend, of the `h2` crate: frames are its own, streams are the test's.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{PATIENCE, until};

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(what: &'static str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// One HTTP/2 connection to the balancer, with prior knowledge.
pub(crate) struct Client {
    send: h2::client::SendRequest<Bytes>,
    /// Ends when the connection does.
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

/// A response of which the body is still to come.
pub(crate) struct Begun {
    pub(crate) head: http::response::Parts,
    pub(crate) body: RecvStream,
    /// The sending half of the request, kept so that the stream is not reset before its end.
    pub(crate) _upload: SendStream<Bytes>,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Got {
    pub(crate) fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &h2::client::Builder::new()).await
    }

    pub(crate) async fn with(address: SocketAddr, builder: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).unwrap();
        let (send, connection) = soon("a handshake", builder.handshake(stream)).await.expect("handshake");
        Self { send, connection: tokio::spawn(connection) }
    }

    /// Sends a head; `end`: nothing follows.
    pub(crate) async fn begin(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut send = soon("room for a stream", self.send.clone().ready()).await?;
        send.send_request(request, end)
    }

    /// Sends a request with `body` and reads the response head.
    pub(crate) async fn open(&self, request: Request<()>, body: Option<Bytes>) -> Result<Begun, h2::Error> {
        let (answer, mut upload) = self.begin(request, body.is_none()).await?;
        if let Some(body) = body {
            upload.send_data(body, true)?;
        }
        let (head, body) = soon("a response", answer).await?.into_parts();
        Ok(Begun { head, body, _upload: upload })
    }

    /// A request and its whole response.
    pub(crate) async fn ask(&self, request: Request<()>, body: Option<Bytes>) -> Got {
        self.open(request, body).await.expect("a response").finish().await.expect("a whole response")
    }

    /// `GET path`, and its whole response.
    pub(crate) async fn get(&self, path: &str) -> Got {
        self.ask(get(path), None).await
    }
}

/// `GET path` of the host `test`.
pub(crate) fn get(path: &str) -> Request<()> {
    request("GET", path, &[])
}

/// A request to the host `test`.
pub(crate) fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

impl Begun {
    /// The next piece; `None`: the end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, h2::Error> {
        while let Some(piece) = soon("a piece of a response", self.body.data()).await.transpose()? {
            self.body.flow_control().release_capacity(piece.len())?;
            // An end without bytes of its own comes as an empty piece.
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Everything that is left.
    pub(crate) async fn finish(mut self) -> Result<Got, h2::Error> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
        }
        let trailers = soon("trailers", self.body.trailers()).await?;
        Ok(Got { head: self.head, body, trailers })
    }
}

/// A request as an HTTP/2 backend saw it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: http::Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
    /// Its END_STREAM came.
    pub(crate) whole: bool,
}

type Script = Arc<dyn Fn(Turn) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A scripted HTTP/2 server without TLS, on a thread of its own.
pub(crate) struct H2Backend {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// Streams whose script has not ended.
    streams: AtomicUsize,
    failures: Mutex<Vec<String>>,
    /// Say GOAWAY on the connections of these numbers.
    farewells: Mutex<VecDeque<usize>>,
}

impl H2Backend {
    /// A backend whose `script` answers each request.
    pub(crate) fn new<F>(script: impl Fn(Turn) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with(h2::server::Builder::new(), script)
    }

    /// As [`new`](Self::new), with settings of its own.
    pub(crate) fn with<F>(builder: h2::server::Builder, script: impl Fn(Turn) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let script: Script = Arc::new(move |turn| Box::pin(script(turn)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, builder, script, shared) => {}
                }
            });
        });
        Self { address, state, stop: Some(stop), thread: Some(thread) }
    }

    /// Answers every request with 200 and `text`.
    pub(crate) fn saying(text: &'static str) -> Self {
        Self::new(move |mut turn| async move {
            turn.read_body().await;
            turn.answer(200, text).await;
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that began with HTTP/2's preface, since the start.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// Those of them that are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// Streams being served.
    pub(crate) fn streams(&self) -> usize {
        self.state.streams.load(SeqCst)
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) {
        until("requests at the HTTP/2 backend", || self.seen().len() >= count);
    }

    #[track_caller]
    pub(crate) fn only_request(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen.remove(0)
    }

    /// Says GOAWAY on connection `number`: streams that run go on.
    pub(crate) fn say_goodbye(&self, number: usize) {
        self.state.farewells.lock().unwrap().push_back(number);
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        if !std::thread::panicking() {
            let failures = self.state.failures.lock().unwrap();
            assert!(failures.is_empty(), "a backend's script failed: {failures:#?}");
        }
    }
}

async fn accept(listener: TcpListener, builder: h2::server::Builder, script: Script, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let (builder, script, state) = (builder.clone(), Arc::clone(&script), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
            let number = state.connections.fetch_add(1, SeqCst);
            state.open.fetch_add(1, SeqCst);
            loop {
                let farewell = state.farewells.lock().unwrap().iter().position(|wanted| *wanted == number);
                if let Some(at) = farewell {
                    state.farewells.lock().unwrap().remove(at);
                    connection.graceful_shutdown();
                }
                // Looks again now and then whether it is to say goodbye.
                let Ok(next) = tokio::time::timeout(Duration::from_millis(5), connection.accept()).await else {
                    continue;
                };
                let Some(Ok((request, respond))) = next else { break };
                spawn_turn(request, respond, &script, &state);
            }
            state.open.fetch_sub(1, SeqCst);
        });
    }
}

fn spawn_turn(
    request: Request<RecvStream>,
    respond: h2::server::SendResponse<Bytes>,
    script: &Script,
    state: &Arc<State>,
) {
    let (head, body) = request.into_parts();
    let seen = Seen { method: head.method, uri: head.uri, headers: head.headers, ..Seen::default() };
    let number = {
        let mut all = state.seen.lock().unwrap();
        all.push(seen.clone());
        all.len() - 1
    };
    state.streams.fetch_add(1, SeqCst);
    let turn = Turn { seen, number, body, respond, state: Arc::clone(state) };
    let (answer, state) = (script(turn), Arc::clone(state));
    tokio::spawn(async move {
        if let Err(error) = tokio::spawn(answer).await {
            let panic = error.into_panic();
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            state.failures.lock().unwrap().push(text.unwrap_or("a panic").to_owned());
        }
        state.streams.fetch_sub(1, SeqCst);
    });
}

/// One request at an HTTP/2 backend, to be answered.
pub(crate) struct Turn {
    pub(crate) seen: Seen,
    pub(crate) number: usize,
    pub(crate) body: RecvStream,
    pub(crate) respond: h2::server::SendResponse<Bytes>,
    state: Arc<State>,
}

impl Turn {
    /// Reads the request's body; whether it was whole.
    pub(crate) async fn read_body(&mut self) -> bool {
        loop {
            match soon("a request body", self.body.data()).await {
                Some(Ok(piece)) => {
                    self.seen.body.extend_from_slice(&piece);
                    let _ = self.body.flow_control().release_capacity(piece.len());
                }
                Some(Err(_)) => break,
                None => {
                    let trailers = self.body.trailers().await;
                    self.seen.whole = trailers.is_ok();
                    self.seen.trailers = trailers.ok().flatten();
                    break;
                }
            }
        }
        self.state.seen.lock().unwrap()[self.number] = self.seen.clone();
        self.seen.whole
    }

    /// Sends a response head.
    pub(crate) fn head(&mut self, status: u16, fields: &[(&str, &str)], end: bool) -> Option<SendStream<Bytes>> {
        let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        self.respond.send_response(response.body(()).unwrap(), end).ok()
    }

    /// A whole answer.
    pub(crate) async fn answer(&mut self, status: u16, body: impl Into<Bytes>) {
        let body = body.into();
        let length = body.len().to_string();
        let bodiless = matches!(status, 204 | 304) || self.seen.method == Method::HEAD;
        let fields: &[(&str, &str)] = if status == 204 { &[] } else { &[("content-length", &length)] };
        let Some(mut stream) = self.head(status, fields, bodiless) else { return };
        if !bodiless {
            send_all(&mut stream, body, true).await;
        }
    }

    /// Waits until the peer gives the stream up.
    pub(crate) async fn until_reset(&mut self) -> h2::Reason {
        soon("a reset", std::future::poll_fn(|cx| self.respond.poll_reset(cx))).await.unwrap_or(h2::Reason::CANCEL)
    }
}

/// Sends `data` as the peer takes it; whether it took all.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> bool {
    if data.is_empty() {
        return stream.send_data(data, end).is_ok();
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(64 << 10));
        let room = soon("room for data", std::future::poll_fn(|cx| stream.poll_capacity(cx))).await;
        let Some(Ok(room)) = room else { return false };
        let piece = data.split_to(room.min(data.len()));
        if stream.send_data(piece, end && data.is_empty()).is_err() {
            return false;
        }
    }
    true
}
