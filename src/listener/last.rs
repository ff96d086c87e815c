//! The last that a client hears when its request is not served to the end: how its connection is closed without costing it
//! the answer, and the one refusal that hyper words wrongly.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Entry;
use crate::upstream::Stream;

/// An answer to a client whose body would be of a length that hyper keeps for itself: it would say 431.
const MALFORMED: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// How long a client that was answered early may go on sending before its connection is closed (nginx: 30 s, and 5 s without
/// a byte).
const LINGER: Duration = Duration::from_secs(5);
/// The same of a worker that drains.
const LINGER_DRAINING: Duration = Duration::from_secs(1);
/// Bytes that are thrown away for its sake.
const MOST_LINGERING: usize = 64 << 20;
/// Thrown away at once.
const LINGERING_READ: usize = 16 * 1024;
/// Fields of a head that are looked at.
const MOST_FIELDS: usize = 100;

/// Whether a first head asks for a body of 2^64 - 2 bytes or one more: longer ones fit no number, shorter ones are taken.
pub(super) fn has_impossible_length(first: &[u8]) -> bool {
    const DIGITS: &[u8] = b"184467440737095516";
    // Nearly always that is all.
    let mut rest = first;
    while let Some(at) = rest.iter().position(|byte| *byte == DIGITS[0]).filter(|at| !rest[*at..].starts_with(DIGITS)) {
        rest = &rest[at + 1..];
    }
    if !rest.contains(&DIGITS[0]) {
        return false;
    }
    let Some(line) = first.iter().position(|byte| *byte == b'\n') else { return false };
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    // The fields alone: with a second caller of httparse's whole parser hyper's own copy of it is no longer inlined, which
    // every request would pay for.
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&first[line + 1..], &mut fields) else {
        return false;
    };
    let length = |value: &[u8]| std::str::from_utf8(value).ok()?.trim().parse::<u64>().ok();
    fields.iter().any(|field| {
        field.name.eq_ignore_ascii_case("content-length")
            && length(field.value).is_some_and(|length| length >= u64::MAX - 1)
    })
}

/// Refuses such a request.
pub(super) async fn refuse(mut stream: Stream, entry: &Entry) {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    // A fresh socket takes so little at once.
    let mut socket = Pin::new(&mut stream);
    let _ = socket.as_mut().poll_write(&mut cx, MALFORMED);
    let _ = socket.as_mut().poll_flush(&mut cx);
    let _ = socket.as_mut().poll_shutdown(&mut cx);
    linger(stream, entry).await;
}

/// Throws away what a client still sends that was answered early and told that this was the end: a close with bytes
/// unread is a reset, which may cost it the answer. Bounded in time and bytes, and over once the client has closed.
pub(super) async fn linger(mut stream: Stream, entry: &Entry) {
    entry.deadline.arm(if entry.draining.get() { LINGER_DRAINING } else { LINGER });
    let mut left = MOST_LINGERING;
    std::future::poll_fn(|cx| {
        // Not initialised, and not kept across polls: such a client costs no buffer.
        let mut room = [MaybeUninit::uninit(); LINGERING_READ];
        while left > 0 {
            let mut buf = ReadBuf::uninit(&mut room);
            match Pin::new(&mut stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => left = left.saturating_sub(buf.filled().len()),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if entry.deadline.poll_passed(cx) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_length_that_hyper_keeps_for_itself_is_found() {
        let head = |field: &str| format!("POST / HTTP/1.1\r\nHost: a1\r\n{field}\r\n\r\n1");
        for (field, found) in [
            ("Content-Length: 18446744073709551615", true),
            ("content-length:\t18446744073709551614 ", true),
            ("Content-Length: 0018446744073709551615", true),
            ("Content-Length: 18446744073709551613", false),
            ("Content-Length: 18446744073709551616", false),
            ("Content-Length: 118446744073709551615", false),
            ("Content-Length: 11", false),
            ("X-Length: 18446744073709551615", false),
            ("no colon 18446744073709551615", false),
        ] {
            assert_eq!(has_impossible_length(head(field).as_bytes()), found, "{field}");
        }
        let unended = "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n";
        assert!(!has_impossible_length(unended.as_bytes()) && !has_impossible_length(b""));
    }
}
