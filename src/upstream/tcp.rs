//! A TCP socket that asks the event loop what it knows before it asks to be told: most reads and writes of a proxy succeed at
//! once, and tokio's polls prepare for waiting first (a waker, a share of the task's budget: some 80 instructions each).
//!
//! Only for runtimes of one thread, as the workers' and the control plane's are: a short read is taken as word that nothing is
//! left, and told to the event loop. Did that run at the same time elsewhere, it could have learned of more in between.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// A connected socket.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    /// The last read filled its buffer, so that there may be more: such reads go by tokio's way, which makes a task that
    /// could go on for ever yield to others.
    bulk: bool,
}

impl From<TcpStream> for Tcp {
    fn from(stream: TcpStream) -> Self {
        Self { stream, bulk: false }
    }
}

impl Tcp {
    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether a read is worth a buffer. If not, `cx` is woken when that changes.
    #[inline]
    pub fn poll_stirs(&self, cx: &mut Context<'_>) -> bool {
        self.stream.try_io(Interest::READABLE, || Ok(())).is_ok() || self.stream.poll_read_ready(cx).is_ready()
    }

    /// Nothing is left to read, or no room to write: the kernel will say when that changes, and need not be asked before.
    #[inline]
    fn exhausted(&self, interest: Interest) {
        let _ = self.stream.try_io(interest, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }

    #[inline]
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.stream.poll_write_ready(cx))?,
                Ok(written) => {
                    if written > 0 && written < length {
                        self.exhausted(Interest::WRITABLE);
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Tcp {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = buf.remaining();
        if this.bulk {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            this.bulk = buf.remaining() == 0;
            return Poll::Ready(Ok(()));
        }
        loop {
            match this.stream.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(this.stream.poll_read_ready(cx))?,
                Ok(read) => {
                    this.bulk = read == room;
                    // Where it is 0 the other side has ended, which stays so.
                    if read > 0 && read < room {
                        this.exhausted(Interest::READABLE);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Tcp {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, buf.len(), |stream| stream.try_write(buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The kernel takes one piece faster from a plain send; TLS writes whole records, mostly one.
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        let length = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_write_with(cx, length, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Tcp, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (ours.into(), listener.accept().await.unwrap().0)
    }

    /// Reads that drain the socket, that fill their buffer, and that wait; then the end.
    #[tokio::test]
    async fn every_byte_comes_once_and_the_end_is_seen() {
        let (mut ours, mut theirs) = pair().await;
        let sent: Vec<u8> = (0..200_000u32).map(|at| at as u8).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            for piece in copy.chunks(777) {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut got = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match ours.read(&mut buffer).await.unwrap() {
                0 => break,
                read => got.extend_from_slice(&buffer[..read]),
            }
        }
        writer.await.unwrap();
        assert_eq!(got, sent);
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 0, "and stays");
    }

    /// A peer that takes nothing for a while: what does not fit waits, none is lost.
    #[tokio::test]
    async fn writes_wait_for_room() {
        let (mut ours, mut theirs) = pair().await;
        let sent: Vec<u8> = (0..8_000_000u32).map(|at| (at / 7) as u8).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            let (head, tail) = copy.split_at(copy.len() / 2);
            ours.write_all(head).await.unwrap();
            for pair in tail.chunks(70_000) {
                let bufs = [IoSlice::new(&pair[..pair.len() / 3]), IoSlice::new(&pair[pair.len() / 3..])];
                let mut written = ours.write_vectored(&bufs).await.unwrap();
                while written < pair.len() {
                    written += ours.write(&pair[written..]).await.unwrap();
                }
            }
            ours.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    }

    /// A task whose peer never lets it wait yields all the same.
    #[tokio::test]
    async fn a_peer_that_always_has_more_does_not_keep_the_thread() {
        let (mut ours, theirs) = pair().await;
        let mut theirs = theirs.into_std().unwrap();
        theirs.set_nonblocking(false).unwrap();
        let writer = std::thread::spawn(move || while io::Write::write_all(&mut theirs, &[b'x'; 1 << 16]).is_ok() {});
        let another_ran = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let says = std::sync::Arc::clone(&another_ran);
        let another = tokio::spawn(async move { says.store(true, std::sync::atomic::Ordering::Relaxed) });
        let mut buffer = [0; 64];
        while !another_ran.load(std::sync::atomic::Ordering::Relaxed) {
            assert!(ours.read(&mut buffer).await.unwrap() > 0);
        }
        another.await.unwrap();
        drop(ours);
        writer.join().unwrap();
    }
}
