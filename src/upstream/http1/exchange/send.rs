//! The sending half of an exchange: the head and the client's body, in as few writes as they allow.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Body;
use tokio::io::AsyncWrite;

use super::{Exchange, Tail, Wait};
use crate::upstream::error::Fault;
use crate::upstream::http1::request::{BodyFraming, write_chunk_size, write_field};

/// Body pieces up to this size are copied behind the head and leave in one send.
pub(super) const COPY_LIMIT: usize = 8 * 1024;
/// Plaintext that fits into one record of TLS (RFC 8446 section 5.1).
const TLS_RECORD: usize = 1 << 14;

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Fault>,
{
    /// Sends what can be sent. `Ready`: the whole request is out. A failing write is not yet an error: the backend may
    /// have answered before it closed, and the reading side will tell; unless nothing was sent that it could answer.
    pub(in crate::upstream::http1) fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        loop {
            if let Some(fault) = self.failed.take() {
                return Err(fault);
            }
            if !self.flushed() {
                match self.poll_write(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => {
                        if self.sent_nothing() {
                            return Err(Fault::Io(error));
                        }
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
            if !self.sent_any {
                self.joined = data;
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

    /// Whether the backend's socket has all that was taken: TLS holds back what that had no room for.
    #[inline]
    pub(in crate::upstream::http1) fn flushed(&self) -> bool {
        self.handed_on() && !self.connection.stream.holds_back()
    }

    /// Whether the stream has it.
    #[inline]
    fn handed_on(&self) -> bool {
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
        while !self.handed_on() {
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
            if !self.sent_any {
                self.sent_any = true;
                self.joined = Bytes::new();
            }
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

    /// After a write that failed: whether the backend cannot have seen any of the request. Over TLS a write may fail with
    /// some of its records sent; of a single one, which it cannot read in part, none was.
    fn sent_nothing(&self) -> bool {
        let one_record = self.piece.is_empty() && self.connection.write.len() <= TLS_RECORD;
        !self.sent_any && (one_record || !self.connection.stream.is_secure())
    }

    fn give_up_sending(&mut self) {
        self.sent_any = true;
        self.written = self.connection.write.len();
        self.piece = Bytes::new();
        self.tail = Tail::None;
        if let Some(body) = self.body.take() {
            self.spent = Some(body);
        }
        // Whatever the backend still answers, this connection is not used again.
        self.length_left = u64::MAX;
    }
}
