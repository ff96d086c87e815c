//! The chunked decoder, fed in pieces cut anywhere: the same data and the same verdict however it is cut, data never
//! beyond what came in, and nothing consumed after the end.
//!
//! The first byte says how many cuts follow it, one byte each.

#![no_main]

use bytes::BytesMut;
use evenkeel::upstream::http1::chunked::{ChunkDecoder, Step};
use libfuzzer_sys::fuzz_target;

/// Data, whether the end was seen, and how many bytes were left behind it.
type Verdict = Result<(Vec<u8>, bool, usize), ()>;

fn decode(input: &[u8], cuts: &[usize]) -> Verdict {
    let mut decoder = ChunkDecoder::new();
    let (mut buffer, mut data, mut fed) = (BytesMut::new(), Vec::new(), 0);
    for cut in cuts.iter().copied().chain([input.len()]) {
        let cut = cut.clamp(fed, input.len());
        buffer.extend_from_slice(&input[fed..cut]);
        fed = cut;
        loop {
            match decoder.decode(&mut buffer).map_err(drop)? {
                Step::Data(piece) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                }
                Step::NeedMore => break,
                Step::End(_) => {
                    assert!(decoder.is_done());
                    return Ok((data, true, buffer.len() + input.len() - fed));
                }
            }
        }
    }
    Ok((data, false, buffer.len()))
}

fuzz_target!(|input: &[u8]| {
    let Some((count, rest)) = input.split_first() else { return };
    let (cuts, body) = rest.split_at((*count as usize % 9).min(rest.len()));
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut as usize).collect();
    cuts.sort_unstable();
    let (whole, cut) = (decode(body, &[]), decode(body, &cuts));
    match (&whole, &cut) {
        (Ok((data, ended, left)), Ok((cut_data, cut_ended, cut_left))) => {
            assert_eq!((data, ended), (cut_data, cut_ended));
            assert!(!ended || left == cut_left);
            assert!(data.len() + left <= body.len());
        }
        (Err(()), Err(())) => {}
        _ => panic!("{whole:?} in one piece, {cut:?} in several"),
    }
});
