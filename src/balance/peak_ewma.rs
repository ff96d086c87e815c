//! Peak-EWMA: two different backends at random, the one that is expected to answer first by the worst of its recent
//! answers.

use std::sync::Arc;
use std::time::Instant;

use rand::RngExt;

use super::choice::{Numbers, drawn, load};
use super::{Pick, PickContext, Strategy};
use crate::backend::{Backend, Moment};

/// Others up to which the chance of a pick is exact.
const EXACT: usize = 64;

/// Two candidates at random, the one of less peak × (in flight + 1) ÷ weight.
///
/// The peak (see [`Stats::average_peak`](crate::backend::Stats::average_peak)) jumps to every slower answer at once and
/// comes down with a time constant of ten seconds: Finagle's and tower's rule, with two changes. A failure counts at least
/// five seconds. And time alone brings the peak down only while a backend is idle, since otherwise one that has stopped
/// answering looks better with every second in which it does not. An unknown backend is taken to be as fast as the one
/// that it is compared with.
#[derive(Debug)]
pub(super) struct PeakEwma;

impl Strategy for PeakEwma {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let count = cx.candidates.len();
        if count < 2 {
            return (count == 1).then(|| Pick::certain(0));
        }
        let first = cx.rng.random_range(0..count);
        let second = (first + cx.rng.random_range(1..count)) % count;
        let moment = Moment::of(cx.now);
        let seen = |index: usize| cx.candidates.get(index).map(|backend| Seen::new(backend, cx.now, moment));
        let (one, two) = (seen(first)?, seen(second)?);
        let (index, winner) = if one.beats(&two) { (first, one) } else { (second, two) };
        Some(drawn(index, chance(cx, index, &winner)))
    }

    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        let moment = Moment::of(cx.now);
        let seen: Vec<Seen> = cx.candidates.iter().map(|backend| Seen::new(backend, cx.now, moment)).collect();
        let known: Numbers = seen.iter().filter_map(|seen| seen.peak).collect();
        let usual = if known.is_empty() { 1.0 } else { known.iter().sum::<f64>() / known.len() as f64 };
        seen.iter().map(|seen| seen.peak.unwrap_or(usual) * seen.load).collect()
    }
}

/// The chance that `index` had: of all ordered pairs those that it wins. In a pool of more than [`EXACT`] others it is
/// estimated from that many of them, beginning at a random one, since looking at all would cost more than the choice.
fn chance(cx: &mut PickContext<'_>, index: usize, winner: &Seen) -> f64 {
    let count = cx.candidates.len();
    let looked_at = (count - 1).min(EXACT);
    let begin = if count - 1 > EXACT { cx.rng.random_range(0..count) } else { 0 };
    let (before, after) = cx.candidates.split_at(begin);
    let chosen = cx.candidates.get(index);
    let others = after.iter().chain(before).filter(|other| chosen.is_none_or(|chosen| !Arc::ptr_eq(chosen, other)));
    let moment = Moment::of(cx.now);
    let mut won = 0.0;
    for other in others.take(looked_at) {
        let other = Seen::new(other, cx.now, moment);
        won += f64::from(u8::from(winner.beats(&other))) + f64::from(u8::from(!other.beats(winner)));
    }
    // It has won at least the pair that was drawn.
    f64::max(won / looked_at as f64, 1.0 / (count - 1) as f64) / count as f64
}

/// A candidate as this pick sees it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    peak: Option<f64>,
    load: f64,
}

impl Seen {
    #[inline]
    fn new(backend: &Arc<Backend>, now: Instant, moment: Moment) -> Self {
        let in_flight = backend.in_flight();
        Self { peak: backend.stats.average_peak(moment, in_flight == 0), load: load(backend, backend.weight(now)) }
    }

    /// Whether `self`, drawn first, beats `other`, drawn second.
    #[inline]
    fn beats(&self, other: &Self) -> bool {
        match (self.peak, other.peak) {
            (Some(one), Some(two)) => one * self.load <= two * other.load,
            (Some(_), None) | (None, Some(_)) | (None, None) => self.load <= other.load,
        }
    }
}
