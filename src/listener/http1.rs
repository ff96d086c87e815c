//! An HTTP/1.1 (or HTTP/1.0) connection from a client: one request after the other, each answered before the next is read.
//!
//! httparse tells the lines of a head apart, all else is ours. hyper's server, which stood here, is made for services: it
//! joins connection and body by channels, keeps buffers of its own above ours, and hides from its user the very things
//! that a proxy must know: whether the client is still there, what of a body was read, which bytes have left. It cost 2.0 k
//! of the 19.2 k instructions of a small request (docs/performance.md, item 13). [`request`] and [`response`] are pure;
//! [`link`] is the socket and what was read of it, [`body`] a request's body, [`sending`] a response's.

mod body;
mod link;
pub mod request;
pub mod response;
mod sending;
mod watch;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, header};
use http_body::Body;
use socket2::SockRef;
use tokio::io::AsyncWrite;

use self::body::ClientBody;
use self::link::{HEAD_READ, Link};
use self::request::{Bad, Head};
use self::response::Asked;
use self::sending::{Outbox, Sending};
use self::watch::{Passed, Watch};
use super::connection::{Entry, Phase};
use super::last::linger;
use crate::proxy::{Answer, Cut, Downstream, Proxy};
use crate::upstream::Stream;
use crate::upstream::http1::maps;

/// Room above the limits, so that our own check answers 414 and 431 with a body before the head is given up here.
const BUFFER_SLACK: usize = 16 * 1024;
/// An answer to a client that never finished its head: nothing can be routed, so nobody is asked.
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Why no further request is served.
enum Left {
    /// The connection is complete: closed politely.
    Complete,
    /// It is complete, but the client may still be sending.
    Unread,
    /// Nothing has happened for a while: it may rest elsewhere.
    Parked,
    /// It is lost, or what was sent on it must not look whole.
    Lost,
    /// A deadline passed.
    Expired(Phase),
    /// What came is no request.
    Malformed(Bad),
    /// A backend has agreed to another protocol.
    Tunnel,
}

/// Serves requests until the connection ends or rests. `first`: what was read of it. `Some`: it rests, here is the socket.
pub(super) async fn serve(
    stream: Stream,
    first: Bytes,
    downstream: &Rc<Downstream>,
    proxy: &Rc<Proxy>,
    entry: &Entry,
) -> Option<Stream> {
    let link = Rc::new(RefCell::new(Link::new(stream, first)));
    let mut session =
        Session { link: Rc::clone(&link), downstream, entry, watch: Watch::new(entry, downstream), looked_at: 0 };
    let left = session.run(proxy).await;
    drop(session);
    let mut link = Rc::into_inner(link)?.into_inner();
    link.leave();
    end(link, left, downstream, proxy, entry).await
}

/// A connection in use.
struct Session<'a> {
    link: Rc<RefCell<Link>>,
    downstream: &'a Rc<Downstream>,
    entry: &'a Entry,
    watch: Watch<'a>,
    /// Bytes of a head that was not whole when it was looked at.
    looked_at: usize,
}

impl Session<'_> {
    async fn run(&mut self, proxy: &Rc<Proxy>) -> Left {
        loop {
            let mut head = match poll_fn(|cx| self.poll_head(cx)).await {
                Ok(head) => head,
                Err(left) => return left,
            };
            // Some of the body has come with the head: its client does not wait to be asked for it.
            if head.expects_continue && !self.link.borrow().read.is_empty() {
                head.expects_continue = false;
                head.parts.headers.remove(header::EXPECT);
            }
            let asked = Asked {
                version: head.parts.version,
                head_only: head.parts.method == Method::HEAD,
                keep_alive: head.keep_alive,
                takes_trailers: head.takes_trailers,
            };
            let number = self.link.borrow_mut().begin(head.body, head.expects_continue);
            let body = match head.body {
                request::Announced::Nothing => ClientBody::none(),
                _ => ClientBody::of(&self.link, self.downstream, number),
            };
            let answer = {
                let mut answer = pin!(Rc::clone(proxy).handle(self.downstream, head.parts, body));
                match poll_fn(|cx| self.poll_answer(cx, answer.as_mut())).await {
                    Ok(answer) => answer,
                    Err(left) => return left,
                }
            };
            let (mut sending, stays) = self.begin(answer, asked);
            if let Err(left) = poll_fn(|cx| self.poll_send(cx, &mut sending)).await {
                if sending.is_open_ended() {
                    self.downstream.broke_off.set(true);
                }
                return left;
            }
            drop(sending);
            if self.downstream.tunnel.borrow().is_some() {
                return Left::Tunnel;
            }
            if !stays {
                let link = self.link.borrow();
                // A close with bytes unread is a reset, which may cost the client what it has not yet taken.
                let stirs = || link.stream.poll_stirs(&mut Context::from_waker(Waker::noop()));
                let is_unread = self.downstream.unread.get() || !link.read.is_empty() || stirs();
                return if is_unread { Left::Unread } else { Left::Complete };
            }
            // What was left of the request's body has come, and is thrown away.
            self.downstream.unread.set(false);
        }
    }

    /// Waits for the next request.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Left>> {
        if self.entry.outdated.get() {
            return Poll::Ready(Err(Left::Complete));
        }
        let link = &mut *self.link.borrow_mut();
        loop {
            // Empty lines before a request are none (RFC 9112 section 2.2).
            while let Some(b'\r' | b'\n') = link.read.first() {
                let end = if link.read.starts_with(b"\r\n") { 2 } else { usize::from(link.read.starts_with(b"\n")) };
                if end == 0 {
                    break;
                }
                link.read.advance(end);
                self.looked_at = 0;
            }
            if link.read.len() > self.looked_at {
                if may_be_whole(&link.read, self.looked_at) {
                    let listener = &self.downstream.listener;
                    match request::parse(&mut link.read, listener.max_headers) {
                        Ok(Some(head)) => {
                            self.looked_at = 0;
                            return Poll::Ready(Ok(head));
                        }
                        Ok(None) => {}
                        Err(bad) => return Poll::Ready(Err(Left::Malformed(bad))),
                    }
                }
                self.looked_at = link.read.len();
                let listener = &self.downstream.listener;
                let most = listener.max_header_bytes.saturating_add(listener.max_uri).saturating_add(BUFFER_SLACK);
                if link.read.len() >= most {
                    return Poll::Ready(Err(Left::Malformed(Bad::TooLarge)));
                }
            }
            match link.poll_fill(cx, HEAD_READ) {
                // Amid a head there is nobody to tell.
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Left::Complete)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Left::Lost)),
                Poll::Pending => break,
            }
        }
        // The rest of a head is waited for as ever. Whether the next request has arrived meanwhile is told where connections
        // rest.
        if self.entry.draining.get() && link.read.is_empty() {
            return Poll::Ready(Err(Left::Parked));
        }
        // Who has asked for nothing yet has as long as for the first head, whatever else comes.
        let rests = link.read.is_empty() && self.downstream.ended.get() > 0;
        let phase = if rests { Phase::Idle } else { Phase::Head };
        self.watch.poll(cx, phase, link).map(|passed| Err(left(passed)))
    }

    /// Waits for the answer to a request, and looks for the client's departure.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        answer: Pin<&mut impl Future<Output = Answer<ClientBody>>>,
    ) -> Poll<Result<Answer<ClientBody>, Left>> {
        if let Poll::Ready(answer) = answer.poll(cx) {
            return Poll::Ready(Ok(answer));
        }
        let link = &mut *self.link.borrow_mut();
        // Or TLS holds some of one back.
        let waits = self.downstream.has_interjection() || link.is_blocked;
        if waits && link.poll_interjection(cx, self.downstream)?.is_pending() {
            return self.watch.poll_busy(cx, link).map(|passed| Err(left(passed)));
        }
        link.check_departure(cx, self.downstream)?;
        self.watch.poll_busy(cx, link).map(|passed| Err(left(passed)))
    }

    /// Puts the head of a response into an outbox; and says whether the connection stays open behind the response.
    fn begin(&mut self, answer: Answer<ClientBody>, mut asked: Asked) -> (Sending, bool) {
        let Answer { status, headers, request_id, body } = answer;
        let mut link = self.link.borrow_mut();
        // Of a body that nobody wants what has come is thrown away; the rest would be read as the next request.
        let is_over = link.is_whole() || (self.downstream.unread.get() && link.drain());
        link.answered();
        asked.keep_alive &= is_over && !self.entry.draining.get() && !self.entry.outdated.get();
        let mut outbox = Outbox::default();
        let flat = outbox.flat();
        // What the client has not taken of them yet.
        flat.append(&mut self.downstream.interjection());
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        let (coding, stays) = response::write(status, &headers, request_id.as_bytes(), length, &asked, flat);
        maps::give(headers);
        (Sending::new(outbox, body, coding), stays)
    }

    /// Sends a response.
    fn poll_send(&mut self, cx: &mut Context<'_>, sending: &mut Sending) -> Poll<Result<(), Left>> {
        if let Poll::Ready(sent) = sending.poll(cx, &self.link) {
            return Poll::Ready(sent.map_err(|_| Left::Lost));
        }
        let link = &mut *self.link.borrow_mut();
        if !link.is_blocked {
            link.check_departure(cx, self.downstream)?;
        }
        self.watch.poll_busy(cx, link).map(|passed| Err(left(passed)))
    }
}

impl From<io::Error> for Left {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

fn left(passed: Passed) -> Left {
    match passed {
        Passed::Rested => Left::Parked,
        Passed::Late(phase) => Left::Expired(phase),
    }
}

/// Whether `bytes`, of which `before` held no whole head, hold one now: a head that drips in is not parsed for each byte.
fn may_be_whole(bytes: &[u8], before: usize) -> bool {
    if before == 0 {
        return true;
    }
    // The end is an empty line, whose first half may have been there.
    let fresh = bytes.get(before.saturating_sub(3)..).unwrap_or_default();
    let ends = |at: usize| matches!(fresh.get(at + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..]));
    fresh.iter().enumerate().any(|(at, byte)| *byte == b'\n' && ends(at))
}

/// Ends a connection that serves no further request, unless it may rest: then here is the socket.
async fn end(
    mut link: Link,
    left: Left,
    downstream: &Rc<Downstream>,
    proxy: &Rc<Proxy>,
    entry: &Entry,
) -> Option<Stream> {
    match left {
        Left::Parked => return Some(link.stream),
        Left::Complete | Left::Expired(Phase::Idle) => link.stream.part(),
        Left::Unread => {
            say(&mut link.stream, b"", true);
            linger(link.stream, entry).await;
        }
        Left::Malformed(bad) => {
            proxy.shared.cut(Cut::Malformed);
            let mut answer = Vec::new();
            let asked =
                Asked { version: http::Version::HTTP_11, head_only: false, keep_alive: false, takes_trailers: false };
            response::write(bad.status(), &HeaderMap::new(), b"", Some(0), &asked, &mut answer);
            say(&mut link.stream, &answer, true);
            linger(link.stream, entry).await;
        }
        Left::Tunnel => {
            let tunnel = downstream.tunnel.take();
            if let Some(tunnel) = tunnel {
                tunnel.run(link.stream, link.read.freeze()).await;
            }
        }
        Left::Expired(Phase::Head) => {
            proxy.shared.cut(Cut::SlowHead);
            // To a client that has not finished speaking.
            say(&mut link.stream, TIMED_OUT, false);
            link.stream.part();
        }
        // What breaks off must not look complete: no close_notify.
        Left::Expired(Phase::Blocked) => {
            proxy.shared.cut(Cut::SlowReader);
            reset(&link.stream);
        }
        Left::Lost | Left::Expired(Phase::Busy | Phase::Parting) if downstream.broke_off.get() => reset(&link.stream),
        Left::Lost | Left::Expired(Phase::Busy | Phase::Parting) => {}
    }
    None
}

/// Tells a client something, if its socket takes it at once; a fresh one does. `last`: nothing follows.
fn say(stream: &mut Stream, what: &[u8], last: bool) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut stream = Pin::new(stream);
    if !what.is_empty() {
        let _ = stream.as_mut().poll_write(&mut cx, what);
    }
    let _ = stream.as_mut().poll_flush(&mut cx);
    if last {
        let _ = stream.as_mut().poll_shutdown(&mut cx);
    }
}

/// Makes the client see the connection break.
fn reset(stream: &Stream) {
    let _ = SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a head drips in: once it is whole it is parsed.
        #[test]
        fn no_whole_head_is_overlooked(
            fields in proptest::collection::vec("[a-z]{1,5}: [a-z]{0,5}", 0..4),
            ends in proptest::collection::vec(prop_oneof![Just("\r\n"), Just("\n")], 6),
            before in any::<proptest::sample::Index>(),
        ) {
            let lines = ["GET / HTTP/1.1"].into_iter().chain(fields.iter().map(String::as_str)).chain([""]);
            let head: String = lines.zip(&ends).flat_map(|(line, end)| [line, *end]).collect();
            let is_whole = |text: &str| matches!(request::parse(&mut BytesMut::from(text), 100), Ok(Some(_)));
            prop_assert!(is_whole(&head) && !is_whole(&head[..head.len() - 1]));
            prop_assert!(may_be_whole(head.as_bytes(), before.index(head.len())));
        }
    }

    #[test]
    fn a_part_of_a_head_is_not_parsed_again_for_each_byte() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: abcdef\r\n";
        let parsed = (2..=head.len()).filter(|end| may_be_whole(&head[..*end], end - 1)).count();
        assert_eq!(parsed, 0);
    }
}
