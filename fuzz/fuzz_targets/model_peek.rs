//! The `model` of a request body, read from whatever has arrived: no panic, and where both a beginning and the whole
//! give an answer, it is the same.

#![no_main]

use evenkeel::proxy::peek::{Peek, model};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let whole = model(body);
    for cut in [body.len() / 3, body.len() / 2, body.len().saturating_sub(1)] {
        if let Peek::Found(early) = model(&body[..cut]) {
            assert!(matches!(&whole, Peek::Found(late) if *late == early), "{early:?}, then {whole:?}");
        }
    }
});
