//! A response on its way to the client: head and pieces in as few writes as they allow, none held back.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame};

use super::body::ClientBody;
use super::link::Link;
use super::response::Coding;
use crate::listener::socket::FLAT_LIMIT;
use crate::proxy::ProxyBody;
use crate::upstream::http1::request::{write_chunk_size, write_field};

/// Buffers kept by a worker. They are held only while something waits to be written.
const MOST_KEPT: usize = 64;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What is to be written: what was copied together, then a piece too large for that, then the end of its chunk.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    flat: Vec<u8>,
    /// Of `flat`.
    sent: usize,
    piece: Bytes,
    tail: &'static [u8],
}

impl Outbox {
    /// Where small things are written; only while there is no piece.
    pub(super) fn flat(&mut self) -> &mut Vec<u8> {
        if self.flat.capacity() == 0 {
            let kept = KEPT.try_with(|kept| kept.try_borrow_mut().ok()?.pop()).ok().flatten();
            self.flat = kept.unwrap_or_else(|| Vec::with_capacity(FLAT_LIMIT));
        }
        &mut self.flat
    }

    fn is_full(&self) -> bool {
        // The end of a chunk may be left over when its piece is gone.
        !self.piece.is_empty() || !self.tail.is_empty() || self.flat.len() >= FLAT_LIMIT
    }

    fn is_empty(&self) -> bool {
        self.sent == self.flat.len() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Adds a piece of a body, with what its chunk needs around it.
    fn push(&mut self, data: Bytes, is_chunk: bool) {
        if is_chunk {
            write_chunk_size(self.flat(), data.len());
        }
        let tail: &'static [u8] = if is_chunk { b"\r\n" } else { b"" };
        if self.flat.len() + data.len() + tail.len() <= FLAT_LIMIT {
            let flat = self.flat();
            flat.extend_from_slice(&data);
            flat.extend_from_slice(tail);
        } else {
            (self.piece, self.tail) = (data, tail);
        }
    }

    /// Adds the end of a chunked body; of `trailers` those that were announced.
    fn end_chunks(&mut self, trailers: Option<(HeaderMap, &[HeaderName])>) {
        if !self.piece.is_empty() && trailers.is_none() {
            self.tail = b"\r\n0\r\n\r\n";
            return;
        }
        let flat = self.flat();
        flat.extend_from_slice(b"0\r\n");
        if let Some((trailers, announced)) = trailers {
            for (name, value) in trailers.iter().filter(|(name, _)| announced.contains(name)) {
                write_field(flat, name.as_str(), value.as_bytes());
            }
        }
        flat.extend_from_slice(b"\r\n");
    }

    /// Writes what there is, until the socket has it.
    fn poll(&mut self, cx: &mut Context<'_>, link: &mut Link) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let [flat, piece, tail] = self.parts();
            let sent = if piece.is_empty() && tail.is_empty() {
                link.poll_write(cx, &[IoSlice::new(flat)])
            } else {
                link.poll_write(cx, &[IoSlice::new(flat), IoSlice::new(piece), IoSlice::new(tail)])
            };
            self.advance(ready!(sent)?);
        }
        link.poll_flush(cx)
    }

    /// What is left, in its order.
    fn parts(&self) -> [&[u8]; 3] {
        [self.flat.get(self.sent..).unwrap_or_default(), &self.piece, self.tail]
    }

    fn advance(&mut self, sent: usize) {
        let flat = sent.min(self.flat.len() - self.sent);
        self.sent += flat;
        let piece = (sent - flat).min(self.piece.len());
        self.piece.advance(piece);
        if self.piece.is_empty() {
            self.piece = Bytes::new();
        }
        self.tail = self.tail.get(sent - flat - piece..).unwrap_or_default();
        if self.is_empty() {
            self.flat.clear();
            self.sent = 0;
        }
    }

    /// Gives back the buffer, which is empty.
    fn rest(&mut self) {
        let flat = std::mem::take(&mut self.flat);
        if flat.capacity() == 0 || flat.capacity() > 2 * FLAT_LIMIT {
            return;
        }
        let _ = KEPT.try_with(|kept| {
            if let Ok(mut kept) = kept.try_borrow_mut()
                && kept.len() < MOST_KEPT
            {
                kept.push(flat);
            }
        });
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.flat.clear();
        self.rest();
    }
}

/// A response whose head is in the outbox.
#[derive(Debug)]
pub(super) struct Sending {
    outbox: Outbox,
    body: ProxyBody<ClientBody>,
    coding: Coding,
    /// Bytes still due where the length was announced.
    left: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More is to come.
    Open,
    /// All is in the outbox.
    Ended,
    /// The response breaks off behind what is in the outbox.
    Broken,
}

impl Sending {
    /// Begins with the head, which `outbox` holds.
    pub(super) fn new(outbox: Outbox, body: ProxyBody<ClientBody>, coding: Coding) -> Self {
        let left = if let Coding::Length(length) = coding { length } else { 0 };
        // Nothing of an answer of ours is left out but to a HEAD; a backend's may say that it has none only as it is read.
        let is_whole = coding == Coding::Nothing && (body.is_own() || body.is_end_stream());
        let state = if is_whole { State::Ended } else { State::Open };
        Self { outbox, body, coding, left, state }
    }

    /// Sends what there is and what the client takes. Ready when all is sent; an error: the message is not whole.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, link: &RefCell<Link>) -> Poll<io::Result<()>> {
        loop {
            let mut waits = false;
            while self.state == State::Open && !self.outbox.is_full() && !waits {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Pending => waits = true,
                    Poll::Ready(None) => self.end(None),
                    Poll::Ready(Some(Err(_))) => self.state = State::Broken,
                    Poll::Ready(Some(Ok(frame))) => self.take(frame),
                }
            }
            let written = self.outbox.poll(cx, &mut link.borrow_mut());
            if written.is_pending() {
                // A client may want to be rid of its request before it reads on.
                self.body.pump(cx);
            }
            ready!(written)?;
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Broken => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                State::Open if waits => {
                    self.outbox.rest();
                    return Poll::Pending;
                }
                State::Open => {}
            }
        }
    }

    /// Whether the end of the connection is the end of the body, so that no other end may look polite.
    pub(super) fn is_open_ended(&self) -> bool {
        self.coding == Coding::UntilClose
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        if !data.is_empty() {
            match &self.coding {
                Coding::Nothing => {}
                Coding::UntilClose => self.outbox.push(data, false),
                Coding::Chunked(_) => self.outbox.push(data, true),
                Coding::Length(_) => match self.left.checked_sub(data.len() as u64) {
                    Some(left) => {
                        self.left = left;
                        self.outbox.push(data, false);
                    }
                    // More than was announced would be taken for the next response.
                    None => return self.state = State::Broken,
                },
            }
        }
        if self.body.is_end_stream() {
            self.end(None);
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.state = if self.left == 0 { State::Ended } else { State::Broken };
        if let Coding::Chunked(announced) = &self.coding {
            let passing = trailers.filter(|_| !announced.is_empty());
            self.outbox.end_chunks(passing.map(|trailers| (trailers, announced.as_slice())));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets the socket take so many bytes.
    fn take(outbox: &mut Outbox, bytes: usize, wire: &mut Vec<u8>) {
        let all = outbox.parts().concat();
        let bytes = bytes.min(all.len());
        wire.extend_from_slice(&all[..bytes]);
        outbox.advance(bytes);
    }

    proptest! {
        /// Whatever the pieces, and wherever the socket stops: every byte leaves once, in its order.
        #[test]
        fn chunks_leave_whole_wherever_the_socket_stops(
            pieces in proptest::collection::vec((prop_oneof![1..100usize, 4000..4200usize, 1..20_000usize], any::<bool>()), 0..8),
            stops in proptest::collection::vec(prop_oneof![0..4usize, 1..30_000usize], 1..8),
            (end_with_last, short_of_the_end) in (any::<bool>(), any::<bool>()),
        ) {
            let (mut outbox, mut wire, mut expected) = (Outbox::default(), Vec::new(), Vec::new());
            let mut stops = stops.into_iter().cycle();
            let mut ended = false;
            for (at, (length, is_waited_for)) in pieces.iter().enumerate() {
                // As `Sending` does: nothing is added to what is full.
                while outbox.is_full() {
                    let left = outbox.parts().concat().len();
                    let stop = stops.next().unwrap();
                    let bytes = if short_of_the_end && left > 2 { left - 1 - stop % 2 } else { 1 + stop };
                    take(&mut outbox, bytes, &mut wire);
                }
                let data = vec![b'a' + at as u8; *length];
                expected.extend_from_slice(format!("{length:x}\r\n").as_bytes());
                expected.extend_from_slice(&data);
                expected.extend_from_slice(b"\r\n");
                outbox.push(data.into(), true);
                if end_with_last && at + 1 == pieces.len() {
                    outbox.end_chunks(None);
                    ended = true;
                } else if *is_waited_for {
                    take(&mut outbox, stops.next().unwrap(), &mut wire);
                }
            }
            while !ended && outbox.is_full() {
                take(&mut outbox, 1, &mut wire);
            }
            if !ended {
                outbox.end_chunks(None);
            }
            while !outbox.is_empty() {
                take(&mut outbox, 1 + stops.next().unwrap(), &mut wire);
            }
            expected.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(wire, expected);
        }
    }
}
