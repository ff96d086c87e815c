//! Header maps that a worker's requests use one after the other: an empty one with room costs three hundred instructions to
//! make and to give back to the allocator, and two are needed for each request.

use std::cell::RefCell;

use http::HeaderMap;

/// Maps kept by a worker: more than that are seldom made and let go at once.
const MOST_KEPT: usize = 64;
/// The largest that is kept; nearly all heads have fewer fields.
const MOST_FIELDS: usize = 96;

thread_local! {
    static KEPT: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map, perhaps with room.
pub fn take() -> HeaderMap {
    let kept = KEPT.try_with(|kept| kept.try_borrow_mut().ok()?.pop());
    kept.ok().flatten().unwrap_or_default()
}

/// Takes back a map that is needed no longer.
pub fn give(mut map: HeaderMap) {
    // What a map of none holds, and what one of a thousand fields.
    if map.capacity() == 0 || map.capacity() > MOST_FIELDS {
        return;
    }
    map.clear();
    let _ = KEPT.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut()
            && kept.len() < MOST_KEPT
        {
            kept.push(map);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_map_comes_back_empty_and_with_its_room() {
        let mut map = take();
        map.append("a", HeaderValue::from_static("1"));
        map.append("a", HeaderValue::from_static("2"));
        let room = map.capacity();
        give(map);
        let again = take();
        assert_eq!((again.len(), again.capacity()), (0, room));
        give(HeaderMap::with_capacity(1000));
        assert_eq!(take().capacity(), 0, "one that large is not kept");
        for _ in 0..2 * MOST_KEPT {
            give(HeaderMap::with_capacity(1));
        }
        assert_eq!(KEPT.with(|kept| kept.borrow().len()), MOST_KEPT);
    }
}
