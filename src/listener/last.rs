//! How a connection is closed whose client may still be sending, without costing it the answer.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};

use super::connection::Entry;
use crate::upstream::Stream;

/// How long a client that was answered early may go on sending before its connection is closed (nginx: 30 s, and 5 s without
/// a byte).
const LINGER: Duration = Duration::from_secs(5);
/// The same of a worker that drains.
const LINGER_DRAINING: Duration = Duration::from_secs(1);
/// Bytes that are thrown away for its sake.
const MOST_LINGERING: usize = 64 << 20;
/// Thrown away at once.
const LINGERING_READ: usize = 16 * 1024;
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
