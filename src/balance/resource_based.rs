//! Resource based: shares by how much of each backend is still free, from samples of CPU and memory and from our own
//! requests in flight.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use super::choice::{by_share, drawn};
use super::columns::{LANES, block_sum, sum, with_columns};
use super::{Pick, PickContext, Strategy};
use crate::backend::{Backend, Moment};
use crate::config::ResourceBasedPlan;

/// Slots that a backend without a limit is taken to have, where a sample is brought up to date. Model servers batch 8 to
/// 256; the low end errs towards spreading.
const USUAL_SLOTS: f32 = 8.0;
/// A backend with nothing free still counts as free as this: nobody is shut out on the word of a sample.
const LEAST_FREE: f32 = 0.05;

/// Rows that are read and brought up to date before the next: worth the beginning of a loop, and so few that they stay in
/// the nearest cache.
const ROWS: usize = 64;

thread_local! {
    /// Buffers of this worker: a pick allocates nothing once they have grown to the size of its largest pool.
    static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
}

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
        with_columns(cx.candidates.len(), |[shares]| {
            SEEN.with_borrow_mut(|seen| {
                let use_of = self.look(cx, seen);
                for (shares, seen) in shares.chunks_mut(ROWS).zip(seen) {
                    seen.shares(&use_of, shares);
                }
            });
            let total = sum(shares);
            let index = by_share(shares, total, cx.rng);
            shares.get(index).map(|share| drawn(index, share / total))
        })
    }

    /// Use ÷ weight.
    fn scores(&self, cx: &PickContext<'_>) -> Vec<f64> {
        let mut seen = Vec::new();
        let use_of = self.look(cx, &mut seen);
        seen.iter().flat_map(|seen| seen.scores(&use_of)).collect()
    }
}

impl ResourceBased {
    #[inline]
    fn look(&self, cx: &PickContext<'_>, all: &mut Vec<Seen>) -> UseOf {
        // Does nothing while picks are among the same number.
        all.resize_with(cx.candidates.len().div_ceil(ROWS), Seen::default);
        let oldest = Moment::of(cx.now).before(self.plan.expiry);
        let (mut cpus, mut memories, mut limited) = (Known::default(), Known::default(), true);
        for (seen, backends) in all.iter_mut().zip(cx.candidates.chunks(ROWS)) {
            limited &= seen.read(backends, cx.now, oldest);
            seen.bring_up();
            cpus.add(&seen.cpu[..seen.rows]);
            memories.add(&seen.memory[..seen.rows]);
        }
        let (mut capacity, mut loads) = (Sum::default(), Sum::default());
        for seen in all {
            seen.relate(limited, &mut capacity);
            loads.add(&seen.load[..seen.rows], |load| load);
        }
        // Load is relative: the mean counts as half in use, so an even load neither attracts nor repels. One request on
        // an average backend is added to both sides, or the first few of a quiet pool would look like a rush.
        let count = cx.candidates.len().max(1) as f64;
        self.made_up(cpus.mean(), memories.mean(), count / capacity.total(), loads.total() / count)
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
            cpu: (cpu.unwrap_or(0.0) as f32, (cpu_weight * per_weight) as f32),
            memory: (memory.unwrap_or(0.0) as f32, (memory_weight * per_weight) as f32),
            one: one as f32,
            relative: (self.plan.in_flight * per_weight / (2.0 * (mean + one))) as f32,
        }
    }
}

/// How use is made up in this pick.
#[derive(Debug, Clone, Copy)]
struct UseOf {
    /// (mean of the known, share of the whole)
    cpu: (f32, f32),
    memory: (f32, f32),
    /// Added to each load, and what a load then counts.
    one: f32,
    relative: f32,
}

impl UseOf {
    /// 0: nothing of it is in use, 1: all, above 1: far more load than the others have.
    #[inline]
    fn backend(&self, cpu: f32, memory: f32, load: f32) -> f32 {
        let of = |part: f32, (mean, share): (f32, f32)| (if part.is_nan() { mean } else { part }) * share;
        of(cpu, self.cpu) + of(memory, self.memory) + (load + self.one) * self.relative
    }
}

/// Some of the candidates as a pick sees them: columns that loops go over one or two at a time, which the compiler turns
/// into vector instructions. In single precision twice as many go into a vector, and no sample is better than that.
#[derive(Debug)]
struct Seen {
    /// As many of each column are in use.
    rows: usize,
    weight: [f32; ROWS],
    /// Sampled fractions, in the end brought up to date; not a number: unknown.
    cpu: [f32; ROWS],
    memory: [f32; ROWS],
    /// Requests in flight per slot (or weight).
    load: [f32; ROWS],
    in_flight: [i32; ROWS],
    /// The limit of requests in flight; 0: none.
    limit: [i32; ROWS],
    /// Requests that have come since the sample, less those that have gone.
    change: [i32; ROWS],
}

impl Default for Seen {
    fn default() -> Self {
        let (zeros, none) = ([0.0; ROWS], [0; ROWS]);
        Self {
            rows: 0,
            weight: zeros,
            cpu: zeros,
            memory: zeros,
            load: zeros,
            in_flight: none,
            limit: none,
            change: none,
        }
    }
}

impl Seen {
    /// Reads the records of up to as many candidates as there are rows, samples as old as `oldest` at most. Whether all of
    /// them have a limit.
    #[inline]
    fn read(&mut self, backends: &[Arc<Backend>], now: Instant, oldest: Moment) -> bool {
        self.rows = backends.len().min(ROWS);
        let mut limited = true;
        for (i, backend) in backends.iter().enumerate().take(ROWS) {
            // Counts that fit, and the conversion of a signed number is one instruction.
            let (in_flight, limit) = (backend.in_flight() as i32, backend.max_in_flight() as i32);
            limited &= limit != 0;
            self.weight[i] = match backend.steady_weight() {
                Some(weight) => weight as i32 as f32,
                None => backend.weight(now) as f32,
            };
            self.in_flight[i] = in_flight;
            self.limit[i] = limit;
            let (cpu, memory, then) = backend.resources_since(oldest).unwrap_or((f64::NAN, f64::NAN, 0));
            (self.cpu[i], self.memory[i]) = (cpu as f32, memory as f32);
            self.change[i] = in_flight.wrapping_sub(then as i32);
        }
        limited
    }

    /// Brings samples up to date.
    #[inline]
    fn bring_up(&mut self) {
        let rows = self.rows.min(ROWS);
        for i in 0..rows {
            let slots = if self.limit[i] == 0 { USUAL_SLOTS } else { self.limit[i] as f32 };
            let change = (self.change[i] as f32 / slots).clamp(-1.0, 1.0);
            self.cpu[i] = brought_up(self.cpu[i], change);
            self.memory[i] = brought_up(self.memory[i], change);
        }
    }

    /// Puts loads in relation to slots, or to weights where not all have a limit.
    #[inline]
    fn relate(&mut self, limited: bool, capacity: &mut Sum) {
        let rows = self.rows.min(ROWS);
        if limited {
            for i in 0..rows {
                self.load[i] = self.in_flight[i] as f32 / self.limit[i] as f32;
            }
            capacity.add(&self.limit[..rows], |limit| limit as f32);
        } else {
            for i in 0..rows {
                self.load[i] = self.in_flight[i] as f32 / self.weight[i];
            }
            capacity.add(&self.weight[..rows], |weight| weight);
        }
    }

    /// weight × free⁴. The power is how sharply shares follow what is free: with 4 a backend half as free gets a sixteenth;
    /// 1 would send a third of a pair's traffic to it, a larger one makes a herd of a small difference between two samples.
    #[inline]
    fn shares(&mut self, use_of: &UseOf, shares: &mut [f64]) {
        for i in 0..self.rows.min(ROWS) {
            let free = (1.0 - use_of.backend(self.cpu[i], self.memory[i], self.load[i])).max(LEAST_FREE);
            let square = free * free;
            // In the place of what is needed no more: single precision, in a loop of its own, is four to a vector.
            self.load[i] = self.weight[i] * (square * square);
        }
        for (share, single) in shares.iter_mut().zip(&self.load) {
            *share = f64::from(*single);
        }
    }

    /// Use ÷ weight.
    fn scores(&self, use_of: &UseOf) -> impl Iterator<Item = f64> {
        (0..self.rows).map(|i| f64::from(use_of.backend(self.cpu[i], self.memory[i], self.load[i]) / self.weight[i]))
    }
}

/// A sum that goes on in lanes side by side.
#[derive(Debug, Clone, Copy, Default)]
struct Sum([f32; LANES]);

impl Sum {
    /// Adds what `make` makes of each number.
    #[inline]
    fn add<T: Copy>(&mut self, column: &[T], make: impl Fn(T) -> f32) {
        let (blocks, rest) = column.as_chunks::<LANES>();
        for block in blocks {
            for (lane, number) in self.0.iter_mut().zip(block) {
                *lane += make(*number);
            }
        }
        for (lane, number) in self.0.iter_mut().zip(rest) {
            *lane += make(*number);
        }
    }

    /// Not inlined: the compiler would undo the lanes to add them in pairs.
    #[inline(never)]
    fn total(&self) -> f64 {
        block_sum(&self.0.map(f64::from))
    }
}

/// The sum of what is known, and of how many.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    sum: Sum,
    count: Sum,
}

impl Known {
    #[inline]
    fn add(&mut self, parts: &[f32]) {
        self.sum.add(parts, |part| if part.is_nan() { 0.0 } else { part });
        self.count.add(parts, |part| if part.is_nan() { 0.0 } else { 1.0 });
    }

    fn mean(&self) -> Option<f64> {
        let count = self.count.total();
        (count > 0.0).then(|| self.sum.total() / count)
    }
}

/// A sampled fraction after a change of `change` of the backend's slots, −1..=1: new requests take their part of what was
/// free, ended ones free theirs. What is unknown stays so.
#[inline]
fn brought_up(part: f32, change: f32) -> f32 {
    let part = part.clamp(0.0, 1.0);
    part + change * if change >= 0.0 { 1.0 - part } else { part }
}
