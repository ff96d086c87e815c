//! A lease: one attempt at one backend, from the pick to the last byte. It holds the in-flight guard and, when it ends,
//! reports exactly one [`Outcome`] to statistics, strategy and health, on every path including a panic or a cancelled
//! future.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::SmallRng;
use smallvec::SmallVec;

use super::ledger::{Decided, Place, Taken};
use super::{BackendSet, Live, Pool};
use crate::backend::{Backend, BackendId, Ending, InFlight, Outcome};
use crate::balance::{Lesson, Observation, Pick, PickContext, PickKind, Strategy, Ticket};
use crate::clock;
use crate::config::WhenUnhealthy;

/// Longest time a backend's `Retry-After` is obeyed (reliability.md §8.5).
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// One pick in this many is timed for the decision histogram: two clock readings cost as much as a pick.
const DECISION_SAMPLE: u32 = 16;

/// What a request asks of a pool.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The request's identifier, under which the decision can be read back.
    pub id: &'a [u8],
    /// Hash of the client address or affinity key.
    pub key: Option<u64>,
    /// Backends this request was already tried at.
    pub tried: &'a [BackendId],
    /// The backend that a session is pinned to, if it may be used.
    pub pinned: Option<&'a Arc<Backend>>,
    /// This request has waited in the queue and it is its turn.
    pub queued: bool,
    /// A backend of `tried` is better than none: there was no waiting for another.
    pub repeats: bool,
    /// The present moment.
    pub now: Instant,
}

/// Why there is no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// None is healthy, and the pool rejects then; or all are drained or disabled.
    NoneHealthy,
    /// All are at their limit, or others wait already.
    Busy,
    /// Each that is not at its limit asked to be left alone (`Retry-After`), and the pool rejects then: the first of them
    /// is back after so long.
    Held(Duration),
}

/// One attempt at one backend.
pub struct Lease {
    in_flight: Option<InFlight>,
    backend: Arc<Backend>,
    pool: Arc<Pool>,
    live: Arc<Live>,
    ticket: Option<Ticket>,
    kind: PickKind,
    propensity: f32,
    candidates: usize,
    started: Instant,
    /// From the pick to the response head.
    first_byte: Option<Duration>,
    ending: Option<Ending>,
    status: u16,
    body_bytes: u64,
    streamed: bool,
    retry_after: Option<Duration>,
    /// Where the decision is written down.
    place: Place,
}

impl Pool {
    /// Picks a backend of the snapshot `live` and counts the request there.
    ///
    /// # Errors
    /// [`Unavailable`] says whether waiting in the queue can help.
    pub fn lease(
        self: &Arc<Self>,
        live: Arc<Live>,
        ask: &Ask<'_>,
        rng: &mut SmallRng,
    ) -> Result<Box<Lease>, Unavailable> {
        let set = &live.set;
        if set.ready.is_empty() || (set.fail_open && live.plan.when_unhealthy == WhenUnhealthy::Reject) {
            return Err(Unavailable::NoneHealthy);
        }
        if set.fail_open {
            self.stats.fail_open.fetch_add(1, Relaxed);
        }
        if set.limited && !ask.queued && !self.queue.is_empty() {
            return Err(Unavailable::Busy);
        }
        if let Some(pinned) = ask.pinned.filter(|backend| !backend.is_full()) {
            let ticket = live.strategy.placed(pinned, ask.now);
            if let Some(in_flight) = InFlight::enter(pinned) {
                let pick = Pick { index: 0, ticket: Ticket(0), propensity: 1.0, kind: PickKind::Sticky };
                return Ok(self.leased(Arc::clone(&live), in_flight, pick, ticket, &set.ready, ask));
            }
        }
        // A backend may fill up between the check and the entry when another worker takes its last slot: look again.
        for _ in 0..=set.ready.len() {
            let subset = if self.is_plain(set, ask) {
                None
            } else if let Some(left) = shortest_hold(&live, ask.now) {
                return Err(Unavailable::Held(left));
            } else {
                Some(self.eligible(set, ask))
            };
            let (candidates, generation) = match &subset {
                None => (&*set.ready, set.generation),
                Some(subset) => (subset.as_slice(), 0),
            };
            let mut cx = PickContext { candidates, generation, key: ask.key, now: ask.now, rng };
            let Some(pick) = self.timed_pick(&live, &mut cx) else { return Err(Unavailable::Busy) };
            let Some(chosen) = candidates.get(pick.index) else { return Err(Unavailable::Busy) };
            if let Some(in_flight) = InFlight::enter(chosen) {
                // Whoever is free asked for a pause: picked all the same, as where none is healthy, and counted as there.
                if subset.is_some() && !set.fail_open && chosen.is_held(ask.now) {
                    self.stats.fail_open.fetch_add(1, Relaxed);
                }
                let ticket = Some(pick.ticket);
                return Ok(self.leased(Arc::clone(&live), in_flight, pick, ticket, candidates, ask));
            }
        }
        Err(Unavailable::Busy)
    }

    /// Whether every ready backend may be picked: nothing full, held or tried.
    #[inline]
    fn is_plain(&self, set: &BackendSet, ask: &Ask<'_>) -> bool {
        ask.tried.is_empty()
            && !(set.limited && set.ready.iter().any(|backend| backend.is_full()))
            && !self.may_be_held(ask.now)
    }

    #[inline]
    fn may_be_held(&self, now: Instant) -> bool {
        let until = self.held_until.load(Relaxed);
        until != 0 && (now.saturating_duration_since(self.born).as_nanos() as u64) < until
    }

    /// The ready backends that are not full and, while others are left, neither held nor tried. None, when those others
    /// are full and the request may still wait for one of them.
    fn eligible(&self, set: &BackendSet, ask: &Ask<'_>) -> SmallVec<[Arc<Backend>; 8]> {
        let free = || set.ready.iter().filter(|backend| !backend.is_full());
        let untried = |backend: &&Arc<Backend>| !ask.tried.contains(&backend.id);
        let found: SmallVec<[_; 8]> = free().filter(untried).filter(|b| !b.is_held(ask.now)).cloned().collect();
        if !found.is_empty() {
            return found;
        }
        let found: SmallVec<[_; 8]> = free().filter(untried).cloned().collect();
        if !found.is_empty() || (!ask.repeats && set.ready.iter().any(|backend| untried(&backend))) {
            return found;
        }
        free().cloned().collect()
    }

    #[inline]
    fn timed_pick(&self, live: &Live, cx: &mut PickContext<'_>) -> Option<Pick> {
        if !cx.rng.random::<u32>().is_multiple_of(DECISION_SAMPLE) {
            return live.strategy.pick(cx);
        }
        let before = clock::now();
        let pick = live.strategy.pick(cx);
        self.stats.decision.record(clock::now().saturating_duration_since(before).as_nanos() as u64);
        pick
    }

    #[inline]
    fn leased(
        self: &Arc<Self>,
        live: Arc<Live>,
        in_flight: InFlight,
        pick: Pick,
        ticket: Option<Ticket>,
        candidates: &[Arc<Backend>],
        ask: &Ask<'_>,
    ) -> Box<Lease> {
        let place = self.ledger.decided(&Taken {
            ask,
            set: &live.set,
            candidates,
            strategy: (live.plan.strategy.kind, &*live.strategy),
            chosen: in_flight.backend(),
            kind: pick.kind,
            propensity: pick.propensity,
            asked: pick.kind != PickKind::Sticky,
        });
        // Boxed: it goes through several futures into the response's body, and copies of it cost more than this.
        Box::new(Lease {
            backend: Arc::clone(in_flight.backend()),
            in_flight: Some(in_flight),
            pool: Arc::clone(self),
            live,
            ticket,
            kind: pick.kind,
            propensity: pick.propensity,
            candidates: candidates.len(),
            started: ask.now,
            first_byte: None,
            ending: None,
            status: 0,
            body_bytes: 0,
            streamed: false,
            retry_after: None,
            place,
        })
    }
}

impl Lease {
    /// The backend.
    #[inline]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// What this attempt sees of its pool.
    #[inline]
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The pool.
    #[inline]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// How the pick came about, its chance, and among how many.
    pub fn pick(&self) -> (PickKind, f32, usize) {
        (self.kind, self.propensity, self.candidates)
    }

    /// The response head arrived.
    #[inline]
    pub fn responded(&mut self, status: u16, streamed: bool, retry_after: Option<Duration>, now: Instant) {
        self.first_byte = Some(now.saturating_duration_since(self.started));
        self.status = status;
        self.streamed = streamed;
        self.retry_after = retry_after.map(|pause| pause.min(LONGEST_HOLD));
    }

    /// Response body bytes arrived.
    #[inline]
    pub fn received(&mut self, bytes: usize) {
        self.body_bytes += bytes as u64;
    }

    /// The whole response arrived.
    #[inline]
    pub fn completed(&mut self) {
        self.ending.get_or_insert(Ending::Served(self.status));
    }

    /// The attempt failed. The first of several reports counts.
    #[inline]
    pub fn failed(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    /// Time from the pick to the response head.
    pub fn first_byte_after(&self) -> Option<Duration> {
        self.first_byte
    }
}

impl Lease {
    /// Ends it at `now`, which the caller has read already; returns how long it took. Dropping it does the same, with a
    /// reading of its own.
    pub fn end(&mut self, now: Instant) -> Duration {
        let total = now.saturating_duration_since(self.started);
        self.report(now, total, false);
        total
    }

    /// Ends it at the moment its response head was read, for a response that was whole then.
    pub fn end_with_head(&mut self, now: Instant) -> Duration {
        let total = self.first_byte.unwrap_or_default();
        self.report(now, total, false);
        total
    }

    /// When it began.
    #[inline]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The decision, while it is kept.
    pub fn decided(&self) -> Option<Decided> {
        self.pool.ledger.at(self.place)
    }

    /// Ends an attempt that somebody else carried out, as he says it went. What the learning agent made of it; `None`
    /// under another strategy, or when it teaches nothing.
    pub fn settle(mut self, ending: Ending, total: Duration) -> Option<Lesson> {
        self.ending = Some(ending);
        self.report(clock::now(), total, true)
    }

    /// Reports how it ended, once. `asks`: what was learned is wanted back.
    fn report(&mut self, now: Instant, total: Duration, asks: bool) -> Option<Lesson> {
        // No longer counted when the strategy is told, and free for whoever is woken below.
        self.in_flight.take()?;
        let outcome = Outcome {
            ending: self.ending.unwrap_or(Ending::ClientGone),
            first_byte: self.first_byte,
            total,
            body_bytes: self.body_bytes,
            streamed: self.streamed,
            retry_after: self.retry_after,
        };
        self.backend.stats.attempt_ended(&outcome, now);
        let seen = |ticket| Observation { backend: &self.backend, ticket, outcome: &outcome, now };
        let lesson = if self.pool.is_present(&self.live) {
            learn(&*self.live.strategy, &seen(self.ticket), asks)
        } else {
            // The strategy was changed meanwhile: the present one learns from it, but knows nothing of its ticket.
            learn(&*self.pool.live.load().strategy, &seen(None), asks)
        };
        self.pool.ledger.ended(self.place, outcome.ending, outcome.total);
        if let Some(pause) = self.retry_after.filter(|pause| !pause.is_zero()) {
            self.backend.hold(pause, now);
            let until = (now + pause).saturating_duration_since(self.pool.born).as_nanos() as u64;
            self.pool.held_until.fetch_max(until, Relaxed);
        }
        if !outcome.ending.says_nothing() && self.backend.concerns_health(outcome.ending.blames_backend()) {
            self.pool.traffic(&self.backend, &outcome, now);
        }
        self.pool.queue.released();
        lesson
    }
}

/// Where a pool rejects and each backend that is not at its limit asked for a pause: how long the shortest still lasts.
fn shortest_hold(live: &Live, now: Instant) -> Option<Duration> {
    if live.plan.when_unhealthy != WhenUnhealthy::Reject {
        return None;
    }
    let free = live.set.ready.iter().filter(|backend| !backend.is_full());
    free.map(|backend| backend.held_for(now)).min().flatten()
}

/// Tells the strategy; `ask`: what it learned is wanted back.
#[inline]
fn learn(strategy: &dyn Strategy, seen: &Observation<'_>, ask: bool) -> Option<Lesson> {
    let agent = if ask { strategy.agent() } else { None };
    match agent {
        Some(agent) => agent.learn(seen),
        None => {
            strategy.observe(seen);
            None
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.in_flight.is_some() {
            let now = clock::now();
            self.report(now, now.saturating_duration_since(self.started), false);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("backend", &self.backend.name)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
