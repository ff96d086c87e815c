//! A response head from a hostile backend: no panic; what is taken has one framing, no connection-specific field and no
//! byte more than it says; a beginning of it is never refused for what is still missing.

#![no_main]

use bytes::BytesMut;
use evenkeel::upstream::http1::request::is_hop_by_hop;
use evenkeel::upstream::http1::response::{Framing, Head, MOST_FIELDS, MOST_HEAD_BYTES, parse};
use http::{Method, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((method, bytes)) = input.split_first() else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][*method as usize % 3].clone();
    let mut buffer = BytesMut::from(bytes);
    let mut head = Head::default();
    match parse(&mut buffer, &method, &mut head) {
        Err(what) => assert!(!what.is_empty()),
        Ok(None) => {
            assert_eq!(buffer, bytes, "nothing is consumed before the head is whole");
            assert!(bytes.len() < MOST_HEAD_BYTES);
        }
        Ok(Some(rest)) => {
            let used = bytes.len() - buffer.len();
            assert!(used <= MOST_HEAD_BYTES && bytes.ends_with(&buffer));
            assert!(head.headers.len() <= MOST_FIELDS + 1);
            for name in head.headers.keys() {
                assert!(!is_hop_by_hop(name) || *name == header::TRAILER, "{name}");
            }
            let bodiless = head.status.is_informational() || [204, 304].contains(&head.status.as_u16());
            assert!(!(bodiless || method == Method::HEAD) || rest.framing == Framing::Empty);
            assert!(rest.framing != Framing::UntilClose || !rest.keep_alive);
            assert!(head.headers.get_all(header::CONTENT_LENGTH).iter().count() <= 1);
            // Any beginning of a good head only waits for the rest.
            for cut in [1, used / 2, used - 1] {
                let mut part = BytesMut::from(&bytes[..cut.min(used - 1)]);
                assert!(matches!(parse(&mut part, &method, &mut Head::default()), Ok(None)), "{} of {used} bytes", cut);
            }
        }
    }
});
