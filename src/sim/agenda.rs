//! What happens next. Every kind of event is in order by itself: all timeouts last as long, a server has one next step.
//! So each kind has a plain queue, and the next event is the least of their heads. One heap for all of them was half the
//! price of a run: it held the timeout of every request, nearly all of which never come true.

use std::collections::VecDeque;

/// When, and as which it was planned: events of one moment happen in the order they were planned. The moment's bits are
/// the upper half; moments are never negative, so their bits order as they do.
type When = u128;

/// Later than everything.
const NEVER: When = When::MAX;

/// What can happen, other than an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A server's next step is due.
    Step(usize),
    /// A request is given up.
    Timeout(u32),
    /// A request fails.
    Fail(u32),
    /// That event of the scenario.
    Change(usize),
    /// CPU and memory are sampled.
    Sample,
    /// Servers are checked.
    Check,
    /// A balancer's probe reaches a server.
    Probe(u16, u16),
}

/// All that is planned.
#[derive(Debug)]
pub(super) struct Agenda {
    planned: u64,
    changes: VecDeque<(When, usize)>,
    sample: When,
    check: When,
    timeouts: VecDeque<(When, u32)>,
    fails: VecDeque<(When, u32)>,
    probes: VecDeque<(When, (u16, u16))>,
    /// By server.
    steps: Vec<When>,
    /// The server whose step is first.
    first: usize,
}

fn head<T>(queue: &VecDeque<(When, T)>) -> When {
    queue.front().map_or(NEVER, |(when, _)| *when)
}

impl Agenda {
    /// Nothing but the `changes` of the scenario at these moments.
    pub(super) fn new(servers: usize, changes: impl Iterator<Item = f64>) -> Self {
        let mut agenda = Self {
            planned: 0,
            changes: VecDeque::new(),
            sample: NEVER,
            check: NEVER,
            timeouts: VecDeque::new(),
            fails: VecDeque::new(),
            probes: VecDeque::new(),
            steps: vec![NEVER; servers],
            first: 0,
        };
        for (index, at) in changes.enumerate() {
            let when = agenda.when(at);
            agenda.changes.push_back((when, index));
        }
        agenda.changes.make_contiguous().sort_unstable();
        agenda
    }

    #[inline]
    fn when(&mut self, at: f64) -> When {
        self.planned += 1;
        When::from(at.to_bits()) << 64 | When::from(self.planned)
    }

    /// A server's next step; `None`: it has none, as it is.
    #[inline]
    pub(super) fn step(&mut self, server: usize, at: Option<f64>) {
        let when = at.map_or(NEVER, |at| self.when(at));
        self.set_step(server, when);
    }

    #[inline]
    fn set_step(&mut self, server: usize, when: When) {
        let least = self.steps[self.first];
        self.steps[server] = when;
        if when < least {
            self.first = server;
        } else if server == self.first {
            let (mut first, mut least) = (server, when);
            for (server, when) in self.steps.iter().enumerate() {
                if *when < least {
                    (first, least) = (server, *when);
                }
            }
            self.first = first;
        }
    }

    /// A request is given up; never before one that was planned earlier.
    #[inline]
    pub(super) fn timeout(&mut self, at: f64, request: u32) {
        let when = self.when(at);
        self.timeouts.push_back((when, request));
    }

    /// A request fails; never before one that was planned earlier.
    #[inline]
    pub(super) fn fail(&mut self, at: f64, request: u32) {
        let when = self.when(at);
        self.fails.push_back((when, request));
    }

    /// A probe of (balancer, server); never before one that was planned earlier.
    #[inline]
    pub(super) fn probe(&mut self, at: f64, probe: (u16, u16)) {
        let when = self.when(at);
        self.probes.push_back((when, probe));
    }

    /// The next sample.
    pub(super) fn sample(&mut self, at: f64) {
        self.sample = self.when(at);
    }

    /// The next check.
    pub(super) fn check(&mut self, at: f64) {
        self.check = self.when(at);
    }

    /// Takes what happens next, unless that is at `limit` or later.
    #[inline]
    pub(super) fn next_before(&mut self, limit: f64) -> Option<(f64, What)> {
        let step = self.steps[self.first];
        let timeout = head(&self.timeouts);
        let fail = head(&self.fails);
        let probe = head(&self.probes);
        let change = head(&self.changes);
        let next = step.min(timeout).min(fail).min(probe).min(change).min(self.sample).min(self.check);
        let at = f64::from_bits((next >> 64) as u64);
        if next == NEVER || at >= limit {
            return None;
        }
        let what = if next == step {
            let server = self.first;
            self.set_step(server, NEVER);
            What::Step(server)
        } else if next == timeout {
            What::Timeout(self.timeouts.pop_front()?.1)
        } else if next == probe {
            let (balancer, server) = self.probes.pop_front()?.1;
            What::Probe(balancer, server)
        } else if next == fail {
            What::Fail(self.fails.pop_front()?.1)
        } else if next == change {
            What::Change(self.changes.pop_front()?.1)
        } else if next == self.sample {
            self.sample = NEVER;
            What::Sample
        } else {
            self.check = NEVER;
            What::Check
        };
        Some((at, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_as_they_were_planned_and_a_step_replaces_the_last() {
        let mut agenda = Agenda::new(3, [7.0, 2.0].into_iter());
        agenda.sample(1.0);
        agenda.timeout(2.0, 9);
        agenda.step(2, Some(0.5));
        agenda.step(1, Some(2.0));
        agenda.step(2, Some(3.0));
        agenda.step(0, Some(2.5));
        agenda.step(0, None);
        agenda.fail(2.0, 8);
        agenda.probe(2.0, (0, 1));
        agenda.check(2.0);
        let mut seen = Vec::new();
        while let Some((at, what)) = agenda.next_before(7.0) {
            seen.push((at, what));
        }
        let expected = [
            (1.0, What::Sample),
            (2.0, What::Change(1)),
            (2.0, What::Timeout(9)),
            (2.0, What::Step(1)),
            (2.0, What::Fail(8)),
            (2.0, What::Probe(0, 1)),
            (2.0, What::Check),
            (3.0, What::Step(2)),
        ];
        assert_eq!(seen, expected);
        assert_eq!(agenda.next_before(f64::INFINITY), Some((7.0, What::Change(0))));
        assert_eq!(agenda.next_before(f64::INFINITY), None);
    }
}
