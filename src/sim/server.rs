//! A simulated server: a capped processor-sharing machine with a FIFO queue before it, advanced in virtual time.
//!
//! Every active request receives service at the same rate, so one clock of *served work* tells when each will be done:
//! a request that starts when the clock shows `v` and needs `w` is done at `v + w`. A change of speed or of the number
//! of active requests changes only how fast the clock runs, which makes slowdowns, freezes and batching exact.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// How requests share a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sharing {
    /// Each active request at full rate, as many at once as there are slots.
    Slots,
    /// Batching: the rate of each falls as 1 / (1 + β (n − 1)).
    Batch(f64),
    /// So many cores shared by all: rate min(1, k / n).
    Cores(f64),
}

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It refuses connections.
    Refuse,
    /// It fails this share of requests at once.
    FailFast(f64),
    /// It fails this share of requests after the usual time.
    FailSlow(f64),
}

/// A server as a scenario describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerPlan {
    /// Requests served at once.
    pub slots: usize,
    /// Work per second of one request alone.
    pub speed: f64,
    /// How requests share it.
    pub sharing: Sharing,
    /// Requests that may wait.
    pub queue: usize,
    /// Whether it is there from the start.
    pub present: bool,
    /// Work multiplier before the first byte (prefill).
    pub prefill: f64,
    /// Work multiplier after the first byte (decode).
    pub decode: f64,
}

impl ServerPlan {
    /// Work per second at full load.
    pub fn capacity(&self) -> f64 {
        let slots = self.slots as f64;
        self.speed
            * match self.sharing {
                Sharing::Slots => slots,
                Sharing::Batch(beta) => slots / (1.0 + beta * (slots - 1.0)),
                Sharing::Cores(cores) => cores,
            }
    }
}

/// The next thing that happens inside a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The first byte of a request.
    FirstByte(u32),
    /// The end of a request.
    Done(u32),
}

/// Below this speed a server answers no health check.
const FROZEN: f64 = 0.01;
/// Below this rate nothing is scheduled.
const STANDSTILL: f64 = 1e-9;
/// Memory in use without requests.
pub(super) const IDLE_MEMORY: f64 = 0.35;

/// A server at work.
#[derive(Debug)]
pub struct Server {
    /// As described.
    pub plan: ServerPlan,
    /// Present speed.
    pub speed: f64,
    /// What is wrong.
    pub fault: Fault,
    /// Whether it is part of the pool.
    pub present: bool,
    /// Memory in use without requests, a fraction.
    pub memory: f64,
    /// Served work per request, and when that was right.
    clock: f64,
    at: f64,
    active: BinaryHeap<Reverse<(u64, u32)>>,
    first_bytes: BinaryHeap<Reverse<(u64, u32)>>,
    waiting: VecDeque<u32>,
    /// Utilisation integrated since the last sample.
    busy: f64,
    /// Seconds it was part of the pool.
    pub(super) present_for: f64,
}

impl Server {
    /// A server with nothing to do.
    pub fn new(plan: &ServerPlan) -> Self {
        Self {
            speed: plan.speed,
            fault: Fault::None,
            present: plan.present,
            memory: IDLE_MEMORY,
            clock: 0.0,
            at: 0.0,
            active: BinaryHeap::new(),
            first_bytes: BinaryHeap::new(),
            waiting: VecDeque::new(),
            busy: 0.0,
            present_for: 0.0,
            plan: plan.clone(),
        }
    }

    /// Requests here, waiting or served.
    #[inline]
    pub fn load(&self) -> usize {
        self.active.len() + self.waiting.len()
    }

    /// Requests waiting.
    #[inline]
    pub fn queued(&self) -> usize {
        self.waiting.len()
    }

    /// Whether one more request overflows its queue.
    pub(super) fn is_full(&self) -> bool {
        self.load() >= self.plan.slots + self.plan.queue
    }

    /// Whether a health check passes: it sees refused connections and standstill, not errors of the application.
    pub(super) fn passes_check(&self) -> bool {
        self.fault != Fault::Refuse && self.speed >= FROZEN
    }

    /// Work per second of each active request.
    #[inline]
    fn rate(&self) -> f64 {
        let n = self.active.len() as f64;
        self.speed
            * match self.plan.sharing {
                Sharing::Slots => 1.0,
                Sharing::Batch(beta) => 1.0 / (1.0 + beta * (n - 1.0).max(0.0)),
                Sharing::Cores(cores) => (cores / n.max(1.0)).min(1.0),
            }
    }

    /// Lets time pass.
    #[inline]
    pub(super) fn advance(&mut self, now: f64) {
        let passed = now - self.at;
        if passed <= 0.0 {
            return;
        }
        self.clock += passed * self.rate();
        let active = self.active.len() as f64;
        self.busy += passed
            * match self.plan.sharing {
                Sharing::Cores(cores) => (active / cores).min(1.0),
                Sharing::Slots | Sharing::Batch(_) => active / self.plan.slots as f64,
            };
        if self.present {
            self.present_for += passed;
        }
        self.at = now;
    }

    /// Takes a request in.
    pub(super) fn enqueue(&mut self, request: u32) {
        self.waiting.push_back(request);
    }

    /// Starts the next waiting request if a slot is free. `work`: what it needs before and after its first byte, or
    /// `None` when it was cancelled meanwhile. Returns whether to call again.
    pub(super) fn start_next(&mut self, mut work: impl FnMut(u32) -> Option<(f64, f64)>) -> bool {
        if self.active.len() >= self.plan.slots {
            return false;
        }
        let Some(request) = self.waiting.pop_front() else { return false };
        if let Some((before, after)) = work(request) {
            let done = self.clock + before * self.plan.prefill + after * self.plan.decode;
            if before > 0.0 {
                let first = self.clock + before * self.plan.prefill;
                self.first_bytes.push(Reverse((first.to_bits(), request)));
            }
            self.active.push(Reverse((done.to_bits(), request)));
        }
        true
    }

    /// When the next step happens, as it is now; `None`: never.
    pub(super) fn next_step(&self) -> Option<f64> {
        let Reverse((done, _)) = *self.active.peek()?;
        let due = self.first_bytes.peek().map_or(done, |Reverse((first, _))| done.min(*first));
        let rate = self.rate();
        (rate > STANDSTILL).then(|| self.at + (f64::from_bits(due) - self.clock).max(0.0) / rate)
    }

    /// Takes the step that is due.
    pub(super) fn step(&mut self, now: f64) -> Option<Step> {
        self.advance(now);
        let first = self.first_bytes.peek().map(|Reverse((due, _))| *due);
        let done = self.active.peek().map(|Reverse((due, _))| *due);
        let heap = match (first, done) {
            (Some(first), Some(done)) if first > done => &mut self.active,
            (Some(_), _) => &mut self.first_bytes,
            (None, _) => &mut self.active,
        };
        let is_first = first.is_some_and(|first| done.is_none_or(|done| first <= done));
        let Reverse((due, request)) = heap.pop()?;
        self.clock = self.clock.max(f64::from_bits(due));
        Some(if is_first { Step::FirstByte(request) } else { Step::Done(request) })
    }

    /// Loses everything it holds.
    pub(super) fn kill(&mut self) -> Vec<u32> {
        self.first_bytes.clear();
        let mut lost: Vec<u32> = self.active.drain().map(|Reverse((_, request))| request).collect();
        lost.extend(self.waiting.drain(..));
        lost
    }

    /// CPU and memory over the second that ends now.
    pub(super) fn sample(&mut self, now: f64) -> (f64, f64) {
        self.advance(now);
        let cpu = if self.fault == Fault::Refuse { 0.0 } else { self.busy };
        self.busy = 0.0;
        (cpu, (self.memory + 0.002 * self.load() as f64).min(1.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(slots: usize, sharing: Sharing) -> Server {
        Server::new(&ServerPlan { slots, speed: 1.0, sharing, queue: 10, present: true, prefill: 1.0, decode: 1.0 })
    }

    /// Gives the server `work` at time 0 and returns when each request ends.
    fn ends(server: &mut Server, work: &[f64]) -> Vec<f64> {
        for id in 0..work.len() {
            server.enqueue(id as u32);
        }
        let mut ends = vec![0.0; work.len()];
        while server.start_next(|id| Some((0.0, work[id as usize]))) {}
        while let Some(at) = server.next_step() {
            let Some(Step::Done(id)) = server.step(at) else { panic!("only ends") };
            ends[id as usize] = at;
            while server.start_next(|id| Some((0.0, work[id as usize]))) {}
        }
        ends
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?} {expected:?}");
    }

    #[test]
    fn slots_serve_first_come_first_served() {
        close(&ends(&mut server(1, Sharing::Slots), &[1.0, 2.0, 3.0]), &[1.0, 3.0, 6.0]);
        close(&ends(&mut server(2, Sharing::Slots), &[1.0, 2.0, 3.0]), &[1.0, 2.0, 4.0]);
    }

    #[test]
    fn one_core_is_shared_evenly() {
        close(&ends(&mut server(400, Sharing::Cores(1.0)), &[1.0, 2.0]), &[2.0, 3.0]);
    }

    #[test]
    fn a_batch_slows_everybody_a_little() {
        close(&ends(&mut server(8, Sharing::Batch(0.5)), &[1.0, 1.0]), &[1.5, 1.5]);
    }

    #[test]
    fn a_change_of_speed_midway_is_exact() {
        let mut server = server(1, Sharing::Slots);
        server.enqueue(0);
        assert!(server.start_next(|_| Some((0.25, 0.75))));
        let at = server.next_step().unwrap();
        assert_eq!((at, server.step(at)), (0.25, Some(Step::FirstByte(0))));
        server.advance(0.5);
        server.speed = 0.1;
        let at = server.next_step().unwrap();
        assert!((at - 5.5).abs() < 1e-9);
        assert_eq!(server.step(at), Some(Step::Done(0)));
    }
}
