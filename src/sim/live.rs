//! Scenarios in real time: the simulator's servers behind real sockets, and its measures of real answers. The sockets are
//! the caller's.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::metrics::{Collector, Finished, Metrics};
use super::scenario::{Change, Scenario};
use super::server::{Fault, Server, ServerPlan, Step};

/// A scenario made so long, `seconds`, and so busy, `rate` requests a second: work and objectives are stretched in
/// proportion, so that servers are as loaded as before; events keep their place within the run.
pub fn shaped(mut scenario: Scenario, seconds: f64, rate: f64) -> Scenario {
    let before = scenario.arrivals.len() as f64 / scenario.duration.max(1e-9);
    let (stretch, squeeze) = (before / rate, seconds / scenario.duration.max(1e-9));
    for arrival in &mut scenario.arrivals {
        arrival.at *= stretch;
        arrival.work *= stretch;
        arrival.prefill *= stretch;
    }
    scenario.arrivals.retain(|arrival| arrival.at < seconds);
    for event in &mut scenario.events {
        event.at *= squeeze;
    }
    scenario.events.retain(|event| event.at < seconds);
    scenario.events.sort_by(|a, b| a.at.total_cmp(&b.at));
    scenario.timeout *= stretch;
    scenario.sla *= stretch;
    scenario.first_byte_sla *= stretch;
    scenario.mean_work *= stretch;
    scenario.warmup = (scenario.warmup * squeeze).min(10.0);
    scenario.disturbed_at *= squeeze;
    scenario.duration = seconds;
    scenario
}

/// What a server makes of an arriving request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reception {
    /// Taken in; [`LiveServer::due`] tells when it is done.
    Taken,
    /// Failed at once.
    Failed,
    /// Its queue is full.
    Full,
}

/// One of the simulator's servers, in real time. Moments are seconds from the caller's start.
#[derive(Debug)]
pub struct LiveServer {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    server: Server,
    /// Work and coin by request; `None`: its client left while it waited.
    requests: Vec<Option<(f64, f64)>>,
    /// Requests that arrived, by second.
    arrived: Vec<u32>,
}

impl LiveServer {
    /// A server with nothing to do.
    pub fn new(plan: &ServerPlan) -> Self {
        let inner = Inner { server: Server::new(plan), requests: Vec::new(), arrived: Vec::new() };
        Self { inner: Mutex::new(inner) }
    }

    /// A request that needs `work` seconds at speed 1 arrives; `coin`: 0-1, whether a partial fault meets it. Its number is
    /// that of the answer in [`due`](Self::due).
    pub fn arrive(&self, work: f64, coin: f64, now: f64) -> (u32, Reception) {
        let mut inner = self.lock();
        let second = now.max(0.0) as usize;
        if inner.arrived.len() <= second {
            inner.arrived.resize(second + 1, 0);
        }
        if let Some(count) = inner.arrived.get_mut(second) {
            *count += 1;
        }
        let id = inner.requests.len() as u32;
        inner.requests.push(Some((work, coin)));
        match inner.server.fault {
            Fault::Refuse => return (id, Reception::Failed),
            Fault::FailFast(share) if coin < share => return (id, Reception::Failed),
            Fault::None | Fault::FailFast(_) | Fault::FailSlow(_) => {}
        }
        if inner.server.is_full() {
            return (id, Reception::Full);
        }
        inner.server.advance(now);
        inner.server.enqueue(id);
        inner.start();
        (id, Reception::Taken)
    }

    /// The client of a request left. What is in service already is finished all the same.
    pub fn left(&self, id: u32) {
        if let Some(request) = self.lock().requests.get_mut(id as usize) {
            *request = None;
        }
    }

    /// When the next request will be done; `None`: none, as it is.
    pub fn next(&self) -> Option<f64> {
        self.lock().server.next_step()
    }

    /// The requests that are done by now: number, and whether the answer is good.
    pub fn due(&self, now: f64) -> Vec<(u32, bool)> {
        let mut inner = self.lock();
        let mut done = Vec::new();
        while let Some(at) = inner.server.next_step().filter(|at| *at <= now) {
            if let Some(Step::Done(id)) = inner.server.step(at) {
                let coin = inner.requests.get(id as usize).copied().flatten().map_or(1.0, |(_, coin)| coin);
                let fails = matches!(inner.server.fault, Fault::FailSlow(share) if coin < share);
                done.push((id, !fails));
            }
            inner.start();
        }
        inner.server.advance(now);
        done
    }

    /// Something happens to it. Returns the requests that are lost.
    pub fn change(&self, change: Change, now: f64) -> Vec<u32> {
        let mut inner = self.lock();
        inner.server.advance(now);
        match change {
            Change::Speed(speed) => inner.server.speed = speed,
            Change::Fault(fault) => inner.server.fault = fault,
            Change::Kill => return inner.server.kill(),
            // There is no membership here: the pool has all servers all the time.
            Change::Join | Change::Leave | Change::Memory(_) => {}
        }
        Vec::new()
    }

    /// Whether it takes connections.
    pub fn refuses(&self) -> bool {
        self.lock().server.fault == Fault::Refuse
    }

    /// Whether a health check passes.
    pub fn passes_check(&self) -> bool {
        self.lock().server.passes_check()
    }

    /// Requests that arrived, by second.
    pub fn arrived(&self) -> Vec<u32> {
        self.lock().arrived.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn start(&mut self) {
        let requests = &self.requests;
        let mut work = |id: u32| requests.get(id as usize).copied().flatten().map(|(work, _)| (0.0, work));
        while self.server.start_next(&mut work) {}
    }
}

/// An answer, or what came instead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// When its request was due to be sent, seconds.
    pub at: f64,
    /// Seconds from then to its end.
    pub took: f64,
    /// Whether it was good.
    pub ok: bool,
    /// Who answered; any for a failure.
    pub server: usize,
    /// What it needed, seconds at speed 1.
    pub work: f64,
}

/// The measures of a run, the same as of a simulated one. `arrived`: requests by server and second.
pub fn measure(scenario: &Scenario, answers: &[Answer], arrived: &[Vec<u32>]) -> Metrics {
    let mut collector = Collector::new(scenario);
    for answer in answers {
        collector.finished(&Finished {
            arrived: answer.at,
            latency: answer.took,
            first_byte: None,
            ok: answer.ok,
            server: answer.server,
            balancer: 0,
            work: answer.work,
        });
    }
    for (server, seconds) in arrived.iter().enumerate() {
        for (second, count) in seconds.iter().enumerate() {
            for _ in 0..*count {
                collector.sent(server, second as f64);
            }
        }
    }
    let length = scenario.duration - scenario.warmup;
    let capacities: Vec<_> = scenario.servers.iter().map(|server| Some(server.capacity() * length)).collect();
    collector.result(&capacities)
}

#[cfg(test)]
mod tests {
    use super::super::suite;
    use super::*;

    #[test]
    fn a_shaped_scenario_is_as_busy_as_before() {
        let file = suite::find("s08").unwrap();
        let scenario = file.build(1, &|_| Err("none".into())).unwrap();
        let busy = |scenario: &Scenario| {
            let capacity: f64 = scenario.servers.iter().map(ServerPlan::capacity).sum();
            scenario.arrivals.iter().map(|arrival| arrival.work).sum::<f64>() / scenario.duration / capacity
        };
        let shaped = shaped(scenario.clone(), 30.0, 240.0);
        assert!((busy(&shaped) / busy(&scenario) - 1.0).abs() < 0.05, "{} {}", busy(&shaped), busy(&scenario));
        assert!((shaped.arrivals.len() as f64 / 30.0 / 240.0 - 1.0).abs() < 0.05, "{}", shaped.arrivals.len());
        let moments: Vec<_> = shaped.events.iter().map(|event| event.at).collect();
        assert_eq!(moments, [10.0, 20.0], "the fault keeps its place");
    }

    #[test]
    fn a_live_server_serves_like_a_simulated_one() {
        let plan = ServerPlan {
            slots: 1,
            speed: 2.0,
            sharing: super::super::Sharing::Slots,
            queue: 1,
            present: true,
            prefill: 1.0,
            decode: 1.0,
        };
        let server = LiveServer::new(&plan);
        assert_eq!(server.arrive(1.0, 0.5, 0.0), (0, Reception::Taken));
        assert_eq!(server.arrive(1.0, 0.5, 0.0), (1, Reception::Taken));
        assert_eq!(server.arrive(1.0, 0.5, 0.0).1, Reception::Full);
        assert_eq!(server.next(), Some(0.5));
        assert_eq!(server.due(0.4), []);
        assert_eq!(server.due(1.5), [(0, true), (1, true)], "one after the other, however late one looks");
        server.change(Change::Fault(Fault::FailFast(0.6)), 2.0);
        assert_eq!(server.arrive(1.0, 0.5, 2.0).1, Reception::Failed);
        assert_eq!(server.arrive(1.0, 0.7, 2.0).1, Reception::Taken);
        assert_eq!(server.change(Change::Kill, 2.1), [4]);
        assert_eq!(server.arrived(), [3, 0, 2]);
    }
}
