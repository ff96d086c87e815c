//! The deadlines of a connection in use.

use std::task::{Context, Poll};
use std::time::Duration;

use super::link::Link;
use crate::listener::connection::{Entry, LOOK, PARK_AFTER, Phase};
use crate::proxy::Downstream;

/// How long a client that closed its sending side is still answered when there is nothing to send. Nothing tells one that
/// left from one that only has no more to say (`printf … | nc -N`), until bytes are sent: who left answers them with a
/// reset. So the latter gets what flows, and the former's work is cancelled within a second (reliability.md 6.3), sweeps
/// included.
const PARTING: Duration = Duration::from_millis(250);

/// What passed.
pub(super) enum Passed {
    /// Nothing has happened for a while; the connection may rest without buffers.
    Rested,
    /// A deadline of this phase.
    Late(Phase),
}

/// Arms the deadline of a connection for what goes on.
pub(super) struct Watch<'a> {
    entry: &'a Entry,
    downstream: &'a Downstream,
    /// What the deadline was armed for: the phase, the number of requests ended, and what a slow or parting client has taken.
    armed: Option<(Phase, u64, u64)>,
    /// What the worker has told, as far as it was heard: to end when that is polite, to read no further request.
    heeded: (bool, bool),
}

impl<'a> Watch<'a> {
    pub(super) fn new(entry: &'a Entry, downstream: &'a Downstream) -> Self {
        Self { entry, downstream, armed: None, heeded: (false, false) }
    }

    fn rearm(&mut self) {
        self.entry.deadline.disarm();
        self.armed = None;
    }

    /// As [`poll`](Self::poll), while a request is served.
    pub(super) fn poll_busy(&mut self, cx: &Context<'_>, link: &Link) -> Poll<Passed> {
        let phase = match () {
            () if link.is_blocked => Phase::Blocked,
            () if link.is_parting => Phase::Parting,
            () => Phase::Busy,
        };
        self.poll(cx, phase, link)
    }

    /// Arms the deadline for what goes on now, and says when it has passed.
    pub(super) fn poll(&mut self, cx: &Context<'_>, phase: Phase, link: &Link) -> Poll<Passed> {
        // The worker has made the deadline pass in order to be heard, and was.
        let told = (self.entry.draining.get(), self.entry.outdated.get());
        if std::mem::replace(&mut self.heeded, told) != told {
            self.rearm();
        }
        // Nobody reads what the client sends now, so its end must be looked for.
        let looks = self.downstream.uploads() || link.is_deaf;
        let taken = match phase {
            Phase::Blocked | Phase::Parting => link.written,
            Phase::Busy => u64::from(looks),
            Phase::Idle | Phase::Head => 0,
        };
        let now = (phase, self.downstream.ended.get(), taken);
        if self.armed != Some(now) {
            self.armed = Some(now);
            let listener = &self.downstream.listener;
            self.entry.deadline.arm(match phase {
                Phase::Idle => listener.idle_timeout.min(PARK_AFTER),
                Phase::Head => listener.header_timeout,
                Phase::Busy if looks => LOOK,
                Phase::Busy => Duration::ZERO,
                Phase::Blocked => listener.write_idle_timeout,
                Phase::Parting => PARTING,
            });
        }
        if !self.entry.deadline.poll_passed(cx) {
            return Poll::Pending;
        }
        match phase {
            // The connection's task has just looked whether the client is still there.
            Phase::Busy => {
                self.rearm();
                self.poll(cx, phase, link)
            }
            Phase::Idle if self.downstream.listener.idle_timeout > PARK_AFTER => Poll::Ready(Passed::Rested),
            _ => Poll::Ready(Passed::Late(phase)),
        }
    }
}
