//! HTTP/1.1 messages as bytes: read without any of the product's own parsers, so that the two cannot share a mistake.

use std::cell::RefCell;
use std::io::{self, Read};

/// A head, and what was read of the body behind it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    /// The head exactly as it came, with its empty line.
    pub(crate) raw: Vec<u8>,
    /// The request or status line.
    pub(crate) start: String,
    /// Fields in order, names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// The body, decoded.
    pub(crate) body: Vec<u8>,
    /// Trailers of a chunked body.
    pub(crate) trailers: Vec<(String, String)>,
    /// The body came to the end that its framing promised. (A body until close is always whole.)
    pub(crate) whole: bool,
}

impl Message {
    /// Reads one head from the bytes of `source`, of which `buffer` holds those that came early. `None`: the peer closed
    /// before the first byte.
    pub(crate) fn read_head(source: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let end = loop {
            if let Some(at) = find(buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if fill(source, buffer)? == 0 {
                if buffer.is_empty() {
                    return Ok(None);
                }
                let text = format!("closed amid a head: {}", buffer.escape_ascii());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        };
        let raw: Vec<u8> = buffer.drain(..end).collect();
        let text = String::from_utf8_lossy(&raw).into_owned();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter(|line| !line.is_empty()).map(field).collect();
        Ok(Some(Self { raw, start, fields, ..Self::default() }))
    }

    /// Reads the body that the head announces. `request_method`: that of the request which a response answers; `None`
    /// when this is a request.
    pub(crate) fn read_body(
        &mut self,
        source: &mut impl Read,
        buffer: &mut Vec<u8>,
        request_method: Option<&str>,
    ) -> io::Result<()> {
        let bodiless = request_method.is_some() && matches!(self.status(), 100..=199 | 204 | 304);
        if bodiless || request_method == Some("HEAD") {
            self.whole = true;
            return Ok(());
        }
        if self.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks(source, buffer);
        }
        let length = self.field("content-length").map(|length| length.parse::<usize>().unwrap());
        let length = if request_method.is_some() { length } else { Some(length.unwrap_or(0)) };
        while length.is_none_or(|length| buffer.len() < length) {
            match fill(source, buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if is_loss(&error) => break,
                Err(error) => return Err(error),
            }
        }
        self.whole = length.is_none_or(|length| buffer.len() >= length);
        self.body.extend(buffer.drain(..length.unwrap_or(usize::MAX).min(buffer.len())));
        Ok(())
    }

    fn read_chunks(&mut self, source: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let Some(line) = read_line(source, buffer)? else { return Ok(()) };
            let digits = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("chunk size {line:?}"));
            if size == 0 {
                break;
            }
            while buffer.len() < size + 2 {
                match fill(source, buffer) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if is_loss(&error) => break,
                    Err(error) => return Err(error),
                }
            }
            if buffer.len() < size + 2 {
                self.body.extend(buffer.drain(..size.min(buffer.len())));
                return Ok(());
            }
            self.body.extend(buffer.drain(..size));
            assert_eq!(buffer.drain(..2).collect::<Vec<_>>(), b"\r\n", "chunk data not ended by CRLF");
        }
        while let Some(line) = read_line(source, buffer)? {
            if line.is_empty() {
                self.whole = true;
                break;
            }
            self.trailers.push(field(&line));
        }
        Ok(())
    }

    /// The first field of that name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All fields of that name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The status of a response; 0 for a request.
    pub(crate) fn status(&self) -> u16 {
        let mut words = self.start.split(' ');
        if !words.next().unwrap_or_default().starts_with("HTTP/") {
            return 0;
        }
        words.next().and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {:?}", self.start))
    }

    /// The method of a request.
    pub(crate) fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// `error.code` of an answer that the balancer made itself, after its whole shape was checked.
    #[track_caller]
    pub(crate) fn error_code(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/json"), "{self:?}");
        let json = self.json();
        let error = &json["error"];
        for key in ["message", "type", "code", "request_id"] {
            assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "error.{key} in {json}");
        }
        assert_eq!(error["request_id"].as_str(), self.field("x-request-id"), "{json}");
        assert!(!self.text().contains("127."), "an answer names an address: {json}");
        error["code"].as_str().unwrap().to_owned()
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}"));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

/// A line without its CRLF; `None`: the peer closed first.
fn read_line(source: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(at) = find(buffer, b"\r\n") {
            let line: Vec<u8> = buffer.drain(..at + 2).collect();
            return Ok(Some(String::from_utf8_lossy(&line[..at]).into_owned()));
        }
        match fill(source, buffer) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if is_loss(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Reads once.
pub(crate) fn fill(source: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    thread_local! {
        static PIECE: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
    }
    PIECE.with_borrow_mut(|piece| {
        // A signal to this process (a child's end) is no news of the peer.
        let read = loop {
            match source.read(piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        buffer.extend_from_slice(&piece[..read]);
        Ok(read)
    })
}

/// The connection was lost, as opposed to: nothing came in time.
pub(crate) fn is_loss(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}

/// Where `needle` begins in `hay`.
pub(crate) fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

/// `data` as one chunk.
pub(crate) fn chunked(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
