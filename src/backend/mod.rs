//! One backend: what we know of it. No sockets here, so strategies and the simulator use the very same type.
//!
//! [`Backend`] is shared by every worker and lives as long as its name and address stand in the pool, across reloads and
//! changes of strategy. [`InFlight`] is the only way to count a request; [`Outcome`] is how one ended; [`Health`] is the
//! one state machine of active checks and passive ejection.

mod averages;
mod health;
mod histogram;
mod identity;
mod in_flight;
mod moment;
mod outcome;
mod probes;
mod recent;
mod record;
mod resources;
mod stats;
mod streams;
mod window;

pub use averages::{DECAY_SECONDS, FAILURE_SECONDS, FAILURE_SECONDS_MAX};
pub(crate) use averages::{faded, fades_to_at_least};
pub use health::{Health, HealthChange, HealthRules, HealthState, Peers, Reason};
pub use histogram::{HISTOGRAM_BUCKETS, Histogram};
pub(crate) use identity::mix;
pub use identity::stable_hash;
pub use in_flight::InFlight;
pub use moment::Moment;
pub use outcome::{Ending, Outcome};
pub use probes::{ProbeReport, ProbeResult, Probes};
pub use recent::Tally;
pub use record::{Backend, BackendId, BackendSpec};
pub use resources::{Resources, SampleResult, SampleSource, Signals};
pub use stats::{AttemptResult, CodeClass, Stats, StatsView};
pub use streams::{Progress, Streams, StreamsView};
pub use window::WINDOW;
