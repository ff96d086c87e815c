//! One question to one backend, over a fresh connection, within the pool's `health.timeout`.
//!
//! An HTTP probe is a small `GET` in the protocol that the backend speaks, over TLS where its requests go over TLS. A
//! backend's bytes are hostile here too: the head is bounded by hyper's buffer, of the body only [`BODY_LIMIT`] bytes are
//! read, and nothing outlives the timeout.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpStream, lookup_host};

use super::grpc;
use crate::backend::{Backend, ProbeReport, ProbeResult};
use crate::clock;
use crate::config::{Address, PoolPlan, ProbeKind, Protocol};
use crate::tls::{Alpn, Clients};
use crate::upstream::{Secure, Stream, Tcp, is_shortage};

/// Bytes of a probe's response body that are read: enough for any health page, so that a polite backend is not cut off.
pub(super) const BODY_LIMIT: usize = 64 * 1024;

/// hyper's bound on the response head; its least is 8 KiB.
const HEAD_LIMIT: usize = 16 * 1024;

const AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"), " health");

/// Asks `backend` once, as `plan` says.
pub async fn probe(backend: &Backend, plan: &PoolPlan, clients: &Clients) -> ProbeReport {
    let start = clock::now();
    let (result, detail) = match tokio::time::timeout(plan.health.timeout, ask(backend, plan, clients)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(Trouble(result, detail))) => (result, detail),
        Err(_) => (ProbeResult::TimedOut, format!("no answer within {:?}", plan.health.timeout)),
    };
    ProbeReport { result, detail, took: clock::now().saturating_duration_since(start) }
}

/// What was found, or why nothing could be.
pub(super) type Answer = Result<(ProbeResult, String), Trouble>;

/// Why nothing could be found; the backend's fault unless said otherwise.
#[derive(Debug)]
pub(super) struct Trouble(ProbeResult, String);

impl From<String> for Trouble {
    fn from(detail: String) -> Self {
        Self(ProbeResult::Failed, detail)
    }
}

impl Trouble {
    fn of_connect(error: &io::Error) -> Self {
        let result = if is_shortage(error) { ProbeResult::Starved } else { ProbeResult::Failed };
        Self(result, format!("cannot connect: {error}"))
    }
}

async fn ask(backend: &Backend, plan: &PoolPlan, clients: &Clients) -> Answer {
    match plan.health.kind {
        ProbeKind::Tcp => {
            connect(&backend.address).await.map_err(|error| Trouble::of_connect(&error))?;
            Ok((ProbeResult::Passed, "connected".to_owned()))
        }
        ProbeKind::Http => {
            let stream = reach(backend, plan, clients, Alpn::of(plan.protocol)).await?;
            let http2 = plan.protocol == Protocol::H2c || stream.alpn() == Some(b"h2");
            if http2 { over_http2(stream, backend, plan).await } else { over_http1(stream, backend, plan).await }
        }
        ProbeKind::Grpc => {
            let alpn = Alpn::of(plan.protocol).map(|_| Alpn::Http2);
            over_grpc(reach(backend, plan, clients, alpn).await?, backend, plan).await
        }
        ProbeKind::None => Ok((ProbeResult::Passed, "not checked".to_owned())),
    }
}

/// A connection as requests use it.
async fn reach(backend: &Backend, plan: &PoolPlan, clients: &Clients, alpn: Option<Alpn>) -> Result<Stream, Trouble> {
    let stream = connect(&backend.address).await.map_err(|error| Trouble::of_connect(&error))?;
    let connector = clients.connector(plan, &backend.name).map_err(told("no TLS"))?;
    let (Some(connector), Some(alpn)) = (connector, alpn) else { return Ok(Stream::Plain(stream.into())) };
    let stream = connector.connect(Tcp::from(stream), alpn).await.map_err(told("TLS handshake"))?;
    Ok(Stream::Tls(Box::new(Secure::new(stream))))
}

/// Tries the addresses in turn.
async fn connect(address: &Address) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match address {
        Address::Ip(address) => vec![*address],
        Address::Name { host, port } => lookup_host((host.as_str(), *port)).await?.collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn over_http1(stream: Stream, backend: &Backend, plan: &PoolPlan) -> Answer {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(told("no HTTP"))?;
    let request = Request::get(target(plan)).header(HOST, backend.address.to_string()).header(CONNECTION, "close");
    let request = request.header(USER_AGENT, AGENT).body(Empty::<Bytes>::new()).map_err(told("bad path"))?;
    let exchange = async move { judge(sender.send_request(request).await, plan).await };
    drive(exchange, connection).await
}

async fn over_http2(stream: Stream, backend: &Backend, plan: &PoolPlan) -> Answer {
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(HEAD_LIMIT as u32)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(told("no HTTP/2"))?;
    let request =
        Request::get(format!("{}://{}{}", scheme(plan), backend.address, target(plan))).version(Version::HTTP_2);
    let request = request.header(USER_AGENT, AGENT).body(Empty::<Bytes>::new()).map_err(told("bad path"))?;
    let exchange = async move { judge(sender.send_request(request).await, plan).await };
    drive(exchange, connection).await
}

/// `grpc.health.v1.Health/Check` for the service that `path` names; none: the server as a whole.
async fn over_grpc(stream: Stream, backend: &Backend, plan: &PoolPlan) -> Answer {
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(HEAD_LIMIT as u32)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(told("no HTTP/2"))?;
    let request = Request::post(format!("{}://{}/grpc.health.v1.Health/Check", scheme(plan), backend.address))
        .version(Version::HTTP_2)
        .header(USER_AGENT, AGENT)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(grpc::request(&plan.health.path)))
        .map_err(told("bad service name"))?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(|error| cause(&error))?;
        grpc::judge(response).await
    };
    drive(exchange, connection).await
}

/// Runs the exchange and the connection it goes over, in this task.
async fn drive<C>(exchange: impl Future<Output = Answer>, connection: C) -> Answer
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The connection is over; what it had received is still handed to the exchange, or its error is.
        _ = connection => exchange.await,
    }
}

async fn judge(response: hyper::Result<Response<Incoming>>, plan: &PoolPlan) -> Answer {
    let response = response.map_err(|error| cause(&error))?;
    let status = response.status();
    let expected = plan.health.expect_status.iter().any(|(from, to)| (*from..=*to).contains(&status.as_u16()));
    let body = beginning(response.into_body()).await;
    let detail = format!("status {}", status.as_u16());
    if expected {
        return Ok((ProbeResult::Passed, detail));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        if plan.engine.is_loading(&body) {
            return Ok((ProbeResult::Loading, format!("{detail}: loading")));
        }
        if plan.engine.profile().full_is_503 {
            return Ok((ProbeResult::Busy, format!("{detail}: full, if it works")));
        }
    }
    Ok((ProbeResult::Failed, detail))
}

/// The first bytes of a body; an error amid it is no matter, the status has told all.
async fn beginning(mut body: Incoming) -> BytesMut {
    let mut bytes = BytesMut::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > BODY_LIMIT {
                break;
            }
        }
    };
    // A body that does not end must not turn a good status into a timeout.
    let _ = tokio::time::timeout(BODY_PATIENCE, reading).await;
    bytes
}

/// How long the rest of a health page may take once its head is here: it comes in the same packet as a rule.
const BODY_PATIENCE: Duration = Duration::from_millis(200);

fn scheme(plan: &PoolPlan) -> &'static str {
    if plan.protocol.is_plain() { "http" } else { "https" }
}

/// The path to ask for.
fn target(plan: &PoolPlan) -> &str {
    if plan.health.path.is_empty() { plan.engine.profile().health_path } else { &plan.health.path }
}

/// Turns an error into words behind `what`.
fn told<E: Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// hyper's own words are general; the innermost cause says what happened.
fn cause(error: &hyper::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if inner.to_string() == error.to_string() { error.to_string() } else { format!("{error}: {inner}") }
}
