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
    /// A key that wants a passphrase.
    Encrypted(String),
    /// A certificate where a key belongs, or the other way round: where, and what is there.
    Swapped(String, &'static str),
    /// The key's own certificate stands behind others: the file, and its place there from 1.
    Behind(String, usize),
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
            Self::Encrypted(key) => write!(f, "{key} is encrypted, and nobody is there to type its passphrase"),
            Self::Swapped(what, holds) => write!(f, "{what} holds {holds}"),
            Self::Behind(cert, place) => {
                write!(f, "{cert} does not begin with the certificate of the key: that is its number {place}")
            }
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
            Self::Encrypted(_) | Self::Swapped(..) | Self::Behind(..) => None,
        }
    }
}
