//! Addresses as text: `host:port` of a backend, an IP address with port of a socket, ranges of addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::conceal::without_user;
use super::plan::{Address, Cidr};

/// Why a text is not an address; says what is wrong with it, not where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError(String);

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AddressError {}

fn error(text: impl Into<String>) -> AddressError {
    AddressError(text.into())
}

impl FromStr for Address {
    type Err = AddressError;

    /// `127.0.0.1:8001`, `[::1]:8001` or `name.example:8001`; the port is 1..=65535.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.find("://").map(|at| &text[at + 3..]) {
            return Err(error(format!(
                "an address is HOST:PORT without a scheme, such as `{}`",
                without_user(rest).trim_end_matches('/')
            )));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(error("port 0 cannot be connected to")),
                _ => Ok(Self::Ip(address)),
            };
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(error("the port is missing"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(error("the port is missing"));
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(error("an IPv6 address stands in brackets: `[::1]:8001`"));
        }
        let port = match port.parse::<u16>() {
            Ok(0) => return Err(error("port 0 cannot be connected to")),
            Ok(port) if !port_has_sign(text) => port,
            Ok(_) | Err(_) => return Err(error(format!("`{port}` is not a port, 1 to 65535"))),
        };
        check_host_name(host)?;
        Ok(Self::Name { host: host.to_ascii_lowercase(), port })
    }
}

/// `u16::from_str` takes `+80`; an address does not.
fn port_has_sign(address: &str) -> bool {
    address.rsplit(':').next().is_some_and(|port| port.starts_with('+'))
}

/// Whether `host` could be looked up: labels of letters, digits, `-` and `_`, 253 bytes at most (RFC 1123; the underscore
/// because container names have it).
pub(super) fn check_host_name(host: &str) -> Result<(), AddressError> {
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() {
        return Err(error("the host is missing"));
    }
    if name.len() > 253 {
        return Err(error("a host name has 253 characters at most"));
    }
    if let Some(bad) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        return Err(error(format!("{bad:?} cannot stand in a host name")));
    }
    if name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(error("each part of a host name has 1 to 63 characters"));
    }
    // "10.0.0.300" looks like an address, is none, and no resolver knows it as a name.
    if name.split('.').all(|label| label.bytes().all(|b| b.is_ascii_digit())) {
        return Err(error(format!("`{host}` is not an IPv4 address")));
    }
    Ok(())
}

impl FromStr for Cidr {
    type Err = AddressError;

    /// `10.0.0.0/8`, `fd00::/8`, or a single address. Host bits must be zero, so that a slip is seen.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| error(format!("`{address}` is not an IP address")))?;
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) => match digits.parse::<u8>() {
                Ok(n) if n <= bits && !digits.starts_with('+') => n,
                Ok(_) | Err(_) => return Err(error(format!("`/{digits}` is not a prefix length, 0 to {bits}"))),
            },
        };
        let masked = mask(network, prefix);
        if masked != network {
            return Err(error(format!("bits after the prefix are set; `{masked}/{prefix}` is the range")));
        }
        // Clients on a dual-stack socket appear as IPv4, so a range of mapped addresses is meant as IPv4 too.
        match network {
            IpAddr::V6(ip) if prefix >= 96 && ip.to_ipv4_mapped().is_some() => {
                Ok(Self { network: network.to_canonical(), prefix: prefix - 96 })
            }
            IpAddr::V4(_) | IpAddr::V6(_) => Ok(Self { network, prefix }),
        }
    }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let bits = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & bits).into())
        }
        IpAddr::V6(ip) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & bits).into())
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are() {
        for (text, shown) in [
            ("127.0.0.1:8001", "127.0.0.1:8001"),
            ("[::1]:80", "[::1]:80"),
            ("Instance-1.Example:65535", "instance-1.example:65535"),
            ("llm_1:1", "llm_1:1"),
            ("a.b.:8", "a.b.:8"),
        ] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn addresses_that_are_not() {
        for (text, wrong) in [
            ("", "the port is missing"),
            ("127.0.0.1", "the port is missing"),
            ("::1", "the port is missing"),
            ("host", "the port is missing"),
            (":80", "the host is missing"),
            ("host:0", "port 0 cannot be connected to"),
            ("127.0.0.1:0", "port 0 cannot be connected to"),
            ("host:65536", "`65536` is not a port, 1 to 65535"),
            ("host:+80", "`+80` is not a port, 1 to 65535"),
            ("host:", "`` is not a port, 1 to 65535"),
            ("fe80::1:80:x", "an IPv6 address stands in brackets: `[::1]:8001`"),
            ("a b:80", "' ' cannot stand in a host name"),
            ("a..b:80", "each part of a host name has 1 to 63 characters"),
            ("10.0.0.300:80", "`10.0.0.300` is not an IPv4 address"),
            ("http://me:secret@host:80", "an address is HOST:PORT without a scheme, such as `host:80`"),
            ("http://host:80/", "an address is HOST:PORT without a scheme, such as `host:80`"),
        ] {
            assert_eq!(text.parse::<Address>().map_err(|e| e.to_string()), Err(wrong.to_owned()), "{text}");
        }
    }

    #[test]
    fn ranges() {
        let ten: Cidr = "10.0.0.0/8".parse().unwrap();
        assert!(ten.contains("10.255.0.1".parse().unwrap()) && !ten.contains("11.0.0.0".parse().unwrap()));
        assert!(ten.contains("::ffff:10.1.2.3".parse().unwrap()), "mapped addresses count as IPv4");
        let one: Cidr = "::1".parse().unwrap();
        assert_eq!(one.prefix, 128);
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!("::/0".parse::<Cidr>().unwrap().contains("fe80::1".parse().unwrap()));
        assert_eq!("::ffff:10.0.0.0/104".parse::<Cidr>(), Ok(ten));
        for (text, wrong) in [
            ("10.0.0.1/8", "bits after the prefix are set; `10.0.0.0/8` is the range"),
            ("10.0.0.0/33", "`/33` is not a prefix length, 0 to 32"),
            ("10.0.0.0/", "`/` is not a prefix length, 0 to 32"),
            ("host/8", "`host` is not an IP address"),
        ] {
            assert_eq!(text.parse::<Cidr>().map_err(|e| e.to_string()), Err(wrong.to_owned()), "{text}");
        }
    }
}
