//! What can go wrong between us and a backend (or the client whose body we send), whose fault it is, and whether a
//! byte may have been sent.

use std::fmt;
use std::io;

/// What went wrong.
#[derive(Debug)]
pub enum Fault {
    /// No connection: refused, unreachable or out of time.
    Connect(io::Error),
    /// No connection, for want of descriptors or memory of our own: the backend was not even asked.
    Starved(io::Error),
    /// The backend's name has no address.
    Unresolved,
    /// The backend agreed in its TLS handshake to another HTTP than before.
    OtherProtocol,
    /// The connection ended, before or amid the response.
    Closed,
    /// The connection failed.
    Io(io::Error),
    /// The backend reset the stream; its connection lives on.
    StreamReset,
    /// The backend spoke nonsense: what and where.
    Protocol(&'static str),
    /// No first byte in time.
    FirstByteTimeout,
    /// No further byte of the response in time.
    IdleTimeout,
    /// The request as a whole took too long.
    TotalTimeout,
    /// The client left amid its body.
    ClientGone,
    /// The client framed its body wrongly.
    ClientBody(String),
    /// The client sent nothing of its body for too long.
    ClientBodyTimeout,
    /// The client's body exceeds the listener's limit.
    ClientBodyTooLarge,
}

impl Fault {
    /// What it means that no connection could be made.
    pub fn of_connect(error: io::Error) -> Self {
        if is_shortage(&error) { Self::Starved(error) } else { Self::Connect(error) }
    }

    /// What the failure of a client's body means: the end of a connection amid a body is an I/O error, over HTTP/2 perhaps
    /// a stream that was reset.
    pub fn of_client_body(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(this) = cause {
            if let Some(error) = this.downcast_ref::<io::Error>()
                && matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::BrokenPipe
                        | io::ErrorKind::TimedOut
                )
            {
                return Self::ClientGone;
            }
            if let Some(error) = this.downcast_ref::<h2::Error>()
                && (error.is_io() || error.is_remote() && (error.is_reset() || error.is_go_away()))
            {
                return Self::ClientGone;
            }
            cause = this.source();
        }
        Self::ClientBody(error.to_string())
    }

    /// Whether the client is to blame, not the backend.
    pub fn blames_client(&self) -> bool {
        match self {
            Self::ClientGone | Self::ClientBody(_) | Self::ClientBodyTimeout | Self::ClientBodyTooLarge => true,
            Self::Connect(_)
            | Self::Starved(_)
            | Self::Unresolved
            | Self::OtherProtocol
            | Self::Closed
            | Self::Io(_)
            | Self::StreamReset
            | Self::Protocol(_)
            | Self::FirstByteTimeout
            | Self::IdleTimeout
            | Self::TotalTimeout => false,
        }
    }

    /// Whether a deadline passed while the backend was to speak.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::FirstByteTimeout | Self::IdleTimeout | Self::TotalTimeout)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("no connection"),
            Self::Starved(_) => f.write_str("no descriptor or memory left for a connection"),
            Self::Unresolved => f.write_str("the backend's name has no address"),
            Self::OtherProtocol => f.write_str("the backend speaks another HTTP than asked for"),
            Self::Closed => f.write_str("the backend closed the connection"),
            Self::Io(_) => f.write_str("the connection failed"),
            Self::StreamReset => f.write_str("the backend reset the stream"),
            Self::Protocol(what) => write!(f, "the backend broke HTTP: {what}"),
            Self::FirstByteTimeout => f.write_str("no first byte in time"),
            Self::IdleTimeout => f.write_str("the response stalled"),
            Self::TotalTimeout => f.write_str("the request took too long"),
            Self::ClientGone => f.write_str("the client left amid its request body"),
            Self::ClientBody(what) => write!(f, "the request body failed: {what}"),
            Self::ClientBodyTimeout => f.write_str("the request body stalled"),
            Self::ClientBodyTooLarge => f.write_str("the request body is too large"),
        }
    }
}

/// Whether `error` says that this process, or this machine, has no descriptor or memory left: that blames no peer. Ports
/// of our own that are used up are not among it: they are so toward one backend, and another may do.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A failed exchange.
#[derive(Debug)]
pub struct UpstreamError {
    /// What went wrong.
    pub fault: Fault,
    /// Whether a byte of the request may have been sent.
    pub sent: bool,
    /// Whether a byte of a response had arrived.
    pub answered: bool,
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Starved(error) | Self::Io(error) => Some(error),
            Self::Unresolved
            | Self::OtherProtocol
            | Self::Closed
            | Self::StreamReset
            | Self::Protocol(_)
            | Self::FirstByteTimeout
            | Self::IdleTimeout
            | Self::TotalTimeout
            | Self::ClientGone
            | Self::ClientBody(_)
            | Self::ClientBodyTimeout
            | Self::ClientBodyTooLarge => None,
        }
    }
}

impl std::error::Error for UpstreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source()
    }
}
