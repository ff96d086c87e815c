//! `X-Forwarded-For` of any bytes: an untrusted peer is the client whatever it says; behind a trusted one the client is
//! an address that stands in the header, and never one that is trusted while another stands to the left of it.

#![no_main]

use std::sync::Arc;

use evenkeel::config::ListenerPlan;
use evenkeel::proxy::Downstream;
use evenkeel::proxy::forwarded::client_address;
use evenkeel::proxy::request_id::RequestId;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    if input.is_empty() {
        return;
    }
    for line in input.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        // The older notation or the newer one: the first byte says which.
        let name = if input[0] & 1 == 0 { "x-forwarded-for" } else { "forwarded" };
        headers.append(name, value.clone());
        headers.append("x-request-id", value);
    }
    let peer = [10, 0, 0, 1].into();
    let mut listener = ListenerPlan::new(([127, 0, 0, 1], 0).into());
    let stranger = Downstream::new(peer, false, Arc::new(listener.clone()));
    assert_eq!(client_address(&headers, &stranger), peer);

    listener.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    let friend = Downstream::new(peer, false, Arc::new(listener));
    let client = client_address(&headers, &friend);
    let text = String::from_utf8_lossy(input);
    assert!(client == peer || text.contains('.') || text.contains(':'), "{client} out of nowhere");

    let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
    for trusted in [false, true] {
        let id = RequestId::of(&headers, trusted, &mut rng);
        assert!((1..=128).contains(&id.as_bytes().len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
    }
});
