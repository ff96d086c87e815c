//! Sticky sessions on the wire: finding a session in a request, keeping our cookie from backends, and handing it to the
//! client without a shared cache keeping it.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};

use super::access_log;
use crate::clock;
use crate::config::StickyMode;
use crate::pool::{Session, Settled, Sticky};

/// The session of a request with these headers from `client`.
pub(super) fn session(sticky: &Arc<Sticky>, headers: &HeaderMap, client: IpAddr) -> Session {
    let plan = sticky.plan();
    let now = seconds(plan.mode);
    match plan.mode {
        StickyMode::Cookie => sticky.session_among(cookies(headers, &plan.name), now),
        StickyMode::Header => sticky.session(headers.get(plan.name.as_str()).map(HeaderValue::as_bytes), now),
        StickyMode::SourceIp => match client {
            IpAddr::V4(v4) => sticky.session(Some(&v4.octets()), now),
            IpAddr::V6(v6) => sticky.session(Some(&v6.octets()), now),
        },
    }
}

/// The clock by which sessions of this mode age: the wall's for those that leave the process in a cookie, for the others one
/// that nobody sets.
pub(super) fn seconds(mode: StickyMode) -> u64 {
    match mode {
        StickyMode::Cookie => clock::wall_seconds(),
        StickyMode::Header | StickyMode::SourceIp => clock::steady_seconds(),
    }
}

/// The values of the cookies called `name`.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    pairs(headers).filter_map(move |pair| value_of(pair, name))
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii)
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// The client's cookies without the one called `name`, as one field value; `None`: nothing is left. A cookie of ours is
/// nobody else's business.
pub(super) fn cookies_without(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    let mut left = Vec::new();
    for pair in pairs(headers).filter(|pair| !pair.is_empty() && value_of(pair, name).is_none()) {
        if !left.is_empty() {
            left.extend_from_slice(b"; ");
        }
        left.extend_from_slice(pair);
    }
    (!left.is_empty()).then_some(left)
}

/// Puts a session's cookie on the response and says what happened to the session.
pub(super) fn settle(settled: Settled, headers: &mut HeaderMap) -> access_log::Sticky {
    if let Some(cookie) = settled.cookie {
        headers.append(header::SET_COOKIE, cookie);
        make_private(headers);
    }
    match settled.kept {
        None => access_log::Sticky::New,
        Some(true) => access_log::Sticky::Hit,
        Some(false) => access_log::Sticky::Failover,
    }
}

/// A response with somebody's cookie must not be served to others by a shared cache (RFC 9111 section 7.3). `private` with
/// a list of fields restrains only those, so it does not do.
fn make_private(headers: &mut HeaderMap) {
    let lines: Vec<HeaderValue> = headers.get_all(header::CACHE_CONTROL).iter().cloned().collect();
    let directives = lines.iter().filter_map(|line| line.to_str().ok()).flat_map(directives);
    let mut kept: Vec<&str> = Vec::new();
    for directive in directives {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("private") {
            return;
        }
        let name = directive.split('=').next().unwrap_or_default().trim();
        if !["public", "private", "s-maxage"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
            kept.push(directive);
        }
    }
    kept.insert(0, "private");
    if let Ok(value) = HeaderValue::from_str(&kept.join(", ")) {
        headers.insert(header::CACHE_CONTROL, value);
    }
}

/// The directives of a field line: parts between commas, of which those in quotes part nothing.
fn directives(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = line.split(move |c| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => {}
        }
        c == ',' && !quoted
    });
    parts.map(str::trim).filter(|directive| !directive.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn our_cookie_is_found_and_kept_from_backends() {
        let mut map = headers(&[("cookie", "a=1; evenkeel=x; evenkeels=y")]);
        map.append("cookie", HeaderValue::from_static("b=2;evenkeel=z"));
        assert_eq!(cookies(&map, "evenkeel").collect::<Vec<_>>(), [b"x", b"z"]);
        assert_eq!(cookies_without(&map, "evenkeel").unwrap(), b"a=1; evenkeels=y; b=2");
        assert_eq!(cookies_without(&headers(&[("cookie", "evenkeel=x")]), "evenkeel"), None);
    }

    #[test]
    fn a_shared_cache_does_not_keep_a_cookie() {
        let cases = [
            (&[][..], "private"),
            (&[("cache-control", "public, max-age=60, s-maxage=5")][..], "private, max-age=60"),
            (&[("cache-control", "no-store")][..], "no-store"),
            (&[("cache-control", "Private, max-age=1")][..], "Private, max-age=1"),
            (&[("cache-control", "Private=\"x\", max-age=9")][..], "private, max-age=9"),
            (&[("cache-control", "max-age=1, private=\"x, no-store, private\"")][..], "private, max-age=1"),
        ];
        for (fields, expected) in cases {
            let mut map = headers(fields);
            make_private(&mut map);
            assert_eq!(map["cache-control"], expected);
        }
    }
}
