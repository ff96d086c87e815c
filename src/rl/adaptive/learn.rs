//! Learning, once per ended request: how long it took, whether it failed, and that a place became free.

use super::super::reward::Reward;
use super::super::{Feedback, Lesson};
use super::agent::{Agent, Dispatch};
use super::record::{OWN_LOAD, Record};

/// A failure teaches a latency only if it took this many predicted latencies.
const SLOW_FAILURE: f64 = 3.0;
/// Step of the mean length of streamed answers.
const LENGTH_STEP: f64 = 0.01;

impl Agent {
    /// A request ended. `in_flight`: requests at the backend now, this one no longer counted. `ticket`: of its
    /// decision or dispatch; `None`: it was placed before this agent watched.
    pub fn learn(
        &self,
        (slot, id, in_flight): (usize, u64, u32),
        ticket: Option<u64>,
        seen: &Feedback,
        now: f64,
    ) -> Lesson {
        let Some(record) = self.records.of(slot, id) else { return Lesson::default() };
        let dispatch = ticket.map_or_else(|| Dispatch::new(in_flight, now - seen.total), Dispatch::unpack);
        let n = dispatch.in_flight;
        let before = in_flight.saturating_add(1);
        record.drift.advance(before, record.gap(before), now);
        let known = record.known();
        if seen.ok && known {
            record.drift.completed(&self.band);
        }
        record.faults.ended(seen.ok, dispatch.at(), self.pool_error.get(), now);
        let median = self.median.get();
        if seen.ok && known && n == 0 {
            record.slow_trial_ended(seen.total, median);
        }
        let latency = self.latency_of(record, n, seen);
        let td_error = if self.teaches(record, seen.ok, latency, median) {
            let error = record.learn(n, latency, now);
            if median == 0.0 {
                self.median.set(record.level.get());
                // It is the level of those that are still unknown.
                self.records.owned().for_each(Record::changed);
            }
            error
        } else {
            0.0
        };
        if seen.ok {
            record.drift.conclude(&self.band);
        }
        record.changed();
        self.lesson(record, n, seen, td_error, now)
    }

    /// A client left: the request ended and blames nobody.
    pub fn left(&self, (slot, id, in_flight): (usize, u64, u32), now: f64) {
        if let Some(record) = self.records.of(slot, id) {
            let before = in_flight.saturating_add(1);
            record.drift.advance(before, record.gap(before), now);
            record.changed();
        }
    }

    /// The latency that an outcome teaches. A stream is judged by its first byte, which carries the queueing, and a
    /// little by its body, freed of its length: unknown lengths are the largest noise there is.
    fn latency_of(&self, record: &Record, n: u32, seen: &Feedback) -> f64 {
        if !seen.ok || seen.length <= 0.0 {
            return seen.total;
        }
        let mean = self.mean_length.get();
        self.mean_length.approach(seen.length, if mean == 0.0 { 1.0 } else { LENGTH_STEP });
        record.learn_holding(n, seen.total);
        let body = (seen.total - seen.first_byte) / seen.length * self.mean_length.get();
        seen.first_byte + self.settings.stream_weight * body
    }

    /// Whether an outcome says something of the backend's speed: an answer always, a failure only if it was slow.
    fn teaches(&self, record: &Record, ok: bool, latency: f64, median: f64) -> bool {
        let usual = if record.known() { record.level.get() * record.holding.get() } else { median };
        ok || (usual > 0.0 && latency > SLOW_FAILURE * usual)
    }

    fn lesson(&self, record: &Record, n: u32, seen: &Feedback, td_error: f64, now: f64) -> Lesson {
        let median = self.median.get();
        let sla = self.sla(median);
        let (level, drift) = record.present(n, median, &self.band, now);
        let cost = level * drift * (record.curve.value(n) + OWN_LOAD * f64::from(n))
            + self.error_unit(median) * record.faults.excess();
        let own_load = level * drift * OWN_LOAD * f64::from(n);
        let balance = if cost > 0.0 { own_load / cost } else { 0.0 };
        let reward = if sla > 0.0 { self.reward.request(seen.total, seen.ok, balance, sla) } else { Reward::default() };
        record.tally.learned(td_error, reward.total);
        Lesson { reward, q_value: -cost, td_error }
    }
}
