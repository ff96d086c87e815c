//! A client's head, from its bytes to those that the backend gets: what our check lets through leaves with one request
//! line, one `Host`, one framing, no connection-specific field and the client's real address last.

#![no_main]

use std::sync::Arc;

use bytes::BytesMut;
use evenkeel::config::{Address, ListenerPlan};
use evenkeel::listener::http1::request::{self, Announced};
use evenkeel::proxy::headers::{Outbound, body_framing, host};
use evenkeel::proxy::request_id::RequestId;
use evenkeel::proxy::{Downstream, framing};
use evenkeel::upstream::http1::Asks;
use http::{HeaderValue, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut buffer = BytesMut::from(input);
    let Ok(Some(parsed)) = request::parse(&mut buffer, 100) else { return };
    assert!(input.ends_with(&buffer), "what follows a head stays");
    let head = parsed.parts;
    let listener = Arc::new(ListenerPlan::new(([127, 0, 0, 1], 0).into()));
    let Ok(framed) = framing::check(&head, &listener, b"") else { return };
    let downstream = Downstream::new([192, 0, 2, 1].into(), false, listener);
    let coded = head.headers.contains_key(header::TRANSFER_ENCODING);
    let has_body = coded || framed.content_length.is_some_and(|length| length > 0);
    // What passes is framed for us as it is for the backend.
    let announced = match (coded, framed.content_length) {
        (true, _) => Announced::Chunked,
        (false, None | Some(0)) => Announced::Nothing,
        (false, Some(length)) => Announced::Length(length),
    };
    assert_eq!(parsed.body, announced, "{}", input.escape_ascii());
    let asks = Asks { expect_continue: framed.expect_continue, upgrade: false };
    let id = RequestId::Theirs(HeaderValue::from_static("id"));
    let host = host(&head);
    let address: Address = "192.0.2.2:9000".parse().unwrap_or_else(|error| panic!("{error}"));
    let outbound = Outbound {
        head: &head,
        downstream: &downstream,
        named_host: host.as_bytes(),
        address: &address,
        request_id: &id,
        framing: body_framing(&head.method, framed.content_length, has_body),
        asks,
        connection_field: head.headers.contains_key(header::CONNECTION),
        own_cookie: None,
        orca: false,
    };
    let mut wire = Vec::new();
    outbound.write(&mut wire);

    let mut fields = [httparse::EMPTY_HEADER; 200];
    let mut sent = httparse::Request::new(&mut fields);
    let status = sent.parse(&wire).unwrap_or_else(|error| panic!("{error}: {}", wire.escape_ascii()));
    assert_eq!(status, httparse::Status::Complete(wire.len()), "bytes behind the head: {}", wire.escape_ascii());
    assert_eq!(sent.method, Some(head.method.as_str()));
    assert!(sent.path.is_some_and(|path| path.starts_with('/') || path == "*"), "{}", wire.escape_ascii());
    let all = |name: &str| -> Vec<&[u8]> {
        let named = sent.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value).collect()
    };
    assert_eq!(all("host").len(), 1, "{}", wire.escape_ascii());
    assert!(all("content-length").len() + all("transfer-encoding").len() <= 1, "{}", wire.escape_ascii());
    assert_eq!(all("x-forwarded-for"), [b"192.0.2.1".as_slice()]);
    assert_eq!(all("x-request-id"), [b"id".as_slice()]);
    for gone in ["connection", "keep-alive", "proxy-connection", "te", "upgrade", "forwarded", "x-real-ip"] {
        assert!(all(gone).is_empty(), "{gone} in {}", wire.escape_ascii());
    }
});
