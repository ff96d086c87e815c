//! Texts that HTTP restricts: header and cookie names, header values, hosts, paths.

use crate::config::address::check_host_name;
use crate::config::plan::HostMatch;
use crate::config::source::Finding;

/// A header name, in lower case.
pub(super) fn header_name(text: &str) -> Result<String, Finding> {
    match http::HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => Err((
            format!("`{}` is not a header name", text.escape_debug()),
            "letters, digits and - only, such as `x-session`",
        )
            .into()),
    }
}

/// Headers that mean something to HTTP, to proxies or to us: what we would write there would be taken for that.
const TAKEN: [&str; 24] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
    "x-request-id",
];

/// The name of a header that we add to requests, in lower case.
pub(super) fn own_header_name(text: &str) -> Result<String, Finding> {
    let name = header_name(text)?;
    if TAKEN.contains(&name.as_str()) || name.starts_with("x-forwarded-") {
        let message = format!("`{name}` has a meaning of its own, and cannot carry this");
        return Err((message, "a name of your own, such as `x-client-subject`").into());
    }
    if name.contains('_') {
        let message = format!("`{name}`: headers with `_` are mistaken for others, and dropped by many servers");
        return Err((message, format!("write `{}`", name.replace('_', "-"))).into());
    }
    Ok(name)
}

/// The value of a header, as a client could send it.
pub(super) fn header_value(text: &str) -> Result<String, Finding> {
    let sound = text.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) && text.trim() == text;
    match sound {
        true => Ok(text.to_owned()),
        false => Err((
            format!("`{}` cannot be the value of a header", text.escape_debug()),
            "visible ASCII characters, without spaces at the ends",
        )
            .into()),
    }
}

/// A cookie name: a token of RFC 9110, as RFC 6265 asks.
pub(super) fn cookie_name(text: &str) -> Result<String, Finding> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    match !text.is_empty() && text.bytes().all(token) {
        true => Ok(text.to_owned()),
        false => Err((
            format!("`{}` is not a cookie name", text.escape_debug()),
            "letters, digits, - and _, such as `evenkeel`",
        )
            .into()),
    }
}

/// A name for pools and backends: it stands in URLs of the API, metrics and logs.
pub(super) fn resource_name(text: &str) -> Result<String, Finding> {
    let sound = |b: u8| b.is_ascii_alphanumeric() || b"_-.:".contains(&b);
    if text.is_empty() {
        return Err("is empty; a name is expected".into());
    }
    // "." and ".." would be path segments.
    if text.len() > 128 || !text.bytes().all(sound) || text.bytes().all(|b| b == b'.') {
        let hint = "1 to 128 letters, digits, and _ - . : (it stands in URLs and metrics)";
        return Err((format!("`{}` cannot be a name", text.escape_debug()), hint).into());
    }
    Ok(text.to_owned())
}

/// The host condition of a route.
pub(super) fn host_match(text: &str) -> Result<HostMatch, Finding> {
    let host = text.to_ascii_lowercase();
    if let Some(rest) = host.strip_prefix("*.") {
        check_host_name(rest).map_err(|error| (error.to_string(), "such as \"*.example.com\""))?;
        return Ok(HostMatch::Suffix(format!(".{rest}")));
    }
    if host.contains('*') {
        return Err(("`*` stands for whole labels at the front only", "such as \"*.example.com\"").into());
    }
    let address = host.trim_start_matches('[').trim_end_matches(']');
    if address.parse::<std::net::IpAddr>().is_ok() {
        return Ok(HostMatch::Exact(host));
    }
    if let Some((name, port)) = host.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(("a host condition has no port", format!("write \"{name}\"; it holds for every port")).into());
    }
    check_host_name(&host).map_err(|error| error.to_string())?;
    Ok(HostMatch::Exact(host))
}

/// A path as it may stand in a request: `/` first, nothing that would end it.
pub(super) fn url_path(text: &str) -> Result<String, Finding> {
    if !text.starts_with('/') {
        return Err((
            format!("`{}` is not a path", text.escape_debug()),
            format!("a path starts with `/`: \"/{}\"", text.escape_debug()),
        )
            .into());
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(bad) => Err((format!("{bad:?} cannot stand in a path"), "percent-encode it").into()),
        None => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, host) in [
            ("API.example.com", Some(HostMatch::Exact("api.example.com".to_owned()))),
            ("*.Example.com", Some(HostMatch::Suffix(".example.com".to_owned()))),
            ("127.0.0.1", Some(HostMatch::Exact("127.0.0.1".to_owned()))),
            ("[::1]", Some(HostMatch::Exact("[::1]".to_owned()))),
            ("api.example.com:80", None),
            ("a.*.com", None),
            ("*", None),
            ("*.", None),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(host_match(text).ok(), host, "{text}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(header_name("X-Tier").unwrap(), "x-tier");
        assert!(header_name("x tier").is_err() && header_name("").is_err() && header_name("x:").is_err());
        assert_eq!(own_header_name("X-Client-Subject").unwrap(), "x-client-subject");
        for taken in ["Content-Length", "host", "x-forwarded-for", "X-Forwarded-Client-Cert", "te", "x_client", "via"] {
            assert!(own_header_name(taken).is_err(), "{taken}");
        }
        assert!(header_value("gold ☆").is_err() && header_value(" gold").is_err() && header_value("gold x").is_ok());
        assert!(cookie_name("ek=").is_err() && cookie_name("").is_err() && cookie_name("__Host-ek").is_ok());
        assert!(resource_name("..").is_err() && resource_name("a/b").is_err() && resource_name("gpu-1.a_b").is_ok());
        assert!(url_path("health").is_err() && url_path("/a b").is_err() && url_path("/a?b=c").is_ok());
    }
}
