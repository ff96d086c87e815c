//! How a request ended, and whom that blames. Made by the lease exactly once per attempt.

use std::time::Duration;

/// How an attempt at a backend ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A whole response with this status was received.
    Served(u16),
    /// No connection, or no TLS session, could be made.
    ConnectFailed,
    /// We had no descriptor or memory for a connection.
    Starved,
    /// A deadline of ours passed while the backend was to speak.
    TimedOut,
    /// The connection ended, or spoke nonsense, before the response was whole.
    Reset,
    /// The client left before the end.
    ClientGone,
}

impl Ending {
    /// Whether the backend answered this request badly: a broken transport, a 5xx or a 429. A client that left
    /// never blames anybody.
    pub fn blames_backend(self) -> bool {
        match self {
            Self::Served(status) => status >= 500 || status == 429,
            Self::ConnectFailed | Self::TimedOut | Self::Reset => true,
            Self::Starved | Self::ClientGone => false,
        }
    }

    /// Whether it says nothing about the backend, good or bad.
    pub fn says_nothing(self) -> bool {
        matches!(self, Self::Starved | Self::ClientGone)
    }
}

/// What an attempt taught us.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// From the pick to the first byte of the response head; `None` when none came.
    pub first_byte: Option<Duration>,
    /// From the pick to the end.
    pub total: Duration,
    /// Bytes of response body received from the backend.
    pub body_bytes: u64,
    /// Whether the response was streamed in events (`text/event-stream`, `application/x-ndjson`).
    pub streamed: bool,
    /// How long the backend asked to be left alone (`Retry-After` on 429 or 503), at most 300 s.
    pub retry_after: Option<Duration>,
}

impl Outcome {
    /// An answer of this status after `total`, as tests and simple callers need it.
    pub fn served(status: u16, total: Duration) -> Self {
        Self {
            ending: Ending::Served(status),
            first_byte: Some(total),
            total,
            body_bytes: 0,
            streamed: false,
            retry_after: None,
        }
    }

    /// A failure after `total` without a response.
    pub fn failed(ending: Ending, total: Duration) -> Self {
        Self { ending, first_byte: None, total, body_bytes: 0, streamed: false, retry_after: None }
    }
}
