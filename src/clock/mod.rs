//! The one reader of the clock. Pure rooms (`balance`, `rl`, `backend`) take `now` as an argument; everything else asks
//! here, and gets tokio's clock, so that paused test time rules all.

mod sweep;

pub use sweep::{Deadline, TICK, coarse_millis, run as run_sweep, wake_waiting};

use std::sync::OnceLock;
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

/// Seconds since somebody first asked in this process, by a clock that nobody sets.
pub fn steady_seconds() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let now = now();
    now.saturating_duration_since(*ORIGIN.get_or_init(|| now)).as_secs()
}
