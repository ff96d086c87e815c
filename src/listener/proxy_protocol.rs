//! The PROXY protocol, versions 1 and 2 (as HAProxy's `doc/proxy-protocol.txt` has them): a header before the first byte
//! of a connection, in which a proxy in front of us says who connected to it.
//!
//! [`step`] is pure: it looks at what has been read so far and says how much more may be read without touching what
//! follows the header, which may be the first byte of TLS. Nothing is guessed: what is not exactly a header is refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::net::TcpStream;

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const WORD: &[u8; 6] = b"PROXY ";
/// Longest line of version 1, its end included (the specification's own figure).
const LONGEST_LINE: usize = 107;
/// Longest header of version 2: addresses, and extensions such as names and certificates, which we skip. The format
/// would allow 64 KiB; proxies send a few hundred bytes.
const LONGEST_BLOCK: usize = 4096;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read up to so many bytes, all of the header.
    Read(usize),
    /// Read up to the end of the line, so many bytes at most.
    ReadLine(usize),
    /// The header is complete: who connected; `None`: the proxy itself.
    Done(Option<IpAddr>),
    /// It is no header: why.
    Malformed(&'static str),
}

/// What follows from the bytes read so far.
pub fn step(read: &[u8]) -> Step {
    let begins = |with: &[u8]| read.iter().zip(with).all(|(byte, expected)| byte == expected);
    if !begins(SIGNATURE) && !begins(WORD) {
        return Step::Malformed("no PROXY header");
    }
    // The shortest line has 15 bytes, the shortest block 16.
    if read.len() < SIGNATURE.len() {
        return Step::Read(SIGNATURE.len() - read.len());
    }
    if begins(SIGNATURE) {
        return block(read);
    }
    match read.iter().position(|byte| *byte == b'\n') {
        Some(end) if end + 1 == read.len() => line(read),
        Some(_) => Step::Malformed("bytes after the line"),
        None if read.len() >= LONGEST_LINE => Step::Malformed("the line is too long"),
        None => Step::ReadLine(LONGEST_LINE - read.len()),
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n`
fn line(read: &[u8]) -> Step {
    let text = read.strip_suffix(b"\r\n").and_then(|text| std::str::from_utf8(text).ok());
    let Some(text) = text else { return Step::Malformed("the line does not end with CR LF, or is no text") };
    let mut parts = text.split(' ');
    parts.next();
    let kind = parts.next();
    if kind == Some("UNKNOWN") {
        return Step::Done(None);
    }
    let [source, target, from, to] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    if parts.next().is_some() || !is_port(from) || !is_port(to) {
        return Step::Malformed("no addresses and ports");
    }
    let pair = (source.parse::<IpAddr>(), target.parse::<IpAddr>());
    match (kind, pair) {
        (Some("TCP4"), (Ok(source @ IpAddr::V4(_)), Ok(IpAddr::V4(_))))
        | (Some("TCP6"), (Ok(source @ IpAddr::V6(_)), Ok(IpAddr::V6(_)))) => Step::Done(Some(source)),
        _ => Step::Malformed("addresses of another family"),
    }
}

/// Version 2: signature, version and command, family, length, addresses, extensions.
fn block(read: &[u8]) -> Step {
    let Some((&[.., command, family, high, low], rest)) = read.split_first_chunk::<16>() else {
        return Step::Read(16 - read.len());
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_BLOCK {
        return Step::Malformed("the header is too long");
    }
    if rest.len() < length {
        return Step::Read(length - rest.len());
    }
    if rest.len() > length {
        return Step::Malformed("bytes after the header");
    }
    match (command, family) {
        (0x20, _) => Step::Done(None), // the proxy's own connection
        (0x21, 0x11) => match rest.first_chunk::<12>() {
            Some(&[a, b, c, d, ..]) => Step::Done(Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))),
            None => Step::Malformed("the addresses are cut"),
        },
        (0x21, 0x21) => match rest.first_chunk::<36>().and_then(|addresses| addresses.first_chunk::<16>()) {
            Some(source) => Step::Done(Some(IpAddr::V6(Ipv6Addr::from(*source)))),
            None => Step::Malformed("the addresses are cut"),
        },
        // Neither TCP over IP nor unknown: nothing that could have come to a listener of ours.
        (0x21, 0x00) => Step::Done(None),
        (0x21, _) => Step::Malformed("not about TCP"),
        _ => Step::Malformed("another version or command"),
    }
}

/// Reads the header off a fresh connection, and not a byte more. The caller watches the time.
///
/// # Errors
/// The connection ended, or what came is no header.
pub(super) async fn read(stream: &TcpStream) -> io::Result<Option<IpAddr>> {
    let mut header = Vec::new();
    loop {
        let (most, to_line_end) = match step(&header) {
            Step::Done(source) => return Ok(source),
            Step::Malformed(what) => return Err(io::Error::new(io::ErrorKind::InvalidData, what)),
            Step::Read(most) => (most, false),
            Step::ReadLine(most) => (most, true),
        };
        let mut room = [0; LONGEST_LINE];
        let mut most = most.min(room.len());
        if to_line_end {
            let seen = stream.peek(room.get_mut(..most).unwrap_or_default()).await?;
            // What follows the line is not ours to read.
            let line = room.iter().take(seen).position(|byte| *byte == b'\n');
            most = line.map_or(seen, |end| end + 1);
        } else {
            stream.readable().await?;
        }
        match stream.try_read(room.get_mut(..most).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => header.extend(room.iter().take(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((rest.len() as u16).to_be_bytes());
        header.extend(rest);
        header
    }

    /// Feeds bytes as the reader would; what came of it, and how many were taken.
    fn fed(bytes: &[u8], piece: usize) -> (Step, usize) {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let most = match step(&bytes[..taken]) {
                Step::Read(most) => most,
                Step::ReadLine(most) => {
                    rest.iter().take(most).position(|byte| *byte == b'\n').map_or(most, |end| end + 1)
                }
                end @ (Step::Done(_) | Step::Malformed(_)) => return (end, taken),
            };
            assert!(most > 0);
            let next = most.min(piece).min(rest.len());
            if next == 0 {
                return (Step::Read(most), taken);
            }
            taken += next;
        }
    }

    #[test]
    fn headers_and_what_is_none() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 1, 187];
        let mut six = [0; 36];
        six[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        let done = |text: &str| Step::Done(Some(text.parse().unwrap()));
        let good = [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec(), done("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::7 ::1 56324 443\r\n".to_vec(), done("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Step::Done(None)),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), Step::Done(None)),
            (version_2(0x21, 0x11, &four), done("192.0.2.1")),
            (version_2(0x21, 0x11, &[&four[..], &[1; 900]].concat()), done("192.0.2.1")),
            (version_2(0x21, 0x21, &six), done("2001:db8::7")),
            (version_2(0x20, 0x00, &[]), Step::Done(None)),
            (version_2(0x21, 0x00, &[]), Step::Done(None)),
        ];
        for (header, expected) in good {
            for piece in [1, 7, 4096] {
                let with_more = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
                assert_eq!(fed(&with_more, piece), (expected, header.len()), "{header:?}");
            }
        }
        let bad: [Vec<u8>; 13] = [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 70000 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443 9\r\n".to_vec(),
            b"PROXY TCP4  192.0.2.1 192.0.2.2 1 443\r\n".to_vec(),
            [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
            version_2(0x21, 0x11, &four[..11]),
            version_2(0x31, 0x11, &four),
            version_2(0x21, 0x12, &four),
            version_2(0x21, 0x11, &[0; LONGEST_BLOCK + 1]),
        ];
        for header in bad {
            assert!(matches!(fed(&header, 4096).0, Step::Malformed(_)), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..4, piece in 1usize..50) {
            let header = match kind {
                0 => bytes,
                1 => [WORD.to_vec(), bytes].concat(),
                2 => [SIGNATURE.to_vec(), bytes].concat(),
                _ => version_2(0x21, bytes.first().copied().unwrap_or(0x11), &bytes),
            };
            let (end, taken) = fed(&header, piece);
            prop_assert!(taken <= 16 + LONGEST_BLOCK);
            // However the bytes arrive, the same comes of them.
            prop_assert_eq!(fed(&header, 4096).0, end);
        }

        #[test]
        fn what_was_said_is_understood(source in any::<IpAddr>(), port in any::<u16>()) {
            let (word, target) = if source.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
            let header = format!("PROXY {word} {source} {target} {port} 443\r\n");
            prop_assert_eq!(fed(header.as_bytes(), 4096), (Step::Done(Some(source)), header.len()));
        }
    }
}
