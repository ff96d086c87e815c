//! A client that sends bytes and reads bytes.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

use super::PATIENCE;
use super::message::{Message, fill, find, is_loss};

/// One client connection.
#[derive(Debug)]
pub(crate) struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Sends all of it.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("send");
    }

    /// Lets the kernel hold no more than about `bytes` that the peer has not taken.
    pub(crate) fn hold_at_most(&self, bytes: usize) {
        SockRef::from(&self.stream).set_send_buffer_size(bytes).unwrap();
    }

    /// Sends what the peer takes: it may close amid it.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends as much as the peer takes until it takes nothing for `pause`; how much that was.
    pub(crate) fn send_until_stalled(&mut self, piece: &[u8], most: usize, pause: Duration) -> usize {
        self.stream.set_write_timeout(Some(pause)).unwrap();
        let mut sent = 0;
        while sent < most {
            match self.stream.write(piece) {
                Ok(written) => sent += written,
                Err(_) => break,
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        sent
    }

    /// `GET path`, and its whole response.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Message {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.response()
    }

    /// `POST path` with a body of known length, and its whole response.
    #[track_caller]
    pub(crate) fn post(&mut self, path: &str, body: &str) -> Message {
        self.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        self.response()
    }

    /// The response to anything but HEAD.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    /// The final response to a request with `method`.
    #[track_caller]
    pub(crate) fn response_to(&mut self, method: &str) -> Message {
        let mut head = self.head();
        while (100..200).contains(&head.status()) {
            head = self.head();
        }
        head.read_body(&mut self.stream, &mut self.buffer, Some(method)).expect("read a body");
        head
    }

    /// The next head, informational ones included, without its body.
    #[track_caller]
    pub(crate) fn head(&mut self) -> Message {
        self.try_head().expect("read a head").expect("closed before a response")
    }

    /// The next head; `None`: closed (or reset) without a byte.
    pub(crate) fn try_head(&mut self) -> io::Result<Option<Message>> {
        match Message::read_head(&mut self.stream, &mut self.buffer) {
            Err(error) if is_loss(&error) && self.buffer.is_empty() => Ok(None),
            other => other,
        }
    }

    /// The body behind `head`, of which nothing was read so far.
    #[track_caller]
    pub(crate) fn body(&mut self, head: &mut Message) {
        head.read_body(&mut self.stream, &mut self.buffer, Some("GET")).expect("read a body");
    }

    /// Reads up to and with `needle`.
    #[track_caller]
    pub(crate) fn read_until(&mut self, needle: impl AsRef<[u8]>) -> Vec<u8> {
        let needle = needle.as_ref();
        loop {
            if let Some(at) = find(&self.buffer, needle) {
                return self.buffer.drain(..at + needle.len()).collect();
            }
            let read = fill(&mut self.stream, &mut self.buffer).expect("read");
            assert!(read > 0, "closed before {:?}: {}", needle.escape_ascii(), self.buffer.escape_ascii());
        }
    }

    /// Exactly `count` bytes.
    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            let read = fill(&mut self.stream, &mut self.buffer).expect("read");
            assert!(read > 0, "closed before {count} bytes: {}", self.buffer.escape_ascii());
        }
        self.buffer.drain(..count).collect()
    }

    /// Everything to the end of the connection, however it ends.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        loop {
            match fill(&mut self.stream, &mut self.buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_loss(&error) => break,
                Err(error) => panic!("still open: {error}, read {}", self.buffer.escape_ascii()),
            }
        }
        std::mem::take(&mut self.buffer)
    }

    /// The peer closes, without another byte.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "bytes before the close: {}", rest.escape_ascii());
    }

    /// The peer breaks the connection off: a polite close would look like the end of what it said.
    #[track_caller]
    pub(crate) fn assert_reset(&mut self) {
        loop {
            match fill(&mut self.stream, &mut self.buffer) {
                Ok(0) => panic!("closed politely after {}", self.buffer.escape_ascii()),
                Ok(_) => {}
                Err(error) if is_loss(&error) => return,
                Err(error) => panic!("still open: {error}"),
            }
        }
    }

    /// Whether nothing has arrived and the connection is open, as far as this end knows now.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        self.stream.set_nonblocking(true).unwrap();
        let peeked = SockRef::from(&self.stream).peek(&mut byte);
        self.stream.set_nonblocking(false).unwrap();
        self.buffer.is_empty() && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closes the sending side only.
    #[track_caller]
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("half-close");
    }

    /// Leaves with a reset instead of a polite close.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}
