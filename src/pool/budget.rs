//! The retry budget of a pool: retries spend what requests earn, so that trouble is never multiplied.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A budget of retries: each request earns a share of one, each retry spends one; a floor of some a second lets small
/// traffic retry at all. (Finagle's and linkerd's retry budget, with a window of two half-length buckets.)
#[derive(Debug)]
pub struct RetryBudget {
    born: Instant,
    window: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
    previous_requests: AtomicU64,
    previous_retries: AtomicU64,
}

/// Half of the 10 s over which the contract counts requests.
const HALF_WINDOW_SECONDS: u64 = 5;
/// Retries a second that are always allowed (contract: at least 3 a second).
const FLOOR_PER_SECOND: u64 = 3;

impl RetryBudget {
    /// A budget with nothing spent.
    pub fn new(now: Instant) -> Self {
        Self {
            born: now,
            window: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            previous_requests: AtomicU64::new(0),
            previous_retries: AtomicU64::new(0),
        }
    }

    /// Counts a request, in the window that [`roll`](Self::roll) moved to last.
    #[inline]
    pub fn earn(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Takes one retry, when `share` of the requests of the window (or the floor) still allows it.
    pub fn spend(&self, share: f64, now: Instant) -> bool {
        self.roll(now);
        let requests = self.requests.load(Relaxed) + self.previous_requests.load(Relaxed);
        let retries = self.retries.load(Relaxed) + self.previous_retries.load(Relaxed);
        let floor = FLOOR_PER_SECOND * 2 * HALF_WINDOW_SECONDS;
        let allowed = ((requests as f64 * share) as u64).max(floor);
        if retries >= allowed {
            return false;
        }
        self.retries.fetch_add(1, Relaxed);
        true
    }

    /// Moves to the window of `now`; to be called at least once a second, so that no request needs to. A race loses a few
    /// counts at a boundary, never more.
    pub fn roll(&self, now: Instant) {
        let window = now.saturating_duration_since(self.born).as_secs() / HALF_WINDOW_SECONDS;
        let seen = self.window.load(Relaxed);
        if window == seen || self.window.compare_exchange(seen, window, Relaxed, Relaxed).is_err() {
            return;
        }
        let (requests, retries) = (self.requests.swap(0, Relaxed), self.retries.swap(0, Relaxed));
        let adjacent = window == seen + 1;
        self.previous_requests.store(if adjacent { requests } else { 0 }, Relaxed);
        self.previous_retries.store(if adjacent { retries } else { 0 }, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_budget_is_a_share_of_the_requests_but_never_below_the_floor() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        let spent = (0..100).filter(|_| budget.spend(0.2, start)).count();
        assert_eq!(spent, 30, "3 a second over 10 s");
        let later = start + Duration::from_secs(60);
        budget.roll(later);
        for _ in 0..1000 {
            budget.earn();
        }
        let spent = (0..1000).filter(|_| budget.spend(0.2, later)).count();
        assert_eq!(spent, 200);
        let next = later + Duration::from_secs(HALF_WINDOW_SECONDS);
        assert!(!budget.spend(0.2, next), "the window still remembers");
        assert!(budget.spend(0.2, next + Duration::from_secs(30)));
    }
}
