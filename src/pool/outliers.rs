//! What live traffic says of a backend beside the others of its pool: who is judged, with whom it is compared, how many
//! may be out at once. And what follows any change of health: log, counters, the next snapshot.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use smallvec::SmallVec;

use super::{BackendSet, Pool};
use crate::backend::{Backend, HealthChange, HealthState, Outcome, Peers, Reason};
use crate::config::{AdminState, WhenUnhealthy};

impl Pool {
    /// A request at `backend` ended in a way that may matter to its health.
    pub(super) fn traffic(&self, backend: &Arc<Backend>, outcome: &Outcome, now: Instant) {
        // A success is not compared with anything.
        let peers = if outcome.ending.blames_backend() { self.peers(backend) } else { Peers::default() };
        if let Some(change) = backend.served(outcome, now, &peers) {
            self.changed(backend, change, None, now);
        }
    }

    /// Compares how attempts ended lately, the worst backend first: when only one more may be ejected, it is that one.
    pub(super) fn judge(&self, set: &BackendSet, now: Instant) {
        let mut suspects: SmallVec<[(f64, &Arc<Backend>); 8]> = set
            .members
            .iter()
            .map(|backend| (backend.recent().share(), backend))
            .filter(|(share, _)| *share > 0.0)
            .collect();
        suspects.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        for (_, backend) in suspects {
            if let Some(change) = backend.judged(&self.peers(backend), now) {
                self.changed(backend, change, None, now);
            }
        }
    }

    /// The others of the pool, as the health of `judged` is to see them. One of the better third of those that are up
    /// stands for them: that most of the pool is as bad is no excuse, that all of it is, is one.
    pub(super) fn peers(&self, judged: &Arc<Backend>) -> Peers {
        let live = self.live.load();
        let members = &live.set.members;
        let mut ejected = 0;
        let mut others: SmallVec<[_; 8]> = SmallVec::new();
        for backend in members {
            match backend.health_state() {
                HealthState::Ejected => ejected += 1,
                HealthState::Up if backend.id != judged.id => others.push(backend.recent()),
                HealthState::Up | HealthState::Down | HealthState::Warming | HealthState::Unknown => {}
            }
        }
        others.retain(|tally| tally.attempts() > 0);
        others.sort_by(|one, other| one.share().total_cmp(&other.share()));
        let usual = others.len().checked_sub(1).and_then(|last| others.get(last / 3).copied());
        // The cap of contract `outlier.max_ejected`: floor, but at least 1 of 2 or more.
        let share = (members.len() as f64 * live.plan.outlier.max_ejected).floor() as usize;
        let cap = if members.len() >= 2 { share.max(1) } else { share };
        Peers { may_eject: ejected < cap, usual }
    }

    /// Whether no backend that the operator wants is healthy. Not while some were never probed.
    pub fn none_healthy(&self) -> bool {
        self.alarmed.load(Relaxed)
    }

    /// What follows a change of health.
    pub(super) fn changed(&self, backend: &Arc<Backend>, change: HealthChange, detail: Option<&str>, now: Instant) {
        let (from, to) = (change.from.name(), change.to.name());
        let reason = change.reason.name();
        match change.to {
            HealthState::Up => {
                if change.from != HealthState::Unknown {
                    backend.begin_ramp(now);
                }
                tracing::info!(pool = %self.name, backend = %backend.name, from, to, reason, "backend is up");
            }
            HealthState::Ejected => {
                let seconds = change.duration.map_or(0.0, |d| d.as_secs_f64());
                tracing::warn!(pool = %self.name, backend = %backend.name, from, to, reason, seconds, "backend ejected");
            }
            HealthState::Down | HealthState::Warming | HealthState::Unknown => {
                tracing::warn!(pool = %self.name, backend = %backend.name, from, to, reason, detail, "backend takes no traffic");
            }
        }
        if change.to == HealthState::Ejected {
            let counters = Reason::EJECTING.into_iter().zip(backend.stats.ejections());
            for (_, count) in counters.filter(|(reason, _)| *reason == change.reason) {
                count.fetch_add(1, Relaxed);
            }
        }
        self.republish();
    }

    /// Says it loudly when the last healthy backend is gone, and when there is one again.
    pub(super) fn alarm(&self) {
        let live = self.live.load();
        let set = &live.set;
        let unprobed = |backend: &Arc<Backend>| {
            backend.admin_state() == AdminState::Ready && backend.health_state() == HealthState::Unknown
        };
        let none = set.fail_open && !set.members.iter().any(unprobed);
        if none == self.alarmed.swap(none, SeqCst) {
            return;
        }
        if !none {
            tracing::info!(pool = %self.name, healthy = set.ready.len(), "a backend is healthy again");
            return;
        }
        let policy = match live.plan.when_unhealthy {
            WhenUnhealthy::FailOpen => "using all of them (when_unhealthy = fail_open)",
            WhenUnhealthy::Reject => "answering 503 (when_unhealthy = reject)",
        };
        tracing::error!(pool = %self.name, backends = set.members.len(), "no backend is healthy: {policy}");
    }
}

#[cfg(test)]
mod tests;
