//! A request's work, as time passes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::{Engine, FAR, PLAIN_GRAIN, STALL_POLL, Slot, log_normal};

/// A request's work: tokens, made one after another at the instance's present speed.
#[derive(Debug)]
pub(in crate::mock) struct Job {
    slot: Slot,
    /// This request's own factor of slowness.
    pace: f64,
    pub(in crate::mock) prompt: u64,
    /// Length of the answer.
    pub(in crate::mock) tokens: u32,
    /// The request's limit, not the model, ends the answer.
    pub(in crate::mock) cut_short: bool,
    pub(in crate::mock) made: u32,
    held: i64,
    due: Instant,
    /// Tokens that will be there at `due`; 0: nothing has been planned.
    making: u32,
    sleep: Pin<Box<Sleep>>,
}

impl Engine {
    /// Starts a request's work on its slot: `prompt` tokens in, an answer of a drawn length out, `most` at most.
    pub(in crate::mock) fn job(self: &Arc<Self>, slot: Slot, prompt: u64, most: Option<u32>) -> Job {
        let (wanted, pace) = {
            let mut state = self.lock();
            let sigma = state.profile.variation;
            let mean = f64::from(state.profile.tokens);
            let wanted = (mean * log_normal(&mut state.rng, sigma)).round().clamp(1.0, f64::from(u32::MAX)) as u32;
            (wanted, log_normal(&mut state.rng, sigma))
        };
        let tokens = most.map_or(wanted, |most| wanted.min(most.max(1)));
        self.counts.prompt_tokens.fetch_add(prompt, Relaxed);
        let held = i64::try_from(prompt).unwrap_or(i64::MAX);
        self.counts.held_tokens.fetch_add(held, Relaxed);
        Job {
            slot,
            pace,
            prompt,
            tokens,
            cut_short: tokens < wanted,
            made: 0,
            held,
            due: Instant::now(),
            making: 0,
            sleep: Box::pin(sleep_until(Instant::now())),
        }
    }
}

impl Job {
    /// The next tokens: how many, 0 when the answer is complete. Pieces are at least `grain` apart.
    pub(in crate::mock) fn poll_tokens(&mut self, cx: &mut Context<'_>, grain: Duration) -> Poll<u32> {
        if self.made >= self.tokens {
            return Poll::Ready(0);
        }
        if self.making == 0 {
            self.plan(grain);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if !self.slot.engine.stalled() {
                break;
            }
            self.due = Instant::now() + STALL_POLL;
            self.sleep.as_mut().reset(self.due);
        }
        let piece = std::mem::take(&mut self.making);
        self.made += piece;
        self.held += i64::from(piece);
        let counts = &self.slot.engine.counts;
        counts.tokens.fetch_add(u64::from(piece), Relaxed);
        counts.held_tokens.fetch_add(i64::from(piece), Relaxed);
        counts.iterations.fetch_add(1, Relaxed);
        Poll::Ready(piece)
    }

    /// Makes the whole answer.
    pub(in crate::mock) async fn finish(&mut self) {
        while std::future::poll_fn(|cx| self.poll_tokens(cx, PLAIN_GRAIN)).await > 0 {}
    }

    /// Decides when the next piece is there. Due times follow each other, so timer lateness does not add up; one that
    /// lies in the past (after a stall, or on a busy machine) is not made up for beyond a grain.
    fn plan(&mut self, grain: Duration) {
        let engine = &self.slot.engine;
        let base = self.due.max(Instant::now().checked_sub(grain).unwrap_or(self.due));
        let after = if self.made == 0 {
            self.making = 1;
            engine.first_token_after(self.prompt, self.pace)
        } else {
            let one = engine.token_after(self.pace).max(Duration::from_nanos(1));
            let together = (grain.as_secs_f64() / one.as_secs_f64()).ceil().clamp(1.0, f64::from(u32::MAX));
            self.making = (together as u32).min(self.tokens - self.made);
            one.saturating_mul(self.making)
        };
        self.due = base.checked_add(after).unwrap_or(base + FAR);
        self.sleep.as_mut().reset(self.due);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.slot.engine.counts.held_tokens.fetch_sub(self.held, Relaxed);
    }
}
