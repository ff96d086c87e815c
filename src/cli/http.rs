//! A small HTTP/1.1 client for talking to admin servers, mocks and our own listener: one request, one answer.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Failure;

/// Where the admin server listens unless told otherwise.
pub(super) const DEFAULT_ADMIN: &str = "http://127.0.0.1:9901";
/// Longest answer that is kept: an exported table or `/metrics` is far below.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How long connecting may take; admin servers are near.
const CONNECT: Duration = Duration::from_secs(5);

/// Which admin server, and how to be let in.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminArgs {
    /// The balancer's admin server.
    #[arg(long, value_name = "URL", global = true, env = "EVENKEEL_ADMIN", default_value = DEFAULT_ADMIN)]
    pub(super) admin: AdminUrl,
    /// File that holds the admin token, or env:NAME.
    #[arg(long, value_name = "FILE", global = true, env = "EVENKEEL_TOKEN_FILE")]
    pub(super) token_file: Option<String>,
}

impl AdminArgs {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        client(self.admin.clone(), self.token_file.as_deref())
    }
}

/// A client of the server at `url`, with the token that `token_file` names, if any.
pub(super) fn client(url: AdminUrl, token_file: Option<&str>) -> Result<Client, Failure> {
    Ok(Client { url, token: token_file.map(read_token).transpose()? })
}

fn read_token(source: &str) -> Result<HeaderValue, Failure> {
    let token = match source.strip_prefix("env:") {
        Some(name) => std::env::var(name).map_err(|_| Failure::Usage(format!("the variable {name} is not set")))?,
        None => std::fs::read_to_string(PathBuf::from(source))
            .map_err(|error| Failure::Usage(format!("cannot read the token file {source}: {error}")))?,
    };
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| Failure::Usage(format!("{source} does not hold a token: one line of visible ASCII")))?;
    header.set_sensitive(true);
    Ok(header)
}

/// `http://host:port`, as typed; the scheme, and for a port alone the host, may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdminUrl {
    host: String,
    port: u16,
}

impl AdminUrl {
    pub(super) fn new(address: std::net::SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }

    /// `host:port`, an IPv6 address in brackets.
    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl FromStr for AdminUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("the admin server speaks plain HTTP; put https in front of it elsewhere".into());
        }
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if rest.contains('/') {
            return Err("host and port only, as in http://127.0.0.1:9901".into());
        }
        let rest = if rest.bytes().all(|b| b.is_ascii_digit()) { format!(":{rest}") } else { rest.to_owned() };
        let (host, port) = rest.rsplit_once(':').ok_or("the port is missing, as in http://127.0.0.1:9901")?;
        let port = port.parse().map_err(|_| format!("`{port}` is not a port"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner,
            None if host.contains(':') => return Err("an IPv6 address stands in brackets".into()),
            None if host.is_empty() => "127.0.0.1",
            None => host,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Speaks to one server, a connection per request: rare requests, and no stale connection to trip over.
#[derive(Debug, Clone)]
pub(super) struct Client {
    url: AdminUrl,
    token: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("cannot reach {0}: {1}")]
    Connect(String, std::io::Error),
    #[error("{0} does not answer")]
    Silent(String),
    #[error("{0} broke off: {1}")]
    Broken(String, hyper::Error),
    #[error("the answer of {0} cannot be read: {1}")]
    Body(String, Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Request(http::Error),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Client {
    /// A client without a token.
    pub(super) fn new(url: AdminUrl) -> Self {
        Self { url, token: None }
    }

    pub(super) fn url(&self) -> &AdminUrl {
        &self.url
    }

    /// Sends one request and takes the whole answer, within `patience`.
    ///
    /// # Errors
    /// When there is no whole answer; a status of 4xx or 5xx is an answer.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Reply, HttpError> {
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        self.send(method, path, body, patience).await
    }

    /// The same with a body of any type.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
        patience: Duration,
    ) -> Result<Reply, HttpError> {
        let at = self.url.authority();
        let mut request = Request::builder().method(method).uri(path).header(HOST, &at);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some((kind, _)) = &body {
            request = request.header(CONTENT_TYPE, *kind);
        }
        let body = body.map_or_else(Bytes::new, |(_, body)| body);
        let request = request.body(Full::new(body)).map_err(HttpError::Request)?;
        let exchange = async {
            let mut sender = connect(&self.url.host, self.url.port).await?;
            let answer = sender.send_request(request).await.map_err(|error| HttpError::Broken(at.clone(), error))?;
            Reply::read(answer).await.map_err(|error| HttpError::Body(at.clone(), error))
        };
        match timeout(patience, exchange).await {
            Ok(done) => done,
            Err(_) => Err(HttpError::Silent(at)),
        }
    }

    /// Asks for JSON.
    ///
    /// # Errors
    /// When there is no answer, it is a refusal, or it is not JSON.
    pub(super) async fn get(&self, path: &str, patience: Duration) -> Result<Value, Failure> {
        self.call(Method::GET, path, None, patience).await?.accepted()
    }
}

/// Opens a connection, and drives it in the background until the sender is dropped.
pub(super) async fn connect(host: &str, port: u16) -> Result<SendRequest<Full<Bytes>>, HttpError> {
    let at = format!("{host}:{port}");
    let stream = match timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(HttpError::Connect(at, error)),
        Err(_) => return Err(HttpError::Silent(at)),
    };
    let _ = stream.set_nodelay(true); // Only slower without.
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| HttpError::Broken(at, error))?;
    // Its errors reach whoever waits on the sender.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Reply {
    async fn read(answer: Response<Incoming>) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        Ok(Self { status, body })
    }

    /// The JSON of a good answer.
    ///
    /// # Errors
    /// A refusal, with the server's own words, or an answer that is not JSON.
    pub(super) fn accepted(&self) -> Result<Value, Failure> {
        if !self.status.is_success() {
            return Err(Failure::Failed(self.complaint()));
        }
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::Failed(format!("this does not look like Evenkeel's admin server: no JSON in its answer ({error})"))
        })
    }

    /// What a refusal says of itself.
    fn complaint(&self) -> String {
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        let message = body.as_ref().and_then(|body| body.pointer("/error/message")).and_then(Value::as_str);
        match (message, self.status) {
            (Some(message), StatusCode::UNAUTHORIZED) => format!("{message} (give the token by --token-file)"),
            (Some(message), _) => message.to_owned(),
            (None, status) => format!("the server answered {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_urls_are_read_generously() {
        for (text, shown) in [
            ("http://127.0.0.1:9901", "http://127.0.0.1:9901"),
            ("http://localhost:9901/", "http://localhost:9901"),
            ("gpu-1:9901", "http://gpu-1:9901"),
            (":9901", "http://127.0.0.1:9901"),
            ("9901", "http://127.0.0.1:9901"),
            ("[::1]:9901", "http://[::1]:9901"),
        ] {
            assert_eq!(text.parse::<AdminUrl>().map(|url| url.to_string()), Ok(shown.to_owned()), "{text}");
        }
        for text in ["", "https://x:1", "http://x", "::1", "http://x:1/api", "x:99999"] {
            assert!(text.parse::<AdminUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let refused = |status, body: &'static str| {
            Reply { status, body: Bytes::from_static(body.as_bytes()) }.accepted().unwrap_err().to_string()
        };
        let body = r#"{"error":{"message":"no such pool"}}"#;
        assert_eq!(refused(StatusCode::NOT_FOUND, body), "no such pool");
        assert!(refused(StatusCode::UNAUTHORIZED, body).contains("--token-file"));
        assert!(refused(StatusCode::BAD_GATEWAY, "<html>").contains("502"));
        assert!(refused(StatusCode::OK, "<html>").contains("does not look like"));
    }
}
