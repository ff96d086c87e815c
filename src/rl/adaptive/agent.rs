//! The agent's parts, and what a decision leaves behind for its outcome. How it chooses is in `choose.rs`, how it learns in
//! `learn.rs`, what it tells of itself in `insight.rs`.

use std::sync::atomic::AtomicU64;

use super::super::Candidate;
use super::super::atomic::Number;
use super::super::exploration::{Epsilon, Rotation};
use super::super::records::Records;
use super::super::reward::RewardCalculator;
use super::Settings;
use super::compile::ERROR_FLOOR;
use super::drift::Band;
use super::looks::Looks;
use super::record::{Pool, Record};
use super::value::{self, BINS};

/// Without a configured SLA an error is measured in this many median levels.
const AUTOMATIC_SLA: f64 = 10.0;

/// Buffers of one worker, reused from pick to pick.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The caller fills this in before each decision.
    pub candidates: Vec<Candidate>,
    /// What the last decision saw of each.
    pub(super) looks: Looks,
    /// The moment of the last decision.
    pub(super) decided: f64,
    pub(super) sorted: Vec<f64>,
}

impl Scratch {
    /// Empty buffers.
    pub const fn new() -> Self {
        Self { candidates: Vec::new(), looks: Looks::new(), decided: 0.0, sorted: Vec::new() }
    }

    /// The mean weight of the candidates.
    #[inline]
    pub fn mean_weight(&self) -> f64 {
        let total: u64 = self.candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
        total as f64 / self.candidates.len() as f64
    }
}

/// The adaptive agent of one pool, shared by all workers.
#[derive(Debug)]
pub struct Agent {
    pub(super) settings: Settings,
    pub(super) band: Band,
    pub(super) reward: RewardCalculator,
    /// What an error costs in SLAs.
    pub(super) error_price: f64,
    pub(super) records: Records<Record>,
    pub(super) epsilon: Epsilon,
    /// Added to ε while few backends get all the work.
    pub(super) boost: Number,
    pub(super) diversity: Number,
    pub(super) written: Written,
    /// Median level of the pool, seconds; 0: nothing known.
    pub(super) median: Number,
    /// e₀: median error rate of the pool.
    pub(super) pool_error: Number,
    /// Mean length of streamed answers, in their unit; 0: none yet.
    pub(super) mean_length: Number,
    pub(super) confidence: Number,
    pub(super) next_compile: Number,
    pub(super) loads: [f64; BINS],
}

/// What every decision writes, on cache lines of its own, so that it does not push out what every decision reads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Written {
    pub(super) decisions: AtomicU64,
    /// Of them, those that found the curves too old and compiled them anew.
    pub(super) compilations: AtomicU64,
    pub(super) rotation: Rotation,
}

/// What a decision must remember until its outcome: requests in flight before it, and when it was taken, in whole
/// microseconds: moments are compared with the beginning of a trial, so both are cut in the same way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dispatch {
    pub(super) in_flight: u32,
    micros: u64,
}

/// Bits of a ticket that hold the moment: 8.9 years.
const MOMENT_BITS: u32 = 48;

impl Dispatch {
    #[inline]
    pub(super) fn new(in_flight: u32, now: f64) -> Self {
        // Cut, not rounded: a conversion, where `floor` is a call.
        Self { in_flight, micros: (now * 1e6) as u64 & ((1 << MOMENT_BITS) - 1) }
    }

    #[inline]
    pub(super) fn pack(self) -> u64 {
        u64::from(self.in_flight.min(u32::from(u16::MAX))) << MOMENT_BITS | self.micros
    }

    #[inline]
    pub(super) fn unpack(ticket: u64) -> Self {
        Self { in_flight: (ticket >> MOMENT_BITS) as u32, micros: ticket & ((1 << MOMENT_BITS) - 1) }
    }

    /// Seconds.
    #[inline]
    pub(super) fn at(self) -> f64 {
        self.micros as f64 / 1e6
    }
}

impl Agent {
    /// An agent that knows nothing.
    pub fn new(settings: Settings) -> Self {
        let reward = RewardCalculator { weights: settings.weights };
        Self {
            band: Band::new(settings.learning_rate),
            error_price: reward.error_price(),
            reward,
            records: Records::new(),
            epsilon: Epsilon::new(settings.initial_epsilon, settings.epsilon_decay, settings.min_epsilon),
            boost: Number::default(),
            diversity: Number::new(1.0),
            written: Written::default(),
            median: Number::default(),
            pool_error: Number::new(ERROR_FLOOR),
            mean_length: Number::default(),
            confidence: Number::default(),
            next_compile: Number::new(f64::NEG_INFINITY),
            loads: value::representatives(),
            settings,
        }
    }

    /// T: the SLA as configured, or ten median levels; 0 while nothing is known.
    #[inline]
    pub(super) fn sla(&self, median: f64) -> f64 {
        self.settings.sla.unwrap_or(AUTOMATIC_SLA * median)
    }

    /// Seconds that an error costs.
    #[inline]
    pub(super) fn error_unit(&self, median: f64) -> f64 {
        self.error_price * self.sla(median)
    }

    /// What a cost needs to know of the pool.
    #[inline]
    pub(super) fn pool(&self) -> Pool<'_> {
        let median = self.median.get();
        Pool { median, error_unit: self.error_unit(median), band: &self.band }
    }
}
