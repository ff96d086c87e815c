//! The last decisions of a pool, to be read back: who was there, what each would have cost, who was left out and why, what
//! was taken and how it ended.
//!
//! Every worker writes to a shard of its own, so its lock is never waited for but by a reader. A shard keeps a bounded
//! number of decisions and reuses their buffers: once it is full, nothing is allocated any more.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Ask, BackendSet};
use crate::backend::{Backend, BackendId, Ending, HealthState};
use crate::balance::{PickKind, Strategy, Weighed};
use crate::config::{AdminState, StrategyKind};

/// Shards; more workers than that share. A power of two.
const SHARDS: usize = 16;

/// Decisions that a shard keeps: with six backends half a megabyte.
const KEPT: usize = 1024;

/// Candidates and left-out backends that one decision notes; of larger pools the rest is only counted.
const NOTED: usize = 64;

/// Bytes of a request's identifier that are kept: ours has 32, a UUID 36.
const ID_BYTES: usize = 64;

thread_local! {
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed) % SHARDS
    };
}

/// Why a member was no candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// Takes no new sessions.
    Draining,
    /// Switched off.
    Disabled,
    /// Unhealthy, in this state.
    Unhealthy(HealthState),
    /// At its limit of requests in flight.
    Full,
    /// This request was tried there already.
    Tried,
    /// Its `Retry-After` is obeyed.
    Held,
    /// None of these any more by the time it was written down.
    Passing,
}

impl LeftOut {
    /// The word shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Unhealthy(state) => state.name(),
            Self::Full => "full",
            Self::Tried => "tried",
            Self::Held => "held",
            Self::Passing => "passing",
        }
    }

    fn of(backend: &Backend, ask: &Ask<'_>) -> Self {
        match backend.admin_state() {
            AdminState::Drain => return Self::Draining,
            AdminState::Disabled => return Self::Disabled,
            AdminState::Ready => {}
        }
        match backend.health_state() {
            _ if ask.tried.contains(&backend.id) => Self::Tried,
            _ if backend.is_full() => Self::Full,
            HealthState::Up => {
                if backend.is_held(ask.now) {
                    Self::Held
                } else {
                    Self::Passing
                }
            }
            state => Self::Unhealthy(state),
        }
    }
}

/// A candidate of a decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Who.
    pub id: BackendId,
    /// Requests in flight there before the decision.
    pub in_flight: u32,
    /// What the strategy weighed of it.
    pub weighed: Weighed,
}

/// A decision that was taken.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The request's identifier, or its first 64 bytes.
    pub request_id: String,
    /// When.
    pub at: Instant,
    /// By which strategy.
    pub strategy: StrategyKind,
    /// Who was taken.
    pub chosen: BackendId,
    /// How the pick came about.
    pub kind: PickKind,
    /// The chance it had, 0-1.
    pub propensity: f32,
    /// The first 64 candidates, in the pool's order; none when a session decided.
    pub candidates: Vec<Candidate>,
    /// How many there were.
    pub candidate_count: usize,
    /// Members that were no candidates, at most 64.
    pub left_out: Vec<(BackendId, LeftOut)>,
    /// How it ended and after what time; `None`: not yet.
    pub ended: Option<(Ending, Duration)>,
}

/// Where a decision is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    shard: usize,
    number: u64,
}

/// One decision, as it lies in a shard.
#[derive(Debug)]
struct Entry {
    id: [u8; ID_BYTES],
    id_length: usize,
    at: Instant,
    strategy: StrategyKind,
    chosen: BackendId,
    kind: PickKind,
    propensity: f32,
    candidates: Vec<Candidate>,
    candidate_count: usize,
    left_out: Vec<(BackendId, LeftOut)>,
    ended: Option<(Ending, Duration)>,
}

/// What one worker writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    locked: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// Decisions written so far: the number of the next one.
    written: u64,
    /// A ring: decision `n` lies at `n % KEPT`. Written over in place, as moving an entry costs 200 bytes each way.
    entries: Vec<Entry>,
    /// Decisions of the learning agent, by kind.
    kinds: [u64; PickKind::ALL.len()],
}

impl Book {
    /// Whether the decision of that number has not been written over.
    fn kept(&self, number: u64) -> bool {
        number < self.written && number + KEPT as u64 >= self.written
    }

    /// The entries, newest first.
    fn newest(&self) -> impl Iterator<Item = &Entry> {
        let (older, newer) = self.entries.split_at(slot(self.written).min(self.entries.len()));
        // Until the ring is full all lie in the first half, afterwards the oldest begin the second.
        older.iter().rev().chain(newer.iter().rev())
    }
}

/// Where the decision of that number lies.
fn slot(number: u64) -> usize {
    (number % KEPT as u64) as usize
}

/// The decisions of one pool.
#[derive(Debug, Default)]
pub struct Ledger {
    shards: [Shard; SHARDS],
}

/// A decision about to be written down.
pub(super) struct Taken<'a> {
    pub(super) ask: &'a Ask<'a>,
    pub(super) set: &'a BackendSet,
    pub(super) candidates: &'a [Arc<Backend>],
    pub(super) strategy: (StrategyKind, &'a dyn Strategy),
    pub(super) chosen: &'a Backend,
    pub(super) kind: PickKind,
    pub(super) propensity: f32,
    /// The strategy was asked; otherwise a session decided.
    pub(super) asked: bool,
}

impl Ledger {
    /// Writes a decision down. The chosen backend counts it in flight already.
    pub(super) fn decided(&self, taken: &Taken<'_>) -> Place {
        let shard = SHARD.with(|shard| *shard);
        let mut book = self.shard(shard);
        let (kind, strategy) = taken.strategy;
        if kind == StrategyKind::Rl {
            book.kinds[taken.kind as usize] += 1;
        }
        let number = book.written;
        book.written += 1;
        match book.entries.get_mut(slot(number)) {
            Some(entry) => entry.write(taken, strategy),
            None => {
                let mut entry = Entry::new(taken);
                entry.write(taken, strategy);
                book.entries.push(entry);
            }
        }
        Place { shard, number }
    }

    /// The decision at `place` ended.
    pub(super) fn ended(&self, place: Place, ending: Ending, total: Duration) {
        let mut book = self.shard(place.shard);
        if let Some(entry) = book.kept(place.number).then(|| book.entries.get_mut(slot(place.number))).flatten() {
            entry.ended = Some((ending, total));
        }
    }

    /// What was written at `place`, while it is kept.
    pub(super) fn at(&self, place: Place) -> Option<Decided> {
        let book = self.shard(place.shard);
        if !book.kept(place.number) {
            return None;
        }
        book.entries.get(slot(place.number)).map(Entry::read)
    }

    /// The decisions of the request with this identifier, one an attempt, oldest first.
    pub fn of_request(&self, request_id: &str) -> Vec<Decided> {
        let wanted = cut(request_id.as_bytes());
        let found = |entry: &&Entry| entry.id_bytes() == wanted;
        let mut all: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| lock(shard).entries.iter().filter(found).map(Entry::read).collect::<Vec<_>>())
            .collect();
        all.sort_by_key(|decided| decided.at);
        all
    }

    /// The last `count` decisions, newest first.
    pub fn last(&self, count: usize) -> Vec<Decided> {
        let newest = |shard| lock(shard).newest().take(count).map(Entry::read).collect::<Vec<_>>();
        let mut all: Vec<_> = self.shards.iter().flat_map(newest).collect();
        all.sort_by_key(|decided| std::cmp::Reverse(decided.at));
        all.truncate(count);
        all
    }

    /// Decisions of the learning agent since the start, by kind, in the order of [`PickKind::ALL`].
    pub fn kinds(&self) -> [u64; PickKind::ALL.len()] {
        let mut sums = [0; PickKind::ALL.len()];
        for shard in &self.shards {
            for (sum, count) in sums.iter_mut().zip(&lock(shard).kinds) {
                *sum += count;
            }
        }
        sums
    }

    /// Share of the learning agent's decisions that its baseline took instead of it, 0-1.
    pub fn fallback_rate(&self) -> f64 {
        let kinds = self.kinds();
        let all: u64 = kinds.iter().sum();
        let fallen = kinds.get(PickKind::Fallback as usize).copied().unwrap_or_default();
        fallen as f64 / all.max(1) as f64
    }

    fn shard(&self, index: usize) -> MutexGuard<'_, Book> {
        lock(&self.shards[index % SHARDS])
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, Book> {
    shard.locked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cut(id: &[u8]) -> &[u8] {
    id.get(..ID_BYTES).unwrap_or(id)
}

impl Entry {
    fn new(taken: &Taken<'_>) -> Self {
        Self {
            id: [0; ID_BYTES],
            id_length: 0,
            at: taken.ask.now,
            strategy: taken.strategy.0,
            chosen: taken.chosen.id,
            kind: taken.kind,
            propensity: taken.propensity,
            candidates: Vec::with_capacity(taken.candidates.len().min(NOTED)),
            candidate_count: 0,
            left_out: Vec::new(),
            ended: None,
        }
    }

    fn write(&mut self, taken: &Taken<'_>, strategy: &dyn Strategy) {
        let id = cut(taken.ask.id);
        self.id_length = id.len();
        if let Some(kept) = self.id.get_mut(..id.len()) {
            kept.copy_from_slice(id);
        }
        self.at = taken.ask.now;
        self.strategy = taken.strategy.0;
        self.chosen = taken.chosen.id;
        self.kind = taken.kind;
        self.propensity = taken.propensity;
        self.ended = None;
        self.candidate_count = taken.candidates.len();
        self.candidates.clear();
        self.left_out.clear();
        if !taken.asked {
            return;
        }
        let seen = |backend: &Arc<Backend>| Candidate {
            id: backend.id,
            in_flight: backend.in_flight() - u32::from(backend.id == taken.chosen.id && backend.in_flight() > 0),
            weighed: Weighed::Nothing,
        };
        self.candidates.extend(taken.candidates.iter().take(NOTED).map(seen));
        strategy.weighed(NOTED, &mut |index, in_flight, weighed| {
            if let Some(candidate) = self.candidates.get_mut(index) {
                (candidate.in_flight, candidate.weighed) = (in_flight, weighed);
            }
        });
        if taken.candidates.len() < taken.set.members.len() {
            // Candidates stand in the order of the members.
            let mut candidates = taken.candidates.iter().peekable();
            for member in &taken.set.members {
                if candidates.next_if(|candidate| Arc::ptr_eq(candidate, member)).is_none()
                    && self.left_out.len() < NOTED
                {
                    self.left_out.push((member.id, LeftOut::of(member, taken.ask)));
                }
            }
        }
    }

    fn id_bytes(&self) -> &[u8] {
        self.id.get(..self.id_length).unwrap_or_default()
    }

    fn read(&self) -> Decided {
        Decided {
            request_id: String::from_utf8_lossy(self.id_bytes()).into_owned(),
            at: self.at,
            strategy: self.strategy,
            chosen: self.chosen,
            kind: self.kind,
            propensity: self.propensity,
            candidates: self.candidates.clone(),
            candidate_count: self.candidate_count,
            left_out: self.left_out.clone(),
            ended: self.ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::config::{BackendPlan, PoolPlan};
    use crate::pool::Pool;

    fn pool() -> Arc<Pool> {
        let mut backends: Vec<_> = (1..=4)
            .map(|port: u16| {
                BackendPlan::new(format!("b{port}"), crate::config::Address::Ip(([127, 0, 0, 1], port).into()))
            })
            .collect();
        backends[1].state = AdminState::Drain;
        backends[2].max_in_flight = Some(1);
        Pool::new(Arc::new(PoolPlan::new("p", StrategyKind::Rl, backends)), Instant::now())
    }

    fn ask<'a>(id: &'a [u8], tried: &'a [BackendId]) -> Ask<'a> {
        Ask { id, key: None, tried, pinned: None, queued: false, repeats: false, now: Instant::now() }
    }

    #[test]
    fn a_decision_tells_who_was_left_out_and_why() {
        let pool = pool();
        let id = |name: &str| pool.backend(name).unwrap().id;
        let _full = crate::backend::InFlight::enter(&pool.backend("b3").unwrap()).unwrap();
        let tried = [id("b4")];
        let lease = pool.lease(pool.live(), &ask(b"me", &tried), &mut SmallRng::seed_from_u64(1)).unwrap();
        let decided = lease.decided().unwrap();
        assert_eq!((decided.request_id.as_str(), decided.chosen, decided.candidate_count), ("me", id("b1"), 1));
        assert_eq!(decided.candidates[0].in_flight, 0, "before the decision");
        assert!(decided.candidates[0].weighed.cost().is_some());
        let expected = [(id("b2"), LeftOut::Draining), (id("b3"), LeftOut::Full), (id("b4"), LeftOut::Tried)];
        assert_eq!((decided.left_out.as_slice(), decided.ended), (expected.as_slice(), None));
        lease.settle(Ending::Served(200), Duration::from_millis(3));
        assert_eq!(pool.ledger.of_request("me")[0].ended, Some((Ending::Served(200), Duration::from_millis(3))));
    }

    #[test]
    fn the_last_are_kept_and_no_more() {
        let pool = pool();
        let mut rng = SmallRng::seed_from_u64(1);
        let count = KEPT + 10;
        for number in 0..count {
            drop(pool.lease(pool.live(), &ask(number.to_string().as_bytes(), &[]), &mut rng).unwrap());
        }
        assert!(pool.ledger.of_request("9").is_empty() && !pool.ledger.of_request("10").is_empty());
        let ids: Vec<_> = pool.ledger.last(2).into_iter().map(|decided| decided.request_id).collect();
        assert_eq!(ids, [(count - 1).to_string(), (count - 2).to_string()]);
        assert_eq!(pool.ledger.last(usize::MAX).len(), KEPT);
        assert_eq!(pool.ledger.kinds().iter().sum::<u64>(), count as u64);
    }
}
