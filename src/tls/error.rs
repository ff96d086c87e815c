//! Why TLS settings cannot be used. Nothing here ever holds a key.

use std::fmt;
use std::io;

/// Why certificates, keys or CAs cannot be used.
#[derive(Debug)]
pub enum TlsError {
    /// A file or variable cannot be read.
    Unreadable(String, io::Error),
    /// It was read and is of no use: where, and why.
    Useless(String, String),
    /// The key belongs to another certificate: the key, the certificate.
    OtherKey(String, String),
    /// The system has no CA certificates: what it said.
    NoRoots(String),
    /// rustls refuses the settings.
    Refused(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(what, error) => write!(f, "{what} cannot be read: {error}"),
            Self::Useless(what, why) => write!(f, "{what} {why}"),
            Self::OtherKey(key, cert) => write!(f, "{key} is not the key of {cert}"),
            Self::NoRoots(said) => write!(f, "this system has no CA certificates to verify with{said}"),
            Self::Refused(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, error) => Some(error),
            Self::Refused(error) => Some(error),
            Self::Useless(..) | Self::OtherKey(..) | Self::NoRoots(_) => None,
        }
    }
}
