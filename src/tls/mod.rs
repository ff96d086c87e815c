//! TLS of both sides: rustls with aws-lc-rs, 1.2 and 1.3, X25519MLKEM768 offered first.
//!
//! [`Server`] is what one listener shows to clients: certificates by SNI, ALPN, tickets, client certificates. [`Clients`]
//! is how one pool speaks TLS to its backends. Both are made whole from files or not at all, and are replaced as a whole
//! when files change ([`Stamps`] notices), so no handshake ever sees half of a change. [`examine`] says what is wrong
//! with the certificates that a plan names; [`x509`] reads the few fields that we show or compare.

mod accept;
mod client;
mod error;
mod examine;
mod pem;
mod server;
mod sni;
mod stamps;
pub mod x509;

pub use accept::{Counts, HandshakeGate, accept, subject};
pub use client::{Alpn, Clients, Connector};
pub use error::TlsError;
pub use examine::{Fault, examine};
pub use server::Server;
pub use stamps::Stamps;

/// Days before its end at which a certificate is worth a warning: two weeks, twice the overlap of the shortest-lived
/// certificates that are issued automatically.
pub const WARNING_DAYS: u64 = 14;

/// The cryptography of every handshake.
fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
