//! What was sent and what was not, where writes fail or wait.

use std::pin::Pin;
use std::sync::Arc;

use http_body::Frame;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::send::COPY_LIMIT;
use super::*;
use crate::upstream::secure::tests::configs;
use crate::upstream::{Secure, Stream, Tcp};

const NO_LIMITS: ExchangeTimeouts =
    ExchangeTimeouts { first_byte: Duration::ZERO, idle: Duration::ZERO, client_body: Duration::ZERO, total: None };

struct Once(Option<Bytes>);

impl Body for Once {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// A connection that was lost while it was idle, unnoticed: its first write fails.
#[tokio::test]
async fn a_first_write_that_fails_has_sent_nothing_and_gives_the_body_back() {
    for length in [5, COPY_LIMIT + 1] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&stream).shutdown(std::net::Shutdown::Write).unwrap();
        // What it says was said to nobody, and is no answer.
        peer.write_all(b"HTTP/1.1 408 Late\r\n\r\n").await.unwrap();
        let mut connection = Connection::new(Stream::Plain(stream.into()), &Arc::default());
        connection.head_buffer().extend_from_slice(b"POST / HTTP/1.1\r\n\r\n");
        let body = Bytes::from(vec![b'x'; length]);
        let framing = BodyFraming::Length(length as u64);
        let once = Some(Once(Some(body.clone())));
        let exchange = Exchange::new(connection, Method::POST, once, framing, Asks::default(), NO_LIMITS);
        let failed = Box::new(exchange).head(&mut Head::default(), |_| {}).await.map(drop).unwrap_err();
        let UpstreamError { fault, sent, answered } = failed.error;
        assert!(matches!(fault, Fault::Io(_)) && !sent && !answered, "{fault:?}");
        assert_eq!(failed.unsent, body);
    }
}

/// A backend over TLS that takes a body more slowly than it comes: TLS holds back the end of it when the socket is full, and
/// that must leave too, however the body is framed.
#[tokio::test]
async fn the_end_of_a_body_leaves_over_tls_as_well() {
    const LENGTH: usize = 200_000;
    let (server, client) = configs();
    for framing in [BodyFraming::Length(LENGTH as u64), BodyFraming::Chunked] {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap(); // what is accepted inherits it
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let connecting = TcpSocket::new_v4().unwrap();
        connecting.set_send_buffer_size(4096).unwrap();
        let stream = connecting.connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = listener.accept().await.unwrap().0;
        let site = ServerName::try_from("site.test").unwrap();
        let (ours, theirs) = tokio::join!(
            TlsConnector::from(Arc::clone(&client)).connect(site, Tcp::from(stream)),
            TlsAcceptor::from(Arc::clone(&server)).accept(accepted),
        );
        let mut theirs = theirs.unwrap();
        let backend = tokio::spawn(async move {
            let (mut read, mut piece) = (Vec::new(), [0; 500]);
            while read.iter().filter(|byte| **byte == b'x').count() < LENGTH
                || (framing == BodyFraming::Chunked && !read.ends_with(b"0\r\n\r\n"))
            {
                let got = theirs.read(&mut piece).await.unwrap();
                assert!(got > 0, "the end of the body is missing");
                read.extend_from_slice(&piece[..got]);
                tokio::task::yield_now().await;
            }
            theirs.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            theirs
        });
        let mut connection = Connection::new(Stream::Tls(Box::new(Secure::new(ours.unwrap()))), &Arc::default());
        connection.head_buffer().extend_from_slice(b"POST / HTTP/1.1\r\n\r\n");
        let once = Some(Once(Some(Bytes::from(vec![b'x'; LENGTH]))));
        let exchange = Box::new(Exchange::new(connection, Method::POST, once, framing, Asks::default(), NO_LIMITS));
        let mut head = Head::default();
        let answered = tokio::time::timeout(Duration::from_secs(60), exchange.head(&mut head, |_| {})).await;
        let mut body = answered.expect("the backend never had all of it").map_err(|failed| failed.error).unwrap();
        assert_eq!(head.status, StatusCode::NO_CONTENT);
        assert!(body.take_connection().is_some(), "all of it is out");
        drop(backend.await.unwrap());
    }
}
