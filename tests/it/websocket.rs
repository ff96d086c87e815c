//! WebSocket, with a client and a server of `tokio-tungstenite`: a tunnel after the backend's 101 and not before, each
//! end's departure told to the other, counted, logged and drained like any stream.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::http2::support::{H2Backend, soon};
use crate::support::*;

type Socket = WebSocketStream<TcpStream>;
type Script = Arc<dyn Fn(Socket) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A WebSocket server on a thread of its own.
struct Server {
    address: SocketAddr,
    failures: Arc<Mutex<Vec<String>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn new<F>(script: impl Fn(Socket) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let script: Script = Arc::new(move |socket| Box::pin(script(socket)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let told = Arc::clone(&failures);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(TcpListener::from_std(listener).unwrap(), script, told) => {}
                }
            });
        });
        Self { address, failures, stop: Some(stop), thread: Some(thread) }
    }

    /// Sends every message back until the client closes.
    fn echo() -> Self {
        Self::new(|mut socket| async move {
            while let Some(Ok(message)) = socket.next().await {
                if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                    break;
                }
            }
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let failures = self.failures.lock().unwrap();
        assert!(std::thread::panicking() || failures.is_empty(), "a server's script failed: {failures:#?}");
    }
}

async fn accept(listener: TcpListener, script: Script, failures: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (script, failures) = (Arc::clone(&script), Arc::clone(&failures));
        tokio::spawn(async move {
            let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
            if let Err(error) = tokio::spawn(script(socket)).await {
                failures.lock().unwrap().push(format!("{error:?}"));
            }
        });
    }
}

async fn connect(proxy: &TestProxy) -> Socket {
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let url = format!("ws://{}/chat?x=1", proxy.address);
    soon("a handshake", tokio_tungstenite::client_async(url, stream)).await.expect("a WebSocket").0
}

async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    soon("a message", socket.next()).await
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Messages of all sizes pass both ways; the tunnel counts as one request in flight, and is logged at its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_pass_both_ways() {
    let server = Server::echo();
    let proxy = Setup::at(&[server.address]).logged().start();
    let mut socket = connect(&proxy).await;
    let large = "x".repeat(3_000_000);
    for text in ["hello", "", "ünï", &large] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(next(&mut socket).await.unwrap().unwrap().into_text().unwrap().as_str(), text);
    }
    proxy.comes_to("evenkeel_in_flight", &[], 1.0);
    proxy.comes_to("evenkeel_connections", &[], 1.0);
    // The polite end: close frames both ways, then both connections.
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = next(&mut socket).await {}
    drop(socket);
    let line = &proxy.log(1)[0];
    assert_eq!((line["status"].as_u64(), line["end"].as_str()), (Some(101), Some("ok")));
    assert!(line["bytes_in"].as_u64() > Some(3_000_000) && line["bytes_out"].as_u64() > Some(3_000_000), "{line}");
    assert_eq!((line["path"].as_str(), line["attempts"].as_u64()), (Some("/chat?x=1"), Some(1)));
    until("nothing in flight", || proxy.in_flight() == 0.0);
}

/// A server that goes, politely or not, ends the client's connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_servers_end_reaches_the_client() {
    for polite in [true, false] {
        let server = Server::new(move |mut socket| async move {
            socket.next().await.unwrap().unwrap();
            if polite {
                socket.close(None).await.unwrap();
                while let Some(Ok(_)) = socket.next().await {}
            } else {
                socket.get_ref().set_zero_linger().unwrap();
            }
        });
        let proxy = Setup::at(&[server.address]).logged().start();
        let mut socket = connect(&proxy).await;
        socket.send(Message::text("go")).await.unwrap();
        let first = next(&mut socket).await;
        if polite {
            assert!(matches!(first, Some(Ok(Message::Close(_)))), "{first:?}");
        }
        while let Some(Ok(_)) = next(&mut socket).await {}
        let end = proxy.log(1)[0]["end"].clone();
        assert_eq!(end, if polite { "ok" } else { "backend_reset" });
    }
}

/// A client that goes, politely or not, ends the backend's connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_clients_end_reaches_the_server() {
    for polite in [true, false] {
        let gone = Gate::new();
        let told = gone.clone();
        let server = Server::new(move |mut socket| {
            let told = told.clone();
            async move {
                while let Some(Ok(_)) = socket.next().await {}
                told.open();
            }
        });
        let proxy = Setup::at(&[server.address]).logged().start();
        let mut socket = connect(&proxy).await;
        socket.send(Message::text("hello")).await.unwrap();
        until("the tunnel is there", || proxy.in_flight() == 1.0);
        if !polite {
            socket.get_ref().set_zero_linger().unwrap();
        }
        drop(socket);
        gone.pass();
        until("nothing in flight", || proxy.in_flight() == 0.0);
        assert_eq!(proxy.log(1)[0]["end"], if polite { "ok" } else { "client_gone" });
    }
}

/// A backend that does not agree: its answer is an answer, and the client's connection stays HTTP.
#[test]
fn a_backend_that_does_not_agree() {
    for status in [200, 403, 426] {
        let backend = TestBackend::new(move |turn| turn.answer(status, "no"));
        let proxy = Setup::new(&[&backend]).start();
        let mut client = proxy.client();
        client.send(ASK);
        let answer = client.response();
        assert_eq!((answer.status(), answer.text().as_str()), (status, "no"));
        assert_eq!((answer.field("upgrade"), answer.field("connection")), (None, None));
        assert_eq!(client.get("/next").status(), status);
        let asked = &backend.requests()[0];
        assert_eq!((asked.field("upgrade"), asked.field("connection")), (Some("websocket"), Some("upgrade")));
        assert_eq!(asked.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(backend.requests()[1].field("upgrade"), None);
    }
}

/// Only a WebSocket is upgraded to; a 101 that nobody asked for is the backend's fault.
#[test]
fn other_upgrades_are_not_tunnelled() {
    let asks = [
        ASK.replace("Upgrade: WebSocket", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"),
        ASK.replace("Upgrade: WebSocket", "Upgrade: websocket, h2c"),
        ASK.replace("Upgrade: WebSocket", "Upgrade: TLS/1.0"),
        ASK.replace("GET ", "POST "),
        ASK.replace("HTTP/1.1", "HTTP/1.0"),
        ASK.replace("keep-alive, Upgrade", "keep-alive"),
    ];
    for ask in asks {
        let backend = TestBackend::new(|turn| {
            assert_eq!((turn.request.field("upgrade"), turn.request.field("connection")), (None, None));
            turn.send(AGREED);
            turn.send("tunnelled");
            turn.until_gone();
        });
        let proxy = Setup::new(&[&backend]).pool(|pool| pool.retry.attempts = 1).start();
        let mut client = proxy.client();
        client.send(&ask);
        let answer = client.response();
        assert_eq!(answer.status(), 502, "{ask}");
        assert!(!answer.text().contains("tunnelled"), "{ask}");
    }
    // An HTTP/2 backend is asked plainly.
    let backend = H2Backend::saying("plain");
    let proxy = crate::http2::h2c(Setup::at(&[backend.address()])).start();
    let mut client = proxy.client();
    client.send(ASK);
    assert_eq!(client.response().text(), "plain");
    assert!(!backend.only_request().headers.contains_key("upgrade"));
}

/// What the client says before the 101 is neither tunnelled early nor lost; what the backend says with it comes too.
#[test]
fn early_bytes_wait_for_the_101() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = TestBackend::new(move |turn| {
        held.pass();
        assert!(turn.nothing_more_arrived(), "bytes before the 101");
        turn.send(AGREED.to_owned() + "welcome");
        assert_eq!(turn.read_until("more"), b"early and more");
        turn.send("bye");
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(ASK.to_owned() + "early ");
    backend.wait_for(1);
    client.send("and ");
    gate.open();
    let head = client.head();
    assert_eq!(
        (head.status(), head.field("upgrade"), head.field("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    assert_eq!(head.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.send("more");
    assert_eq!(client.rest(), b"welcomebye");
}

/// And when the backend refuses, what the client said early is never taken for a request.
#[test]
fn early_bytes_are_no_request_when_the_backend_refuses() {
    let backend = TestBackend::new(|turn| turn.answer(403, "no"));
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(ASK.to_owned() + "\u{81}\u{5}early bytes of a frame\r\n\r\n");
    assert_eq!(client.response().status(), 403);
    client.rest();
    assert_eq!(backend.count(), 1);
}

/// One side may finish speaking before the other: what is still on its way arrives.
#[test]
fn last_words_arrive() {
    let backend = TestBackend::new(|turn| {
        turn.send(AGREED);
        turn.read_until("last words");
        turn.send(vec![b'x'; 1 << 20]);
        turn.close();
    });
    let proxy = Setup::new(&[&backend]).start();
    let mut client = proxy.client();
    client.send(ASK);
    client.head();
    client.send("last words");
    assert_eq!(client.rest().len(), 1 << 20);
}

/// A tunnel in which nobody speaks ends after `tunnel_idle`; one that is used does not.
#[test]
fn a_silent_tunnel_ends() {
    let backend = TestBackend::new(|turn| {
        turn.send(AGREED);
        for _ in 0..20 {
            turn.read_until("ping");
            turn.send("pong");
        }
        turn.until_gone();
    });
    let idle = |pool: &mut evenkeel::config::PoolPlan| pool.timeouts.tunnel_idle = Duration::from_millis(700);
    let proxy = Setup::new(&[&backend]).pool(idle).logged().start();
    let mut client = proxy.client();
    client.send(ASK);
    client.head();
    for _ in 0..20 {
        client.send("ping");
        client.read_until("pong");
    }
    client.assert_closed();
    assert_eq!(proxy.log(1)[0]["end"], "ok");
}

/// A drain lets tunnels go on, and ends when they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tunnels_are_drained() {
    let server = Server::echo();
    let proxy = Setup::at(&[server.address]).start();
    let address = proxy.address;
    let mut socket = connect(&proxy).await;
    socket.send(Message::text("before")).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::text("before"));
    let ended = std::thread::spawn(move || proxy.end());
    until("the listener is closed", || std::net::TcpStream::connect(address).is_err());
    socket.send(Message::text("during")).await.unwrap();
    assert_eq!(next(&mut socket).await.unwrap().unwrap(), Message::text("during"));
    assert!(!ended.is_finished());
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = next(&mut socket).await {}
    let summary = ended.join().unwrap();
    assert!(summary.clean, "{summary}");
}
