//! A load report of any bytes, in any of its forms: shares are in 0-1, counts are no less than 0, or it is no report.

#![no_main]

use evenkeel::proxy::orca::Report;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for report in [Report::parse(input), Report::parse_bin(input)].into_iter().flatten() {
        for share in [report.cpu, report.memory].into_iter().flatten() {
            assert!((0.0..=1.0).contains(&share), "{report:?}");
        }
        assert!(report.waiting.is_none_or(|count| count.is_finite() && count >= 0.0), "{report:?}");
    }
});
