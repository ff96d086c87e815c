//! The access log: one line per request, at its end, in the contract's JSON or in the combined format.
//!
//! A worker encodes its line into a buffer of its own and appends it to one shared, bounded buffer; a thread of the log
//! writes that buffer in batches. So a slow or full disk, or a pipe nobody reads, never delays or fails a request: lines
//! that find the buffer full are lost, counted, and told of once a minute. See [`encode`] for the line and [`writer`]
//! for the thread.

mod encode;
mod writer;

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::config::{AccessLogFormat, AccessLogPlan};

use encode::Encoder;
use writer::{FileTarget, Target, Writer};

/// What is told of one request. Text is borrowed; bytes need not be UTF-8 (what is not is shown as U+FFFD).
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// When the request's head arrived.
    pub arrived: SystemTime,
    /// Its identifier, as in `X-Request-Id`.
    pub request_id: &'a str,
    /// Who asked, after trusted proxies were believed.
    pub client: IpAddr,
    /// Request method.
    pub method: &'a str,
    /// `Host`, without what the client did not send.
    pub host: &'a [u8],
    /// Path and, where the caller wants it shown, query.
    pub path: &'a [u8],
    /// `HTTP/1.1` and the like.
    pub protocol: &'a str,
    /// The status sent; 0 when the client left before there was one.
    pub status: u16,
    /// Bytes of request body received.
    pub bytes_in: u64,
    /// Bytes of response body sent.
    pub bytes_out: u64,
    /// The pool; `None` when no route matched.
    pub pool: Option<&'a str>,
    /// The backend of the last attempt.
    pub backend: Option<&'a str>,
    /// The strategy that was in force.
    pub strategy: Option<&'a str>,
    /// The chance that the pick had, 0-1.
    pub propensity: Option<f32>,
    /// How the pick came about.
    pub kind: Option<&'a str>,
    /// Backends the pick was among.
    pub candidates: usize,
    /// Attempts made.
    pub attempts: u32,
    /// Time spent in the queue.
    pub queue: Duration,
    /// Time to connect; `None`: a pooled connection served.
    pub connect: Option<Duration>,
    /// From the arrival to the first byte of the response.
    pub first_byte: Option<Duration>,
    /// From the arrival to the end.
    pub total: Duration,
    /// How it ended.
    pub end: End,
    /// Why it was tried again; `None`: it was not.
    pub retry: Option<&'a str>,
    /// What stickiness did.
    pub sticky: Sticky,
    /// Subject of the client's certificate, where one was asked for; JSON only.
    pub subject: Option<&'a str>,
    /// `Referer`, for the combined format.
    pub referer: Option<&'a [u8]>,
    /// `User-Agent`, for the combined format.
    pub user_agent: Option<&'a [u8]>,
}

/// How a request ended: the contract's `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A whole response was sent.
    Ok,
    /// The client left first.
    ClientGone,
    /// The backend refused, reset or spoke nonsense.
    BackendReset,
    /// The backend was too slow.
    BackendTimeout,
    /// No backend became free in time.
    QueueTimeout,
    /// No backend could take it.
    NoBackend,
    /// We refused it: malformed, too large, no route, over a limit.
    Rejected,
}

impl End {
    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientGone => "client_gone",
            Self::BackendReset => "backend_reset",
            Self::BackendTimeout => "backend_timeout",
            Self::QueueTimeout => "queue_timeout",
            Self::NoBackend => "no_backend",
            Self::Rejected => "rejected",
        }
    }
}

/// What stickiness did for a request: the contract's `sticky`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sticky {
    /// No session.
    #[default]
    None,
    /// A session began.
    New,
    /// Its session's backend took it.
    Hit,
    /// Its session's backend could not; it is pinned anew.
    Failover,
}

impl Sticky {
    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::New => "new",
            Self::Hit => "hit",
            Self::Failover => "failover",
        }
    }
}

/// An open access log. Shared by all workers; dropping it lets its thread write what is left and end.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessLogFormat,
    writer: Option<Writer>,
}

impl AccessLog {
    /// Opens the log that `plan` describes: the file is opened (created, appended to) here, so that a reload can refuse
    /// a path that cannot be written.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub fn open(plan: &AccessLogPlan) -> io::Result<Self> {
        if plan.format == AccessLogFormat::Off {
            return Ok(Self::off());
        }
        let target = match &plan.path {
            Some(path) => FileTarget::open(path.clone())?,
            None => FileTarget::stdout()?,
        };
        Self::start(plan.format, Box::new(target))
    }

    /// A log that writes nothing.
    pub fn off() -> Self {
        Self { format: AccessLogFormat::Off, writer: None }
    }

    fn start(format: AccessLogFormat, target: Box<dyn Target>) -> io::Result<Self> {
        Ok(Self { format, writer: Some(Writer::start(target)?) })
    }

    /// Whether lines are written at all; when not, a caller need not make a record.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes the line of one request. Never blocks on the disk, never fails.
    pub fn write(&self, record: &Record<'_>) {
        thread_local! {
            static ENCODER: RefCell<Encoder> = RefCell::new(Encoder::default());
        }
        let Some(writer) = &self.writer else { return };
        ENCODER.with_borrow_mut(|encoder| writer.push(encoder.line(self.format, record)));
    }

    /// Opens the file anew before the next batch (log rotation). A file that cannot be opened leaves the old one in use
    /// and is logged. Nothing happens to stdout.
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer {
            writer.reopen();
        }
    }

    /// Lines lost since the log was opened.
    pub fn lost(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::lost)
    }

    /// Writes what is left and ends the log's thread, for at most `patience`; whether all was written. Blocks: call it
    /// from a thread that may, at the end of the process. Later lines are lost.
    pub fn close(&self, patience: Duration) -> bool {
        self.writer.as_ref().is_none_or(|writer| writer.close(patience))
    }
}

#[cfg(test)]
mod tests;
