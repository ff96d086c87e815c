//! Read buffers that a worker's connections share, the one used last first.
//!
//! A buffer that was written a moment ago is still in the processor's cache, and copying an answer into it is cheaper than
//! into one that was last used sixty requests before. An allocator does not promise that order, and an idle connection has
//! no need of a buffer at all.

use std::cell::RefCell;

use bytes::BytesMut;

use super::connection::FIRST_READ;

/// Size of a buffer. A second answer, and for small ones a hundredth, is read behind the first where that is still held:
/// over HTTP/2 answers wait for each other, to be sent together.
const SIZE: usize = 2 * FIRST_READ;

/// Buffers kept by a worker: 2 MiB, as much as one core's second-level cache holds.
const MOST_KEPT: usize = 32;

/// Buffers looked at before a new one is made: those whose answer is still on its way to a slow client are passed over.
const LOOKS: usize = 4;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`FIRST_READ`] bytes.
pub(super) fn take() -> BytesMut {
    let kept = KEPT.try_with(|kept| {
        let mut kept = kept.try_borrow_mut().ok()?;
        let oldest = kept.len().saturating_sub(LOOKS);
        // From its beginning once nothing of what was read into it is held any more, before that in what room is left.
        let has_room = |buffer: &mut BytesMut| buffer.try_reclaim(SIZE) || buffer.capacity() >= FIRST_READ;
        let found = (oldest..kept.len()).rev().find(|at| kept.get_mut(*at).is_some_and(has_room))?;
        Some(kept.remove(found))
    });
    kept.ok().flatten().unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Takes back an empty buffer that was [taken](take). What was read into it may still be held.
pub(super) fn give(buffer: BytesMut) {
    let _ = KEPT.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut() {
            if kept.len() >= MOST_KEPT {
                kept.remove(0);
            }
            kept.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_behind_what_is_held_and_from_its_beginning_once_nothing_is() {
        let mut first = take();
        let place = first.as_ptr();
        first.extend_from_slice(b"answer");
        let held = first.split().freeze();
        give(first);
        let mut second = take();
        assert!(second.capacity() >= FIRST_READ);
        assert_eq!(second.as_ptr(), place.wrapping_add(held.len()), "behind the answer that is still held");
        second.extend_from_slice(&[b'x'; FIRST_READ]);
        let long = second.split().freeze();
        give(second);
        let other = take();
        assert!(other.capacity() >= FIRST_READ && other.as_ptr() != place, "too little is left of the first");
        drop(other);
        assert_eq!(&held[..], b"answer");
        drop((held, long));
        let third = take();
        assert_eq!((third.as_ptr(), third.len()), (place, 0));
        assert!(third.capacity() >= SIZE);
        for _ in 0..2 * MOST_KEPT {
            give(BytesMut::with_capacity(SIZE));
        }
        assert_eq!(KEPT.with(|kept| kept.borrow().len()), MOST_KEPT);
    }
}
