//! Decisions that were given out through `POST /decide` and wait for their feedback. Bounded, and nothing waits for ever.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pool::Lease;

/// How long a decision waits for its feedback (contract §4): then nobody is blamed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Decisions that may be open at once: at 60 s, 160 a second whose feedback never comes.
const MOST_OPEN: usize = 10_000;

/// Decisions that are over and still known, so that a late feedback learns why it is refused.
const MOST_CLOSED: usize = 10_000;

/// Why there is no decision to give feedback on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Never given out, or forgotten long ago.
    Unknown,
    /// It had its feedback.
    Answered,
    /// Its feedback did not come in time.
    Expired,
}

/// The open decisions.
#[derive(Default)]
pub(super) struct Desk {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    open: HashMap<u128, Box<Lease>>,
    /// When each was given out, oldest first; those that had their feedback are still in it.
    given: VecDeque<(Instant, u128)>,
    closed: HashMap<u128, Missing>,
    /// The closed ones, oldest first.
    order: VecDeque<u128>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("open", &self.lock().open.len()).finish()
    }
}

impl Desk {
    /// Whether another decision may be given out.
    pub(super) fn has_room(&self) -> bool {
        self.lock().open.len() < MOST_OPEN
    }

    /// Keeps a decision until its feedback.
    pub(super) fn give_out(&self, id: u128, lease: Box<Lease>, now: Instant) {
        let mut book = self.lock();
        book.open.insert(id, lease);
        book.given.push_back((now, id));
    }

    /// Takes the decision that a feedback is for.
    pub(super) fn take(&self, id: u128) -> Result<Box<Lease>, Missing> {
        let mut book = self.lock();
        match book.open.remove(&id) {
            Some(lease) => {
                book.close(id, Missing::Answered);
                Ok(lease)
            }
            None => Err(book.closed.get(&id).copied().unwrap_or(Missing::Unknown)),
        }
    }

    /// Ends decisions whose feedback is overdue, and those for a backend that had to be empty by now: a drain's deadline
    /// holds for a decision as it does for a request. Call it about once a second.
    pub(super) fn expire(&self, now: Instant) {
        let mut overdue = Vec::new();
        {
            let mut book = self.lock();
            let late = |lease: &Lease| lease.backend().drain_deadline().is_some_and(|deadline| deadline <= now);
            let left: Vec<u128> = book.open.iter().filter(|(_, lease)| late(lease)).map(|(id, _)| *id).collect();
            for id in left {
                overdue.extend(book.open.remove(&id));
                book.close(id, Missing::Expired);
            }
            while let Some((at, id)) = book.given.front().copied() {
                if now.saturating_duration_since(at) < PATIENCE {
                    break;
                }
                book.given.pop_front();
                if let Some(lease) = book.open.remove(&id) {
                    book.close(id, Missing::Expired);
                    overdue.push(lease);
                }
            }
        }
        // Ended without a word, as if a client had left: that blames nobody. Outside the lock.
        drop(overdue);
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn close(&mut self, id: u128, why: Missing) {
        self.closed.insert(id, why);
        self.order.push_back(id);
        if self.order.len() > MOST_CLOSED
            && let Some(oldest) = self.order.pop_front()
        {
            self.closed.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::backend::{AttemptResult, Ending};
    use crate::config::{BackendPlan, PoolPlan, StrategyKind};
    use crate::pool::{Ask, Pool};

    #[test]
    fn overdue_decisions_end_and_blame_nobody() {
        let start = Instant::now();
        let backends = vec![BackendPlan::new("a", "127.0.0.1:1".parse().unwrap())];
        let pool = Pool::new(Arc::new(PoolPlan::new("p", StrategyKind::Rl, backends)), start);
        let (backend, desk) = (pool.backend("a").unwrap(), Desk::default());
        let mut rng = SmallRng::seed_from_u64(1);
        for (number, at) in [(1, start), (2, start + Duration::from_secs(30))] {
            let ask = Ask { id: b"x", key: None, tried: &[], pinned: None, queued: false, repeats: false, now: at };
            desk.give_out(number, pool.lease(pool.live(), &ask, &mut rng).unwrap(), at);
        }
        desk.expire(start + Duration::from_secs(59));
        assert_eq!(backend.in_flight(), 2);
        desk.expire(start + Duration::from_secs(60));
        assert_eq!(backend.in_flight(), 1);
        assert_eq!(desk.take(1).err(), Some(Missing::Expired));
        assert_eq!(desk.take(3).err(), Some(Missing::Unknown));
        let _ = desk.take(2).unwrap().settle(Ending::Served(200), Duration::from_millis(5));
        assert_eq!(desk.take(2).err(), Some(Missing::Answered));
        desk.expire(start + Duration::from_secs(90));
        assert_eq!((backend.in_flight(), desk.lock().given.len()), (0, 0));
        let blamed = AttemptResult::ALL.into_iter().filter(|result| *result != AttemptResult::Ok);
        let counts: Vec<_> = blamed.map(|result| (result.name(), backend.stats.attempts(result))).collect();
        assert!(counts.iter().all(|(name, count)| *count == u64::from(*name == "client_gone")), "{counts:?}");
    }

    #[test]
    fn a_backend_that_leaves_waits_for_a_decision_no_longer_than_for_a_request() {
        let start = Instant::now();
        let backends = vec![BackendPlan::new("a", "127.0.0.1:1".parse().unwrap())];
        let pool = Pool::new(Arc::new(PoolPlan::new("p", StrategyKind::Rl, backends)), start);
        let (backend, desk) = (pool.backend("a").unwrap(), Desk::default());
        let mut rng = SmallRng::seed_from_u64(1);
        let ask = Ask { id: b"x", key: None, tried: &[], pinned: None, queued: false, repeats: false, now: start };
        desk.give_out(1, pool.lease(pool.live(), &ask, &mut rng).unwrap(), start);
        let deadline = start + Duration::from_secs(5);
        backend.set_drain_deadline(Some(deadline));
        desk.expire(start + Duration::from_secs(4));
        assert_eq!(backend.in_flight(), 1);
        desk.expire(deadline);
        assert_eq!((backend.in_flight(), desk.take(1).err()), (0, Some(Missing::Expired)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let desk = Desk::default();
        for id in 0..(MOST_CLOSED as u128 + 5) {
            desk.lock().close(id, Missing::Expired);
        }
        let book = desk.lock();
        assert_eq!((book.closed.len(), book.order.len()), (MOST_CLOSED, MOST_CLOSED));
    }
}
