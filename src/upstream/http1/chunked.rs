//! The chunked coding of RFC 9112 section 7.1, decoded strictly from an untrusted peer.
//!
//! A chunk size is 1 to 16 hex digits and nothing else; extensions are skipped, up to 16 KiB in a body; every line ends
//! in CRLF exactly. Data leaves as slices of the read buffer, without a copy.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Bytes of chunk extensions tolerated in one body (reliability.md §2.6).
const MOST_EXTENSION_BYTES: usize = 16 * 1024;
/// Bytes of trailers tolerated (reliability.md §1).
const MOST_TRAILER_BYTES: usize = 16 * 1024;
/// Trailer fields tolerated (reliability.md §1).
const MOST_TRAILERS: usize = 100;
/// Hex digits that fit 64 bits.
const MOST_DIGITS: u32 = 16;

/// Where the decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size { digits: u32, size: u64 },
    /// In an extension, until CR.
    Extension { size: u64 },
    /// After the CR of a size line.
    SizeLf { size: u64 },
    /// In the data of a chunk.
    Data { left: u64 },
    /// After the data: CR.
    DataCr,
    /// After the data: LF.
    DataLf,
    /// After the last chunk: trailers, until an empty line.
    Trailers,
    /// All read.
    Done,
}

/// A decoder for one body.
#[derive(Debug)]
pub struct ChunkDecoder {
    state: State,
    extension_bytes: usize,
}

/// What the decoder found.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Data of a chunk, never empty.
    Data(Bytes),
    /// The end of the body, with its trailers if there were any.
    End(Option<HeaderMap>),
    /// Everything that was there is consumed, and more is needed.
    NeedMore,
}

impl ChunkDecoder {
    /// A decoder at the start of a body.
    pub fn new() -> Self {
        Self { state: State::Size { digits: 0, size: 0 }, extension_bytes: 0 }
    }

    /// Whether the whole body was read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes that the present chunk still holds, to choose the size of a read.
    pub fn expected(&self) -> u64 {
        if let State::Data { left } = self.state { left } else { 0 }
    }

    /// Consumes from the front of `buffer`. Bytes after the end stay in it.
    ///
    /// # Errors
    /// What is wrong, when it is not the chunked coding; the decoder must not be used any further.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Step, &'static str> {
        loop {
            match self.state {
                State::Done => return Ok(Step::End(None)),
                State::Data { left } => {
                    if buffer.is_empty() {
                        return Ok(Step::NeedMore);
                    }
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                    let left = left - take as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    let data = buffer.split_to(take).freeze();
                    self.finish_chunk(buffer)?;
                    return Ok(Step::Data(data));
                }
                State::Trailers => return self.trailers(buffer),
                State::Size { .. } | State::Extension { .. } | State::SizeLf { .. } | State::DataCr | State::DataLf => {
                    if !self.line(buffer)? {
                        return Ok(Step::NeedMore);
                    }
                }
            }
        }
    }

    /// After a chunk's data: takes the CRLF at once when it is there, so that the end of a body is seen with its last
    /// data and the connection is free without another poll.
    fn finish_chunk(&mut self, buffer: &mut BytesMut) -> Result<(), &'static str> {
        if self.state == State::DataCr && buffer.len() >= 7 && buffer.starts_with(b"\r\n0\r\n\r\n") {
            let _ = buffer.split_to(7);
            self.state = State::Done;
        }
        Ok(())
    }

    /// Steps through framing bytes until data, trailers or the end of `buffer`. `false`: more is needed.
    fn line(&mut self, buffer: &mut BytesMut) -> Result<bool, &'static str> {
        let mut used = 0;
        for byte in buffer.iter() {
            used += 1;
            self.state = self.framing_byte(*byte)?;
            if matches!(self.state, State::Data { .. } | State::Trailers) {
                break;
            }
        }
        let _ = buffer.split_to(used);
        Ok(matches!(self.state, State::Data { .. } | State::Trailers))
    }

    fn framing_byte(&mut self, byte: u8) -> Result<State, &'static str> {
        match (self.state, byte) {
            (State::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                if digits == MOST_DIGITS {
                    return Err("chunk size too large");
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                Ok(State::Size { digits: digits + 1, size: size << 4 | digit })
            }
            (State::Size { digits: 0, .. }, _) => Err("chunk size missing"),
            (State::Size { size, .. }, b'\r') => Ok(State::SizeLf { size }),
            (State::Size { size, .. }, b';' | b' ' | b'\t') => self.extension(size),
            (State::Size { .. }, _) => Err("invalid chunk size"),
            (State::Extension { size }, b'\r') => Ok(State::SizeLf { size }),
            (State::Extension { .. }, b'\n' | 0) => Err("invalid chunk extension"),
            (State::Extension { size }, _) => self.extension(size),
            (State::SizeLf { size: 0 }, b'\n') => Ok(State::Trailers),
            (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
            (State::SizeLf { .. }, _) => Err("chunk size line not ended by CRLF"),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size { digits: 0, size: 0 }),
            (State::DataCr | State::DataLf, _) => Err("chunk data not ended by CRLF"),
            (State::Data { .. } | State::Trailers | State::Done, _) => Ok(self.state),
        }
    }

    fn extension(&mut self, size: u64) -> Result<State, &'static str> {
        self.extension_bytes += 1;
        if self.extension_bytes > MOST_EXTENSION_BYTES {
            return Err("chunk extensions too long");
        }
        Ok(State::Extension { size })
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Step, &'static str> {
        if buffer.starts_with(b"\r\n") {
            let _ = buffer.split_to(2);
            self.state = State::Done;
            return Ok(Step::End(None));
        }
        let mut fields = [httparse::EMPTY_HEADER; MOST_TRAILERS];
        match httparse::parse_headers(buffer, &mut fields) {
            Ok(httparse::Status::Partial) if buffer.len() >= MOST_TRAILER_BYTES => Err("trailers too long"),
            Ok(httparse::Status::Partial) => Ok(Step::NeedMore),
            Ok(httparse::Status::Complete((used, fields))) => {
                if used > MOST_TRAILER_BYTES {
                    return Err("trailers too long");
                }
                let trailers = collect(fields)?;
                // httparse takes a bare LF for the end of a line; what else reads these bytes may see another request
                // behind it.
                let section = buffer.get(..used).unwrap_or_default();
                let lines = section.split_inclusive(|byte| *byte == b'\n');
                if lines.into_iter().any(|line| !line.ends_with(b"\r\n")) {
                    return Err("a bare LF among the trailers");
                }
                let _ = buffer.split_to(used);
                self.state = State::Done;
                Ok(Step::End(Some(trailers)))
            }
            Err(_) => Err("invalid trailer"),
        }
    }
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Trailers that may pass: framing and routing fields are not allowed there (RFC 9110 section 6.5.1) and are dropped.
fn collect(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, &'static str> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "invalid trailer name")?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| "invalid trailer value")?;
        let forbidden = [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING, http::header::HOST];
        if !forbidden.contains(&name) && !crate::upstream::http1::request::is_hop_by_hop(&name) {
            map.append(name, value);
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `input` cut into pieces at `cuts`; the data, whether it ended, and what was left.
    fn decode(input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, bool, Vec<u8>), &'static str> {
        let mut decoder = ChunkDecoder::new();
        let (mut buffer, mut data, mut fed) = (BytesMut::new(), Vec::new(), 0);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(input.len());
        for cut in cuts {
            buffer.extend_from_slice(&input[fed..cut.max(fed)]);
            fed = cut.max(fed);
            loop {
                match decoder.decode(&mut buffer)? {
                    Step::Data(bytes) => data.extend_from_slice(&bytes),
                    Step::NeedMore => break,
                    Step::End(_) => {
                        buffer.extend_from_slice(&input[fed..]);
                        return Ok((data, true, buffer.to_vec()));
                    }
                }
            }
        }
        Ok((data, false, buffer.to_vec()))
    }

    #[test]
    fn good_bodies() {
        let cases: [(&[u8], &[u8], &[u8]); 6] = [
            (b"0\r\n\r\n", b"", b""),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
            (b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1", b"hello", b"HTTP/1.1"),
            (b"00005;a=b\r\nhello\r\n1 ; q=\"x\"\r\n!\r\n0\r\n\r\n", b"hello!", b""),
            (b"A\r\n0123456789\r\n000\r\nx: y\r\n\r\nrest", b"0123456789", b"rest"),
            (b"a\r\n0123456789\r\n0;last\r\n\r\n", b"0123456789", b""),
        ];
        for (input, data, rest) in cases {
            assert_eq!(decode(input, &[]), Ok((data.to_vec(), true, rest.to_vec())), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn trailers_pass_but_framing_fields_do_not() {
        let mut buffer = BytesMut::from(&b"0\r\ngrpc-status: 0\r\nContent-Length: 3\r\n\r\n"[..]);
        let step = ChunkDecoder::new().decode(&mut buffer);
        let Ok(Step::End(Some(trailers))) = step else { panic!("{step:?}") };
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[test]
    fn bad_bodies() {
        let long_extension = [b"1;".as_slice(), &[b'x'; MOST_EXTENSION_BYTES + 1], b"\r\n"].concat();
        let long_trailer = [b"0\r\na: ".as_slice(), &[b'x'; MOST_TRAILER_BYTES], b"\r\n\r\n"].concat();
        let cases: [&[u8]; 19] = [
            b"\r\n",
            b" 5\r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"-5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"5\nhello\n0\n\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloXX0\r\n\r\n",
            b"5\rhello",
            b"g\r\n",
            b"10000000000000000\r\n",
            b"5_0\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\n\n",
            b"0\r\na: b\n\r\n",
            b"0\r\na: b\r\n\n",
            &long_extension,
            &long_trailer,
        ];
        for input in cases {
            assert!(decode(input, &[]).is_err(), "{}", input.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_data(body in proptest::collection::vec(1..200usize, 0..8), cuts in proptest::collection::vec(any::<usize>(), 0..8)) {
            let (mut wire, mut data) = (Vec::new(), Vec::new());
            for (number, length) in body.iter().enumerate() {
                let piece = vec![number as u8; *length];
                wire.extend_from_slice(format!("{length:x}\r\n").as_bytes());
                wire.extend_from_slice(&piece);
                wire.extend_from_slice(b"\r\n");
                data.extend_from_slice(&piece);
            }
            wire.extend_from_slice(b"0\r\n\r\nNEXT");
            prop_assert_eq!(decode(&wire, &cuts), Ok((data, true, b"NEXT".to_vec())));
        }

        #[test]
        fn no_bytes_panic_and_cuts_do_not_change_the_verdict(
            input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'2'), Just(b';'), Just(b':'), any::<u8>()], 0..60),
            cuts in proptest::collection::vec(any::<usize>(), 0..6),
        ) {
            let whole = decode(&input, &[]);
            let cut = decode(&input, &cuts);
            match (whole, cut) {
                (Ok((a, ended, _)), Ok((b, also, _))) => { prop_assert_eq!(a, b); prop_assert_eq!(ended, also); }
                (Err(_), Err(_)) => {}
                (whole, cut) => prop_assert!(false, "{:?} but {:?}", whole, cut),
            }
        }
    }
}
