//! The open connections of a backend: their count, shared by all workers, and the word that all of them are to end.
//!
//! Both live in one atomic, so that a connection that counts itself also hears the word, for one load per read.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// In the count: every connection is to end.
const ENDING: u64 = 1 << 63;

/// Words given so far in this process.
static ENDINGS: AtomicU64 = AtomicU64::new(0);

/// Ends every connection that counts itself in `open`, idle or amid a response, for ever. They notice when they are
/// polled next; who sees [`endings`] change wakes those that wait.
pub fn end_all(open: &AtomicU64) {
    open.fetch_or(ENDING, Relaxed);
    ENDINGS.fetch_add(1, Relaxed);
}

/// Whether [`end_all`] was called: what breaks off there from now on is our doing.
pub fn is_ending(open: &AtomicU64) -> bool {
    open.load(Relaxed) & ENDING != 0
}

/// Changes with every [`end_all`].
pub fn endings() -> u64 {
    ENDINGS.load(Relaxed)
}

/// The connections that `open` counts.
pub fn count_open(open: &AtomicU64) -> u64 {
    open.load(Relaxed) & !ENDING
}

/// One open connection in its backend's count, until dropped.
#[derive(Debug)]
pub struct Counted(Arc<AtomicU64>);

impl Counted {
    /// Counts one more in `open`.
    pub fn new(open: &Arc<AtomicU64>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(Arc::clone(open))
    }

    /// Whether the connection is to end.
    #[inline]
    pub fn must_end(&self) -> bool {
        self.0.load(Relaxed) & ENDING != 0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_does_not_disturb_the_count() {
        let open = Arc::default();
        let one = Counted::new(&open);
        let two = Counted::new(&open);
        assert!(!one.must_end() && count_open(&open) == 2);
        let before = endings();
        end_all(&open);
        assert!(one.must_end() && Counted::new(&open).must_end() && endings() > before);
        drop(two);
        assert_eq!(count_open(&open), 1);
        drop(one);
        assert_eq!(count_open(&open), 0);
    }
}
