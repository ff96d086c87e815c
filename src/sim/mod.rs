//! The simulator: the product's own strategies in virtual time, on real backend records, without sockets.
//!
//! A run is one scenario, one seed, one strategy. Arrivals, work, faults and coins depend on scenario and seed alone, so
//! strategies are compared on identical requests and differences are theirs. `docs/rl.md` says what was found.

mod agenda;
mod arrivals;
pub mod bar;
mod chance;
mod contender;
mod engine;
mod file;
pub mod live;
mod metrics;
mod peers;
pub mod plot;
pub mod random;
pub mod replay;
pub mod report;
pub mod roster;
pub mod runner;
mod scenario;
mod server;
pub mod suite;
#[cfg(test)]
mod tests;

pub use contender::{Choice, Contender, Ended, OfProduct, View};
pub use engine::Engine;
pub use file::ScenarioFile;
pub use metrics::Metrics;
pub use peers::{EjectionRule, StreamFeed};
pub use scenario::{Arrival, Change, Event, Scenario};
pub use server::{Fault, Server, ServerPlan, Sharing};
