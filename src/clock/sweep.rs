//! The coarse sweep: one timer per worker that watches every deadline of its connections and requests.
//!
//! A tokio timer per request costs 4 to 9 % of CPU; a deadline here is a store of one integer. The price is that a
//! deadline passes up to two [`TICK`]s late, which no limit of ours minds.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// How often the sweep looks: ten looks at the shortest default limit (2 s), and 50,000 idle connections cost about 1 %
/// of a core.
pub const TICK: Duration = Duration::from_millis(TICK_MILLIS);
const TICK_MILLIS: u64 = 200;
/// Deadlines that pass in one look do so in at most so many batches, with a pause (of a millisecond or two) after each, so
/// within a tick: a hundred slow readers cut at once held up everybody else for 13 ms (scripts/abuse).
const MOST_BATCHES: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);

thread_local! {
    static SWEEP: Sweep = Sweep::new();
}

struct Sweep {
    origin: Instant,
    /// Milliseconds since `origin`, as of the last tick.
    coarse: Cell<u64>,
    slots: RefCell<Vec<Rc<Slot>>>,
    free: RefCell<Vec<Rc<Slot>>>,
}

struct Slot {
    /// When it passes, in milliseconds since the origin; 0: not armed.
    at: Cell<u64>,
    passed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A deadline that the sweep of this thread watches. Cheap to arm again and again; goes back to a free list when dropped.
pub struct Deadline(Rc<Slot>);

impl Deadline {
    /// A deadline that is not armed.
    pub fn new() -> Self {
        SWEEP.with(|sweep| {
            Self(sweep.free.borrow_mut().pop().unwrap_or_else(|| {
                let slot = Rc::new(Slot { at: Cell::new(0), passed: Cell::new(false), waker: RefCell::new(None) });
                sweep.slots.borrow_mut().push(Rc::clone(&slot));
                slot
            }))
        })
    }

    /// Arms it to pass once `after` has gone by; zero disarms it.
    #[inline]
    pub fn arm(&self, after: Duration) {
        self.0.passed.set(false);
        if after.is_zero() {
            self.0.at.set(0);
            return;
        }
        // The coarse clock may be one tick old: a deadline is never early.
        let wait = after.as_secs().saturating_mul(1_000).saturating_add(u64::from(after.subsec_millis()) + TICK_MILLIS);
        self.0.at.set(SWEEP.with(|sweep| sweep.coarse.get()).saturating_add(wait).max(1));
    }

    /// Disarms it.
    #[inline]
    pub fn disarm(&self) {
        self.0.at.set(0);
        self.0.passed.set(false);
    }

    /// Makes it pass now, for whoever polls it.
    pub fn force(&self) {
        self.0.at.set(0);
        self.0.passed.set(true);
        if let Some(waker) = self.0.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether it has passed; if it may still pass, `cx` is woken then.
    #[inline]
    pub fn poll_passed(&self, cx: &Context<'_>) -> bool {
        if self.0.passed.get() {
            return true;
        }
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Deadline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deadline").field("at", &self.0.at.get()).field("passed", &self.0.passed.get()).finish()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.disarm();
        self.0.waker.borrow_mut().take();
        // During thread shutdown the sweep may be gone before the last deadline.
        let _ = SWEEP.try_with(|sweep| sweep.free.borrow_mut().push(Rc::clone(&self.0)));
    }
}

impl Sweep {
    fn new() -> Self {
        // One tick ahead, so that no armed deadline ever stands at 0.
        let origin = super::now();
        Self { origin, coarse: Cell::new(0), slots: RefCell::default(), free: RefCell::default() }
    }

    /// Moves the coarse clock on.
    fn tell(&self) -> u64 {
        let now = super::now().saturating_duration_since(self.origin).as_millis() as u64;
        self.coarse.set(now);
        now
    }

    /// Moves the coarse clock on: what it says, and how many deadlines are to pass.
    fn look(&self) -> (u64, usize) {
        let now = self.tell();
        (now, self.slots.borrow().iter().filter(|slot| slot.is_due(now)).count())
    }

    /// Lets `most` deadlines pass that were due at `now`, from the `from`th on: where to go on, if there are more.
    fn pass(&self, now: u64, from: usize, most: usize) -> Option<usize> {
        let slots = self.slots.borrow();
        let mut due = slots.iter().enumerate().skip(from).filter(|(_, slot)| slot.is_due(now));
        for (_, slot) in due.by_ref().take(most) {
            slot.at.set(0);
            slot.passed.set(true);
            if let Some(waker) = slot.waker.borrow_mut().take() {
                waker.wake();
            }
        }
        due.next().map(|(index, _)| index)
    }
}

impl Slot {
    fn is_due(&self, now: u64) -> bool {
        let at = self.at.get();
        at != 0 && at <= now
    }
}

/// Milliseconds on this thread's coarse clock: at most a tick old, free to read.
#[inline]
pub fn coarse_millis() -> u64 {
    SWEEP.with(|sweep| sweep.coarse.get())
}

/// Wakes every task of this thread that waits on a deadline, so that it looks at what else may have ended it.
pub fn wake_waiting() {
    SWEEP.with(|sweep| {
        for slot in sweep.slots.borrow().iter() {
            if let Some(waker) = slot.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    });
}

/// Looks at every deadline of this thread once, and moves its coarse clock on.
async fn look() {
    let (now, due) = SWEEP.with(Sweep::look);
    let batch = due.div_ceil(MOST_BATCHES);
    if batch == 0 {
        return;
    }
    let mut from = 0;
    while let Some(next) = SWEEP.with(|sweep| sweep.pass(now, from, batch)) {
        from = next;
        tokio::time::sleep(PAUSE).await;
        // A busy worker comes back late: what is armed now must not pass early for it.
        SWEEP.with(Sweep::tell);
    }
}

/// The sweep task of a thread: looks every [`TICK`], for ever, and calls `also` each time.
pub async fn run(mut also: impl FnMut()) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        look().await;
        also();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_late_but_never_early() {
        let sweep = run(|| {});
        let deadline = Deadline::new();
        let start = crate::clock::now();
        let passing = std::future::poll_fn(|cx| {
            if deadline.poll_passed(cx) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        });
        deadline.arm(Duration::from_secs(2));
        tokio::select! { () = sweep => {}, () = passing => {} }
        let took = crate::clock::now() - start;
        assert!(took >= Duration::from_secs(2) && took <= Duration::from_secs(2) + 3 * TICK, "{took:?}");
    }

    #[test]
    fn an_unarmed_deadline_never_passes_and_slots_are_reused() {
        let before = SWEEP.with(|sweep| sweep.slots.borrow().len());
        for _ in 0..10 {
            let deadline = Deadline::new();
            deadline.arm(Duration::from_secs(1));
            deadline.disarm();
            assert_eq!(SWEEP.with(Sweep::look).1, 0);
            assert!(!deadline.poll_passed(&Context::from_waker(Waker::noop())));
        }
        assert_eq!(SWEEP.with(|sweep| sweep.slots.borrow().len()), before + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn many_deadlines_pass_in_batches_and_within_a_tick() {
        const MANY: usize = 10_000;
        let sweep = run(|| {});
        let deadlines: Vec<_> = (0..MANY).map(|_| Deadline::new()).collect();
        let passed = || {
            let cx = Context::from_waker(Waker::noop());
            deadlines.iter().filter(|deadline| deadline.poll_passed(&cx)).count()
        };
        for deadline in &deadlines {
            deadline.arm(Duration::from_secs(2));
        }
        let start = crate::clock::now();
        let (mut steps, mut most, mut before) = (0, 0, 0);
        let counting = async {
            while before < MANY {
                tokio::time::sleep(PAUSE / 2).await;
                let now = passed();
                steps += usize::from(now > before);
                most = most.max(now - before);
                before = now;
            }
        };
        tokio::select! { () = sweep => {}, () = counting => {} }
        // Two batches may pass between two counts.
        assert!(steps > MOST_BATCHES / 3 && most <= 3 * MANY.div_ceil(MOST_BATCHES), "{steps} steps of at most {most}");
        assert!(crate::clock::now() - start <= Duration::from_secs(2) + 3 * TICK);
    }
}
