//! A PROXY header of any bytes, v1 or v2: reading it stays within bounds, ends, and the same comes of the same bytes
//! however they are cut.

#![no_main]

use evenkeel::listener::proxy_protocol::{Step, step};
use evenkeel::tls::x509::Certificate;
use libfuzzer_sys::fuzz_target;

fn fed(bytes: &[u8], piece: usize) -> (Step, usize) {
    let mut taken = 0;
    loop {
        let rest = &bytes[taken..];
        let most = match step(&bytes[..taken]) {
            Step::Read(most) => most,
            Step::ReadLine(most) => rest.iter().take(most).position(|byte| *byte == b'\n').map_or(most, |end| end + 1),
            end @ (Step::Done(_) | Step::Malformed(_)) => return (end, taken),
        };
        assert!(most > 0, "no progress");
        let next = most.min(piece).min(rest.len());
        if next == 0 {
            return (Step::Read(1), taken);
        }
        taken += next;
    }
}

fuzz_target!(|input: &[u8]| {
    let whole = fed(input, usize::MAX);
    assert!(whole.1 <= 16 + 4096, "unbounded");
    for piece in [1, 3, 50] {
        assert_eq!(fed(input, piece).0, whole.0);
    }
    // Certificates of clients come the same way.
    let _ = Certificate::parse(input);
});
