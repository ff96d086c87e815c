//! Resource based: shares by how much of each backend is still free, from samples of CPU and memory and from our own
//! requests in flight.

use super::choice::{Numbers, by_share, drawn};
use super::{Pick, PickContext, Strategy};
use crate::backend::Moment;
use crate::config::ResourceBasedPlan;

/// Slots that a backend without a limit is taken to have, where a sample is brought up to date. Model servers batch 8 to
/// 256; the low end errs towards spreading.
const USUAL_SLOTS: f64 = 8.0;
/// How sharply shares follow what is free. With 4 a backend half as free gets a sixteenth; 1 would send a third of a
/// pair's traffic to it, a larger one makes a herd of a small difference between two samples.
const SHARPNESS: i32 = 4;
/// A backend with nothing free still counts as free as this: nobody is shut out on the word of a sample.
const LEAST_FREE: f64 = 0.05;

/// Draws a candidate with chance ∝ weight × free⁴, where free = 1 − use and use is the mean, weighted as configured, of
/// CPU, memory and relative load.
///
/// A share and not the minimum: every sample is late, and whoever follows the lowest reading sends everything to the
/// backend that was idle a second ago. For the same reason each sample is brought up to date with the requests that have
/// come and gone since it was taken. What is unknown or older than `expiry` counts as the mean of what is known.
#[derive(Debug)]
pub(super) struct ResourceBased {
    plan: ResourceBasedPlan,
}

impl ResourceBased {
    pub(super) fn new(plan: &ResourceBasedPlan) -> Self {
        Self { plan: plan.clone() }
    }
}

impl Strategy for ResourceBased {
    fn pick(&self, cx: &mut PickContext<'_>) -> Option<Pick> {
        let mut total = 0.0;
        let shares: Numbers = self
            .look(cx)
            .iter()
            .map(|seen| {
                let free = (1.0 - seen.in_use).max(LEAST_FREE);
                let share = seen.weight * free.powi(SHARPNESS);
                total += share;
                share
            })
            .collect();
        let index = by_share(&shares, total, cx.rng);
        shares.get(index).map(|share| drawn(index, share / total))
    }

    /// Use ÷ weight.
    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        self.look(cx).iter().map(|seen| seen.in_use / seen.weight).collect()
    }
}

/// A candidate as this pick sees it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    weight: f64,
    /// Sampled fractions, brought up to date; not a number: unknown.
    cpu: f64,
    memory: f64,
    /// Requests in flight per slot (or weight).
    load: f64,
    /// All together: 0 nothing is in use, 1 all, above 1 far more load than the others have.
    in_use: f64,
}

impl ResourceBased {
    fn look(&self, cx: &PickContext<'_>) -> Vec<Seen> {
        let limited = cx.candidates.iter().all(|backend| backend.max_in_flight() != 0);
        let mut capacity = 0.0;
        let now = Moment::of(cx.now);
        // A `Vec`: its elements are written in place, those of a short list on the stack pass through memory twice, which
        // costs more than the allocation.
        let mut seen: Vec<Seen> = cx
            .candidates
            .iter()
            .map(|backend| {
                let weight = backend.weight(cx.now);
                let in_flight = f64::from(backend.in_flight());
                let limit = f64::from(backend.max_in_flight());
                let slots = if limited { limit } else { weight };
                capacity += slots;
                let sample = backend.resources_within(self.plan.expiry, now);
                let (cpu, memory, then) = sample.unwrap_or((f64::NAN, f64::NAN, 0));
                let usual = if limit == 0.0 { 1.0 / USUAL_SLOTS } else { 1.0 / limit };
                let change = ((in_flight - f64::from(then)) * usual).clamp(-1.0, 1.0);
                let (cpu, memory) = (brought_up(cpu, change), brought_up(memory, change));
                Seen { weight, cpu, memory, load: in_flight / slots, in_use: 0.0 }
            })
            .collect();
        self.sum_up(&mut seen, capacity);
        seen
    }

    fn sum_up(&self, seen: &mut [Seen], capacity: f64) {
        let count = seen.len().max(1) as f64;
        // Load is relative: the mean counts as half in use, so an even load neither attracts nor repels. One request on
        // an average backend is added to both sides, or the first few of a quiet pool would look like a rush.
        let one = count / capacity;
        let mean = seen.iter().map(|seen| seen.load).sum::<f64>() / count;
        // A resource that is known of nobody has no say; what is unknown of one counts as the mean of the known.
        let cpu = mean_of_known(seen.iter().map(|seen| seen.cpu));
        let memory = mean_of_known(seen.iter().map(|seen| seen.memory));
        let cpu_weight = if cpu.is_some() { self.plan.cpu } else { 0.0 };
        let memory_weight = if memory.is_some() { self.plan.memory } else { 0.0 };
        let weights = cpu_weight + memory_weight + self.plan.in_flight;
        if weights <= 0.0 {
            return;
        }
        let of = |part: f64, mean: Option<f64>| if part.is_nan() { mean.unwrap_or(0.0) } else { part };
        let (cpu_weight, memory_weight) = (cpu_weight / weights, memory_weight / weights);
        let relative = self.plan.in_flight / weights / (2.0 * (mean + one));
        for seen in seen {
            let load = (seen.load + one) * relative;
            seen.in_use = of(seen.cpu, cpu) * cpu_weight + of(seen.memory, memory) * memory_weight + load;
        }
    }
}

/// A sampled fraction after a change of `change` of the backend's slots, −1..=1: new requests take their part of what was
/// free, ended ones free theirs. What is unknown stays so.
#[inline]
fn brought_up(part: f64, change: f64) -> f64 {
    let part = part.clamp(0.0, 1.0);
    if change >= 0.0 { part + (1.0 - part) * change } else { part * (1.0 + change) }
}

fn mean_of_known(parts: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for part in parts {
        if !part.is_nan() {
            sum += part;
            count += 1.0;
        }
    }
    (count > 0.0).then(|| sum / count)
}
