//! Round robin: in turn, whatever the weights.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::{Pick, PickContext, Strategy};

/// In turn, over all workers together.
///
/// What is remembered is the backend that had the last turn, by its slot, and not a count of turns: when the candidates
/// change (one is full, has failed or is new) the turn passes to the next that is there, and nobody is skipped or served
/// twice because a count meant another backend a moment ago.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    /// The slot at which the search for the next begins.
    from: AtomicUsize,
}

impl Strategy for RoundRobin {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let mut from = self.from.load(Relaxed);
        loop {
            let (index, slot) = next(cx, from)?;
            match self.from.compare_exchange_weak(from, slot + 1, Relaxed, Relaxed) {
                Ok(_) => return Some(Pick::certain(index)),
                Err(present) => from = present,
            }
        }
    }

    /// Turns to wait.
    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        let from = self.from.load(Relaxed);
        let mut order: Vec<(bool, usize, usize)> = cx
            .candidates
            .iter()
            .enumerate()
            .map(|(index, backend)| (backend.slot < from, backend.slot, index))
            .collect();
        order.sort_unstable();
        let mut turns = vec![0.0; order.len()];
        for (turn, (_, _, index)) in order.into_iter().enumerate() {
            if let Some(score) = turns.get_mut(index) {
                *score = turn as f64;
            }
        }
        turns
    }
}

/// The candidate of the lowest slot from `from` on, or else of the lowest of all; its index and slot.
fn next(cx: &PickContext<'_>, from: usize) -> Option<(usize, usize)> {
    let mut first: Option<(usize, usize)> = None;
    let mut following = None;
    for (index, backend) in cx.candidates.iter().enumerate() {
        let slot = backend.slot;
        let best = if slot < from { &mut first } else { &mut following };
        if best.is_none_or(|(_, lowest)| slot < lowest) {
            *best = Some((index, slot));
        }
    }
    following.or(first)
}
