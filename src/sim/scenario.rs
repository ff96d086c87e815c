//! What is simulated: servers, requests, and what happens to the servers when.

use super::server::{Fault, ServerPlan};

/// One request as it will arrive, whoever balances it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// Seconds from the start.
    pub at: f64,
    /// Seconds of service at speed 1.
    pub work: f64,
    /// The part of it before the first byte; 0: not a stream.
    pub prefill: f64,
    /// Tokens of a streamed answer; 0: not a stream.
    pub tokens: f64,
    /// Who asks.
    pub client: u32,
    /// Uniform 0-1: whether a faulty server fails this one.
    pub coin: f64,
    /// Through which balancer it comes.
    pub balancer: usize,
}

/// What happens to a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Its speed is now this.
    Speed(f64),
    /// This is wrong with it now.
    Fault(Fault),
    /// Its process dies with all it holds.
    Kill,
    /// It joins the pool.
    Join,
    /// It leaves the pool; what it holds it finishes.
    Leave,
    /// Its memory in use is now this.
    Memory(f64),
}

/// A change and its moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Seconds from the start.
    pub at: f64,
    /// Which server.
    pub server: usize,
    /// What happens.
    pub change: Change,
}

/// A scenario for one seed, complete: every strategy meets exactly the same requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// The servers.
    pub servers: Vec<ServerPlan>,
    /// The requests in order of arrival.
    pub arrivals: Vec<Arrival>,
    /// What happens, in the order it was written.
    pub events: Vec<Event>,
    /// Independent balancers before the servers.
    pub balancers: usize,
    /// Seconds until a balancer gives up on a request.
    pub timeout: f64,
    /// Latency objective, seconds.
    pub sla: f64,
    /// Objective for the first byte of streams, seconds; 0: none.
    pub first_byte_sla: f64,
    /// Seconds at the beginning that are reported apart as cold start.
    pub warmup: f64,
    /// Seconds until the last arrival.
    pub duration: f64,
    /// When the first disturbance begins; 0: none.
    pub disturbed_at: f64,
    /// Mean work of a request, seconds.
    pub mean_work: f64,
}

impl Scenario {
    /// Splits the same requests over so many independent balancers.
    pub fn with_balancers(mut self, balancers: usize) -> Self {
        self.balancers = balancers.max(1);
        for (index, arrival) in self.arrivals.iter_mut().enumerate() {
            // A fixed scatter without visible period: neighbouring requests go to different balancers.
            arrival.balancer = (index * 7919 + 13) % 1009 % self.balancers;
        }
        self
    }
}
