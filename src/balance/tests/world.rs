//! A small world in virtual time: Poisson arrivals, a strategy, and backends with slots and a queue whose behaviour is a
//! function of time. Everything that the data path would tell a strategy is told here, at the moment it would be.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::RngExt;

use super::super::{Observation, Ticket};
use super::*;
use crate::backend::Ending;

/// What a backend does with a request that it starts to serve now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Does {
    /// Serves it in an exponential time of this mean, milliseconds.
    Serve(f64),
    /// Answers 500 at once.
    Fail,
    /// Never answers.
    Hang,
}

pub(super) struct World {
    pub(super) pool: Vec<Arc<Backend>>,
    pub(super) strategy: Box<dyn Strategy>,
    slots: usize,
    start: Instant,
    /// Seconds.
    now: f64,
    rng: SmallRng,
    next_arrival: f64,
    /// When each slot of each backend is free.
    busy: Vec<Vec<f64>>,
    /// By end (nanoseconds), with what ends.
    running: BinaryHeap<Reverse<(u64, u64)>>,
    requests: std::collections::HashMap<u64, Running>,
    serial: u64,
}

struct Running {
    index: usize,
    _in_flight: InFlight,
    ticket: Ticket,
    began: f64,
    status: u16,
}

impl World {
    /// `count` backends of `slots` slots behind `kind`.
    pub(super) fn new(kind: StrategyKind, count: usize, slots: usize, seed: u64) -> Self {
        let pool = pool(&vec![1; count]);
        Self {
            start: pool[0].born,
            strategy: strategy(kind),
            slots,
            now: 0.0,
            rng: SmallRng::seed_from_u64(seed),
            next_arrival: 0.0,
            busy: vec![vec![0.0; slots]; count],
            running: BinaryHeap::new(),
            requests: std::collections::HashMap::new(),
            serial: 0,
            pool,
        }
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    /// Runs until `until` seconds with `rate` requests a second; the share that each backend got of them.
    pub(super) fn run(&mut self, until: f64, rate: f64, does: impl Fn(usize, f64) -> Does) -> Vec<f64> {
        let mut counts = vec![0.0; self.pool.len()];
        while self.next_arrival < until {
            self.finish_until(self.next_arrival);
            self.now = self.next_arrival;
            let index = self.arrive(&does);
            counts[index] += 1.0;
            let gap: f64 = self.rng.random();
            self.next_arrival = self.now - (1.0 - gap).ln() / rate;
        }
        let total: f64 = counts.iter().sum();
        counts.into_iter().map(|count| count / total).collect()
    }

    fn arrive(&mut self, does: &impl Fn(usize, f64) -> Does) -> usize {
        let now = self.at(self.now);
        let mut cx = PickContext { candidates: &self.pool, generation: 1, key: None, now, rng: &mut self.rng };
        let pick = self.strategy.pick(&mut cx).expect("there are candidates");
        let index = pick.index;
        let in_flight = InFlight::enter(&self.pool[index]).expect("no limit");
        let (status, end) = match does(index, self.now) {
            Does::Fail => (500, Some(self.now + 0.001)),
            Does::Hang => (0, None),
            Does::Serve(mean) => {
                let draw: f64 = self.rng.random();
                let slot = self.busy[index].iter_mut().min_by(|a, b| a.total_cmp(b)).expect("has slots");
                *slot = slot.max(self.now) - (1.0 - draw).ln() * mean / 1e3;
                (200, Some(*slot))
            }
        };
        self.serial += 1;
        let running = Running { index, _in_flight: in_flight, ticket: pick.ticket, began: self.now, status };
        self.requests.insert(self.serial, running);
        if let Some(end) = end {
            self.running.push(Reverse(((end * 1e9) as u64, self.serial)));
        }
        index
    }

    fn finish_until(&mut self, until: f64) {
        while let Some(Reverse((end, _))) = self.running.peek() {
            let end = *end as f64 / 1e9;
            if end > until {
                return;
            }
            let Some(Reverse((_, serial))) = self.running.pop() else { return };
            let Some(done) = self.requests.remove(&serial) else { continue };
            let now = self.at(end);
            let outcome = Outcome::served(done.status, Duration::from_secs_f64(end - done.began));
            let backend = &self.pool[done.index];
            backend.stats.attempt_ended(&outcome, now);
            self.strategy.observe(&Observation { backend, ticket: Some(done.ticket), outcome: &outcome, now });
        }
    }

    /// Everything that hangs at `index` is cut off, as a restart does; it has its slots again.
    pub(super) fn restart(&mut self, index: usize) {
        let gone: Vec<u64> =
            self.requests.iter().filter(|(_, running)| running.index == index).map(|(serial, _)| *serial).collect();
        let now = self.at(self.now);
        for serial in gone {
            let Some(cut) = self.requests.remove(&serial) else { continue };
            let outcome = Outcome::failed(Ending::Reset, Duration::from_secs_f64(self.now - cut.began));
            let backend = &self.pool[cut.index];
            backend.stats.attempt_ended(&outcome, now);
            self.strategy.observe(&Observation { backend, ticket: Some(cut.ticket), outcome: &outcome, now });
        }
        self.busy[index] = vec![self.now; self.slots];
    }
}
