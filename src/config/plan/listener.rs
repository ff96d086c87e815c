//! What a `[[listener]]` means: where clients come in, with which limits, and whom it believes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::secret::Secret;

/// One `[[listeners]]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPlan {
    /// Where to listen; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// A PROXY v1/v2 header is required, from `trusted_proxies` only.
    pub proxy_protocol: bool,
    /// Peers whose `X-Forwarded-*` or PROXY header is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Bytes of request head, 431 beyond.
    pub max_header_bytes: usize,
    /// Header fields of a request, 431 beyond.
    pub max_headers: usize,
    /// Bytes of request target, 414 beyond.
    pub max_uri: usize,
    /// Bytes of request body, 413 beyond; 0: unlimited.
    pub max_body: u64,
    /// From the first byte of a head (or the accept) to its end, 408 beyond.
    pub header_timeout: Duration,
    /// Keep-alive between requests.
    pub idle_timeout: Duration,
    /// Between two pieces of a request body, 408 beyond.
    pub body_idle_timeout: Duration,
    /// A client that takes no response bytes for this long is cut.
    pub write_idle_timeout: Duration,
    /// From accept to the end of the TLS handshake.
    pub tls_handshake_timeout: Duration,
    /// HTTP/2 settings.
    pub http2: Http2Plan,
    /// Per-client limits; `None`: off.
    pub limits: Option<ClientLimitsPlan>,
    /// TLS termination; `None`: plain.
    pub tls: Option<ListenerTlsPlan>,
    /// The `subject_header` of every listener: no client may send one, on whichever listener.
    pub guarded_headers: Vec<String>,
}

/// `http2 = { … }` of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct Http2Plan {
    /// Whether HTTP/2 is spoken at all.
    pub enabled: bool,
    /// Concurrent streams a client may open.
    pub max_streams: u32,
    /// Initial stream window, bytes.
    pub stream_window: u32,
    /// Connection window, bytes.
    pub connection_window: u32,
    /// Keep-alive ping interval; zero: off.
    pub ping: Duration,
}

/// `limits = { … }` of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientLimitsPlan {
    /// Connections one client may hold; 0: no limit.
    pub per_client_connections: usize,
    /// Requests a second one client may send; 0: no limit.
    pub per_client_rps: f64,
    /// Only count what would have been refused.
    pub dry_run: bool,
}

/// `[listeners.tls]`
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerTlsPlan {
    /// Certificate chains with keys; the first is the default.
    pub certificates: Vec<CertificatePlan>,
    /// CA file for client certificates, which are then required.
    pub client_ca: Option<PathBuf>,
    /// Header in which backends are told the subject of the client's certificate, in lower case; `None`: they are not.
    pub subject_header: Option<String>,
    /// Least TLS version.
    pub min_version: TlsVersion,
}

/// One certificate chain and its key, as PEM files.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificatePlan {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM private key: a file, or the text itself in an environment variable.
    pub key: Secret,
}

/// TLS versions we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// First address; host bits are zero.
    pub network: std::net::IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

impl Cidr {
    /// Whether `address` lies in the range. An IPv4-mapped IPv6 address counts as its IPv4 address.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        match (self.network, address.to_canonical()) {
            (V4(net), V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(ip) & mask == u32::from(net) & mask
            }
            (V6(net), V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(ip) & mask == u128::from(net) & mask
            }
            (V4(_), V6(_)) | (V6(_), V4(_)) => false,
        }
    }
}
