//! At random: each candidate as likely, whatever the weights.

use rand::RngExt;

use super::choice::drawn;
use super::{Pick, PickContext, Strategy};

/// No state, no coordination; the yardstick.
#[derive(Debug)]
pub(super) struct Random;

impl Strategy for Random {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let count = cx.candidates.len();
        if count == 0 {
            return None;
        }
        Some(drawn(cx.rng.random_range(0..count), 1.0 / count as f64))
    }

    /// All alike.
    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        vec![1.0; cx.candidates.len()]
    }
}
