//! The model inside a mock: slots, a bounded queue, speed, chance and counts. No HTTP here.
//!
//! A request first gets a [`Visit`] (in flight from here to its last byte, or cancelled), then waits for a [`Slot`], then
//! makes its tokens as a [`Job`]. All three are guards: whoever leaves early, by any path, gives back what it held.

mod job;

pub(super) use self::job::Job;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use super::profile::{MockProfile, ProfileError};

/// How often a stalled request looks whether the stall is over.
const STALL_POLL: Duration = Duration::from_millis(20);
/// Tokens closer together than this leave in one piece: the timer's grain is a millisecond.
pub(super) const STREAM_GRAIN: Duration = Duration::from_millis(2);
/// A plain answer needs no single tokens, only a wake-up now and then to notice a change of speed.
pub(super) const PLAIN_GRAIN: Duration = Duration::from_millis(40);

/// One instance's state.
#[derive(Debug)]
pub(super) struct Engine {
    /// Profile, slots and chance: short arithmetic only, never held across an await.
    state: Mutex<State>,
    /// Connections are refused until then.
    refuse: watch::Sender<Option<Instant>>,
    pub(super) counts: Counts,
    pub(super) started: Instant,
}

#[derive(Debug)]
struct State {
    profile: MockProfile,
    running: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Slot>)>,
    next_waiter: u64,
    rng: SmallRng,
    /// Integral of running ÷ slots over time, in seconds, up to `busy_at`.
    busy: f64,
    busy_at: Instant,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests other than health, metrics and control.
    pub(super) requests: AtomicU64,
    /// Of those: answered to the end.
    pub(super) answered: AtomicU64,
    /// Of those: failed at once by `error_rate`.
    pub(super) errors: AtomicU64,
    /// Of those: 503, queue full or loading.
    pub(super) refused: AtomicU64,
    /// Of those: the client left first.
    pub(super) cancelled: AtomicU64,
    /// Of those: here now.
    pub(super) in_flight: AtomicI64,
    /// Completions that got a slot, to number their ids by.
    pub(super) started: AtomicU64,
    /// Health probes.
    pub(super) probes: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) tokens: AtomicU64,
    pub(super) iterations: AtomicU64,
    /// Tokens of the requests on slots now: what a KV cache would hold.
    pub(super) held_tokens: AtomicI64,
}

/// What one look at the state shows.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) profile: MockProfile,
    pub(super) running: usize,
    pub(super) waiting: usize,
    pub(super) refusing: bool,
    /// Share of the slots in use, added up over time, seconds.
    pub(super) busy_s: f64,
}

/// What befalls a request on arrival.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// It is served.
    Serve,
    /// The model is still being loaded.
    Loading,
    /// It fails at once with this status.
    Fail(u16),
}

impl Engine {
    pub(super) fn new(profile: MockProfile) -> Self {
        let now = Instant::now();
        let refuse_until = (profile.refuse_s > 0.0).then(|| now + Duration::from_secs_f64(profile.refuse_s));
        let state = State {
            running: 0,
            waiting: VecDeque::new(),
            next_waiter: 0,
            rng: SmallRng::seed_from_u64(profile.seed),
            busy: 0.0,
            busy_at: now,
            profile,
        };
        let (refuse, _) = watch::channel(refuse_until);
        Self { state: Mutex::new(state), refuse, counts: Counts::default(), started: now }
    }

    /// Changes the profile; see [`MockProfile::with`].
    pub(super) fn set(self: &Arc<Self>, change: &Value) -> Result<(), ProfileError> {
        let granted = {
            let mut state = self.lock();
            let profile = state.profile.with(change)?;
            state.account();
            if change.get("refuse_s").is_some() {
                let seconds = Duration::try_from_secs_f64(profile.refuse_s)
                    .map_err(|_| ProfileError("refuse_s is too long".into()))?;
                let until = Instant::now().checked_add(seconds);
                self.refuse.send_replace(until.filter(|_| seconds > Duration::ZERO));
            }
            state.profile = profile;
            state.grant()
        };
        self.hand_over(granted);
        Ok(())
    }

    pub(super) fn refusals(&self) -> watch::Receiver<Option<Instant>> {
        self.refuse.subscribe()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let refusing = self.refuse.borrow().is_some_and(|until| until > Instant::now());
        let mut state = self.lock();
        state.account();
        Snapshot {
            profile: state.profile.clone(),
            running: state.running,
            waiting: state.waiting.len(),
            refusing,
            busy_s: state.busy,
        }
    }

    pub(super) fn name(&self) -> String {
        self.lock().profile.name.clone()
    }

    pub(super) fn stalled(&self) -> bool {
        self.lock().profile.stall
    }

    pub(super) fn loading(&self) -> bool {
        self.lock().profile.loading
    }

    /// Counts a request in.
    pub(super) fn visit(self: &Arc<Self>) -> Visit {
        self.counts.requests.fetch_add(1, Relaxed);
        self.counts.in_flight.fetch_add(1, Relaxed);
        Visit { engine: Arc::clone(self), ended: false }
    }

    /// What is to become of a request that arrives now. Waits while the instance is stalled and would have failed it:
    /// a stall answers nothing.
    pub(super) async fn fate(&self) -> Fate {
        loop {
            let fate = self.draw_fate();
            if fate == Fate::Serve || !self.stalled() {
                return fate;
            }
            sleep(STALL_POLL).await;
        }
    }

    fn draw_fate(&self) -> Fate {
        let mut state = self.lock();
        let (rate, status) = (state.profile.error_rate, state.profile.error_status);
        if state.profile.loading {
            Fate::Loading
        } else if rate > 0.0 && state.rng.random::<f64>() < rate {
            Fate::Fail(status)
        } else {
            Fate::Serve
        }
    }

    /// Waits out a stall; for paths that use no slot.
    pub(super) async fn unstalled(&self) {
        while self.stalled() {
            sleep(STALL_POLL).await;
        }
    }

    /// Waits in line for a slot; `None`: the line is full.
    pub(super) async fn slot(self: &Arc<Self>) -> Option<Slot> {
        loop {
            match self.line_up() {
                Place::Slot(slot) => return Some(slot),
                Place::Waiting(mut waiting) => return (&mut waiting.turn).await.ok(),
                Place::Full if self.stalled() => sleep(STALL_POLL).await,
                Place::Full => return None,
            }
        }
    }

    fn line_up(self: &Arc<Self>) -> Place {
        let mut state = self.lock();
        if state.running < state.profile.slots && state.waiting.is_empty() {
            state.account();
            state.running += 1;
            return Place::Slot(Slot { engine: Arc::clone(self) });
        }
        if state.waiting.len() >= state.profile.queue {
            return Place::Full;
        }
        let (turn_sender, turn) = oneshot::channel();
        let id = state.next_waiter;
        state.next_waiter += 1;
        state.waiting.push_back((id, turn_sender));
        Place::Waiting(Waiting { engine: Arc::clone(self), id, turn })
    }

    /// Seconds until a full line has likely moved, for `Retry-After`.
    pub(super) fn retry_after_s(&self) -> u64 {
        let state = self.lock();
        let profile = &state.profile;
        let one = profile.first_token_ms / 1000.0 + f64::from(profile.tokens) / profile.tokens_per_second;
        (one * (1.0 + profile.contention) / profile.speed / profile.slots as f64).ceil().clamp(1.0, 60.0) as u64
    }

    /// Seconds that a path outside `/v1` takes, when it takes any.
    pub(super) fn plain_work(&self) -> Option<Duration> {
        let mut state = self.lock();
        let ms = state.profile.plain_ms;
        (ms > 0.0).then(|| {
            let sigma = state.profile.variation;
            let factor = log_normal(&mut state.rng, sigma);
            seconds(ms / 1000.0 / state.profile.speed * factor)
        })
    }

    fn first_token_after(&self, prompt: u64, pace: f64) -> Duration {
        let state = self.lock();
        let profile = &state.profile;
        let read = match profile.prefill_tokens_per_second {
            rate if rate > 0.0 => prompt as f64 / rate,
            _ => 0.0,
        };
        seconds((profile.first_token_ms / 1000.0 + read) * pace / profile.speed)
    }

    fn token_after(&self, pace: f64) -> Duration {
        let state = self.lock();
        let profile = &state.profile;
        let others = state.running.saturating_sub(1) as f64 / profile.slots.saturating_sub(1).max(1) as f64;
        seconds((1.0 + profile.contention * others) * pace / (profile.tokens_per_second * profile.speed))
    }

    fn release(self: &Arc<Self>) {
        let granted = {
            let mut state = self.lock();
            state.account();
            state.running = state.running.saturating_sub(1);
            state.grant()
        };
        self.hand_over(granted);
    }

    /// Gives slots to those taken out of the line. A waiter that left in this moment hands its slot back by dropping it,
    /// so this must not hold the lock.
    fn hand_over(self: &Arc<Self>, granted: Vec<oneshot::Sender<Slot>>) {
        for turn in granted {
            drop(turn.send(Slot { engine: Arc::clone(self) }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Brings the busy integral up to now; call before `running` or `slots` change.
    fn account(&mut self) {
        let now = Instant::now();
        let share = (self.running as f64 / self.profile.slots as f64).min(1.0);
        self.busy += share * now.duration_since(self.busy_at).as_secs_f64();
        self.busy_at = now;
    }

    /// Takes those who may go now out of the line; they count as running from here.
    fn grant(&mut self) -> Vec<oneshot::Sender<Slot>> {
        let mut granted = Vec::new();
        while self.running < self.profile.slots
            && let Some((_, turn)) = self.waiting.pop_front()
        {
            self.running += 1;
            granted.push(turn);
        }
        granted
    }
}

enum Place {
    Slot(Slot),
    Waiting(Waiting),
    Full,
}

/// A place in the line; leaving it early gives it up.
struct Waiting {
    engine: Arc<Engine>,
    id: u64,
    turn: oneshot::Receiver<Slot>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.engine.lock().waiting.retain(|(id, _)| *id != self.id);
    }
}

/// One of the instance's slots, until dropped.
#[derive(Debug)]
pub(super) struct Slot {
    engine: Arc<Engine>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.engine.release();
    }
}

/// A request that is here; dropped before [`Visit::end`], it was cancelled.
#[derive(Debug)]
pub(super) struct Visit {
    engine: Arc<Engine>,
    ended: bool,
}

impl Visit {
    /// The answer is complete.
    pub(super) fn answered(self) {
        self.end(|counts| &counts.answered);
    }

    /// The request was failed on purpose.
    pub(super) fn failed(self) {
        self.end(|counts| &counts.errors);
    }

    /// The request was turned away.
    pub(super) fn refused(self) {
        self.end(|counts| &counts.refused);
    }

    fn end(mut self, count: fn(&Counts) -> &AtomicU64) {
        self.ended = true;
        count(&self.engine.counts).fetch_add(1, Relaxed);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.engine.counts.in_flight.fetch_sub(1, Relaxed);
        if !self.ended {
            self.engine.counts.cancelled.fetch_add(1, Relaxed);
        }
    }
}

/// As good as never: a day.
const FAR: Duration = Duration::from_secs(86_400);

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(FAR).min(FAR)
}

/// A factor with mean 1: exp of a normal deviate (Box-Muller), as service times of model servers are skewed to the right.
fn log_normal(rng: &mut SmallRng, sigma: f64) -> f64 {
    if sigma == 0.0 {
        return 1.0;
    }
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    (sigma * normal - sigma * sigma / 2.0).exp()
}
