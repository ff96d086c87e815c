//! Backends on their way out, drained or removed: one task each that tells how it goes, and at the deadline ends what is
//! left of a removed one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::clock;
use crate::config::AdminState;
use crate::pool::Pool;
use crate::upstream::end_all;

/// How often a leaving backend is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Between two log lines about one.
const TELL: Duration = Duration::from_secs(5);

/// After a change of `pool`: looks after the backends that `left` it, and after its members that drain from now on.
/// `patience` is what those have, and what the member named `again` has even if it drains already.
pub(super) fn follow(pool: &Arc<Pool>, left: Vec<Arc<Backend>>, again: Option<&str>, patience: Duration) {
    let deadline = clock::now() + patience;
    for backend in left {
        backend.set_drain_deadline(Some(deadline));
        tracing::info!(pool = %pool.name, backend = %backend.name, in_flight = backend.in_flight(),
            timeout_s = patience.as_secs_f64(), "backend leaves: no new requests");
        tokio::spawn(watch(Arc::clone(pool), backend, deadline, true));
    }
    for backend in &pool.set().members {
        let drains = backend.admin_state() == AdminState::Drain;
        let known = backend.drain_deadline().is_some();
        if !drains {
            if known {
                backend.set_drain_deadline(None);
            }
        } else if !known || again == Some(&*backend.name) {
            backend.set_drain_deadline(Some(deadline));
            tracing::info!(pool = %pool.name, backend = %backend.name, in_flight = backend.in_flight(),
                timeout_s = patience.as_secs_f64(), "backend drains: no new sessions");
            tokio::spawn(watch(Arc::clone(pool), Arc::clone(backend), deadline, false));
        }
    }
}

/// The pool is gone from the configuration: what is in flight at its backends may finish within `patience`.
///
/// Its backends stay its members, because a request that had found the pool a moment before still has a right to them.
pub(super) fn dismiss(pool: &Arc<Pool>, patience: Duration) {
    let deadline = clock::now() + patience;
    for backend in &pool.set().members {
        backend.set_drain_deadline(Some(deadline));
        tracing::info!(pool = %pool.name, backend = %backend.name, in_flight = backend.in_flight(),
            timeout_s = patience.as_secs_f64(), "backend leaves with its pool: no new requests");
        tokio::spawn(watch(Arc::clone(pool), Arc::clone(backend), deadline, true));
    }
}

/// Follows one backend until it is empty, taken back, or out of time.
async fn watch(pool: Arc<Pool>, backend: Arc<Backend>, deadline: Instant, removed: bool) {
    let mut told = clock::now();
    loop {
        // Taken back, or given another deadline, which another task follows.
        if backend.drain_deadline() != Some(deadline) {
            return;
        }
        let (now, in_flight) = (clock::now(), backend.in_flight());
        // A removed backend that is empty is let go, and told of, by the pool.
        if in_flight == 0 {
            if !removed {
                tracing::info!(pool = %pool.name, backend = %backend.name, "backend drained: nothing in flight");
            }
            return;
        }
        if now >= deadline {
            if removed {
                tracing::warn!(pool = %pool.name, backend = %backend.name, in_flight, "drain timeout: requests are cut off");
                end_all(&backend.connections);
            } else {
                tracing::info!(pool = %pool.name, backend = %backend.name, in_flight, "drain timeout: sessions move");
            }
            return;
        }
        if now.saturating_duration_since(told) >= TELL {
            told = now;
            let seconds = deadline.saturating_duration_since(now).as_secs();
            tracing::info!(pool = %pool.name, backend = %backend.name, in_flight, seconds, "still draining");
        }
        tokio::time::sleep(LOOK).await;
    }
}
