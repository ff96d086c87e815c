//! One backend: what we know of it. No sockets here, so strategies and the simulator use the very same type.
//!
//! [`Backend`] is shared by every worker and lives as long as its name and address stand in the pool, across reloads and
//! changes of strategy. [`InFlight`] is the only way to count a request; [`Outcome`] is how one ended; [`Health`] is the
//! one state machine of active checks and passive ejection.

mod health;
mod in_flight;
mod outcome;
mod probes;
mod record;
mod stats;

pub use health::{Health, HealthChange, HealthRules, HealthState, Reason};
pub use in_flight::InFlight;
pub use outcome::{Ending, Outcome};
pub use probes::{ProbeReport, ProbeResult, Probes};
pub use record::{Backend, BackendId, BackendSpec, Resources};
pub use stats::{CodeClass, HISTOGRAM_BUCKETS, Histogram, Stats};
