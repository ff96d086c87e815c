//! One request and its response on one connection, both ways at the same time.
//!
//! [`Exchange::head`] sends the request (as much of it as the backend takes) and waits for the response head; what is
//! left of the request is sent while [`ResponseBody`] is read. Dropping either closes the connection: that is how a
//! client's departure cancels the work of a backend.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::chunked::{ChunkDecoder, Step};
use super::connection::{Connection, FIRST_READ, Upgraded};
use super::request::{BodyFraming, write_chunk_size, write_field};
use super::response::{self, Framing, Head};
use crate::clock::{self, Deadline};
use crate::upstream::error::{Fault, UpstreamError};

/// 1xx responses tolerated before the final one (reliability.md §1).
const MOST_INFORMATIONAL: u32 = 20;
/// How long a client's `Expect: 100-continue` waits for the backend's word before its body is asked for anyway:
/// RFC 9110 section 10.1.1 forbids to wait for ever, and curl itself waits one second.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);
/// Body pieces up to this size are copied behind the head and leave in one send.
const COPY_LIMIT: usize = 8 * 1024;
/// Largest read of a long body (docs/performance.md, item 4).
const BULK_READ: usize = 256 * 1024;
/// Smallest read of a body.
const BODY_READ: usize = 8 * 1024;

/// The deadlines of an exchange; zero: none.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeTimeouts {
    /// From the request sent to the response head.
    pub first_byte: Duration,
    /// Between two pieces of the response.
    pub idle: Duration,
    /// Between two pieces of the client's body.
    pub client_body: Duration,
    /// When the request as a whole must be over.
    pub total: Option<Instant>,
}

/// What a request asks for beside a response.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asks {
    /// `Expect: 100-continue`: the client's body is asked for only when the backend says so, or after a second.
    pub expect_continue: bool,
    /// Another protocol: a 101 may be the answer.
    pub upgrade: bool,
}

/// What the exchange waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    Client,
    Backend,
    Continue,
    Body,
}

/// A request on its way.
#[derive(Debug)]
pub struct Exchange<B> {
    connection: Box<Connection>,
    body: Option<B>,
    /// The body once it was read, for another try.
    spent: Option<B>,
    framing: BodyFraming,
    /// Bytes of `connection.write` already sent.
    written: usize,
    /// A piece of body to send after `connection.write`.
    piece: Bytes,
    /// The CRLF of a chunk is to follow `piece`.
    tail: Tail,
    /// What the client's body failed with while its first piece was joined to the head.
    failed: Option<Fault>,
    /// A body that waits for the backend's 100.
    holding: bool,
    /// The request asks for another protocol, so a 101 may come.
    upgrade: bool,
    sent_any: bool,
    wait: Wait,
    deadline: Deadline,
    timeouts: ExchangeTimeouts,
    method: Method,
    informational: u32,
    length_left: u64,
    /// How the response's body is read.
    decoder: Decoder,
    /// The backend lets the connection carry another request.
    keep_alive: bool,
    /// Bytes of the response were read after those that brought its head.
    read_on: bool,
    /// The largest read of a body.
    most_read: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    None,
    Crlf,
}

/// A failed exchange, with the client's body for another try.
#[derive(Debug)]
pub struct Failed<B> {
    /// What went wrong.
    pub error: UpstreamError,
    /// The client's body; what was read of it is gone, unless it keeps that itself.
    pub body: Option<B>,
    /// Whether the connection had carried a request before: then its loss may be staleness, not a fault.
    pub reused: bool,
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Fault>,
{
    /// A request whose head stands in the connection's head buffer.
    pub fn new(
        connection: Box<Connection>,
        method: Method,
        body: Option<B>,
        framing: BodyFraming,
        asks: Asks,
        timeouts: ExchangeTimeouts,
    ) -> Self {
        let length_left = if let BodyFraming::Length(length) = framing { length } else { 0 };
        Self {
            connection,
            holding: asks.expect_continue && body.is_some(),
            upgrade: asks.upgrade,
            body,
            spent: None,
            framing,
            written: 0,
            piece: Bytes::new(),
            tail: Tail::None,
            failed: None,
            sent_any: false,
            wait: Wait::Nothing,
            deadline: Deadline::new(),
            timeouts,
            method,
            informational: 0,
            length_left,
            decoder: Decoder::Done,
            keep_alive: false,
            read_on: false,
            most_read: BULK_READ,
        }
    }

    /// Reads at most `most` bytes of the response's body at once: what is read waits in memory for a slow client.
    #[must_use]
    pub fn reading_at_most(mut self, most: usize) -> Self {
        self.most_read = most;
        self
    }

    /// Sends the request and waits for the final response head. `informational` is called for each 1xx but 100 and 101.
    ///
    /// # Errors
    /// [`Failed`] with the body, if another backend may still be tried.
    pub async fn head(
        mut self: Box<Self>,
        mut informational: impl FnMut(&Head),
    ) -> Result<(Head, ResponseBody<B>), Failed<B>> {
        match poll_fn(|cx| self.poll_head(cx, &mut informational)).await {
            Ok(head) => {
                let body = match head.status {
                    StatusCode::SWITCHING_PROTOCOLS => ResponseBody::upgraded(self),
                    _ => ResponseBody::new(self, head.framing, head.keep_alive),
                };
                Ok((head, body))
            }
            Err(fault) => {
                let answered = !self.connection.read.is_empty() || self.informational > 0;
                let reused = self.connection.reused;
                Err(Failed {
                    error: UpstreamError { fault, sent: self.sent_any, answered },
                    body: self.body.or(self.spent),
                    reused,
                })
            }
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, informational: &mut impl FnMut(&Head)) -> Poll<Result<Head, Fault>> {
        loop {
            let sending = self.poll_send(cx)?;
            match self.poll_receive_head(cx) {
                Poll::Ready(Ok(head)) => {
                    let upgraded = head.status == StatusCode::SWITCHING_PROTOCOLS && self.upgrade;
                    if !head.status.is_informational() || upgraded {
                        self.deadline.disarm();
                        return Poll::Ready(Ok(head));
                    }
                    self.informational += 1;
                    if self.informational > MOST_INFORMATIONAL {
                        return Poll::Ready(Err(Fault::Protocol("too many informational responses")));
                    }
                    match head.status {
                        StatusCode::CONTINUE => self.holding = false,
                        StatusCode::SWITCHING_PROTOCOLS => {
                            return Poll::Ready(Err(Fault::Protocol("101 without an upgrade request")));
                        }
                        _ => informational(&head),
                    }
                    self.wait = Wait::Nothing;
                    continue;
                }
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => {}
            }
            let wait = match sending {
                Poll::Ready(()) => Wait::Backend,
                Poll::Pending if self.holding && self.flushed() => Wait::Continue,
                Poll::Pending if self.flushed() => Wait::Client,
                Poll::Pending => Wait::Backend,
            };
            self.arm(wait);
            if !self.deadline.poll_passed(cx) {
                return Poll::Pending;
            }
            if wait == Wait::Continue {
                self.holding = false;
                self.wait = Wait::Nothing;
                continue;
            }
            return Poll::Ready(Err(self.timed_out()));
        }
    }

    /// Sends what can be sent. `Ready`: the whole request is out. A failing write is not yet an error: the backend may
    /// have answered before it closed, and the reading side will tell.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        loop {
            if let Some(fault) = self.failed.take() {
                return Err(fault);
            }
            if !self.flushed() {
                match self.poll_write(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => {
                        self.give_up_sending();
                        return Ok(Poll::Ready(()));
                    }
                    Poll::Pending => return Ok(Poll::Pending),
                }
            }
            if self.body.is_none() {
                return Ok(Poll::Ready(()));
            }
            if self.holding {
                return Ok(Poll::Pending);
            }
            match self.poll_piece(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
    }

    /// Takes the next piece of the client's body into the send buffers.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        self.connection.write.clear();
        self.written = 0;
        let frame = match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Err(error.into())),
            None => return Poll::Ready(self.end_of_body(None)),
        };
        self.wait = Wait::Nothing;
        match frame.into_data() {
            Ok(data) => {
                if data.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(self.take_data(data))
            }
            Err(frame) => Poll::Ready(self.end_of_body(frame.into_trailers().ok())),
        }
    }

    fn take_data(&mut self, data: Bytes) -> Result<(), Fault> {
        match self.framing {
            BodyFraming::Length(_) => {
                let length = data.len() as u64;
                if length > self.length_left {
                    return Err(Fault::ClientBody("more bytes than content-length".into()));
                }
                self.length_left -= length;
            }
            BodyFraming::Chunked => {
                write_chunk_size(&mut self.connection.write, data.len());
                self.tail = Tail::Crlf;
            }
            BodyFraming::None => return Err(Fault::ClientBody("a body where none was announced".into())),
        }
        if data.len() <= COPY_LIMIT {
            self.connection.write.extend_from_slice(&data);
            if self.tail == Tail::Crlf {
                self.connection.write.extend_from_slice(b"\r\n");
                self.tail = Tail::None;
            }
        } else {
            self.piece = data;
        }
        if self.body.as_ref().is_some_and(Body::is_end_stream) && self.framing != BodyFraming::Chunked {
            self.end_of_body(None)?;
        }
        Ok(())
    }

    /// The client's body is whole: an incomplete one must never look complete to the backend.
    fn end_of_body(&mut self, trailers: Option<HeaderMap>) -> Result<(), Fault> {
        if self.framing == BodyFraming::Chunked {
            self.connection.write.extend_from_slice(b"0\r\n");
            for (name, value) in &trailers.unwrap_or_default() {
                write_field(&mut self.connection.write, name.as_str(), value.as_bytes());
            }
            self.connection.write.extend_from_slice(b"\r\n");
        } else if self.length_left != 0 {
            return Err(Fault::ClientBody("fewer bytes than content-length".into()));
        }
        self.spent = self.body.take();
        Ok(())
    }

    #[inline]
    fn flushed(&self) -> bool {
        self.written == self.connection.write.len() && self.piece.is_empty() && self.tail == Tail::None
    }

    /// Writes the head (or size line), the piece and its CRLF, together where possible.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The first body piece that is already there leaves with the head.
        if !self.sent_any && !self.holding && self.piece.is_empty() {
            self.join_first_piece(cx);
            if self.failed.is_some() {
                return Poll::Ready(Ok(()));
            }
        }
        while !self.flushed() {
            let head = &self.connection.write[self.written..];
            let tail: &[u8] = if self.tail == Tail::Crlf { b"\r\n" } else { b"" };
            let stream = Pin::new(&mut self.connection.stream);
            let sent = if self.piece.is_empty() && tail.is_empty() {
                ready!(stream.poll_write(cx, head))?
            } else {
                let slices = [IoSlice::new(head), IoSlice::new(&self.piece), IoSlice::new(tail)];
                ready!(stream.poll_write_vectored(cx, &slices))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent_any = true;
            self.advance(sent);
            self.wait = Wait::Nothing;
        }
        Pin::new(&mut self.connection.stream).poll_flush(cx)
    }

    fn join_first_piece(&mut self, cx: &mut Context<'_>) {
        let Some(body) = &mut self.body else { return };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else { return };
        let taken = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.is_empty() => Ok(()),
                Ok(data) => self.take_data(data),
                Err(frame) => self.end_of_body(frame.into_trailers().ok()),
            },
            Some(Err(error)) => Err(error.into()),
            None => self.end_of_body(None),
        };
        self.failed = taken.err();
    }

    fn advance(&mut self, mut sent: usize) {
        let head = (self.connection.write.len() - self.written).min(sent);
        self.written += head;
        sent -= head;
        let piece = self.piece.len().min(sent);
        self.piece.advance(piece);
        sent -= piece;
        match sent {
            0 => {}
            1 => {
                // Half of the CRLF: the rest goes through the head buffer.
                self.connection.write.clear();
                self.connection.write.push(b'\n');
                self.written = 0;
                self.tail = Tail::None;
            }
            _ => self.tail = Tail::None,
        }
    }

    fn give_up_sending(&mut self) {
        self.sent_any = true;
        self.written = self.connection.write.len();
        self.piece = Bytes::new();
        self.tail = Tail::None;
        self.spent = self.body.take();
        // Whatever the backend still answers, this connection is not used again.
        self.length_left = u64::MAX;
    }

    fn poll_receive_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Fault>> {
        loop {
            if !self.connection.read.is_empty()
                && let Some(head) = response::parse(&mut self.connection.read, &self.method).map_err(Fault::Protocol)?
            {
                return Poll::Ready(Ok(head));
            }
            match ready!(self.connection.poll_fill(cx, FIRST_READ)) {
                Ok(0) => return Poll::Ready(Err(Fault::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Fault::Io(error))),
            }
        }
    }

    /// Arms the deadline when what is waited for has changed, or has moved on.
    fn arm(&mut self, wait: Wait) {
        if self.wait == wait {
            return;
        }
        self.wait = wait;
        let limit = match wait {
            Wait::Nothing => Duration::ZERO,
            Wait::Client => self.timeouts.client_body,
            Wait::Backend => self.timeouts.first_byte,
            Wait::Continue => CONTINUE_WAIT,
            Wait::Body => self.timeouts.idle,
        };
        let Some(total) = self.timeouts.total else { return self.deadline.arm(limit) };
        // A deadline that has passed is armed with the least there is, so that it passes at the next look.
        let left = total.saturating_duration_since(clock::now()).max(Duration::from_millis(1));
        self.deadline.arm(if limit.is_zero() { left } else { left.min(limit) });
    }

    fn timed_out(&self) -> Fault {
        if self.timeouts.total.is_some_and(|total| clock::now() >= total) {
            return Fault::TotalTimeout;
        }
        match self.wait {
            Wait::Client => Fault::ClientBodyTimeout,
            Wait::Body => Fault::IdleTimeout,
            Wait::Nothing | Wait::Backend | Wait::Continue => Fault::FirstByteTimeout,
        }
    }

    /// Whether the request went out whole, as far as the backend's next one is concerned.
    fn sent_whole(&self) -> bool {
        self.body.is_none() && self.flushed() && self.length_left == 0
    }
}

/// The body of a response, read from the backend as it is polled.
#[derive(Debug)]
pub struct ResponseBody<B> {
    /// Boxed: it is large, and a response body is moved many times on its way into hyper.
    exchange: Option<Box<Exchange<B>>>,
}

#[derive(Debug)]
enum Decoder {
    Length(u64),
    Chunked(ChunkDecoder),
    UntilClose,
    Done,
}

impl<B> ResponseBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Fault>,
{
    fn new(mut exchange: Box<Exchange<B>>, framing: Framing, keep_alive: bool) -> Self {
        exchange.decoder = match framing {
            Framing::Empty => Decoder::Done,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(ChunkDecoder::new()),
            Framing::UntilClose => Decoder::UntilClose,
        };
        exchange.keep_alive = keep_alive;
        Self { exchange: Some(exchange) }
    }

    /// The backend has agreed to another protocol: there is no body, and the connection is the tunnel's.
    fn upgraded(exchange: Box<Exchange<B>>) -> Self {
        Self { exchange: Some(exchange) }
    }

    /// The connection after a 101.
    pub fn into_upgraded(self) -> Option<Upgraded> {
        self.exchange.map(|exchange| exchange.connection.into_upgraded())
    }

    /// Whether nothing more will come.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.exchange.as_ref().is_none_or(|exchange| matches!(exchange.decoder, Decoder::Done))
    }

    /// Whether all that was read of it so far arrived together with the head.
    #[inline]
    pub fn came_with_head(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| !exchange.read_on)
    }

    /// How many bytes are still to come, where that is known.
    #[inline]
    pub fn remaining(&self) -> Option<u64> {
        match self.exchange.as_ref().map_or(&Decoder::Done, |exchange| &exchange.decoder) {
            Decoder::Length(left) => Some(*left),
            Decoder::Done => Some(0),
            Decoder::Chunked(_) | Decoder::UntilClose => None,
        }
    }

    /// The connection, once the body was read to its end, if the exchange ended cleanly and it may carry another request.
    #[inline]
    pub fn take_connection(&mut self) -> Option<Box<Connection>> {
        if !self.is_done() {
            return None;
        }
        let exchange = self.exchange.take()?;
        let reusable = exchange.keep_alive && exchange.sent_whole() && exchange.connection.read.is_empty();
        reusable.then(|| {
            let mut connection = exchange.connection;
            connection.rest();
            connection
        })
    }

    /// The next piece of the response; meanwhile the rest of the request is sent.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        if exchange.body.is_some() || !exchange.flushed() {
            // An error of the client's body ends the response too: the client is gone or broken.
            if let Err(fault) = exchange.poll_send(cx) {
                return Poll::Ready(Some(Err(fault)));
            }
        }
        loop {
            match exchange.decoder.decode(&mut exchange.connection.read) {
                Ok(Some(Piece::Data(data))) => {
                    exchange.wait = Wait::Nothing;
                    exchange.deadline.disarm();
                    if exchange.decoder.is_done() {
                        exchange.decoder = Decoder::Done;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Some(Piece::End(trailers))) => {
                    exchange.decoder = Decoder::Done;
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Ok(None) => {}
                Err(what) => return Poll::Ready(Some(Err(Fault::Protocol(what)))),
            }
            let want = exchange.decoder.read_size().min(exchange.most_read);
            exchange.read_on = true;
            match exchange.connection.poll_fill(cx, want) {
                Poll::Ready(Ok(0)) => {
                    if matches!(exchange.decoder, Decoder::UntilClose) {
                        exchange.decoder = Decoder::Done;
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(Err(Fault::Closed)));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(Fault::Io(error)))),
                Poll::Pending => {
                    exchange.arm(Wait::Body);
                    if exchange.deadline.poll_passed(cx) {
                        return Poll::Ready(Some(Err(exchange.timed_out())));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

enum Piece {
    Data(Bytes),
    End(Option<HeaderMap>),
}

impl Decoder {
    /// Decodes from the front of `buffer`; `None`: more bytes are needed.
    fn decode(&mut self, buffer: &mut bytes::BytesMut) -> Result<Option<Piece>, &'static str> {
        match self {
            Self::Done => Ok(Some(Piece::End(None))),
            Self::Length(_) | Self::UntilClose if buffer.is_empty() => Ok(None),
            Self::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= take as u64;
                Ok(Some(Piece::Data(buffer.split_to(take).freeze())))
            }
            Self::UntilClose => Ok(Some(Piece::Data(buffer.split().freeze()))),
            Self::Chunked(decoder) => Ok(match decoder.decode(buffer)? {
                Step::Data(data) => Some(Piece::Data(data)),
                Step::End(trailers) => Some(Piece::End(trailers)),
                Step::NeedMore => None,
            }),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(decoder) => decoder.is_done(),
            Self::UntilClose => false,
            Self::Done => true,
        }
    }

    fn read_size(&self) -> usize {
        let expected = match self {
            Self::Length(left) => *left,
            Self::Chunked(decoder) => decoder.expected(),
            Self::UntilClose | Self::Done => 0,
        };
        usize::try_from(expected).unwrap_or(BULK_READ).clamp(BODY_READ, BULK_READ)
    }
}
