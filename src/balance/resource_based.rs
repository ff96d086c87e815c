//! Resource based: shares by how much of each backend is still free, from samples of CPU and memory and from our own
//! requests in flight.

use super::choice::{by_share, drawn};
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
        let (seen, use_of) = self.look(cx);
        let mut total = 0.0;
        let shares: Vec<f64> = seen
            .iter()
            .map(|seen| {
                let free = (1.0 - use_of.backend(seen)).max(LEAST_FREE);
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
        let (seen, use_of) = self.look(cx);
        seen.iter().map(|seen| use_of.backend(seen) / seen.weight).collect()
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
}

/// A sum of what is known, and of how many that is.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    sum: f64,
    count: f64,
}

impl Known {
    #[inline]
    fn add(&mut self, part: f64) {
        let known = !part.is_nan();
        self.sum += if known { part } else { 0.0 };
        self.count += if known { 1.0 } else { 0.0 };
    }

    fn mean(self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

/// How use is made up in this pick.
#[derive(Debug, Clone, Copy)]
struct UseOf {
    /// (mean of the known, share of the whole)
    cpu: (f64, f64),
    memory: (f64, f64),
    /// Added to each load, and what a load then counts.
    one: f64,
    relative: f64,
}

impl UseOf {
    /// 0: nothing of it is in use, 1: all, above 1: far more load than the others have.
    #[inline]
    fn backend(&self, seen: &Seen) -> f64 {
        let of = |part: f64, (mean, share): (f64, f64)| if part.is_nan() { mean * share } else { part * share };
        of(seen.cpu, self.cpu) + of(seen.memory, self.memory) + (seen.load + self.one) * self.relative
    }
}

impl ResourceBased {
    fn look(&self, cx: &PickContext<'_>) -> (Vec<Seen>, UseOf) {
        let limited = cx.candidates.iter().all(|backend| backend.max_in_flight() != 0);
        let (mut capacity, mut loads) = (0.0, 0.0);
        let (mut cpus, mut memories) = (Known::default(), Known::default());
        let now = Moment::of(cx.now);
        // A `Vec`: its elements are written in place, those of a short list on the stack pass through memory twice, which
        // costs more than the allocation.
        let seen = cx
            .candidates
            .iter()
            .map(|backend| {
                let weight = backend.weight(cx.now);
                let in_flight = f64::from(backend.in_flight());
                let limit = f64::from(backend.max_in_flight());
                let slots = if limited { limit } else { weight };
                let load = in_flight / slots;
                capacity += slots;
                loads += load;
                let sample = backend.resources_within(self.plan.expiry, now);
                let (cpu, memory, then) = sample.unwrap_or((f64::NAN, f64::NAN, 0));
                let usual = if limit == 0.0 { 1.0 / USUAL_SLOTS } else { 1.0 / limit };
                let change = ((in_flight - f64::from(then)) * usual).clamp(-1.0, 1.0);
                let (cpu, memory) = (brought_up(cpu, change), brought_up(memory, change));
                cpus.add(cpu);
                memories.add(memory);
                Seen { weight, cpu, memory, load }
            })
            .collect();
        // Load is relative: the mean counts as half in use, so an even load neither attracts nor repels. One request on
        // an average backend is added to both sides, or the first few of a quiet pool would look like a rush.
        let count = cx.candidates.len().max(1) as f64;
        (seen, self.made_up(cpus.mean(), memories.mean(), count / capacity, loads / count))
    }

    /// `one`: the load of one request on an average backend, `mean`: the mean load.
    fn made_up(&self, cpu: Option<f64>, memory: Option<f64>, one: f64, mean: f64) -> UseOf {
        // A resource that is known of nobody has no say; what is unknown of one counts as the mean of the known.
        let cpu_weight = if cpu.is_some() { self.plan.cpu } else { 0.0 };
        let memory_weight = if memory.is_some() { self.plan.memory } else { 0.0 };
        let weights = cpu_weight + memory_weight + self.plan.in_flight;
        // Nothing that counts is known: all are alike.
        let per_weight = if weights > 0.0 { 1.0 / weights } else { 0.0 };
        UseOf {
            cpu: (cpu.unwrap_or(0.0), cpu_weight * per_weight),
            memory: (memory.unwrap_or(0.0), memory_weight * per_weight),
            one,
            relative: self.plan.in_flight * per_weight / (2.0 * (mean + one)),
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
