//! Resource based: shares by how much of each backend is still free, from samples of CPU and memory and from our own
//! requests in flight.

use std::time::{Duration, Instant};

use super::choice::{Numbers, by_share, drawn};
use super::{Pick, PickContext, Strategy};
use crate::backend::{Backend, Resources};
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
        let shares: Numbers = self
            .uses(cx)
            .into_iter()
            .zip(cx.candidates)
            .map(|(in_use, backend)| backend.weight(cx.now) * (1.0 - in_use).max(LEAST_FREE).powi(SHARPNESS))
            .collect();
        let total: f64 = shares.iter().sum();
        let index = by_share(&shares, total, cx.rng);
        shares.get(index).map(|share| drawn(index, share / total))
    }

    /// Use ÷ weight.
    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        let pairs = self.uses(cx).into_iter().zip(cx.candidates);
        pairs.map(|(in_use, backend)| in_use / backend.weight(cx.now)).collect()
    }
}

impl ResourceBased {
    /// How much of each candidate is in use: 0 nothing, 1 all, above 1 far more load than the others have.
    fn uses(&self, cx: &PickContext<'_>) -> Numbers {
        let (mut cpu, mut memory, mut load) = (Numbers::new(), Numbers::new(), Numbers::new());
        let mut capacity = 0.0;
        let limited = cx.candidates.iter().all(|backend| backend.max_in_flight() != 0);
        for backend in cx.candidates {
            let sample = fresh(backend, self.plan.expiry, cx.now);
            let change = change_since(&sample, backend);
            cpu.push(sample.cpu.map_or(f64::NAN, |part| brought_up(part, change)));
            memory.push(sample.memory.map_or(f64::NAN, |part| brought_up(part, change)));
            let slots = if limited { f64::from(backend.max_in_flight()) } else { backend.weight(cx.now) };
            capacity += slots;
            load.push(f64::from(backend.in_flight()) / slots);
        }
        // Relative: the mean counts as half in use, so an even load neither attracts nor repels. One request on an
        // average backend is added to both sides, or the first few of a quiet pool would look like a rush.
        let count = load.len().max(1) as f64;
        let one = count / capacity;
        let mean = load.iter().sum::<f64>() / count;
        load.iter_mut().for_each(|part| *part = (*part + one) / (2.0 * (mean + one)));
        let mut uses: Numbers = load.iter().map(|part| part * self.plan.in_flight).collect();
        let mut weights = self.plan.in_flight;
        for (parts, weight) in [(&cpu, self.plan.cpu), (&memory, self.plan.memory)] {
            // A resource that is known of nobody has no say.
            let Some(neutral) = mean_of_known(parts) else { continue };
            weights += weight;
            for (sum, part) in uses.iter_mut().zip(parts) {
                *sum += weight * if part.is_nan() { neutral } else { *part };
            }
        }
        if weights > 0.0 {
            uses.iter_mut().for_each(|sum| *sum /= weights);
        }
        uses
    }
}

/// The sample of a backend, without what is too old.
#[inline]
fn fresh(backend: &Backend, expiry: Duration, now: Instant) -> Resources {
    let sample = backend.resources();
    match sample.sampled {
        Some(at) if now.saturating_duration_since(at) <= expiry => sample,
        Some(_) | None => Resources::default(),
    }
}

/// By what part of its slots the backend's load has changed since the sample, −1..=1.
#[inline]
fn change_since(sample: &Resources, backend: &Backend) -> f64 {
    let slots = match backend.max_in_flight() {
        0 => USUAL_SLOTS,
        limit => f64::from(limit),
    };
    ((f64::from(backend.in_flight()) - f64::from(sample.in_flight)) / slots).clamp(-1.0, 1.0)
}

/// A sampled fraction after that change: new requests take their part of what was free, ended ones free theirs.
#[inline]
fn brought_up(part: f64, change: f64) -> f64 {
    let part = part.clamp(0.0, 1.0);
    if change >= 0.0 { part + (1.0 - part) * change } else { part * (1.0 + change) }
}

fn mean_of_known(parts: &[f64]) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for part in parts.iter().filter(|part| !part.is_nan()) {
        sum += part;
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}
