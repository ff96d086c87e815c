//! Who a request is said to come from: what is believed of it, and what we say ourselves (reliability.md §4.3).
//!
//! Two notations tell the same: `X-Forwarded-For` with its companions, and `Forwarded` (RFC 7239). A trusted proxy may use
//! either; where it sends both, the older one counts, since nearly everything that reads them reads that one. From anyone
//! else neither is believed nor passed on.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::Downstream;
use crate::config::Cidr;
use crate::upstream::http1::request::write_field;

const FOR: &str = "x-forwarded-for";
const PROTO: &str = "x-forwarded-proto";
const HOST: &str = "x-forwarded-host";

/// Every field that says where a request came from begins so: also `-Port`, `-Prefix`, `-Ssl`, which some servers believe.
const FAMILY: &[u8] = b"x-forwarded-";

/// Who the client is, for keys, logs and limits: the peer, or what a trusted proxy says, read from right to left
/// through the trusted ranges only.
pub fn client_address(headers: &HeaderMap, downstream: &Downstream) -> IpAddr {
    if !downstream.trusted {
        return downstream.peer;
    }
    let trusted: &[Cidr] = &downstream.listener.trusted_proxies;
    let mut client = downstream.peer;
    let plain = headers.contains_key(FOR);
    let lines: SmallVec<[&HeaderValue; 4]> =
        if plain { headers.get_all(FOR).iter().collect() } else { headers.get_all(header::FORWARDED).iter().collect() };
    for line in lines.iter().rev() {
        let line = line.as_bytes();
        // The older notation knows no quotes.
        let parts = if plain {
            line.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect()
        } else {
            elements(line, b',')
        };
        for element in parts {
            let named = if plain { Some(element) } else { parameter(element, b"for") };
            let Some(address) = named.and_then(parse_address) else { return client };
            client = address.to_canonical();
            if !trusted.iter().any(|range| range.contains(client)) {
                return client;
            }
        }
    }
    client
}

/// The parts of `line` between separators that stand in no quotes, trimmed; **from the last to the first**, as it is read:
/// a quote that a client never closed spoils its own part and none that a proxy has added behind it.
fn elements(line: &[u8], separator: u8) -> SmallVec<[&[u8]; 8]> {
    let (mut parts, mut end, mut quoted) = (SmallVec::new(), line.len(), false);
    for (at, &byte) in line.iter().enumerate().rev() {
        match byte {
            b'"' => {
                let slashes = line[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
                quoted ^= slashes % 2 == 0;
            }
            _ if byte == separator && !quoted => {
                parts.push(line[at + 1..end].trim_ascii());
                end = at;
            }
            _ => {}
        }
    }
    parts.push(line[..end].trim_ascii());
    parts
}

/// The value of a parameter in an element of `Forwarded`, without its quotes.
fn parameter<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    elements(element, b';').iter().rev().find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        key.eq_ignore_ascii_case(name).then_some(bare)
    })
}

/// An address, perhaps with a port or in brackets.
fn parse_address(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?;
    text.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

/// Whether a field of the client's speaks of where the request came from, so that only we or a trusted proxy may say it.
/// What stands here is not passed on as it came; what a trusted proxy said is in what [`write`] writes.
#[inline]
pub(super) fn is_reserved(name: &HeaderName, trusted: bool) -> bool {
    if *name == header::FORWARDED {
        return true;
    }
    let name = name.as_str().as_bytes();
    let [b'x', b'-' | b'_', ..] = name else { return false };
    // Servers that map names to variables (CGI and its heirs) take `_` for `-`: an alias would pass for the real one.
    let alias = name.contains(&b'_');
    let like = |ours: &[u8]| name.len() == ours.len() && name.iter().zip(ours).all(|(a, b)| same(*a, *b));
    let family = name.len() >= FAMILY.len() && name.iter().zip(FAMILY).all(|(a, b)| same(*a, *b));
    if family || like(b"x-real-ip") {
        return alias || !trusted || [FOR, PROTO, HOST].iter().any(|ours| ours.as_bytes() == name);
    }
    like(b"x-request-id")
}

/// Whether two bytes of names are the same to a server that takes `_` for `-`.
#[inline]
pub(super) fn same(theirs: u8, ours: u8) -> bool {
    theirs == ours || matches!((theirs, ours), (b'_', b'-') | (b'-', b'_'))
}

/// What an untrusted peer's requests say of it: the same for every request of a connection.
pub(super) fn of_peer(peer: &str, secure: bool) -> Vec<u8> {
    let proto = if secure { "https" } else { "http" };
    format!("{FOR}: {peer}\r\n{PROTO}: {proto}\r\n").into_bytes()
}

/// Writes what we say of where a request came from: from a trusted proxy what it said, and itself at the end.
pub(super) fn write(out: &mut Vec<u8>, headers: &HeaderMap, downstream: &Downstream, host: &[u8]) {
    if !downstream.trusted {
        out.extend_from_slice(&downstream.forwarded);
        if !host.is_empty() {
            write_field(out, HOST, host);
        }
        return;
    }
    let peer = downstream.peer_text.as_bytes();
    let chain: SmallVec<[&[u8]; 4]> = headers.get_all(header::FORWARDED).iter().map(HeaderValue::as_bytes).collect();
    // What the nearest proxy said of its own client, where it speaks the newer notation only.
    let newer = |name: &[u8]| {
        let last = chain.last().and_then(|line| elements(line, b',').first().copied());
        last.and_then(|element| parameter(element, name)).filter(|value| !value.is_empty())
    };
    out.extend_from_slice(FOR.as_bytes());
    out.extend_from_slice(b": ");
    for line in headers.get_all(FOR) {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b", ");
    }
    if !headers.contains_key(FOR) {
        let client = client_address(headers, downstream);
        if client != downstream.peer {
            out.extend_from_slice(format!("{client}, ").as_bytes());
        }
    }
    out.extend_from_slice(peer);
    out.extend_from_slice(b"\r\n");
    let scheme: &[u8] = if downstream.secure { b"https" } else { b"http" };
    let said = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    write_field(out, PROTO, said(PROTO).or_else(|| newer(b"proto")).unwrap_or(scheme));
    let host = said(HOST).or_else(|| newer(b"host")).unwrap_or(host);
    if !host.is_empty() {
        write_field(out, HOST, host);
    }
    if !chain.is_empty() {
        out.extend_from_slice(b"forwarded: ");
        for line in chain {
            out.extend_from_slice(line);
            out.extend_from_slice(b", ");
        }
        let (open, close) = if downstream.peer.is_ipv6() { ("\"[", "]\"") } else { ("", "") };
        out.extend_from_slice(format!("for={open}{}{close}\r\n", downstream.peer_text).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::ListenerPlan;

    fn near() -> Downstream {
        let mut listener = ListenerPlan::new(([127, 0, 0, 1], 0).into());
        listener.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        Downstream::new([10, 0, 0, 1].into(), false, Arc::new(listener))
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn the_client_is_the_first_address_from_the_right_that_is_not_trusted() {
        let cases = [
            ("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.1.1.1", "1.2.3.4"),
            ("x-forwarded-for", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
            ("x-forwarded-for", "junk, 10.2.2.2", "10.2.2.2"),
            ("x-forwarded-for", "1.2.3.4:555", "1.2.3.4"),
            ("x-forwarded-for", "[2001:db8::1]", "2001:db8::1"),
            ("x-forwarded-for", "::ffff:1.2.3.4", "1.2.3.4"),
            ("x-forwarded-for", "", "10.0.0.1"),
            ("forwarded", "for=6.6.6.6, for=1.2.3.4;proto=https, for=10.1.1.1", "1.2.3.4"),
            ("forwarded", "by=x;For=\"[2001:db8::1]:99\";proto=http", "2001:db8::1"),
            ("forwarded", "for=\"1.2.3.4:5\"", "1.2.3.4"),
            ("forwarded", "for=\"a,b\\\";for=6.6.6.6\"", "10.0.0.1"),
            ("forwarded", "for=6.6.6.6, for=_hidden, for=10.2.2.2", "10.2.2.2"),
            ("forwarded", "proto=https", "10.0.0.1"),
            ("forwarded", ";;=,\"", "10.0.0.1"),
            // What a client leaves open does not swallow what a proxy adds.
            ("x-forwarded-for", "\", 1.2.3.4", "1.2.3.4"),
            ("x-forwarded-for", "\"6.6.6.6\\, 1.2.3.4", "1.2.3.4"),
            ("forwarded", "for=\"x, for=1.2.3.4", "1.2.3.4"),
            ("forwarded", "for=\"x\\, for=\"1.2.3.4:80\", for=10.1.1.1", "1.2.3.4"),
        ];
        for (name, value, expected) in cases {
            let client = client_address(&headers(&[(name, value)]), &near());
            assert_eq!(client.to_string(), expected, "{name}: {value}");
        }
    }

    #[test]
    fn names_that_only_we_may_say() {
        let reserved = |name: &str, trusted| is_reserved(&HeaderName::from_bytes(name.as_bytes()).unwrap(), trusted);
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "X-Forwarded_For",
            "x_forwarded-proto",
            "x-real_ip",
            "x_request-id",
            "x_forwarded_port",
            "forwarded",
            "x-request-id",
            "x-forwarded-proto",
        ] {
            assert!(reserved(name, false) && reserved(name, true), "{name}");
        }
        for name in
            ["x-forwarded-port", "x-forwarded-prefix", "x-forwarded-ssl", "x-forwarded-client-cert", "x-real-ip"]
        {
            assert!(reserved(name, false) && !reserved(name, true), "{name}");
        }
        for name in ["x-forwarded", "accept", "x-real-ips", "x_api_key", "x", "forwarded-for"] {
            assert!(!reserved(name, false), "{name}");
        }
    }

    #[test]
    fn the_newer_notation_is_passed_on_and_told_in_the_older_too() {
        let mut out = Vec::new();
        let said = headers(&[("forwarded", "for=1.2.3.4;proto=https;host=shop.example")]);
        write(&mut out, &said, &near(), b"inner");
        let lines: Vec<_> = std::str::from_utf8(&out).unwrap().split_terminator("\r\n").collect();
        let expected = [
            "x-forwarded-for: 1.2.3.4, 10.0.0.1",
            "x-forwarded-proto: https",
            "x-forwarded-host: shop.example",
            "forwarded: for=1.2.3.4;proto=https;host=shop.example, for=10.0.0.1",
        ];
        assert_eq!(lines, expected);
    }
}
