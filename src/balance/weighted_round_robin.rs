//! Weighted round robin, smooth: in turn, each as often as its weight says, the turns of a heavy backend spread out.

use std::sync::{Mutex, PoisonError};

use super::choice::Numbers;
use super::columns::{most, sum, with_columns};
use super::{Pick, PickContext, Strategy};
use crate::backend::BackendId;

/// A credit nearer than this to another is the same: rounding must not decide.
const EQUAL: f64 = 1e-9;

/// Each pick credits every candidate with its part of a turn, weight ÷ sum of weights, takes the one with the most credit
/// and charges it one turn (nginx' smooth weighted round robin, in turns). Over any sum-of-weights picks each is chosen
/// exactly weight times.
///
/// Credits belong to a backend and not to a position, so a reload or a new neighbour resets nothing; and being turns they
/// mean the same after weights have changed, or when some candidates are missing for a while.
#[derive(Debug, Default)]
pub(super) struct WeightedRoundRobin {
    /// By slot. Held for one pass over the candidates: sums of numbers, nothing that waits.
    credits: Mutex<Vec<Credit>>,
}

/// What a backend has coming to it.
#[derive(Debug, Clone, Copy)]
struct Credit {
    /// Whose it is; another id: the slot was reused.
    id: BackendId,
    /// −1..=1; a full set never leaves that range, so the bound only forgets what those that left have left behind.
    turns: f64,
}

impl Strategy for WeightedRoundRobin {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        with_columns(cx.candidates.len(), |[weights, turns]| {
            for (backend, weight) in cx.candidates.iter().zip(&mut *weights) {
                *weight = backend.weight(cx.now);
            }
            let turn = 1.0 / sum(weights);
            let mut credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
            for (backend, (weight, turns)) in cx.candidates.iter().zip(weights.iter().zip(&mut *turns)) {
                let credit = entry(&mut credits, backend.key())?;
                credit.turns = credit.turns.clamp(-1.0, 1.0) + weight * turn;
                *turns = credit.turns;
            }
            let most = most(turns);
            let index = turns.iter().position(|turns| turns + EQUAL > most)?;
            credits.get_mut(cx.candidates.get(index)?.slot)?.turns -= 1.0;
            Some(Pick::certain(index))
        })
    }

    /// How far each is from its turn: 0 is next, in turns of the whole pool.
    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        let weights: Numbers = cx.candidates.iter().map(|backend| backend.weight(cx.now)).collect();
        let turn = 1.0 / weights.iter().sum::<f64>();
        let credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        let held =
            |slot: usize, id| credits.get(slot).filter(|credit| credit.id == id).map_or(0.0, |credit| credit.turns);
        let pairs = cx.candidates.iter().zip(&weights);
        let after: Vec<f64> = pairs.map(|(backend, weight)| held(backend.slot, backend.id) + weight * turn).collect();
        let most = after.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        after.into_iter().map(|turns| most - turns).collect()
    }
}

/// The credit of that backend. Slots are dense and reused, so the table is as long as the pool ever was wide.
#[inline]
fn entry(credits: &mut Vec<Credit>, (slot, id): (usize, BackendId)) -> Option<&mut Credit> {
    if credits.get(slot).is_none_or(|credit| credit.id != id) {
        renew(credits, slot, id);
    }
    credits.get_mut(slot)
}

/// That backend has no credit yet.
#[cold]
fn renew(credits: &mut Vec<Credit>, slot: usize, id: BackendId) {
    if credits.len() <= slot {
        credits.resize(slot + 1, Credit { id, turns: 0.0 });
    }
    if let Some(credit) = credits.get_mut(slot) {
        *credit = Credit { id, turns: 0.0 };
    }
}
