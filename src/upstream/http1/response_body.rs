//! The body of a response, in whichever of its framings, while the rest of the request is still sent.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

use super::chunked::{ChunkDecoder, Step};
use super::connection::{Connection, Upgraded};
use super::exchange::{Exchange, Wait};
use super::response::{Framing, Rest};
use crate::upstream::error::Fault;

/// Largest read of a long body (docs/performance.md, item 4).
pub(super) const BULK_READ: usize = 256 * 1024;
/// Smallest read of a body.
const BODY_READ: usize = 8 * 1024;

/// The body of a response, read from the backend as it is polled.
#[derive(Debug)]
pub struct ResponseBody<B> {
    /// Boxed: it is large, and a response body is moved many times on its way to the client.
    exchange: Option<Box<Exchange<B>>>,
}

#[derive(Debug)]
pub(super) enum Decoder {
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
    pub(super) fn new(mut exchange: Box<Exchange<B>>, rest: Rest) -> Self {
        exchange.decoder = match rest.framing {
            Framing::Empty => Decoder::Done,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(ChunkDecoder::new()),
            Framing::UntilClose => Decoder::UntilClose,
        };
        exchange.keep_alive = rest.keep_alive;
        Self { exchange: Some(exchange) }
    }

    /// The backend has agreed to another protocol: there is no body, and the connection is the tunnel's.
    pub(super) fn upgraded(exchange: Box<Exchange<B>>) -> Self {
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

    /// Sends what it can of the rest of the request.
    ///
    /// # Errors
    /// An error of the client's body ends the response too: the client is gone or broken.
    pub fn pump(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        match &mut self.exchange {
            Some(exchange) if exchange.body.is_some() || !exchange.flushed() => exchange.poll_send(cx).map(drop),
            _ => Ok(()),
        }
    }

    /// The next piece of the response; meanwhile the rest of the request is sent.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Err(fault) = self.pump(cx) {
            return Poll::Ready(Some(Err(fault)));
        }
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
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
            let want = exchange.decoder.read_size().min(exchange.next_read).min(exchange.most_read);
            exchange.read_on = true;
            match exchange.connection.poll_fill(cx, want) {
                Poll::Ready(Ok(0)) => {
                    if matches!(exchange.decoder, Decoder::UntilClose) {
                        exchange.decoder = Decoder::Done;
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(Err(Fault::Closed)));
                }
                Poll::Ready(Ok(_)) => exchange.next_read = exchange.most_read.min(2 * exchange.next_read),
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
