//! The bounded queue of requests that wait for a place when every backend is at its limit.
//!
//! A waiter keeps its place until it holds a lease: a freed place wakes the first waiter, who tries; when it succeeds, or
//! leaves, or can use only places that are not free (it was tried elsewhere), it wakes the next. Newcomers do not overtake (the pool sends them to the queue while it is not empty). Three
//! classes are served in order high, normal, low; within a class it is first come, first served.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::Pool;
use crate::clock;

/// The class of a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others.
    High,
    /// The default.
    Normal,
    /// After all others.
    Low,
}

impl Priority {
    /// The class that a header's value names; anything unknown is normal.
    pub fn parse(value: &[u8]) -> Self {
        match value {
            v if v.eq_ignore_ascii_case(b"high") => Self::High,
            v if v.eq_ignore_ascii_case(b"low") => Self::Low,
            _ => Self::Normal,
        }
    }
}

/// What the admin API shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueueView {
    /// Requests waiting now.
    pub length: usize,
    /// How many may.
    pub size: usize,
}

/// The queue of one pool.
#[derive(Debug, Default)]
pub(super) struct Queue {
    length: AtomicUsize,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    classes: [VecDeque<Arc<Ticket>>; 3],
    /// Smoothed seconds between two departures with a place, for `Retry-After`.
    pace: Option<f64>,
    last_departure: Option<Instant>,
}

#[derive(Debug)]
struct Ticket {
    /// The waker of the waiting task. `None`: not yet polled, or woken and not polled since.
    waker: Mutex<Option<Waker>>,
    woken: std::sync::atomic::AtomicBool,
}

/// A place in the queue; given up when dropped.
#[derive(Debug)]
pub struct Waiting {
    pool: Arc<Pool>,
    ticket: Arc<Ticket>,
    class: usize,
    since: Instant,
    served: bool,
}

impl Pool {
    /// Joins the queue.
    ///
    /// # Errors
    /// The queue is full (or off): how long the client should stay away, in whole seconds.
    pub fn queue_up(self: &Arc<Self>, priority: Priority, now: Instant) -> Result<Waiting, u64> {
        let size = self.plan().queue.size;
        let ticket = Arc::new(Ticket { waker: Mutex::new(None), woken: false.into() });
        let mut waiters = self.queue.lock();
        if waiters.len() >= size {
            return Err(waiters.retry_after());
        }
        let class = priority as usize;
        waiters.classes[class].push_back(Arc::clone(&ticket));
        self.queue.length.store(waiters.len(), SeqCst);
        drop(waiters);
        // A place may have been freed just before the queue was joined, when nobody was there to be woken.
        self.queue.wake_first();
        Ok(Waiting { pool: Arc::clone(self), ticket, class, since: now, served: false })
    }

    /// The queue as the admin API shows it.
    pub fn queue_view(&self) -> QueueView {
        QueueView { length: self.queue.length.load(Relaxed), size: self.plan().queue.size }
    }

    /// Whole seconds after which a client that found no place should come again.
    pub fn retry_after(&self) -> u64 {
        self.queue.lock().retry_after()
    }
}

impl Waiting {
    /// Resolves when it may be this waiter's turn; it then tries for a lease, and comes back here if there is none.
    pub async fn turn(&self) {
        poll_fn(|cx| {
            if self.ticket.woken.swap(false, SeqCst) {
                return Poll::Ready(());
            }
            *lock(&self.ticket.waker) = Some(cx.waker().clone());
            if self.ticket.woken.swap(false, SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The place that was freed is none for this waiter, who has failed there: the next one looks.
    pub fn pass_on(&self) {
        let waiters = self.pool.queue.lock();
        let mut all = waiters.classes.iter().flatten();
        all.find(|ticket| Arc::ptr_eq(ticket, &self.ticket));
        let next = all.next().cloned();
        drop(waiters);
        if let Some(next) = next {
            next.wake();
        }
    }

    /// The waiter has its lease.
    pub fn served(mut self, now: Instant) -> Duration {
        self.served = true;
        let waited = now.saturating_duration_since(self.since);
        self.pool.stats.queue_wait.record(waited);
        waited
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let queue = &self.pool.queue;
        let mut waiters = queue.lock();
        waiters.classes[self.class].retain(|other| !Arc::ptr_eq(other, &self.ticket));
        if self.served {
            waiters.departed(clock::now());
        }
        queue.length.store(waiters.len(), SeqCst);
        drop(waiters);
        queue.wake_first();
    }
}

impl Queue {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Relaxed) == 0
    }

    /// A place was freed.
    #[inline]
    pub(super) fn released(&self) {
        if self.length.load(SeqCst) != 0 {
            self.wake_first();
        }
    }

    /// Limits or members changed: whoever is first looks again, and wakes the next when it succeeds.
    pub(super) fn wake_all(&self) {
        self.released();
    }

    fn wake_first(&self) {
        let first = self.lock().classes.iter().find_map(|class| class.front().cloned());
        if let Some(ticket) = first {
            ticket.wake();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiters> {
        lock(&self.waiters)
    }
}

impl Ticket {
    fn wake(&self) {
        self.woken.store(true, SeqCst);
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Waiters {
    fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    fn departed(&mut self, now: Instant) {
        if let Some(last) = self.last_departure.replace(now) {
            let gap = now.saturating_duration_since(last).as_secs_f64();
            self.pace = Some(self.pace.map_or(gap, |pace| pace + 0.1 * (gap - pace)));
        }
    }

    /// The time in which the present queue drains at its present pace: 1 s to 60 s.
    fn retry_after(&self) -> u64 {
        let seconds = self.pace.unwrap_or(1.0) * (self.len() + 1) as f64;
        seconds.ceil().clamp(1.0, 60.0) as u64
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_finds_no_place_is_told_when_the_queue_will_have_drained() {
        let start = Instant::now();
        let mut waiters = Waiters::default();
        assert_eq!(waiters.retry_after(), 1, "nothing is known of the pace");
        let ticket = || Arc::new(Ticket { waker: Mutex::new(None), woken: false.into() });
        waiters.classes[1].extend((0..9).map(|_| ticket()));
        waiters.classes[2].push_back(ticket());
        for departure in 0..40 {
            waiters.departed(start + Duration::from_millis(2500) * departure);
        }
        assert_eq!(waiters.retry_after(), 28, "ten wait, one leaves every 2.5 s, and then it is one's turn");
        for departure in 0..200 {
            waiters.departed(start + Duration::from_secs(100) + Duration::from_millis(10) * departure);
        }
        assert_eq!(waiters.retry_after(), 1, "never less than a second");
        waiters.classes[1].extend((0..1000).map(|_| ticket()));
        for departure in 0..100 {
            waiters.departed(start + Duration::from_secs(200 + departure));
        }
        assert_eq!(waiters.retry_after(), 60, "nor more than a minute");
    }
}
