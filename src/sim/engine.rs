//! The event loop. Time jumps from event to event; arrivals, work, faults and coins are the scenario's, so two
//! strategies differ in nothing but their choices (common random numbers).

use std::collections::VecDeque;

use super::agenda::{Agenda, What};
use super::chance::Chance;
use super::contender::{Contender, Ended, View};
use super::metrics::{Collector, Finished, Metrics};
use super::scenario::{Arrival, Change, Scenario};
use super::server::{Fault, Server, Step};
use crate::backend::Ending;

/// A refused connection, a fast error and an overflow answer after this many seconds.
const FAST_FAILURE: f64 = 0.001;
/// Seconds between two health checks, and when the first is.
const CHECK: (f64, f64) = (1.0, 0.5);
/// Failed checks in a row until a server is out, passed ones until it is back.
const FALL: u32 = 3;
const RISE: u32 = 2;
/// Seconds between two samples of CPU and memory.
const SAMPLE: f64 = 1.0;
/// Age of a probe's answer, seconds.
const PROBE: f64 = 0.001;
/// Seed of the choice of probed servers.
const PROBE_SEED: u64 = 777;
/// Status of an application error and of a full queue.
const APPLICATION_ERROR: u16 = 500;
const OVERFLOW: u16 = 503;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Active,
    Ended,
}

/// A request under way.
#[derive(Debug, Clone, Copy)]
struct Request {
    server: usize,
    ticket: u64,
    /// When its service began.
    started: f64,
    /// When its first byte came.
    first_byte: Option<f64>,
    /// Requests at the server when it came.
    load: usize,
    state: State,
    failure: Ending,
}

/// The requests under way by number, which is that of their arrival. Those that ended are forgotten from the front, so
/// that a run touches as little memory as it has requests under way.
#[derive(Debug, Default)]
struct Requests {
    first: u32,
    held: VecDeque<Request>,
}

impl Requests {
    /// Takes the next one in and returns its number.
    fn push(&mut self, request: Request) -> u32 {
        self.held.push_back(request);
        self.first + (self.held.len() - 1) as u32
    }

    /// `None`: it ended.
    #[inline]
    fn get_mut(&mut self, id: u32) -> Option<&mut Request> {
        let request = self.held.get_mut(id.checked_sub(self.first)? as usize)?;
        (request.state != State::Ended).then_some(request)
    }

    /// Ends one and returns it, if it did not end before.
    #[inline]
    fn end(&mut self, id: u32) -> Option<Request> {
        let request = self.get_mut(id)?;
        request.state = State::Ended;
        let ended = *request;
        while self.held.front().is_some_and(|request| request.state == State::Ended) {
            self.held.pop_front();
            self.first += 1;
        }
        Some(ended)
    }
}

/// What the health checker knows of a server.
#[derive(Debug, Clone, Copy)]
struct Checked {
    healthy: bool,
    passes: u32,
    failures: u32,
}

/// Latencies seen at each load, as Prequal's servers keep them.
struct RecentLatency {
    rings: Vec<[f32; 8]>,
    counts: Vec<u32>,
    medians: Vec<f32>,
}

impl RecentLatency {
    /// Loads that are told apart.
    const LOADS: usize = 128;

    fn new() -> Self {
        Self { rings: vec![[0.0; 8]; Self::LOADS], counts: vec![0; Self::LOADS], medians: vec![0.0; Self::LOADS] }
    }

    fn record(&mut self, load: usize, latency: f64) {
        let load = load.min(Self::LOADS - 1);
        let count = self.counts[load];
        self.rings[load][(count % 8) as usize] = latency as f32;
        self.counts[load] = count.wrapping_add(1);
        let held = (self.counts[load] as usize).min(8);
        let mut recent = self.rings[load];
        recent[..held].sort_unstable_by(f32::total_cmp);
        self.medians[load] = recent[held / 2];
    }

    /// Median of the last eight latencies at the load nearest to `load`; 0 when there are none.
    fn near(&self, load: usize) -> f64 {
        let load = load.min(Self::LOADS - 1);
        let distances = (0..Self::LOADS).flat_map(|d| [load.checked_add(d), load.checked_sub(d)]).flatten();
        let known = distances.filter(|at| *at < Self::LOADS).find(|at| self.counts[*at] > 0);
        known.map_or(0.0, |at| f64::from(self.medians[at]))
    }
}

/// A run of one scenario with one strategy.
pub struct Engine<'a> {
    scenario: &'a Scenario,
    contenders: Vec<Box<dyn Contender>>,
    servers: Vec<Server>,
    checked: Vec<Checked>,
    available: Vec<bool>,
    generation: u64,
    in_flight: Vec<Vec<u32>>,
    requests: Requests,
    outstanding: usize,
    agenda: Agenda,
    now: f64,
    collector: Collector<'a>,
    probes: usize,
    probe_chance: Chance,
    recent: Vec<RecentLatency>,
}

impl<'a> Engine<'a> {
    /// Sets a run up: one contender per balancer.
    pub fn new(scenario: &'a Scenario, contenders: Vec<Box<dyn Contender>>) -> Self {
        let servers: Vec<Server> = scenario.servers.iter().map(Server::new).collect();
        let probes = contenders.first().map_or(0, |contender| contender.probes());
        let count = servers.len();
        Self {
            scenario,
            checked: vec![Checked { healthy: true, passes: 0, failures: 0 }; count],
            available: servers.iter().map(|server| server.present).collect(),
            generation: 1,
            in_flight: vec![vec![0; count]; contenders.len()],
            requests: Requests::default(),
            outstanding: 0,
            agenda: Agenda::new(count, scenario.events.iter().map(|event| event.at)),
            now: 0.0,
            collector: Collector::new(scenario),
            probe_chance: Chance::new(PROBE_SEED),
            recent: if probes > 0 { (0..count).map(|_| RecentLatency::new()).collect() } else { Vec::new() },
            probes,
            servers,
            contenders,
        }
    }

    /// Runs until the last request has ended.
    pub fn run(self) -> Metrics {
        self.run_with(|_| {})
    }

    /// The same, and shows the contenders before they go.
    pub fn run_with(mut self, look: impl FnOnce(&[Box<dyn Contender>])) -> Metrics {
        self.agenda.sample(SAMPLE);
        self.agenda.check(CHECK.1);
        // An arrival goes before what happens at the same moment.
        for arrival in &self.scenario.arrivals {
            while let Some((at, what)) = self.agenda.next_before(arrival.at) {
                self.now = at;
                self.happen(what);
            }
            self.now = arrival.at;
            self.arrive(arrival);
        }
        while self.outstanding > 0
            && let Some((at, what)) = self.agenda.next_before(f64::INFINITY)
        {
            self.now = at;
            self.happen(what);
        }
        look(&self.contenders);
        let capacity = |server: &Server| {
            let most = server.plan.slots as f64 * server.plan.speed * server.present_for;
            (server.present_for > 1.0).then_some(most)
        };
        let capacities: Vec<_> = self.servers.iter().map(capacity).collect();
        self.collector.result(&capacities)
    }

    /// Calls a contender with its view of the world.
    fn with_contender<R>(&mut self, balancer: usize, f: impl FnOnce(&mut dyn Contender, &View<'_>) -> R) -> R {
        let view = View {
            now: self.now,
            in_flight: &self.in_flight[balancer],
            available: &self.available,
            generation: self.generation,
            servers: &self.servers,
            balancers: self.scenario.balancers,
        };
        f(&mut *self.contenders[balancer], &view)
    }

    fn arrive(&mut self, arrival: &Arrival) {
        if !self.available.contains(&true) {
            // Fail open: better an unhealthy server than none.
            for (available, server) in self.available.iter_mut().zip(&self.servers) {
                *available = server.present;
            }
            self.generation += 1;
        }
        let balancer = arrival.balancer;
        let choice = self.with_contender(balancer, |contender, view| contender.pick(view, arrival.client));
        let server = choice.server;
        debug_assert!(self.available[server], "a strategy picked a server that is not available");
        self.collector.sent(server, self.now);
        self.in_flight[balancer][server] += 1;
        self.outstanding += 1;
        let state = &self.servers[server];
        let failure = match state.fault {
            Fault::Refuse => Some(Ending::ConnectFailed),
            Fault::FailFast(share) if arrival.coin < share => Some(Ending::Served(APPLICATION_ERROR)),
            Fault::None | Fault::FailFast(_) | Fault::FailSlow(_) => {
                state.is_full().then_some(Ending::Served(OVERFLOW))
            }
        };
        let id = self.requests.push(Request {
            server,
            ticket: choice.ticket,
            started: self.now,
            first_byte: None,
            load: state.load(),
            state: State::Waiting,
            failure: failure.unwrap_or(Ending::TimedOut),
        });
        for _ in 0..self.probes {
            let probed = self.probe_chance.below(self.servers.len());
            if self.available[probed] {
                self.agenda.probe(self.now + PROBE, (balancer as u16, probed as u16));
            }
        }
        if failure.is_some() {
            self.agenda.fail(self.now + FAST_FAILURE, id);
            return;
        }
        self.servers[server].advance(self.now);
        self.servers[server].enqueue(id);
        self.start_waiting(server);
        self.reschedule(server);
        self.agenda.timeout(self.now + self.scenario.timeout, id);
    }

    fn start_waiting(&mut self, server: usize) {
        let (requests, arrivals, now) = (&mut self.requests, &self.scenario.arrivals, self.now);
        let mut work = |id: u32| {
            let request = requests.get_mut(id)?;
            request.state = State::Active;
            request.started = now;
            let arrival = &arrivals[id as usize];
            Some((arrival.prefill, arrival.work - arrival.prefill))
        };
        while self.servers[server].start_next(&mut work) {}
    }

    fn reschedule(&mut self, server: usize) {
        let next = self.servers[server].next_step();
        self.agenda.step(server, next);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Step(server) => self.step(server),
            What::Timeout(id) | What::Fail(id) => {
                if let Some(failure) = self.requests.get_mut(id).map(|request| request.failure) {
                    self.finish(id, failure);
                }
            }
            What::Change(index) => self.change(index),
            What::Sample => self.sample(),
            What::Check => self.check(),
            What::Probe(balancer, server) => self.probe(usize::from(balancer), usize::from(server)),
        }
    }

    fn step(&mut self, server: usize) {
        match self.servers[server].step(self.now) {
            None => {}
            Some(Step::FirstByte(id)) => {
                if let Some(request) = self.requests.get_mut(id) {
                    request.first_byte = Some(self.now);
                }
                self.reschedule(server);
            }
            Some(Step::Done(id)) => {
                let fails = match self.servers[server].fault {
                    Fault::FailSlow(share) => self.scenario.arrivals[id as usize].coin < share,
                    Fault::None | Fault::Refuse | Fault::FailFast(_) => false,
                };
                self.start_waiting(server);
                self.reschedule(server);
                self.finish(id, Ending::Served(if fails { APPLICATION_ERROR } else { 200 }));
            }
        }
    }

    fn finish(&mut self, id: u32, ending: Ending) {
        let Some(request) = self.requests.end(id) else { return };
        let (arrival, server) = (&self.scenario.arrivals[id as usize], request.server);
        self.outstanding -= 1;
        self.in_flight[arrival.balancer][server] -= 1;
        let latency = self.now - arrival.at;
        let first_byte = request.first_byte.map(|at| at - arrival.at);
        let ok = !ending.blames_backend();
        if ok && self.probes > 0 {
            self.recent[server].record(request.load, latency);
        }
        let ended = Ended {
            server,
            ticket: request.ticket,
            ending,
            latency,
            first_byte: first_byte.unwrap_or(latency),
            tokens: arrival.tokens,
            service: self.now - request.started,
            queued: self.servers[server].queued(),
        };
        self.with_contender(arrival.balancer, |contender, view| contender.ended(view, &ended));
        self.collector.finished(&Finished {
            arrived: arrival.at,
            latency,
            first_byte: (arrival.prefill > 0.0).then_some(first_byte),
            ok,
            server,
            balancer: arrival.balancer,
            work: arrival.work,
        });
    }

    fn change(&mut self, index: usize) {
        let event = self.scenario.events[index];
        let server = &mut self.servers[event.server];
        server.advance(self.now);
        match event.change {
            Change::Speed(speed) => {
                server.speed = speed;
                self.reschedule(event.server);
            }
            Change::Fault(fault) => server.fault = fault,
            Change::Memory(memory) => server.memory = memory,
            Change::Kill => {
                let lost = server.kill();
                for id in lost {
                    self.finish(id, Ending::Reset);
                }
                self.reschedule(event.server);
            }
            Change::Join => {
                server.present = true;
                self.checked[event.server].healthy = true;
                self.set_available(event.server, true);
            }
            Change::Leave => {
                server.present = false;
                self.set_available(event.server, false);
            }
        }
    }

    fn set_available(&mut self, server: usize, available: bool) {
        if self.available[server] != available {
            self.available[server] = available;
            self.generation += 1;
        }
    }

    fn sample(&mut self) {
        let now = self.now;
        let resources: Vec<_> = self.servers.iter_mut().map(|server| server.sample(now)).collect();
        for balancer in 0..self.contenders.len() {
            self.with_contender(balancer, |contender, view| contender.sampled(view, &resources));
        }
        self.agenda.sample(now + SAMPLE);
    }

    fn check(&mut self) {
        for index in 0..self.servers.len() {
            let passes = self.servers[index].passes_check();
            let checked = &mut self.checked[index];
            if passes {
                checked.passes += 1;
                checked.failures = 0;
                checked.healthy |= checked.passes >= RISE;
            } else {
                checked.failures += 1;
                checked.passes = 0;
                checked.healthy &= checked.failures < FALL;
            }
            let available = checked.healthy && self.servers[index].present;
            self.set_available(index, available);
        }
        self.agenda.check(self.now + CHECK.0);
    }

    fn probe(&mut self, balancer: usize, server: usize) {
        let state = &self.servers[server];
        if state.passes_check() {
            let (load, now) = (state.load(), self.now);
            let latency = self.recent[server].near(load);
            self.contenders[balancer].probed(server, load as f64, latency, now);
        }
    }
}
