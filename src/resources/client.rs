//! A keep-alive HTTP/1.1 client for sources: one connection, one question at a time, answers of bounded size. Connections
//! are kept because a fresh one per scrape would cost more than the scrape.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::tls::{Alpn, Connector};
use crate::upstream::{Secure, Stream, Tcp};

/// Bytes of one answer: vLLM's are about 100 KiB, a node exporter's a few hundred.
const MOST_BYTES: usize = 8 * 1024 * 1024;

const AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"), " resources");

/// A connection to one source, opened when it is needed.
#[derive(Debug, Default)]
pub(super) struct Client {
    open: Option<(SocketAddr, SendRequest<Empty<Bytes>>)>,
}

impl Client {
    /// The body of an answer of 200 to `GET target` at `address`; every other is an error. As [`answer`](Self::answer).
    pub(super) async fn get(
        &mut self,
        address: SocketAddr,
        host: &str,
        target: &str,
        secure: Option<&Connector>,
    ) -> Result<Bytes, String> {
        match self.answer(address, host, target, secure).await? {
            (StatusCode::OK, body) => Ok(body),
            (status, _) => Err(format!("status {}", status.as_u16())),
        }
    }

    /// `GET target` at `address`: status and body. A kept connection that turns out to be closed is replaced once.
    /// Dropping the future (a timeout) closes the connection.
    pub(super) async fn answer(
        &mut self,
        address: SocketAddr,
        host: &str,
        target: &str,
        secure: Option<&Connector>,
    ) -> Result<(StatusCode, Bytes), String> {
        if let Some((_, mut sender)) =
            self.open.take().filter(|(known, sender)| *known == address && !sender.is_closed())
            && let Ok(answer) = ask(&mut sender, host, target).await
        {
            self.open = Some((address, sender));
            return answer.done();
        }
        let stream = TcpStream::connect(address).await.map_err(|error| format!("cannot connect: {error}"))?;
        let _ = stream.set_nodelay(true);
        let stream = match secure {
            None => Stream::Plain(stream.into()),
            Some(connector) => {
                let shaken = connector.connect(Tcp::from(stream), Alpn::Http1).await;
                Stream::Tls(Box::new(Secure::new(shaken.map_err(|error| format!("TLS handshake: {error}"))?)))
            }
        };
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // It ends with its sender; an error reaches whoever asks.
        tokio::spawn(async move { drop(connection.await) });
        let answer = ask(&mut sender, host, target).await?;
        self.open = Some((address, sender));
        answer.done()
    }
}

struct Answer {
    status: StatusCode,
    body: Option<Bytes>,
}

impl Answer {
    fn done(self) -> Result<(StatusCode, Bytes), String> {
        let body = self.body.ok_or_else(|| format!("the answer has more than {MOST_BYTES} bytes"))?;
        Ok((self.status, body))
    }
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, host: &str, target: &str) -> Result<Answer, String> {
    let request = Request::get(target).header(HOST, host).header(USER_AGENT, AGENT).header(ACCEPT, "*/*");
    let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
    sender.ready().await.map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MOST_BYTES {
            return Ok(Answer { status, body: None });
        }
    }
    Ok(Answer { status, body: Some(bytes.freeze()) })
}
