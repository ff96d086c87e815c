//! The end of a process: readiness first, then the listeners, then the streams, by a deadline of our own.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::{Control, Order};
use crate::admin::{ChangeError, Phase};
use crate::clock;
use crate::listener::Command;

/// How often the drain looks whether connections are left, and how often it says so.
const LOOK: Duration = Duration::from_millis(50);
const TELL: Duration = Duration::from_secs(5);

/// How the balancer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Nothing was cut off.
    pub clean: bool,
    /// Connections that were cut at the deadline.
    pub cut: usize,
    /// A second signal, or an abort, ended it at once.
    pub aborted: bool,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.aborted, self.cut) {
            (true, cut) => write!(f, "ended at once, {cut} connections cut"),
            (false, 0) => f.write_str("drained, no connection cut"),
            (false, cut) => write!(f, "drained until the deadline, {cut} connections cut"),
        }
    }
}

impl Control {
    /// Drains: `/readyz` says no, then listeners close after `drain_delay`, then connections have `drain_timeout`.
    pub(super) async fn drain(&mut self) -> Summary {
        let plan = self.plan.server.clone();
        self.board.set_phase(Phase::Draining);
        self.notifier.stopping();
        tracing::info!(delay = ?plan.drain_delay, timeout = ?plan.drain_timeout, "draining");
        if !plan.drain_delay.is_zero() && self.interrupted(tokio::time::sleep(plan.drain_delay)).await {
            return self.end(true);
        }
        for worker in &self.workers {
            worker.tell(Command::Drain);
        }
        let deadline = Instant::now() + plan.drain_timeout;
        let mut told = Instant::now();
        // Workers hear of the drain on their next turn and take their backlog first: it is over only after that.
        loop {
            if self.interrupted(tokio::time::sleep(LOOK)).await {
                return self.end(true);
            }
            let (accepting, left) = (self.census.is_accepting(), self.census.total());
            if (left == 0 && !accepting) || Instant::now() >= deadline {
                return self.end(false);
            }
            if told.elapsed() >= TELL {
                told = Instant::now();
                let seconds = deadline.saturating_duration_since(Instant::now()).as_secs();
                tracing::info!(connections = left, seconds, "still draining");
            }
        }
    }

    /// Waits for `pause`; `true` when a second order to end came first. Reloads are refused meanwhile.
    async fn interrupted(&mut self, pause: impl Future<Output = ()>) -> bool {
        tokio::pin!(pause);
        // A drain may last longer than the watchdog's patience.
        let mut pulse = tokio::time::interval(self.notifier.look());
        loop {
            tokio::select! {
                () = &mut pause => return false,
                _ = pulse.tick() => self.notifier.live(&self.census.beats(), clock::now()),
                order = self.orders.recv() => match order {
                    Some(Order::Reload(_)) => tracing::warn!("draining: not reloaded"),
                    // Who asked hears that the balancer is stopping.
                    Some(Order::Resolved(_) | Order::Looked(_) | Order::Preview(..)) => {}
                    Some(Order::Change(_, answer)) => {
                        drop(answer.send(Err(ChangeError::Unavailable("the balancer is draining"))));
                    }
                    Some(Order::Shutdown | Order::Abort) | None => return true,
                },
            }
        }
    }

    pub(super) fn end(&mut self, aborted: bool) -> Summary {
        let cut = self.census.total();
        for worker in &self.workers {
            worker.tell(Command::Stop);
        }
        Summary { clean: cut == 0 && !aborted, cut, aborted }
    }
}
