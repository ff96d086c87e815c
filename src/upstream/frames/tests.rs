//! Frames of both sides as HTTP/2 writes them, whole and in pieces of every size, and bytes that are none: what the watch says.

use proptest::prelude::*;

use super::*;

/// A frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

/// A literal that enters the table.
fn entering(name: &str, value: &str) -> Vec<u8> {
    [vec![0x40], text(name), text(value)].concat()
}

/// What comes of these bytes, whole and in pieces of every size.
fn read(watch: fn() -> FrameWatch, bytes: &[u8]) -> Result<bool, Violation> {
    let at_once = |step: usize| {
        let mut watch = watch();
        bytes.chunks(step).try_for_each(|piece| watch.read(piece)).map(|()| watch.is_amid_head())
    };
    let whole = at_once(bytes.len().max(1));
    for step in 1..bytes.len().min(40) {
        assert_eq!(at_once(step), whole, "in pieces of {step}");
    }
    whole
}

fn of_client(frames: &[Vec<u8>]) -> Result<bool, Violation> {
    read(FrameWatch::of_client, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frames.concat()].concat())
}

fn of_backend(frames: &[Vec<u8>]) -> Result<bool, Violation> {
    read(FrameWatch::of_backend, &frames.concat())
}

/// GET, http, / and `:authority`, which enters the table; then two fields that do.
fn head() -> Vec<u8> {
    let authority = [vec![0x41], text("test")].concat();
    [vec![0x82, 0x86, 0x84], authority, entering("x-a", "1"), entering("x-b", "2")].concat()
}

const SETTINGS: u8 = 4;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;

#[test]
fn a_head_is_amid_until_its_last_byte() {
    let settings = frame(SETTINGS, 0, 0, &[0; 6]);
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head());
    assert_eq!(of_client(&[settings.clone(), whole.clone()]), Ok(false));
    assert_eq!(of_client(&[settings.clone(), whole[..whole.len() - 1].to_vec()]), Ok(true));
    assert_eq!(of_client(&[settings, frame(HEADERS, END_STREAM, 1, &head())]), Ok(true));
    let (first, second) = (frame(HEADERS, 0, 1, &head()[..7]), frame(CONTINUATION, 0, 1, &head()[7..9]));
    assert_eq!(of_client(&[first.clone(), second.clone()]), Ok(true));
    let empty = frame(CONTINUATION, END_HEADERS, 1, &[]);
    assert_eq!(of_client(&[first, second, frame(CONTINUATION, 0, 1, &head()[9..]), empty]), Ok(false));
    // Frames of other kinds are none.
    assert_eq!(of_client(&[whole, frame(DATA, 0, 1, b"half")[..11].to_vec()]), Ok(false));
}

#[test]
fn a_pseudo_field_among_trailers_is_found_however_it_is_said() {
    let open = frame(HEADERS, END_HEADERS, 1, &head());
    let end = |block: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    let refused: [&[u8]; 7] = [
        &[0x84],
        &[0x44, 1, b'/'],
        &[0x04, 1, b'/'],
        &[[0].as_slice(), &text(":path"), &text("/")].concat(),
        // `:path` in Huffman's code.
        &[0x00, 0x84, 0xB9, 0x58, 0xD3, 0x3F, 1, b'/'],
        // The oldest entry of the table; and its name alone.
        &[0x80 | 64],
        &[0x0F, 64 - 15, 1, b'x'],
    ];
    for block in refused {
        assert_eq!(of_client(&[open.clone(), end(block)]), Err(Violation::PseudoInTrailers), "{block:x?}");
        // Behind others, on a stream that is not the latest.
        let block = [entering("x-sum", "7").as_slice(), &[0x80 | 62], block].concat();
        let later = frame(HEADERS, END_HEADERS, 3, &[0x82, 0x86, 0x84, 0x80 | 64]);
        let refused = if block.ends_with(&[0x80 | 64]) || block.ends_with(&[64 - 15, 1, b'x']) {
            // One entry more: these are others now.
            Ok(false)
        } else {
            Err(Violation::PseudoInTrailers)
        };
        assert_eq!(of_client(&[open.clone(), later, end(&block)]), refused, "{block:x?}");
    }
    let allowed: [&[u8]; 5] =
        [&[], &[0x80 | 62], &entering("x", ":path"), &[0x80 | 63, 0x80 | 62], &[0x20, 0x3F, 0xE1, 0x1F, 0x80 | 20]];
    for block in allowed {
        assert_eq!(of_client(&[open.clone(), end(block)]), Ok(false), "{block:x?}");
    }
    // What stands before the block and behind it is no field.
    let padded = [[3, 0, 0, 0, 0, 9].as_slice(), &head(), &[0x84; 3]].concat();
    let open = frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, &padded);
    let trailers = [[2].as_slice(), &entering("x-sum", "7"), &[0x84; 2]].concat();
    assert_eq!(of_client(&[open, frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &trailers)]), Ok(false));
}

#[test]
fn informational_responses_are_counted_by_stream() {
    let said = |stream, status: &[u8]| frame(HEADERS, END_HEADERS, stream, status);
    // 103 as it is, and in Huffman's code.
    let (plain, compressed) = ([vec![0x48], text("103")].concat(), vec![0x48, 0x82, 0x08, 0x19]);
    for hints in [&plain, &compressed] {
        let mut frames: Vec<_> = (0..20).flat_map(|_| [said(1, hints), said(3, hints)]).collect();
        assert_eq!(of_backend(&frames), Ok(false));
        // A final response ends the count.
        frames.extend([said(3, &[0x88]), frame(DATA, END_STREAM, 3, b"ok"), said(3, hints)]);
        assert_eq!(of_backend(&frames), Ok(false));
        frames.push(said(1, hints));
        assert_eq!(of_backend(&frames), Err(Violation::Informational));
    }
    // From the table, too.
    let frames: Vec<_> = (0..21).map(|n| said(1, if n == 0 { &plain } else { &[0x80 | 62] })).collect();
    assert_eq!(of_backend(&frames), Err(Violation::Informational));
    for finals in ["200", "301", "599"] {
        let frames: Vec<_> = (0..100).map(|n| said(2 * n + 1, &[vec![0x48], text(finals)].concat())).collect();
        assert_eq!(of_backend(&frames), Ok(false), "{finals}");
    }
}

#[test]
fn a_101_is_none_of_http2() {
    for status in [[vec![0x08], text("101")].concat(), vec![0x48, 0x82, 0x08, 0x03]] {
        assert_eq!(of_backend(&[frame(HEADERS, END_HEADERS, 1, &status)]), Err(Violation::SwitchingProtocols));
    }
    // 100, 102 and 103 in Huffman's code.
    for last in [0x01, 0x05, 0x19] {
        assert_eq!(of_backend(&[frame(HEADERS, END_HEADERS, 1, &[0x48, 0x82, 0x08, last])]), Ok(false));
    }
}

proptest! {
    /// Whatever comes: no panic, and the same however it is cut.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(FrameWatch::of_backend, &bytes);
        let _ = of_client(&[frame(HEADERS, END_HEADERS, 1, &bytes), frame(HEADERS, END_HEADERS | PADDED, 1, &bytes)]);
    }
}
