//! The one reader of the clock. Pure rooms (`balance`, `rl`, `backend`) take `now` as an argument; everything else asks
//! here, and gets tokio's clock, so that paused test time rules all.

mod sweep;

pub use sweep::{Deadline, TICK, coarse_millis, run as run_sweep, wake_waiting};

use std::time::Instant;

/// The present moment: tokio's, hence virtual under `tokio::time::pause`.
#[inline]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Seconds since 1970 on the wall clock, which may be set: only for what leaves the process, such as a cookie's age.
pub fn wall_seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
