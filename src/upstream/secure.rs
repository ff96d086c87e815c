//! TLS over TCP, read no more often than there is something. tokio-rustls' own `poll_read` asks until the buffer is full or
//! the socket has nothing: for a request or a small response that is one vain attempt each, some 600 of 21,500 instructions.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::CommonState;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::tcp::Tcp;

/// Bytes of a full record (RFC 8446 section 5.1): more is likely behind it.
const FULL_RECORD: usize = 16 * 1024;

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Secure {
    stream: TlsStream<Tcp>,
    /// Met behind bytes that went first.
    error: Option<io::Error>,
}

impl Secure {
    /// Of a finished handshake, as client or as server.
    pub fn new(stream: impl Into<TlsStream<Tcp>>) -> Self {
        Self { stream: stream.into(), error: None }
    }

    /// The socket underneath.
    pub fn socket(&self) -> &Tcp {
        self.stream.get_ref().0
    }

    /// What was agreed on, and what is waiting.
    pub fn tls(&self) -> &CommonState {
        self.stream.get_ref().1
    }

    /// Whether a read may bring something without the socket: what TLS has read already, an end, or an error.
    pub fn holds(&self) -> bool {
        self.error.is_some() || !self.tls().wants_read()
    }
}

impl AsyncRead for Secure {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(error) = this.error.take() {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        loop {
            let found = match Pin::new(&mut this.stream).poll_fill_buf(cx) {
                Poll::Ready(Ok(data)) => data,
                Poll::Ready(Err(error)) if buf.filled().len() > before => {
                    this.error = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            let taken = found.len().min(buf.remaining());
            let may_go_on = found.len() >= FULL_RECORD;
            buf.put_slice(&found[..taken]);
            Pin::new(&mut this.stream).consume(taken);
            // What TLS holds already costs no look at the socket. At the end nothing is taken.
            let goes_on = taken > 0 && buf.remaining() > 0 && (may_go_on || !this.tls().wants_read());
            if !goes_on {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Secure {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Nearly always nothing is held back, and the socket needs no flush.
    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.tls().wants_write() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
    use tokio::io::AsyncReadExt as _;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    type Client = StreamOwned<ClientConnection, std::net::TcpStream>;

    /// A server for `site.test`, and a client that trusts it.
    pub(in crate::upstream) fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let made = rcgen::generate_simple_self_signed(vec!["site.test".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let key = made.signing_key.serialize_der().try_into().unwrap();
        let server =
            server.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        (Arc::new(server), Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }

    /// A connection of ours, and its client, which runs on a thread of its own.
    async fn pair<T: Send + 'static>(
        client: impl FnOnce(Client) -> T + Send + 'static,
    ) -> (Secure, std::thread::JoinHandle<T>) {
        let (server, config) = configs();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let tls = ClientConnection::new(config, ServerName::try_from("site.test").unwrap()).unwrap();
            client(StreamOwned::new(tls, std::net::TcpStream::connect(address).unwrap()))
        });
        let (socket, _) = listener.accept().await.unwrap();
        let shaken = TlsAcceptor::from(server).accept(Tcp::from(socket)).await.unwrap();
        (Secure::new(shaken), thread)
    }

    /// Records of all sizes, read into rooms of all sizes: each byte once, in order, and then the end, again and again.
    #[tokio::test]
    async fn every_byte_comes_once_and_the_end_stays() {
        let sent: Vec<u8> = (0..600_000u32).map(|at| (at / 251) as u8).collect();
        let copy = sent.clone();
        let (mut ours, thread) = pair(move |mut client| {
            let mut rest = copy.as_slice();
            for size in [1, 100, 16_384, 20_000, 5, 70_000, 16_383].into_iter().cycle() {
                let (piece, behind) = rest.split_at(size.min(rest.len()));
                client.write_all(piece).unwrap();
                client.flush().unwrap();
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            client.conn.send_close_notify();
            client.flush().unwrap();
            client
        })
        .await;
        let mut got = Vec::new();
        for room in [10, 4096, 1, 300_000, 16_384, 40_000].into_iter().cycle() {
            let mut buffer = vec![0; room];
            let read = ours.read(&mut buffer).await.unwrap();
            if read == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..read]);
        }
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        assert_eq!(ours.read(&mut [0; 10]).await.unwrap(), 0);
        drop(thread.join().unwrap());
    }

    /// A connection that is cut off behind full records: what came is given first, then the error, which is not lost.
    #[tokio::test]
    async fn an_end_without_a_word_is_an_error_behind_the_bytes() {
        let (mut ours, thread) = pair(|mut client| {
            client.write_all(&[b'x'; 32 * 1024]).unwrap();
            client.flush().unwrap();
            client.sock.shutdown(std::net::Shutdown::Write).unwrap();
            // Until the other side is done.
            let _ = client.sock.read(&mut [0; 1]);
        })
        .await;
        let (mut got, mut buffer) = (0, vec![0; 100_000]);
        let error = loop {
            match ours.read(&mut buffer).await {
                Ok(0) => panic!("a polite end"),
                Ok(read) => got += read,
                Err(error) => break error,
            }
        };
        assert_eq!((got, error.kind()), (32 * 1024, io::ErrorKind::UnexpectedEof));
        drop(ours);
        thread.join().unwrap();
    }
}
