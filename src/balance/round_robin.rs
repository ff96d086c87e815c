//! Round robin: in turn, whatever the weights.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::{Pick, PickContext, Strategy};

/// In turn, over all workers together.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    next: AtomicUsize,
}

impl Strategy for RoundRobin {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        if cx.candidates.is_empty() {
            return None;
        }
        Some(Pick::certain(self.next.fetch_add(1, Relaxed) % cx.candidates.len()))
    }
}
