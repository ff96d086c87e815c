//! What people type for addresses, made into what is meant.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::{Address, StrategyKind, parse_duration};

/// An address to listen on, from `8080`, `:8080`, `host:port` or `http://host:port`. A bare port means every interface.
///
/// # Errors
/// Says what is wrong with the text.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    socket(text, Ipv4Addr::UNSPECIFIED)
}

/// The same for a server that only this machine should reach: a bare port means 127.0.0.1.
///
/// # Errors
/// Says what is wrong with the text.
pub(super) fn listen_local(text: &str) -> Result<SocketAddr, String> {
    socket(text, Ipv4Addr::LOCALHOST)
}

fn socket(text: &str, bare: Ipv4Addr) -> Result<SocketAddr, String> {
    let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    if rest.contains("://") {
        return Err("listening with TLS takes certificates, and so a configuration file".into());
    }
    if let Some(port) = port(rest) {
        return Ok(SocketAddr::from((bare, port?)));
    }
    if let Ok(address) = rest.parse() {
        return Ok(address);
    }
    if !rest.contains(':') {
        return Err("the port is missing, as in `127.0.0.1:8080`".into());
    }
    let mut found = rest.to_socket_addrs().map_err(|error| format!("`{rest}` is no address: {error}"))?;
    found.next().ok_or_else(|| format!("`{rest}` has no address"))
}

/// A backend as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Where it is.
    pub(super) address: Address,
    /// `https://` was written.
    pub(super) tls: bool,
}

/// A backend, from `8001`, `:8001`, `host:port`, `http://host[:port]` or `https://host[:port]`. A bare port is this
/// machine's.
///
/// # Errors
/// Says what is wrong with the text.
pub(super) fn target(text: &str) -> Result<Target, String> {
    let (rest, tls, default_port) = match text.split_once("://") {
        None => (text, false, None),
        Some(("http", rest)) => (rest, false, Some(80)),
        Some(("https", rest)) => (rest, true, Some(443)),
        Some((scheme, _)) => return Err(format!("`{scheme}` is not spoken here: http or https")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return Err("a backend has an address and no path: requests keep their own".into());
    }
    if let Some(port) = port(rest) {
        return match port? {
            0 => Err("port 0 cannot be connected to".into()),
            port => Ok(Target { address: Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port))), tls }),
        };
    }
    let full = match default_port {
        Some(port) if !rest.trim_start_matches(|c| c != ']').contains(':') && !bare_has_port(rest) => {
            format!("{rest}:{port}")
        }
        Some(_) | None => rest.to_owned(),
    };
    let address = full.parse().map_err(|error: crate::config::AddressError| error.to_string())?;
    Ok(Target { address, tls })
}

/// A duration such as `250ms`, `2s`, `5m`, `1h`.
///
/// # Errors
/// Says what is wrong with the text, and what would be right.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{}; {}", error.message, error.hint))
}

/// A strategy by its name; clap lists the known ones, and finds the nearest to a slip.
pub(super) fn strategy() -> impl TypedValueParser<Value = StrategyKind> {
    let names = PossibleValuesParser::new(StrategyKind::ALL.map(StrategyKind::name));
    names.try_map(|name| StrategyKind::from_name(&name).ok_or("unknown strategy"))
}

/// Whether a host without brackets is followed by a port.
fn bare_has_port(rest: &str) -> bool {
    !rest.starts_with('[') && rest.contains(':')
}

/// The port, when the text is nothing but one (with or without a colon).
fn port(text: &str) -> Option<Result<u16, String>> {
    let digits = text.strip_prefix(':').unwrap_or(text);
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| digits.parse().map_err(|_| format!("`{digits}` is not a port, 0 to 65535")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (text, meant) in [
            ("8080", "0.0.0.0:8080"),
            (":8080", "0.0.0.0:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(listen(text), Ok(meant.parse().unwrap()), "{text}");
        }
        assert_eq!(listen_local(":9901"), Ok("127.0.0.1:9901".parse().unwrap()));
        for text in ["", "127.0.0.1", "99999", "https://127.0.0.1:1", "::1", "127.0.0.1:x"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn backends() {
        for (text, meant, tls) in [
            ("8001", "127.0.0.1:8001", false),
            (":8001", "127.0.0.1:8001", false),
            ("127.0.0.1:8001", "127.0.0.1:8001", false),
            ("http://gpu-1:8001/", "gpu-1:8001", false),
            ("http://gpu-1", "gpu-1:80", false),
            ("https://api.example.com", "api.example.com:443", true),
            ("https://[::1]", "[::1]:443", true),
            ("http://[::1]:8001", "[::1]:8001", false),
        ] {
            let target = target(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((target.address.to_string().as_str(), target.tls), (meant, tls), "{text}");
        }
        for text in ["", ":0", "gpu-1", "ftp://x:1", "http://x:1/v1", "1.2.3.400:80", "x:99999"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
