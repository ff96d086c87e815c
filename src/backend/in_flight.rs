//! The only counter of requests in flight: whoever adds one holds a guard, and the guard's end subtracts it. A count can
//! therefore neither leak nor go negative, on any path.

use std::sync::Arc;

use super::Backend;

/// One request in flight at a backend, from the pick to the last byte.
#[derive(Debug)]
pub struct InFlight(Arc<Backend>);

impl InFlight {
    /// Counts one more request at `backend`; `None` when it is at its limit.
    #[inline]
    pub fn enter(backend: &Arc<Backend>) -> Option<Self> {
        backend.try_enter().then(|| Self(Arc::clone(backend)))
    }

    /// The backend.
    #[inline]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}
