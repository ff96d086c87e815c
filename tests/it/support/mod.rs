//! What every integration test stands on: a scripted backend, a raw client, the proxy under test.

mod backend;
mod binary;
mod gate;
mod load;
mod message;
mod metrics;
mod proxy;
mod raw;
pub(crate) mod secure;

pub(crate) use backend::{TestBackend, Turn, refusing_address};
pub(crate) use binary::{Binary, Config};
pub(crate) use gate::Gate;
pub(crate) use load::Load;
pub(crate) use message::{Message, chunked};
pub(crate) use metrics::Samples;
pub(crate) use proxy::{Setup, TestProxy};
pub(crate) use raw::Raw;

use std::time::{Duration, Instant};

/// How long a test waits for what must happen. Generous: it only turns a hang into a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until `look` finds something, or fails the test with `what`.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Looks until `holds`, or fails the test with `what`.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// Reads until `value` is read, or fails the test with what was read last.
#[track_caller]
pub(crate) fn comes_to(what: &str, value: f64, mut read: impl FnMut() -> f64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = read();
        if last == value {
            return;
        }
        assert!(Instant::now() < deadline, "{what} is {last} and does not come to {value}");
        std::thread::sleep(Duration::from_millis(3));
    }
}
