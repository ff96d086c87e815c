//! The handshake with a client. Its arithmetic takes a third of a millisecond; a burst of new clients takes turns with
//! the requests of others.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;

use super::Server;
use super::x509::Certificate;

/// Handshakes that go a step further between two looks at the sockets: all that a busy connection waits for strangers. A
/// look costs microseconds, so there is nothing to be won by more.
const AT_ONCE: usize = 1;

/// Handshakes of a listener by how they ended.
#[derive(Debug, Default)]
pub struct Counts {
    /// A connection came about.
    pub done: AtomicU64,
    /// The client, or we, gave up.
    pub failed: AtomicU64,
    /// `tls_handshake_timeout` passed.
    pub timed_out: AtomicU64,
}

/// Lets the handshakes of one worker take turns with its requests.
#[derive(Debug)]
pub struct HandshakeGate(Semaphore);

impl Default for HandshakeGate {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// Shakes hands with a client; the caller watches the time. Every step of it, not only the first, takes its turn: with
/// TLS 1.2 and with client certificates there is arithmetic in the second too.
///
/// # Errors
/// What the client, or rustls, did not agree with. The client has been sent the alert.
pub async fn accept<S>(server: &Server, stream: TcpStream, gate: &HandshakeGate) -> io::Result<TlsStream<S>>
where
    S: From<TcpStream> + AsyncRead + AsyncWrite + Unpin,
{
    // A client that says nothing holds no place. (That a fresh socket is said to be readable does not mean that it is.)
    stream.peek(&mut [0; 1]).await?;
    let mut handshake = server.acceptor().accept(S::from(stream));
    loop {
        let turn = gate.0.acquire().await;
        let (step, stirred) = poll_fn(|cx| {
            let stirred = Arc::new(Stirred { task: cx.waker().clone(), yet: AtomicBool::new(false) });
            let waker = Waker::from(Arc::clone(&stirred));
            Poll::Ready((Pin::new(&mut handshake).poll(&mut Context::from_waker(&waker)), stirred))
        })
        .await;
        // The runtime looks at all sockets before a task that yields goes on.
        tokio::task::yield_now().await;
        drop(turn);
        if let Poll::Ready(done) = step {
            return done;
        }
        // Bytes to read, or room to write: whatever the handshake waits for.
        poll_fn(|_| if stirred.yet.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// Tells whether what a handshake waits for has come, apart from whatever else wakes its task.
struct Stirred {
    task: Waker,
    yet: AtomicBool,
}

impl Wake for Stirred {
    fn wake(self: Arc<Self>) {
        self.yet.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// The subject of the certificate that a client has shown and proved.
pub fn subject(tls: &CommonState) -> Option<Box<str>> {
    let leaf = tls.peer_certificates()?.first()?;
    Certificate::parse(leaf).map(|certificate| certificate.subject.into_boxed_str())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::rc::Rc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::config::{CertificatePlan, ListenerTlsPlan, Secret, TlsVersion};

    const CLIENTS: usize = 20;

    /// A server for `site.test`, and a client that trusts it.
    fn both() -> (Server, Arc<ClientConfig>) {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        let made = rcgen::generate_simple_self_signed(vec!["site.test".to_owned()]).unwrap();
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let plan = ListenerTlsPlan {
            certificates: vec![CertificatePlan { cert, key: Secret::File(key) }],
            client_ca: None,
            subject_header: None,
            min_version: TlsVersion::V12,
        };
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(super::super::provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
        let client = builder.with_root_certificates(roots).with_no_client_auth();
        (Server::build(&plan, false, None).unwrap(), Arc::new(client))
    }

    /// Sends what is to be sent, takes what is there; whether anything was.
    fn exchange(client: &mut ClientConnection, socket: &mut std::net::TcpStream) -> bool {
        while client.wants_write() {
            client.write_tls(socket).unwrap();
        }
        let mut bytes = [0; 8192];
        match socket.read(&mut bytes) {
            Ok(count) => {
                assert!(count > 0, "the server left");
                client.read_tls(&mut &bytes[..count]).unwrap();
                client.process_new_packets().unwrap();
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    /// A crowd that connects, waits, and then speaks all at once: between two looks of the runtime at its sockets only so
    /// many of them are answered, in the first flight and in the second.
    #[test]
    fn a_burst_of_handshakes_takes_turns() {
        let (server, config) = both();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        // As a worker's is.
        let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (server, gate) = (Rc::new(server), Rc::new(HandshakeGate::default()));
            let (mut clients, mut handshakes) = (Vec::new(), Vec::new());
            for _ in 0..CLIENTS {
                let socket = std::net::TcpStream::connect(address).unwrap();
                socket.set_nonblocking(true).unwrap();
                let name = ServerName::try_from("site.test").unwrap();
                clients.push((ClientConnection::new(Arc::clone(&config), name).unwrap(), socket));
                let (stream, _) = listener.accept().await.unwrap();
                let (server, gate) = (Rc::clone(&server), Rc::clone(&gate));
                handshakes
                    .push(tokio::task::spawn_local(async move { accept::<TcpStream>(&server, stream, &gate).await }));
            }
            // All of them are parked at a socket that has said nothing.
            for _ in 0..4 * CLIENTS {
                tokio::task::yield_now().await;
            }
            let mut answered = 0;
            while clients.iter().any(|(client, _)| client.is_handshaking()) {
                for (client, socket) in &mut clients {
                    while client.wants_write() {
                        client.write_tls(socket).unwrap();
                    }
                }
                // One look.
                tokio::task::yield_now().await;
                let now =
                    clients.iter_mut().filter_map(|(client, socket)| exchange(client, socket).then_some(())).count();
                assert!(now <= AT_ONCE, "{now} at once");
                answered += now;
            }
            assert_eq!(answered, 2 * CLIENTS, "two flights each");
            for (handshake, (_, socket)) in handshakes.into_iter().zip(&mut clients) {
                assert!(handshake.await.unwrap().is_ok());
                let _ = socket.flush();
            }
        });
    }
}
